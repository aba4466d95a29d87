//! Spans of time as people write them: `90`, `90s`, `10m`, `1h30m`, `2d`.

use std::time::Duration;

#[cfg(test)]
mod tests;

const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
const LONGEST: u64 = 30 * 86_400;

/// For clap.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("write a span like 90s, 10m, 1h30m; not {text:?}");
    let mut seconds: u64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..end].parse().map_err(|_| wrong())?;
        let mut after = rest[end..].chars();
        let size = match after.next() {
            // A bare number is seconds, and the last.
            None if text == rest => 1,
            None => return Err(wrong()),
            Some(unit) => {
                UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size).ok_or_else(wrong)?
            }
        };
        seconds = number.checked_mul(size).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        rest = after.as_str();
    }
    match seconds {
        1..=LONGEST => Ok(Duration::from_secs(seconds)),
        _ => Err("more than 0s and at most 30d".into()),
    }
}
