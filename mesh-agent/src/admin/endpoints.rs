//! `GET /v1/endpoints?service=NAMESPACE/NAME`: where this node's connections to a Service may go, and why not elsewhere.
//!
//! The choice is [`mesh_model::usable`]'s, the one that the data path asks: nothing is decided here, only put in words.

use std::net::SocketAddr;

use mesh_model::{Endpoint, Question, Reason, Scope, Served, Service, ServiceKey, World};
use mesh_telemetry::api::{ChoiceRow, Choices, PodName};
use mesh_telemetry::http::Response;

use super::query;

#[cfg(test)]
mod tests;

/// Rows of an answer.
const AT_ONCE: usize = 10_000;

/// The answer to a query as it was sent.
pub(super) fn answer(world: &World, node: &str, asked: Option<&str>) -> Response {
    let wanted = query(asked, "service").map(str::parse::<ServiceKey>).transpose();
    let Ok(wanted) = wanted else {
        return Response::bad_request("the query is service=NAMESPACE/NAME");
    };
    Response::json(&choices(world, node, wanted.as_ref(), query(asked, "namespace")))
}

fn choices(world: &World, node: &str, wanted: Option<&ServiceKey>, namespace: Option<&str>) -> Choices {
    let zone = world.node(node).and_then(|info| info.zone.clone());
    let mut keys: Vec<&ServiceKey> = match wanted {
        Some(key) => vec![key],
        None => world.services().map(|service| &service.key).collect(),
    };
    keys.retain(|key| namespace.is_none_or(|namespace| *key.namespace == *namespace));
    keys.sort();
    let mut answer =
        Choices { node: node.into(), zone: zone.as_ref().map(ToString::to_string), ..Choices::default() };
    for key in keys {
        let Some(served) = world.service(key) else { continue };
        let (room, before) = (AT_ONCE - answer.endpoints.len(), answer.endpoints.len());
        let all = of_service(world, node, answer.zone.as_deref(), served);
        let count = all.len();
        answer.endpoints.extend(all.into_iter().take(room));
        answer.more += (count - (answer.endpoints.len() - before)) as u64;
    }
    answer
}

fn of_service(world: &World, node: &str, zone: Option<&str>, served: &Served) -> Vec<ChoiceRow> {
    let service = served.service();
    let mut rows = Vec::new();
    for port in &service.ports {
        let before = rows.len();
        for ipv6 in [false, true] {
            let question = Question { port: *port, ipv6, scope: service.internal_scope() };
            let answer = served.candidates(question);
            for (number, endpoint) in (0_u32..).zip(&service.endpoints) {
                let Some(target) = endpoint.target_port(*port).filter(|_| endpoint.address.is_ipv6() == ipv6)
                else {
                    continue;
                };
                let may = answer.is_ok_and(|all| all.iter().any(|candidate| candidate.endpoint == number));
                let why = (!may).then(|| why_not(service, endpoint, question, answer.err()));
                let address = SocketAddr::new(endpoint.address, target);
                rows.push(row(world, node, zone, service, *port, Some((endpoint, address)), why));
            }
        }
        if rows.len() == before {
            let why = Some(Reason::NoEndpoint.to_string());
            rows.push(row(world, node, zone, service, *port, None, why));
        }
    }
    rows
}

fn row(
    world: &World,
    node: &str,
    zone: Option<&str>,
    service: &Service,
    port: u16,
    endpoint: Option<(&Endpoint, SocketAddr)>,
    why: Option<String>,
) -> ChoiceRow {
    let pod = endpoint.and_then(|(endpoint, _)| world.workload(endpoint.workload.as_ref()?));
    let own_node = pod.map(|pod| pod.node.to_string()).filter(|node| !node.is_empty());
    let place = own_node.or_else(|| Some(endpoint?.0.node.as_ref()?.to_string()));
    let strings = |all: &[std::sync::Arc<str>]| all.iter().map(ToString::to_string).collect();
    ChoiceRow {
        namespace: service.key.namespace.to_string(),
        service: service.key.name.to_string(),
        port,
        address: endpoint.map(|(_, address)| address),
        pod: pod.map(|pod| PodName {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            uid: pod.uid.clone(),
        }),
        zone: place.as_deref().filter(|place| *place == node).and(zone).map(str::to_owned),
        node: place,
        for_zones: endpoint.map(|(endpoint, _)| strings(&endpoint.for_zones)).unwrap_or_default(),
        for_nodes: endpoint.map(|(endpoint, _)| strings(&endpoint.for_nodes)).unwrap_or_default(),
        ready: endpoint.is_some_and(|(endpoint, _)| endpoint.ready),
        phase: pod.map(|pod| pod.phase),
        tunnel: pod.map(|pod| pod.tunnel),
        chosen: why.is_none(),
        why,
    }
}

/// Why an endpoint is not among those that may be chosen.
fn why_not(service: &Service, endpoint: &Endpoint, question: Question, refused: Option<Reason>) -> String {
    // Nothing dials the family by the Service's name: it has no address of it, or none at all.
    let addressed = service.addresses.iter().any(|address| address.is_ipv6() == question.ipv6);
    match refused {
        _ if service.other_proxy.is_some() => "another proxy's Service: it is left to that one".into(),
        Some(Reason::NoEndpoint) if service.addresses.is_empty() => {
            "headless: clients dial it as they like".into()
        }
        Some(Reason::NoEndpoint) if !addressed => "the Service has no address of this family".into(),
        Some(reason) => reason.to_string(),
        None if !endpoint.ready => "not ready, and others are".into(),
        None if question.scope == Scope::Local => "not on this node (internalTrafficPolicy: Local)".into(),
        None => "hinted to other zones or nodes".into(),
    }
}
