//! What the sink promises, it keeps.
use connect_core::{Connector, Context, Settings, SinkError};
use connect_testkit::conformance::{Dump, Harness, Place, Promise, conformance};
use custom_sink::{Config, Sqlite};

struct Files(tempfile::TempDir);

impl Files {
    fn file(&self, place: &Place) -> String {
        self.0.path().join(&place.name).display().to_string()
    }
}

impl Harness for Files {
    type Sink = Sqlite;
    async fn connect(&self, place: &Place) -> Result<Sqlite, SinkError> {
        let context = Context { name: place.name.clone(), topics: Vec::new(), settings: Settings::default() };
        Sqlite::sink(Config { path: self.file(place) }, context).await.map_err(SinkError::fatal)
    }
    async fn dump(&self, place: &Place) -> Dump {
        let db = rusqlite::Connection::open(self.file(place)).expect("the file is there");
        let mut rows = db.prepare("SELECT key, value FROM documents WHERE value NOT NULL").expect("the table is there");
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("it can be read");
        rows.collect::<Result<_, _>>().expect("rows are blobs")
    }
    fn promises(&self) -> &[Promise] {
        &[Promise::Guarded, Promise::Deletes]
    }
}

#[tokio::test]
async fn it_conforms() {
    conformance(&Files(tempfile::tempdir().expect("a directory"))).await.assert();
}
