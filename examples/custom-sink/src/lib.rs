//! A whole connector: topics into a table of SQLite. Each row remembers its offset, so that nothing old replaces it.
use bytes::Bytes;
use connect_core::{Batch, Connector, Context, Outcome, Record, Rejection, Replay, Sink, SinkError, Verdict};
use rusqlite::Connection;
use std::sync::{Mutex, PoisonError};

connect_core::section! {
    /// Where the rows go.
    pub struct Config = "SQLITE" {
        /// File of the database; made when it is missing.
        pub path: String,
    }
}
/// The table `documents`, and what goes before an offset. A deleted row stays, without a value. Topics have offsets, and so rows, of their own.
pub struct Sqlite(Mutex<Connection>, i64);
const TABLE: &str = "CREATE TABLE IF NOT EXISTS documents
                     (topic TEXT, key BLOB, value BLOB, version INTEGER, PRIMARY KEY (topic, key))";
const PUT: &str = "INSERT INTO documents VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT DO UPDATE SET value = ?3, version = ?4 WHERE version < ?4";

impl Connector for Sqlite {
    type Config = Config;
    type Sink = Self;
    const NAME: &'static str = "custom-sink";
    async fn sink(config: Config, context: Context) -> Result<Self, String> {
        let failed = |error| format!("CONNECT_SQLITE_PATH={}: {error}", config.path);
        let db = Connection::open(&config.path).and_then(|db| db.execute_batch(TABLE).map(|()| db)).map_err(failed)?;
        Ok(Self(db.into(), i64::from(context.epoch) << 48))
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
            let row = (&*batch.source.topic, &item.op.0[..], item.op.1.as_deref(), self.1 | item.offset);
            if transaction.execute(PUT, row).map_err(failed)? == 0 {
                outcome.set(index, Verdict::Superseded);
            }
        }
        transaction.commit().map(|()| outcome).map_err(failed)
    }
    fn replay(&self) -> Replay {
        Replay::Superseded { instead: "a new CONNECT_NAME and a new CONNECT_SQLITE_PATH", accumulates: false }
    }
}
