use connect_core::Header;
use connect_core::config::Section;

use super::*;

fn record(value: Option<&'static str>) -> Record {
    Record {
        topic: "clicks".into(),
        partition: 3,
        offset: 42,
        timestamp: 1_700_000_000_123,
        key: Some("k1".into()),
        value: value.map(Bytes::from),
        headers: vec![Header { key: "v".into(), value: Some("77".into()) }],
    }
}

fn mapper(pairs: &[(&str, &str)]) -> Mapper {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (format!("CONNECT_ELASTICSEARCH_{name}"), *value)).collect();
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let url = [("CONNECT_ELASTICSEARCH_URLS", "http://es")];
    Mapper::new(&ElasticsearchConfig::from_pairs(&[&url[..], &pairs].concat()).unwrap()).unwrap()
}

/// The lines of an action, without line breaks.
fn lines(pairs: &[(&str, &str)], record: &Record) -> Result<(String, Option<String>), String> {
    let op = mapper(pairs).prepare(record).map_err(|rejection| rejection.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert!(op.line.ends_with(b"\n"));
    assert!(text(&op.line).contains(&text(&op.target)) || pairs.contains(&("ID", "generated")));
    Ok((text(&op.line).trim_end().to_owned(), op.body.as_deref().map(text)))
}

#[test]
fn a_value_is_indexed_under_the_key_with_the_offset_as_version() {
    let (line, body) = lines(&[], &record(Some(r#"{"n":1}"#))).unwrap();
    assert_eq!(line, r#"{"index":{"_index":"clicks","_id":"k1","version":42,"version_type":"external"}}"#);
    assert_eq!(body.as_deref(), Some(r#"{"n":1}"#));
}

#[test]
fn a_tombstone_deletes_with_the_offset_as_version() {
    let (line, body) = lines(&[], &record(None)).unwrap();
    assert_eq!(line, r#"{"delete":{"_index":"clicks","_id":"k1","version":42,"version_type":"external"}}"#);
    assert_eq!(body, None);
}

#[test]
fn a_record_without_a_key_has_an_id_of_its_own() {
    let (line, _) = lines(&[], &Record { key: None, ..record(Some("{}")) }).unwrap();
    assert!(line.contains(r#""_id":"clicks+3+42""#), "{line}");
}

#[test]
fn every_target_comes_from_a_template() {
    let pairs = [
        ("INDEX", "logs-{topic}-{timestamp:%Y.%m.%d}"),
        ("ID", "{value.id}"),
        ("ROUTING", "{header.v}"),
        ("PIPELINE", "p-{topic}"),
        ("REQUIRE_ALIAS", "true"),
    ];
    let (line, _) = lines(&pairs, &record(Some(r#"{"id":"a\"b"}"#))).unwrap();
    assert_eq!(
        line,
        r#"{"index":{"_index":"logs-clicks-2023.11.14","_id":"a\"b","routing":"77","pipeline":"p-clicks","require_alias":true,"version":42,"version_type":"external"}}"#
    );
}

#[test]
fn a_tombstone_whose_document_only_a_value_could_name_is_rejected() {
    for setting in ["INDEX", "ID", "ROUTING"] {
        lines(&[(setting, "{value.x}")], &record(Some(r#"{"x":"x"}"#))).unwrap();
        lines(&[(setting, "{value.x}")], &record(None)).unwrap_err();
    }
}

#[test]
fn an_update_and_a_delete_of_one_document_have_one_target() {
    let mapper = mapper(&[("ROUTING", "{key}")]);
    let index = mapper.prepare(&record(Some("{}"))).unwrap();
    let delete = mapper.prepare(&Record { offset: 43, ..record(None) }).unwrap();
    assert_eq!(index.target, delete.target);
    assert_eq!(index.target, r#""_index":"clicks","_id":"k1","routing":"k1""#);
    let other = mapper.prepare(&Record { key: Some("k2".into()), ..record(None) }).unwrap();
    assert_ne!(index.target, other.target);
}

#[test]
fn a_generated_id_gives_every_record_a_target_of_its_own() {
    let mapper = mapper(&[("ID", "generated"), ("ACTION", "create"), ("VERSION", "none")]);
    let first = mapper.prepare(&record(Some("{}"))).unwrap();
    let second = mapper.prepare(&Record { offset: 43, ..record(Some("{}")) }).unwrap();
    assert_eq!(first.line, "{\"create\":{\"_index\":\"clicks\"}}\n");
    assert_ne!(first.target, second.target, "a record sent again must not take others with it");
    assert!(mapper.prepare(&record(None)).unwrap_err().to_string().contains("CONNECT_TOMBSTONES=ignore"));
}

#[test]
fn versions_that_may_be_equal_let_the_later_record_win() {
    for (version, number) in [("timestamp", "1700000000123"), ("header:v", "77")] {
        let (line, _) = lines(&[("VERSION", version)], &record(Some("{}"))).unwrap();
        assert!(line.ends_with(&format!(r#""version":{number},"version_type":"external_gte"}}}}"#)), "{line}");
    }
    let (line, _) = lines(&[("REWRITE", "true")], &record(Some("{}"))).unwrap();
    assert!(line.ends_with(r#""version":42,"version_type":"external_gte"}}"#), "{line}");
    let (line, _) = lines(&[("VERSION", "none")], &record(None)).unwrap();
    assert_eq!(line, r#"{"delete":{"_index":"clicks","_id":"k1"}}"#);
}

#[test]
fn what_has_no_version_is_rejected() {
    let no_timestamp = Record { timestamp: -1, ..record(Some("{}")) };
    assert!(lines(&[("VERSION", "timestamp")], &no_timestamp).unwrap_err().contains("no timestamp"));
    for value in ["x", "-1", "1.5", ""] {
        let headers = vec![Header { key: "v".into(), value: Some(value.into()) }];
        let problem = lines(&[("VERSION", "header:v")], &Record { headers, ..record(Some("{}")) }).unwrap_err();
        assert!(problem.contains("header:v"), "{problem}");
    }
}

#[test]
fn ids_that_elasticsearch_refuses_are_rejected_before_the_whole_request_is() {
    let long = Record { key: Some("é".repeat(256).into()), ..record(Some("{}")) };
    lines(&[], &long).unwrap();
    let longer = Record { key: Some("é".repeat(257).into()), ..record(Some("{}")) };
    assert_eq!(lines(&[], &longer).unwrap_err(), "the record's key: the id has 514 bytes, and Elasticsearch takes 512");
    let empty = Record { key: Some("".into()), ..record(Some("{}")) };
    assert!(lines(&[], &empty).unwrap_err().contains("the id is empty"));
    let bytes = Record { key: Some(Bytes::from_static(b"\xff")), ..record(Some("{}")) };
    assert_eq!(lines(&[], &bytes).unwrap_err(), "the record's key is not UTF-8");
}

#[test]
fn an_index_name_that_would_be_calculated_is_rejected() {
    let problem = lines(&[("INDEX", "{value.i}")], &record(Some(r#"{"i":"<logs-{now/d}>"}"#))).unwrap_err();
    assert!(problem.contains("begins with <"), "{problem}");
    assert!(lines(&[("INDEX", "{value.i}")], &record(Some(r#"{"i":""}"#))).unwrap_err().contains("no name"));
}

#[test]
fn a_document_is_one_line() {
    let (_, body) = lines(&[], &record(Some("{\r\n  \"n\": 1\n}"))).unwrap();
    assert_eq!(body.as_deref(), Some("{    \"n\": 1 }"));
    for empty in ["", "\n", " "] {
        assert!(lines(&[], &record(Some(empty))).unwrap_err().contains("empty"));
    }
    let bytes = Record { value: Some(Bytes::from_static(b"{\"n\":\"\xff\"}")), ..record(None) };
    assert_eq!(lines(&[], &bytes).unwrap_err(), "the value is not UTF-8");
}

#[test]
fn a_document_gets_its_timestamp_where_it_has_none() {
    let pairs = [("TIMESTAMP_FIELD", "@timestamp"), ("ACTION", "create")];
    for (value, expected) in [
        ("{}", r#"{"@timestamp":1700000000123}"#),
        (r#" { "n":1}"#, r#"{"@timestamp":1700000000123, "n":1}"#),
        (r#"{"@timestamp":5}"#, r#"{"@timestamp":5}"#),
    ] {
        let (_, body) = lines(&pairs, &record(Some(value))).unwrap();
        let body = body.unwrap();
        assert_eq!(body, expected);
        serde_json::from_str::<serde_json::Value>(&body).unwrap();
    }
    assert!(lines(&pairs, &record(Some("[]"))).is_err());
    assert!(lines(&pairs, &record(Some("{"))).unwrap_err().contains("not valid JSON"));
}

#[test]
fn an_update_is_guarded_by_the_offsets_that_the_document_has_seen() {
    let (line, part) = lines(&[("ACTION", "update")], &record(Some("{\"n\":\n1}"))).unwrap();
    assert_eq!(line, r#"{"update":{"_index":"clicks","_id":"k1","retry_on_conflict":3}}"#);
    assert_eq!(part.as_deref(), Some(r#""partition":"clicks-3","offset":42,"value":{"n": 1}"#));
    let (line, part) = lines(&[("ACTION", "update")], &record(None)).unwrap();
    assert!(line.starts_with(r#"{"update""#), "deleted, it would lose its guard: {line}");
    assert_eq!(part.as_deref(), Some(r#""partition":"clicks-3","offset":42,"value":null"#));
}

#[test]
fn an_update_without_guard_is_the_value_and_a_tombstone_deletes() {
    let pairs = [("ACTION", "update"), ("UPDATE_GUARD", "none")];
    let (_, part) = lines(&pairs, &record(Some(r#"{"n":1}"#))).unwrap();
    assert_eq!(part.as_deref(), Some(r#"{"n":1}"#));
    let (line, _) = lines(&pairs, &record(None)).unwrap();
    assert_eq!(line, r#"{"delete":{"_index":"clicks","_id":"k1"}}"#);
}

#[test]
fn a_value_cannot_add_to_the_update_around_it() {
    for value in [r#"1},"script":{"source":"x""#, "[]", r#"{"a":1},"doc_as_upsert":false,"x":{"b":1}"#, "{", ""] {
        for guard in ["none", "connect_offsets"] {
            let problem = lines(&[("ACTION", "update"), ("UPDATE_GUARD", guard)], &record(Some(value))).unwrap_err();
            assert!(problem.contains("JSON"), "{value}: {problem}");
        }
    }
    let bytes = Record { value: Some(Bytes::from_static(b"{\"n\":\"\xff\"}")), ..record(None) };
    assert_eq!(lines(&[("ACTION", "update")], &bytes).unwrap_err(), "the value is not UTF-8");
}

#[test]
fn nothing_of_a_rejected_record_stays_in_the_next_line() {
    let mapper = mapper(&[]);
    assert!(mapper.prepare(&Record { key: Some("".into()), ..record(Some("{}")) }).is_err());
    let op = mapper.prepare(&record(None)).unwrap();
    assert!(op.line.starts_with(b"{\"delete\""));
}

#[test]
fn what_a_later_epoch_writes_is_newer_whatever_its_offset() {
    let version = |epoch| {
        let op = mapper(&[]).in_epoch(epoch).prepare(&record(Some("{}"))).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&op.line).unwrap();
        line["index"]["version"].as_i64().unwrap()
    };
    assert_eq!(version(0), 42, "as it was before there were epochs");
    assert_eq!(version(1), (1 << 48) + 42);
    assert!(version(2) > version(1) && version(i16::MAX as u16) > version(2));
    let update = mapper(&[("ACTION", "update")]).in_epoch(1).prepare(&record(Some("{}"))).unwrap();
    let part = String::from_utf8(update.body.unwrap().to_vec()).unwrap();
    assert!(part.contains(&format!("\"offset\":{},", (1_i64 << 48) + 42)), "{part}");
    let by_time = mapper(&[("VERSION", "timestamp")]).in_epoch(1).prepare(&record(Some("{}"))).unwrap();
    assert!(String::from_utf8_lossy(&by_time.line).contains("\"version\":1700000000123"), "times need no epochs");
}
