//! What the sink promises, it keeps.
use connect_testkit::conformance::{Place, conformance, harness, start};
use custom_sink::{Config, Sqlite};
#[tokio::test]
async fn it_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let file = |place: &Place| directory.path().join(&place.name).display().to_string();
    let connect = async |place: &Place| start::<Sqlite>(Config { path: file(place) }, place).await;
    let dump = async |place: &Place| {
        let db = rusqlite::Connection::open(file(place)).unwrap();
        let mut rows = db.prepare("SELECT key, value FROM documents WHERE value NOT NULL").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
    };
    conformance(&harness(connect, dump)).await.assert();
}
