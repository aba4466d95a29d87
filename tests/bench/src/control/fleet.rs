//! Simulated agents: the wire's client and what it was told, and nothing else of an agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mesh_model::{Change, World};
use mesh_xds::{Client, ClientConfig, Event};
use tokio::sync::mpsc;

use super::shape::Shape;

/// Agents that take longer than this have lost their controller.
const PATIENCE: Duration = Duration::from_secs(120);

/// Some agents, until dropped.
#[derive(Debug)]
pub struct Fleet {
    agents: Vec<Agent>,
    applied: Receiver<Applied>,
}

#[derive(Debug)]
struct Agent {
    client: Client,
    /// Updates with which it was whole.
    whole: Arc<AtomicU64>,
}

/// An agent has applied a revision of the changing pod.
#[derive(Clone, Copy, Debug)]
struct Applied {
    revision: u32,
    at: Instant,
}

impl Fleet {
    /// Starts agents. Those that keep no world apply what they are told to nothing: a hundred worlds would measure this
    /// process.
    pub fn start(configs: impl IntoIterator<Item = ClientConfig>, keeps_world: bool) -> Self {
        let (applied, receiver) = channel();
        let agents = configs.into_iter().map(|config| {
            let (client, events) = Client::spawn(config);
            let whole = Arc::new(AtomicU64::new(0));
            tokio::spawn(follow(events, whole.clone(), keeps_world.then(World::default), applied.clone()));
            Agent { client, whole }
        });
        Self { agents: agents.collect(), applied: receiver }
    }

    /// Forgets that anybody was ever whole.
    pub fn expect_anew(&self) {
        self.agents.iter().for_each(|agent| agent.whole.store(0, Ordering::Relaxed));
    }

    /// Waits until every agent has (again) been told the whole world.
    pub fn await_whole(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let whole = self.agents.iter().filter(|agent| agent.whole.load(Ordering::Relaxed) > 0).count();
            if whole == self.agents.len() {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                let mut errors = self.agents.iter().filter_map(|agent| agent.client.status().last_error);
                let error = errors.next_back().unwrap_or_default();
                bail!("{whole} of {} agents are whole after {PATIENCE:?}; {error}", self.agents.len());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until every agent has applied a revision; when the last of them had.
    pub fn await_revision(&self, revision: u32) -> Result<Instant> {
        let start = Instant::now();
        let (mut last, mut missing) = (start, self.agents.len());
        while missing > 0 {
            match self.applied.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(applied) if applied.revision == revision => {
                    missing -= 1;
                    last = last.max(applied.at);
                }
                Ok(_earlier) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    bail!("{missing} agents have not applied revision {revision} after {PATIENCE:?}");
                }
            }
        }
        Ok(last)
    }

    /// Bytes that all agents were sent so far.
    pub fn received(&self) -> u64 {
        self.agents.iter().map(|agent| agent.client.status().received).sum()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }
}

async fn follow(
    mut events: mpsc::Receiver<Event>,
    whole: Arc<AtomicU64>,
    mut world: Option<World>,
    applied: Sender<Applied>,
) {
    while let Some(event) = events.recv().await {
        let Event::Update(update) = event else { continue };
        let mut revision = None;
        for change in update.changes {
            if let Change::Workload(workload) = &change {
                revision = Shape::revision(workload).or(revision);
            }
            if let Some(world) = &mut world {
                world.apply(change);
            }
        }
        if let Some(revision) = revision {
            // Nobody waits for it any more.
            let _unheard = applied.send(Applied { revision, at: Instant::now() });
        }
        if update.complete {
            whole.fetch_add(1, Ordering::Relaxed);
        }
        update.receipt.ack();
    }
}
