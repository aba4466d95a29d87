//! The steps, one after the other.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Answer, Decider, Explanation, KernelAnswer, Path, Source, Step, Target, Would};
use crate::policy::{Mtls, Peer};
use crate::route::{Client, RoundRobin, Route, route, route_to};
use crate::{Question, Reason, Scope, Served, Tunnel, Workload, World};

/// Explains a connection. `direct`: whether the source's node lets connections go directly, and why not; `None`: somebody on another
/// node is asked.
pub fn explain(
    world: &World,
    source: &Source,
    target: &Target,
    direct: Option<&Result<(), String>>,
) -> Explanation {
    let mut told = Told { world, source, direct, steps: Vec::new() };
    let capture = told.source();
    let Some((from, dialled)) = pair(source, target) else {
        return told.refused(Reason::NoFamily, "source and destination have no address of the same family");
    };
    if capture == Capture::Pending {
        return told.refused(Reason::NotReady, "labelled and not captured yet: its connects are refused");
    }
    let captured = capture == Capture::Captured;
    if captured && !world.is_complete() {
        return told.refused(Reason::NoWorld, "the agent has not been told the whole world");
    }
    let excluded = captured && told.excluded(dialled);
    let in_mesh = captured && !excluded;
    let client = Client { address: from };
    let targets = match told.service(client, dialled, in_mesh) {
        Ok(targets) => targets,
        Err((reason, detail)) => return told.refused(reason, &detail),
    };
    let mut ends: Vec<End> = targets.into_iter().map(|to| told.end(from, dialled, to, in_mesh)).collect();
    let at = ends.iter().position(|end| end.verdict == Answer::Deny).unwrap_or(0);
    let (count, refused) = (ends.len(), ends.iter().filter(|end| end.verdict == Answer::Deny).count());
    if at >= ends.len() {
        return told.refused(Reason::NoEndpoint, "there is nobody to be reached");
    }
    let mut end = ends.swap_remove(at);
    if count > 1 && refused > 0 && refused < count {
        let detail = format!("{refused} of {count} endpoints refuse; one of them is shown");
        told.say("endpoint", "differ", None, detail);
    }
    told.steps.append(&mut end.steps);
    Explanation {
        verdict: end.verdict,
        path: end.path,
        reason: end.reason.map(|reason| reason.as_str().to_owned()),
        steps: told.steps,
        policy: end.policy,
        audit: end.audit,
        kernel: KernelAnswer { verdict: "unknown".into(), agrees: None, detail: String::new() },
        endpoint: end.to,
        in_mesh,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Capture {
    Captured,
    Pending,
    Outside,
}

struct Told<'a> {
    world: &'a World,
    source: &'a Source,
    direct: Option<&'a Result<(), String>>,
    steps: Vec<Step>,
}

/// What becomes of the connection at one endpoint.
struct End {
    verdict: Answer,
    path: Path,
    reason: Option<Reason>,
    policy: Option<Decider>,
    audit: Vec<Would>,
    steps: Vec<Step>,
    to: Option<SocketAddr>,
}

/// Addresses of the same family, IPv4 first.
fn pair(source: &Source, target: &Target) -> Option<(std::net::IpAddr, SocketAddr)> {
    let mut targets = target.addresses.clone();
    targets.sort_by_key(SocketAddr::is_ipv6);
    targets.into_iter().find_map(|to| {
        let from = source.addresses.iter().find(|from| from.is_ipv6() == to.is_ipv6())?;
        Some((*from, to))
    })
}

fn pod(workload: &Workload) -> String {
    format!("Pod {}/{}", workload.namespace, workload.name)
}

fn step(step: &str, result: &str, object: Option<String>, detail: String) -> Step {
    Step { step: step.into(), result: result.into(), object, detail }
}

impl Told<'_> {
    fn say(&mut self, name: &str, result: &str, object: Option<String>, detail: String) {
        self.steps.push(step(name, result, object, detail));
    }

    fn refused(mut self, reason: Reason, detail: &str) -> Explanation {
        self.say("path", "refused", None, format!("{}: {detail}", reason.as_str()));
        Explanation {
            verdict: Answer::Deny,
            path: Path::Refused,
            reason: Some(reason.as_str().to_owned()),
            steps: self.steps,
            policy: None,
            audit: Vec::new(),
            kernel: KernelAnswer { verdict: "unknown".into(), agrees: None, detail: String::new() },
            endpoint: None,
            in_mesh: false,
        }
    }

    fn source(&mut self) -> Capture {
        let addresses: Vec<String> = self.source.addresses.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(", ");
        let Some(workload) = self.source.workload.clone() else {
            self.say("source", "address", None, format!("{addresses}: of no pod that the mesh knows"));
            self.say("capture", "outside", None, "not in the mesh".into());
            self.say("identity", "none", None, String::new());
            return Capture::Outside;
        };
        let object = Some(pod(&workload));
        self.say("source", "pod", object.clone(), format!("{addresses} on node {}", workload.node));
        let (capture, word, detail) =
            match (workload.tunnel.is_hbone(), workload.left_alone, workload.enrolled) {
                (true, ..) => (Capture::Captured, "captured", String::new()),
                (_, Some(reason), _) => {
                    (Capture::Outside, "outside", format!("left alone: {}", reason.as_str()))
                }
                (_, None, true) => (Capture::Pending, "pending", "its agent has not reported it".into()),
                (_, None, false) => (Capture::Outside, "outside", "not labelled".into()),
            };
        self.say("capture", word, object, detail);
        match capture {
            Capture::Captured => self.say("identity", "authenticated", None, workload.identity.to_string()),
            _ => self.say("identity", "none", None, String::new()),
        }
        capture
    }

    fn excluded(&mut self, dialled: SocketAddr) -> bool {
        let Some(mesh) = self.world.mesh() else { return false };
        let by = if let Some(net) = mesh.excluded_prefixes.iter().find(|net| net.contains(&dialled.ip())) {
            format!("excludedCIDRs: {net}")
        } else if mesh.excluded_ports.iter().any(|range| range.contains(&dialled.port())) {
            format!("excludedPorts: {}", dialled.port())
        } else {
            return false;
        };
        self.say("exclusion", "excluded", Some("MeshConfig default".into()), by);
        true
    }

    /// Where the connection may go.
    fn service(
        &mut self,
        client: Client,
        dialled: SocketAddr,
        in_mesh: bool,
    ) -> Result<Vec<SocketAddr>, (Reason, String)> {
        let (served, scope) = match self.world.service_at(dialled.ip()) {
            Some(served) => (served, served.service().internal_scope()),
            None => match self.world.outer_service_at(dialled) {
                Some(served) => (served, Scope::Cluster),
                None => return Ok(vec![dialled]),
            },
        };
        let key = &served.service().key;
        let object = Some(format!("Service {}/{}", key.namespace, key.name));
        let by = if in_mesh { "chosen by the mesh" } else { "chosen by kube-proxy" };
        self.say("service", "found", object.clone(), format!("{dialled}, {by}"));
        if in_mesh {
            // All that is refused before anybody is chosen.
            let balancer = RoundRobin::new(|| std::time::Duration::ZERO);
            if let Route::Refuse(reason) = route(self.world, client, dialled, &balancer)
                && !matches!(reason, Reason::ContestedAddress)
            {
                return Err((reason, format!("Service {}/{} at {dialled}", key.namespace, key.name)));
            }
            if served.service().other_proxy.is_some() {
                return Ok(vec![dialled]);
            }
        }
        let targets = candidates(served, dialled, scope)
            .map_err(|reason| (reason, format!("Service {}/{} at {dialled}", key.namespace, key.name)))?;
        let names: Vec<String> = targets.iter().take(8).map(ToString::to_string).collect();
        let more = match targets.len().saturating_sub(8) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let result = if targets.len() == 1 { "one".to_owned() } else { format!("one of {}", targets.len()) };
        self.say("endpoint", &result, object, format!("{}{more}", names.join(", ")));
        Ok(targets)
    }

    fn end(&self, from: std::net::IpAddr, dialled: SocketAddr, to: SocketAddr, in_mesh: bool) -> End {
        let mut end = End {
            verdict: Answer::Allow,
            path: Path::Passthrough,
            reason: None,
            policy: None,
            audit: Vec::new(),
            steps: Vec::new(),
            to: Some(to),
        };
        if in_mesh && let Route::Refuse(reason) = route_to(self.world, dialled, to) {
            return end.refused(reason, format!("{to}"));
        }
        let Some(workload) = self.world.workload_at(to.ip()).cloned() else {
            end.say("destination", "outside", None, format!("{to}: of no pod that the mesh knows"));
            return end.on(Path::Passthrough, "left as it is dialled, in plain text");
        };
        let object = Some(pod(&workload));
        if self.source.workload.as_ref().is_some_and(|source| source.uid == workload.uid) {
            end.say("destination", "itself", object, to.to_string());
            return end.on(Path::Direct, "the pod's own: nobody is asked");
        }
        if !workload.tunnel.is_hbone() {
            end.say("destination", "outside", object, format!("{to} on node {}", workload.node));
            return end.on(Path::Passthrough, "left as it is dialled, in plain text");
        }
        end.say("destination", "captured", object, format!("{to} on node {}", workload.node));
        let way = self.way(&workload, in_mesh, &mut end);
        self.judge(from, &workload, to.port(), in_mesh, &mut end);
        if end.verdict == Answer::Deny {
            end.path = Path::Refused;
        } else {
            end.path = way;
        }
        end
    }

    fn way(&self, workload: &Workload, in_mesh: bool, end: &mut End) -> Path {
        if !in_mesh {
            end.say("path", "plaintext", None, "without identity, to the destination's agent".into());
            return Path::Plaintext;
        }
        let same_node = self.source.workload.as_ref().is_some_and(|source| source.node == workload.node);
        let by_tunnel = self.world.mesh().and_then(|mesh| mesh.same_node_tunnel) == Some(true);
        let (path, detail) = match (same_node, by_tunnel, self.direct) {
            _ if workload.tunnel == Tunnel::Foreign => (Path::Tunnel, "to another mesh's agent".to_owned()),
            (false, ..) => (Path::Tunnel, format!("mutual TLS to node {}", workload.node)),
            (true, true, _) => (Path::Tunnel, "sameNode: tunnel".into()),
            (true, false, Some(Err(why))) => (Path::Tunnel, format!("not directly: {why}")),
            (true, false, Some(Ok(()))) => (Path::Direct, format!("both are on node {}", workload.node)),
            (true, false, None) => (
                Path::Direct,
                format!("if node {0} can vouch for the source: ask the agent of {0}", workload.node),
            ),
        };
        end.say("path", path.as_str(), None, detail);
        path
    }

    fn judge(
        &self,
        from: std::net::IpAddr,
        workload: &Arc<Workload>,
        port: u16,
        in_mesh: bool,
        end: &mut End,
    ) {
        if workload.tunnel == Tunnel::Foreign {
            end.say("policy", "unknown", None, "the other mesh's own decide".into());
            return;
        }
        let identity = self.source.workload.as_ref().filter(|_| in_mesh).map(|source| &source.identity);
        let rules = self.world.rules_for(workload);
        let mtls = rules.mtls_at(port);
        let word = if mtls == Mtls::Strict { "strict" } else { "permissive" };
        let detail = match (mtls, identity) {
            (Mtls::Strict, None) => "a connection without identity is refused, but for the kubelet's probes",
            (Mtls::Strict, Some(_)) => "the source has an identity",
            (Mtls::Permissive, _) => "",
        };
        end.say("mtls", word, Some("MeshConfig default".into()), detail.into());
        let judgement = rules.judge(Peer { identity, address: from }, port);
        end.verdict = judgement.verdict.is_allowed().into();
        end.reason = judgement.verdict.reason();
        end.policy = Decider::of_verdict(&judgement.verdict);
        let name = |decider: &Decider| {
            let rule = decider.rule.map(|rule| format!(" rule {rule}")).unwrap_or_default();
            format!("AuthorizationPolicy {}/{}{rule}", decider.namespace, decider.name)
        };
        let result = if judgement.verdict.is_allowed() { "allow" } else { "deny" };
        end.say("policy", result, end.policy.as_ref().map(name), judgement.verdict.to_string());
        if let Some(audit) = &judgement.audit
            && let Some(policy) = Decider::of_verdict(audit)
        {
            end.say(
                "audit",
                if audit.is_allowed() { "allow" } else { "deny" },
                Some(name(&policy)),
                format!("if it were enforced: {audit}"),
            );
            end.audit.push(Would { verdict: audit.is_allowed().into(), policy });
        }
    }
}

impl End {
    fn say(&mut self, name: &str, result: &str, object: Option<String>, detail: String) {
        self.steps.push(step(name, result, object, detail));
    }

    fn on(mut self, path: Path, detail: &str) -> Self {
        self.say("path", path.as_str(), None, detail.into());
        self.path = path;
        self
    }

    fn refused(mut self, reason: Reason, detail: String) -> Self {
        self.say("path", "refused", None, format!("{}: {detail}", reason.as_str()));
        Self { verdict: Answer::Deny, path: Path::Refused, reason: Some(reason), to: None, ..self }
    }
}

fn candidates(served: &Served, dialled: SocketAddr, scope: Scope) -> Result<Vec<SocketAddr>, Reason> {
    let question = Question { port: dialled.port(), ipv6: dialled.is_ipv6(), scope };
    let candidates = served.candidates(question)?;
    Ok(candidates.iter().filter_map(|one| served.target(*one)).collect())
}
