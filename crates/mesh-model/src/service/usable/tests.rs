#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{PortMap, ServiceKey};

/// `NUMBER[!][@NODE][zZONE,ZONE][nNODE,NODE]`: an endpoint 10.0.0.NUMBER; `!`: terminating.
fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split(' ');
    let first = words.next().unwrap();
    let number = first.trim_end_matches('!');
    let mut endpoint = Endpoint::at(format!("10.0.0.{number}").parse().unwrap());
    endpoint.ready = !first.ends_with('!');
    endpoint.ports = vec![PortMap { service: 80, target: 8080 }];
    for word in words {
        let (kind, names) = word.split_at(1);
        let names: Vec<Arc<str>> = names.split(',').map(Arc::from).collect();
        match kind {
            "@" => endpoint.node = names.first().cloned(),
            "z" => endpoint.for_zones = names,
            "n" => endpoint.for_nodes = names,
            _ => panic!("{text}"),
        }
    }
    endpoint
}

fn service(endpoints: &[&str]) -> Service {
    Service {
        ports: vec![80],
        endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
        ..Service::bare(ServiceKey::new("shop", "web"))
    }
}

/// The last numbers of the addresses that may be chosen on node `a` of zone `east`, or the reason.
fn chosen(service: &Service, here: &Here, scope: Scope) -> String {
    let question = Question { port: 80, ipv6: false, scope };
    match usable(service, here, question) {
        Ok(candidates) => {
            let number = |candidate: Candidate| {
                let address = service.endpoints[candidate.endpoint as usize].address.to_string();
                address.rsplit('.').next().unwrap().to_owned()
            };
            candidates.map(number).collect::<Vec<_>>().join(" ")
        }
        Err(reason) => reason.to_string(),
    }
}

fn on(node: &str, zone: Option<&str>) -> Here {
    Here { node: node.into(), zone: zone.map(Arc::from) }
}

#[test]
fn what_may_be_chosen_is_what_kube_proxy_would_choose_from() {
    let rows: &[(&str, &[&str], &str, &str)] = &[
        ("nothing", &[], "no_endpoint", "no_endpoint"),
        ("ready ones", &["1", "2"], "1 2", "no_local_endpoint"),
        ("ready ones here and there", &["1 @a", "2 @b", "3 @a"], "1 2 3", "1 3"),
        ("none here", &["1 @b"], "1", "no_local_endpoint"),
        ("terminating beside ready", &["1 @b", "2! @a"], "1", "2"),
        ("terminating alone", &["1! @a", "2! @b"], "1 2", "1"),
        ("terminating alone, elsewhere", &["1! @b"], "1", "no_local_endpoint"),
        ("ready and terminating here", &["1! @a", "2 @a"], "2", "2"),
        ("zones: those for east", &["1 zeast", "2 zwest", "3 zwest,east"], "1 3", "no_local_endpoint"),
        ("zones: one without a hint", &["1 zeast", "2"], "1 2", "no_local_endpoint"),
        ("zones: none for east", &["1 zwest", "2 zsouth"], "1 2", "no_local_endpoint"),
        ("zones: a terminating one has no say", &["1 zeast", "2 zwest", "3!"], "1", "no_local_endpoint"),
        ("zones: terminating ones alone", &["1! zwest", "2! zeast"], "1 2", "no_local_endpoint"),
        ("zones do not count locally", &["1 @a zwest", "2 @b zeast"], "2", "1"),
        ("nodes: those for a", &["1 na", "2 nb", "3 nb,a"], "1 3", "no_local_endpoint"),
        ("nodes: none for a", &["1 nb", "2 nc"], "1 2", "no_local_endpoint"),
        ("nodes before zones", &["1 na zwest", "2 nb zeast"], "1", "no_local_endpoint"),
        ("nodes: none for a, so zones", &["1 nb zwest", "2 nb zeast"], "2", "no_local_endpoint"),
        ("nodes: one without a hint, so zones", &["1 zwest", "2 na zeast"], "2", "no_local_endpoint"),
    ];
    let here = on("a", Some("east"));
    for (name, endpoints, cluster, local) in rows {
        let service = service(endpoints);
        assert_eq!(chosen(&service, &here, Scope::Cluster), *cluster, "{name}, cluster");
        assert_eq!(chosen(&service, &here, Scope::Local), *local, "{name}, local");
    }
}

#[test]
fn a_node_without_a_zone_or_a_name_is_nobodys_place() {
    let hinted = service(&["1 zeast", "2 zwest"]);
    assert_eq!(chosen(&hinted, &on("a", None), Scope::Cluster), "1 2");
    let empty = service(&["1 z", "2 zwest"]);
    assert_eq!(chosen(&empty, &on("a", None), Scope::Cluster), "1 2");
    let nameless = service(&["1 @", "2"]);
    assert_eq!(chosen(&nameless, &on("", None), Scope::Local), "no_local_endpoint");
}

#[test]
fn each_port_and_family_has_endpoints_and_hints_of_its_own() {
    let mut service = service(&["1 zeast", "2 zwest", "3"]);
    service.ports = vec![80, 81];
    service.endpoints[2].ports = vec![PortMap { service: 81, target: 9090 }];
    service.endpoints.push(Endpoint {
        ports: vec![PortMap { service: 80, target: 1 }],
        ..Endpoint::at("fd00::4".parse().unwrap())
    });
    let here = on("a", Some("east"));
    let at = |port, ipv6| {
        let found = usable(&service, &here, Question { port, ipv6, scope: Scope::Cluster });
        found.map(|all| all.map(|one| (one.endpoint, one.target)).collect::<Vec<_>>())
    };
    // The one without a hint does not have this port, so the hints of the others count.
    assert_eq!(at(80, false), Ok(vec![(0, 8080)]));
    assert_eq!(at(81, false), Ok(vec![(2, 9090)]));
    assert_eq!(at(80, true), Ok(vec![(3, 1)]));
    assert_eq!(at(81, true), Err(Reason::NoEndpoint));
}
