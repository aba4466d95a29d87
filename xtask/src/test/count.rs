//! Counting: what a test program printed and the rows it filed, as one tally.
//!
//! libtest counts functions; a function may be a whole table. Such a test appends a line for every row to the file that
//! `WEFT_ROWS` names:
//!
//! ```text
//! pass|fail|skip <TAB> name of the test <TAB> name of the row <TAB> detail
//! ```
//!
//! A test that filed rows counts as its rows instead of itself. If it fails and none of its rows did, that is one
//! failure more. An ignored test is a skip, but for two reasons of ignoring: see [`is_no_skip`].
//!
//! Pure: text in, numbers out. The numbers come from libtest's closing line and the list of failures before it, which
//! stay whole whatever the tests print in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How many passed, failed and were skipped, and what there is to say about the last two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    /// A line for each failure.
    pub(super) failures: Vec<String>,
    /// A line for each skip, with its reason.
    pub(super) skips: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl Tally {
    /// One thing that passed.
    pub(super) fn pass() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// One failure.
    pub(super) fn failure(name: &str, detail: &str) -> Self {
        Self { failed: 1, failures: vec![line(name, detail)], ..Self::default() }
    }

    /// One skip.
    pub(super) fn skip(name: &str, detail: &str) -> Self {
        Self { skipped: 1, skips: vec![line(name, detail)], ..Self::default() }
    }

    /// Adds another one.
    pub(super) fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.passed + self.failed + self.skipped == 0
    }
}

fn line(name: &str, detail: &str) -> String {
    if detail.is_empty() { name.to_owned() } else { format!("{name}: {detail}") }
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Pass,
    Fail,
    Skip,
}

/// A line of the row file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) status: Status,
    pub(super) test: String,
    pub(super) name: String,
    pub(super) detail: String,
}

impl Row {
    /// Reads a line; `None` if it is none of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(4, '\t');
        let status = match fields.next()? {
            "pass" => Status::Pass,
            "fail" => Status::Fail,
            "skip" => Status::Skip,
            _ => return None,
        };
        let mut field = || fields.next().unwrap_or_default().trim().to_owned();
        Some(Self { status, test: field(), name: field(), detail: field() })
    }

    /// `test / row`.
    pub(super) fn title(&self) -> String {
        if self.name.is_empty() { self.test.clone() } else { format!("{} / {}", self.test, self.name) }
    }
}

/// What libtest itself said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Libtest {
    passed: u64,
    ignored: u64,
    /// Did it get to its closing line?
    complete: bool,
    failed: BTreeSet<String>,
    /// Ignored tests with the reason given.
    reasons: BTreeMap<String, String>,
}

impl Libtest {
    /// Reads the output of one test program, or of several one after another (doc tests).
    pub(super) fn parse(output: &str) -> Self {
        let mut seen = Self::default();
        let mut among_failures = false;
        for text in output.lines() {
            if let Some(result) = text.strip_prefix("test result: ") {
                let number = |word: &str| number_before(result, word);
                seen.passed += number(" passed");
                seen.ignored += number(" ignored");
                seen.complete = true;
                among_failures = false;
            } else if text == "failures:" {
                among_failures = true;
            } else if among_failures {
                // What failed tests printed comes under the same word, but with a blank line between; the names do not.
                match text.strip_prefix("    ") {
                    Some(name) => _ = seen.failed.insert(name.to_owned()),
                    None => among_failures = false,
                }
            } else if let Some((name, verdict)) = verdict(text) {
                if verdict == "FAILED" {
                    seen.failed.insert(name.to_owned());
                } else if let Some(reason) = verdict.strip_prefix("ignored") {
                    seen.reasons.insert(name.to_owned(), reason.trim_start_matches([',', ' ']).to_owned());
                }
            }
        }
        seen
    }
}

/// `test NAME ... VERDICT`.
fn verdict(text: &str) -> Option<(&str, &str)> {
    let (name, verdict) = text.strip_prefix("test ")?.split_once(" ... ")?;
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    Some((name, verdict))
}

fn number_before(text: &str, word: &str) -> u64 {
    let digits = text.split(word).next().unwrap_or_default();
    digits.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Does a row's test mean this function? Rows may leave out the module.
fn names(full: &str, test: &str) -> bool {
    full == test || full.strip_suffix(test).is_some_and(|module| module.ends_with("::"))
}

/// Reasons for ignoring that are no skip: `long` tests were not asked for, and what is `started by` others is a process
/// that they need and no test.
fn is_no_skip(reason: &str) -> bool {
    reason.starts_with("long") || reason.starts_with("started by")
}

/// One test program's tally. `end` says how it ended, if not with exit code 0.
pub(super) fn tally(program: &str, output: &str, rows: &[Row], end: Option<&str>) -> Tally {
    let libtest = Libtest::parse(output);
    let with_rows: BTreeSet<&str> = rows.iter().map(|row| row.test.as_str()).collect();
    let failing_rows: BTreeSet<&str> =
        rows.iter().filter(|row| row.status == Status::Fail).map(|row| row.test.as_str()).collect();
    let mut tally = Tally::default();

    let passed_with_rows =
        with_rows.iter().filter(|test| !libtest.failed.iter().any(|full| names(full, test)));
    tally.passed = libtest.passed.saturating_sub(passed_with_rows.count() as u64);
    for test in libtest.failed.iter().filter(|full| !failing_rows.iter().any(|test| names(full, test))) {
        tally.merge(Tally::failure(&format!("{program} {test}"), ""));
    }
    for row in rows {
        tally.merge(match row.status {
            Status::Pass => Tally::pass(),
            Status::Fail => Tally::failure(&format!("{program} {}", row.title()), &row.detail),
            Status::Skip => Tally::skip(&format!("{program} {}", row.title()), &row.detail),
        });
    }
    let named = libtest.reasons.len() as u64;
    for (test, reason) in libtest.reasons.iter().filter(|(_, reason)| !is_no_skip(reason)) {
        tally.merge(Tally::skip(&format!("{program} {test}"), reason));
    }
    for _ in named..libtest.ignored {
        tally.merge(Tally::skip(program, "an ignored test"));
    }
    if !libtest.complete {
        tally.merge(Tally::failure(program, end.unwrap_or("it ended before its tests did")));
    } else if let Some(end) = end
        && tally.failed == 0
    {
        tally.merge(Tally::failure(program, end));
    }
    tally
}

#[cfg(test)]
mod tests;
