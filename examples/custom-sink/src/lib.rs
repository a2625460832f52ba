//! A whole connector: topics into a table of SQLite. Each row remembers its offset, so that nothing old replaces it.
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use connect_core::{Batch, Connector, Context, Outcome, Record, Rejection, Replay, Sink, SinkError, Verdict};
use rusqlite::Connection;

connect_core::section! {
    /// Where the rows go.
    pub struct Config = "SQLITE" {
        /// File of the database; made when it is missing.
        pub path: String,
    }
}

/// The table `documents`; a deleted row stays, with its version and without a value. Topics have offsets of their own, and so rows.
pub struct Sqlite {
    db: Mutex<Connection>,
    epoch: u16,
}
const TABLE: &str = "CREATE TABLE IF NOT EXISTS documents
                     (topic TEXT, key BLOB, value BLOB, version INTEGER, PRIMARY KEY (topic, key))";
const PUT: &str = "INSERT INTO documents VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT DO UPDATE SET value = ?3, version = ?4 WHERE version < ?4";

impl Connector for Sqlite {
    type Config = Config;
    type Sink = Self;
    const NAME: &'static str = "custom-sink";
    async fn sink(config: Config, context: Context) -> Result<Self, String> {
        let db = Connection::open(&config.path).and_then(|db| db.execute_batch(TABLE).map(|()| db));
        let db = db.map_err(|error| format!("CONNECT_SQLITE_PATH={}: {error}", config.path))?;
        Ok(Self { db: Mutex::new(db), epoch: context.epoch })
    }
}

impl Sink for Sqlite {
    type Op = (Bytes, Option<Bytes>);
    fn prepare(&self, record: &Record) -> Result<Option<Self::Op>, Rejection> {
        let key = record.key.clone().ok_or_else(|| Rejection::new("the key is null: it names no row"))?;
        Ok(Some((key, record.value.clone())))
    }
    fn target<'a>(&self, op: &'a Self::Op) -> Option<&'a [u8]> {
        Some(&op.0)
    }
    async fn write(&self, batch: &Batch<Self::Op>) -> Result<Outcome, SinkError> {
        let failed = |error: rusqlite::Error| SinkError::transient("sqlite", error.to_string());
        let (mut outcome, mut db) = (Outcome::written(), self.db.lock().unwrap_or_else(PoisonError::into_inner));
        let transaction = db.transaction().map_err(failed)?;
        for (index, item) in batch.items.iter().enumerate() {
            let version = i64::from(self.epoch) << 48 | item.offset;
            let row = (&*batch.source.topic, &item.op.0[..], item.op.1.as_deref(), version);
            if transaction.execute(PUT, row).map_err(failed)? == 0 {
                outcome.set(index, Verdict::Superseded);
            }
        }
        transaction.commit().map_err(failed)?;
        Ok(outcome)
    }
    fn replay(&self) -> Replay {
        Replay::Superseded { instead: "a new CONNECT_NAME and a new CONNECT_SQLITE_PATH", accumulates: false }
    }
}
