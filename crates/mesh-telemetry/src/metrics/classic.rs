//! OpenMetrics text rewritten as Prometheus text 0.0.4.
//!
//! The two differ in few things: a counter's family name carries `_total` (and an info's `_info`), `info` and
//! `unknown` are other types, exemplars and units do not exist, and there is no end mark. Everything else passes as it
//! is. The input is our own encoder's output: HELP comes right before TYPE.

use std::fmt::Write;

pub(super) fn rewrite(openmetrics: &str) -> String {
    let mut classic = String::with_capacity(openmetrics.len());
    // The type decides the name in the HELP line above it.
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = Some(text);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|text| text.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, text)) = help.take().and_then(|help| help.split_once(' ')) {
                // Writing to a String does not fail.
                let _ = writeln!(classic, "# HELP {name}{suffix} {text}");
            }
            let _ = writeln!(classic, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            classic.push_str(without_exemplar(line));
            classic.push('\n');
        }
    }
    classic
}

/// Cuts ` # {…} …` off a sample line. A label's value may contain the same characters, so labels are skipped first.
fn without_exemplar(sample: &str) -> &str {
    let after_labels = end_of_labels(sample);
    match sample[after_labels..].find(" # ") {
        Some(at) => &sample[..after_labels + at],
        None => sample,
    }
}

fn end_of_labels(sample: &str) -> usize {
    // A brace behind the first blank is the exemplar's.
    let Some(open) = sample.find(['{', ' ']).filter(|at| sample[*at..].starts_with('{')) else { return 0 };
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in sample.bytes().enumerate().skip(open + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return at + 1,
            _ => {}
        }
    }
    sample.len()
}
