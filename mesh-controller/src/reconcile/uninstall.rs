//! `mesh-controller uninstall`: has the whole mesh let go of its pods, before its objects are deleted.
//!
//! ```text
//! MeshConfig: weft.dev/leaving=true ─▶ controller ─▶ agents release, detach, unpin ─▶ NodeState.status.left ─▶ here
//! ```
//!
//! Where there is no MeshConfig one is made to carry the mark. It goes again once every node has left (else the next
//! installation would begin with leaving), and stays while one has not, so that a controller that restarts still knows.
//!
//! Not here: what an agent does to leave. Where no agent is left to do it, `mesh-agent reset` on the node does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use mesh_crd::{LEAVING_ANNOTATION, MESH_CONFIG, MeshConfig, MeshConfigSpec, NodeState};
use serde_json::json;

use super::said::{is_absent, is_conflict};
use crate::cluster::{self, ConnectError, connect};
use crate::config::Config;

/// On a MeshConfig that was made here, to be taken away here.
const MADE_ANNOTATION: &str = "weft.dev/made-by-uninstall";
/// So often the nodes are asked.
const LOOK: Duration = Duration::from_millis(500);
/// A node of an agent that has just come may have no NodeState yet: that all have left is believed this long after the mark.
/// (An API server keeps the first objects of a new definition waiting for 2 s.)
const SETTLED: Duration = Duration::from_secs(3);
/// So long an answer may take, and so long the API server may be away before it counts as an error.
const ANSWER: Duration = Duration::from_secs(10);

/// Why the mesh cannot be told to leave.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// No way to the API.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The mark could not be made.
    #[error("the mesh is not marked as leaving: {0}")]
    Mark(String),
    /// Nobody knows what the nodes do.
    #[error("the mesh is marked as leaving, and the nodes cannot be asked: {0}")]
    Ask(String),
    /// The MeshConfig that was made for the mark stays.
    #[error(
        "every node has let go, and MeshConfig default, made for this, stays: {0}; delete it before the next installation"
    )]
    TidyUp(String),
}

impl UninstallError {
    /// 2 where the operator gave something wrong, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Connect(_) => 2,
            Self::Mark(_) | Self::Ask(_) | Self::TidyUp(_) => 1,
        }
    }
}

/// Marks the mesh as leaving and waits. The nodes that have not let go in time, each said on a line of its own.
pub async fn run(config: &Config, timeout: Duration) -> Result<Vec<String>, UninstallError> {
    let client = connect(config).await?;
    let marked = mark(&client).await?;
    println!("the mesh is leaving (MeshConfig {MESH_CONFIG}, {LEAVING_ANNOTATION}=true)");
    let start = Instant::now();
    let mut left = BTreeSet::new();
    loop {
        let asked = ask(&client).await;
        let over = start.elapsed() >= timeout;
        if let Ok(nodes) = &asked {
            for node in nodes.iter().filter(|(_, has_left)| **has_left).map(|(node, _)| node) {
                if left.insert(node.clone()) {
                    println!("node {node} has let go of its pods");
                }
            }
            if nodes.values().all(|has_left| *has_left) && (over || start.elapsed() >= SETTLED) {
                println!("{} nodes have let go", nodes.len());
                tidy_up(&client, &marked).await?;
                return Ok(Vec::new());
            }
        }
        if over {
            let nodes = asked.map_err(UninstallError::Ask)?;
            let remaining = nodes.into_iter().filter(|(_, has_left)| !has_left).map(|(node, _)| node);
            let remaining: Vec<_> = remaining.collect();
            for node in &remaining {
                println!(
                    "node {node} has not let go after {} s: its agent is dead or cut off; run `mesh-agent reset` on the node, then delete its NodeState",
                    timeout.as_secs()
                );
            }
            return Ok(remaining);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn mark(client: &Client) -> Result<MeshConfig, UninstallError> {
    let api: Api<MeshConfig> = Api::all(client.clone());
    let annotation = json!({ "metadata": { "annotations": { LEAVING_ANNOTATION: "true" } } });
    let (params, annotation) = (PatchParams::default(), Patch::Merge(annotation));
    let failed = |verb, error: &kube::Error| {
        UninstallError::Mark(cluster::explain(verb, "meshconfigs.weft.dev", error))
    };
    match bounded(api.patch(MESH_CONFIG, &params, &annotation)).await {
        Ok(config) => Ok(config),
        Err(error) if is_absent(&error) => {
            let mut config = MeshConfig::new(MESH_CONFIG, MeshConfigSpec::default());
            for mark in [LEAVING_ANNOTATION, MADE_ANNOTATION] {
                config.annotations_mut().insert(mark.into(), "true".into());
            }
            let made = bounded(api.create(&PostParams::default(), &config)).await;
            made.map_err(|error| failed("create", &error))
        }
        Err(error) => Err(failed("patch", &error)),
    }
}

/// Takes away the MeshConfig that was made only for the mark, unless somebody has made something of it, or put another
/// in its place.
async fn tidy_up(client: &Client, marked: &MeshConfig) -> Result<(), UninstallError> {
    if !marked.annotations().contains_key(MADE_ANNOTATION) || marked.spec != MeshConfigSpec::default() {
        return Ok(());
    }
    let api: Api<MeshConfig> = Api::all(client.clone());
    let uid = marked.metadata.uid.clone();
    let params = DeleteParams::default().preconditions(Preconditions { uid, resource_version: None });
    match bounded(api.delete(MESH_CONFIG, &params)).await {
        Ok(_) => Ok(()),
        Err(error) if is_absent(&error) || is_conflict(&error) => Ok(()),
        Err(error) => Err(UninstallError::TidyUp(cluster::explain("delete", "meshconfigs.weft.dev", &error))),
    }
}

/// Every node that has, or had, an agent: whether it has let go.
async fn ask(client: &Client) -> Result<BTreeMap<String, bool>, String> {
    let api: Api<NodeState> = Api::all(client.clone());
    let mut nodes = BTreeMap::new();
    let mut params = ListParams::default().limit(500);
    loop {
        let page = bounded(api.list(&params)).await;
        let page = page.map_err(|error| cluster::explain("list", "nodestates.weft.dev", &error))?;
        for state in &page.items {
            nodes.insert(state.name_any(), state.status.as_ref().is_some_and(|status| status.left));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(nodes),
        }
    }
}

async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("the API server does not answer".into())),
    }
}
