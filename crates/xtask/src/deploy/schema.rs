//! The part of the chart's `values.schema.json` that follows from the reference: which settings there are, and what they
//! may hold. A typo is refused before anything reaches the cluster.

use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::reference::{Chapter, Variable};
use crate::paths;

/// Variables that the chart sets by itself, from `mode` and from the values: to set them beside it would contradict.
const OF_THE_CHART: [&str; 5] =
    ["CONNECT_CONFIG", "CONNECT_SHARD", "CONNECT_KAFKA_ASSIGNMENT", "CONNECT_KAFKA_INSTANCE_ID", "CONNECT_KAFKA_STOP"];
const FILE: &str = "deploy/chart/values.schema.json";

/// Holds the schema to the reference, or makes it so.
///
/// # Errors
/// It differs; the message has the command that mends it.
pub fn keep(chapters: &[Chapter], write: bool) -> Result<()> {
    let path = paths::workspace().join(FILE);
    let text = fs::read_to_string(&path).with_context(|| FILE)?;
    let kept: Value = serde_json::from_str(&text).with_context(|| FILE)?;
    let mut schema = kept.clone();
    for (definition, value) in definitions(chapters) {
        schema["$defs"][definition] = value;
    }
    // The values are compared, not the text: whether an object keeps the order of its keys is a feature of serde_json that
    // another crate of the same build may turn on.
    if kept == schema {
        return Ok(());
    }
    if !write {
        bail!("{FILE} differs from docs/configuration.md: run `cargo xtask deploy --write`");
    }
    fs::write(path, format!("{schema:#}\n")).with_context(|| FILE)
}

/// `config`, `secrets` and `files`: every variable is in exactly one of them.
fn definitions(chapters: &[Chapter]) -> [(&'static str, Value); 3] {
    let config = group(chapters, |variable| {
        let outside = variable.is_file() || OF_THE_CHART.contains(&variable.name.as_str());
        (!outside && variable.secret_file().is_none()).then(|| value(variable))
    });
    let secrets = group(chapters, |variable| variable.secret_file().map(|_| reference("secret", variable)));
    let files = group(chapters, |variable| variable.is_file().then(|| reference("file", variable)));
    [("config", config), ("secrets", secrets), ("files", files)]
}

/// An object with a property for every variable that `describe` takes, those of a section in an object of their own.
fn group(chapters: &[Chapter], describe: impl Fn(&Variable) -> Option<Value>) -> Value {
    let mut all = Map::new();
    let mut all_required = Vec::new();
    for chapter in chapters {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for variable in &chapter.variables {
            let Some(property) = describe(variable) else { continue };
            properties.insert(variable.field.clone(), property);
            // The chart takes the release's name.
            if variable.required && variable.name != "CONNECT_NAME" {
                required.push(variable.field.clone());
            }
        }
        match &chapter.section {
            None => all.extend(properties),
            Some(_) if properties.is_empty() => {}
            Some(section) => {
                // Every connector reads Kafka; which store there is depends on the connector.
                if section == "kafka" && !required.is_empty() {
                    all_required.push(section.clone());
                }
                all.insert(section.clone(), object(properties, &required));
            }
        }
    }
    object(all, &all_required)
}

fn object(properties: Map<String, Value>, required: &[String]) -> Value {
    let mut object = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn reference(definition: &str, variable: &Variable) -> Value {
    json!({"$ref": format!("#/$defs/{definition}"), "description": variable.about})
}

/// What a variable may hold, as far as its expectation in words says it.
fn value(variable: &Variable) -> Value {
    let mut schema = by_words(&variable.expected);
    schema["description"] = json!(variable.about);
    if variable.name == "CONNECT_DRAIN_TIMEOUT" {
        // One number and one unit: the chart computes the grace period of the pod from it.
        schema["pattern"] = json!("^[0-9]+(ms|s|m|h)$");
    }
    schema
}

fn by_words(expected: &str) -> Value {
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    if let Some(words) = expected.strip_prefix("one of ") {
        return choice(words);
    }
    if let Some(range) = expected.strip_prefix("a whole number") {
        return number(range);
    }
    match expected {
        "`true` or `false`" => json!({"type": "boolean"}),
        _ if expected.starts_with("a duration such as") => text("^([0-9]+ ?(ns|us|ms|s|m|h|d) ?)+$"),
        _ if expected.starts_with("a size such as") => text("^[0-9]+(\\.[0-9]+)? ?([kKMGT]i?)?B?$"),
        _ if expected.contains("separated by commas") => json!({"oneOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^[^,]+$"}},
        ]}),
        _ => json!({"type": "string"}),
    }
}

/// "`earliest` `timestamp:TIME`": words, some of which end in something of the user's own, written in capitals.
fn choice(words: &str) -> Value {
    let words: Vec<&str> = words.split('`').skip(1).step_by(2).collect();
    let has_own = |word: &str| word.chars().any(char::is_uppercase);
    if !words.iter().any(|word| has_own(word)) {
        return json!({"enum": words});
    }
    let alternatives: Vec<String> =
        words
            .iter()
            .map(|word| {
                if has_own(word) { format!("{}.+", word.trim_end_matches(char::is_uppercase)) } else { (*word).into() }
            })
            .collect();
    json!({"type": "string", "pattern": format!("^({})$", alternatives.join("|"))})
}

/// " from 1 to 65535", " from 0" or nothing.
fn number(range: &str) -> Value {
    let mut schema = json!({"type": "integer"});
    let bound = |word: &str| range.split_whitespace().skip_while(|part| *part != word).nth(1)?.parse::<i64>().ok();
    if let Some(least) = bound("from") {
        schema["minimum"] = json!(least);
    }
    if let Some(most) = bound("to") {
        schema["maximum"] = json!(most);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::reference::read;

    #[test]
    fn the_schema_is_what_the_reference_says() {
        let document = fs::read_to_string(paths::workspace().join("docs/configuration.md")).unwrap();
        keep(&read(&document).unwrap(), false).unwrap();
    }

    #[test]
    fn expectations_in_words_become_bounds() {
        for (expected, schema) in [
            ("`true` or `false`", json!({"type": "boolean"})),
            ("one of `stop` `drop`", json!({"enum": ["stop", "drop"]})),
            ("one of `stop` `topic:NAME`", json!({"type": "string", "pattern": "^(stop|topic:.+)$"})),
            ("a whole number from 1 to 65535", json!({"type": "integer", "minimum": 1, "maximum": 65535})),
            ("a whole number", json!({"type": "integer"})),
            ("text", json!({"type": "string"})),
        ] {
            assert_eq!(by_words(expected), schema, "{expected}");
        }
    }

    #[test]
    fn secrets_and_files_are_no_settings() {
        let document = "<!-- CONNECT_KAFKA*: generated -->\n| `CONNECT_KAFKA_BROKERS` | required | text | B. |\n\
                        | `CONNECT_KAFKA_CA_FILE` | not set | the path of a readable file | C. |\n\
                        | `CONNECT_KAFKA_INSTANCE_ID` | not set | text | I. |\n\
                        | `CONNECT_KAFKA_P` | not set | a secret or in `CONNECT_KAFKA_P_FILE` | P. |\n";
        let [(_, config), (_, secrets), (_, files)] = definitions(&read(document).unwrap());
        let fields = |group: &Value| -> Vec<String> {
            group["properties"]["kafka"]["properties"].as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(fields(&config), ["brokers"]);
        assert_eq!(fields(&secrets), ["p"]);
        assert_eq!(fields(&files), ["ca_file"]);
        assert_eq!(config["required"], json!(["kafka"]));
        assert_eq!(config["properties"]["kafka"]["required"], json!(["brokers"]));
    }
}
