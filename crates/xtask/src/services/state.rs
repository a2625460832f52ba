//! The servers that `cargo xtask services up` left running, written down for `down` and `status`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::proc;

/// A server that runs by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// When that process was started (see [`proc::started`]), so that another with its id is never taken for it.
    pub started: u64,
    /// Its data and log.
    pub directory: PathBuf,
}

impl Running {
    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        proc::started(self.pid) == Some(self.started)
    }
}

/// One server in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is: `kafka`, `redis`.
    pub name: String,
    /// The environment variable that tells a connector where it is, and the value: `CONNECT_REDIS_URL`, `redis://…`.
    pub variable: (String, String),
    /// Its process and directory.
    #[serde(flatten)]
    pub running: Running,
}

/// All servers in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// In the order in which they were started.
    pub servers: Vec<Entry>,
}

impl State {
    /// Reads the file; no file is no server.
    ///
    /// # Errors
    /// The file can't be read, or isn't ours.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.with_context(|| format!("can't read {}", path.display()))?,
        };
        serde_json::from_str(&text)
            .with_context(|| format!("{} isn't a list of servers; stop what it names and remove it", path.display()))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let next = path.with_extension("json.next");
        let text = serde_json::to_string_pretty(self)?;
        fs::write(&next, text)
            .and_then(|()| fs::rename(&next, path))
            .with_context(|| format!("can't write {}", path.display()))
    }

    /// The server of that name, if it runs.
    pub fn alive(&self, name: &str) -> Option<&Entry> {
        self.servers.iter().find(|entry| entry.name == name && entry.running.is_alive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: u32, started: u64) -> Entry {
        Entry {
            name: "redis".to_owned(),
            variable: ("CONNECT_REDIS_URL".to_owned(), "redis://127.0.0.1:1".to_owned()),
            running: Running { pid, started, directory: "/tmp/x".into() },
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert_eq!(State::read(&path).unwrap(), State::default());
        let state = State { servers: vec![entry(12, 34)] };
        state.write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), state);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        fs::write(&path, "{").unwrap();
        let error = State::read(&path).unwrap_err().to_string();
        assert!(error.contains("state.json"), "{error}");
    }

    #[test]
    fn a_process_with_the_same_id_but_another_start_is_not_it() {
        let pid = std::process::id();
        let started = proc::started(pid).unwrap();
        let state = |started| State { servers: vec![entry(pid, started)] };
        assert!(state(started).alive("redis").is_some());
        assert!(state(started + 1).alive("redis").is_none());
        assert!(state(started).alive("kafka").is_none());
    }
}
