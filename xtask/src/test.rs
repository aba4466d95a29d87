//! `cargo xtask test`: builds, runs groups of tests, counts, and leaves nothing behind.
//!
//! ```text
//! groups ─► can they run here? ─► setup, build-ebpf ─► cargo build (once, for all) ─► run each test program ─► count
//!                                                                                   └► rows it wrote (WEFT_ROWS)
//! ```
//!
//! xtask runs the test programs itself, not `cargo test`: so it knows which program wrote which row, can end a whole
//! tree of processes, and sees what a test left running.
//!
//! Invariants: each group that was asked for ends with exactly one line `GROUP: N passed, N failed, N skipped`, also
//! when it could not run or was interrupted; a group in which nothing ran has failed; with `CI=true` a skip is a failure
//! of the run.

mod count;
mod groups;
mod plan;
mod run;
mod unit;
mod watch;

use crate::apiserver;
use crate::build_ebpf;
use crate::paths::Workspace;
use crate::process;
use crate::setup::{self, Need};
use crate::ui::{self, say};
use anyhow::Result;
use count::Tally;
use groups::{GROUPS, Group};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Groups to run; all of them if none is named
    groups: Vec<String>,
    /// Name the groups and do nothing else
    #[arg(long)]
    list: bool,
    /// Also run what takes longer than a group's five minutes
    #[arg(long)]
    long: bool,
    /// Run only tests whose name contains this
    #[arg(long, value_name = "STR")]
    filter: Option<String>,
    /// Show all that the tests print
    #[arg(long, short)]
    verbose: bool,
    /// Tests at a time within a test program [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// How a group ended.
struct Outcome {
    group: &'static Group,
    tally: Tally,
    took: Duration,
}

/// `cargo xtask test`.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    if args.list {
        GROUPS.iter().for_each(|group| say!("{}", group.name));
        return Ok(ExitCode::SUCCESS);
    }
    let groups = match groups::select(&args.groups) {
        Ok(groups) => groups,
        Err(unknown) => {
            eprintln!("{} there is no group {unknown:?}; the groups are", ui::red("error:"));
            GROUPS.iter().for_each(|group| eprintln!("  {:<10} {}", group.name, group.about));
            return Ok(ExitCode::from(2));
        }
    };
    process::watch_signals()?;
    process::adopt_orphans()?;
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");

    let blocked = prepare(workspace, &groups, ci);
    let able: Vec<&Group> = groups.iter().copied().filter(|group| blocked.of(group).is_none()).collect();
    let api = able.iter().any(|group| group.needs_kube()).then(|| apiserver::start(workspace));
    let programs = plan::build(workspace, &able, groups.len() == GROUPS.len());
    // Before the first test: what runs between tests is taken for left over by one, and reaped.
    let api_is_built = api.is_some_and(|build| is_built(workspace, build));

    let mut outcomes = Vec::new();
    for group in groups {
        let started = Instant::now();
        let tally = match (blocked.of(group), &programs) {
            (Some(tally), _) => tally.clone(),
            (None, Err(error)) => Tally::failure("build", &format!("{error:#}")),
            (None, Ok(_)) if group.needs_kube() && !api_is_built => {
                Tally::failure("API server", "it could not be built; go says why above")
            }
            (None, Ok(programs)) => run::group(workspace, group, programs, args)?,
        };
        for failure in &tally.failures {
            say!("{} {failure}", ui::red("FAIL"));
        }
        for skip in &tally.skips {
            say!("{} {skip}", ui::yellow("SKIP"));
        }
        say!("{}: {tally}", group.name);
        outcomes.push(Outcome { group, tally, took: started.elapsed() });
    }
    Ok(summarise(&outcomes, ci, args))
}

/// The build of the API server, which went on beside that of everything else.
fn is_built(workspace: &Workspace, build: Result<apiserver::Build>) -> bool {
    let ended = build.and_then(|build| build.finish(workspace));
    if let Err(error) = &ended {
        say!("{} {error:#}", ui::red("error:"));
    }
    ended.is_ok()
}

/// The table over all groups and the exit code. The last line is the sum, plain.
fn summarise(outcomes: &[Outcome], ci: bool, args: &Args) -> ExitCode {
    let mut all = Tally::default();
    say!(
        "\n{}",
        ui::bold(&format!("{:<12} {:>7} {:>7} {:>7} {:>7}", "group", "passed", "failed", "skipped", "time"))
    );
    for Outcome { group, tally, took } in outcomes {
        let Tally { passed, failed, skipped, .. } = tally;
        say!("{:<12} {passed:>7} {failed:>7} {skipped:>7} {:>5} s", group.name, took.as_secs());
        all.merge(tally.clone());
    }
    let mut ok = all.failed == 0;
    if ci && all.skipped > 0 {
        say!("{} what is skipped has not been shown, and CI=true", ui::red("failed:"));
        ok = false;
    }
    if all.passed + all.failed + all.skipped == 0 {
        let filter = args.filter.as_deref().unwrap_or_default();
        say!("{} no test is named like {filter:?}", ui::red("failed:"));
        ok = false;
    }
    if let Some(signal) = process::interrupted() {
        say!("{} by signal {signal}", ui::red("interrupted"));
        ok = false;
    }
    say!("{all}");
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why groups cannot run, if they cannot.
#[derive(Default)]
struct Blocked {
    /// Those that need root, a kernel or programs.
    privileged: Option<Tally>,
    /// Those that need Prometheus beside that.
    prometheus: Option<Tally>,
    /// Those that need Kubernetes' own.
    kube: Option<Tally>,
}

impl Blocked {
    fn all(tally: Tally) -> Self {
        Self { privileged: Some(tally), ..Self::default() }
    }

    fn of(&self, group: &Group) -> Option<&Tally> {
        let privileged = self.privileged.as_ref().filter(|_| group.privileged);
        let prometheus = self.prometheus.as_ref().filter(|_| group.needs_prometheus());
        privileged.or(prometheus).or(self.kube.as_ref().filter(|_| group.needs_kube()))
    }
}

/// Sees to what the groups need. What a person can mend is named once; the groups that need it are then skipped, or
/// with `CI=true` have failed. What is broken (the kernel half does not compile) is a failure anywhere.
fn prepare(workspace: &Workspace, groups: &[&Group], ci: bool) -> Blocked {
    let quiet = setup::Mode { dry_run: false, quiet: true };
    let mut missing = match setup::ensure(workspace, &[Need::Compiler], quiet) {
        Ok(missing) => missing,
        Err(error) => return Blocked::all(Tally::failure("setup", &format!("{error:#}"))),
    };
    if !groups.iter().any(|group| group.privileged) {
        return Blocked::default();
    }
    // Without the privileges there is no use in fetching anything.
    match setup::ensure(workspace, &[Need::Kernel], quiet) {
        Ok(kernel) if kernel.is_empty() => {
            match setup::ensure(workspace, &[Need::Ebpf, Need::Programs], quiet) {
                Ok(rest) => missing.extend(rest),
                Err(error) => return Blocked::all(Tally::failure("setup", &format!("{error:#}"))),
            }
        }
        Ok(kernel) => missing.extend(kernel),
        Err(error) => return Blocked::all(Tally::failure("setup", &format!("{error:#}"))),
    }
    if !missing.is_empty() {
        return Blocked::all(without(&missing, ci));
    }
    if let Err(error) = build_ebpf::build(workspace, false) {
        return Blocked::all(Tally::failure("build-ebpf", &format!("{error:#}")));
    }
    let blocked = |needs: fn(&Group) -> bool, need| {
        groups.iter().find(|group| needs(group)).and_then(|_| more(workspace, need, ci))
    };
    Blocked {
        privileged: None,
        prometheus: blocked(Group::needs_prometheus, Need::Prometheus),
        kube: blocked(Group::needs_kube, Need::Kube),
    }
}

/// The same for what a group needs beside that.
fn more(workspace: &Workspace, need: Need, ci: bool) -> Option<Tally> {
    match setup::ensure(workspace, &[need], setup::Mode { dry_run: false, quiet: true }) {
        Ok(missing) if missing.is_empty() => None,
        Ok(missing) => Some(without(&missing, ci)),
        Err(error) => Some(Tally::failure("setup", &format!("{error:#}"))),
    }
}

fn without(missing: &[setup::Missing], ci: bool) -> Tally {
    setup::explain(missing);
    let names: Vec<&str> = missing.iter().map(|missing| missing.what.as_str()).collect();
    let reason = format!("cannot run here without {}", names.join(", "));
    if ci { Tally::failure("preflight", &reason) } else { Tally::skip("preflight", &reason) }
}
