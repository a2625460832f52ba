//! Where a partition goes on.

use connect_core::{Assigned, Resume, Sink};

use crate::support::{Server, assigned, batch, fatal, record, start, write};
use sink_redis::{RedisConfig, RedisSink};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn goes_on_where_the_store_says() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1"), record(1, "a", "2")]).await;
    assert_eq!(server.sink().resume(&assigned(Some(1))).await, Ok(Resume::At(2)), "whatever Kafka holds");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_empty_database_is_built_anew_for_every_partition() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1")]).await;
    let mut other = assigned(Some(50));
    other.partition.partition = 1;
    assert_eq!(sink.resume(&other).await, Ok(Resume::Empty), "the others have written meanwhile, this one has not");
    server.ask("FLUSHALL").await;
    assert_eq!(sink.resume(&assigned(Some(50))).await, Ok(Resume::Empty));
    server.ask("FLUSHALL").await;
    // One that had written nothing notices nothing, and makes the hash again.
    sink.write(&batch(&sink, None, 0, &[record(0, "a", "1")])).await.unwrap();
    assert_eq!(sink.resume(&other).await, Ok(Resume::Empty));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn lost_offsets_beside_data_go_on_at_the_commit() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1")]).await;
    server.ask("DEL connect:offsets:test").await;
    assert_eq!(sink.resume(&assigned(Some(1))).await, Ok(Resume::NotKept));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_topic_made_anew_is_not_the_topic_of_the_offset() {
    let server = Server::start().await;
    let sink = server.sink();
    let life = |id: u8| Assigned { topic_id: Some([id; 16]), ..assigned(None) };
    sink.resume(&life(1)).await.unwrap();
    sink.write(&batch(&sink, None, 0, &[record(0, "a", "1")])).await.unwrap();
    write(&sink, 1, &[record(1, "a", "2")]).await;
    assert_eq!(server.stored().await, "2@AQEBAQEBAQEBAQEBAQEBAQ");
    assert_eq!(sink.resume(&life(1)).await, Ok(Resume::At(2)));
    let message = fatal(server.sink().resume(&life(2)).await);
    assert!(message.contains("events was deleted and made again"), "{message}");
    assert!(message.contains("CONNECT_NAME"), "{message}");
    // A reader that can't tell the id leaves it as it is.
    let blind = server.sink();
    assert_eq!(blind.resume(&assigned(None)).await, Ok(Resume::At(2)));
    write(&blind, 2, &[record(2, "a", "3")]).await;
    assert_eq!(server.stored().await, "3@AQEBAQEBAQEBAQEBAQEBAQ");
    // A write of another life is refused as well.
    let stale = server.sink();
    stale.resume(&Assigned { partition: connect_core::TopicPartition::new("events", 7), ..life(2) }).await.unwrap();
    server.ask("HSET connect:offsets:test events-7 5@AQEBAQEBAQEBAQEBAQEBAQ").await;
    let mut late = batch(&stale, Some(5), 5, &[record(5, "a", "late")]);
    late.source.partition = 7;
    fatal(stale.write(&late).await);
    assert_eq!(server.ask("GET a").await, "3");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_id_that_becomes_known_is_stored_from_then_on() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    let known = Assigned { topic_id: Some([1; 16]), ..assigned(None) };
    assert_eq!(sink.resume(&known).await, Ok(Resume::At(0)));
    write(&sink, 0, &[record(0, "a", "1")]).await;
    assert_eq!(server.stored().await, "1@AQEBAQEBAQEBAQEBAQEBAQ");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn another_connector_of_the_same_name_is_refused() {
    let server = Server::start().await;
    start(&server.sink()).await;
    let message = fatal(server.sink_with(&[("CONNECT_REDIS_KEY", "other:{key}")]).resume(&assigned(None)).await);
    assert!(message.contains("belongs to another connector"), "{message}");
    assert!(message.contains("other:{key}") && message.contains("CONNECT_NAME"), "{message}");
    let topics = |topics: &[&str]| {
        let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
        let url = server.redis.url();
        let config =
            <RedisConfig as connect_core::config::Section>::from_pairs(&[("CONNECT_REDIS_URL", &url)]).unwrap();
        RedisSink::new(config, "test", &topics).unwrap()
    };
    fatal(topics(&["orders"]).resume(&assigned(None)).await);
    assert_eq!(
        topics(&["orders", "events"]).resume(&assigned(None)).await,
        Ok(Resume::At(0)),
        "a topic more is no other connector"
    );
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_is_no_offset_is_not_touched() {
    let server = Server::start().await;
    let sink = server.sink();
    start(&sink).await;
    server.ask("HSET connect:offsets:test events-0 soon").await;
    let message = fatal(sink.resume(&assigned(None)).await);
    assert!(message.contains("events-0") && message.contains("connect:offsets:test"), "{message}");
    fatal(sink.write(&batch(&sink, Some(0), 0, &[record(0, "a", "1")])).await);
    assert_eq!(server.stored().await, "soon");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_reset_replaces_what_is_stored_and_a_look_changes_nothing() {
    let server = Server::start().await;
    let sink = server.sink();
    assert_eq!(sink.stored(&assigned(None)).await, Ok(Resume::Empty));
    assert_eq!(server.ask("DBSIZE").await, "0", "a look makes nothing");
    start(&sink).await;
    write(&sink, 0, &[record(0, "a", "1"), record(1, "a", "2")]).await;
    assert_eq!(sink.stored(&assigned(None)).await, Ok(Resume::At(2)));
    sink.set_stored(&assigned(None), 1).await.unwrap();
    assert_eq!(server.sink().resume(&assigned(Some(2))).await, Ok(Resume::At(1)));

    // The way out of a topic that was made anew, and of offsets that are gone.
    let life = |id: u8| Assigned { topic_id: Some([id; 16]), ..assigned(Some(2)) };
    sink.set_stored(&life(1), 1).await.unwrap();
    fatal(server.sink().stored(&life(2)).await);
    sink.set_stored(&life(2), 0).await.unwrap();
    assert_eq!(server.sink().resume(&life(2)).await, Ok(Resume::At(0)));
    server.ask("DEL connect:offsets:test").await;
    let counting = server.sink_with(&[("CONNECT_REDIS_COMMAND", "incrby")]);
    counting.set_stored(&life(2), 7).await.unwrap();
    assert_eq!(counting.resume(&life(2)).await, Ok(Resume::At(7)));
    // But not into the offsets of another connector.
    fatal(sink.set_stored(&life(2), 0).await);
}
