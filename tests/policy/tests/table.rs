//! Promise: who is admitted is what the policies say, from every source, at every port, on every path.
//!
//! Each case puts its policies in force as an operator would, waits until they are acknowledged, and then dials with real
//! connections: four sources (two accounts of one namespace, one of another, one without identity), two ports, two
//! destinations (on the sources' node and on another), both families in turn.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use lab::Lab;
use lab::row::Table;
use policy::cast::{Cast, PORTS, at};
use policy::enforce::{Policy, configure, put, remove, settled};
use policy::talk::talk;

const TEST: &str = "policies_admit_and_refuse_what_they_say";

/// Sources that are admitted at 8080 and at 9090. Everybody else is refused.
struct Case {
    name: &'static str,
    policies: &'static [Policy<'static>],
    mesh: &'static str,
    admitted: [&'static [&'static str]; 2],
}

const NOBODY: &[&str] = &[];
const ALL: &[&str] = &["client", "cart", "till", "stranger"];
const MESHED: &[&str] = &["client", "cart", "till"];
const SOURCES: [&str; 4] = ["client", "cart", "till", "stranger"];

macro_rules! case {
    ($name:literal, [$($key:literal: $spec:literal),* $(,)?], $mesh:literal, $first:expr, $second:expr) => {
        Case {
            name: $name,
            policies: &[$(Policy { key: $key, spec: $spec }),*],
            mesh: $mesh,
            admitted: [$first, $second],
        }
    };
}

const CASES: &[Case] = &[
    case!("no policy", [], "", ALL, ALL),
    case!(
        "ALLOW a service account",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: [{serviceAccount: {name: client}}]}]"],
        "", &["client"], &["client"]
    ),
    case!(
        "ALLOW a service account at one port",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: client}}], networkAttributes: {ports: [8080]}}]"],
        "", &["client"], NOBODY
    ),
    case!(
        "ALLOW a namespace, DENY one of its accounts",
        [
            "shop/a": "targetRefs: [{kind: Namespace}], action: ALLOW, rules: [{sources: [{namespace: shop}]}]",
            "shop/b": "targetRefs: [{kind: Namespace}], action: DENY, rules: [{sources: [{serviceAccount: {name: cart}}]}]",
        ],
        "", &["client"], &["client"]
    ),
    case!(
        "ALLOW another namespace by SPIFFE ID",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: [{spiffe: \"spiffe://lab.weft.dev/ns/bank/sa/*\"}]}]"],
        "", &["till"], &["till"]
    ),
    case!(
        "ALLOW all but one account",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: [{not: [{serviceAccount: {name: cart}}]}]}]"],
        "", &["client", "till"], &["client", "till"]
    ),
    case!(
        "DENY all but one account",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: DENY, rules: [{sources: [{not: [{serviceAccount: {name: cart}}]}]}]"],
        "", &["cart"], &["cart"]
    ),
    case!(
        "DENY an account is not about who has no identity",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: DENY, rules: [{sources: [{serviceAccount: {name: cart}}]}]"],
        "", &["client", "till", "stranger"], &["client", "till", "stranger"]
    ),
    case!(
        "DENY a range of ports",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: DENY, rules: [{networkAttributes: {ports: [\"9000-9999\"]}}]"],
        "", ALL, NOBODY
    ),
    case!(
        "ALLOW everybody at a port",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{networkAttributes: {ports: [9090]}}]"],
        "", NOBODY, ALL
    ),
    case!(
        "ALLOW nobody",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW"],
        "", NOBODY, NOBODY
    ),
    case!(
        "ALLOW an empty list of sources",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: []}]"],
        "", NOBODY, NOBODY
    ),
    case!(
        "DENY an empty list of sources",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: DENY, rules: [{sources: []}]"],
        "", ALL, ALL
    ),
    case!(
        "two ALLOW policies add up",
        [
            "shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: [{serviceAccount: {name: client}}]}]",
            "shop/b": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{networkAttributes: {ports: [9090]}}]",
        ],
        "", &["client"], ALL
    ),
    case!(
        "a policy of another namespace is about its own pods",
        ["bank/a": "targetRefs: [{kind: Namespace}], action: DENY, rules: [{}]"],
        "", ALL, ALL
    ),
    case!(
        "a policy of the release namespace is about the mesh",
        ["weft-system/a": "targetRefs: [{kind: Namespace}], action: ALLOW, rules: [{sources: [{namespace: bank}, {namespace: yard}]}]"],
        "", &["till"], &["till"]
    ),
    case!(
        "a policy of the release namespace that names one",
        ["weft-system/a": "targetRefs: [{kind: Namespace, name: bank}], action: DENY, rules: [{}]"],
        "", ALL, ALL
    ),
    case!(
        "a selector that selects neither",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {matchLabels: {app: client}}}], action: DENY, rules: [{}]"],
        "", ALL, ALL
    ),
    case!(
        "a selector that selects both",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {matchExpressions: [{key: app, operator: In, values: [near, server]}]}}], action: ALLOW, rules: [{sources: [{serviceAccount: {name: cart}}]}]"],
        "", &["cart"], &["cart"]
    ),
    case!(
        "Audit refuses nobody",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: DENY, mode: Audit, rules: [{}]"],
        "", ALL, ALL
    ),
    case!(
        "HTTP attributes without a waypoint: DENY matches",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: DENY, rules: [{httpAttributes: {methods: [GET]}, networkAttributes: {ports: [8080]}}]"],
        "", NOBODY, ALL
    ),
    case!(
        "HTTP attributes without a waypoint: ALLOW does not",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{httpAttributes: {methods: [GET]}}]"],
        "", NOBODY, NOBODY
    ),
    case!(
        "an address block, either family",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: \"::/0\"}}]}]"],
        "", ALL, ALL
    ),
    case!(
        "an address block that holds nobody",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: [{ipBlock: {cidr: 192.0.2.0/24}}]}]"],
        "", NOBODY, NOBODY
    ),
    case!("Strict", [], "mtls: Strict", MESHED, MESHED),
    case!(
        "Strict but for a port",
        [],
        "mtls: Strict, mtlsOverrides: [{namespaces: [shop], ports: [9090], mtls: Permissive}]",
        MESHED,
        ALL
    ),
    case!(
        "Permissive but for a port of some pods",
        [],
        "mtlsOverrides: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [near, server]}]}, ports: [8080], mtls: Strict}]",
        MESHED,
        ALL
    ),
    case!(
        "Strict refuses plaintext that a policy would admit",
        ["shop/a": "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: [{serviceAccount: {name: till, namespace: bank}}, {ipBlock: {cidr: 0.0.0.0/0}}]}]"],
        "mtls: Strict", MESHED, MESHED
    ),
];

#[test]
fn policies_admit_and_refuse_what_they_say() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(they_do);
}

fn they_do(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let mut table = Table::new(TEST);
    for (number, case) in CASES.iter().enumerate() {
        configure(lab, case.mesh)?;
        for policy in case.policies {
            put(lab, *policy)?;
        }
        // IPv6 says nothing about blocks of the other family.
        let ipv6 = number % 2 == 1 && !case.policies.iter().any(|policy| policy.spec.contains("cidr"));
        for (where_, to) in cast.destinations() {
            table.row(&format!("{}: {where_}", case.name), || check(lab, &cast, case, to, ipv6));
        }
        for policy in case.policies {
            remove(lab, policy.key)?;
        }
    }
    configure(lab, "")?;
    settled(lab)?;
    table.finish();
    Ok(())
}

/// `meshctl explain` says what came of it, and the kernel's tables agree.
fn explained(lab: &Lab, from: &lab::Pod, to: SocketAddr, admitted: bool) -> Result<()> {
    let said = lab.agent("a").admin(&format!("/v1/explain?src={}&dst={to}", from.key()))?;
    let wanted = if admitted { "allow" } else { "deny" };
    ensure!(said["verdict"] == wanted, "explained otherwise: {said}");
    ensure!(said["kernel"]["agrees"] != false, "the kernel says otherwise: {said}");
    Ok(())
}

fn check(lab: &Lab, cast: &Cast, case: &Case, to: &lab::Pod, ipv6: bool) -> Result<String> {
    let mut said = Vec::new();
    for (port, admitted) in PORTS.into_iter().zip(case.admitted) {
        for source in SOURCES {
            let outcome = talk(cast.source(source), at(to, ipv6, port))?;
            ensure!(
                outcome.is_admitted() == admitted.contains(&source),
                "{source} at {port}: {outcome}, admitted are {admitted:?}"
            );
            explained(lab, cast.source(source), at(to, ipv6, port), outcome.is_admitted())
                .with_context(|| format!("{source} at {port}: {outcome}"))?;
            said.push(format!("{source} {port} {outcome}"));
        }
    }
    Ok(said.join(", "))
}
