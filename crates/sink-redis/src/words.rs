//! Commands as the scripts read them: MessagePack strings, one after the other.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

/// One command, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// How many words it has, its name included.
    pub count: u16,
    /// The words, one MessagePack string after the other.
    pub encoded: Bytes,
}

/// Words that a script may hand to a command at once: Lua's `unpack` puts at most some 8,000 on its stack.
pub const MOST_WORDS: usize = 4_001;

/// Commands of one record are encoded into one buffer and split off: an allocation a few hundred records.
const CHUNK: usize = 16 * 1024;

thread_local! {
    static BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(CHUNK));
}

/// Gathers the commands of one record.
#[derive(Debug, Default)]
pub struct Commands(Vec<Words>);

impl Commands {
    /// Adds a command.
    pub fn push(&mut self, words: &[&[u8]]) {
        let encoded = BUFFER.with_borrow_mut(|buffer| {
            if buffer.capacity() < 256 {
                *buffer = BytesMut::with_capacity(CHUNK);
            }
            for word in words {
                put(buffer, word);
            }
            buffer.split().freeze()
        });
        debug_assert!(words.len() <= MOST_WORDS, "the mapping sees to that");
        let count = u16::try_from(words.len()).unwrap_or(u16::MAX);
        self.0.push(Words { count, encoded });
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All commands.
    pub fn finish(self) -> Arc<[Words]> {
        self.0.into()
    }
}

/// Appends one word.
pub fn put(out: &mut BytesMut, word: &[u8]) {
    match word.len() {
        length @ 0..=31 => out.put_u8(0xa0 | length as u8),
        length @ 32..=0xff => out.put_slice(&[0xd9, length as u8]),
        length @ 0x100..=0xffff => {
            out.put_u8(0xda);
            out.put_u16(length as u16);
        }
        length => {
            out.put_u8(0xdb);
            out.put_u32(length as u32);
        }
    }
    out.put_slice(word);
}
