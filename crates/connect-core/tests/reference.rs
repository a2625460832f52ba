//! `docs/configuration.md` is what the doc comments say.

use connect_core::config::reference::{chapter, keep_chapter};
use connect_core::config::{CoreConfig, KafkaConfig};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");

#[test]
fn the_document_is_what_the_doc_comments_say() {
    keep_chapter::<CoreConfig>(DOCUMENT).expect("the same");
    keep_chapter::<KafkaConfig>(DOCUMENT).expect("the same");
}

#[test]
fn a_document_that_says_something_else_is_noticed() {
    let document = tempfile::NamedTempFile::new().expect("a file");
    let right = std::fs::read_to_string(DOCUMENT).expect("the document");
    std::fs::write(document.path(), right.replace("`24MiB`", "`25MiB`")).expect("writable");
    if std::env::var_os("UPDATE_DOCS").is_none() {
        let problem = keep_chapter::<CoreConfig>(document.path()).expect_err("another default");
        assert!(problem.contains("UPDATE_DOCS=1"), "{problem}");
    }
}

#[test]
fn a_chapter_tells_name_default_expectation_and_meaning() {
    let chapter = chapter::<KafkaConfig>();
    assert!(chapter.starts_with("## Kafka\n\nWhat is read from Kafka"), "{chapter}");
    assert!(chapter.contains("| `CONNECT_KAFKA_BROKERS` | required | one or more, separated by commas"), "{chapter}");
    assert!(chapter.contains("in `CONNECT_KAFKA_SASL_PASSWORD_FILE` |"), "{chapter}");
    assert!(chapter.contains("| `CONNECT_KAFKA_START` | `earliest` |"), "{chapter}");
}
