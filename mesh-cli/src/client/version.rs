//! Whether an end of another version is worth a word: answers may gain keys in any version, and a difference of the first two numbers
//! means that one of both does not know something of the other's.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::render::printable;

/// meshctl's own.
pub(crate) const OWN: &str = env!("CARGO_PKG_VERSION");
/// Ends that are named before the rest is counted.
const NAMED: usize = 3;

/// One line, or nothing where both are alike.
pub(super) fn warning(theirs: &str, ends: &BTreeSet<String>) -> Option<String> {
    let mut who: Vec<String> = ends.iter().take(NAMED).cloned().collect();
    if ends.len() > NAMED {
        who.push(format!("{} more", ends.len() - NAMED));
    }
    let what = match numbers(theirs)?.cmp(&numbers(OWN)?) {
        Ordering::Equal => return None,
        Ordering::Less => "older than this meshctl: it may not know what it is asked for",
        Ordering::Greater => "newer than this meshctl: what this meshctl does not know is in -o json alone",
    };
    Some(printable(&format!("warning: {} has version {theirs}, {what} ({OWN})", who.join(", "))))
}

/// `1.2.3` is (1, 2).
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
