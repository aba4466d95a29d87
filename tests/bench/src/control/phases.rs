//! What is done to a controller of one size, and what is measured of it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::agent::Grown;
use super::controller::{AGENTS, Controller};
use super::fleet::Fleet;
use super::home::Home;
use super::shape::Shape;
use crate::cli::ControlOptions;

/// Agents that follow changes.
const FOLLOWERS: u32 = 20;
/// How long everything is left alone before memory is read, or to see what idling costs.
const QUIET: Duration = Duration::from_secs(3);

/// Sizes in bytes, times in milliseconds, CPU in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// From the start until it listened: all objects read.
    pub load_ms: f64,
    /// CPU until then.
    pub load_cpu_s: f64,
    /// Highest resident memory until then: the initial list's peak.
    pub load_peak_rss: u64,
    /// Resident with the followers connected and nothing to do.
    pub rss: u64,
    /// Bytes that one agent was sent for the whole world.
    pub snapshot_bytes: u64,
    /// Bytes that one agent was sent for one change.
    pub change_bytes: u64,
    /// Changes that were made.
    pub changes: u32,
    /// From before a change until every follower had applied it: the median …
    pub change_p50_ms: f64,
    /// … and the 99th of a hundred …
    pub change_p99_ms: f64,
    /// … and the longest.
    pub change_max_ms: f64,
    /// Controller's CPU for one change.
    pub change_cpu_ms: f64,
    /// Controller's CPU of each second while nothing happens.
    pub idle_cpu_share: f64,
    /// Agents that came at once with nothing.
    pub cold: Storm,
    /// Agents that came back after the controller was killed and started.
    pub returned: Storm,
    /// Resident memory of an agent for each workload.
    pub agent_bytes_per_workload: f64,
}

/// Many agents at once.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Storm {
    /// How many.
    pub agents: usize,
    /// Until the last of them was whole.
    pub whole_ms: f64,
    /// Controller's CPU meanwhile.
    pub cpu_s: f64,
    /// Controller's highest resident memory meanwhile.
    pub peak_rss: u64,
    /// Bytes that one of them was sent.
    pub bytes: u64,
}

/// Measures everything at one size.
pub fn measure(shape: Shape, mut home: impl Home, place: &Path, options: &ControlOptions) -> Result<Figures> {
    let runtime = tokio::runtime::Runtime::new()?;
    let _inside = runtime.enter();
    home.fill(shape)?;
    let mut controller = Controller::new(place, home.flags())?;
    let load = controller.start().context("load")?;
    let loaded = controller.memory()?;
    let load_cpu = controller.cpu()?;
    say(&format!("loaded in {:.1} s", load.as_secs_f64()));

    let followers = Fleet::start((0..FOLLOWERS).map(|number| controller.agent(number)), true);
    followers.await_whole().context("the first snapshot")?;
    let snapshot = followers.received();
    std::thread::sleep(QUIET);
    let rss = controller.memory()?.resident;

    let before = (controller.cpu()?, followers.received());
    let mut times = changes(&mut home, &followers, options.change_count()).context("a change")?;
    let change_cpu = controller.cpu()?.saturating_sub(before.0);
    let change_bytes = followers.received() - before.1;
    times.sort_unstable();
    say(&format!("{} changes made", times.len()));

    let before = controller.cpu()?;
    std::thread::sleep(QUIET);
    let idle_cpu = controller.cpu()?.saturating_sub(before);
    let each = |bytes: u64| bytes / followers.len().max(1) as u64;
    let (snapshot_bytes, change_bytes) = (each(snapshot), each(change_bytes) / times.len().max(1) as u64);
    drop(followers);

    controller.forget_peak()?;
    let before = controller.cpu()?;
    let start = Instant::now();
    let crowd = Fleet::start((0..AGENTS).map(|number| controller.agent(number)), false);
    crowd.await_whole().context("many agents at once")?;
    let cold = storm(&controller, &crowd, start.elapsed(), before, 0)?;
    say("a hundred agents came");

    controller.kill();
    crowd.expect_anew();
    let had = crowd.received();
    controller.start().context("start again")?;
    controller.forget_peak()?;
    let (start, before) = (Instant::now(), controller.cpu()?);
    crowd.await_whole().context("after a restart")?;
    let returned = storm(&controller, &crowd, start.elapsed(), before, had)?;
    say("a hundred agents came back");
    drop(crowd);

    let grown = one_agent(&controller)?;
    let agent_bytes = grown.after.saturating_sub(grown.before) as f64 / f64::from(shape.workloads());
    Ok(Figures {
        load_ms: millis(load),
        load_cpu_s: load_cpu.as_secs_f64(),
        load_peak_rss: loaded.peak,
        rss,
        snapshot_bytes,
        change_bytes,
        changes: times.len() as u32,
        change_p50_ms: percentile(&times, 50),
        change_p99_ms: percentile(&times, 99),
        change_max_ms: percentile(&times, 100),
        change_cpu_ms: millis(change_cpu) / times.len().max(1) as f64,
        idle_cpu_share: idle_cpu.as_secs_f64() / QUIET.as_secs_f64(),
        cold,
        returned,
        agent_bytes_per_workload: agent_bytes,
    })
}

/// One change after the other; how long each took until the last follower had it.
fn changes(home: &mut impl Home, followers: &Fleet, count: u32) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count as usize);
    // The first wakes what has slept, and does not count.
    for revision in 1..=count + 1 {
        let start = Instant::now();
        home.change(revision)?;
        let applied = followers.await_revision(revision)?;
        if revision > 1 {
            times.push(applied.duration_since(start));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(times)
}

fn storm(controller: &Controller, crowd: &Fleet, took: Duration, cpu: Duration, had: u64) -> Result<Storm> {
    Ok(Storm {
        agents: crowd.len(),
        whole_ms: millis(took),
        cpu_s: controller.cpu()?.saturating_sub(cpu).as_secs_f64(),
        peak_rss: controller.memory()?.peak,
        bytes: (crowd.received() - had) / crowd.len().max(1) as u64,
    })
}

fn one_agent(controller: &Controller) -> Result<Grown> {
    let config = controller.agent(0);
    let output = Command::new(std::env::current_exe()?)
        .args(["control-agent", "--controller", &config.controller, "--node", &config.node])
        .arg("--roots")
        .arg(&config.roots)
        .arg("--token")
        .arg(&config.token_file)
        .output()
        .context("start an agent of its own")?;
    if !output.status.success() {
        bail!("an agent of its own: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("what the agent of its own says")
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().map_or(f64::NAN, millis)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn say(what: &str) {
    println!("  {what}");
}
