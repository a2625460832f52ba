//! A section: a struct whose fields are variables.

use super::layers::Raw;
use super::{Layers, Origin, PREFIX, Problems, Setting};

/// A part of the configuration: made by [`section!`](crate::section).
pub trait Section: Sized + Send {
    /// What the variables begin with behind `CONNECT_`: `KAFKA`, or nothing.
    const PREFIX: &'static str;
    /// The doc comment of the struct: the opening of its chapter in the reference.
    const ABOUT: &'static str;

    /// The variables in the order of the fields.
    fn variables() -> Vec<Variable>;

    /// The variable of a field.
    fn variable(field: &str) -> Option<Variable> {
        Self::variables().into_iter().find(|variable| variable.field == field)
    }

    /// Reads every variable and applies every rule; `None` when a problem was reported that leaves no value.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;

    /// Reads this section alone from `(variable, value)` pairs: for tests.
    ///
    /// # Errors
    /// Everything that is wrong, names of other sections included.
    fn from_pairs(pairs: &[(&str, &str)]) -> Result<Self, Problems> {
        let layers = Layers::from_environment(pairs.iter().copied());
        let mut reader = Reader::new(&layers);
        let section = Self::read(&mut reader);
        reader.refuse_unknown(&Self::variables());
        let problems = reader.finish();
        section.filter(|_| problems.is_empty()).ok_or(problems)
    }
}

/// What the reference says about a variable.
#[derive(Clone, Debug)]
pub struct Variable {
    /// The field that it fills.
    pub field: &'static str,
    /// Its whole name: `CONNECT_KAFKA_BROKERS`.
    pub name: String,
    /// The doc comment.
    pub about: String,
    /// [`Setting::expected`].
    pub expected: String,
    /// The value where none is set, `None` for none.
    pub default: Option<&'static str>,
    /// It must be set.
    pub required: bool,
    /// It is never shown, and may come from a file.
    pub secret: bool,
    pub(super) show: fn(&str) -> String,
}

impl Variable {
    /// Describes the field `field` of type `T`.
    pub fn of<T: Setting>(prefix: &str, field: &'static str, about: &str, default: Option<&'static str>) -> Self {
        let separator = if prefix.is_empty() { "" } else { "_" };
        Self {
            field,
            name: format!("{PREFIX}{prefix}{separator}{}", field.to_uppercase()),
            about: about.lines().map(str::trim).collect::<Vec<_>>().join("\n"),
            expected: T::expected(),
            default,
            required: default.is_none() && T::unset().is_none(),
            secret: T::SECRET,
            show: T::show,
        }
    }

    /// The variable that names a file with this secret.
    pub fn file_name(&self) -> Option<String> {
        self.secret.then(|| format!("{}_FILE", self.name))
    }
}

/// Reads variables and gathers what is wrong with them.
pub struct Reader<'a> {
    layers: &'a Layers,
    problems: Problems,
}

impl<'a> Reader<'a> {
    pub(super) fn new(layers: &'a Layers) -> Self {
        let mut problems = Problems::default();
        layers.report_file(&mut problems);
        Self { layers, problems }
    }

    pub(super) fn finish(self) -> Problems {
        self.problems
    }

    /// The value of a field of `S`; `None` when a problem was reported.
    pub fn value<S: Section, T: Setting>(&mut self, field: &str) -> Option<T> {
        let variable = &S::variable(field)?;
        match find(self.layers, variable) {
            Err((name, origin, message)) => self.problems.add(&name, &origin, message),
            Ok(Some(Raw { text: Ok(text), origin })) => match T::parse(&text) {
                Ok(value) => return Some(value),
                Err(problem) => {
                    let got = if T::SECRET { String::new() } else { format!(", got {:?}", T::show(&text)) };
                    let problem = if problem.is_empty() { problem } else { format!(": {problem}") };
                    self.problems.add(&variable.name, &origin, format!("expected {}{got}{problem}", T::expected()));
                }
            },
            Ok(Some(Raw { text: Err(problem), origin })) => self.problems.add(&variable.name, &origin, problem),
            Ok(None) => {
                let unset = T::unset();
                // A file that couldn't be read may well have set it.
                if unset.is_none() && self.layers.file_problem.is_none() {
                    let message = format!("{} is required: expected {}", variable.name, T::expected());
                    self.problems.note(message);
                }
                return unset;
            }
        }
        None
    }

    /// The value of a field of another section, which reports on it: for rules across sections.
    pub(super) fn peek<S: Section, T: Setting>(&self, field: &str) -> Option<T> {
        let variable = &S::variable(field)?;
        let Ok(Some(Raw { text: Ok(text), .. })) = find(self.layers, variable) else { return T::unset() };
        T::parse(&text).ok()
    }

    /// The fields of `S` are right one by one but not together.
    pub fn conflict<S: Section>(&mut self, fields: &[&str], message: &str) {
        let variables = fields.iter().filter_map(|field| S::variable(field)).collect::<Vec<_>>();
        self.conflict_of(&variables, message);
    }

    /// The same for variables of several sections.
    pub(super) fn conflict_of(&mut self, variables: &[Variable], message: &str) {
        let mut places = Vec::new();
        for variable in variables {
            let place = match find(self.layers, variable) {
                Ok(Some(Raw { origin, .. })) => format!("{} ({origin})", variable.name),
                _ => format!("{} (not set)", variable.name),
            };
            places.push(place);
        }
        self.problems.note(format!("{}: {message}", places.join(", ")));
    }

    /// Reports every `CONNECT_` name that is set and not one of `known`.
    pub(super) fn refuse_unknown(&mut self, known: &[Variable]) {
        super::injected::refuse_unknown(self.layers, known, &mut self.problems);
    }
}

/// The text of a variable from the topmost place, its default included.
///
/// # Errors
/// The variable to blame, where it was set, and what is wrong with its secret's file.
pub(super) fn find(layers: &Layers, variable: &Variable) -> Result<Option<Raw>, (String, Origin, String)> {
    let direct = layers.values.get(&variable.name).cloned();
    if let Some(file_name) = variable.file_name()
        && let Some(Raw { text, origin }) = layers.values.get(&file_name).cloned()
    {
        let blame = |message: String| (file_name, origin, message);
        if let Some(direct) = direct {
            return Err(blame(format!("{} ({}) is set too: set one of the two", variable.name, direct.origin)));
        }
        let path = text.map_err(|problem| blame.clone()(problem.to_owned()))?;
        return read_secret(&path).map(Some).map_err(blame);
    }
    let default = variable.default.map(|text| Raw { text: Ok(text.to_owned()), origin: Origin::Default });
    Ok(direct.or(default))
}

/// The content of a mounted file without the line break at its end, which editors and `echo` leave there.
fn read_secret(path: &str) -> Result<Raw, String> {
    let content = std::fs::read(path).map_err(|error| format!("can't read {path:?}: {error}"))?;
    let content = String::from_utf8(content).map_err(|_| format!("{path:?} is not UTF-8"))?;
    let secret = content.strip_suffix('\n').map_or(content.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() {
        return Err(format!("{path:?} is empty: expected a secret"));
    }
    Ok(Raw { text: Ok(secret.to_owned()), origin: Origin::SecretFile(path.into()) })
}

/// Declares a section: a struct, its reference, and how it is read.
///
/// ```
/// use connect_core::config::{Section, SecretString};
/// use std::time::Duration;
///
/// connect_core::section! {
///     /// How records get into Fancy.
///     pub struct FancyConfig = "FANCY" {
///         /// Address of the server. Required, for it has no default and is no `Option`.
///         pub url: String,
///         /// How long a request may take.
///         pub timeout: Duration = "30s",
///         /// Name of the user.
///         pub username: Option<String>,
///         /// Password of the user.
///         pub password: Option<SecretString>,
///     }
///     // A rule sees its fields only when each of them could be read, and its message names their variables.
///     rule (username, password) {
///         (username.is_some() != password.is_some()).then(|| "set both or neither".to_owned())
///     }
/// }
///
/// let config = FancyConfig::from_pairs(&[("CONNECT_FANCY_URL", "fancy://here")]).expect("it is valid");
/// assert_eq!(config.timeout, Duration::from_secs(30));
/// let problems = FancyConfig::from_pairs(&[("CONNECT_FANCY_USERNAME", "me")]).expect_err("two things are missing");
/// assert_eq!(problems.lines().len(), 2);
/// ```
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $visibility:vis struct $name:ident = $prefix:literal {
            $(
                $(#[doc = $doc:literal])+
                $field_visibility:vis $field:ident: $type:ty $(= $default:literal)?
            ),+ $(,)?
        }
        $(rule ($($input:ident),+) $rule:block)*
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug)]
        $visibility struct $name {
            $($(#[doc = $doc])+ $field_visibility $field: $type),+
        }

        impl $crate::config::Section for $name {
            const PREFIX: &'static str = $prefix;
            const ABOUT: &'static str = concat!($($about, "\n"),+);

            fn variables() -> Vec<$crate::config::Variable> {
                vec![$({
                    let default: &[&'static str] = &[$($default)?];
                    let about = concat!($($doc, "\n"),+);
                    $crate::config::Variable::of::<$type>($prefix, stringify!($field), about, default.first().copied())
                }),+]
            }

            fn read(reader: &mut $crate::config::Reader<'_>) -> Option<Self> {
                $(let $field: Option<$type> = reader.value::<Self, _>(stringify!($field));)+
                $(
                    if let ($(Some($input),)+) = ($($input.as_ref(),)+) {
                        let rule = || -> Option<String> { $rule };
                        if let Some(message) = rule() {
                            reader.conflict::<Self>(&[$(stringify!($input)),+], &message);
                        }
                    }
                )*
                Some(Self { $($field: $field?),+ })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use secrecy::{ExposeSecret, SecretString};

    use super::*;

    section! {
        /// A section
        /// of two lines.
        struct Sample = "SAMPLE" {
            /// Must be set.
            url: String,
            /// Has a default.
            timeout: Duration = "30s",
            /// May be unset.
            port: Option<u16>,
            /// Is hidden.
            password: Option<SecretString>,
        }
        rule (port, password) {
            (port.is_some() != password.is_some()).then(|| "set both or neither".to_owned())
        }
    }

    fn lines(pairs: &[(&str, &str)]) -> Vec<String> {
        Sample::from_pairs(pairs).expect_err("problems").lines().to_vec()
    }

    fn file(content: &str) -> (tempfile::NamedTempFile, String) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), content).expect("writable");
        let path = file.path().to_str().expect("UTF-8").to_owned();
        (file, path)
    }

    #[test]
    fn defaults_fill_what_is_not_set() {
        let sample = Sample::from_pairs(&[("CONNECT_SAMPLE_URL", "x://y")]).expect("valid");
        assert_eq!(sample.url, "x://y");
        assert_eq!(sample.timeout, Duration::from_secs(30));
        assert_eq!(sample.port, None);
        assert!(sample.password.is_none());
    }

    #[test]
    fn everything_wrong_is_told_at_once_and_names_the_variable() {
        let lines = lines(&[
            ("CONNECT_SAMPLE_TIMEOUT", "30"),
            ("CONNECT_SAMPLE_PASSWORD", "hunter2"),
            ("CONNECT_SAMPLE_PORTS", "1"),
            ("CONNECT_WHATEVER", "1"),
        ]);
        let beginnings = [
            "CONNECT_SAMPLE_URL is required: expected text",
            "CONNECT_SAMPLE_TIMEOUT (environment): expected a duration such as `250ms`, `30s`, `5m` or `1h`, got \"30\": ",
            "CONNECT_SAMPLE_PORT (not set), CONNECT_SAMPLE_PASSWORD (environment): set both or neither",
            "CONNECT_SAMPLE_PORTS (environment): there is no such variable: did you mean CONNECT_SAMPLE_PORT?",
            "CONNECT_WHATEVER (environment): there is no such variable: unset it",
        ];
        assert_eq!(lines.len(), beginnings.len(), "{lines:#?}");
        for (line, beginning) in lines.iter().zip(beginnings) {
            assert!(line.starts_with(beginning), "{line}");
            assert!(!line.contains("hunter2"), "{line}");
        }
    }

    #[test]
    fn a_rule_waits_until_its_fields_are_right() {
        let lines = lines(&[("CONNECT_SAMPLE_URL", "x"), ("CONNECT_SAMPLE_PORT", "70000")]);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].starts_with("CONNECT_SAMPLE_PORT (environment): expected"), "{lines:#?}");
    }

    #[test]
    fn a_secret_may_come_from_a_file_less_the_last_line_break() {
        for (content, secret) in [("s\n", "s"), ("s\r\n", "s"), ("s", "s"), (" s \n\n", " s \n")] {
            let (_file, path) = file(content);
            let pairs =
                [("CONNECT_SAMPLE_URL", "x"), ("CONNECT_SAMPLE_PORT", "1"), ("CONNECT_SAMPLE_PASSWORD_FILE", &path)];
            let sample = Sample::from_pairs(&pairs).expect("valid");
            assert_eq!(sample.password.expect("set").expose_secret(), secret);
        }
    }

    #[test]
    fn a_secret_that_is_nowhere_or_twice_is_refused() {
        let (_empty, empty) = file("\n");
        let (_full, full) = file("hunter2");
        let directory = tempfile::tempdir().expect("a directory");
        let absent = directory.path().join("absent");
        let absent = absent.to_str().expect("UTF-8");
        let of_file = |path| [("CONNECT_SAMPLE_URL", "x"), ("CONNECT_SAMPLE_PASSWORD_FILE", path)];
        for (pairs, beginning) in [
            (of_file(&empty).to_vec(), "CONNECT_SAMPLE_PASSWORD_FILE (environment): "),
            (of_file(absent).to_vec(), "CONNECT_SAMPLE_PASSWORD_FILE (environment): can't read"),
            (
                [&of_file(&full)[..], &[("CONNECT_SAMPLE_PASSWORD", "hunter2")]].concat(),
                "CONNECT_SAMPLE_PASSWORD_FILE (environment): CONNECT_SAMPLE_PASSWORD (environment) is set too",
            ),
            (
                vec![("CONNECT_SAMPLE_URL", "x"), ("CONNECT_SAMPLE_PASSWORD", "")],
                "CONNECT_SAMPLE_PASSWORD (environment): expected a secret, not empty",
            ),
            (
                vec![("CONNECT_SAMPLE_URL", "x"), ("CONNECT_SAMPLE_URL_FILE", &full)],
                "CONNECT_SAMPLE_URL_FILE (environment): there is no such variable",
            ),
        ] {
            let lines = lines(&pairs);
            assert_eq!(lines.len(), 1, "{lines:#?}");
            assert!(lines[0].starts_with(beginning), "{lines:#?}");
            assert!(!lines[0].contains("hunter2"), "{lines:#?}");
        }
    }

    #[test]
    fn the_reference_is_the_doc_comment() {
        let timeout = Sample::variable("timeout").expect("a field");
        assert_eq!((timeout.name.as_str(), timeout.about.as_str()), ("CONNECT_SAMPLE_TIMEOUT", "Has a default."));
        assert_eq!((timeout.default, timeout.required, timeout.secret), (Some("30s"), false, false));
        let url = Sample::variable("url").expect("a field");
        assert!(url.required && url.file_name().is_none());
        let password = Sample::variable("password").expect("a field");
        assert_eq!(password.file_name().as_deref(), Some("CONNECT_SAMPLE_PASSWORD_FILE"));
        assert_eq!(Sample::ABOUT, " A section\n of two lines.\n");
    }

    proptest! {
        #[test]
        fn any_text_comes_through_unchanged(text in any::<String>(), secret in ".+") {
            let pairs = [
                ("CONNECT_SAMPLE_URL", text.as_str()),
                ("CONNECT_SAMPLE_PORT", "1"),
                ("CONNECT_SAMPLE_PASSWORD", secret.as_str()),
            ];
            let sample = Sample::from_pairs(&pairs).expect("valid");
            prop_assert_eq!(sample.url, text);
            let password = sample.password.expect("set");
            prop_assert_eq!(password.expose_secret(), secret.as_str());
        }
    }
}
