//! The shape of a preflight: a list of named checks, each with what to do about it.
//!
//! The agent runs its checks at start and answers `meshctl check` with the same [`Report`]. The checks themselves are
//! the agent's: they probe the kernel. A warning is something that works, but worse than it could; only a failure
//! makes a report not ok.

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be.
    Pass,
    /// Works, but something is missing or worse than it could be.
    Warn,
    /// Cannot work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A short snake_case word, unique in a report.
    pub name: String,
    /// How it came out.
    pub status: CheckStatus,
    /// What was found, in one line.
    pub message: String,
    /// What to do about it; `null` where nothing is to be done.
    pub remedy: Option<String>,
}

/// All checks of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// No check failed.
    pub ok: bool,
    /// In the order they were made.
    pub checks: Vec<Check>,
}

impl CheckStatus {
    /// The word used in JSON, tables and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Check {
    /// As it should be.
    pub fn pass(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), status: CheckStatus::Pass, message: message.into(), remedy: None }
    }

    /// Works, but worse than it could.
    pub fn warn(name: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status: CheckStatus::Warn,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// Cannot work.
    pub fn fail(name: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status: CheckStatus::Fail,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }
}

impl Report {
    /// Sums up.
    pub fn new(checks: Vec<Check>) -> Self {
        Self { ok: checks.iter().all(|check| check.status != CheckStatus::Fail), checks }
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.status == CheckStatus::Fail)
    }
}

impl FromIterator<Check> for Report {
    fn from_iter<I: IntoIterator<Item = Check>>(checks: I) -> Self {
        Self::new(checks.into_iter().collect())
    }
}
