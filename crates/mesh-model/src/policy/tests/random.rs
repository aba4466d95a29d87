//! Random policies and peers against a second evaluator, which is written from the words of docs/policy.md and shares nothing
//! with the first: identities are texts, ranges are walked, and nothing is left early.

use crate::Identity;
use crate::policy::{
    Action, Condition, IdentityPattern, IpBlock, Mode, Peer, Policy, PolicyKey, Reach, Rule, Source,
    judge_all,
};

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let at = self.roll(of.len() as u64) as usize;
        of.get(at).copied().unwrap_or_default()
    }
}

const IDENTITIES: [&str; 5] = [
    "spiffe://cluster.local/ns/shop/sa/web",
    "spiffe://cluster.local/ns/shop/sa/cart",
    "spiffe://cluster.local/ns/bank/sa/web",
    "spiffe://cluster.local/ns/bank/sa/web-2",
    "spiffe://elsewhere/ns/shop/sa/web",
];
const PATTERNS: [&str; 8] = [
    "spiffe://cluster.local/ns/shop/sa/web",
    "spiffe://cluster.local/ns/shop/sa/*",
    "spiffe://cluster.local/ns/*/sa/web",
    "spiffe://*/ns/bank/sa/web*",
    "spiffe://*where/ns/shop/sa/*",
    "spiffe://cluster.local/ns/s*/sa/*t",
    "spiffe://elsewhere/ns/*/sa/*",
    "spiffe://cluster.local/ns/nobody/sa/x",
];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.0.9", "10.0.1.1", "192.0.2.1", "fd00::1"];
const NETS: [&str; 6] = ["10.0.0.0/8", "10.0.0.0/24", "10.0.0.8/30", "0.0.0.0/0", "fd00::/8", "192.0.2.1/32"];
const PORTS: [u16; 6] = [1, 79, 80, 81, 8080, 65535];

fn condition(dice: &mut Dice) -> Condition {
    if dice.roll(3) > 0 {
        return Condition::Identity(dice.one(&PATTERNS).parse().unwrap());
    }
    let except = (0..dice.roll(2)).map(|_| dice.one(&NETS).parse().unwrap()).collect();
    Condition::Address(IpBlock { net: dice.one(&NETS).parse().unwrap(), except })
}

fn source(dice: &mut Dice) -> Source {
    let all = (0..dice.roll(3)).map(|_| condition(dice)).collect();
    let none = (0..dice.roll(3)).map(|_| (0..1 + dice.roll(2)).map(|_| condition(dice)).collect()).collect();
    Source { all, none }
}

fn rule(dice: &mut Dice) -> Rule {
    let sources = (dice.roll(4) > 0).then(|| (0..dice.roll(3)).map(|_| source(dice)).collect());
    let ports = (0..dice.roll(3))
        .map(|_| {
            let (a, b) = (PORTS[dice.roll(6) as usize], PORTS[dice.roll(6) as usize]);
            a.min(b)..=a.max(b)
        })
        .collect();
    Rule { sources, ports, layer7: dice.roll(8) == 0 }
}

fn policies(dice: &mut Dice) -> Vec<Policy> {
    (0..dice.roll(4))
        .map(|number| Policy {
            key: PolicyKey::new("shop", &number.to_string()),
            reach: Reach::default(),
            action: if dice.roll(2) == 0 { Action::Allow } else { Action::Deny },
            mode: if dice.roll(3) == 0 { Mode::Audit } else { Mode::Enforce },
            rules: (0..dice.roll(3)).map(|_| rule(dice)).collect(),
        })
        .collect()
}

/// A text with stars against a text.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => {
            text.starts_with(start)
                && (start.len()..=text.len()).any(|at| text.get(at..).is_some_and(|text| glob(rest, text)))
        }
    }
}

/// Part by part, so that a star stays between its slashes.
fn naive_identity(pattern: &IdentityPattern, identity: &str) -> bool {
    let pattern = pattern.to_string();
    let (patterns, parts): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), identity.split('/').collect());
    patterns.len() == parts.len() && patterns.iter().zip(parts).all(|(pattern, part)| glob(pattern, part))
}

fn naive_condition(condition: &Condition, peer: Peer<'_>) -> bool {
    match (condition, peer.identity) {
        (Condition::Identity(_), None) => false,
        (Condition::Identity(pattern), Some(identity)) => naive_identity(pattern, &identity.to_string()),
        (Condition::Address(block), _) => {
            let within = |net: &ipnet::IpNet| net.contains(&peer.address);
            within(&block.net) && block.except.iter().filter(|net| within(net)).count() == 0
        }
    }
}

fn naive_source(source: &Source, action: Action, peer: Peer<'_>) -> bool {
    let every: Vec<&Condition> = source.all.iter().chain(source.none.iter().flatten()).collect();
    let asks = every.iter().any(|condition| matches!(condition, Condition::Identity(_)));
    let mut holds = !(asks && action == Action::Allow && peer.identity.is_none());
    for condition in &source.all {
        holds &= naive_condition(condition, peer);
    }
    for list in &source.none {
        holds &= list.iter().filter(|condition| naive_condition(condition, peer)).count() < list.len();
    }
    holds
}

fn naive_rule(rule: &Rule, action: Action, peer: Peer<'_>, port: u16) -> bool {
    let fits = rule.ports.is_empty() || rule.ports.iter().any(|range| range.clone().any(|one| one == port));
    let sources =
        rule.sources.as_ref().map(|all| all.iter().filter(|s| naive_source(s, action, peer)).count());
    fits && sources != Some(0) && !(rule.layer7 && action == Action::Allow)
}

fn naive(policies: &[&Policy], peer: Peer<'_>, port: u16) -> bool {
    let matching = |action: Action| {
        policies
            .iter()
            .filter(|policy| policy.action == action)
            .filter(|policy| policy.rules.iter().any(|rule| naive_rule(rule, action, peer, port)))
            .count()
    };
    let allows = policies.iter().filter(|policy| policy.action == Action::Allow).count();
    matching(Action::Deny) == 0 && (allows == 0 || matching(Action::Allow) > 0)
}

#[test]
fn two_evaluators_agree() {
    let mut dice = Dice(1);
    let (mut admitted, mut refused) = (0, 0);
    for round in 0..20_000 {
        let policies = policies(&mut dice);
        let identity: Option<Identity> = (dice.roll(3) > 0).then(|| dice.one(&IDENTITIES).parse().unwrap());
        let peer = Peer { identity: identity.as_ref(), address: dice.one(&ADDRESSES).parse().unwrap() };
        let port = PORTS[dice.roll(6) as usize];
        let judgement = judge_all(policies.iter(), peer, port);
        let enforced: Vec<_> = policies.iter().filter(|policy| policy.mode == Mode::Enforce).collect();
        let expected = naive(&enforced, peer, port);
        assert_eq!(judgement.verdict.is_allowed(), expected, "round {round}: {peer:?} {port} {policies:#?}");
        let with_audit = naive(&policies.iter().collect::<Vec<_>>(), peer, port);
        let changed = judgement.audit.map(|verdict| verdict.is_allowed());
        assert_eq!(changed, (with_audit != expected).then_some(with_audit), "round {round}: {policies:#?}");
        if expected { admitted += 1 } else { refused += 1 }
    }
    assert!(
        admitted > 4_000 && refused > 4_000,
        "{admitted} admitted and {refused} refused: not much of a test"
    );
}

#[test]
fn any_text_is_a_pattern_or_is_not_and_a_pattern_reads_back_as_it_is_written() {
    let mut dice = Dice(7);
    let words = ["spiffe://", "/", "*", "ns", "sa", "shop", "a", "cluster.local", ".", "é", "//", " ", "\0"];
    let mut good = 0;
    for _ in 0..50_000 {
        let text: String = (0..dice.roll(12)).map(|_| dice.one(&words)).collect();
        let text = if dice.roll(2) == 0 { format!("spiffe://{text}") } else { text };
        if let Ok(pattern) = text.parse::<IdentityPattern>() {
            good += 1;
            assert_eq!(pattern.to_string().parse::<IdentityPattern>().as_ref(), Ok(&pattern), "{text}");
        }
    }
    assert!(good > 100, "{good} of these texts are patterns: not much of a test");
}
