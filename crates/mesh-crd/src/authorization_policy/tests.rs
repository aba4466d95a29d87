//! What a written policy comes to in the model, and how what is wrong in one is named.
#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;
use mesh_model::TrustDomain;
use mesh_model::policy::{Action, Mode};

fn read(namespace: &str, spec: &str) -> Result<Authored, PolicyError> {
    let text = format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: web, namespace: {namespace}, generation: 3}}, spec: {spec}}}"
    );
    let policy: AuthorizationPolicy = serde_saphyr::from_str(&text).unwrap();
    policy.authored(&TrustDomain::new("cluster.local").unwrap(), "weft-system")
}

const ALL: &str = "targetRefs: [{kind: Pod, selector: {}}]";

#[test]
fn an_object_of_gep_3779_reads_as_it_is() {
    let authored = read(
        "shop",
        "{targetRefs: [{kind: Pod, selector: {matchLabels: {app: web}}}], action: ALLOW, rules: [{sources: \
         [{type: ServiceAccount, serviceAccount: {name: cart}}, {type: SPIFFE, spiffe: \"spiffe://cluster.local/ns/bank/sa/*\"}], \
         networkAttributes: {ports: [8080]}}]}",
    )
    .unwrap();
    let policy = &authored.policy;
    assert_eq!(policy.key.to_string(), "shop/web");
    assert_eq!((policy.action, policy.mode, authored.generation), (Action::Allow, Mode::Enforce, Some(3)));
    assert!(!policy.reach.mesh && policy.reach.namespaces.is_empty());
    assert!(
        matches!(authored.targets.as_slice(), [Target::Pods(Within::Namespace(within), _)] if within == "shop")
    );
    let said = format!("{:?}", policy.rules);
    for part in ["\"shop\"", "\"cart\"", "\"bank\"", "8080..=8080", "\"cluster.local\""] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(authored.warnings.is_empty(), "{:?}", authored.warnings);
}

#[test]
fn a_target_of_the_release_namespace_is_the_whole_meshs() {
    let reach = |namespace: &str, targets: &str| {
        let authored = read(namespace, &format!("{{targetRefs: [{targets}], action: DENY}}")).unwrap();
        let reach = authored.policy.reach;
        let namespaces: Vec<_> = reach.namespaces.iter().map(|name| name.to_string()).collect();
        (reach.mesh, namespaces, authored.targets)
    };
    assert_eq!(reach("shop", "{kind: Pod, selector: {}}"), (false, vec!["shop".into()], vec![]));
    assert_eq!(reach("shop", "{kind: Namespace}"), (false, vec!["shop".into()], vec![]));
    assert_eq!(reach("shop", "{kind: Namespace, name: shop}"), (false, vec!["shop".into()], vec![]));
    assert_eq!(reach("weft-system", "{kind: Pod, selector: {}}"), (true, vec![], vec![]));
    assert_eq!(reach("weft-system", "{kind: Namespace}"), (true, vec![], vec![]));
    assert_eq!(reach("weft-system", "{kind: Namespace, name: bank}"), (false, vec!["bank".into()], vec![]));
    let (_, _, targets) = reach("weft-system", "{kind: Pod, selector: {matchLabels: {tier: db}}}");
    assert!(matches!(targets.as_slice(), [Target::Pods(Within::Mesh, _)]));
    let (_, _, targets) = reach("shop", "{kind: Service, name: web}");
    assert!(matches!(targets.as_slice(), [Target::Service(key)] if key.to_string() == "shop/web"));
}

#[test]
fn what_cannot_be_meant_is_named_by_its_field() {
    let rule = |rule: &str| format!("{{{ALL}, action: ALLOW, rules: [{{{rule}}}]}}");
    let cases = [
        ("{targetRefs: [], action: ALLOW}".to_owned(), "spec.targetRefs"),
        ("{targetRefs: [{kind: Pod}], action: ALLOW}".into(), "spec.targetRefs[0].selector"),
        ("{targetRefs: [{kind: Pod, selector: {}, name: web}], action: ALLOW}".into(), "spec.targetRefs[0].name"),
        ("{targetRefs: [{kind: Service}], action: ALLOW}".into(), "spec.targetRefs[0].name"),
        ("{targetRefs: [{kind: Service, name: web, selector: {}}], action: ALLOW}".into(), "spec.targetRefs[0].selector"),
        ("{targetRefs: [{kind: Namespace, name: bank}], action: ALLOW}".into(), "spec.targetRefs[0].name"),
        ("{targetRefs: [{kind: Service, name: web, group: apps}], action: ALLOW}".into(), "spec.targetRefs[0].group"),
        (
            "{targetRefs: [{kind: Pod, selector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}], action: ALLOW}".into(),
            "spec.targetRefs[0].selector.matchExpressions[0].operator",
        ),
        (rule("sources: [{}]"), "spec.rules[0].sources[0]"),
        (rule("sources: [{type: SPIFFE, namespace: shop}]"), "spec.rules[0].sources[0].type"),
        (rule("sources: [{spiffe: web}]"), "spec.rules[0].sources[0].spiffe"),
        (rule("sources: [{spiffe: \"spiffe://a/ns/*b*/sa/c\"}]"), "spec.rules[0].sources[0].spiffe"),
        (rule("sources: [{namespace: Shop}]"), "spec.rules[0].sources[0].namespace"),
        (rule("sources: [{serviceAccount: {name: \"\"}}]"), "spec.rules[0].sources[0].serviceAccount.name"),
        (rule("sources: [{ipBlock: {cidr: 10.0.0.0}}]"), "spec.rules[0].sources[0].ipBlock.cidr"),
        (
            rule("sources: [{ipBlock: {cidr: 10.0.0.0/8, except: [192.0.2.0/24]}}]"),
            "spec.rules[0].sources[0].ipBlock.except[0]",
        ),
        (rule("sources: [{not: [{}]}]"), "spec.rules[0].sources[0].not[0]"),
        (rule("sources: [{not: [{namespace: a}, {spiffe: x}]}]"), "spec.rules[0].sources[0].not[1].spiffe"),
        (rule("networkAttributes: {ports: []}"), "spec.rules[0].networkAttributes.ports"),
        (rule("networkAttributes: {ports: [80, 0]}"), "spec.rules[0].networkAttributes.ports[1]"),
        (rule("networkAttributes: {ports: [\"90-80\"]}"), "spec.rules[0].networkAttributes.ports[0]"),
        (rule("networkAttributes: {ports: [65536]}"), "spec.rules[0].networkAttributes.ports[0]"),
    ];
    for (spec, field) in cases {
        let error = read("shop", &spec).expect_err(&spec);
        assert_eq!(error.field, field, "{spec}: {error}");
    }
    for unknown in ["{targetRefs: [], action: ALLOW, rule: []}", "{targetRefs: [], action: Allow}"] {
        let text = format!("{{metadata: {{name: web}}, spec: {unknown}}}");
        assert!(serde_saphyr::from_str::<AuthorizationPolicy>(&text).is_err(), "{unknown}");
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let warnings = |spec: &str| read("shop", spec).unwrap().warnings.join("\n");
    let form = warnings(&format!(
        "{{{ALL}, action: ALLOW, rules: [{{sources: [{{spiffe: \"spiffe://cluster.local/web\"}}]}}]}}"
    ));
    assert!(form.contains("spec.rules[0].sources[0]") && form.contains("no rule can match"), "{form}");
    let layer7 =
        warnings(&format!("{{{ALL}, action: DENY, rules: [{{httpAttributes: {{methods: [GET]}}}}]}}"));
    assert!(
        layer7.contains("spec.rules[0].httpAttributes") && layer7.contains("as if they were met"),
        "{layer7}"
    );
    assert!(
        warnings(&format!("{{{ALL}, action: ALLOW}}")).contains("refused"),
        "ALLOW of nothing is legal, and is said"
    );
    assert_eq!(warnings(&format!("{{{ALL}, action: ALLOW, rules: [{{}}]}}")), "");
}
