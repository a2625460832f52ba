//! Real processes are killed, and started again.

use std::time::Duration;

use connect_testkit::dice::Dice;
use connect_testkit::kill::Binary;

fn shell(script: &str) -> Binary {
    Binary::new("/bin/sh").arg("-c").arg(script).env("PATH", "/usr/bin:/bin")
}

#[tokio::test]
async fn a_process_lives_so_many_times_and_once_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let binary = shell("exec sleep 60").log(&log);
    let mut last = binary.kill_at_random(&Dice::new(1), 5, Duration::from_millis(20)).await.expect("it can be killed");
    assert!(last.id().is_some());
    last.terminate().expect("it lives");
    assert!(!last.wait(Duration::from_secs(10)).await.expect("it ends").success());
    assert!(log.exists());
}

#[tokio::test]
async fn a_life_that_fails_by_itself_is_told() {
    let error = shell("exit 3").kill_at_random(&Dice::new(1), 5, Duration::from_secs(3_600)).await;
    assert!(error.is_err_and(|error| error.to_string().contains('3')));
}

#[tokio::test]
async fn nothing_of_our_environment_is_passed_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let mut running = shell("echo \"$CARGO_PKG_NAME/$OURS\"").env("OURS", "ours").log(&log).start().expect("a shell");
    running.wait(Duration::from_secs(10)).await.expect("it ends");
    assert_eq!(std::fs::read_to_string(log).expect("a log"), "/ours\n");
}
