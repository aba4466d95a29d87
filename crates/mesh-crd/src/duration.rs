//! Times as people write them in Kubernetes objects: `24h`, `90m`, `1h30m`, `45s`.

use std::time::Duration;

/// Not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write a number with s, m, h or d, for example 24h")]
pub struct NotADuration(pub String);

/// Reads a time: numbers, each with a unit (s, m, h, d), added up.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let wrong = || NotADuration(text.into());
    let mut seconds = 0_u64;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let mut tail = tail.chars();
        let unit = match tail.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        seconds = number.checked_mul(unit).and_then(|s| seconds.checked_add(s)).ok_or_else(wrong)?;
        rest = tail.as_str();
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
