#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, HashMap};

use mesh_model::policy::{Policy, PolicyKey};
use mesh_model::{Change, Phase, Reason, Service, ServiceKey, Tunnel, Uid, Workload};

use super::facts::{Fact, Key, Kind};
use super::{Captures, Index, Report, ReportError};
use crate::watch::facts_of;

mod authorization;
mod contested;
mod left_alone;
mod services;

/// An index and the world that its changes have made.
#[derive(Default)]
struct World {
    index: Index,
    workloads: HashMap<Uid, Workload>,
    services: HashMap<ServiceKey, Service>,
    policies: BTreeMap<PolicyKey, Policy>,
}

impl World {
    fn of(yaml: &str) -> Self {
        let mut world = Self::default();
        world.set(yaml);
        world
    }

    fn set(&mut self, yaml: &str) -> usize {
        for fact in facts_of(yaml).unwrap() {
            self.index.set(fact);
        }
        self.flush()
    }

    fn remove(&mut self, kind: Kind, namespace: &str, name: &str) -> usize {
        self.index.remove(&Key { kind, namespace: namespace.into(), name: name.into() });
        self.flush()
    }

    fn report(&mut self, node: &str, uid: &str, report: Report) -> Result<usize, ReportError> {
        self.index.report(node, &Uid::new(uid), report)?;
        Ok(self.flush())
    }

    /// How many changes there were.
    fn flush(&mut self) -> usize {
        let changes = self.index.flush();
        let count = changes.len();
        for change in changes {
            match change {
                Change::Workload(workload) => drop(self.workloads.insert(workload.uid.clone(), workload)),
                Change::WorkloadRemoved(uid) => {
                    self.workloads.remove(&uid).expect("it was given out");
                }
                Change::Service(service) => drop(self.services.insert(service.key.clone(), service)),
                Change::ServiceRemoved(key) => {
                    self.services.remove(&key).expect("it was given out");
                }
                Change::Policy(policy) => drop(self.policies.insert(policy.key.clone(), policy)),
                Change::PolicyRemoved(key) => {
                    self.policies.remove(&key).expect("it was given out");
                }
                Change::Mesh(_) | Change::MeshRemoved | Change::Node(_) | Change::NodeRemoved(_) => {}
            }
        }
        count
    }

    fn workload(&self, uid: &str) -> &Workload {
        self.workloads.get(&Uid::new(uid)).expect(uid)
    }

    fn tunnel(&self, uid: &str) -> Tunnel {
        self.workload(uid).tunnel
    }

    /// `address:service port>target port` of each endpoint of the service `shop/web`.
    fn endpoints(&self) -> Vec<String> {
        let service = self.services.get(&ServiceKey::new("shop", "web")).expect("shop/web");
        let line = |endpoint: &mesh_model::Endpoint| {
            let ports: Vec<_> =
                endpoint.ports.iter().map(|map| format!("{}>{}", map.service, map.target)).collect();
            format!("{}:{}", endpoint.address, ports.join(","))
        };
        service.endpoints.iter().map(line).collect()
    }
}

fn namespace(labels: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{labels}}}}}\n")
}

/// A running pod `web-N` of node `one` with address 10.0.0.N.
fn pod(number: usize, labels: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\n\
         metadata: {{name: web-{number}, namespace: shop, uid: u{number}, labels: {{app: web, {labels}}}}}\n\
         spec: {{nodeName: one, containers: [{{name: a, ports: [{{name: http, containerPort: {}}}]}}]}}\n\
         status: {{phase: Running, podIP: 10.0.0.{number}, {rest}}}\n",
        8000 + number
    )
}

fn service(spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.1, selector: {{app: web}}, {spec}}}\n"
    )
}

const ENABLED: &str = "weft.dev/capture: enabled";
const DISABLED: &str = "weft.dev/capture: disabled";

#[test]
fn a_pod_is_enrolled_by_its_own_label_or_else_by_its_namespaces() {
    for (on_namespace, on_pod, enrolled) in [
        ("", "", false),
        ("", ENABLED, true),
        ("", DISABLED, false),
        (ENABLED, "", true),
        (ENABLED, ENABLED, true),
        (ENABLED, DISABLED, false),
        (DISABLED, "", false),
        (DISABLED, ENABLED, true),
    ] {
        let world = World::of(&(namespace(on_namespace) + &pod(1, on_pod, "")));
        assert_eq!(world.workload("u1").enrolled, enrolled, "{on_namespace:?}, {on_pod:?}");
        // The order in which the files come does not matter.
        let world = World::of(&(pod(1, on_pod, "") + &namespace(on_namespace)));
        assert_eq!(world.workload("u1").enrolled, enrolled, "{on_namespace:?}, {on_pod:?}");
    }
}

#[test]
fn pods_on_the_hosts_network_and_finished_ones_are_never_enrolled_and_own_no_address() {
    let host = pod(1, ENABLED, "").replace("nodeName: one", "nodeName: one, hostNetwork: true");
    let finished = pod(2, ENABLED, "").replace("Running", "Failed");
    let world = World::of(&(host + &finished));
    for uid in ["u1", "u2"] {
        let workload = world.workload(uid);
        assert!(!workload.enrolled && workload.addresses.is_empty(), "{workload:?}");
    }
    assert!(world.workload("u1").host_network);
    assert_eq!(world.workload("u1").left_alone, Some(Reason::HostNetwork));
    assert_eq!(world.workload("u2").left_alone, None);
    assert_eq!(world.workload("u2").phase, Phase::Finished);
}

#[test]
fn labelling_a_namespace_changes_its_pods_and_no_others() {
    let mut world = World::of(&(namespace("") + &pod(1, "", "") + &pod(2, DISABLED, "")));
    world.set(&pod(3, "", "").replace("namespace: shop", "namespace: other"));
    assert_eq!(world.set(&namespace(ENABLED)), 1);
    assert!(world.workload("u1").enrolled);
    assert_eq!(world.remove(Kind::Namespace, "", "shop"), 1);
    assert!(!world.workload("u1").enrolled);
}

#[test]
fn a_pod_that_another_mesh_serves_is_foreign_unless_its_own_label_says_otherwise() {
    let annotated = |labels: &str| {
        pod(1, labels, "").replace("uid: u1,", "uid: u1, annotations: {weft.dev/tunnel: hbone},")
    };
    for foreign in [annotated(""), annotated(DISABLED), namespace(ENABLED) + &annotated("")] {
        let world = World::of(&foreign);
        assert_eq!(world.tunnel("u1"), Tunnel::Foreign, "{foreign}");
        assert!(!world.workload("u1").enrolled && world.index.problems().is_empty(), "{foreign}");
    }
    let mut world = World::of(&annotated(ENABLED));
    assert_eq!(world.tunnel("u1"), Tunnel::None);
    assert!(world.workload("u1").enrolled);
    let problems = world.index.problems();
    assert!(problems.len() == 1 && problems[0].contains("shop/web-1"), "{problems:?}");
    world.set(&annotated(ENABLED).replace("Running", "Succeeded"));
    assert!(world.index.problems().is_empty(), "a finished pod has no agent");
}

#[test]
fn a_tunnel_comes_and_goes_by_its_own_agents_word() {
    let mut world = World::of(&pod(1, ENABLED, ""));
    assert_eq!(world.tunnel("u1"), Tunnel::None);
    assert_eq!(world.report("one", "u1", Report::Gone), Ok(0), "there is nothing to withdraw");
    assert_eq!(world.tunnel("u1"), Tunnel::None);
    assert_eq!(world.report("one", "u1", Report::Captured), Ok(1));
    assert_eq!(world.tunnel("u1"), Tunnel::Hbone);
    assert_eq!(world.report("one", "u1", Report::Captured), Ok(0));
    assert_eq!(world.report("one", "u1", Report::Leaving), Ok(1));
    assert_eq!(world.tunnel("u1"), Tunnel::Withdrawn);
    assert_eq!(world.report("one", "u1", Report::Gone), Ok(0));
    assert_eq!(world.report("one", "u1", Report::Captured), Ok(1));
    assert_eq!(world.tunnel("u1"), Tunnel::Hbone);
    assert_eq!(world.report("one", "u1", Report::Gone), Ok(1));
    assert_eq!(world.tunnel("u1"), Tunnel::Withdrawn);
}

#[test]
fn reports_of_other_nodes_count_for_nothing() {
    let mut world = World::of(&pod(1, ENABLED, ""));
    let error = world.report("two", "u1", Report::Captured).unwrap_err();
    assert!(error.to_string().contains("not on two"), "{error}");
    world.report("one", "u1", Report::Captured).unwrap();
    world.report("two", "u1", Report::Gone).unwrap_err();
    assert_eq!(world.tunnel("u1"), Tunnel::Hbone);
}

#[test]
fn a_report_ahead_of_its_pod_counts_once_the_pod_is_there_and_on_that_node() {
    let mut world = World::default();
    world.report("one", "u1", Report::Captured).unwrap();
    world.report("two", "u2", Report::Captured).unwrap();
    world.report("two", "u1", Report::Captured).unwrap_err();
    world.set(&(pod(1, ENABLED, "") + &pod(2, ENABLED, "")));
    assert_eq!(world.tunnel("u1"), Tunnel::Hbone);
    assert_eq!(world.tunnel("u2"), Tunnel::None, "it runs on one");
}

#[test]
fn an_unlabelled_pod_is_withdrawn_at_once_and_never_offered_while_it_is_unlabelled() {
    let mut world = World::of(&(namespace(ENABLED) + &pod(1, "", "")));
    world.report("one", "u1", Report::Captured).unwrap();
    assert_eq!(world.set(&namespace("")), 1);
    assert_eq!(world.tunnel("u1"), Tunnel::Withdrawn);
    world.report("one", "u1", Report::Captured).unwrap();
    assert_eq!(world.tunnel("u1"), Tunnel::Withdrawn);
    // Labelled again before its agent has left: it still serves.
    world.set(&namespace(ENABLED));
    assert_eq!(world.tunnel("u1"), Tunnel::Hbone);
    // Labelled again after: it has to say so.
    world.set(&namespace(""));
    world.report("one", "u1", Report::Leaving).unwrap();
    world.set(&namespace(ENABLED));
    assert_eq!(world.tunnel("u1"), Tunnel::Withdrawn);
}

#[test]
fn captures_outlive_a_restart_and_a_file_that_is_replaced_in_two_steps() {
    let mut world = World::of(&pod(1, ENABLED, ""));
    world.report("one", "u1", Report::Captured).unwrap();
    let kept = serde_json::to_string(world.index.captures()).unwrap();
    let captures: Captures = serde_json::from_str(&kept).unwrap();
    let mut world = World { index: Index::new(captures), ..World::default() };
    world.set(&pod(1, ENABLED, ""));
    world.index.loaded();
    assert_eq!(world.tunnel("u1"), Tunnel::Hbone);
    assert_eq!(world.remove(Kind::Pod, "shop", "web-1"), 1);
    world.set(&pod(1, ENABLED, ""));
    assert_eq!(world.tunnel("u1"), Tunnel::Hbone);
}

#[test]
fn words_on_pods_that_are_gone_do_not_pile_up() {
    let mut world = World::of(&pod(1, ENABLED, ""));
    world.report("one", "u1", Report::Captured).unwrap();
    for number in 0..10_000 {
        world.report("one", &format!("gone-{number}"), Report::Captured).unwrap();
    }
    assert_eq!(world.index.captures().len(), 4_096 + 1);
    assert_eq!(world.tunnel("u1"), Tunnel::Hbone, "a pod that is there keeps its word");
}

#[test]
fn endpoints_are_the_running_ready_pods_that_the_selector_finds() {
    let yaml = service("ports: [{port: 80, targetPort: http}]")
        + &pod(1, "", "")
        + &pod(2, "", "conditions: [{type: Ready, status: 'False'}]")
        + &pod(3, "", "").replace("Running", "Pending")
        + &pod(4, "", "").replace("Running", "Succeeded")
        + &pod(5, "", "").replace("uid: u5,", "uid: u5, deletionTimestamp: \"2026-01-01T00:00:00Z\",")
        + &pod(6, "", "").replace("app: web", "app: other")
        + &pod(7, "", "").replace("namespace: shop", "namespace: other")
        + &pod(8, "", "podIPs: [{ip: 10.0.0.8}, {ip: 'fd00::8'}]")
        + &pod(9, "", "").replace("name: http", "name: metrics");
    let mut world = World::of(&yaml);
    assert_eq!(world.endpoints(), ["10.0.0.1:80>8001", "10.0.0.8:80>8008", "fd00::8:80>8008"]);
    // They become ready, stop, and are told apart by port.
    assert_eq!(world.set(&pod(2, "", "")), 1, "the service; the workload is the same");
    assert_eq!(world.endpoints().len(), 4);
    world.remove(Kind::Pod, "shop", "web-1");
    assert_eq!(world.endpoints()[0], "10.0.0.2:80>8002");
    world.set(&service(
        "publishNotReadyAddresses: true, ports: [{port: 80, targetPort: 9}, {port: 81, targetPort: http}]",
    ));
    assert_eq!(world.endpoints()[0], "10.0.0.2:80>9,81>8002");
    assert_eq!(world.endpoints().last().unwrap(), "10.0.0.9:80>9");
}

#[test]
fn a_pod_on_the_hosts_network_serves_at_the_hosts_address() {
    let host = pod(1, "", "").replace("nodeName: one", "nodeName: one, hostNetwork: true");
    let world = World::of(&(service("ports: [{port: 80}]") + &host));
    assert_eq!(world.endpoints(), ["10.0.0.1:80>80"]);
}

fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
         endpoints: [{endpoints}]\nports: [{{name: http, port: 8443}}]\n"
    )
}

#[test]
fn slices_are_believed_instead_of_the_selector() {
    let ports = "ports: [{name: http, port: 80, targetPort: 1}, {name: other, port: 81}]";
    let mut world = World::of(&(service(ports) + &pod(1, "", "") + &pod(2, "", "")));
    assert_eq!(world.endpoints().len(), 2);
    world.set(&slice("a", "{addresses: [10.0.0.2], targetRef: {kind: Pod, name: web-2}}"));
    assert_eq!(world.endpoints(), ["10.0.0.2:80>8443"]);
    let service_of = |world: &World| world.services[&ServiceKey::new("shop", "web")].clone();
    assert_eq!(service_of(&world).endpoints[0].workload, Some(Uid::new("u2")));
    // Several slices; the same address in two counts once; an address of no pod is somebody outside.
    world.set(&slice("b", "{addresses: [10.0.0.2]}, {addresses: [192.0.2.1]}"));
    assert_eq!(world.endpoints(), ["10.0.0.2:80>8443", "192.0.2.1:80>8443"]);
    assert_eq!(service_of(&world).endpoints[1].workload, None);
    // The pod ends before the slice is written anew.
    world.set(&pod(2, "", "").replace("Running", "Failed"));
    world.remove(Kind::EndpointSlice, "shop", "b");
    assert!(world.endpoints().is_empty());
    // A slice without endpoints is a slice.
    world.set(&slice("a", ""));
    assert!(world.endpoints().is_empty());
    world.remove(Kind::EndpointSlice, "shop", "a");
    assert_eq!(world.endpoints(), ["10.0.0.1:80>1,81>81"], "the selector again");
}

#[test]
fn a_service_that_goes_takes_its_addresses_along_and_slices_alone_are_no_service() {
    let mut world = World::of(&slice("a", "{addresses: [10.0.0.2]}"));
    assert!(world.services.is_empty());
    world.set(&service("ports: [{name: http, port: 80}]"));
    assert_eq!(world.endpoints(), ["10.0.0.2:80>8443"]);
    assert_eq!(world.remove(Kind::Service, "shop", "web"), 1);
    assert!(world.services.is_empty());
}

#[test]
fn changes_that_cancel_out_give_nothing() {
    let mut world = World::of(&(namespace("") + &pod(1, "", "") + &service("ports: [{port: 80}]")));
    for fact in facts_of(&(pod(1, ENABLED, "") + &pod(1, "", ""))).unwrap() {
        world.index.set(fact);
    }
    world.index.remove(&Key { kind: Kind::Pod, namespace: "shop".into(), name: "web-1".into() });
    for fact in facts_of(&pod(1, "", "")).unwrap() {
        world.index.set(fact);
    }
    assert_eq!(world.flush(), 0);
}

#[test]
fn a_pod_made_anew_under_its_name_is_another_workload() {
    let mut world = World::of(&pod(1, "", ""));
    assert_eq!(world.set(&pod(1, "", "").replace("uid: u1", "uid: new")), 2);
    assert_eq!(world.workloads.len(), 1);
    assert_eq!(&*world.workload("new").name, "web-1");
}

#[test]
fn two_pods_with_one_uid_are_reported_and_the_first_counts() {
    let mut world = World::of(&(pod(2, "", "") + &pod(1, "", "").replace("uid: u1", "uid: u2")));
    assert_eq!(&*world.workload("u2").name, "web-1");
    let problems = world.index.problems();
    assert!(problems[0].contains("shop/web-1, shop/web-2") && problems[0].contains("u2"), "{problems:?}");
    world.remove(Kind::Pod, "shop", "web-1");
    assert_eq!(&*world.workload("u2").name, "web-2");
    assert!(world.index.problems().is_empty());
}

#[test]
fn two_services_with_one_address_are_reported() {
    let other = service("").replace("name: web", "name: other");
    let world = World::of(&(service("") + &other));
    let problems = world.index.problems();
    assert!(
        problems[0].contains("shop/other, shop/web") && problems[0].contains("10.96.0.1"),
        "{problems:?}"
    );
}

#[test]
fn certificates_are_for_identities_of_unfinished_pods_on_the_node() {
    let running = pod(1, "", "");
    let finished = pod(2, "", "").replace("Running", "Failed").replace("nodeName: one", "nodeName: two");
    let unscheduled = pod(3, "", "").replace("nodeName: one,", "");
    let world = World::of(&(running + &finished + &unscheduled));
    let identity = "spiffe://cluster.local/ns/shop/sa/default".parse().unwrap();
    let elsewhere = "spiffe://cluster.local/ns/other/sa/default".parse().unwrap();
    assert_eq!(world.index.may_have("one", &identity), Ok(()));
    for (node, identity) in [("two", &identity), ("three", &identity), ("", &identity), ("one", &elsewhere)] {
        let error = world.index.may_have(node, identity).unwrap_err().to_string();
        assert!(error.contains(node) && error.contains(&identity.to_string()), "{error}");
    }
}

#[test]
fn five_thousand_pods_are_indexed_quickly_and_a_change_costs_little() {
    let start = std::time::Instant::now();
    let mut world = World::default();
    world.set(&namespace(ENABLED));
    for number in 0..50 {
        let yaml = service("ports: [{port: 80}]").replace("name: web,", &format!("name: web-{number},"));
        world.set(&yaml.replace("app: web", &format!("app: web-{number}")));
    }
    let template = facts_of(&pod(1, "", "")).unwrap().remove(0);
    let Fact::Pod(template) = template else { panic!() };
    let numbered = |number: usize| {
        let mut pod = template.clone();
        pod.uid = Uid::new(&format!("u{number}"));
        pod.name = format!("pod-{number}").as_str().into();
        pod.labels.insert("app".into(), format!("web-{}", number % 50));
        pod.addresses = vec![std::net::Ipv4Addr::from(0x0a00_0000 + number as u32).into()];
        Fact::Pod(pod)
    };
    let parsed = start.elapsed();
    for number in 0..5_000 {
        world.index.set(numbered(number));
    }
    assert_eq!(world.flush(), 5_050);
    let loaded = start.elapsed() - parsed;
    let start = std::time::Instant::now();
    for number in 0..100 {
        let Fact::Pod(mut pod) = numbered(number) else { panic!() };
        pod.ready = false;
        world.index.set(Fact::Pod(pod));
        assert_eq!(world.flush(), 1, "the service; a workload does not say whether it is ready");
    }
    let each = start.elapsed() / 100;
    println!("5,000 pods: first flush {loaded:?}; one pod's readiness {each:?}");
    assert!(loaded < std::time::Duration::from_secs(2) && each < std::time::Duration::from_millis(20));
}

/// What an index would say that saw nothing but the last state of everything.
fn afresh(facts: &BTreeMap<Key, Fact>, captures: &Captures) -> World {
    let mut world = World { index: Index::new(captures.clone()), ..World::default() };
    for fact in facts.values() {
        world.index.set(fact.clone());
    }
    world.flush();
    world
}

#[test]
fn whatever_the_order_of_changes_the_world_is_what_the_last_state_says() {
    let mut roll = 7_u64;
    let mut dice = |sides: u64| {
        roll = roll.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (roll >> 33) % sides
    };
    let mut world = World::default();
    let mut facts: BTreeMap<Key, Fact> = BTreeMap::new();
    for round in 0..3_000 {
        let number = dice(4) as usize + 1;
        let label = ["", ENABLED, DISABLED][dice(3) as usize];
        let yaml = match dice(7) {
            0 => namespace(label),
            1 => service(
                ["ports: [{name: http, port: 80}]", "ports: [{port: 81, targetPort: http}]"]
                    [dice(2) as usize],
            ),
            2 => slice(
                "a",
                &format!("{{addresses: [10.0.0.{number}], targetRef: {{kind: Pod, name: web-{number}}}}}"),
            ),
            3 => pod(number, label, "").replace("Running", ["Failed", "Pending"][dice(2) as usize]),
            4 => pod(number, label, "").replace("app: web", "app: other"),
            _ => pod(number, label, "")
                .replace("nodeName: one", ["nodeName: one", "nodeName: two"][dice(2) as usize]),
        };
        let fact = facts_of(&yaml).unwrap().remove(0);
        if dice(4) == 0 {
            world.index.remove(&fact.key());
            facts.remove(&fact.key());
        } else {
            world.index.set(fact.clone());
            facts.insert(fact.key(), fact);
        }
        let report = [Report::Captured, Report::Leaving, Report::Gone][dice(3) as usize];
        let _ =
            world.index.report(["one", "two"][dice(2) as usize], &Uid::new(&format!("u{number}")), report);
        if dice(3) == 0 {
            world.flush();
            let afresh = afresh(&facts, world.index.captures());
            assert_eq!(world.workloads, afresh.workloads, "round {round}");
            assert_eq!(world.services, afresh.services, "round {round}");
        }
    }
}
