//! The index of errors: every word that Weft says in a log line, a label, a condition or an Event when something is not as it
//! should be, with what lies behind it and what to do.
//!
//! ```text
//! Reason (connections, pods) ─┐
//! conditions, Events ─────────┼─▶ all ─▶ find(word): meshctl explain-error
//! callers of the controller ──┘     └──▶ document: docs/errors.md
//! ```
//!
//! Invariants: a word stands in it once; words are stable, and one that is not said any more goes.

use crate::Reason;

mod document;
mod others;
#[cfg(test)]
mod tests;

pub use document::document;

/// A word of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// As it is said.
    pub word: &'static str,
    /// Where it is said.
    pub seen: &'static str,
    /// What it means, in a sentence.
    pub meaning: &'static str,
    /// What lies behind it.
    pub cause: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
    /// What the application sees whose connection it is; `None` where it is about no connection.
    pub client_sees: Option<&'static str>,
}

impl From<Reason> for Code {
    fn from(reason: Reason) -> Self {
        Self {
            word: reason.as_str(),
            seen: reason.topic().seen(),
            meaning: reason.meaning(),
            cause: reason.cause(),
            remedy: reason.remedy(),
            client_sees: Some(reason.client_sees()),
        }
    }
}

/// All of them: the reasons by topic, then the rest.
pub fn all() -> impl Iterator<Item = Code> {
    reasons().chain(others::GROUPS.iter().flat_map(|(_, codes)| codes.iter().copied()))
}

fn reasons() -> impl Iterator<Item = Code> {
    let of = |topic| Reason::ALL.iter().filter(move |reason| reason.topic() == topic);
    crate::Topic::ALL.into_iter().flat_map(of).map(|reason| Code::from(*reason))
}

/// The one of a word, in whatever case it was typed.
pub fn find(word: &str) -> Option<Code> {
    all().find(|code| code.word.eq_ignore_ascii_case(word))
}
