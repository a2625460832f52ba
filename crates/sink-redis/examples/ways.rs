//! What the ways to change data and offset in one step cost, for ADR 2:
//! `cargo run --release -p sink-redis --example ways -- 127.0.0.1:6379` writes 1,000,000 values of 200 B to 100,000 keys in
//! batches of 4,000, one connection that awaits each batch, and prints records a second and CPU seconds a million of this
//! process and of Redis. Requests are encoded by hand, so that no way pays for a client. It empties that Redis.

#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use sink_redis::words;

const RECORDS: usize = 1_000_000;
const BATCH: usize = 4_000;
const KEYS: usize = 100_000;
/// Lua's `unpack` takes some 8,000 words.
const PAIRS: usize = 2_000;
const OFFSETS: &str = "connect:offsets:ways";
const SCRIPT: &str = concat!(include_str!("../src/lua/exact.lua"), include_str!("../src/lua/steps.lua"));

/// A way to write the batch that begins at an offset.
type Way = fn(&mut Redis, usize);

fn main() {
    let address = std::env::args().nth(1).unwrap();
    let ways: [(&str, Way); 7] = [
        ("SET a record, no guard", |redis, first| {
            each(redis, first, |redis, key| redis.command(&[b"SET", key.as_bytes(), &VALUE]));
            redis.answers(BATCH);
        }),
        ("MSET, no guard", |redis, first| {
            msets(redis, first);
            redis.answers(BATCH / PAIRS);
        }),
        ("script a record", |redis, first| {
            each_at(redis, first, |redis, offset, key| {
                let steps = encode(offset, &[vec![b"SET", key.as_bytes(), &VALUE]]);
                redis.script(offset, offset + 1, &steps);
            });
            redis.answers(BATCH);
        }),
        ("script a batch, a SET a record", |redis, first| {
            let keys = keys(first);
            let commands: Vec<Vec<&[u8]>> = keys.iter().map(|key| vec![&b"SET"[..], key.as_bytes(), &VALUE]).collect();
            redis.script(first, first + BATCH, &encode(first, &commands));
            redis.answers(1);
        }),
        ("script a batch, MSET", |redis, first| {
            let keys = keys(first);
            let commands: Vec<Vec<&[u8]>> = keys.chunks(PAIRS).map(mset).collect();
            redis.script(first, first + BATCH, &encode(first, &commands));
            redis.answers(1);
        }),
        ("WATCH, MULTI, a SET a record", |redis, first| {
            redis.transaction(first, BATCH, |redis| {
                each(redis, first, |redis, key| redis.command(&[b"SET", key.as_bytes(), &VALUE]));
            });
        }),
        ("WATCH, MULTI, MSET", |redis, first| redis.transaction(first, BATCH / PAIRS, |redis| msets(redis, first))),
    ];
    println!("{:<34} {:>10} {:>9} {:>9}", "", "records/s", "client", "server");
    for (name, way) in ways {
        let mut redis = Redis::connect(&address);
        redis.ask(&[b"FLUSHALL"]);
        redis.ask(&[b"SCRIPT", b"LOAD", SCRIPT.as_bytes()]);
        let (begun, client, server) = (Instant::now(), cpu("self"), redis.cpu());
        for first in (0..RECORDS).step_by(BATCH) {
            way(&mut redis, first);
        }
        let rate = RECORDS as f64 / begun.elapsed().as_secs_f64();
        println!("{name:<34} {rate:>10.0} {:>9.2} {:>9.2}", cpu("self") - client, redis.cpu() - server);
        assert_eq!(redis.ask(&[b"GET", b"user:0"]), format!("${}", VALUE.len()), "{name}");
    }
}

static VALUE: [u8; 200] = [b'x'; 200];

fn keys(first: usize) -> Vec<String> {
    (first..first + BATCH).map(|offset| format!("user:{}", offset * 7_919 % KEYS)).collect()
}

fn each(redis: &mut Redis, first: usize, mut write: impl FnMut(&mut Redis, &str)) {
    each_at(redis, first, |redis, _, key| write(redis, key));
}

fn each_at(redis: &mut Redis, first: usize, mut write: impl FnMut(&mut Redis, usize, &str)) {
    for (offset, key) in (first..).zip(keys(first)) {
        write(redis, offset, &key);
    }
}

fn mset(keys: &[String]) -> Vec<&[u8]> {
    std::iter::once(&b"MSET"[..]).chain(keys.iter().flat_map(|key| [key.as_bytes(), &VALUE])).collect()
}

fn msets(redis: &mut Redis, first: usize) {
    for keys in keys(first).chunks(PAIRS) {
        redis.command(&mset(keys));
    }
}

/// As the sink does it: a flat MessagePack array of offset, number of words, words.
fn encode(first: usize, commands: &[Vec<&[u8]>]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(0xdd);
    out.put_u32(commands.iter().map(|words| words.len() as u32 + 2).sum());
    for (offset, command) in (first..).zip(commands) {
        words::put(&mut out, offset.to_string().as_bytes());
        out.put_u8(0xcd);
        out.put_u16(command.len() as u16);
        command.iter().for_each(|word| words::put(&mut out, word));
    }
    out
}

/// A connection; commands are sent when answers are asked for.
struct Redis {
    requests: Vec<u8>,
    answers: BufReader<TcpStream>,
    pid: String,
    sha: String,
}

impl Redis {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut redis =
            Self { requests: Vec::new(), answers: BufReader::new(stream), pid: String::new(), sha: String::new() };
        redis.command(&[b"SCRIPT", b"LOAD", SCRIPT.as_bytes()]);
        redis.send();
        redis.sha = redis.answer().1;
        redis.command(&[b"INFO", b"server"]);
        redis.send();
        let info = redis.answer().1;
        redis.pid = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().trim().to_owned();
        redis
    }

    fn command(&mut self, words: &[&[u8]]) {
        write!(self.requests, "*{}\r\n", words.len()).unwrap();
        for word in words {
            write!(self.requests, "${}\r\n", word.len()).unwrap();
            self.requests.extend_from_slice(word);
            self.requests.extend_from_slice(b"\r\n");
        }
    }

    /// The sink's own script, which expects one offset and stores the next.
    fn script(&mut self, expected: usize, next: usize, steps: &[u8]) {
        let expected = if expected == 0 { String::new() } else { expected.to_string() };
        let sha = self.sha.clone();
        let (field, next) = (b"ways-0", next.to_string());
        let words: [&[u8]; 8] =
            [b"EVALSHA", sha.as_bytes(), b"1", OFFSETS.as_bytes(), field, expected.as_bytes(), next.as_bytes(), b""];
        self.command(&[&words[..], &[steps]].concat());
    }

    /// WATCH and the stored offset of the next batch go along with this one, so that each batch is one round trip.
    fn transaction(&mut self, first: usize, commands: usize, write: impl FnOnce(&mut Self)) {
        if first == 0 {
            self.command(&[b"WATCH", OFFSETS.as_bytes()]);
            self.command(&[b"HGET", OFFSETS.as_bytes(), b"ways-0"]);
            self.answers(2);
        }
        self.command(&[b"MULTI"]);
        write(self);
        self.command(&[b"HSET", OFFSETS.as_bytes(), b"ways-0", (first + BATCH).to_string().as_bytes()]);
        self.command(&[b"EXEC"]);
        self.command(&[b"WATCH", OFFSETS.as_bytes()]);
        self.command(&[b"HGET", OFFSETS.as_bytes(), b"ways-0"]);
        self.answers(2 + commands + 3);
    }

    fn ask(&mut self, words: &[&[u8]]) -> String {
        self.command(words);
        self.send();
        self.answer().0
    }

    fn send(&mut self) {
        self.answers.get_mut().write_all(&self.requests).unwrap();
        self.requests.clear();
    }

    /// Sends what is to be sent and awaits so many answers, none of which may be an error.
    fn answers(&mut self, count: usize) {
        self.send();
        for _ in 0..count {
            self.answer();
        }
    }

    /// The first line of an answer, and the text of a bulk.
    fn answer(&mut self) -> (String, String) {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        assert!(!line.starts_with('-'), "{line}");
        let count: i64 = line[1..].parse().unwrap_or(0);
        let mut text = String::new();
        if line.starts_with('$') && count >= 0 {
            let mut bulk = vec![0; count as usize + 2];
            self.answers.read_exact(&mut bulk).unwrap();
            text = String::from_utf8_lossy(&bulk).trim_end().to_owned();
        }
        if line.starts_with('*') {
            assert!(count >= 0, "somebody else wrote");
            let last = (0..count).map(|_| self.answer().1).last();
            // The script says so when it did nothing.
            text = last.unwrap_or_default();
        }
        (line, text)
    }

    fn cpu(&self) -> f64 {
        cpu(&self.pid)
    }
}

/// User and system time of a process.
fn cpu(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
