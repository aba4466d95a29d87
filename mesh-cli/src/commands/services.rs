//! `meshctl services`: what can be dialled by a service address.

use mesh_telemetry::api::{EndpointRow, ServiceRow, path};

use super::{Answer, Context, Failure, Row};
use crate::args::Scope;
use crate::render::table::{Cell, Table};
use crate::render::{Tone, human};

/// Endpoints that are named before the rest is counted.
const NAMED: usize = 3;

pub(super) fn run(context: &Context, scope: &Scope) -> Result<Answer, Failure> {
    let mut rows = context.rows::<ServiceRow>(path::SERVICES)?;
    rows.retain(|service| scope.covers(Some(&service.row.namespace)));
    rows.sort_by(|a, b| (&a.row.namespace, &a.row.name).cmp(&(&b.row.namespace, &b.row.name)));
    Ok(context.list(&rows, "services", table))
}

pub(super) fn table(rows: &[Row<ServiceRow>]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "NAME", "ADDRESSES", "PORTS", "READY", "ENDPOINTS"]);
    for Row { row: service, .. } in rows {
        let ready = service.endpoints.iter().filter(|endpoint| endpoint.ready).count();
        let tone = match (ready, service.endpoints.len()) {
            (0, _) => Tone::Bad,
            (ready, all) if ready < all => Tone::Warn,
            _ => Tone::Good,
        };
        table.row([
            service.namespace.as_str().into(),
            service.name.as_str().into(),
            human::list(&service.addresses).into(),
            human::list(&service.ports).into(),
            Cell::toned(tone, format!("{ready}/{}", service.endpoints.len())),
            endpoints(&service.endpoints).into(),
        ]);
    }
    table
}

fn endpoints(all: &[EndpointRow]) -> String {
    let named = all.iter().take(NAMED).flat_map(|endpoint| {
        endpoint.ports.iter().map(|port| std::net::SocketAddr::new(endpoint.address, port.target))
    });
    let text = human::list(named);
    match all.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} + {more} more"),
    }
}
