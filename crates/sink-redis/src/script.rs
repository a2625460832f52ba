//! The scripts that Redis runs, and the operations of a batch in the form in which they reach it.

use std::collections::HashSet;

use bytes::{BufMut, Bytes, BytesMut};
use connect_core::Item;

use crate::op::{Action, Op};
use crate::words;

/// Applies operations if the stored position is the expected one.
pub const EXACT: &str = concat!(include_str!("lua/exact.lua"), include_str!("lua/steps.lua"));
/// Applies operations of one slot if the stored position does not lie behind them.
pub const MONOTONE: &str = concat!(include_str!("lua/monotone.lua"), include_str!("lua/steps.lua"));
/// Applies operations without a guard.
pub const PLAIN: &str = include_str!("lua/plain.lua");
/// Tells what the server lacks or forbids.
pub const ALLOWED: &str = include_str!("lua/allowed.lua");
/// Makes or changes the marker that transactions watch.
pub const MARK: &str = include_str!("lua/mark.lua");
/// Tells where a partition stands.
pub const RESUME: &str = include_str!("lua/resume.lua");

/// How much of a batch goes into one script: a script blocks every other client of that Redis while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most items.
    pub items: usize,
    /// The most bytes, unless one item alone holds more.
    pub bytes: usize,
}

/// The first items of a batch, as many as go into one step.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The items.
    pub items: &'a [Item<Op>],
    /// Indexes of those that are not sent, since a later one writes the same key.
    pub collapsed: Vec<usize>,
}

impl<'a> Chunk<'a> {
    /// As many items as fit; with `collapse` only the last one of each key is sent.
    pub fn first(items: &'a [Item<Op>], limits: Limits, collapse: bool) -> Self {
        let (mut size, mut count) = (0, 0);
        for item in items.iter().take(limits.items) {
            size += item.op.bytes();
            if count > 0 && size > limits.bytes {
                break;
            }
            count += 1;
        }
        let items = &items[..count];
        Self { items, collapsed: if collapse { collapsed(items) } else { Vec::new() } }
    }

    /// The items that are sent.
    pub fn sent(&self) -> impl Iterator<Item = &'a Item<Op>> {
        let mut passed_over = self.collapsed.iter().copied().peekable();
        let sent = self.items.iter().enumerate();
        sent.filter(move |(index, _)| passed_over.next_if_eq(index).is_none()).map(|(_, item)| item)
    }

    /// What a script reads: a MessagePack array of offset, number of words, words of the command, and so on. Sets and deletes
    /// that follow each other become one command: neither can fail because of what is stored.
    pub fn encode(&self) -> Bytes {
        let size: usize = self.items.iter().map(|item| item.op.bytes()).sum();
        let mut writer = Writer::with_capacity(size + 24 * self.items.len() + 64);
        self.sent().for_each(|item| writer.item(item));
        writer.finish()
    }
}

/// Indexes of the items that a later one writes over.
fn collapsed(items: &[Item<Op>]) -> Vec<usize> {
    let mut seen = HashSet::with_capacity(items.len());
    let mut collapsed: Vec<usize> =
        (0..items.len()).rev().filter(|index| !seen.insert(&items[*index].op.key)).collect();
    collapsed.reverse();
    collapsed
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
        match &op.action {
            Action::Set(value) => {
                self.run(RunKind::Set, *offset);
                self.word(&op.key);
                self.word(value);
            }
            Action::Delete => {
                self.run(RunKind::Delete, *offset);
                self.word(&op.key);
            }
            Action::Commands(commands) => {
                self.end_run();
                for command in commands.iter() {
                    self.word(itoa::Buffer::new().format(*offset).as_bytes());
                    self.out.put_u8(0xcd);
                    self.out.put_u16(command.count);
                    self.out.put_slice(&command.encoded);
                    self.elements += 1 + u32::from(command.count);
                }
            }
        }
    }

    /// Goes on with the run of this kind, or begins one.
    fn run(&mut self, kind: RunKind, offset: i64) {
        if self.run.as_ref().is_some_and(|run| run.kind == kind && run.words < words::MOST_WORDS as u32 - 1) {
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

    fn word(&mut self, word: &[u8]) {
        words::put(&mut self.out, word);
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
