use super::*;

fn cause(kind: &str, reason: &str) -> Cause {
    Cause { kind: kind.to_owned(), reason: Some(reason.to_owned()), caused_by: None }
}

fn fate(kind: Kind, status: u16, error: Option<Cause>) -> Fate {
    of_item(kind, &ItemAnswer { status, noop: false, error }, Some(0))
}

#[test]
fn success_is_written_and_what_changed_nothing_superseded() {
    assert_eq!(fate(Kind::Index, 201, None), Fate::Written);
    assert_eq!(fate(Kind::Delete, 404, None), Fate::Written);
    assert_eq!(of_item(Kind::Update, &ItemAnswer { status: 200, noop: true, error: None }, Some(0)), Fate::Superseded);
    let no_index = || Some(cause("index_not_found_exception", "no such index [x]"));
    assert_eq!(fate(Kind::Delete, 404, no_index()), Fate::Written, "it is gone with its index");
    assert!(matches!(fate(Kind::Index, 404, no_index()), Fate::Retry { busy: false, .. }));
    for status in [0, 199, 300, 404] {
        assert!(matches!(fate(Kind::Index, status, None), Fate::Retry { .. }), "{status} proves nothing");
    }
}

#[test]
fn a_conflict_is_superseded_but_for_updates() {
    let conflict = || Some(cause("version_conflict_engine_exception", "[k1]: version conflict"));
    for kind in [Kind::Index, Kind::Create, Kind::Delete] {
        assert_eq!(fate(kind, 409, conflict()), Fate::Superseded);
    }
    assert!(matches!(fate(Kind::Update, 409, conflict()), Fate::Retry { busy: false, .. }));
}

#[test]
fn who_was_left_behind_in_an_earlier_epoch_stops_where_offsets_guard() {
    let version = (1_i64 << 48) + 5;
    let reason =
        format!("[k1]: version conflict, current version [{version}] is higher or equal to the one provided [9]");
    let conflict = || Some(cause("version_conflict_engine_exception", &reason));
    let answer = |epoch| of_item(Kind::Index, &ItemAnswer { status: 409, noop: false, error: conflict() }, epoch);
    assert!(matches!(answer(Some(0)), Fate::Fatal(message) if message.contains("CONNECT_EPOCH=1")));
    for epoch in [Some(1), None] {
        assert_eq!(answer(epoch), Fate::Superseded, "{epoch:?}");
    }
}

#[test]
fn what_is_not_the_records_fault_is_sent_again() {
    for (status, kind, reason, busy) in [
        (429, "es_rejected_execution_exception", "rejected execution", true),
        (503, "unavailable_shards_exception", "primary shard is not active", true),
        (500, "something_new", "", false),
        (404, "index_not_found_exception", "no such index [x] and [require_alias] request flag is [true]", false),
        (403, "cluster_block_exception", "index [x] blocked by: [FORBIDDEN/8/index write (api)]", false),
        (400, "index_closed_exception", "closed", false),
        (400, "illegal_argument_exception", "pipeline with id [missing] does not exist", false),
        (400, "illegal_argument_exception", "no write index is defined for alias [x]. The write index may be", false),
        (400, "validation_exception", "this action would add [2] shards, but this cluster has [1000]/[1000]", false),
        (418, "teapot", "", false),
    ] {
        match fate(Kind::Index, status, Some(cause(kind, reason))) {
            Fate::Retry { busy: found, .. } => assert_eq!(found, busy, "{kind}"),
            other => panic!("{kind}: {other:?}"),
        }
    }
}

#[test]
fn a_bad_record_is_rejected_with_the_servers_reason_and_without_its_content() {
    let mut error = cause(
        "document_parsing_exception",
        "[1:6] failed to parse field [n] of type [integer] in document with id 'm1'. Preview of field's value: 'secret'",
    );
    error.caused_by = Some(Box::new(cause("number_format_exception", "For input string: \"secret\"")));
    let Fate::Rejected(reason) = fate(Kind::Index, 400, Some(error)) else { panic!("not rejected") };
    assert_eq!(
        reason,
        "document_parsing_exception: [1:6] failed to parse field [n] of type [integer] in document with id 'm1'. (number_format_exception)"
    );
}

#[test]
fn a_reason_ends_where_it_quotes_the_document() {
    for reason in [
        "[1:11] Duplicate field 'n'\n at [Source: (byte[])\"{\"n\":\"secret\"}\"; line: 1, column: 11]",
        "[1:6] Unrecognized token 'secret': was expecting (JSON String, Number, Array, Object)",
        "Document contains at least one immense term in field=\"n\". The prefix of the first immense term is: '[115, 101] secret'",
    ] {
        let text = describe(&cause("document_parsing_exception", reason));
        assert!(text.starts_with("document_parsing_exception: ") && !text.contains("secret"), "{text}");
    }
}

#[test]
fn credentials_and_privileges_are_fatal() {
    let denied =
        || Some(cause("security_exception", "action [indices:data/write/bulk[s]] is unauthorized for user [u]"));
    for status in [401, 403] {
        assert!(matches!(fate(Kind::Index, status, denied()), Fate::Fatal(_)), "{status}");
        let body = br#"{"error":{"type":"security_exception","reason":"unable to authenticate"},"status":401}"#;
        assert!(matches!(of_request(status, body), Refusal::Error(SinkError::Fatal(_))), "{status}");
    }
}

#[test]
fn a_script_that_cannot_run_here_is_fatal() {
    let mut missing = cause("illegal_argument_exception", "failed to execute script");
    missing.caused_by = Some(Box::new(cause("illegal_argument_exception", "script_lang not supported [painless]")));
    let Fate::Fatal(message) = fate(Kind::Update, 400, Some(missing)) else { panic!("not fatal") };
    assert!(message.contains("CONNECT_ELASTICSEARCH_UPDATE_GUARD"), "{message}");
    let mut broken = cause("illegal_argument_exception", "failed to execute script");
    broken.caused_by = Some(Box::new(cause("script_exception", "compile error")));
    assert!(matches!(fate(Kind::Update, 400, Some(broken)), Fate::Fatal(_)));
    let mut failing = cause("illegal_argument_exception", "failed to execute script");
    failing.caused_by = Some(Box::new(cause("script_exception", "runtime error")));
    assert!(matches!(fate(Kind::Update, 400, Some(failing)), Fate::Rejected(_)), "it fails on this document");
}

/// As `UpdateHelper` and `ScriptService` of Elasticsearch and OpenSearch wrap them.
#[test]
fn a_script_that_the_cluster_does_not_run_is_no_records_fault() {
    let wrapped = |causes: &[(&str, &str)]| {
        causes
            .iter()
            .rev()
            .fold(None, |inner, (kind, reason)| Some(Cause { caused_by: inner.map(Box::new), ..cause(kind, reason) }))
    };
    const FAILED: (&str, &str) = ("illegal_argument_exception", "failed to execute script");
    for words in [
        "cannot execute [inline] scripts",
        "cannot execute scripts using [update] context",
        "exceeded max allowed inline script size in bytes [100] with size [900] for script [x]",
    ] {
        let error = wrapped(&[FAILED, ("illegal_argument_exception", words)]);
        let Fate::Fatal(message) = fate(Kind::Update, 400, error) else { panic!("not fatal: {words}") };
        assert!(message.contains(words) && message.contains("script.allowed_types"), "{message}");
    }
    let busy = ("circuit_breaking_exception", "[script] Too many dynamic script compilations within, max: [150/5m]");
    let general = ("general_script_exception", "Failed to compile inline script [x] using lang [painless]");
    for causes in [&[FAILED, busy][..], &[FAILED, general, busy]] {
        assert!(matches!(fate(Kind::Update, 400, wrapped(causes)), Fate::Retry { .. }), "others compile scripts, too");
    }
}

#[test]
fn what_an_error_quotes_of_a_document_decides_nothing() {
    for said in [
        "script_lang not supported [painless]",
        "cannot execute [inline] scripts",
        "pipeline with id [x]",
        "no write index is defined for alias [x]",
        "current version [9223372036854775807]",
    ] {
        let mut error =
            cause("document_parsing_exception", &format!("failed to parse. Preview of field's value: '{said}'"));
        error.caused_by = Some(Box::new(cause("illegal_argument_exception", &format!("For input string: \"{said}\""))));
        assert!(matches!(fate(Kind::Index, 400, Some(error)), Fate::Rejected(_)), "{said}");
    }
}

#[test]
fn a_whole_request_is_halved_only_for_an_action() {
    let body =
        |kind: &str, reason: &str| format!(r#"{{"error":{{"type":"{kind}","reason":"{reason}"}},"status":400}}"#);
    for (kind, reason) in [
        ("illegal_argument_exception", "Malformed action/metadata line [1]"),
        ("action_request_validation_exception", "Validation Failed: 1: id is too long"),
        ("x_content_parse_exception", "bad"),
        ("parse_exception", "request body is required"),
    ] {
        assert!(matches!(of_request(400, body(kind, reason).as_bytes()), Refusal::BadAction(_)), "{kind}");
    }
    for body in [
        body("media_type_header_exception", "Invalid media-type"),
        r#"{"error":"no handler found for uri [/x/_bulk] and method [POST]"}"#.to_owned(),
        "<html>Bad Request</html>".to_owned(),
        String::new(),
    ] {
        let refusal = of_request(400, body.as_bytes());
        assert!(matches!(refusal, Refusal::Error(SinkError::Transient { .. })), "{body}: {refusal:?}");
    }
}

#[test]
fn other_answers_of_a_whole_request() {
    assert_eq!(of_request(413, b""), Refusal::TooLarge);
    for status in [429, 503] {
        assert!(matches!(of_request(status, b""), Refusal::Busy(SinkError::Transient { .. })), "{status}");
    }
    for status in [301, 404, 408, 500, 502, 504] {
        assert!(matches!(of_request(status, b""), Refusal::Error(SinkError::Transient { .. })), "{status}");
    }
}

#[test]
fn a_long_reason_is_cut_between_letters() {
    let text = describe(&cause("t", &"é".repeat(1_000)));
    assert!(text.len() < 500, "{}", text.len());
}

/// What the case expects of the sink, and what real servers answered: `tests/elasticsearch/answers.rs` records it.
#[test]
fn real_answers_mean_what_they_should() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("../tests/golden/cases.json")).unwrap();
    for (server, answers) in [
        ("elasticsearch-9", include_str!("../tests/golden/elasticsearch-9.json")),
        ("elasticsearch-8", include_str!("../tests/golden/elasticsearch-8.json")),
        ("opensearch-2", include_str!("../tests/golden/opensearch-2.json")),
    ] {
        let answers: Vec<serde_json::Value> = serde_json::from_str(answers).unwrap();
        assert_eq!(answers.len(), cases.len(), "{server}");
        for (case, answer) in cases.iter().zip(&answers) {
            assert_eq!(case["name"], answer["name"], "{server}");
            // The builds of Elasticsearch that can be had have no Painless.
            let scriptless = case["needs"] == "painless" && server.starts_with("elasticsearch");
            let expected = if scriptless { "fatal" } else { case["fate"].as_str().unwrap() };
            let status = u16::try_from(answer["status"].as_u64().unwrap()).unwrap();
            let found = meaning(case["kind"].as_str().unwrap(), status, &answer["answer"].to_string());
            assert_eq!(found, expected, "{server}: {}: {}", case["name"], answer["answer"]);
        }
    }
}

fn meaning(kind: &str, status: u16, answer: &str) -> &'static str {
    if status != 200 {
        return match of_request(status, answer.as_bytes()) {
            Refusal::BadAction(_) => "bad action",
            Refusal::TooLarge => "too large",
            Refusal::Busy(_) => "busy",
            Refusal::Error(SinkError::Fatal(_)) => "fatal",
            Refusal::Error(_) => "retry",
        };
    }
    let kind = match kind {
        "create" => Kind::Create,
        "update" => Kind::Update,
        "delete" => Kind::Delete,
        _ => Kind::Index,
    };
    let mut fate = None;
    let count = crate::answer::read(answer.as_bytes(), |_, item| fate = Some(of_item(kind, &item, Some(0)))).unwrap();
    assert_eq!(count, 1);
    match fate.unwrap() {
        Fate::Written => "written",
        Fate::Superseded => "superseded",
        Fate::Retry { .. } => "retry",
        Fate::Fatal(_) => "fatal",
        Fate::Rejected(reason) => {
            assert!(!reason.contains("secret"), "{reason}");
            "rejected"
        }
    }
}
