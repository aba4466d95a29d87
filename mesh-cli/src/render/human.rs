//! Quantities for people. JSON carries the exact ones.

use std::collections::BTreeMap;
use std::fmt::Display;

use mesh_telemetry::api::Timestamp;

/// Bytes in powers of 1024, as Kubernetes writes them: `512`, `1.5Ki`, `20Mi`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let (mut value, mut unit) = (count as f64, 0);
    // 1023.5 of a unit would be written as 1024 of it.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$}{}", UNITS[unit])
}

/// A duration in its two largest units: `42s`, `3m7s`, `5h`, `2d4h`.
pub(crate) fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = UNITS.iter().position(|(size, _)| seconds >= *size) else { return "0s".into() };
    let mut rest = seconds;
    let mut text = String::new();
    for (size, unit) in UNITS.iter().skip(first).take(2) {
        if rest >= *size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    text
}

/// How far a moment is from now: `in 11h`, `5m ago`, `now`.
pub(crate) fn relative(moment: Timestamp, now: Timestamp) -> String {
    let distance = duration(moment.unix().abs_diff(now.unix()));
    match moment.cmp(&now) {
        std::cmp::Ordering::Greater => format!("in {distance}"),
        std::cmp::Ordering::Less => format!("{distance} ago"),
        std::cmp::Ordering::Equal => "now".into(),
    }
}

/// `1 pod`, `2 pods`.
pub(crate) fn count(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Whether a name may be what was meant by another.
pub(crate) fn is_like(known: &str, wanted: &str) -> bool {
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    strsim::jaro_winkler(&last(known), &last(wanted)) > 0.8
}

/// `a, b`.
pub(crate) fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}

/// `unknown_pod 3, not_ready 1`, the most frequent first, zeros left out.
pub(crate) fn counts<K: Display + Ord>(counts: &BTreeMap<K, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    list(counts.into_iter().map(|(key, count)| format!("{key} {count}")))
}
