//! `mesh-controller uninstall`: has the whole mesh let go of its pods, before its objects are deleted.
//!
//! ```text
//! MeshConfig: weft.dev/leaving=true ─▶ controller ─▶ agents release, detach, unpin ─▶ NodeState.status.left ─▶ here
//! ```
//!
//! Not here: what an agent does to leave. Where no agent is left to do it, `mesh-agent reset` on the node does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use mesh_crd::{LEAVING_ANNOTATION, MESH_CONFIG, MeshConfig, MeshConfigSpec, NodeState};
use serde_json::json;

use super::said::is_absent;
use crate::cluster::{self, ConnectError, connect};
use crate::config::Config;

/// So often the nodes are asked.
const LOOK: Duration = Duration::from_millis(500);
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
}

impl UninstallError {
    /// 2 where the operator gave something wrong, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Connect(_) => 2,
            Self::Mark(_) | Self::Ask(_) => 1,
        }
    }
}

/// Marks the mesh as leaving and waits. The nodes that have not let go in time, each said on a line of its own.
pub async fn run(config: &Config, timeout: Duration) -> Result<Vec<String>, UninstallError> {
    let client = connect(config).await?;
    mark(&client).await?;
    println!("the mesh is leaving (MeshConfig {MESH_CONFIG}, {LEAVING_ANNOTATION}=true)");
    let end = Instant::now() + timeout;
    let mut left: BTreeMap<String, bool> = BTreeMap::new();
    loop {
        let asked = ask(&client).await;
        if let Ok(nodes) = &asked {
            for (node, has_left) in nodes {
                if *has_left && left.insert(node.clone(), true) != Some(true) {
                    println!("node {node} has let go of its pods");
                }
            }
            let all = nodes.values().filter(|state| !**state).count();
            if all == 0 {
                println!("{} nodes have let go", nodes.len());
                return Ok(Vec::new());
            }
        }
        if Instant::now() >= end {
            let nodes = asked.map_err(UninstallError::Ask)?;
            let remaining: Vec<_> =
                nodes.into_iter().filter(|(_, has_left)| !has_left).map(|(node, _)| node).collect();
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

async fn mark(client: &Client) -> Result<(), UninstallError> {
    let api: Api<MeshConfig> = Api::all(client.clone());
    let annotation = json!({ "metadata": { "annotations": { LEAVING_ANNOTATION: "true" } } });
    let (params, annotation) = (PatchParams::default(), Patch::Merge(annotation));
    let failed = |verb, error: &kube::Error| {
        UninstallError::Mark(cluster::explain(verb, "meshconfigs.weft.dev", error))
    };
    match bounded(api.patch(MESH_CONFIG, &params, &annotation)).await {
        Ok(_) => Ok(()),
        Err(error) if is_absent(&error) => {
            let mut config = MeshConfig::new(MESH_CONFIG, MeshConfigSpec::default());
            config.annotations_mut().insert(LEAVING_ANNOTATION.into(), "true".into());
            let made = bounded(api.create(&PostParams::default(), &config)).await;
            made.map(drop).map_err(|error| failed("create", &error))
        }
        Err(error) => Err(failed("patch", &error)),
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
