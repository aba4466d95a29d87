//! `GET /v1/explain?src=…&dst=…`: what the model says of a connection, and what this node's tables say.

use mesh_common::Verdict;
use mesh_model::World;
use mesh_model::explain::{Answer, Explanation, KernelAnswer, NoSuchPlace, Path, Place, Source, explain};
use mesh_telemetry::http::Response;

use super::Admin;
use crate::kernel::maps::addr;
use crate::pods::Local;

/// The answer to a query as it was sent.
pub(super) fn answer(admin: &Admin, query: Option<&str>) -> Response {
    let parameter = |name: &str| {
        let pairs = query.unwrap_or_default().split('&');
        pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let (Some(from), Some(to)) = (parameter("src"), parameter("dst")) else {
        return Response::bad_request("the query is src=SOURCE&dst=DESTINATION:PORT");
    };
    match told(admin, from, to) {
        Ok(explanation) => Response::json(&explanation),
        Err(error) => Response::bad_request(error.to_string()),
    }
}

fn told(admin: &Admin, from: &str, to: &str) -> Result<Explanation, NoSuchPlace> {
    let world = admin.lowered.load_full();
    let local = admin.local.borrow().clone();
    let source = from.parse::<Place>()?.source(&world)?;
    let (place, port) = Place::with_port(to)?;
    let target = place.target(&world, port)?;
    let is_here = source.workload.as_ref().is_some_and(|workload| *workload.node == *admin.node);
    let direct = is_here.then(|| match local.unguarded.first() {
        None => Ok(()),
        Some(unguarded) => Err(format!("{} of this node is not guarded: {}", unguarded.what, unguarded.why)),
    });
    let mut explanation = explain(&world, &source, &target, direct.as_ref());
    explanation.kernel = kernel(admin, &world, &local, &source, &explanation);
    Ok(explanation)
}

/// What the tables of this node say, where it is one that judges the connection.
fn kernel(
    admin: &Admin,
    world: &World,
    local: &Local,
    source: &Source,
    explanation: &Explanation,
) -> KernelAnswer {
    let unknown = |detail: String| KernelAnswer { verdict: "unknown".into(), agrees: None, detail };
    let Some(endpoint) = explanation.endpoint else {
        return unknown("refused before anybody is dialled".into());
    };
    let destination = world.workload_at(endpoint.ip());
    let node = |workload: Option<&std::sync::Arc<mesh_model::Workload>>| {
        workload.map_or_else(|| "of its node".to_owned(), |workload| workload.node.to_string())
    };
    let cookie = source.workload.as_ref().filter(|_| explanation.in_mesh).map(|workload| &workload.uid);
    let cookie = match cookie {
        Some(uid) => match local.pods.iter().find(|(_, pod)| pod.uid == *uid) {
            Some((cookie, _)) => Some(*cookie),
            None => return unknown(format!("ask the agent of node {}", node(source.workload.as_ref()))),
        },
        None if destination.is_some_and(|pod| local.pods.values().any(|own| own.uid == pod.uid)) => None,
        None if explanation.path == Path::Passthrough => {
            return unknown("not in the mesh at either end".into());
        }
        None => return unknown(format!("ask the agent of node {}", node(destination))),
    };
    let detail = format!("node {}", admin.node);
    let found = admin.maps.tables().verdict(cookie, addr(endpoint.ip()), endpoint.port());
    let allowed = explanation.verdict == Answer::Allow;
    let (verdict, agrees) = match found {
        None => ("outside", Some(explanation.path == Path::Passthrough)),
        Some(Verdict::ALLOW) => ("allow", Some(allowed && explanation.audit.is_empty())),
        Some(Verdict::ALLOW_AUDITED) => ("allow", Some(allowed && !explanation.audit.is_empty())),
        Some(Verdict::DENY) => ("deny", Some(!allowed)),
        // It is the agent's to decide: there is nothing to agree on.
        Some(_) => ("agent", None),
    };
    KernelAnswer { verdict: verdict.into(), agrees, detail }
}
