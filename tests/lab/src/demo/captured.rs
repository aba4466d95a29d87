//! Which pods are in the mesh, as their nodes' agents say.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::cast::{Cast, is_enrolled};
use super::screen::{Screen, Tone};
use crate::eventually;
use crate::lab::Lab;
use crate::mesh::TRUST_DOMAIN;
use crate::pod::Pod;

const PATIENCE: Duration = Duration::from_secs(20);

/// The name that a pod's certificate has to carry.
pub(super) fn identity(pod: &Pod) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", pod.namespace(), pod.service_account())
}

/// Waits until every pod is where its label puts it, and shows that.
pub(super) fn show(screen: &mut Screen, lab: &Lab, cast: &Cast) -> Result<()> {
    screen.step("wait until the agents have taken the pods in", || {
        for pod in cast.pods() {
            if is_enrolled(pod) { lab.await_captured(pod)? } else { lab.await_excluded(pod)? }
        }
        for pod in cast.enrolled() {
            await_offered(lab, pod)?;
        }
        let text = "namespace shop has the label weft.dev/capture: enabled; legacy has not";
        Ok(((), text.into()))
    })?;
    for pod in cast.pods() {
        let rows = lab.agent(pod.node().name()).pods()?;
        let row = rows.into_iter().find(|row| row["uid"] == pod.uid()).unwrap_or(Value::Null);
        let (state, name) = (row["state"].as_str().unwrap_or("not known"), pod.key());
        let shown = row["identity"].as_str().unwrap_or_default();
        let enrolled = is_enrolled(pod);
        let (tone, who) =
            if enrolled { (Tone::Good, shown) } else { (Tone::Warn, "untouched, as if Weft were not there") };
        let style = screen.style();
        let text = format!(
            "{name:<15} on {}  {}  {}",
            pod.node().name(),
            style.paint(tone, format_args!("{state:<8}")),
            style.paint(if enrolled { Tone::Name } else { Tone::Dim }, who)
        );
        let holds =
            if enrolled { state == "captured" && shown == identity(pod) } else { state == "excluded" };
        screen.expect(holds, &text, || format!("its agent says: {row}"));
    }
    Ok(())
}

/// Waits until every agent offers tunnels to a pod, that of its own node too.
fn await_offered(lab: &Lab, pod: &Pod) -> Result<()> {
    for agent in lab.agents() {
        let probe = || {
            let workloads = agent.workloads().map_err(|error| format!("{error:#}"))?;
            match workloads.iter().find(|entry| entry["uid"] == pod.uid()) {
                Some(entry) if entry["tunnel"] == "hbone" => Ok(()),
                Some(entry) => Err(entry.to_string()),
                None => Err("not in its world".to_owned()),
            }
        };
        eventually(PATIENCE, probe).with_context(|| {
            format!("wait until the agent on {} reaches {} in the mesh", agent.node(), pod.key())
        })?;
    }
    Ok(())
}
