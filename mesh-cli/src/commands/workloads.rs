//! `meshctl workloads`: everything that the agent was told may talk to somebody.

use mesh_model::Tunnel;
use mesh_telemetry::api::{WorkloadRow, path};

use super::{Answer, Context, Failure, Row};
use crate::args::Scope;
use crate::cluster::Labelled;
use crate::render::table::{Cell, Table};
use crate::render::{Tone, human};

pub(super) fn run(context: &Context, scope: &Scope) -> Result<Answer, Failure> {
    let mut rows = context.rows_known_to_all::<WorkloadRow>(path::WORKLOADS)?;
    let name = |workload: &WorkloadRow| vec![(workload.namespace.clone(), workload.name.clone())];
    let namespace = |workload: &WorkloadRow| vec![Some(workload.namespace.clone())];
    context.choose(&mut rows, scope, Labelled::Pods, name, namespace)?;
    rows.sort_by(|a, b| {
        let key = |workload: &WorkloadRow| {
            (workload.namespace.clone(), workload.name.clone(), workload.uid.clone())
        };
        key(&a.row).cmp(&key(&b.row))
    });
    Ok(context.list(&rows, "workloads", table))
}

pub(super) fn table(rows: &[Row<WorkloadRow>]) -> Table {
    let mut table =
        Table::new(&["NAMESPACE", "NAME", "NODE", "ADDRESSES", "ENROLLED", "TUNNEL", "IDENTITY", "UID"])
            .wide(&["UID"]);
    for Row { row: workload, .. } in rows {
        let (tone, tunnel) = match (workload.tunnel, workload.enrolled) {
            (Tunnel::Hbone, _) => (Tone::Good, "hbone"),
            (Tunnel::Foreign, _) => (Tone::Good, "foreign"),
            (Tunnel::Withdrawn, _) => (Tone::Plain, "withdrawn"),
            // Wanted in the mesh, and not there.
            (Tunnel::None, true) => (Tone::Warn, "none"),
            (Tunnel::None, false) => (Tone::Plain, "none"),
        };
        table.row([
            workload.namespace.as_str().into(),
            workload.name.as_str().into(),
            Cell::option(workload.node.as_ref()),
            human::list(&workload.addresses).into(),
            if workload.enrolled { "yes" } else { "no" }.into(),
            Cell::toned(tone, tunnel),
            workload.identity.to_string().into(),
            workload.uid.as_str().into(),
        ]);
    }
    table
}
