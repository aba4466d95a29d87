//! What is told at the end: a table for people, JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::scrape::{Scrape, WORKLOADS};
use super::slices::{Slice, Taken};
use super::{Measured, WORK};
use crate::bars::Limit;
use crate::cli::ObserveOptions;
use crate::neighbours::DISTURBING;
use crate::pin;
use crate::report::Outcome;
use crate::summary::{Spread, sure};

/// CPU per connection with metrics to without.
const METRICS: f64 = 1.03;
/// With metrics and a line to without both.
const LINE: f64 = 1.10;
/// How often Prometheus comes.
const EVERY: Duration = Duration::from_secs(15);

/// Everything, of all rounds.
#[derive(Debug)]
pub struct Figures {
    /// Agents' CPU with everything off, in us/connection.
    off: Spread,
    /// Connections a second likewise.
    rate: Spread,
    /// The last slice of each round to the first, in both of which all was off.
    noise: Spread,
    rows: [Row; 2],
    direct: [Direct; 2],
    /// Per direct connection.
    direct_lines: f64,
    scrapes: [Scrape; 2],
    others_share: f64,
    steal_share: f64,
}

/// What something costs that agents do for each connection that they carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    name: &'static str,
    cpu_us: Spread,
    rate: Spread,
    ratio: Spread,
    /// Where the middle of many more rounds would be.
    sure: (f64, f64),
    limit: Limit,
}

/// Of direct connections.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Direct {
    name: &'static str,
    /// Of both agents, per connection.
    cpu_us: Spread,
    /// Connections a second.
    rate: Spread,
}

/// The figures, and under what circumstances they were taken.
#[derive(Debug)]
pub struct Report {
    options: ObserveOptions,
    kernel: String,
    idle_share: f64,
    figures: Result<Figures, String>,
}

/// CPU and rate of a mode in each round.
fn spreads(taken: &Taken, place: usize) -> (Spread, Spread) {
    (Spread::of(taken.of(place).map(Slice::cpu_us)), Spread::of(taken.of(place).map(Slice::rate)))
}

impl Figures {
    /// Of at least one round.
    pub fn of(measured: &Measured) -> Self {
        let Measured { carried, direct, scrapes, machine, others } = measured;
        let row = |name, place, limit| {
            let ratios = carried.of(place).zip(carried.of(0)).map(|(on, off)| on.cpu_us() / off.cpu_us());
            let (cpu_us, rate) = spreads(carried, place);
            let limit = Limit::AtMost(limit);
            Row { name, cpu_us, rate, ratio: Spread::of(ratios.clone()), sure: sure(ratios), limit }
        };
        let direct_row = |name, taken: &Taken| {
            let (cpu_us, rate) = spreads(taken, 0);
            Direct { name, cpu_us, rate }
        };
        let (off, rate) = spreads(carried, 0);
        let both = carried.rounds.iter().filter_map(|round| round.first().zip(round.last()));
        let total = machine.total.max(f64::MIN_POSITIVE);
        Self {
            off,
            rate,
            noise: Spread::of(both.map(|(first, last)| last.cpu_us() / first.cpu_us())),
            rows: [row("metrics", 1, METRICS), row("metrics, a line each", 2, LINE)],
            direct: [direct_row("direct, metrics", &direct[0]), direct_row("direct, lines", &direct[1])],
            direct_lines: direct[1].lines as f64 / direct[1].connections(0),
            scrapes: *scrapes,
            others_share: others / total,
            steal_share: machine.steal / total,
        }
    }

    fn add(&self, text: &mut String) {
        text.push_str(
            "across nodes              agents' CPU      conn/s   ratio  surely          min   max    bar\n",
        );
        let _ = writeln!(
            text,
            "{:<22}{:>8.2} us/conn {:>9.0}   {:>5.3}  {:14}  {:.3} {:.3}  (noise: off to off)",
            "off", self.off.median, self.rate.median, self.noise.median, "", self.noise.min, self.noise.max,
        );
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{:<22}{:>8.2} us/conn {:>9.0}   {:>5.3}  {:.3} to {:.3}  {:.3} {:.3}  {}: {}",
                row.name,
                row.cpu_us.median,
                row.rate.median,
                row.ratio.median,
                row.sure.0,
                row.sure.1,
                row.ratio.min,
                row.ratio.max,
                row.limit,
                row.verdict(),
            );
        }
        for direct in &self.direct {
            let _ = writeln!(
                text,
                "{:<22}{:>8.2} us/conn {:>9.0}",
                direct.name, direct.cpu_us.median, direct.rate.median,
            );
        }
        let _ = writeln!(text, "direct, lines: {:.2} for each connection", self.direct_lines);
        text.push_str(
            "ratio: CPU per connection to that of the same round with all off; surely: where the \
             middle of more rounds lies, in 19 of 20 runs\n\n\
             scrape                      series    of pairs       bytes       time      CPU   every 15 s\n",
        );
        let many = format!("{WORKLOADS} workloads");
        for (name, scrape) in [("these pods", &self.scrapes[0]), (&many, &self.scrapes[1])] {
            let _ = writeln!(
                text,
                "{name:<22}{:>12}{:>12}{:>12}{:>8.1} ms{:>6.1} ms   {:.2} % of a core",
                scrape.series,
                scrape.pair_series,
                scrape.bytes,
                scrape.millis.median,
                scrape.cpu_millis,
                100.0 * scrape.share(EVERY),
            );
        }
        let _ = writeln!(text, "series of pairs: {} at most\n", self.scrapes[1].max_series);
    }
}

impl Row {
    fn held(&self) -> bool {
        self.limit.holds(self.ratio.median)
    }

    /// Whether more rounds may say something else.
    fn is_sure(&self) -> bool {
        self.limit.holds(self.sure.0) == self.limit.holds(self.sure.1)
    }

    fn verdict(&self) -> String {
        let held = if self.held() { "held" } else { "MISSED" };
        if self.is_sure() {
            held.to_owned()
        } else {
            format!("{held}, but not surely: more rounds, or less noise")
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "path": "cross-node",
            "work": WORK.to_string(),
            "cpu_per_unit": self.cpu_us,
            "unit": WORK.kind.cost_unit(),
            "rate": self.rate,
            "ratio": self.ratio,
            "surely": { "min": self.sure.0, "max": self.sure.1 },
            "bar": { "ratio": self.limit, "held": self.held(), "is_sure": self.is_sure() },
        })
    }
}

impl Report {
    /// Puts it together.
    pub fn new(options: &ObserveOptions, idle_share: f64, figures: Result<Figures, String>) -> Result<Self> {
        let kernel =
            std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
        Ok(Self { options: options.clone(), kernel: kernel.trim().to_owned(), idle_share, figures })
    }

    /// How the run came out.
    pub fn outcome(&self) -> Outcome {
        match &self.figures {
            Err(_) => Outcome::Incomplete,
            Ok(figures) if figures.rows.iter().all(Row::held) => Outcome::Good,
            Ok(_) => Outcome::BarMissed,
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let options = &self.options;
        let mut text = String::from("\n");
        match &self.figures {
            Err(error) => {
                let _ = writeln!(text, "no figures: {}", error.lines().next().unwrap_or_default());
            }
            Ok(figures) => figures.add(&mut text),
        }
        let _ = writeln!(
            text,
            "run: {WORK}, {} rounds of six slices of {} ms; {} cores, {}; Linux {}",
            options.round_count(),
            options.millis,
            pin::cores(),
            if options.pin { "each node on one" } else { "not pinned" },
            self.kernel,
        );
        let (others, steal) = self.shares();
        let _ = writeln!(
            text,
            "noise: {:.1} % of the machine busy before the run; in it, others used {:.1} % and the hypervisor took {:.1} %",
            100.0 * self.idle_share,
            100.0 * others,
            100.0 * steal,
        );
        if !self.is_quiet() {
            let _ =
                writeln!(text, "warning: others used more than {:.0} % of the machine", 100.0 * DISTURBING);
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let options = &self.options;
        let (others, steal) = self.shares();
        let mut report = json!({
            "noise": {
                "idle_busy_share": self.idle_share,
                "others_share": others,
                "steal_share": steal,
                "threshold": DISTURBING,
                "quiet": self.is_quiet(),
            },
            "machine": { "cpus": pin::cores(), "kernel": self.kernel },
            "run": {
                "pinned": options.pin,
                "rounds": options.round_count(),
                "slice_ms": options.millis,
                "version": env!("CARGO_PKG_VERSION"),
            },
        });
        match &self.figures {
            Err(error) => report["error"] = json!(error),
            Ok(figures) => {
                report["off"] = json!({
                    "cpu_per_unit": figures.off, "rate": figures.rate, "ratio": figures.noise,
                });
                report["rows"] = figures.rows.iter().map(Row::json).collect();
                report["direct"] =
                    json!({ "rows": figures.direct, "lines_per_connection": figures.direct_lines });
                report["scrapes"] = json!({ "few": figures.scrapes[0], "many": figures.scrapes[1] });
            }
        }
        report
    }

    fn shares(&self) -> (f64, f64) {
        self.figures.as_ref().map_or((0.0, 0.0), |figures| (figures.others_share, figures.steal_share))
    }

    fn is_quiet(&self) -> bool {
        let (others, steal) = self.shares();
        others + steal <= DISTURBING && self.idle_share <= DISTURBING
    }
}

#[cfg(test)]
mod tests;
