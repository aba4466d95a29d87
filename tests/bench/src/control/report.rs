//! What is told at the end: a table for people, JSON for programs.

use anyhow::Result;
use serde_json::{Value, json};

use super::phases::Figures;
use crate::pin;

/// One line of the table: what it is, and its cell.
type Line = (&'static str, fn(&Figures) -> String);

const LINES: [Line; 19] = [
    ("controller: start until it listens", |it| seconds(it.load_ms)),
    ("  CPU of that", |it| seconds(it.load_cpu_s * 1e3)),
    ("  peak memory of that", |it| mebibytes(it.load_peak_rss)),
    ("controller: memory with 20 agents", |it| mebibytes(it.rss)),
    ("  CPU while idle", |it| format!("{:.2} %", it.idle_cpu_share * 100.0)),
    ("one agent: bytes of the whole world", |it| kibibytes(it.snapshot_bytes)),
    ("  bytes of one change", |it| format!("{} B", it.change_bytes)),
    ("  memory for each workload", |it| format!("{:.0} B", it.agent_bytes_per_workload)),
    ("change until 20 agents applied it: p50", |it| format!("{:.1} ms", it.change_p50_ms)),
    ("  p99", |it| format!("{:.1} ms", it.change_p99_ms)),
    ("  longest", |it| format!("{:.1} ms", it.change_max_ms)),
    ("  controller's CPU for one", |it| format!("{:.2} ms", it.change_cpu_ms)),
    ("100 new agents at once: all whole after", |it| seconds(it.cold.whole_ms)),
    ("  controller's CPU", |it| seconds(it.cold.cpu_s * 1e3)),
    ("  controller's peak memory", |it| mebibytes(it.cold.peak_rss)),
    ("100 agents after a restart: all whole after", |it| seconds(it.returned.whole_ms)),
    ("  controller's CPU", |it| seconds(it.returned.cpu_s * 1e3)),
    ("  controller's peak memory", |it| mebibytes(it.returned.peak_rss)),
    ("  bytes of one agent", |it| format!("{} B", it.returned.bytes)),
];

/// Everything, by size.
#[derive(Debug, Default)]
pub struct Report {
    sizes: Vec<(u32, Result<Figures, String>)>,
}

impl Report {
    /// Adds a size's figures, or why there are none.
    pub fn add(&mut self, workloads: u32, figures: Result<Figures, String>) {
        self.sizes.push((workloads, figures));
    }

    /// Whether every size has its figures.
    pub fn is_complete(&self) -> bool {
        self.sizes.iter().all(|(_, figures)| figures.is_ok())
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!("\n{:<46}", "workloads");
        self.sizes.iter().for_each(|(workloads, _)| text.push_str(&format!("{workloads:>12}")));
        text.push('\n');
        for (name, cell) in LINES {
            text.push_str(&format!("{name:<46}"));
            for (_, figures) in &self.sizes {
                let cell = figures.as_ref().map_or_else(|_| "-".into(), cell);
                text.push_str(&format!("{cell:>12}"));
            }
            text.push('\n');
        }
        for (workloads, figures) in &self.sizes {
            if let Err(error) = figures {
                text.push_str(&format!("{workloads} workloads: no figures: {error}\n"));
            }
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Result<Value> {
        let sizes = self.sizes.iter().map(|(workloads, figures)| -> Result<Value> {
            Ok(match figures {
                Ok(figures) => json!({ "workloads": workloads, "figures": serde_json::to_value(figures)? }),
                Err(error) => json!({ "workloads": workloads, "error": error }),
            })
        });
        Ok(json!({
            "sizes": sizes.collect::<Result<Vec<_>>>()?,
            "machine": { "cpus": pin::cores() },
            "run": { "home": "directory", "version": env!("CARGO_PKG_VERSION") },
        }))
    }
}

fn seconds(millis: f64) -> String {
    format!("{:.2} s", millis / 1e3)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn kibibytes(bytes: u64) -> String {
    format!("{:.0} KiB", bytes as f64 / 1024.0)
}
