//! `meshctl pods`: the node's pods and what the mesh does with them.

use mesh_model::PodState;
use mesh_telemetry::api::{PodRow, path};

use super::{Answer, Context, Failure, Row};
use crate::args::Scope;
use crate::cluster::Labelled;
use crate::render::Tone;
use crate::render::table::{Cell, Table};

pub(super) fn run(context: &Context, scope: &Scope) -> Result<Answer, Failure> {
    let mut rows = context.rows::<PodRow>(path::PODS)?;
    let name = |pod: &PodRow| pod.namespace.clone().zip(pod.name.clone()).into_iter().collect();
    context.choose(&mut rows, scope, Labelled::Pods, name, |pod| vec![pod.namespace.clone()])?;
    // Pods without a name come last: they are the ones that nobody has classified.
    rows.sort_by(|a, b| {
        let key =
            |pod: &PodRow| (pod.name.is_none(), pod.namespace.clone(), pod.name.clone(), pod.uid.clone());
        key(&a.row).cmp(&key(&b.row))
    });
    Ok(context.list(&rows, "pods", table))
}

pub(super) fn table(rows: &[Row<PodRow>]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "STATE", "REASON", "IDENTITY", "UID", "NODE"])
        .wide(&["NODE"])
        .spare(&["UID", "IDENTITY"]);
    for Row { row: pod, .. } in rows {
        let (tone, state) = match pod.state {
            PodState::Captured => (Tone::Good, "captured"),
            PodState::Pending => (Tone::Warn, "pending"),
            PodState::Excluded => (Tone::Plain, "excluded"),
            PodState::Unknown => (Tone::Bad, "unknown"),
        };
        table.row([
            Cell::option(pod.namespace.as_ref()),
            Cell::option(pod.name.as_ref()),
            Cell::toned(tone, state),
            Cell::option(pod.reason),
            Cell::option(pod.identity.as_ref()),
            pod.uid.as_str().into(),
            pod.node.as_str().into(),
        ]);
    }
    table
}
