//! The table.

use std::fmt::Write as _;

use super::{Report, Row};
use crate::bars::Bar;
use crate::neighbours::DISTURBING;
use crate::summary::{Figures, Sides, Yardstick};

const HEADINGS: [&str; 16] = [
    "path",
    "work",
    "direct",
    "weft",
    "",
    "ratio",
    "min",
    "max",
    "bar",
    "agents' CPU",
    "haproxy",
    "its ratio",
    "its CPU",
    "machine's CPU",
    "p50 us",
    "p99 us",
];
/// Columns of words are flush left, columns of numbers flush right.
const LEFT: [usize; 4] = [0, 1, 4, 8];
/// Columns that are only there if the yardstick was measured.
const YARDSTICK: std::ops::Range<usize> = 10..13;
/// The column that is only there if a row has a bar.
const BAR: usize = 8;

impl Report {
    /// For people.
    pub fn table(&self, colours: bool) -> String {
        let paint = |code: &str, text: &str| {
            if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let mut text = String::from("\n");
        let of = |row: &Row| Some(cells(row, row.figures.as_ref().ok()?, self.bar(row)));
        let cells: Vec<[String; 16]> = self.rows.iter().filter_map(of).collect();
        let with_bars = cells.iter().any(|line| !line[BAR].is_empty());
        let all = || std::iter::once(HEADINGS.map(str::to_owned)).chain(cells.iter().cloned());
        let left_out = if self.conditions.yardstick.is_some() { 0..0 } else { YARDSTICK };
        let is_shown = |column: &usize| !left_out.contains(column) && (with_bars || *column != BAR);
        let mut widths = [0; 16];
        for line in all() {
            for (width, cell) in widths.iter_mut().zip(&line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for (number, line) in all().enumerate().filter(|_| !cells.is_empty()) {
            let shown = line.iter().zip(widths).enumerate().filter(|(column, _)| is_shown(column));
            let padded = shown.map(|(column, (cell, width))| {
                if LEFT.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            let line = padded.collect::<Vec<_>>().join("  ");
            let line = line.trim_end();
            let _ = writeln!(text, "{}", if number == 0 { paint("1", line) } else { line.to_owned() });
        }
        for row in &self.rows {
            if let Err(error) = &row.figures {
                // What programs wrote follows in further lines; it was shown when it happened.
                let first = error.lines().next().unwrap_or_default();
                let line = format!("{} {}: no figures: {first}", row.path, row.work);
                let _ = writeln!(text, "{}", paint("1;31", &line));
            }
        }
        for (row, missed) in self.missed() {
            let line = format!("{} {}: bar missed: {}", row.path, row.work, missed.join("; "));
            let _ = writeln!(text, "{}", paint("1;31", &line));
        }
        text.push_str(
            "ratio: weft to direct within a round (rr-1: of median times, so less is better; else of rates); direct, weft \
             and CPU: medians\nmachine's CPU and times: direct / weft\n",
        );
        if let Some(program) = &self.conditions.yardstick {
            let _ = writeln!(
                text,
                "yardstick: a pair of {program} under mutual TLS, in the same rounds; CPU of both in the unit of the agents'"
            );
        }
        if self.conditions.calibration {
            text.push_str("calibration: both sides are outside the mesh\n");
        }
        self.add_memory(&mut text, &paint);
        self.add_conditions(&mut text, &paint);
        text
    }

    fn add_memory(&self, text: &mut String, paint: &dyn Fn(&str, &str) -> String) {
        let line = match self.memory.as_ref().map(|row| &row.0) {
            None => return,
            Some(Ok(memory)) => format!(
                "memory: idle agent {:.1} MiB; per idle connection {:.1} KiB in both agents; peak {:.1} MiB; \
                 pinned maps {:.1} MiB",
                mib(memory.idle_rss_bytes),
                memory.per_idle_connection_bytes / 1024.0,
                mib(memory.peak_rss_bytes),
                mib(memory.map_bytes),
            ),
            Some(Err(error)) => paint("1;31", &format!("memory: no figures: {error}")),
        };
        let _ = writeln!(text, "\n{line}");
    }

    fn add_conditions(&self, text: &mut String, paint: &dyn Fn(&str, &str) -> String) {
        let conditions = &self.conditions;
        let _ = writeln!(
            text,
            "run: {} rounds of {} s; {} cores, {}; Linux {}",
            conditions.rounds,
            conditions.window_seconds,
            conditions.cpus,
            if conditions.pinned { "each node on one" } else { "not pinned" },
            conditions.kernel,
        );
        let worst = |share: &dyn Fn(&Figures) -> f64| {
            let shares = self.rows.iter().filter_map(|row| row.figures.as_ref().ok()).map(share);
            100.0 * shares.fold(0.0, f64::max)
        };
        let _ = writeln!(
            text,
            "noise: {:.1} % of the machine busy before the run; in the worst row, others used {:.1} % and the \
             hypervisor took {:.1} %",
            100.0 * conditions.idle_share,
            worst(&|figures| figures.others_share),
            worst(&|figures| figures.steal_share),
        );
        let mut loud: Vec<String> =
            self.disturbed().iter().map(|row| format!("{} {}", row.path, row.work)).collect();
        if loud.len() > 4 {
            loud = vec![format!("{} of {} rows", loud.len(), self.rows.len())];
        }
        if conditions.idle_share > DISTURBING {
            loud.insert(0, "before the run".to_owned());
        }
        if !loud.is_empty() {
            let percent = 100.0 * DISTURBING;
            let warning =
                format!("warning: others used more than {percent:.0} % of the machine: {}", loud.join(", "));
            let _ = writeln!(text, "{}", paint("33", &warning));
        }
    }
}

fn cells(row: &Row, figures: &Figures, bar: Option<Bar>) -> [String; 16] {
    let unit = row.work.kind.cost_unit();
    let beside =
        |value: &dyn Fn(Yardstick) -> String| figures.yardstick.map_or_else(|| "-".to_owned(), value);
    [
        row.path.to_string(),
        row.work.to_string(),
        number(figures.direct.median),
        number(figures.weft.median),
        row.work.figure_unit().to_owned(),
        format!("{:.2}", figures.ratio.median),
        format!("{:.2}", figures.ratio.min),
        format!("{:.2}", figures.ratio.max),
        bar.map_or_else(String::new, |bar| bar.ratio.to_string()),
        format!("{} {unit}", number(figures.cpu_per_unit.median)),
        beside(&|one| number(one.figure.median)),
        beside(&|one| format!("{:.2}", one.ratio.median)),
        beside(&|one| number(one.cpu_per_unit.median)),
        sides(figures.machine_per_unit),
        sides(figures.p50_us),
        sides(figures.p99_us),
    ]
}

fn sides(sides: Sides) -> String {
    match (sides.direct, sides.weft) {
        (Some(direct), Some(weft)) => format!("{} / {}", number(direct), number(weft)),
        _ => "-".to_owned(),
    }
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        below_ten if below_ten < 9.995 => format!("{value:.2}"),
        below_hundred if below_hundred < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
