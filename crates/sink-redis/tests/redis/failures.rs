//! What goes wrong, and what it means.

use std::time::Duration;

use connect_core::{Outcome, Sink, SinkError};

use crate::support::{Server, assigned, batch, fatal, record, sink, start, transient, write};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_server_that_can_be_used_passes_the_check() {
    let server = Server::start().await;
    let sink = server.sink();
    assert_eq!(sink.check().await, Ok(()));
    assert_eq!(server.ask("DBSIZE").await, "0", "a check changes nothing");
    start(&sink).await;
    assert_eq!(sink.check().await, Ok(()));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn no_server_passes() {
    let sink = sink("redis://127.0.0.1:1", &[]);
    assert_eq!(transient(sink.check().await), "connection");
    assert_eq!(transient(sink.resume(&assigned(None)).await), "connection");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_server_that_comes_back_is_used_again() {
    let mut server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_TIMEOUT", "1s")]);
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1")]).await;
    server.redis.stop();
    let next = batch(&sink, Some(1), 1, &[record(1, "a", "2")]);
    transient(sink.write(&next).await);
    server.redis.start_again().await.unwrap();
    let outcome = until_written(&sink, &next).await;
    assert!(outcome.exceptions().len() <= 1, "written now, or by the call that had timed out: {outcome:?}");
    assert_eq!(server.stored().await, "2");
    assert_eq!(server.ask("GET a").await, "2");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_frozen_server_is_given_up_in_time() {
    let mut server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_TIMEOUT", "500ms")]);
    start(&sink).await;
    server.redis.pause().unwrap();
    let next = batch(&sink, Some(0), 0, &[record(0, "a", "1")]);
    transient(sink.write(&next).await);
    server.redis.resume().unwrap();
    until_written(&sink, &next).await;
    assert_eq!(server.stored().await, "1");
}

/// As the core does: again and again.
async fn until_written(sink: &sink_redis::RedisSink, next: &connect_core::Batch<sink_redis::op::Op>) -> Outcome {
    tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match sink.write(next).await {
                Ok(outcome) => return outcome,
                Err(SinkError::Transient { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_full_server_is_waited_for() {
    let server = Server::start().await;
    for settings in [&[][..], &[("CONNECT_REDIS_TTL", "100000h")]] {
        server.ask("FLUSHALL").await;
        let sink = server.sink_with(settings);
        start(&sink).await;
        server.ask("CONFIG SET maxmemory 1").await;
        let next = batch(&sink, Some(0), 0, &[record(0, "a", "1"), record(1, "b", "2")]);
        assert_eq!(transient(sink.write(&next).await), "out_of_memory");
        assert_eq!(server.stored().await, "0", "nothing was written");
        server.ask("CONFIG SET maxmemory 0").await;
        sink.write(&next).await.unwrap();
        assert_eq!(server.ask("MGET a b").await, "1 2");
        assert_eq!(server.stored().await, "2");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_wrong_password_is_fatal_and_is_not_shown() {
    let server = Server::start().await;
    server.ask("CONFIG SET requirepass secret").await;
    let sink = server.sink_with(&[("CONNECT_REDIS_PASSWORD", "hunter2")]);
    let message = fatal(sink.check().await);
    assert!(message.contains("CONNECT_REDIS_PASSWORD") && !message.contains("hunter2"), "{message}");
    let message = fatal(server.sink().check().await);
    assert!(message.contains("CONNECT_REDIS_PASSWORD"), "{message}");
    assert_eq!(server.sink_with(&[("CONNECT_REDIS_PASSWORD", "secret")]).check().await, Ok(()));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_password_changed_while_running_is_fatal_after_the_next_loss() {
    let server = Server::start().await;
    let sink = server.sink_with(&[("CONNECT_REDIS_TIMEOUT", "1s")]);
    start(&sink).await;
    server.ask("CONFIG SET requirepass secret").await;
    server.ask("CLIENT KILL TYPE normal SKIPME yes").await;
    let next = batch(&sink, Some(0), 0, &[record(0, "a", "1")]);
    let message = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match sink.write(&next).await {
                Err(SinkError::Fatal(message)) => return message,
                Err(SinkError::Transient { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("{other:?}"),
            }
        }
    })
    .await
    .unwrap();
    assert!(message.contains("CONNECT_REDIS_PASSWORD"), "{message}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_offsets_key_of_another_type_is_fatal_and_named() {
    let server = Server::start().await;
    server.ask("SET connect:offsets:test theirs").await;
    let sink = server.sink();
    for message in [
        fatal(sink.check().await),
        fatal(sink.resume(&assigned(None)).await),
        fatal(sink.write(&batch(&sink, None, 0, &[record(0, "a", "1")])).await),
    ] {
        assert!(message.contains("connect:offsets:test"), "{message}");
    }
    assert_eq!(server.ask("GET connect:offsets:test").await, "theirs");
    assert_eq!(server.ask("EXISTS a").await, "0");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_the_acl_forbids_is_fatal_and_nothing_is_lost() {
    let server = Server::start().await;
    server.ask("ACL SETUSER narrow on >pw ~allowed:* ~connect:* +@all").await;
    let sink = server.sink_with(&[("CONNECT_REDIS_USERNAME", "narrow"), ("CONNECT_REDIS_PASSWORD", "pw")]);
    start(&sink).await;
    let records = [record(0, "allowed:a", "1"), record(1, "forbidden", "2")];
    let message = fatal(sink.write(&batch(&sink, Some(0), 0, &records)).await);
    assert!(message.contains("ACL"), "{message}");
    assert_eq!(server.stored().await, "0", "both are one command");
    server.ask("ACL SETUSER nokey on >pw ~allowed:* +@all").await;
    let sink = server.sink_with(&[("CONNECT_REDIS_USERNAME", "nokey"), ("CONNECT_REDIS_PASSWORD", "pw")]);
    let message = fatal(sink.check().await);
    assert!(message.contains("offsets key"), "{message}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_check_sees_what_the_acl_lacks_for_transactions() {
    let server = Server::start().await;
    let settings = [("CONNECT_REDIS_USERNAME", "narrow"), ("CONNECT_REDIS_PASSWORD", "pw"), ("CONNECT_REDIS_KEY", "a")];
    // The key of the offsets, but not the markers beside it, which every script of a plain set names.
    server.ask("ACL SETUSER narrow on >pw ~connect:offsets:test ~a +@all").await;
    let message = fatal(server.sink_with(&settings).check().await);
    assert!(message.contains("connect:offsets:test:{topic-0}") && message.contains("ACL"), "{message}");
    let counting = [&settings[..], &[("CONNECT_REDIS_COMMAND", "incrby")]].concat();
    assert_eq!(
        server.sink_with(&counting).check().await,
        Ok(()),
        "a command that makes no transactions has no markers"
    );
    server.ask("ACL SETUSER narrow ~connect:offsets:test:*").await;
    assert_eq!(server.sink_with(&settings).check().await, Ok(()));
    // Without offsets in Redis a batch that is to be seen at once has no script to fall back on.
    server.ask("ACL SETUSER narrow -multi").await;
    let whole = [&settings[..], &[("CONNECT_REDIS_OFFSETS", "kafka"), ("CONNECT_REDIS_ATOMIC", "batch")]].concat();
    let message = fatal(server.sink_with(&whole).check().await);
    assert!(message.contains("MULTI"), "{message}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_replica_is_waited_for() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    server.ask("REPLICAOF 127.0.0.1 1").await;
    let next = batch(&sink, Some(0), 0, &[record(0, "a", "1")]);
    assert_eq!(transient(sink.write(&next).await), "read_only");
    server.ask("REPLICAOF NO ONE").await;
    until_written(&sink, &next).await;
    assert_eq!(server.ask("GET a").await, "1");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_script_of_somebody_else_is_waited_for() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    server.ask("CONFIG SET busy-reply-threshold 20").await;
    let port = server.redis.port().to_string();
    let mut endless =
        std::process::Command::new("redis-cli").args(["-p", &port, "EVAL", "while true do end", "0"]).spawn().unwrap();
    let next = batch(&sink, Some(0), 0, &[record(0, "a", "1")]);
    // Before the threshold it is answered, before the script begins it is even written.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        assert!(tokio::time::Instant::now() < deadline);
        match sink.write(&next).await {
            Err(SinkError::Transient { reason: "busy", .. }) => break,
            result => drop(result.unwrap()),
        }
    }
    let killed = std::process::Command::new("redis-cli").args(["-p", &port, "SCRIPT", "KILL"]).output().unwrap();
    assert!(killed.status.success());
    endless.wait().unwrap();
    until_written(&sink, &next).await;
    assert_eq!(server.ask("GET a").await, "1");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_server_that_loads_its_data_is_waited_for() {
    let server = Server::start_with(&["--enable-debug-command", "yes"]).await;
    let sink = server.sink();
    start(&sink).await;
    server.ask("DEBUG POPULATE 2000 filler 1000").await;
    server.ask("CONFIG SET key-load-delay 1000").await;
    server.ask("CONFIG SET loading-process-events-interval-bytes 1024").await;
    let port = server.redis.port().to_string();
    let mut reload = std::process::Command::new("redis-cli").args(["-p", &port, "DEBUG", "RELOAD"]).spawn().unwrap();
    let mut offset = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        assert!(tokio::time::Instant::now() < deadline, "it never was loading");
        let next = batch(&sink, Some(offset), offset, &[record(offset, "a", "1")]);
        match sink.write(&next).await {
            Err(SinkError::Transient { reason: "loading", .. }) => break,
            Err(SinkError::Transient { .. }) => {}
            result => {
                result.unwrap();
                offset += 1;
            }
        }
    }
    server.ask("CONFIG SET key-load-delay 0").await;
    reload.wait().unwrap();
    until_written(&sink, &batch(&sink, Some(offset), offset, &[record(offset, "a", "last")])).await;
    assert_eq!(server.ask("GET a").await, "last");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_connection_reset_in_the_middle_repeats_nothing() {
    use connect_testkit::proxy::{Fault, Proxy};
    let server = Server::start().await;
    let proxy = Proxy::start(([127, 0, 0, 1], server.redis.port()).into()).await.unwrap();
    let sink = sink(&format!("redis://{}", proxy.address()), &[("CONNECT_REDIS_COMMAND", "rpush")]);
    start(&sink).await;
    let mut expected = Vec::new();
    for (offset, fault) in (0..).zip([Fault::ResetOnRequest, Fault::ResetOnAnswer, Fault::CloseOnAnswer, Fault::Reset])
    {
        let next = batch(&sink, Some(offset), offset, &[record(offset, "l", offset.to_string())]);
        proxy.set(fault);
        transient(sink.write(&next).await);
        proxy.set(Fault::None);
        until_written(&sink, &next).await;
        expected.push(offset.to_string());
        assert_eq!(server.ask("LRANGE l 0 -1").await, expected.join(" "), "{fault:?}");
    }
}

/// What a write waits for as long as a server is not as it should be.
async fn refused_then_written(server: &Server, break_it: &[&str], reason: &str, mend: &[&str]) {
    let sink = server.sink_with(&[("CONNECT_REDIS_COMMAND", "rpush")]);
    start(&sink).await;
    for command in break_it {
        server.ask(command).await;
    }
    let next = batch(&sink, Some(0), 0, &[record(0, "a", "1")]);
    assert_eq!(transient(sink.write(&next).await), reason);
    for command in mend {
        server.ask(command).await;
    }
    until_written(&sink, &next).await;
    assert_eq!(server.ask("LRANGE a 0 -1").await, "1", "once");
    assert_eq!(server.stored().await, "1");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_server_that_can_not_save_is_waited_for() {
    let server = Server::start_with(&["--save", "3600 1000000"]).await;
    let directory = server.ask("CONFIG GET dir").await;
    let dump = std::path::Path::new(directory.strip_prefix("dir ").unwrap()).join("dump.rdb");
    let until = async |state: &str| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while !server.ask("INFO persistence").await.contains(&format!("rdb_last_bgsave_status:{state}\r")) {
            assert!(tokio::time::Instant::now() < deadline, "no snapshot ended with {state}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let sink = server.sink();
    start(&sink).await;
    // A snapshot can't be moved to where a directory is.
    std::fs::create_dir(&dump).unwrap();
    server.ask("BGSAVE").await;
    until("err").await;
    let next = batch(&sink, Some(0), 0, &[record(0, "a", "1")]);
    assert_eq!(transient(sink.write(&next).await), "can_not_save");
    assert_eq!(server.stored().await, "0");
    std::fs::remove_dir(&dump).unwrap();
    server.ask("BGSAVE").await;
    until("ok").await;
    until_written(&sink, &next).await;
    assert_eq!(server.ask("GET a").await, "1");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn too_few_replicas_are_waited_for() {
    let server = Server::start().await;
    let (more, fewer) = ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0");
    refused_then_written(&server, &[more], "no_replicas", &[fewer]).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_replica_without_its_master_is_waited_for() {
    let server = Server::start().await;
    let lost = ["CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1"];
    refused_then_written(&server, &lost, "loading", &["REPLICAOF NO ONE"]).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_server_with_too_many_clients_is_waited_for() {
    let server = Server::start().await;
    server.ask("CONFIG SET maxclients 1").await;
    let sink = server.sink();
    assert_eq!(transient(sink.check().await), "connection");
    server.ask("CONFIG SET maxclients 100").await;
    assert_eq!(sink.check().await, Ok(()));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_a_url_asks_for_in_vain_is_fatal() {
    let server = Server::start().await;
    let message = fatal(sink(&format!("{}/99", server.redis.url()), &[]).check().await);
    assert!(message.contains("CONNECT_REDIS_URL"), "{message}");
    let url = server.redis.url().replace("redis://", "redis-cluster://");
    let message = fatal(sink(&url, &[]).check().await);
    assert!(message.contains("no cluster") && message.contains("CONNECT_REDIS_URL"), "{message}");
}
