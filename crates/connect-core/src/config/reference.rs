//! The reference of the variables, for `--help` and for `docs/configuration.md`: made from the doc comments.

use std::fmt::Write as _;
use std::path::Path;

use super::{PREFIX, Section, Variable};

/// Set to anything, it makes [`keep_chapter`] rewrite the chapter instead of comparing it.
const UPDATE: &str = "UPDATE_DOCS";

/// The variables as a terminal shows them.
pub fn help(variables: &[Variable]) -> String {
    let mut text = String::from("Environment variables:\n");
    for variable in variables {
        let _ = writeln!(text, "  {} [{}]", variable.name, default(variable));
        for line in variable.about.lines() {
            let _ = writeln!(text, "      {line}");
        }
        let _ = writeln!(text, "      Expected: {}", expected(variable));
    }
    text.push_str(
        "\nA TOML file named by CONNECT_CONFIG may set the same: `kafka.brokers` is CONNECT_KAFKA_BROKERS.\n",
    );
    text.push_str("Exit codes: 0 done or drained, 1 fatal, 64 configuration, 75 drain deadline passed.");
    text
}

/// The chapter of a section in `docs/configuration.md`.
pub fn chapter<S: Section>() -> String {
    let title = match S::PREFIX.split_at_checked(1) {
        Some((first, rest)) => format!("{first}{}", rest.to_lowercase()),
        None => "Every connector".to_owned(),
    };
    let about = S::ABOUT.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let mut text = format!("## {title}\n\n{about}\n\n| variable | default | expected | meaning |\n|---|---|---|---|\n");
    for variable in S::variables() {
        let cells = [format!("`{}`", variable.name), default(&variable), expected(&variable), variable.about];
        let cells = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn default(variable: &Variable) -> String {
    match variable.default {
        Some(default) => format!("`{default}`"),
        None if variable.required => "required".to_owned(),
        None => "not set".to_owned(),
    }
}

fn expected(variable: &Variable) -> String {
    match variable.file_name() {
        Some(file) => format!("{}; or the path of a file with it in `{file}`", variable.expected),
        None => variable.expected.clone(),
    }
}

/// For a test: the chapter of `S` in this document is what the doc comments say. With `UPDATE_DOCS=1` it is made so.
///
/// # Errors
/// What differs, and what to do.
pub fn keep_chapter<S: Section>(document: impl AsRef<Path>) -> Result<(), String> {
    keep(document, &format!("{PREFIX}{}*", S::PREFIX), "the doc comments", &chapter::<S>())
}

/// For a test: between the two comments of this name the document says what is generated from `source`. With `UPDATE_DOCS=1` it
/// is made so.
///
/// # Errors
/// What differs, and what to do.
pub fn keep(document: impl AsRef<Path>, name: &str, source: &str, text: &str) -> Result<(), String> {
    let path = document.as_ref();
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let found = std::fs::read_to_string(path).map_err(failed)?;
    let (begin, end) = (format!("<!-- {name}: generated from {source} -->"), format!("<!-- {name}: end -->"));
    let right = format!("{begin}\n{text}{end}\n");
    if found.contains(&right) {
        return Ok(());
    }
    if std::env::var_os(UPDATE).is_none() {
        return Err(format!("{}: {begin} differs from {source}: run the test with {UPDATE}=1", path.display()));
    }
    let made = match (found.find(&begin), found.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            let rest = &found[to + end.len()..];
            format!("{}{right}{}", &found[..from], rest.strip_prefix('\n').unwrap_or(rest))
        }
        _ => format!("{}\n\n{right}", found.trim_end()),
    };
    std::fs::write(path, made).map_err(failed)
}
