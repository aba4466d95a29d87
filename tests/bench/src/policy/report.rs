//! What is told at the end: a table for people, JSON for programs.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::switch::{Cost, Taken};
use super::{Block, Measured};
use crate::bars::Limit;
use crate::cli::PolicyOptions;
use crate::neighbours::DISTURBING;
use crate::pin;
use crate::report::Outcome;
use crate::summary::Spread;
use crate::window::Window;
use crate::works::{Kind, Work};

/// What of the empty world's rate must be left in the full one.
const LEFT: f64 = 0.95;

/// Everything, of all rounds.
#[derive(Debug)]
pub struct Figures {
    rows: Vec<Row>,
    world: Spread,
    last_in_table: Spread,
    last_enforced: Spread,
    before: Cost,
    filled: Cost,
    after: Cost,
}

/// A value of each world.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Worlds<T> {
    /// In the empty one.
    pub empty: T,
    /// In the full one.
    pub full: T,
}

/// What a work came to.
#[derive(Clone, Debug)]
pub struct Row {
    work: Work,
    /// In [`Work::figure_unit`].
    figure: Worlds<Spread>,
    /// Full to empty of each round.
    ratio: Spread,
    /// Empty after to empty before of each round.
    noise: Spread,
    /// Agents' CPU, in the kind's cost unit.
    cpu_per_unit: Worlds<Spread>,
    /// Medians over the windows.
    p50_us: Worlds<Option<f64>>,
    p99_us: Worlds<Option<f64>>,
    others_share: f64,
    steal_share: f64,
}

/// What a row of connections is held to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bar {
    ratio: Limit,
    /// What is lost must not be told from noise: the furthest that two empty worlds of a round were apart.
    loss: Limit,
    held: bool,
}

/// The figures, and under what circumstances they were taken.
#[derive(Debug)]
pub struct Report {
    options: PolicyOptions,
    kernel: String,
    idle_share: f64,
    figures: Result<Figures, String>,
}

impl Figures {
    /// Of at least one round.
    pub fn of(works: &[Work], measured: &Measured) -> Self {
        let millis = |time: &dyn Fn(&Taken) -> std::time::Duration| {
            Spread::of(measured.taken.iter().map(|taken| time(taken).as_secs_f64() * 1e3))
        };
        let rows = works.iter().enumerate().map(|(column, &work)| {
            let of = |blocks: &[Block]| -> Vec<Window> {
                blocks.iter().filter_map(|block| block.get(column).copied()).collect()
            };
            Row::of(work, &of(&measured.empty), &of(&measured.full))
        });
        Self {
            rows: rows.collect(),
            world: millis(&|taken| taken.world),
            last_in_table: millis(&|taken| taken.last_in_table),
            last_enforced: millis(&|taken| taken.last_enforced),
            before: measured.before.clone(),
            filled: measured.filled.clone(),
            after: measured.after.clone(),
        }
    }
}

impl Row {
    /// Of one more window in the empty world than in the full one.
    fn of(work: Work, empty: &[Window], full: &[Window]) -> Self {
        let figure = |window: &Window| window.figure(work);
        let cost = |window: &Window| work.kind.cost(window.relays_cpu.as_secs_f64(), window.measure.units);
        let worlds = |value: &dyn Fn(&Window) -> f64| Worlds {
            empty: Spread::of(empty.iter().map(value)),
            full: Spread::of(full.iter().map(value)),
        };
        let times = |value: &dyn Fn(&Window) -> Option<f64>| {
            let median = |windows: &[Window]| {
                let middle = Spread::of(windows.iter().filter_map(value)).median;
                middle.is_finite().then_some(middle)
            };
            Worlds { empty: median(empty), full: median(full) }
        };
        let around = || empty.windows(2).filter_map(<[Window]>::first_chunk::<2>);
        let ratios = around()
            .zip(full)
            .map(|([before, after], full)| figure(full) / f64::midpoint(figure(before), figure(after)));
        let all = || empty.iter().chain(full);
        let total = all().map(|window| window.machine.total).sum::<f64>().max(f64::MIN_POSITIVE);
        Self {
            work,
            figure: worlds(&figure),
            ratio: Spread::of(ratios),
            noise: Spread::of(around().map(|[before, after]| figure(after) / figure(before))),
            cpu_per_unit: worlds(&cost),
            p50_us: times(&|window| window.measure.p50_us),
            p99_us: times(&|window| window.measure.p99_us),
            others_share: all().map(|window| window.others).sum::<f64>() / total,
            steal_share: all().map(|window| window.machine.steal).sum::<f64>() / total,
        }
    }

    /// What it is held to, and whether it holds it.
    pub fn bar(&self) -> Option<Bar> {
        if self.work.kind != Kind::Connect {
            return None;
        }
        let noise = (1.0 - self.noise.min).abs().max((self.noise.max - 1.0).abs());
        let (ratio, loss) = (Limit::AtLeast(LEFT), Limit::AtMost(noise));
        let middle = self.ratio.median;
        Some(Bar { ratio, loss, held: ratio.holds(middle) && loss.holds(1.0 - middle) })
    }

    fn json(&self) -> Value {
        let mut row = json!({
            "path": "same-node",
            "work": self.work.to_string(),
            "empty": self.figure.empty,
            "full": self.figure.full,
            "ratio": self.ratio,
            "noise": self.noise,
            "cpu_per_unit": self.cpu_per_unit,
            "unit": self.work.kind.cost_unit(),
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
        });
        if let Some(bar) = self.bar() {
            row["bar"] = json!(bar);
        }
        row
    }

    fn line(&self) -> String {
        let bar = match self.bar() {
            None => String::new(),
            Some(bar) => {
                format!("  {}, loss {}: {}", bar.ratio, bar.loss, if bar.held { "held" } else { "MISSED" })
            }
        };
        format!(
            "{:<10} {:>9.0} {:>9.0} {:<7} {:>5.3} {:>5.3} {:>5.3}   {:.3} to {:.3}  {:>8.3} / {:.3} {}{bar}",
            self.work.to_string(),
            self.figure.empty.median,
            self.figure.full.median,
            self.work.figure_unit(),
            self.ratio.median,
            self.ratio.min,
            self.ratio.max,
            self.noise.min,
            self.noise.max,
            self.cpu_per_unit.empty.median,
            self.cpu_per_unit.full.median,
            self.work.kind.cost_unit(),
        )
    }
}

impl Report {
    /// Puts it together.
    pub fn new(options: &PolicyOptions, idle_share: f64, figures: Result<Figures, String>) -> Result<Self> {
        let kernel =
            std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
        Ok(Self { options: options.clone(), kernel: kernel.trim().to_owned(), idle_share, figures })
    }

    /// How the run came out.
    pub fn outcome(&self) -> Outcome {
        let held = |row: &Row| row.bar().is_none_or(|bar| bar.held);
        match &self.figures {
            Err(_) => Outcome::Incomplete,
            Ok(figures) if figures.rows.iter().all(held) => Outcome::Good,
            Ok(_) => Outcome::BarMissed,
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let options = &self.options;
        let mut text =
            format!("\nfull: {} pods of other nodes, {} policies\n", options.workloads, options.policies);
        match &self.figures {
            Err(error) => {
                let _ = writeln!(text, "no figures: {}", error.lines().next().unwrap_or_default());
            }
            Ok(figures) => figures.add(&mut text),
        }
        let _ = writeln!(
            text,
            "run: {} rounds of {} s; {} cores, {}; Linux {}",
            options.round_count(),
            options.window_seconds(),
            pin::cores(),
            if options.pin { "each node on one" } else { "not pinned" },
            self.kernel,
        );
        let (others, steal) = self.shares();
        let _ = writeln!(
            text,
            "noise: {:.1} % of the machine busy before the run; in the worst row, others used {:.1} % and the \
             hypervisor took {:.1} %",
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
                "worst_others_share": others,
                "worst_steal_share": steal,
                "threshold": DISTURBING,
                "quiet": self.is_quiet(),
            },
            "machine": { "cpus": pin::cores(), "kernel": self.kernel },
            "run": {
                "pinned": options.pin,
                "rounds": options.round_count(),
                "window_seconds": options.window_seconds(),
                "workloads": options.workloads,
                "policies": options.policies,
                "version": env!("CARGO_PKG_VERSION"),
            },
        });
        match &self.figures {
            Err(error) => report["error"] = json!(error),
            Ok(figures) => {
                report["rows"] = figures.rows.iter().map(Row::json).collect();
                report["in_force_ms"] = json!({
                    "world": figures.world,
                    "last_policy_in_table": figures.last_in_table,
                    "last_policy_enforced": figures.last_enforced,
                });
                report["cost"] = json!({
                    "before": figures.before, "full": figures.filled, "after": figures.after,
                });
            }
        }
        report
    }

    /// The worst row's.
    fn shares(&self) -> (f64, f64) {
        let rows = self.figures.as_ref().map_or(&[][..], |figures| &figures.rows);
        let worst = |share: fn(&Row) -> f64| rows.iter().map(share).fold(0.0, f64::max);
        (worst(|row| row.others_share), worst(|row| row.steal_share))
    }

    fn is_quiet(&self) -> bool {
        let (others, steal) = self.shares();
        others + steal <= DISTURBING && self.idle_share <= DISTURBING
    }
}

impl Figures {
    fn add(&self, text: &mut String) {
        text.push_str(
            "work           empty      full         ratio   min   max   noise           agents' CPU\n",
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", row.line());
        }
        text.push_str(
            "ratio: full to the empty worlds around it (rr-1: of median times, so less is better); noise: empty after to \
             empty before\nagents' CPU: empty / full\n\n",
        );
        let told =
            |spread: Spread| format!("{:.0} ms ({:.0} to {:.0})", spread.median, spread.min, spread.max);
        let _ =
            writeln!(text, "the world in force:       {} after its first file was written", told(self.world));
        let _ = writeln!(
            text,
            "the last policy in force: {} in the node's table, {} on every node as the controller says",
            told(self.last_in_table),
            told(self.last_enforced)
        );
        let _ = writeln!(text, "\n{:<28}{:>12}{:>12}{:>12}", "node a", "before", "full", "after");
        let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let mut line = |name: &str, cell: &dyn Fn(&Cost) -> String| {
            let cells = [&self.before, &self.filled, &self.after].map(cell);
            let _ = writeln!(text, "{name:<28}{:>12}{:>12}{:>12}", cells[0], cells[1], cells[2]);
        };
        line("agent, resident", &|cost| mebibytes(cost.rss_bytes));
        line("kernel, all pinned maps", &|cost| mebibytes(cost.map_bytes));
        for (name, map) in &self.filled.maps {
            let cell = |cost: &Cost, value: &dyn Fn(&super::switch::MapCost) -> String| {
                cost.maps.get(name).map_or_else(|| "-".to_owned(), value)
            };
            // Those that the world is in, or that it has made larger.
            if self.before.maps.get(name) == Some(map) {
                continue;
            }
            line(&format!("  {name}, memory"), &|cost| cell(cost, &|map| mebibytes(map.bytes)));
            if map.entries.is_some() {
                let entries = |map: &super::switch::MapCost| map.entries.unwrap_or_default().to_string();
                line(&format!("  {name}, entries"), &|cost| cell(cost, &entries));
            }
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests;
