//! The real binary where nothing can be reached: it waits, answers its probes, and stops when asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long something that must happen may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sink-redis"));
    command.args(arguments).env_clear();
    command.env("CONNECT_NAME", "orders").env("CONNECT_KAFKA_TOPICS", "orders");
    command.env("CONNECT_KAFKA_BROKERS", nobody()).env("CONNECT_ADMIN_LISTEN", "127.0.0.1:0");
    command.env("CONNECT_REDIS_URL", format!("redis://{}", nobody())).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(variables: &[(&str, &str)]) -> (Self, BufReader<ChildStderr>) {
        let mut child = command(&[], variables).spawn().expect("the binary");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        (Self(child), log)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it runs");
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Reads the log up to a line with `part`.
fn line_with(log: &mut impl BufRead, part: &str) -> String {
    let mut read = String::new();
    loop {
        let start = read.len();
        let bytes = log.read_line(&mut read).expect("UTF-8");
        assert!(bytes > 0, "{part:?} was never logged: {read}");
        if read[start..].contains(part) {
            return read[start..].to_owned();
        }
    }
}

/// The address of the probes, which the log tells as JSON.
fn address(log: &mut impl BufRead) -> SocketAddr {
    let line = line_with(log, "serving /livez");
    let (_, rest) = line.split_once("\"address\":\"").expect("a JSON field");
    rest.split('"').next().and_then(|address| address.parse().ok()).expect("an address")
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn with_nothing_in_reach_it_lives_is_not_ready_and_stops_when_asked() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut process, mut log) = Process::start(&[]);
        let address = address(&mut log);
        line_with(&mut log, "checking the store");
        assert!(get(address, "/livez").starts_with("HTTP/1.1 200"));
        let ready = get(address, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("store"), "{ready}");
        assert!(get(address, "/metrics").contains("\nconnect_partitions 0\n"));
        process.signal(signal);
        line_with(&mut log, "drained");
        assert_eq!(process.exit_code(), Some(0));
    }
}

#[test]
fn an_address_in_use_is_fatal_and_names_the_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let (mut process, mut log) = Process::start(&[("CONNECT_ADMIN_LISTEN", &address)]);
    line_with(&mut log, &format!("can't listen on CONNECT_ADMIN_LISTEN={address}"));
    assert_eq!(process.exit_code(), Some(1));
}

/// A Redis that only listens: what the client sends first, up to the password, or all that came.
fn listen_for(password: &str) -> (String, JoinHandle<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    let bulk = format!("${}\r\n{password}\r\n", password.len()).into_bytes();
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        while !all.windows(bulk.len()).any(|window| window == bulk) {
            match stream.read(&mut some) {
                Ok(0) | Err(_) => return false,
                Ok(bytes) => all.extend_from_slice(&some[..bytes]),
            }
        }
        true
    });
    (url, heard)
}

#[test]
fn a_password_reaches_redis_as_it_was_written() {
    let mut checks = Vec::new();
    for password in
        ["hunter2", "12345", "007", "true", "1e3", "\"quoted\" and spaced", " ends ", "a,b", "p@ss:w/rd#?", "{key}"]
    {
        let (url, heard) = listen_for(password);
        let variables = [("CONNECT_REDIS_URL", url.as_str()), ("CONNECT_REDIS_PASSWORD", password)];
        checks.push((password, heard, command(&["check"], &variables).spawn().expect("the binary")));
    }
    for (password, heard, check) in checks {
        assert!(heard.join().expect("no panic"), "{password:?} did not arrive");
        let output = check.wait_with_output().expect("a child");
        assert_eq!(output.status.code(), Some(1), "nobody answered, so the check failed");
        let said = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&said).contains("hunter2"), "the password was shown");
    }
}
