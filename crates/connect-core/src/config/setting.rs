//! Types that a variable's text is parsed into.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use reqwest::Url;
use secrecy::SecretString;

/// A value that a variable can hold.
pub trait Setting: Sized {
    /// The text is never shown, and may come from the file that `<VARIABLE>_FILE` names.
    const SECRET: bool = false;

    /// What is expected, after the word "expected": `a duration such as 30s`. The reference and every error say it.
    fn expected() -> String;

    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong, where there is more to say than what is expected; may be empty. It never holds a secret.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value of a variable that is not set and has no default; `None` when it is required.
    fn unset() -> Option<Self> {
        None
    }

    /// The text as it may be shown.
    fn show(text: &str) -> String {
        text.to_owned()
    }
}

impl<T: Setting> Setting for Option<T> {
    const SECRET: bool = T::SECRET;

    fn expected() -> String {
        T::expected()
    }

    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }

    fn unset() -> Option<Self> {
        Some(None)
    }

    fn show(text: &str) -> String {
        T::show(text)
    }
}

/// Parses by `FromStr`: what most implementations of [`Setting::parse`] are.
///
/// # Errors
/// What `FromStr` says.
pub fn from_str<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Implements [`Setting`] by `FromStr`.
macro_rules! by_from_str {
    ($($type:ty: $expected:literal),* $(,)?) => {$(
        impl Setting for $type {
            fn expected() -> String {
                $expected.to_owned()
            }

            fn parse(text: &str) -> Result<Self, String> {
                from_str(text)
            }
        }
    )*};
}

by_from_str! {
    String: "text",
    bool: "`true` or `false`",
    u16: "a whole number from 0 to 65535",
    u32: "a whole number from 0",
    u64: "a whole number from 0",
    i64: "a whole number",
    NonZeroU16: "a whole number from 1 to 65535",
    NonZeroU32: "a whole number from 1",
    NonZeroUsize: "a whole number from 1",
    SocketAddr: "an IP address and a port such as `0.0.0.0:9464`",
    PathBuf: "a path",
    ByteSize: "a size such as `64MiB` or `1GiB`",
    HostPort: "a host and a port such as `kafka-0:9092`",
}

impl Setting for Duration {
    fn expected() -> String {
        "a duration such as `250ms`, `30s`, `5m` or `1h`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map_err(|error| error.to_string())
    }
}

impl Setting for SecretString {
    const SECRET: bool = true;

    fn expected() -> String {
        "a secret, not empty".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.into()) }
    }

    fn show(_: &str) -> String {
        "(secret)".to_owned()
    }
}

/// A file that could be opened when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(PathBuf);

impl Deref for FilePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for FilePath {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl Setting for FilePath {
    fn expected() -> String {
        "the path of a readable file".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let file = std::fs::File::open(&path).and_then(|file| file.metadata()).map_err(|error| error.to_string())?;
        if file.is_dir() { Err("it is a directory".to_owned()) } else { Ok(Self(path)) }
    }
}

/// The address of a server that speaks HTTP. Credentials do not belong into it: they have variables of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(pub Url);

impl Setting for HttpUrl {
    fn expected() -> String {
        "a URL such as `https://host:9200`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err("it must begin with http:// or https:// and a host".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "it holds credentials: set the variables that end in _USERNAME and _PASSWORD instead".to_owned()
            );
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("it must end with the host, the port or a path".to_owned());
        }
        Ok(Self(url))
    }

    fn show(text: &str) -> String {
        hide_credentials(text)
    }
}

/// A server's address. The name is looked up anew at each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an IP address; an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
        let port = port.parse::<NonZeroU16>().map_err(|_| "the port is not a number from 1 to 65535")?.get();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return Err("it has too many colons; an IPv6 address needs brackets: `[::1]:9092`");
        }
        let host = bare.unwrap_or(host);
        if host.is_empty() {
            return Err("the host is missing");
        }
        if host.contains(|letter: char| letter.is_whitespace() || "/@,?#[]".contains(letter)) {
            return Err("a host is a name or an IP address, without scheme, user or path");
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Values separated by commas; at least one. Space around them is no part of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(Vec<T>);

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Setting> Setting for List<T> {
    const SECRET: bool = T::SECRET;

    fn expected() -> String {
        format!("one or more, separated by commas, of: {}", T::expected())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut values = Vec::new();
        for (index, item) in text.split(',').map(str::trim).enumerate() {
            if item.is_empty() {
                return Err(format!("item {} is empty", index + 1));
            }
            let value = T::parse(item).map_err(|problem| format!("item {}: {problem}", index + 1))?;
            values.push(value);
        }
        Ok(Self(values))
    }

    fn show(text: &str) -> String {
        text.split(',').map(T::show).collect::<Vec<_>>().join(",")
    }
}

/// The choice that `text` names, whatever its case: what [`words!`](crate::words) parses by.
///
/// # Errors
/// An empty text: what is expected says it all.
pub fn word<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, choice)| *choice).ok_or_else(String::new)
}

/// Makes an enum a [`Setting`]: `words!(Tombstones { "delete" => Delete, "ignore" => Ignore });`
#[macro_export]
macro_rules! words {
    ($type:ident { $($word:literal => $choice:ident),+ $(,)? }) => {
        impl $crate::config::Setting for $type {
            fn expected() -> String {
                ["one of", $(concat!("`", $word, "`")),+].join(" ")
            }

            fn parse(text: &str) -> Result<Self, String> {
                $crate::config::word(text, &[$(($word, $type::$choice)),+])
            }
        }
    };
}

/// A URL without the password, or whatever stands between `//` and `@`: for [`Setting::show`].
pub fn hide_credentials(url: &str) -> String {
    let start = url.find("//").map_or(0, |slashes| slashes + 2);
    match url.rfind('@') {
        Some(at) if at > start => format!("{}(secret){}", &url[..start], &url[at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_are_hidden() {
        for (url, shown) in [
            ("redis://me:p@ss/w@host:1/2", "redis://(secret)@host:1/2"),
            ("redis://host:1", "redis://host:1"),
            ("me:hunter2@host", "(secret)@host"),
        ] {
            assert_eq!(hide_credentials(url), shown);
        }
    }

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(ByteSize::parse("64MiB"), Ok(ByteSize::mib(64)));
        assert_eq!(ByteSize::parse("1GiB"), Ok(ByteSize::gib(1)));
        for (text, milliseconds) in [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(Duration::parse(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in ["30", "", "s", "-1s", "1 fortnight"] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
        for text in ["yes", "1", "TRUE", ""] {
            assert!(bool::parse(text).is_err(), "{text}");
        }
    }
}
