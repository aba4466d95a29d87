#![allow(clippy::unwrap_used, reason = "tests")]

use mesh_telemetry::api::DumpedService;

use super::*;

fn workload(name: &str, labels: &[(&str, &str)]) -> DumpedWorkload {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let workload = Workload {
        uid: Uid::new(name),
        namespace: "shop".into(),
        name: name.into(),
        owner: name.into(),
        node: "a".into(),
        identity: format!("spiffe://weft.test/ns/shop/sa/{name}").parse().unwrap(),
        addresses: Vec::new(),
        enrolled: true,
        left_alone: None,
        tunnel: Default::default(),
        phase: Default::default(),
        host_network: false,
        bindings: None,
    };
    DumpedWorkload { workload, labels }
}

fn observed(from: Option<&str>, to: &str, port: u16) -> ObservedRow {
    ObservedRow {
        identity: from.map(|name| format!("spiffe://weft.test/ns/shop/sa/{name}").parse().unwrap()),
        source: from.map(Uid::new),
        address: IpAddr::from([10, 0, 0, 9]),
        uid: Uid::new(to),
        port,
        connections: 5,
        last: Timestamp::from_unix(1_000),
    }
}

/// `web` behind a Service of its name, dialled by `cart`, by `spy`, in plaintext, and a pod that is gone.
fn dump() -> WorldDump {
    WorldDump {
        as_of: Timestamp::from_unix(2_000),
        trust_domain: "weft.test".parse().unwrap(),
        system_namespace: "weft-system".into(),
        mesh: None,
        workloads: vec![workload("web", &[("app", "web")]), workload("cart", &[]), workload("spy", &[])],
        services: vec![DumpedService {
            namespace: "shop".into(),
            name: "web".into(),
            pods: vec![Uid::new("web")],
        }],
        policies: Vec::new(),
        observed: vec![
            observed(Some("cart"), "web", 80),
            observed(Some("spy"), "web", 80),
            observed(None, "web", 80),
            observed(Some("cart"), "gone", 80),
        ],
        unobserved: 0,
    }
}

fn tried_out(dump: &WorldDump, yaml: &str) -> Trial {
    run(dump, &read(yaml).unwrap().0).unwrap()
}

fn sources(changed: &[Changed]) -> Vec<&str> {
    changed.iter().map(|one| one.source.name.as_deref().unwrap_or("plaintext")).collect()
}

fn only_cart(target: &str, mode: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: web, namespace: shop}}\n\
         spec:\n  targetRefs: [{target}]\n  action: ALLOW\n  mode: {mode}\n\
         \x20 rules: [{{sources: [{{serviceAccount: {{name: cart}}}}]}}]\n"
    )
}

const PODS: &str = "{kind: Pod, selector: {matchLabels: {app: web}}}";
const SERVICE: &str = "{kind: Service, name: web}";

#[test]
fn whoever_the_new_policy_does_not_name_is_cut() {
    for target in [PODS, SERVICE, "{kind: Namespace}"] {
        let trial = tried_out(&dump(), &only_cart(target, "Enforce"));
        assert_eq!(sources(&trial.cut), ["spy", "plaintext"], "{target}");
        assert_eq!((trial.observed, trial.gone), (4, 1));
        assert!(trial.admitted.is_empty() && trial.audited.is_empty());
        let by = trial.cut[0].policy.as_ref().unwrap();
        assert_eq!((by.name.as_str(), trial.policies[0].change), ("web", "new"));
        assert_eq!(deciders(&trial.cut)["shop/web"], 10);
    }
}

#[test]
fn an_audited_one_cuts_nothing_and_says_so() {
    let trial = tried_out(&dump(), &only_cart(PODS, "Audit"));
    assert_eq!((sources(&trial.cut), sources(&trial.audited)), (vec![], vec!["spy", "plaintext"]));
}

#[test]
fn a_policy_of_the_same_name_is_replaced() {
    let mut dump = dump();
    let old =
        read(&only_cart(PODS, "Enforce")).unwrap().0[0].authored(&dump.trust_domain, "weft-system").unwrap();
    dump.workloads[0].workload.bindings =
        Some(Box::new(Bindings { policies: vec![old.policy.key.clone()], mtls: Vec::new() }));
    dump.policies.push(old.policy);
    let same = tried_out(&dump, &only_cart(PODS, "Enforce"));
    assert_eq!((same.policies[0].change, same.cut.len(), same.policies[0].pods), ("unchanged", 0, 1));
    let wider = tried_out(&dump, &only_cart(PODS, "Enforce").replace("name: cart", "name: \"*\""));
    assert_eq!((wider.policies[0].change, sources(&wider.admitted)), ("changed", vec!["spy"]));
    let elsewhere =
        tried_out(&dump, &only_cart("{kind: Pod, selector: {matchLabels: {app: db}}}", "Enforce"));
    assert_eq!(sources(&elsewhere.admitted), ["spy", "plaintext"]);
    assert!(elsewhere.policies[0].warnings.iter().any(|warning| warning.contains("no pod")));
}

#[test]
fn other_objects_are_counted_and_mistakes_are_named() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
    let (policies, others) = read(&format!("# a comment\n{}{service}", only_cart(PODS, "Enforce"))).unwrap();
    assert_eq!((policies.len(), others), (1, 1));
    let error = |text: &str| read(text).unwrap_err();
    assert!(error(service).contains("no AuthorizationPolicy"));
    assert!(error("a: [").starts_with("document 1: "));
    assert!(error(&only_cart(PODS, "Enforce").replace("action", "actoin")).contains("actoin"));
    let range = only_cart(PODS, "Enforce").replace("name: cart", "name: \"\"");
    assert!(run(&dump(), &read(&range).unwrap().0).unwrap_err().starts_with("policy web: spec.rules[0]"));
}
