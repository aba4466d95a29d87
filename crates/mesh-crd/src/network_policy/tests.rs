//! Which NetworkPolicies would cut tunnels, and which would not.
#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;

struct Pods(Vec<(&'static str, &'static str, Labels, Vec<IpAddr>)>);

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
}

fn pods() -> Pods {
    Pods(vec![
        ("shop", "web-1", labels("app=web"), vec!["10.0.0.1".parse().unwrap()]),
        ("shop", "web-2", labels("app=web,pod-template-hash=abc"), vec!["10.0.0.2".parse().unwrap()]),
        ("shop", "db-1", labels("app=db,tier=data"), vec!["10.0.0.3".parse().unwrap()]),
        ("bank", "till-1", labels("app=till"), vec!["10.0.1.1".parse().unwrap()]),
    ])
}

/// `POLICY ingress FROM -> TO` for each cut.
fn found(policies: &[(&str, &str)]) -> Vec<String> {
    let policies: Vec<Policy> = policies
        .iter()
        .map(|(name, spec)| Policy {
            namespace: "shop".into(),
            name: (*name).into(),
            spec: serde_saphyr::from_str(spec).unwrap(),
        })
        .collect();
    let namespaces = [("shop".to_owned(), labels("team=a")), ("bank".to_owned(), labels("team=b"))].into();
    let pods = pods();
    let subjects: Vec<Subject<'_>> = pods
        .0
        .iter()
        .map(|(namespace, name, labels, addresses)| Subject { namespace, name, labels, addresses })
        .collect();
    cuts(&policies, &namespaces, &subjects)
        .iter()
        .map(|cut| format!("{} {} {} -> {}", cut.name, cut.direction, cut.from, cut.to))
        .collect()
}

#[test]
fn a_policy_for_the_applications_port_alone_cuts() {
    let only_web = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], \
                    ports: [{port: 5432}]}]}";
    assert_eq!(found(&[("db", only_web)]), ["db ingress shop/web-1 -> shop/db-1"]);
}

#[test]
fn what_admits_15008_too_does_not() {
    for ports in
        ["[{port: 5432}, {port: 15008}]", "[{port: 15000, endPort: 15010}]", "[{protocol: TCP}]", "[]"]
    {
        let spec = format!("{{podSelector: {{}}, ingress: [{{ports: {ports}}}]}}");
        assert_eq!(found(&[("all", &spec)]), [""; 0], "{ports}");
    }
    let apps = "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 5432}]}]}";
    let mesh = "{podSelector: {}, ingress: [{ports: [{port: 15008}]}]}";
    assert_eq!(found(&[("apps", apps), ("mesh", mesh)]), [""; 0]);
}

#[test]
fn who_is_not_admitted_at_all_is_not_cut() {
    assert_eq!(found(&[("deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}")]), [""; 0]);
    let udp = "{podSelector: {}, ingress: [{ports: [{port: 53, protocol: UDP}]}]}";
    assert_eq!(found(&[("dns", udp)]), [""; 0]);
}

#[test]
fn egress_named_ports_selectors_and_blocks_are_read_as_kubernetes_reads_them() {
    let egress = "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: http}], \
                  to: [{podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]}";
    assert_eq!(found(&[("out", egress)]), ["out egress shop/web-1 -> shop/db-1"]);
    let other = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}], \
                 ports: [{port: 1}]}]}";
    assert_eq!(found(&[("other", other)]), ["other ingress bank/till-1 -> shop/db-1"]);
    let block = "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16, except: \
                 [10.0.0.0/24]}}], ports: [{port: 1}]}]}";
    assert_eq!(found(&[("block", block)]), ["block ingress bank/till-1 -> shop/db-1"]);
    let words = "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn, \
                 values: [web, till]}]}}], ports: [{port: 1}]}]}";
    assert_eq!(found(&[("words", words)]), ["words ingress shop/db-1 -> shop/web-1"]);
}
