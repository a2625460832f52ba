//! The layers of a configuration as raw text by variable name: a TOML file under the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

use super::{PREFIX, Problems};

/// The variable that names the TOML file.
const FILE: &str = "CONNECT_CONFIG";

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default of the reference.
    Default,
    /// In the TOML file that `CONNECT_CONFIG` names.
    File(PathBuf),
    /// In the environment of the process.
    Environment,
    /// In a file that the variable with `_FILE` behind its name points to.
    SecretFile(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::SecretFile(path) => write!(f, "secret file {}", path.display()),
        }
    }
}

/// A value as it was written, `Err` with what is wrong when it is not text. No `Debug`: it may be a secret.
#[derive(Clone)]
pub(super) struct Raw {
    pub(super) text: Result<String, &'static str>,
    pub(super) origin: Origin,
}

/// Every `CONNECT_` variable that is set, each from the topmost layer that sets it.
#[derive(Clone, Default)]
pub struct Layers {
    pub(super) values: BTreeMap<String, Raw>,
    /// Why the file could not be read. What it would have set is unknown then.
    pub(super) file_problem: Option<(Origin, String)>,
}

impl Layers {
    /// Reads the environment of this process, and the file that it names.
    pub fn from_process() -> Self {
        Self::from_environment(std::env::vars_os())
    }

    /// The same for variables given: for tests, and for programs that keep their settings elsewhere.
    pub fn from_environment<N: Into<OsString>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let environment = Environment::new(variables);
        let file = environment.text(FILE).map(|path| File { path: PathBuf::from(path) });
        let Some(file) = file else { return Self::from_figment(Figment::from(environment)) };
        // A file that can't be read must not hide what is wrong with the environment.
        if let Err(error) = file.data() {
            let mut layers = Self::from_figment(Figment::from(environment));
            layers.file_problem = Some((Origin::Environment, without_excerpt(&error.to_string())));
            return layers;
        }
        Self::from_figment(Figment::from(file).merge(environment))
    }

    fn from_figment(figment: Figment) -> Self {
        let mut values = BTreeMap::new();
        for (name, value) in figment.data().unwrap_or_default().into_values().flatten() {
            let origin = figment.get_metadata(value.tag()).and_then(|metadata| metadata.source.as_ref()?.file_path());
            let origin = origin.map_or(Origin::Environment, |path| Origin::File(path.to_owned()));
            values.insert(name, Raw { text: text(&value), origin });
        }
        Self { values, file_problem: None }
    }

    pub(super) fn report_file(&self, problems: &mut Problems) {
        if let Some((origin, message)) = &self.file_problem {
            problems.add(FILE, origin, message);
        }
    }
}

/// The parser's message without the lines that it quotes: they may hold a secret.
fn without_excerpt(message: &str) -> String {
    let lines = message
        .lines()
        .filter(|line| !line.trim_start().trim_start_matches(char::is_numeric).trim_start().starts_with('|'));
    lines.collect::<Vec<_>>().join(": ")
}

/// Texts are taken as they are. A file may also say a number, a boolean, or a list of these.
fn text(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::String(_, text) => Ok(text.clone()),
        Value::Char(_, text) => Ok(text.to_string()),
        Value::Bool(_, truth) => Ok(truth.to_string()),
        // A TOML whole number is an i64, any other number a float.
        Value::Num(_, number) => match (number.to_i128(), number.to_f64()) {
            (Some(whole), _) => Ok(whole.to_string()),
            (None, Some(fraction)) => Ok(fraction.to_string()),
            (None, None) => Err("expected a number of at most 64 bits"),
        },
        Value::Array(_, items) => {
            let items: Result<Vec<_>, _> = items.iter().map(text).collect();
            Ok(items?.join(","))
        }
        Value::Empty(..) => Err("is not UTF-8"),
        Value::Dict(..) => Err("expected text, a number, a boolean or a list of these, not a table"),
    }
}

/// Variables as the process got them. figment's own `Env` guesses types: a password `007` or `true` would not survive.
struct Environment {
    /// `None`: not UTF-8.
    variables: Vec<(String, Option<String>)>,
}

impl Environment {
    fn new<N: Into<OsString>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut ours = Vec::new();
        for (name, value) in variables {
            let name = name.into().to_string_lossy().into_owned();
            if name.starts_with(PREFIX) {
                ours.push((name, value.into().into_string().ok()));
            }
        }
        Self { variables: ours }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(variable, _)| variable == name)?.1.as_deref()
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let variables = self.variables.iter().map(|(name, value)| {
            let value = match value {
                Some(text) => Value::from(text.as_str()),
                None => Value::from(figment::value::Empty::None),
            };
            (name.clone(), value)
        });
        Ok(Profile::Default.collect(variables.collect()))
    }
}

/// A TOML file whose key `kafka.sasl.password`, in whatever tables, is the variable `CONNECT_KAFKA_SASL_PASSWORD`.
struct File {
    path: PathBuf,
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::from("file", self.path.as_path() as &Path)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut variables = Dict::new();
        for tables in Toml::file_exact(&self.path).data()?.into_values() {
            flatten(PREFIX, tables, &mut variables).map_err(Error::from)?;
        }
        Ok(Profile::Default.collect(variables))
    }
}

fn flatten(prefix: &str, tables: Dict, variables: &mut Dict) -> Result<(), String> {
    for (key, value) in tables {
        let name = format!("{prefix}{}", key.to_uppercase().replace('-', "_"));
        match value {
            Value::Dict(_, inner) => flatten(&format!("{name}_"), inner, variables)?,
            value => {
                if variables.insert(name.clone(), value).is_some() {
                    return Err(format!("{name} is set twice, in two tables"));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn with_file(content: &str, variables: &[(&str, &str)]) -> Layers {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), content).expect("writable");
        let file_variable = (OsString::from(FILE), file.path().as_os_str().to_owned());
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Layers::from_environment(variables.chain([file_variable]))
    }

    fn get<'a>(layers: &'a Layers, name: &str) -> &'a str {
        layers.values[name].text.as_deref().expect("text")
    }

    #[test]
    fn what_looks_like_another_type_stays_text() {
        for text in
            ["12345", "007", "true", "1e3", "0x1F", "[1, 2]", "{a=1}", "\"quoted\"", " spaces ", "a,b", "", "'", "\\n"]
        {
            let layers = Layers::from_environment([("CONNECT_X", text)]);
            assert_eq!(get(&layers, "CONNECT_X"), text);
        }
    }

    #[test]
    fn the_environment_covers_the_file() {
        let content = "name = 'file'\nrate = 5\n[kafka]\ntopics = ['a', 'b']\n[kafka.sasl]\npassword = '007'\n";
        let layers = with_file(content, &[("CONNECT_NAME", "environment"), ("OTHER", "ignored")]);
        assert_eq!(get(&layers, "CONNECT_NAME"), "environment");
        assert_eq!(layers.values["CONNECT_NAME"].origin, Origin::Environment);
        assert_eq!(get(&layers, "CONNECT_RATE"), "5");
        assert!(matches!(layers.values["CONNECT_RATE"].origin, Origin::File(_)));
        assert_eq!(get(&layers, "CONNECT_KAFKA_TOPICS"), "a,b");
        assert_eq!(get(&layers, "CONNECT_KAFKA_SASL_PASSWORD"), "007");
        assert!(!layers.values.contains_key("OTHER"));
        assert!(layers.file_problem.is_none());
    }

    #[test]
    fn a_bad_file_is_a_problem_that_shows_no_secret_and_hides_no_variable() {
        for content in ["password = hunter2\n", "password = 'hunter2\n", "a.b = 'hunter2'\na_b = 'hunter2'\n"] {
            let layers = with_file(content, &[("CONNECT_NAME", "x")]);
            assert_eq!(get(&layers, "CONNECT_NAME"), "x");
            let (_, message) = layers.file_problem.expect("a problem");
            assert!(!message.contains("hunter2"), "{message}");
        }
        let layers = Layers::from_environment([(FILE, "/nowhere/at/all.toml"), ("CONNECT_NAME", "x")]);
        assert!(layers.file_problem.is_some());
        assert_eq!(get(&layers, "CONNECT_NAME"), "x");
    }

    #[test]
    fn what_is_not_text_says_so() {
        let layers = Layers::from_environment([(OsString::from("CONNECT_X"), OsString::from_vec(vec![0xff]))]);
        assert_eq!(layers.values["CONNECT_X"].text, Err("is not UTF-8"));
        let layers = with_file("x = [{ a = 1 }]\n", &[]);
        assert!(layers.values["CONNECT_X"].text.is_err());
    }
}
