//! What expressions of PromQL ask for, as far as ours go: metrics, what they are chosen by, and what is grouped by.

use std::collections::{BTreeMap, BTreeSet};

/// For each metric the labels that it must have, and of some the value: `outcome`, `dropped`.
pub type Asked = BTreeMap<String, BTreeSet<(String, Option<String>)>>;

/// Labels that the scrape adds.
const OF_THE_SCRAPE: [&str; 3] = ["namespace", "connector", "pod"];

/// The metrics in a text that are ours or the process' own, and their labels.
pub fn asked(text: &str) -> Asked {
    let mut asked = Asked::new();
    for (name, braces) in metrics(text, &["connect_", "process_"]) {
        let labels = asked.entry(name.to_owned()).or_default();
        for (label, value) in braces.map(matchers).unwrap_or_default() {
            labels.extend(words(value).into_iter().map(|word| (label.to_owned(), word)));
        }
    }
    for (labels, inside) in groups(text) {
        for (name, _) in metrics(inside, &["connect_", "process_"]) {
            let known = asked.entry(name.to_owned()).or_default();
            known.extend(labels.iter().map(|label| ((*label).to_owned(), None)));
        }
    }
    for labels in asked.values_mut() {
        labels.retain(|(label, _)| !OF_THE_SCRAPE.contains(&label.as_str()));
    }
    asked
}

/// The metrics whose names begin so, and what stands in braces behind each; `None` where nothing does.
pub fn metrics<'a>(text: &'a str, prefixes: &[&str]) -> Vec<(&'a str, Option<&'a str>)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for prefix in prefixes {
        for (at, _) in text.match_indices(prefix) {
            if text[..at].ends_with(is_name) {
                continue;
            }
            let rest = text[at..].trim_start_matches(is_name);
            let name = &text[at..text.len() - rest.len()];
            found.push((name, rest.strip_prefix('{').map(|rest| &rest[..unquoted(rest, '}')])));
        }
    }
    found
}

/// The labels in braces, and what each is compared with.
pub fn matchers(mut braces: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    while !braces.is_empty() {
        let end = unquoted(braces, ',');
        let (label, value) = braces[..end].split_once('=').unwrap_or((&braces[..end], ""));
        found.push((label.trim().trim_end_matches('!'), value.trim_start_matches('~').trim_matches('"')));
        braces = braces[end..].trim_start_matches(',');
    }
    found
}

/// The words that a value lists; of a pattern nothing is known but that the label must be there.
fn words(value: &str) -> Vec<Option<String>> {
    let plain =
        |word: &str| !word.is_empty() && word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    let words: Vec<_> = value.split('|').collect();
    if words.iter().all(|word| plain(word)) {
        return words.into_iter().map(|word| Some(word.to_owned())).collect();
    }
    vec![None]
}

/// `by (a, b) (what is grouped)`: the labels, and what is grouped by them.
fn groups(text: &str) -> Vec<(Vec<&str>, &str)> {
    let by = text.match_indices(" by (").map(|(at, by)| &text[at + by.len()..]);
    by.filter_map(|rest| {
        let (labels, rest) = rest.split_once(')')?;
        let inside = rest.trim_start().strip_prefix('(')?;
        Some((labels.split(',').map(str::trim).collect(), &inside[..closing(inside)]))
    })
    .collect()
}

/// Where the parenthesis is that closes.
fn closing(text: &str) -> usize {
    let mut open = 0;
    let is_it = |letter: char| {
        open += i32::from(letter == '(') - i32::from(letter == ')');
        open < 0
    };
    text.find(is_it).unwrap_or(text.len())
}

/// Where a letter is outside of quotes: a regular expression between them may hold one, too.
fn unquoted(text: &str, letter: char) -> usize {
    let mut quoted = false;
    let is_it = |other: char| {
        quoted ^= other == '"';
        other == letter && !quoted
    };
    text.find(is_it).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_with_what_they_are_chosen_by() {
        let text = "rate(connect_a{b=~\"x{2,3}\",c!=\"d\"}[5m]) / process_x + my_connect_y + kube_z{}";
        let found = metrics(text, &["connect_", "process_"]);
        assert_eq!(found, [("connect_a", Some("b=~\"x{2,3}\",c!=\"d\"")), ("process_x", None)]);
        assert_eq!(matchers("b=~\"x{2,3}\",c!=\"d\""), [("b", "x{2,3}"), ("c", "d")]);
    }

    #[test]
    fn labels_are_asked_for_in_braces_and_in_groups() {
        let text = "sum by (namespace, topic) (increase(connect_a{connector=~\".+\",outcome=~\"x|y\"}[1m])) > 0\n\
                    or histogram_quantile(0.5, sum by (le) (connect_b{topic=~\".*\"})) / (connect_a{pod=\"p\"})";
        let label = |label: &str, value: Option<&str>| (label.to_owned(), value.map(str::to_owned));
        let asked = asked(text);
        let of_a = [label("outcome", Some("x")), label("outcome", Some("y")), label("topic", None)];
        assert_eq!(asked["connect_a"], BTreeSet::from(of_a));
        assert_eq!(asked["connect_b"], BTreeSet::from([label("le", None), label("topic", None)]));
    }
}
