//! NetworkPolicies that cut tunnels between captured pods: a line in the log, and an Event on the policy.
//!
//! Looked for now and then, and only when a policy, a pod or a namespace is different: it costs more than a flush of the
//! index may.

use std::sync::Arc;
use std::time::Duration;

use mesh_crd::network_policy::Cut;
use mesh_telemetry::shutdown::Shutdown;

use super::{Board, Standing};
use crate::publish::Hub;
use crate::watch::kubernetes::ObjectName;

/// At most so often.
const LOOK: Duration = Duration::from_secs(2);
/// Of the Events.
const REASON: &str = "CutsTunnels";

/// Says which policies cut tunnels, until shutdown. Without a board the log has it alone.
pub async fn keep(hub: Arc<Hub>, board: Option<Arc<Board>>, shutdown: Shutdown) {
    let mut said: Vec<Cut> = Vec::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.wait() => return,
        }
        let Some(cuts) = hub.cuts_if_touched() else { continue };
        for cut in cuts.iter().filter(|cut| !said.contains(cut)) {
            tracing::warn!(namespace = cut.namespace, name = cut.name, reason = REASON, "{cut}");
        }
        if let Some(board) = &board {
            board.standing("policies", cuts.iter().map(standing).collect());
        }
        said = cuts;
    }
}

fn standing(cut: &Cut) -> Standing {
    let object = ObjectName {
        kind: "NetworkPolicy",
        api_version: "networking.k8s.io/v1".into(),
        namespace: cut.namespace.as_str().into(),
        name: cut.name.as_str().into(),
        uid: None,
    };
    Standing { object, reason: REASON, note: cut.to_string() }
}
