//! What Prometheus has seen of the traffic: a row for each kind, held against what it should be.
//!
//! Invariant: nothing here looks at an agent. What a row says is what a dashboard would show.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::screen::{Screen, Style, Tone, table};
use crate::eventually;
use crate::prometheus::Client;

#[cfg(test)]
mod tests;

/// Rates are over this: some scrapes, and longer than the canary takes to come and go.
const WINDOW: &str = "[20s]";
/// As long, for the first look.
const FILLED: Duration = Duration::from_secs(20);
/// Until every kind of traffic is seen.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is to come of a pair's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// They come about.
    Works,
    /// Some do, some do not, and nobody forbids it.
    Fails,
    /// A policy refuses them all.
    Refused,
}

/// A kind of traffic.
#[derive(Clone, Copy, Debug)]
struct Pair {
    from: &'static str,
    to: &'static str,
    /// How it goes, in words.
    way: &'static str,
    /// Which series it is.
    labels: &'static str,
    outcome: Outcome,
}

const PAIRS: [Pair; 8] = [
    Pair {
        from: "shop/frontend",
        to: "shop/web",
        way: "mutual TLS",
        labels: r#"direction="outbound",security="mtls",source_workload="frontend",destination_workload="web""#,
        outcome: Outcome::Works,
    },
    Pair {
        from: "shop/frontend",
        to: "shop/web-canary",
        way: "mutual TLS",
        labels: r#"direction="outbound",security="mtls",source_workload="frontend",destination_workload="web-canary""#,
        outcome: Outcome::Fails,
    },
    Pair {
        from: "shop/frontend",
        to: "shop/db",
        way: "mutual TLS",
        labels: r#"direction="outbound",security="mtls",source_workload="frontend",destination_workload="db""#,
        outcome: Outcome::Works,
    },
    Pair {
        from: "shop/frontend",
        to: "shop/cart",
        way: "in the kernel",
        labels: r#"direction="outbound",security="kernel",source_workload="frontend",destination_workload="cart""#,
        outcome: Outcome::Works,
    },
    Pair {
        from: "shop/frontend",
        to: "outside",
        way: "left alone",
        labels: r#"direction="outbound",security="plaintext",source_workload="frontend""#,
        outcome: Outcome::Works,
    },
    Pair {
        from: "shop/mobile",
        to: "shop/web",
        way: "mutual TLS",
        labels: r#"direction="outbound",security="mtls",source_workload="mobile",destination_workload="web""#,
        outcome: Outcome::Works,
    },
    Pair {
        from: "shop/mobile",
        to: "shop/db",
        way: "refused",
        labels: r#"direction="outbound",source_workload="mobile",destination_workload="db""#,
        outcome: Outcome::Refused,
    },
    Pair {
        from: "legacy/batch",
        to: "shop/web",
        way: "plain text",
        labels: r#"direction="inbound",security="plaintext",destination_workload="web""#,
        outcome: Outcome::Works,
    },
];

/// What was seen of a pair: a second, over the last while.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    opened: f64,
    /// Those that were refused, did not reach their destination, or were not ended by one of their ends.
    failed: f64,
    /// Of those that failed: forbidden.
    denied: f64,
    bytes: f64,
    /// Half of the connects took no longer, in seconds.
    connect: Option<f64>,
    /// The most frequent one.
    reason: Option<String>,
}

impl Seen {
    fn of(client: &Client, labels: &str) -> Result<Self> {
        let value = |expression: String| -> Result<Option<f64>> {
            let found = client.query(&expression)?.first().map(|sample| sample.value);
            Ok(found.filter(|value| !value.is_nan()))
        };
        let rate = |metric: &str, more: &str| {
            value(format!("sum(rate({metric}{{{labels}{more}}}{WINDOW}))")).map(Option::unwrap_or_default)
        };
        let (failed, closed) = ("weft_connections_failed_total", "weft_connections_closed_total");
        let unclean = r#",reason!="clean""#;
        let by_reason =
            |metric: &str, more: &str| format!("sum by (reason) (rate({metric}{{{labels}{more}}}{WINDOW}))");
        let reasons = format!("topk(1, ({} or {}) > 0)", by_reason(failed, ""), by_reason(closed, unclean));
        let reason = client.query(&reasons)?.into_iter().next();
        let bucket = format!("rate(weft_connect_duration_seconds_bucket{{{labels}}}{WINDOW})");
        Ok(Self {
            opened: rate("weft_connections_opened_total", "")?,
            failed: rate(failed, "")? + rate(closed, unclean)?,
            denied: rate(failed, r#",verdict="denied""#)?,
            bytes: rate("weft_bytes_total", "")?,
            connect: value(format!("histogram_quantile(0.5, sum by (le) ({bucket}))"))?,
            reason: reason.and_then(|mut sample| sample.labels.remove("reason")),
        })
    }

    /// Why it is not what it should be, if it is not.
    fn wrong(&self, outcome: Outcome) -> Option<&'static str> {
        let allowed = self.failed - self.denied;
        match outcome {
            Outcome::Works if self.opened <= 0.0 => Some("no connection was opened"),
            Outcome::Works if self.bytes <= 0.0 => Some("not a byte was counted"),
            Outcome::Works if self.denied > 0.0 => Some("some are refused"),
            Outcome::Fails if self.opened <= 0.0 => Some("no connection was opened"),
            Outcome::Fails if allowed <= 0.0 => Some("none failed"),
            Outcome::Refused if self.denied <= 0.0 => Some("none was refused"),
            Outcome::Refused if self.opened > 0.0 => Some("some were let in"),
            _ => None,
        }
    }

    fn row(&self, pair: &Pair) -> Vec<(Tone, String)> {
        let number = |value: f64, tone| match value > 0.0 {
            true => (tone, format!("{value:.1}")),
            false => (Tone::Dim, "–".to_owned()),
        };
        let tone = match pair.way {
            "mutual TLS" | "in the kernel" => Tone::Good,
            "refused" => Tone::Bad,
            _ => Tone::Warn,
        };
        vec![
            (Tone::Plain, pair.from.to_owned()),
            (Tone::Plain, pair.to.to_owned()),
            (tone, pair.way.to_owned()),
            number(self.opened, Tone::Plain),
            number(self.failed, Tone::Bad),
            (Tone::Plain, human_bytes(self.bytes)),
            (Tone::Plain, self.connect.map_or_else(|| "–".to_owned(), human_seconds)),
            (Tone::Bad, self.reason.clone().unwrap_or_default()),
        ]
    }
}

/// Waits until every kind of traffic is there and rates are over all of their span, and shows it.
pub(super) fn await_all(screen: &mut Screen, client: &Client, started: Instant) -> Result<()> {
    let mut rows = Vec::new();
    // What is missing at the end shows below.
    let _timed_out = eventually(PATIENCE, || match look(client) {
        Ok(seen) => {
            rows = seen;
            screen.status(&format!("{} s of traffic …", started.elapsed().as_secs()));
            // Nothing is new before the next scrape.
            std::thread::sleep(Duration::from_millis(500));
            let whole = started.elapsed() >= FILLED && rows.iter().all(|(_, wrong, _)| wrong.is_none());
            if whole { Ok(()) } else { Err("not all".into()) }
        }
        Err(error) => Err(format!("{error:#}")),
    });
    screen.status("");
    judge(screen, &rows);
    Ok(())
}

/// Shows it as it is now.
pub(super) fn show(screen: &mut Screen, client: &Client) -> Result<()> {
    let rows = look(client)?;
    judge(screen, &rows);
    Ok(())
}

type Row = (Pair, Option<&'static str>, Seen);

fn look(client: &Client) -> Result<Vec<Row>> {
    let row = |pair: Pair| {
        let seen = Seen::of(client, pair.labels)?;
        Ok((pair, seen.wrong(pair.outcome), seen))
    };
    PAIRS.into_iter().map(row).collect()
}

fn lines(style: Style, rows: &[Row]) -> Vec<String> {
    let cells: Vec<_> = rows.iter().map(|(pair, _, seen)| seen.row(pair)).collect();
    table(style, &["FROM", "TO", "HOW", "NEW", "FAILED", "BYTES", "CONNECT", "WHY NOT"], &cells)
}

fn judge(screen: &mut Screen, rows: &[Row]) {
    for line in lines(screen.style(), rows) {
        screen.line(line);
    }
    screen.note(&format!(
        "NEW, FAILED, BYTES: a second, over {} seconds; CONNECT: half of the connects took no longer",
        WINDOW.trim_matches(['[', ']', 's'])
    ));
    let mut wrong = String::new();
    for (pair, why, _) in rows {
        if let Some(why) = why {
            let _ = writeln!(wrong, "{} → {} ({}): {why}", pair.from, pair.to, pair.way);
        }
    }
    if rows.is_empty() {
        wrong.push_str("Prometheus does not answer");
    }
    let text = format!("Prometheus has all {} kinds of traffic, each as it should be", PAIRS.len());
    screen.expect(wrong.is_empty(), &text, || wrong);
}

/// What goes on, in one line.
pub(super) fn in_short(client: &Client) -> Option<String> {
    let number = |expression: String| -> Option<f64> {
        client.query(&expression).ok().map(|samples| samples.first().map_or(0.0, |sample| sample.value))
    };
    let rate = |metric: &str, labels: &str| {
        number(format!("sum(rate({metric}{{direction=\"outbound\"{labels}}}{WINDOW}))"))
    };
    let failed = "weft_connections_failed_total";
    let broken = rate(failed, r#",verdict="allowed""#)?
        + rate("weft_connections_closed_total", r#",reason!="clean""#)?;
    Some(format!(
        "{:.1} new connections a second, {:.0} open; {:.1} a second refused by a policy, {broken:.1} failed",
        rate("weft_connections_opened_total", "")?,
        number("sum(weft_open_connections{direction=\"outbound\"})".to_owned())?,
        rate(failed, r#",verdict="denied""#)?,
    ))
}

fn human_bytes(bytes: f64) -> String {
    match bytes {
        _ if bytes <= 0.0 => "–".to_owned(),
        _ if bytes < 1024.0 => format!("{bytes:.0} B"),
        _ if bytes < 1024.0 * 1024.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{:.1} MiB", bytes / 1024.0 / 1024.0),
    }
}

fn human_seconds(seconds: f64) -> String {
    match seconds {
        _ if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        _ if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}
