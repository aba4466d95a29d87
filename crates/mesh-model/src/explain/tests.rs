//! Explanations of a small world: who is what, and the decision with the object that took it.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::policy::{Action, Condition, Mode, Policy, Reach, Rule, Source as PolicySource};
use crate::{
    Change, Endpoint, MeshSettings, Phase, PortMap, Reason, Service, ServiceKey, Tunnel, Uid, Workload, World,
};

fn workload(namespace: &str, name: &str, node: &str, address: &str, tunnel: Tunnel) -> Workload {
    Workload {
        uid: Uid::new(&format!("{namespace}-{name}")),
        namespace: namespace.into(),
        name: name.into(),
        owner: name.split('-').next().unwrap_or(name).into(),
        node: node.into(),
        identity: format!("spiffe://cluster.local/ns/{namespace}/sa/{name}").parse().unwrap(),
        addresses: vec![address.parse().unwrap()],
        enrolled: tunnel == Tunnel::Hbone,
        left_alone: None,
        tunnel,
        phase: Phase::Running,
        host_network: false,
        bindings: None,
    }
}

fn world() -> World {
    let mut world = World::default();
    for (namespace, name, node, address, tunnel) in [
        ("shop", "web", "a", "10.0.0.1", Tunnel::Hbone),
        ("shop", "cart", "a", "10.0.0.2", Tunnel::Hbone),
        ("shop", "db-0", "b", "10.0.1.3", Tunnel::Hbone),
        ("yard", "store", "b", "10.0.1.4", Tunnel::None),
        ("yard", "other", "a", "10.0.0.5", Tunnel::None),
    ] {
        world.apply(Change::Workload(workload(namespace, name, node, address, tunnel)));
    }
    world.apply(Change::Workload(Workload {
        enrolled: true,
        ..workload("shop", "late", "a", "10.0.0.6", Tunnel::None)
    }));
    let endpoint = |address: &str, target: u16| Endpoint {
        ports: vec![PortMap { service: 80, target }],
        ready: true,
        ..Endpoint::at(address.parse().unwrap())
    };
    world.apply(Change::Service(Service {
        addresses: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![80, 81],
        endpoints: vec![endpoint("10.0.0.2", 8080), endpoint("10.0.1.3", 8080)],
        ..Service::bare(ServiceKey::new("shop", "both"))
    }));
    world.set_complete();
    world
}

fn policy(name: &str, action: Action, mode: Mode, from: Option<&str>) -> Policy {
    let source = |pattern: &str| PolicySource {
        all: vec![Condition::Identity(pattern.parse().unwrap())],
        none: Vec::new(),
    };
    Policy {
        key: PolicyKey::new("shop", name),
        reach: Reach { mesh: false, namespaces: vec!["shop".into()] },
        action,
        mode,
        rules: vec![Rule { sources: from.map(|from| vec![source(from)]), ..Rule::default() }],
    }
}

fn ask(world: &World, from: &str, to: &str) -> Explanation {
    let (place, port) = Place::with_port(to).unwrap();
    let source = from.parse::<Place>().unwrap().source(world).unwrap();
    explain(world, &source, &place.target(world, port).unwrap(), Some(&Ok(())))
}

fn said(explanation: &Explanation, step: &str) -> String {
    let found = explanation.steps.iter().find(|one| one.step == step);
    found.map_or_else(String::new, |one| {
        format!("{}|{}|{}", one.result, one.object.as_deref().unwrap_or_default(), one.detail)
    })
}

#[test]
fn every_path_has_its_word() {
    let world = world();
    for (from, to, verdict, path) in [
        ("shop/web", "shop/cart:80", Answer::Allow, Path::Direct),
        ("shop/web", "shop/db-0:80", Answer::Allow, Path::Tunnel),
        ("shop/web", "workload/shop/db:80", Answer::Allow, Path::Tunnel),
        ("shop/web", "10.0.1.3:80", Answer::Allow, Path::Tunnel),
        ("10.0.0.1", "10.0.1.3:80", Answer::Allow, Path::Tunnel),
        ("yard/store", "shop/web:80", Answer::Allow, Path::Plaintext),
        ("192.0.2.1", "shop/web:80", Answer::Allow, Path::Plaintext),
        ("shop/web", "yard/store:80", Answer::Allow, Path::Passthrough),
        ("shop/web", "192.0.2.1:443", Answer::Allow, Path::Passthrough),
        ("shop/web", "shop/web:80", Answer::Allow, Path::Direct),
        ("shop/web", "service/shop/both:81", Answer::Deny, Path::Refused),
        ("shop/web", "service/shop/both:82", Answer::Deny, Path::Refused),
        ("shop/late", "shop/web:80", Answer::Deny, Path::Refused),
        ("shop/web", "[fd00::1]:80", Answer::Deny, Path::Refused),
    ] {
        let explanation = ask(&world, from, to);
        assert_eq!(
            (explanation.verdict, explanation.path),
            (verdict, path),
            "{from} to {to}: {explanation:#?}"
        );
        assert_eq!(explanation.reason.is_some(), verdict == Answer::Deny, "{from} to {to}");
    }
    let why = |to| ask(&world, "shop/web", to).reason.unwrap();
    assert_eq!(why("service/shop/both:81"), Reason::NoEndpoint.as_str());
    assert_eq!(why("service/shop/both:82"), Reason::NoServicePort.as_str());
}

#[test]
fn every_step_names_the_object_that_decided() {
    let mut world = world();
    world.apply(Change::Policy(policy(
        "web-only",
        Action::Allow,
        Mode::Enforce,
        Some("spiffe://cluster.local/ns/shop/sa/web"),
    )));
    world.apply(Change::Policy(policy("never", Action::Deny, Mode::Audit, None)));
    let allowed = ask(&world, "shop/web", "shop/db-0:5432");
    assert_eq!(said(&allowed, "source"), "pod|Pod shop/web|10.0.0.1 on node a");
    assert_eq!(said(&allowed, "capture"), "captured|Pod shop/web|");
    assert_eq!(said(&allowed, "identity"), "authenticated||spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(said(&allowed, "destination"), "captured|Pod shop/db-0|10.0.1.3:5432 on node b");
    assert_eq!(said(&allowed, "path"), "tunnel||mutual TLS to node b");
    assert!(said(&allowed, "policy").starts_with("allow|AuthorizationPolicy shop/web-only rule 0|"));
    let decider = Decider { namespace: "shop".into(), name: "web-only".into(), rule: Some(0) };
    assert_eq!(allowed.policy, Some(decider));
    let [would] = allowed.audit.as_slice() else { panic!("{allowed:#?}") };
    assert_eq!((would.verdict, would.policy.name.as_str()), (Answer::Deny, "never"));

    let refused = ask(&world, "shop/cart", "shop/db-0:5432");
    assert_eq!((refused.verdict, refused.path), (Answer::Deny, Path::Refused));
    assert_eq!(refused.reason.as_deref(), Some("policy_not_allowed"));
    assert_eq!(refused.policy.unwrap().rule, None);
    let plain = ask(&world, "yard/other", "shop/cart:80");
    assert_eq!((plain.verdict, said(&plain, "identity").as_str()), (Answer::Deny, "none||"));

    // Of a Service's endpoints the one that is refused is shown.
    world.apply(Change::PolicyRemoved(PolicyKey::new("shop", "web-only")));
    let mut bound = workload("shop", "db-0", "b", "10.0.1.3", Tunnel::Hbone);
    bound.bindings = Some(Box::new(crate::policy::Bindings {
        policies: vec![PolicyKey::new("shop", "nobody")],
        mtls: Vec::new(),
    }));
    world.apply(Change::Workload(bound));
    let nobody = Policy {
        reach: Reach::default(),
        rules: Vec::new(),
        ..policy("nobody", Action::Allow, Mode::Enforce, None)
    };
    world.apply(Change::Policy(nobody));
    let service = ask(&world, "shop/web", "service/shop/both:80");
    assert_eq!(said(&service, "service"), "found|Service shop/both|10.96.0.1:80, chosen by the mesh");
    assert!(service.steps.iter().any(|step| step.result == "differ"), "{service:#?}");
    assert_eq!(service.policy.unwrap().name, "nobody");
}

#[test]
fn settings_decide_too() {
    let mut world = world();
    let settings = |settings: MeshSettings| Change::Mesh(settings);
    world
        .apply(settings(MeshSettings { mtls: Some(crate::policy::Mtls::Strict), ..MeshSettings::default() }));
    let plain = ask(&world, "yard/store", "shop/web:80");
    assert_eq!(plain.reason.as_deref(), Some("plaintext_refused"));
    assert!(said(&plain, "mtls").starts_with("strict|MeshConfig default|"));
    assert_eq!(ask(&world, "shop/cart", "shop/web:80").verdict, Answer::Allow);
    world.apply(settings(MeshSettings { same_node_tunnel: Some(true), ..MeshSettings::default() }));
    assert_eq!(ask(&world, "shop/cart", "shop/web:80").path, Path::Tunnel);
    world.apply(settings(MeshSettings { excluded_ports: vec![80..=80], ..MeshSettings::default() }));
    let excluded = ask(&world, "shop/cart", "shop/db-0:80");
    assert_eq!(excluded.path, Path::Plaintext);
    assert_eq!(said(&excluded, "exclusion"), "excluded|MeshConfig default|excludedPorts: 80");
    assert_eq!(ask(&world, "shop/cart", "shop/db-0:81").path, Path::Tunnel);
    let unguarded = Err("a device cannot be guarded".to_owned());
    let source = "shop/cart".parse::<Place>().unwrap().source(&world).unwrap();
    let target = "shop/web".parse::<Place>().unwrap().target(&world, 81).unwrap();
    let explanation = explain(&world, &source, &target, Some(&unguarded));
    assert_eq!(said(&explanation, "path"), "tunnel||not directly: a device cannot be guarded");
}

#[test]
fn names_that_are_none_are_told_with_the_remedy() {
    let mut world = world();
    world.apply(Change::Service(Service::bare(ServiceKey::new("shop", "alone"))));
    let source = |text: &str| text.parse::<Place>().and_then(|place| place.source(&world)).map(drop);
    let error = |result: Result<(), NoSuchPlace>| result.unwrap_err().to_string();
    assert!(error(source("web")).contains("NAMESPACE/POD"));
    assert!(error(source("shop/nobody")).contains("there is no shop/nobody"));
    assert!(error(source("shop/alone")).contains("is a Service"));
    assert!(error(source("service/shop/alone")).contains("is a Service"));
    let target = |text: &str| text.parse::<Place>().and_then(|place| place.target(&world, 80)).map(drop);
    assert!(error(target("shop/alone")).contains("has no address"));
    for wrong in ["shop/web", "shop/web:http", "shop/web:0", "fd00::1", ":80"] {
        assert!(Place::with_port(wrong).is_err(), "{wrong}");
    }
    assert_eq!(Place::with_port("[fd00::1]:80").unwrap(), (Place::Address("fd00::1".parse().unwrap()), 80));
    let value = serde_json::to_value(ask(&world, "pod/shop/web", "shop/cart:80")).unwrap();
    for key in ["verdict", "path", "steps", "policy", "audit", "kernel"] {
        assert!(value.get(key).is_some(), "{key}: {value}");
    }
    assert_eq!(value["verdict"], "allow");
}

#[test]
fn of_a_pod_and_a_service_of_one_name_the_pod_dials_and_the_service_is_dialled() {
    let mut world = world();
    let service = |name: &str, addresses: Vec<std::net::IpAddr>| {
        let ports = vec![80];
        Change::Service(Service { addresses, ports, ..Service::bare(ServiceKey::new("shop", name)) })
    };
    let address = |text: &str| vec![text.parse().unwrap()];
    world.apply(service("web", address("10.96.0.2")));
    // `db` is what the pod db-0 is a replica of, and the Service before it.
    world.apply(service("db", address("10.96.0.3")));
    world.apply(service("cart", Vec::new()));
    for (written, is) in [("shop/web", "web"), ("pod/shop/web", "web"), ("shop/db", "db-0")] {
        let source = written.parse::<Place>().unwrap().source(&world).unwrap();
        assert_eq!(&*source.workload.unwrap().name, is, "{written}");
    }
    let error = "svc/shop/web".parse::<Place>().unwrap().source(&world).unwrap_err();
    assert!(matches!(error, NoSuchPlace::ServiceAsSource(_)), "{error}");
    for (written, address) in [
        ("shop/web:80", "10.96.0.2:80"),
        ("shop/web:81", "10.0.0.1:81"),
        ("svc/shop/web:81", "10.96.0.2:81"),
        ("pod/shop/web:80", "10.0.0.1:80"),
        ("shop/db:80", "10.96.0.3:80"),
        ("deploy/shop/db:80", "10.0.1.3:80"),
        // A headless one has nothing to dial.
        ("shop/cart:80", "10.0.0.2:80"),
    ] {
        let (place, port) = Place::with_port(written).unwrap();
        assert_eq!(place.target(&world, port).unwrap().addresses, [address.parse().unwrap()], "{written}");
    }
}
