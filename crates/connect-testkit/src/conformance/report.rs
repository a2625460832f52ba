//! What the checks found.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::timeout;

use super::harness::Promise;

/// No check takes longer.
const LONGEST: Duration = Duration::from_secs(120);

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The sink did what it must.
    Passed,
    /// The sink does not promise this, or the harness has no means to try it: nothing is said about it.
    NotPromised(String),
    /// The sink is wrong.
    Failed(String),
}

/// Why a check did not pass.
pub(super) enum Obstacle {
    NotPromised(&'static str),
    Failed(String),
}

impl From<String> for Obstacle {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

/// A check's result.
pub(super) type Checked = Result<(), Obstacle>;

/// The findings of all checks, in the order in which they were made. Displays as a table.
#[derive(Clone, Debug, Default)]
pub struct Report {
    findings: Vec<(&'static str, Finding)>,
}

impl Report {
    /// Name of each check and what it found.
    pub fn findings(&self) -> &[(&'static str, Finding)] {
        &self.findings
    }

    /// Whether no check failed.
    pub fn conforms(&self) -> bool {
        !self.findings.iter().any(|(_, finding)| matches!(finding, Finding::Failed(_)))
    }

    /// The checks about which nothing is said. Compare this with what you expect: a harness that lost its store's address
    /// makes fewer checks, and conforms.
    pub fn not_promised(&self) -> Vec<&'static str> {
        let left_out = self.findings.iter().filter(|(_, finding)| matches!(finding, Finding::NotPromised(_)));
        left_out.map(|(name, _)| *name).collect()
    }

    /// Prints the table, and fails the test when a check failed.
    ///
    /// # Panics
    /// When a check failed.
    #[track_caller]
    pub fn assert(&self) {
        println!("{self}");
        assert!(self.conforms(), "the sink does not conform; see the table above\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, finding) in &self.findings {
            match finding {
                Finding::Passed => writeln!(f, "{name:width$}  passed")?,
                Finding::NotPromised(why) => writeln!(f, "{name:width$}  not promised: {why}")?,
                Finding::Failed(message) => writeln!(f, "{name:width$}  FAILED: {message}")?,
            }
        }
        let count = |wanted: fn(&Finding) -> bool| self.findings.iter().filter(|(_, finding)| wanted(finding)).count();
        let passed = count(|finding| matches!(finding, Finding::Passed));
        let failed = count(|finding| matches!(finding, Finding::Failed(_)));
        write!(f, "{passed} passed, {failed} failed, {} not promised", self.findings.len() - passed - failed)
    }
}

/// Makes checks and notes what they find.
pub(super) struct Run<'a> {
    promises: &'a [Promise],
    report: Report,
}

impl<'a> Run<'a> {
    pub(super) fn new(promises: &'a [Promise]) -> Self {
        Self { promises, report: Report::default() }
    }

    /// Makes a check that every sink must pass.
    pub(super) async fn must(&mut self, name: &'static str, check: impl Future<Output = Checked>) {
        // Clients have large futures, and all checks together would not fit a test's stack.
        let check = AssertUnwindSafe(Box::pin(check)).catch_unwind();
        let finding = match timeout(LONGEST, check).await {
            Ok(Ok(Ok(()))) => Finding::Passed,
            Ok(Ok(Err(Obstacle::NotPromised(why)))) => Finding::NotPromised(why.to_owned()),
            Ok(Ok(Err(Obstacle::Failed(message)))) => Finding::Failed(message),
            Ok(Err(_)) => Finding::Failed("it panicked; the message is in the test's output".to_owned()),
            Err(_) => Finding::Failed(format!("no end within {LONGEST:?}")),
        };
        self.report.findings.push((name, finding));
    }

    /// Makes a check of something that the sink may have promised.
    pub(super) async fn promised(
        &mut self,
        promise: Promise,
        name: &'static str,
        check: impl Future<Output = Checked>,
    ) {
        if self.promises.contains(&promise) {
            return self.must(name, check).await;
        }
        let finding = Finding::NotPromised(format!("without Promise::{promise:?}"));
        self.report.findings.push((name, finding));
    }

    pub(super) fn report(self) -> Report {
        self.report
    }
}
