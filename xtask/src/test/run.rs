//! Running one group: its programs one after another, each by itself, and what they came to.

use super::count::{Tally, tally};
use super::groups::Group;
use super::plan::{Program, Programs};
use super::watch::{Limits, Seen, Watched};
use super::{Args, unit};
use crate::paths::Workspace;
use crate::process;
use crate::ui::{self, say};
use anyhow::Result;
use std::process::Command;
use std::time::Instant;

/// Runs a group and counts.
pub(super) fn group(workspace: &Workspace, group: &Group, programs: &Programs, args: &Args) -> Result<Tally> {
    ui::heading(&format!("{}: {}", group.name, group.about));
    let since = Instant::now();
    let mut all = Tally::default();
    if group.packages.is_empty() && args.filter.is_none() {
        all.merge(unit::checks(workspace)?);
    }
    if let Some(why) = &programs.broken {
        all.merge(Tally::failure("build", why));
    }
    for program in programs.of(group) {
        if process::interrupted().is_some() {
            all.merge(Tally::failure(&program.title, "not run: interrupted"));
            continue;
        }
        all.merge(one(workspace, group, program, since, args)?);
    }
    if group.packages.is_empty() && args.filter.is_none() && process::interrupted().is_none() {
        all.merge(doc_tests(workspace, programs, since, args)?);
    }
    if all.is_empty() && args.filter.is_none() {
        all.merge(Tally::failure(group.name, "no test ran, which proves nothing"));
    }
    Ok(all)
}

fn one(
    workspace: &Workspace,
    group: &Group,
    program: &Program,
    since: Instant,
    args: &Args,
) -> Result<Tally> {
    let rows = workspace.scratch()?.join(format!("rows-{}", program.title.replace('/', "-")));
    let mut command = process::command(&program.executable);
    command
        .current_dir(&program.directory)
        .env("CARGO_MANIFEST_DIR", &program.directory)
        .env("CARGO_PKG_NAME", &program.package)
        .env("WEFT_ROWS", &rows)
        .env("RUST_BACKTRACE", std::env::var_os("RUST_BACKTRACE").unwrap_or_else(|| "1".into()));
    libtest_arguments(&mut command, args);
    let watched = Watched {
        title: &program.title,
        rows: &rows,
        since,
        limits: limits(args),
        verbose: args.verbose,
        live: group.privileged,
    };
    let started = Instant::now();
    let seen = watched.run(&mut command)?;
    let count = counted(&program.title, &seen);
    let ended_early =
        process::interrupted().is_some() || seen.end.as_ref().is_some_and(|end| end.contains("ended"));
    if group.privileged && (ended_early || !seen.left.is_empty()) {
        sweep(workspace);
    }
    report(&program.title, &seen, &count, started, args);
    Ok(count)
}

fn limits(args: &Args) -> Limits {
    if args.long { Limits::LONG } else { Limits::GROUP }
}

fn libtest_arguments(command: &mut Command, args: &Args) {
    if let Some(filter) = &args.filter {
        command.arg(filter);
    }
    if args.long {
        command.arg("--include-ignored").env("WEFT_LONG", "1");
    }
    if args.verbose {
        command.arg("--nocapture");
    }
    if let Some(threads) = args.threads {
        command.args(["--test-threads", &threads.to_string()]);
    }
}

fn counted(title: &str, seen: &Seen) -> Tally {
    let mut count = tally(title, &seen.output, &seen.rows, seen.end.as_deref());
    for process in &seen.left {
        count.merge(Tally::failure(title, &format!("left a process running: {process}")));
    }
    count
}

/// One line if all is well, everything that it printed if not.
fn report(title: &str, seen: &Seen, count: &Tally, started: Instant, args: &Args) {
    if count.is_empty() {
        return;
    }
    if count.failed > 0 && !args.verbose {
        say!("{}", seen.output);
    }
    let word = if count.failed > 0 { ui::red("fail") } else { ui::green("ok  ") };
    say!("{word}  {title:<28} {count} ({:.1} s)", started.elapsed().as_secs_f64());
}

fn doc_tests(workspace: &Workspace, programs: &Programs, since: Instant, args: &Args) -> Result<Tally> {
    let Some(mut command) = unit::doc_tests(workspace, programs.rest())? else {
        return Ok(Tally::default());
    };
    let rows = workspace.scratch()?.join("rows-doc");
    let watched = Watched {
        title: "doc tests",
        rows: &rows,
        since,
        limits: limits(args),
        verbose: args.verbose,
        live: false,
    };
    let started = Instant::now();
    let seen = watched.run(&mut command)?;
    let count = unit::doc_tally(&seen.output, seen.end.as_deref());
    report("doc tests", &seen, &count, started, args);
    Ok(count)
}

/// Lets the lab remove what an interrupted test may have left: namespaces, cgroups, pins.
fn sweep(workspace: &Workspace) {
    let lab = workspace.program("weft-lab");
    if !lab.is_file() {
        return;
    }
    let swept = process::command(&lab).arg("sweep").status();
    if !swept.is_ok_and(|status| status.success()) {
        say!("{} `{} sweep` could not remove everything", ui::red("leftovers:"), lab.display());
    }
}
