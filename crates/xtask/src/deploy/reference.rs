//! The variables as `docs/configuration.md` tells them. A test in each crate holds that document to the code, so what is
//! held to the document is held to the code.

use anyhow::{Context, Result, bail};

/// A chapter of the document: the variables of one section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chapter {
    /// The section's name in lower case, `None` for what every connector has.
    pub section: Option<String>,
    /// In the order of the document.
    pub variables: Vec<Variable>,
}

/// A row of a chapter's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The whole name: `CONNECT_KAFKA_FETCH_BYTES`.
    pub name: String,
    /// The name within the section, in lower case: `fetch_bytes`.
    pub field: String,
    /// It must be set.
    pub required: bool,
    /// What it is where nothing is set, if there is such a value.
    pub default: Option<String>,
    /// What is expected, in words.
    pub expected: String,
    /// What it means.
    pub about: String,
}

impl Variable {
    /// The variable that names a file with this secret, `None` when this is no secret.
    pub fn secret_file(&self) -> Option<String> {
        let file = format!("{}_FILE", self.name);
        self.expected.contains(&format!("`{file}`")).then_some(file)
    }

    /// Whether the value is the path of a file that must be mounted.
    pub fn is_file(&self) -> bool {
        self.expected == "the path of a readable file"
    }
}

/// Reads the document.
///
/// # Errors
/// A table that can't be understood.
pub fn read(document: &str) -> Result<Vec<Chapter>> {
    let mut chapters: Vec<Chapter> = Vec::new();
    for line in document.lines() {
        let mark = line.strip_prefix("<!-- CONNECT_").and_then(|rest| rest.split_once("*: generated"));
        if let Some((prefix, _)) = mark {
            let section = (!prefix.is_empty()).then(|| prefix.to_lowercase());
            chapters.push(Chapter { section, variables: Vec::new() });
        } else if line.starts_with("| `CONNECT_") {
            let chapter = chapters.last_mut().context("docs/configuration.md: a variable stands before any chapter")?;
            let variable = row(line, chapter.section.as_deref()).with_context(|| format!("not understood: {line}"))?;
            chapter.variables.push(variable);
        }
    }
    if chapters.iter().any(|chapter| chapter.variables.is_empty()) || chapters.is_empty() {
        bail!("docs/configuration.md: a chapter without variables; has its form changed?");
    }
    Ok(chapters)
}

/// Whether there is a variable, or a secret's file, of this name.
pub fn is_known(chapters: &[Chapter], name: &str) -> bool {
    let mut variables = chapters.iter().flat_map(|chapter| &chapter.variables);
    variables.any(|variable| variable.name == name || variable.secret_file().as_deref() == Some(name))
}

/// What a variable is where nothing is set.
pub fn default_of<'a>(chapters: &'a [Chapter], name: &str) -> Option<&'a str> {
    let mut variables = chapters.iter().flat_map(|chapter| &chapter.variables);
    variables.find(|variable| variable.name == name)?.default.as_deref()
}

/// `| name | default | expected | meaning |`, where a bar within a cell is written `\|`.
fn row(line: &str, section: Option<&str>) -> Option<Variable> {
    let line = line.replace("\\|", "\u{0}");
    let cells: Vec<_> = line.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect();
    let [_, name, default, expected, about, _] = cells.as_slice() else { return None };
    let name = name.trim_matches('`').to_owned();
    let short = name.strip_prefix("CONNECT_")?.to_lowercase();
    let field = match section {
        Some(section) => short.strip_prefix(section)?.strip_prefix('_')?.to_owned(),
        None => short,
    };
    let value = default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).map(str::to_owned);
    let (expected, about) = (expected.clone(), about.clone());
    Some(Variable { name, field, required: default == "required", default: value, expected, about })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_and_rows_are_read() {
        let document = "# Head\n<!-- CONNECT_*: generated x -->\n| variable | default |\n| `CONNECT_NAME` | required | a \\| b | About. |\n\
                        <!-- CONNECT_*: end -->\n<!-- CONNECT_KAFKA*: generated x -->\n\
                        | `CONNECT_KAFKA_PASSWORD` | not set | a secret; or in `CONNECT_KAFKA_PASSWORD_FILE` | P. |\n\
                        | `CONNECT_KAFKA_START` | `earliest` | a word | S. |\n";
        let chapters = read(document).unwrap();
        assert_eq!(chapters.len(), 2);
        let name = &chapters[0].variables[0];
        assert_eq!((name.field.as_str(), name.required, name.expected.as_str()), ("name", true, "a | b"));
        let password = &chapters[1].variables[0];
        assert_eq!(chapters[1].section.as_deref(), Some("kafka"));
        assert_eq!((password.field.as_str(), password.required), ("password", false));
        assert_eq!(password.secret_file().as_deref(), Some("CONNECT_KAFKA_PASSWORD_FILE"));
        assert_eq!(name.secret_file(), None);
        assert_eq!(default_of(&chapters, "CONNECT_KAFKA_START"), Some("earliest"));
        assert_eq!(default_of(&chapters, "CONNECT_NAME"), None);
    }

    #[test]
    fn another_form_of_the_document_is_noticed() {
        for document in ["", "<!-- CONNECT_*: generated x -->\n", "| `CONNECT_A` | b | c | d |\n"] {
            assert!(read(document).is_err(), "{document}");
        }
    }
}
