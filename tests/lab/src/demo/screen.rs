//! What a person sees: headings, steps with a tick or a cross, plain lines, one table.
//!
//! Invariants: no line is wider than [`WIDTH`] unless a single word is; without a terminal (or with `NO_COLOR`) there is
//! not one escape sequence; a reader that went away (`| head`) disturbs nothing; once Ctrl-C was pressed nothing is
//! written any more.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::signals;

#[cfg(test)]
mod tests;

/// Columns that every line fits in.
pub(super) const WIDTH: usize = 100;

/// How a piece of text is painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Headings.
    Bold,
    /// Of less weight.
    Dim,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// In plain text, as it is meant to be here.
    Warn,
    /// Who somebody is, or what to type.
    Name,
}

/// Paints or does not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colours: bool,
}

/// The terminal, and what was expected so far.
#[derive(Debug)]
pub(super) struct Screen {
    style: Style,
    /// Steps are announced before they are done, on a line that is then replaced.
    live: bool,
    started: Instant,
    /// There is a lab, and with it logs.
    has_logs: bool,
    expectations: usize,
    failed: Vec<String>,
}

impl Style {
    /// With colours or without.
    pub(super) fn new(colours: bool) -> Self {
        Self { colours }
    }

    /// `text` in a tone.
    pub(super) fn paint(self, tone: Tone, text: impl Display) -> String {
        let code = match tone {
            Tone::Plain => return text.to_string(),
            Tone::Bold => "1",
            Tone::Dim => "2",
            Tone::Good => "32",
            Tone::Bad => "1;31",
            Tone::Warn => "33",
            Tone::Name => "36",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

impl Screen {
    /// Standard output.
    pub(super) fn stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            style: Style::new(terminal && !dumb && !plain),
            live: terminal && !dumb,
            started: Instant::now(),
            has_logs: false,
            expectations: 0,
            failed: Vec::new(),
        }
    }

    /// How it paints.
    pub(super) fn style(&self) -> Style {
        self.style
    }

    /// Since the demo began.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// From now on there are logs to look at.
    pub(super) fn has_logs(&mut self) {
        self.has_logs = true;
    }

    /// A line.
    pub(super) fn line(&self, text: impl Display) {
        self.write(format_args!("{text}\n"));
    }

    /// A heading, with an empty line before it.
    pub(super) fn heading(&self, text: &str) {
        self.line(format_args!("\n{}", self.style.paint(Tone::Bold, text)));
    }

    /// Lines that explain, wrapped and indented.
    pub(super) fn note(&self, text: &str) {
        for line in wrap(text, WIDTH - 4) {
            self.line(format_args!("    {}", self.style.paint(Tone::Dim, line)));
        }
    }

    /// Whether somebody watches.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// A line that the next one takes the place of, for somebody who watches; nothing where nobody does.
    pub(super) fn status(&self, text: &str) {
        if self.live {
            self.write(format_args!(
                "\r\x1b[2K{}",
                if text.is_empty() {
                    String::new()
                } else {
                    format!("  {}", self.style.paint(Tone::Dim, text))
                }
            ));
        }
    }

    /// Does something that the rest depends on: announced, then ticked or crossed. `work` also returns what was done, in
    /// a few words.
    pub(super) fn step<T>(&mut self, doing: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        if self.live {
            self.write(format_args!("  {} {doing} …", self.style.paint(Tone::Dim, "•")));
        }
        let start = Instant::now();
        let outcome = work();
        if self.live {
            self.write(format_args!("\r\x1b[2K"));
        }
        self.expectations += 1;
        match outcome {
            Ok((value, done)) => {
                let took = format!("{:.1} s", start.elapsed().as_secs_f64());
                let gap = " ".repeat((WIDTH - 6).saturating_sub(width(&done) + width(&took)).max(1));
                let tick = self.style.paint(Tone::Good, "✓");
                self.line(format_args!("  {tick} {done}{gap}{}", self.style.paint(Tone::Dim, took)));
                Ok(value)
            }
            Err(error) => {
                self.cross(doing);
                Err(error)
            }
        }
    }

    /// Says whether something is as it should be; `else_why` only if it is not. The demo goes on, and fails at its end.
    pub(super) fn expect(&mut self, holds: bool, text: &str, else_why: impl FnOnce() -> String) {
        self.expectations += 1;
        if holds {
            self.line(format_args!("  {} {text}", self.style.paint(Tone::Good, "✓")));
            return;
        }
        self.cross(text);
        for line in wrap(&else_why(), WIDTH - 4) {
            self.line(format_args!("    {}", self.style.paint(Tone::Bad, line)));
        }
    }

    /// The last words, and the exit code. `broken`: what ended the demo before its time.
    pub(super) fn verdict(&self, broken: Option<anyhow::Error>, seconds: f64) -> ExitCode {
        let red = |text: String| self.style.paint(Tone::Bad, text);
        if let Some(error) = broken {
            self.line(format_args!("\n{}", red("The demo could not go on:".into())));
            for line in format!("{error:#}").lines() {
                self.line(format_args!("    {line}"));
            }
            if self.has_logs {
                self.line("");
                self.note("With WEFT_LAB_KEEP=1 in the environment the logs stay, in /tmp/weft-lab-*/logs.");
            }
            return ExitCode::FAILURE;
        }
        if self.failed.is_empty() {
            let text = format!("All {} expectations held, in {seconds:.1} seconds.", self.expectations);
            self.line(format_args!("\n{}", self.style.paint(Tone::Good, text)));
            return ExitCode::SUCCESS;
        }
        let text = format!("{} of {} expectations FAILED:", self.failed.len(), self.expectations);
        self.line(format_args!("\n{}", red(text)));
        for failed in &self.failed {
            self.line(format_args!("  {} {failed}", red("✗".into())));
        }
        ExitCode::FAILURE
    }

    fn cross(&mut self, text: &str) {
        self.line(format_args!(
            "  {} {}",
            self.style.paint(Tone::Bad, "✗"),
            self.style.paint(Tone::Bad, text)
        ));
        self.failed.push(text.to_owned());
    }

    fn write(&self, text: std::fmt::Arguments<'_>) {
        while signals::interrupted() {
            // The thread that takes the lab away ends the process.
            std::thread::park();
        }
        let mut out = std::io::stdout().lock();
        // Nobody reads any more: no reason to leave a lab behind.
        let _closed = out.write_fmt(text).and_then(|()| out.flush());
    }
}

/// Columns of a text: one for each character, which is right for all that is written here.
pub(super) fn width(text: &str) -> usize {
    text.chars().count()
}

/// Text in lines of at most `most` columns; line ends in it stay.
pub(super) fn wrap(text: &str, most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && width(&line) + 1 + width(word) > most {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

/// A table: columns as wide as their widest cell, two blanks between them, a rule below the headers.
pub(super) fn table(style: Style, headers: &[&str], rows: &[Vec<(Tone, String)>]) -> Vec<String> {
    let cell_width =
        |column: usize| rows.iter().filter_map(move |row| row.get(column)).map(|cell| width(&cell.1));
    let widths: Vec<usize> = (0..headers.len())
        .map(|column| cell_width(column).chain([width(headers[column])]).max().unwrap_or_default())
        .collect();
    let line = |cells: &mut dyn Iterator<Item = (Tone, &str)>| {
        let mut text = String::from(" ");
        for ((tone, cell), column) in cells.zip(&widths) {
            text.push_str(&format!(" {}{} ", style.paint(tone, cell), " ".repeat(column - width(cell))));
        }
        // Painted cells end in an escape sequence, so only blanks go.
        text.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headers.iter().map(|header| (Tone::Bold, *header)))];
    let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1));
    lines.push(format!("  {}", style.paint(Tone::Dim, rule)));
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(|(tone, text)| (*tone, text.as_str())))));
    lines
}

/// A number with its thousands apart.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
