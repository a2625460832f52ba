//! The scripts that Redis runs, and the operations of a batch in the form in which they reach it.

use bytes::{BufMut, Bytes, BytesMut};
use connect_core::Item;

use crate::op::{Action, Op};

/// Applies operations under the guard of the stored offset.
pub const APPLY: &str = include_str!("lua/apply.lua");
/// Tells where a partition stands.
pub const RESUME: &str = include_str!("lua/resume.lua");

/// Words that Lua's `unpack` may put on its stack at once are limited to some 8,000.
const WORDS_A_COMMAND: u32 = 4_001;

/// How much of a batch goes into one script: a script blocks every other client of that Redis while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most items.
    pub items: usize,
    /// The most bytes, unless one item alone holds more.
    pub bytes: usize,
}

/// The first items of a batch, encoded for a script.
#[derive(Debug)]
pub struct Steps {
    /// A MessagePack array: offset, number of words, words of the command, and so on.
    pub encoded: Bytes,
    /// How many items there are in it.
    pub items: usize,
}

/// Encodes as many items as fit. Sets and deletes that follow each other become one command: neither can fail because
/// of what is stored.
pub fn encode(items: &[Item<Op>], limits: Limits) -> Steps {
    let mut size = 0;
    let mut count = 0;
    for item in items.iter().take(limits.items) {
        size += item.op.bytes();
        if count > 0 && size > limits.bytes {
            break;
        }
        count += 1;
    }
    let mut writer = Writer::with_capacity(size.min(limits.bytes.max(size)) + 24 * count + 64);
    for item in &items[..count] {
        writer.item(item);
    }
    Steps { encoded: writer.finish(), items: count }
}

/// Writes the MessagePack that the scripts read.
struct Writer {
    out: BytesMut,
    /// Elements of the outer array.
    elements: u32,
    run: Option<Run>,
}

/// A command that takes more records as long as they are of its kind.
struct Run {
    kind: RunKind,
    words: u32,
    /// Where its number of words is to be written.
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunKind {
    Set,
    Delete,
}

impl Writer {
    fn with_capacity(capacity: usize) -> Self {
        let mut out = BytesMut::with_capacity(capacity);
        out.put_u8(0xdd);
        out.put_u32(0);
        Self { out, elements: 0, run: None }
    }

    fn item(&mut self, item: &Item<Op>) {
        let Item { offset, op } = item;
        match (&op.action, op.expire_at) {
            (Action::Set(value), None) => {
                self.run(RunKind::Set, *offset);
                self.word(&op.key);
                self.word(value);
            }
            (Action::Delete, _) => {
                self.run(RunKind::Delete, *offset);
                self.word(&op.key);
            }
            (Action::Set(value), Some(expire_at)) => {
                self.command(*offset, 5);
                self.word(b"SET");
                self.word(&op.key);
                self.word(value);
                self.word(b"PXAT");
                self.word(itoa::Buffer::new().format(expire_at).as_bytes());
            }
        }
    }

    /// Goes on with the run of this kind, or begins one.
    fn run(&mut self, kind: RunKind, offset: i64) {
        if self.run.as_ref().is_some_and(|run| run.kind == kind && run.words < WORDS_A_COMMAND - 1) {
            return;
        }
        self.end_run();
        self.word(itoa::Buffer::new().format(offset).as_bytes());
        self.run = Some(Run { kind, words: 0, at: self.out.len() });
        self.out.put_slice(&[0xcd, 0, 0]);
        self.elements += 1;
        self.word(match kind {
            RunKind::Set => b"MSET",
            RunKind::Delete => b"DEL",
        });
    }

    fn command(&mut self, offset: i64, words: u16) {
        self.end_run();
        self.word(itoa::Buffer::new().format(offset).as_bytes());
        self.out.put_u8(0xcd);
        self.out.put_u16(words);
        self.elements += 1;
    }

    fn word(&mut self, word: &[u8]) {
        match word.len() {
            length @ 0..=31 => self.out.put_u8(0xa0 | length as u8),
            length @ 32..=0xff => self.out.put_slice(&[0xd9, length as u8]),
            length @ 0x100..=0xffff => {
                self.out.put_u8(0xda);
                self.out.put_u16(length as u16);
            }
            length => {
                self.out.put_u8(0xdb);
                self.out.put_u32(length as u32);
            }
        }
        self.out.put_slice(word);
        self.elements += 1;
        if let Some(run) = &mut self.run {
            run.words += 1;
        }
    }

    fn end_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.out[run.at + 1..run.at + 3].copy_from_slice(&(run.words as u16).to_be_bytes());
        }
    }

    fn finish(mut self) -> Bytes {
        self.end_run();
        self.out[1..5].copy_from_slice(&self.elements.to_be_bytes());
        self.out.freeze()
    }
}
