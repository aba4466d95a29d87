#![allow(clippy::unwrap_used, reason = "tests")]

mod random;

use super::*;
use crate::world::tests::workload;
use crate::{Change, MeshSettings, Tunnel, World};

const SHOP_WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const SHOP_CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const BANK_WEB: &str = "spiffe://cluster.local/ns/bank/sa/web";

fn is(pattern: &str) -> Condition {
    Condition::Identity(pattern.parse().unwrap())
}

fn at(net: &str) -> Condition {
    Condition::Address(IpBlock { net: net.parse().unwrap(), except: Vec::new() })
}

fn from(all: Vec<Condition>) -> Source {
    Source { all, none: Vec::new() }
}

fn not(list: Vec<Condition>) -> Source {
    Source { all: Vec::new(), none: vec![list] }
}

fn rule(sources: Option<Vec<Source>>) -> Rule {
    Rule { sources, ..Rule::default() }
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
    Policy {
        key: PolicyKey::new("shop", name),
        reach: Reach { mesh: false, namespaces: vec!["shop".into()] },
        action,
        mode: Mode::Enforce,
        rules,
    }
}

fn allow(rules: Vec<Rule>) -> Policy {
    policy("allow", Action::Allow, rules)
}

fn deny(rules: Vec<Rule>) -> Policy {
    policy("deny", Action::Deny, rules)
}

/// One row of the table in docs/policy.md.
struct Row {
    /// What it shows.
    says: &'static str,
    policies: Vec<Policy>,
    identity: Option<&'static str>,
    from: &'static str,
    port: u16,
    admitted: bool,
}

fn row(
    says: &'static str,
    policies: Vec<Policy>,
    identity: Option<&'static str>,
    port: u16,
    admitted: bool,
) -> Row {
    Row { says, policies, identity, from: "10.0.0.9", port, admitted }
}

fn rows() -> Vec<Row> {
    let any = || rule(None);
    let web = || rule(Some(vec![from(vec![is(SHOP_WEB)])]));
    let not_web = || rule(Some(vec![not(vec![is(SHOP_WEB)])]));
    let shop = || rule(Some(vec![from(vec![is("spiffe://cluster.local/ns/shop/*")])]));
    let ports = |ports: RangeInclusive<u16>| Rule { ports: vec![ports], ..Rule::default() };
    let layer7 = || Rule { layer7: true, ..Rule::default() };
    let audit = |policy: Policy| Policy { mode: Mode::Audit, ..policy };
    let block = |net: &str, except: &[&str]| {
        let except = except.iter().map(|net| net.parse().unwrap()).collect();
        rule(Some(vec![from(vec![Condition::Address(IpBlock { net: net.parse().unwrap(), except })])]))
    };
    let shop_but_web = || {
        rule(Some(vec![Source {
            all: vec![is("spiffe://cluster.local/ns/shop/*")],
            none: vec![vec![is(SHOP_WEB)]],
        }]))
    };
    vec![
        row("no policy admits everybody", vec![], None, 80, true),
        row("ALLOW admits whom it names", vec![allow(vec![web()])], Some(SHOP_WEB), 80, true),
        row("any ALLOW means that nobody else is", vec![allow(vec![web()])], Some(SHOP_CART), 80, false),
        row("ALLOW of an identity is not for plaintext", vec![allow(vec![web()])], None, 80, false),
        row("a negated identity in ALLOW is not either", vec![allow(vec![not_web()])], None, 80, false),
        row(
            "a negated identity in ALLOW admits others",
            vec![allow(vec![not_web()])],
            Some(SHOP_CART),
            80,
            true,
        ),
        row("and not that one", vec![allow(vec![not_web()])], Some(SHOP_WEB), 80, false),
        row("ALLOW of anybody admits plaintext", vec![allow(vec![any()])], None, 80, true),
        row("ALLOW without rules admits nobody", vec![allow(vec![])], Some(SHOP_WEB), 80, false),
        row(
            "an empty list of sources is nobody",
            vec![allow(vec![rule(Some(vec![]))])],
            Some(SHOP_WEB),
            80,
            false,
        ),
        row("DENY refuses whom it names", vec![deny(vec![web()])], Some(SHOP_WEB), 80, false),
        row("DENY leaves the others", vec![deny(vec![web()])], Some(SHOP_CART), 80, true),
        row("DENY of an identity is not about plaintext", vec![deny(vec![web()])], None, 80, true),
        row("a negated identity in DENY refuses plaintext", vec![deny(vec![not_web()])], None, 80, false),
        row(
            "a negated identity in DENY spares that one",
            vec![deny(vec![not_web()])],
            Some(SHOP_WEB),
            80,
            true,
        ),
        row("DENY of an empty list is about nobody", vec![deny(vec![rule(Some(vec![]))])], None, 80, true),
        row("DENY without rules is about nobody", vec![deny(vec![])], Some(SHOP_WEB), 80, true),
        row("DENY of anybody refuses everybody", vec![deny(vec![any()])], Some(SHOP_WEB), 80, false),
        row(
            "DENY comes before ALLOW",
            vec![allow(vec![web()]), deny(vec![any()])],
            Some(SHOP_WEB),
            80,
            false,
        ),
        row(
            "DENY of others leaves what ALLOW admits",
            vec![allow(vec![web()]), deny(vec![rule(Some(vec![from(vec![is(SHOP_CART)])]))])],
            Some(SHOP_WEB),
            80,
            true,
        ),
        row("a namespace holds its accounts", vec![allow(vec![shop()])], Some(SHOP_CART), 80, true),
        row("and no other namespace's", vec![allow(vec![shop()])], Some(BANK_WEB), 80, false),
        row("all but one of a namespace", vec![allow(vec![shop_but_web()])], Some(SHOP_CART), 80, true),
        row("and not the one", vec![allow(vec![shop_but_web()])], Some(SHOP_WEB), 80, false),
        row("a port in the range", vec![allow(vec![ports(8000..=8080)])], Some(SHOP_WEB), 8080, true),
        row("a port beside it", vec![allow(vec![ports(8000..=8080)])], Some(SHOP_WEB), 8081, false),
        row("DENY of a port leaves others", vec![deny(vec![ports(22..=22)])], None, 80, true),
        row("DENY of a port", vec![deny(vec![ports(22..=22)])], Some(SHOP_WEB), 22, false),
        row(
            "a rule needs both source and port",
            vec![allow(vec![Rule { ports: vec![80..=80], ..web() }])],
            Some(SHOP_WEB),
            81,
            false,
        ),
        row("rules are alternatives", vec![allow(vec![ports(81..=81), web()])], Some(SHOP_WEB), 80, true),
        row("an address in the block", vec![allow(vec![block("10.0.0.0/24", &[])])], None, 80, true),
        row("an address in none", vec![allow(vec![block("10.0.1.0/24", &[])])], None, 80, false),
        row(
            "an exception of the block",
            vec![allow(vec![block("10.0.0.0/24", &["10.0.0.8/30"])])],
            None,
            80,
            false,
        ),
        row(
            "a block is about peers with identity, too",
            vec![deny(vec![block("10.0.0.0/8", &[])])],
            Some(SHOP_WEB),
            80,
            false,
        ),
        row(
            "an identity from elsewhere",
            vec![allow(vec![rule(Some(vec![from(vec![is(SHOP_WEB), at("192.0.2.0/24")])]))])],
            Some(SHOP_WEB),
            80,
            false,
        ),
        row(
            "an identity from there",
            vec![allow(vec![rule(Some(vec![from(vec![is(SHOP_WEB), at("10.0.0.0/8")])]))])],
            Some(SHOP_WEB),
            80,
            true,
        ),
        row(
            "an address that is not in a block, without identity",
            vec![allow(vec![rule(Some(vec![not(vec![at("192.0.2.0/24")])]))])],
            None,
            80,
            true,
        ),
        row(
            "another trust domain is not ours",
            vec![allow(vec![web()])],
            Some("spiffe://elsewhere/ns/shop/sa/web"),
            80,
            false,
        ),
        row("layer 7 in ALLOW is not matched", vec![allow(vec![layer7()])], Some(SHOP_WEB), 80, false),
        row("layer 7 in DENY is matched", vec![deny(vec![layer7()])], Some(SHOP_WEB), 80, false),
        row("an Audit DENY refuses nobody", vec![audit(deny(vec![any()]))], Some(SHOP_WEB), 80, true),
        row("an Audit ALLOW is no ALLOW", vec![audit(allow(vec![web()]))], Some(SHOP_CART), 80, true),
        row(
            "an Audit ALLOW admits nobody",
            vec![audit(policy("b", Action::Allow, vec![any()])), allow(vec![web()])],
            Some(SHOP_CART),
            80,
            false,
        ),
    ]
}

#[test]
fn the_truth_table() {
    for Row { says, policies, identity, from, port, admitted } in rows() {
        let identity: Option<Identity> = identity.map(|identity| identity.parse().unwrap());
        let peer = Peer { identity: identity.as_ref(), address: from.parse().unwrap() };
        let verdict = judge(policies.iter(), peer, port);
        assert_eq!(verdict.is_allowed(), admitted, "{says}: {verdict}");
        assert_eq!(verdict.reason().is_none(), admitted, "{says}");
    }
}

#[test]
fn a_verdict_names_the_policy_and_rule_that_decided() {
    let both = [
        policy("a", Action::Allow, vec![rule(Some(vec![])), rule(None)]),
        policy("b", Action::Deny, vec![Rule { ports: vec![22..=22], ..Rule::default() }]),
        policy("c", Action::Allow, vec![rule(None)]),
    ];
    let peer = Peer { identity: None, address: "10.0.0.9".parse().unwrap() };
    let decided =
        |port| judge(both.iter(), peer, port).decided_by().map(|(key, rule)| (key.to_string(), rule));
    assert_eq!(decided(80), Some(("shop/a".into(), Some(1))), "the first by name of several that admit");
    assert_eq!(decided(22), Some(("shop/b".into(), Some(0))));
    let nobody = [policy("a", Action::Allow, vec![])];
    let verdict = judge(nobody.iter(), peer, 80);
    assert_eq!(verdict, Verdict::Unmatched(&nobody[0]));
    assert_eq!(verdict.reason(), Some(Reason::PolicyNotAllowed));
}

#[test]
fn audit_says_what_enforcing_would_change_and_nothing_else() {
    let audit = |policy: Policy| Policy { mode: Mode::Audit, ..policy };
    let peer = Peer { identity: None, address: "10.0.0.9".parse().unwrap() };
    let would = |policies: &[Policy]| {
        let judgement = judge_all(policies.iter(), peer, 80);
        judgement.audit.map(|verdict| verdict.is_allowed())
    };
    assert_eq!(would(&[audit(deny(vec![rule(None)]))]), Some(false));
    assert_eq!(would(&[audit(allow(vec![]))]), Some(false));
    assert_eq!(would(&[deny(vec![rule(None)]), audit(allow(vec![]))]), None, "it is refused anyway");
    assert_eq!(would(&[allow(vec![]), audit(policy("b", Action::Allow, vec![rule(None)]))]), Some(true));
    assert_eq!(would(&[audit(allow(vec![rule(None)]))]), None);
}

fn world(policies: Vec<Policy>, settings: MeshSettings) -> World {
    let mut world = World::default();
    policies.into_iter().for_each(|policy| world.apply(Change::Policy(policy)));
    world.apply(Change::Mesh(settings));
    world
}

#[test]
fn a_workload_is_bound_by_the_mesh_its_namespace_and_what_selects_it() {
    let named = |namespace: &str, name: &str, reach: Reach| Policy {
        key: PolicyKey::new(namespace, name),
        reach,
        ..policy("", Action::Allow, vec![])
    };
    let mut world = world(
        vec![
            named("weft-system", "all", Reach { mesh: true, namespaces: vec![] }),
            named("shop", "ours", Reach { mesh: false, namespaces: vec!["shop".into()] }),
            named("bank", "theirs", Reach { mesh: false, namespaces: vec!["bank".into()] }),
            named("shop", "selected", Reach::default()),
            named("shop", "not-selected", Reach::default()),
        ],
        MeshSettings::default(),
    );
    let mut web = workload("web", "10.0.0.1", Tunnel::Hbone);
    let names = |world: &World, web: &crate::Workload| {
        let bound = world.rules_for(web);
        (
            bound.policies.iter().map(|policy| policy.key.to_string()).collect::<Vec<_>>(),
            bound.missing.cloned(),
        )
    };
    assert_eq!(names(&world, &web), (vec!["shop/ours".into(), "weft-system/all".into()], None));
    let policies = vec![PolicyKey::new("shop", "ours"), PolicyKey::new("shop", "selected")];
    web.bindings = Some(Box::new(Bindings { policies, mtls: Vec::new() }));
    let all = vec!["shop/ours".into(), "shop/selected".into(), "weft-system/all".into()];
    assert_eq!(names(&world, &web), (all, None), "each once, in the order of their names");
    world.apply(Change::PolicyRemoved(PolicyKey::new("shop", "ours")));
    world.apply(Change::PolicyRemoved(PolicyKey::new("weft-system", "all")));
    assert_eq!(names(&world, &web).1, Some(PolicyKey::new("shop", "ours")));
    let peer = Peer { identity: None, address: "10.0.0.9".parse().unwrap() };
    let judgement = world.judge(&web, peer, 80);
    assert_eq!(judgement.verdict.reason(), Some(Reason::PolicyUnknown), "what nobody knows admits nobody");
}

#[test]
fn strict_refuses_plaintext_and_the_first_word_on_a_port_counts() {
    let strict = MeshSettings { mtls: Some(Mtls::Strict), ..MeshSettings::default() };
    let world_ = world(vec![], strict);
    let mut web = workload("web", "10.0.0.1", Tunnel::Hbone);
    let plain = Peer { identity: None, address: "10.0.0.9".parse().unwrap() };
    let identity: Identity = SHOP_WEB.parse().unwrap();
    let known = Peer { identity: Some(&identity), ..plain };
    assert_eq!(world_.judge(&web, plain, 80).verdict, Verdict::Strict);
    assert!(world_.judge(&web, known, 80).verdict.is_allowed());
    let mtls = vec![
        PortMtls { ports: 9090..=9090, mtls: Mtls::Permissive },
        PortMtls { ports: 9000..=9999, mtls: Mtls::Strict },
    ];
    web.bindings = Some(Box::new(Bindings { policies: Vec::new(), mtls }));
    assert!(world_.judge(&web, plain, 9090).verdict.is_allowed());
    let permissive = world(vec![], MeshSettings::default());
    assert!(permissive.judge(&web, plain, 80).verdict.is_allowed());
    assert_eq!(permissive.judge(&web, plain, 9091).verdict, Verdict::Strict);
}

#[test]
fn patterns() {
    let fits = |pattern: &str, identity: &str| {
        pattern.parse::<IdentityPattern>().unwrap().matches(&identity.parse().unwrap())
    };
    for pattern in [
        SHOP_WEB,
        "spiffe://cluster.local/ns/shop/sa/*",
        "spiffe://cluster.local/ns/shop/*",
        "spiffe://cluster.local/ns/*",
        "spiffe://cluster.local/*",
        "spiffe://*/ns/shop/sa/web",
        "spiffe://*.local/ns/sh*/sa/*eb",
    ] {
        assert!(fits(pattern, SHOP_WEB), "{pattern}");
        assert_eq!(
            pattern.parse::<IdentityPattern>().unwrap(),
            pattern.parse::<IdentityPattern>().unwrap().to_string().parse().unwrap()
        );
    }
    for pattern in [
        "spiffe://cluster.local/ns/shop/sa/web-*",
        "spiffe://cluster.local/ns/bank/*",
        "spiffe://other/*",
        "spiffe://cluster.local/workload/web",
        "spiffe://cluster.local/ns/shop",
    ] {
        assert!(!fits(pattern, SHOP_WEB), "{pattern}");
    }
    assert!("spiffe://cluster.local/workload/web".parse::<IdentityPattern>().unwrap().never_matches());
    for wrong in [
        "",
        "web",
        "spiffe://",
        "spiffe://cluster.local",
        "spiffe://cluster.local/",
        "spiffe:///ns/a/sa/b",
        "https://cluster.local/ns/a/sa/b",
        "spiffe://cluster.local/ns//sa/b",
        "spiffe://cluster.local/ns/a*b/sa/c",
        "spiffe://cluster.local/ns/**/sa/c",
        "spiffe://cluster.local/ns/*a*/sa/c",
    ] {
        assert!(wrong.parse::<IdentityPattern>().is_err(), "{wrong}");
    }
}

#[test]
fn what_can_never_match_is_known_as_such() {
    let never = |rules: Vec<Rule>| allow(rules).never_matches();
    assert!(never(vec![]));
    assert!(never(vec![rule(Some(vec![]))]));
    assert!(never(vec![rule(Some(vec![from(vec![is("spiffe://cluster.local/other/web")])]))]));
    assert!(!never(vec![rule(None)]));
    assert!(!never(vec![rule(Some(vec![from(vec![is(SHOP_WEB)])]))]));
    let all = "10.0.0.0/8".parse().unwrap();
    let block = Condition::Address(IpBlock { net: all, except: vec![all] });
    assert!(never(vec![rule(Some(vec![from(vec![block])]))]));
}
