//! What is told at the end: a table for people, JSON for programs.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bars::Bar;
use crate::cli::Options;
use crate::memory::Memory;
use crate::neighbours::DISTURBING;
use crate::pin;
use crate::summary::{Figures, Spread};
use crate::works::{Path, Work};
use crate::yardstick;

mod table;

/// A path and work, with figures or with what went wrong.
#[derive(Debug)]
pub struct Row {
    /// Where.
    pub path: Path,
    /// What.
    pub work: Work,
    /// The figures, or why there are none.
    pub figures: Result<Figures, String>,
}

/// How a run came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every row was measured, and holds its bar.
    Good,
    /// Every row was measured, and one misses its bar.
    BarMissed,
    /// A row was not measured.
    Incomplete,
}

/// The row of memory.
#[derive(Debug)]
pub struct MemoryRow(pub Result<Memory, String>);

/// Under what circumstances the figures were taken.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Cores that the bench could use.
    pub cpus: usize,
    /// `uname -r`.
    pub kernel: String,
    /// Each node on a core of its own.
    pub pinned: bool,
    /// Rounds that count.
    pub rounds: u32,
    /// Seconds of a window.
    pub window_seconds: u32,
    /// No mesh was started: two equal sides.
    pub calibration: bool,
    /// Program and version that was measured beside, if one was.
    pub yardstick: Option<String>,
    /// Busy share of the machine before the run.
    pub idle_share: f64,
}

/// Everything.
#[derive(Debug)]
pub struct Report {
    conditions: Conditions,
    rows: Vec<Row>,
    memory: Option<MemoryRow>,
}

impl Conditions {
    /// Of this machine and run.
    pub fn of(options: &Options, idle_share: f64, yardstick: Option<String>) -> Result<Self> {
        let kernel =
            std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
        Ok(Self {
            cpus: pin::cores(),
            kernel: kernel.trim().to_owned(),
            pinned: options.pin,
            rounds: options.round_count(),
            window_seconds: options.window_seconds(),
            calibration: options.calibrate,
            yardstick,
            idle_share,
        })
    }
}

impl Row {
    /// One line, as soon as it is there.
    pub fn progress(&self) -> String {
        let Self { path, work, figures } = self;
        match figures {
            Ok(figures) => {
                let told =
                    |ratio: Spread| format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max);
                let beside =
                    figures.yardstick.map(|one| format!("; {} {}", yardstick::PROGRAM, told(one.ratio)));
                format!("{path:<10} {work:<12}  ratio {}{}", told(figures.ratio), beside.unwrap_or_default())
            }
            Err(error) => format!("{path:<10} {work:<12}  FAILED: {error}"),
        }
    }

    fn json(&self, bar: Option<Bar>) -> Value {
        let (path, work) = (self.path.to_string(), self.work.to_string());
        match &self.figures {
            Ok(figures) => {
                let mut row = json!({
                "path": path,
                "work": work,
                "direct": figures.direct,
                "weft": figures.weft,
                "ratio": figures.ratio,
                "cpu_per_unit": figures.cpu_per_unit,
                "unit": self.work.kind.cost_unit(),
                "p50_us": figures.p50_us,
                "p99_us": figures.p99_us,
                });
                if let Some(yardstick) = figures.yardstick {
                    row["yardstick"] = json!(yardstick);
                }
                if let Some(bar) = bar {
                    row["bar"] = json!(bar);
                    row["bar"]["held"] = bar.missed(self.work, figures).is_empty().into();
                }
                row
            }
            Err(error) => json!({ "path": path, "work": work, "error": error }),
        }
    }

    /// Share of the machine that was not ours in this row's windows.
    fn disturbance(&self) -> f64 {
        self.figures.as_ref().map_or(0.0, |figures| figures.others_share + figures.steal_share)
    }
}

impl MemoryRow {
    fn json(&self) -> Value {
        match &self.0 {
            Ok(memory) => json!({
                "path": "memory",
                "idle_rss_bytes": memory.idle_rss_bytes,
                "per_idle_connection_bytes": memory.per_idle_connection_bytes,
                "peak_rss_bytes": memory.peak_rss_bytes,
                "map_bytes": memory.map_bytes,
            }),
            Err(error) => json!({ "path": "memory", "error": error }),
        }
    }
}

impl Report {
    /// Puts it together.
    pub fn new(conditions: Conditions, rows: Vec<Row>, memory: Option<MemoryRow>) -> Self {
        Self { conditions, rows, memory }
    }

    /// How the run came out.
    pub fn outcome(&self) -> Outcome {
        let is_complete = self.rows.iter().all(|row| row.figures.is_ok())
            && self.memory.as_ref().is_none_or(|row| row.0.is_ok());
        match is_complete {
            false => Outcome::Incomplete,
            true if self.missed().next().is_some() => Outcome::BarMissed,
            true => Outcome::Good,
        }
    }

    /// What a row is held to. Two sides that are both outside the mesh are held to nothing.
    fn bar(&self, row: &Row) -> Option<Bar> {
        Bar::of(row.path, row.work).filter(|_| !self.conditions.calibration)
    }

    /// Rows that miss their bars, and what they miss.
    fn missed(&self) -> impl Iterator<Item = (&Row, Vec<String>)> {
        let of = |row: &Row| Some(self.bar(row)?.missed(row.work, row.figures.as_ref().ok()?));
        self.rows.iter().filter_map(move |row| Some((row, of(row)?))).filter(|(_, missed)| !missed.is_empty())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let conditions = &self.conditions;
        let rows = self.rows.iter().map(|row| row.json(self.bar(row)));
        let rows = rows.chain(self.memory.iter().map(MemoryRow::json));
        json!({
            "rows": rows.collect::<Vec<_>>(),
            "noise": self.noise(),
            "machine": { "cpus": conditions.cpus, "kernel": conditions.kernel },
            "run": {
                "pinned": conditions.pinned,
                "rounds": conditions.rounds,
                "window_seconds": conditions.window_seconds,
                "calibration": conditions.calibration,
                "yardstick": conditions.yardstick,
                "version": env!("CARGO_PKG_VERSION"),
            },
        })
    }

    fn noise(&self) -> Value {
        let measured =
            || self.rows.iter().filter_map(|row| row.figures.as_ref().ok().map(|figures| (row, figures)));
        let worst = |share: &dyn Fn(&Figures) -> f64| {
            measured().map(|(_, figures)| share(figures)).fold(0.0, f64::max)
        };
        let works = measured().map(|(row, figures)| {
            json!({
                "path": row.path.to_string(),
                "work": row.work.to_string(),
                "others_share": figures.others_share,
                "steal_share": figures.steal_share,
                "machine_cpu_per_unit": figures.machine_per_unit,
            })
        });
        json!({
            "idle_busy_share": self.conditions.idle_share,
            "worst_others_share": worst(&|figures| figures.others_share),
            "worst_steal_share": worst(&|figures| figures.steal_share),
            "threshold": DISTURBING,
            "quiet": self.disturbed().is_empty() && self.conditions.idle_share <= DISTURBING,
            "works": works.collect::<Vec<_>>(),
        })
    }

    /// Rows that were taken while others kept the machine busy.
    fn disturbed(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.disturbance() > DISTURBING).collect()
    }
}

/// Whether standard output is for a person.
pub fn coloured() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests;
