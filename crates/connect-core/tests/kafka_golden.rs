//! What a real broker answers to fetches, kept as golden files: bytes, and beside them the records that they hold.
//!
//! The files are read without a server. With one, `a_broker_answers_as_it_did` makes the same logs anew and compares what
//! they hold; `UPDATE_GOLDEN=1` writes the files anew.

#[path = "golden/record.rs"]
mod record;
mod support;

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use connect_core::TopicPartition;
use connect_core::kafka::batch::{Aborted, BatchError, Decoded, decode};

/// One answer for each of these.
const CASES: [&str; 8] = ["plain", "gzip", "snappy", "lz4", "zstd", "log-append-time", "transactions", "compacted"];
/// Where the checksum lies in a batch, and what it covers to the end.
const CHECKSUM: usize = 17;

/// The bytes of one answer.
struct Golden {
    name: &'static str,
    bytes: Bytes,
    aborted: Vec<Aborted>,
}

impl Golden {
    fn path(name: &str, extension: &str) -> PathBuf {
        PathBuf::from(format!("{}/tests/golden/{name}.{extension}", env!("CARGO_MANIFEST_DIR")))
    }

    fn read(name: &'static str) -> (Self, String) {
        let bytes = fs::read(Self::path(name, "bin")).expect("a golden file").into();
        let text = fs::read_to_string(Self::path(name, "txt")).expect("a golden file");
        // What was aborted is not in the bytes: the broker says it beside them.
        let aborted = text.lines().filter_map(|line| line.strip_prefix("aborted ")).map(|line| {
            let (producer, first) = line.split_once(' ').expect("two numbers");
            Aborted { producer_id: producer.parse().expect("a number"), first_offset: first.parse().expect("a number") }
        });
        let aborted = aborted.collect();
        (Self { name, bytes, aborted }, text)
    }

    fn write(&self) {
        fs::write(Self::path(self.name, "bin"), &self.bytes).expect("written");
        fs::write(Self::path(self.name, "txt"), self.text()).expect("written");
    }

    fn all() -> impl Iterator<Item = Self> {
        CASES.into_iter().map(|name| Self::read(name).0)
    }

    fn decode(&self, bytes: Bytes, from: i64) -> Result<Decoded, BatchError> {
        decode(bytes, &TopicPartition::new("t", 0), from, self.aborted.clone(), 1 << 20)
    }

    fn whole(&self) -> Decoded {
        self.decode(self.bytes.clone(), 0).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// What was aborted, each record, and where to read on.
    fn text(&self) -> String {
        let show = |bytes: Option<&Bytes>| match bytes {
            None => "null".to_owned(),
            Some(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        };
        let mut text = String::new();
        for Aborted { producer_id, first_offset } in &self.aborted {
            writeln!(text, "aborted {producer_id} {first_offset}").expect("written");
        }
        let decoded = self.whole();
        for record in &decoded.records {
            let (key, value) = (show(record.key.as_ref()), show(record.value.as_ref()));
            write!(text, "{} {} {key} {value}", record.offset, record.timestamp).expect("written");
            for header in &record.headers {
                write!(text, " {}={}", show(Some(&header.key)), show(header.value.as_ref())).expect("written");
            }
            text.push('\n');
        }
        writeln!(text, "next {}", decoded.next).expect("written");
        text
    }

    /// Where the batches begin, and the end.
    fn bounds(&self) -> Vec<usize> {
        let mut bounds = vec![0];
        let mut at = 0;
        while at < self.bytes.len() {
            let length = self.bytes[at + 8..at + 12].try_into().map(i32::from_be_bytes).expect("four bytes");
            at += 12 + length as usize;
            bounds.push(at);
        }
        bounds
    }
}

/// The offset that each record has, and where to read on.
fn offsets(decoded: &Decoded) -> (Vec<i64>, i64) {
    (decoded.records.iter().map(|record| record.offset).collect(), decoded.next)
}

#[test]
fn what_brokers_send_is_decoded() {
    for name in CASES {
        let (golden, text) = Golden::read(name);
        assert_eq!(golden.text(), text, "{name}");
    }
}

#[test]
fn from_each_offset_on_the_rest_is_read() {
    for golden in Golden::all() {
        let whole = golden.whole();
        for from in 0..whole.next {
            let rest = golden.decode(golden.bytes.clone(), from).unwrap_or_else(|error| panic!("{error}"));
            assert!(whole.records.ends_with(&rest.records), "{}: from {from}", golden.name);
            assert_eq!(rest.records.len(), whole.records.iter().filter(|record| record.offset >= from).count());
            assert_eq!(rest.next, whole.next);
        }
    }
}

#[test]
fn what_is_cut_off_anywhere_gives_the_batches_before() {
    for golden in Golden::all() {
        let bounds = golden.bounds();
        for length in 0..golden.bytes.len() {
            let begin = bounds.iter().rfind(|bound| **bound <= length).expect("the first is 0");
            let cut = golden.decode(golden.bytes.slice(..length), 0).unwrap_or_else(|error| panic!("{error}"));
            let before = golden.decode(golden.bytes.slice(..begin), 0).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(offsets(&cut), offsets(&before), "{}: {length} bytes", golden.name);
        }
    }
}

#[test]
fn each_damaged_bit_is_noticed() {
    for golden in Golden::all() {
        for batch in golden.bounds().windows(2) {
            let before = golden.decode(golden.bytes.slice(..batch[0]), 0).unwrap_or_else(|error| panic!("{error}"));
            for position in batch[0]..batch[1] {
                for bit in 0..8 {
                    let mut damaged = golden.bytes.to_vec();
                    damaged[position] ^= 1 << bit;
                    let decoded = golden.decode(damaged.into(), 0);
                    // The broker itself changes what stands before the checksum: it covers only what the producer wrote.
                    if position < batch[0] + CHECKSUM {
                        continue;
                    }
                    let where_ = format!("{}: bit {bit} of byte {position}", golden.name);
                    match decoded {
                        Ok(decoded) => assert_eq!(offsets(&decoded), offsets(&before), "{where_}"),
                        Err(error) => assert!(matches!(error, BatchError::Checksum { .. }), "{where_}: {error}"),
                    }
                }
            }
        }
    }
}

/// Without what is another in each run: ids of producers, and times that the broker chose.
fn comparable(name: &str, text: &str) -> String {
    let is_chosen =
        |line: &str| line.starts_with("aborted") || (name == "log-append-time" && !line.starts_with("next"));
    let line = |line: &str| match line.splitn(3, ' ').collect::<Vec<_>>()[..] {
        [first, _, rest] if is_chosen(line) => format!("{first} {rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_broker_answers_as_it_did() {
    for name in CASES {
        let recorded = record::record(name).await;
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            recorded.write();
        }
        let (_, kept) = Golden::read(name);
        assert_eq!(
            comparable(name, &recorded.text()),
            comparable(name, &kept),
            "{name} is another answer than the broker's: UPDATE_GOLDEN=1 keeps it"
        );
    }
}
