//! `meshctl`: asks agents, or the controller, at their admin ends (or the cluster's API), and prints the answer.
//!
//! ```text
//! args ──▶ commands/VERB ──▶ client (HTTP over a unix socket, mutual TLS, or the cluster) ──▶ render ──▶ stdout, exit code
//! ```
//!
//! Exit codes, the same for every verb: 0 yes, 1 no or failed, 2 usage, 3 unreachable. Invariants: standard output
//! carries the answer and nothing else, notes and errors go to standard error; what comes from the socket is never
//! written to a terminal with control characters in it. Not here: any decision about the mesh; meshctl shows what an
//! agent decided.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

mod args;
mod client;
mod cluster;
mod commands;
mod render;

use args::Args;
use commands::{Answer, Failure};

fn main() -> ExitCode {
    let args = Args::parse();
    let style = render::Style {
        colours: !args.global.no_color
            && mesh_telemetry::logs::colours(
                io::stdout().is_terminal(),
                std::env::var("NO_COLOR").ok().as_deref(),
                std::env::var("TERM").ok().as_deref(),
            ),
        width: width(),
        ..render::Style::default()
    };
    let outcome = commands::run(&args, style);
    outcome.warnings.iter().for_each(|warning| say(warning));
    match outcome.result {
        Ok(answer) => print(&answer),
        Err(failure) => fail(&failure),
    }
}

/// Columns of the terminal that standard output is, now.
fn width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
    Some(width.0.into()).filter(|width| *width > 0)
}

fn print(answer: &Answer) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(answer.stdout.as_bytes()).and_then(|()| stdout.flush());
    if !answer.note.is_empty() {
        say(&answer.note);
    }
    match written {
        Ok(()) => ExitCode::from(answer.exit_code),
        // `meshctl pods | head -1`: the reader has what it wanted, and the answer is still the answer.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(answer.exit_code),
        Err(error) => fail(&Failure::Output(error)),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    say(&commands::complaint(failure));
    ExitCode::from(failure.exit_code())
}

/// For people, on standard error. Not `eprintln!`, which panics where that is closed; and whatever an end has put into it, no terminal
/// takes it for anything but text.
fn say(text: &str) {
    for line in text.lines() {
        let _ = writeln!(io::stderr(), "{}", render::printable(line));
    }
}
