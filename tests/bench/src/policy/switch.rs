//! From the empty world to the full one and back, and knowing that it is so.
//!
//! ```text
//!   files ─▶ every policy enforced, every destination in the node's table ─▶ quiet ─▶ last policy ─▶ in the node's table,
//!                                                                                     enforced ─▶ quiet
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Agent, Process};
use serde::Serialize;
use serde_json::Value;

use super::world::{FullWorld, LAST_FILE, LAST_PORT};
use crate::control::shape::Shape;
use crate::maps::{self, PinnedMap};
use crate::stage::{CLOSE_PORT, MESH_NAMESPACE, Stage};
use crate::{cpu, memory};

/// How long a world may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at what is expensive to look at.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two looks at one verdict.
const GLANCE: Duration = Duration::from_millis(2);
/// The mesh is quiet when its processes have used less than a twentieth of a core for so long.
const QUIET: Duration = Duration::from_millis(1_500);
/// The table of destinations.
const DESTINATIONS: &str = "mesh_dests";

/// Changes the world of a stage.
#[derive(Debug)]
pub struct Switch {
    world: FullWorld,
    files: Vec<(String, String)>,
    /// Destinations in the empty world.
    own: usize,
    cgroups: Vec<PathBuf>,
    /// Runs as long as this.
    _fleet: Process,
}

/// How long the full world took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// From the first file until every policy was enforced on every node, and every destination in the table.
    pub world: Duration,
    /// From the last policy until the node's table refused what it is about.
    pub last_in_table: Duration,
    /// From the last policy until the controller said that it is enforced.
    pub last_enforced: Duration,
}

/// What a world costs the client's node. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Resident memory of the agent.
    pub rss_bytes: u64,
    /// Kernel memory of its pinned maps.
    pub map_bytes: u64,
    /// By map.
    pub maps: BTreeMap<String, MapCost>,
}

/// What one map costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapCost {
    /// Memory.
    pub bytes: u64,
    /// How many there are; none where they are not counted.
    pub entries: Option<usize>,
}

impl Switch {
    /// For a stage with an empty world, in which `fleet` are the other nodes' agents. Waits until it is quiet.
    pub fn new(stage: &Stage, fleet: Process, world: FullWorld) -> Result<Self> {
        let lab = stage.lab();
        let agents = lab.agents().iter().map(Agent::pid);
        let pids = agents.chain([lab.controller().pid(), Some(fleet.pid())]);
        let cgroups = pids.map(|pid| cpu::cgroup_of(pid.context("a part of the mesh does not run")?));
        let cgroups = cgroups.collect::<Result<_>>()?;
        let files = world.files().collect();
        let mut switch = Self { world, files, own: 0, cgroups, _fleet: fleet };
        switch.quiet()?;
        switch.own = destinations(stage)?;
        // The first connections of a node are only direct once every pod of it is guarded.
        poll(PATIENCE, PAUSE, || verdict(stage, CLOSE_PORT, "allow"))?;
        Ok(switch)
    }

    /// Fills the world.
    pub fn fill(&self, stage: &Stage) -> Result<Taken> {
        let start = Instant::now();
        for (name, text) in &self.files {
            stage.lab().write_object(name, text)?;
        }
        let (wanted, policies) = (self.own + self.world.workloads as usize, self.world.policies as usize - 1);
        poll(PATIENCE, PAUSE, || {
            enforced(stage, policies)?;
            match destinations(stage).map_err(told)? {
                found if found == wanted => Ok(()),
                found => Err(format!("{found} of {wanted} destinations are in the node's table")),
            }
        })
        .context("fill the world")?;
        let world = start.elapsed();
        self.quiet()?;
        verdict(stage, LAST_PORT, "allow").map_err(anyhow::Error::msg)?;
        let start = Instant::now();
        stage.lab().write_object(LAST_FILE, &FullWorld::last())?;
        poll(PATIENCE, GLANCE, || verdict(stage, LAST_PORT, "deny")).context("the last policy")?;
        let last_in_table = start.elapsed();
        poll(PATIENCE, GLANCE, || enforced(stage, policies + 1)).context("the last policy")?;
        let last_enforced = start.elapsed();
        self.quiet()?;
        is_full(stage)?;
        Ok(Taken { world, last_in_table, last_enforced })
    }

    /// Empties it.
    pub fn clear(&self, stage: &Stage) -> Result<()> {
        stage.lab().remove_object(LAST_FILE)?;
        for (name, _) in &self.files {
            stage.lab().remove_object(name)?;
        }
        poll(PATIENCE, PAUSE, || {
            let found = destinations(stage).map_err(told)?;
            if found != self.own {
                return Err(format!(
                    "{found} destinations are in the node's table, {} are its own",
                    self.own
                ));
            }
            let rows = stage.lab().agent("a").admin("/v1/policies").map_err(told)?;
            match rows.as_array().map(Vec::len) {
                Some(0) => Ok(()),
                left => Err(format!("the agent still has {left:?} policies")),
            }
        })
        .context("empty the world")?;
        self.quiet()?;
        verdict(stage, CLOSE_PORT, "allow").map_err(anyhow::Error::msg)
    }

    /// Waits until nobody of the mesh is busy with what was written.
    fn quiet(&self) -> Result<()> {
        poll(PATIENCE, Duration::ZERO, || {
            let before = cpu::usage(&self.cgroups).map_err(told)?;
            std::thread::sleep(QUIET);
            let used = cpu::usage(&self.cgroups).map_err(told)?.saturating_sub(before);
            if used < QUIET / 20 { Ok(()) } else { Err(format!("it used {used:?} of {QUIET:?}")) }
        })
        .context("the mesh does not come to rest")
    }
}

impl Cost {
    /// Of the world that there is.
    pub fn now(stage: &Stage) -> Result<Self> {
        let maps = pinned(stage)?;
        let of = |map: &PinnedMap| -> Result<(String, MapCost)> {
            Ok((map.name.clone(), MapCost { bytes: map.bytes, entries: map.entries()? }))
        };
        Ok(Self {
            rss_bytes: memory::status_bytes(stage.lab().agent("a"), "VmRSS")?,
            map_bytes: maps.iter().map(|map| map.bytes).sum(),
            maps: maps.iter().map(of).collect::<Result<_>>()?,
        })
    }
}

fn pinned(stage: &Stage) -> Result<Vec<PinnedMap>> {
    maps::pinned(&stage.lab().place().bpffs("a"))
}

fn destinations(stage: &Stage) -> Result<usize> {
    let map = pinned(stage)?.into_iter().find(|map| map.name == DESTINATIONS);
    map.context("no table of destinations")?.entries()?.context("a table that is not counted")
}

/// That there are so many policies, and all are in force.
fn enforced(stage: &Stage, wanted: usize) -> Result<(), String> {
    let rows = stage.lab().controller().admin("/v1/policies").map_err(told)?;
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    let holds = |row: &&Value, kind: &str| {
        let said = row["conditions"].as_array().into_iter().flatten().find(|said| said["type"] == kind);
        said.is_some_and(|said| said["status"] == true)
    };
    if let Some(row) = rows.iter().find(|row| !holds(row, "Accepted") || !holds(row, "Enforced")) {
        return Err(row.to_string());
    }
    if rows.len() == wanted { Ok(()) } else { Err(format!("{} of {wanted} policies are known", rows.len())) }
}

/// That the client's node says this of the client and the server, by its tables and by the model alike.
fn verdict(stage: &Stage, port: u16, wanted: &str) -> Result<(), String> {
    let said = explain(stage, &format!("{MESH_NAMESPACE}/client"), port).map_err(told)?;
    let path = if wanted == "allow" { "direct" } else { "refused" };
    let asked = [&said["verdict"], &said["kernel"]["verdict"], &said["path"]];
    if asked == [wanted, wanted, path] { Ok(()) } else { Err(said.to_string()) }
}

fn explain(stage: &Stage, from: &str, port: u16) -> Result<Value> {
    stage.lab().agent("a").admin(&format!("/v1/explain?src={from}&dst={MESH_NAMESPACE}/near:{port}"))
}

/// A policy admits the client, and none admits a pod of another node.
fn is_full(stage: &Stage) -> Result<()> {
    verdict(stage, CLOSE_PORT, "allow").map_err(anyhow::Error::msg)?;
    let said = explain(stage, &format!("{MESH_NAMESPACE}/client"), CLOSE_PORT)?;
    ensure!(said["policy"]["namespace"] == MESH_NAMESPACE, "no policy admits the client: {said}");
    let (namespace, pod) = Shape::first_pod();
    let said = explain(stage, &format!("{namespace}/{pod}"), LAST_PORT - 1)?;
    ensure!(said["verdict"] == "deny", "a pod of another node is admitted: {said}");
    Ok(())
}

fn poll(deadline: Duration, pause: Duration, mut probe: impl FnMut() -> Result<(), String>) -> Result<()> {
    let start = Instant::now();
    loop {
        let last = match probe() {
            Ok(()) => return Ok(()),
            Err(last) => last,
        };
        if start.elapsed() >= deadline {
            bail!("still not so after {deadline:?}: {last}");
        }
        std::thread::sleep(pause);
    }
}

fn told(error: anyhow::Error) -> String {
    format!("{error:#}")
}
