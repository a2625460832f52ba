//! A whole connector: topics into a table of SQLite. Each row remembers its offset, so that nothing old replaces it.
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use connect_core::{Batch, Connector, Context, Outcome, Record, Rejection, Sink, SinkError, Verdict};
use rusqlite::Connection;

connect_core::section! {
    /// Where the rows go.
    pub struct Config = "SQLITE" {
        /// File of the database; made when it is missing.
        pub path: String,
    }
}

/// The table `documents`; a deleted row stays, with its offset and without a value.
pub struct Sqlite(Mutex<Connection>);
const TABLE: &str = "CREATE TABLE IF NOT EXISTS documents (key BLOB PRIMARY KEY, value BLOB, offset INTEGER)";
const PUT: &str = "INSERT INTO documents VALUES (?1, ?2, ?3)
                   ON CONFLICT DO UPDATE SET value = ?2, offset = ?3 WHERE offset < ?3";

impl Connector for Sqlite {
    type Config = Config;
    type Sink = Self;
    const NAME: &'static str = "custom-sink";
    async fn sink(config: Config, _: Context) -> Result<Self, String> {
        let db = Connection::open(&config.path).and_then(|db| db.execute_batch(TABLE).map(|()| db));
        db.map(|db| Self(Mutex::new(db))).map_err(|error| format!("CONNECT_SQLITE_PATH={}: {error}", config.path))
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
        let (mut outcome, mut db) = (Outcome::written(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let transaction = db.transaction().map_err(failed)?;
        for (index, item) in batch.items.iter().enumerate() {
            let row = (&item.op.0[..], item.op.1.as_deref(), item.offset);
            if transaction.execute(PUT, row).map_err(failed)? == 0 {
                outcome.set(index, Verdict::Superseded);
            }
        }
        transaction.commit().map_err(failed)?;
        Ok(outcome)
    }
}
