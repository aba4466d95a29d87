//! Times as people write them in Kubernetes objects: `24h`, `90m`, `1h30m`, `45s`, `500ms`.

use std::time::Duration;

/// Milliseconds of each; what begins like another one comes first.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write a number with ms, s, m, h or d, for example 24h")]
pub struct NotADuration(pub String);

/// Reads a time: numbers, each with a unit (ms, s, m, h, d), added up.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let wrong = || NotADuration(text.into());
    let mut milliseconds = 0_u64;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let (unit, after) = UNITS
            .iter()
            .find_map(|(word, unit)| Some((*unit, tail.strip_prefix(word)?)))
            .ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = number.checked_mul(unit);
        milliseconds = part.and_then(|part| milliseconds.checked_add(part)).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests;
