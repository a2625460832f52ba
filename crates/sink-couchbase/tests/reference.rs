//! `docs/configuration.md` is what the doc comments say.

use connect_core::config::reference::keep_chapter;
use sink_couchbase::CouchbaseConfig;

#[test]
fn the_document_is_what_the_doc_comments_say() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    keep_chapter::<CouchbaseConfig>(document).expect("the same");
}
