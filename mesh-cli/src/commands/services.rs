//! `meshctl services`: what can be dialled by a service address.

use std::net::IpAddr;

use mesh_telemetry::api::{EndpointRow, ServiceRow, path};

use super::{Answer, Context, Failure, Row};
use crate::args::Scope;
use crate::cluster::Labelled;
use crate::render::table::{Cell, Table};
use crate::render::{Tone, human};

/// Endpoints that are named before the rest is counted.
const NAMED: usize = 3;

pub(super) fn run(context: &Context, scope: &Scope) -> Result<Answer, Failure> {
    let mut rows = context.rows_known_to_all::<ServiceRow>(path::SERVICES)?;
    let name = |service: &ServiceRow| vec![(service.namespace.clone(), service.name.clone())];
    let namespace = |service: &ServiceRow| vec![Some(service.namespace.clone())];
    context.choose(&mut rows, scope, Labelled::Services, name, namespace)?;
    rows.sort_by(|a, b| (&a.row.namespace, &a.row.name).cmp(&(&b.row.namespace, &b.row.name)));
    Ok(context.list(&rows, "services", table))
}

pub(super) fn table(rows: &[Row<ServiceRow>]) -> Table {
    let headers = [
        "NAMESPACE",
        "NAME",
        "ADDRESSES",
        "PORTS",
        "READY",
        "ENDPOINTS",
        "RULES",
        "UNTOUCHED",
        "ALL-ENDPOINTS",
    ];
    let mut table = Table::new(&headers).wide(&["ALL-ENDPOINTS"]);
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
            human::list(addresses(service)).into(),
            human::list(&service.ports).into(),
            Cell::toned(tone, format!("{ready}/{}", service.endpoints.len())),
            endpoints(&service.endpoints).into(),
            human::list(rules(service)).into(),
            human::list(untouched(service)).into(),
            all_endpoints(&service.endpoints).into(),
        ]);
    }
    table
}

fn addresses(service: &ServiceRow) -> Vec<IpAddr> {
    let all = [&service.addresses, &service.external_addresses, &service.load_balancer_addresses];
    let mut each_once = Vec::new();
    for address in all.into_iter().flatten().copied() {
        if !each_once.contains(&address) {
            each_once.push(address);
        }
    }
    each_once
}

/// What narrows the choice among ready endpoints.
fn rules(service: &ServiceRow) -> Vec<String> {
    let hinted = |hints: fn(&EndpointRow) -> &Vec<String>| {
        service.endpoints.iter().any(|endpoint| !hints(endpoint).is_empty())
    };
    let mut rules = Vec::new();
    if service.affinity_seconds > 0 {
        rules.push(format!("affinity {}", human::duration(service.affinity_seconds.into())));
    }
    rules.extend(service.local_only.then(|| "local".to_owned()));
    rules.extend(hinted(|endpoint| &endpoint.for_nodes).then(|| "nodes".to_owned()));
    rules.extend(hinted(|endpoint| &endpoint.for_zones).then(|| "zones".to_owned()));
    rules.extend((!service.source_ranges.is_empty()).then(|| "ranges".to_owned()));
    rules
}

/// What goes on as if there were no mesh.
fn untouched(service: &ServiceRow) -> Vec<String> {
    let all = service.other_proxy.as_ref().map(|proxy| format!("all (proxy {proxy})"));
    all.into_iter().chain(service.untouched.iter().cloned()).collect()
}

/// Every one, those that are not ready marked.
fn all_endpoints(all: &[EndpointRow]) -> String {
    human::list(all.iter().flat_map(|endpoint| {
        let mark = if endpoint.ready { "" } else { " (not ready)" };
        endpoint
            .ports
            .iter()
            .map(move |port| format!("{}{mark}", std::net::SocketAddr::new(endpoint.address, port.target)))
    }))
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
