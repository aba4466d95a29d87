//! One agent in a process of its own (`weft-bench control-agent`), to see what a world costs where nothing else is.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_model::World;
use mesh_xds::{Client, ClientConfig, Event, snapshot};
use serde::{Deserialize, Serialize};

use super::controller::memory_of;
use crate::cli::AgentOptions;
use crate::report::Outcome;

/// What it prints.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Grown {
    /// Resident memory with a connection and no world, in bytes.
    pub before: u64,
    /// With the whole world, after it was written to where a cache would be.
    pub after: u64,
}

/// Follows a controller until the world is whole, as an agent does: each update makes a new world of the last, and what
/// that has left free is handed back after the first time that the world was written.
pub fn run(options: &AgentOptions) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let grown = runtime.block_on(async {
        let config = ClientConfig::new(&options.controller, &options.roots, &options.token, &options.node);
        tokio::time::timeout(Duration::from_secs(60), follow(config))
            .await
            .context("no whole world in 60 s")?
    })?;
    println!("{}", serde_json::to_string(&grown)?);
    Ok(Outcome::Good)
}

async fn follow(config: ClientConfig) -> Result<Grown> {
    let node = config.node.clone();
    let (_client, mut events) = Client::spawn(config);
    let mut world = World::default();
    let mut before = 0;
    while let Some(event) = events.recv().await {
        match event {
            Event::Connected => before = memory_of(std::process::id())?.resident,
            Event::Update(update) => {
                let mut next = world.clone();
                update.changes.into_iter().for_each(|change| next.apply(change));
                world = next;
                update.receipt.ack();
                if update.complete {
                    snapshot::write(&world, &node, std::io::sink())?;
                    // SAFETY: it is given a number, and touches what the allocator holds free and nothing else.
                    unsafe {
                        libc::malloc_trim(0);
                    }
                    // The answer to the last update is on its way.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    return Ok(Grown { before, after: memory_of(std::process::id())?.resident });
                }
            }
            Event::Disconnected { error } => bail!("{error}"),
            Event::Released(_) => {}
        }
    }
    bail!("the client has ended")
}
