//! Random worlds, one after the other through one `Lowerer`: whatever the tables say, the model says too; at every single
//! write, with a map that is full, and after a restart.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use mesh_common::Verdict;
use mesh_model::policy::{
    Action, Bindings, Condition, IpBlock, Mode, Mtls, Peer, Policy, PolicyKey, PortMtls, Reach, Rule, Source,
};
use mesh_model::{Change, Identity, MeshSettings, Tunnel, Uid, Workload, World};

use super::kernel::{Kernel, Tables};
use super::{Dice, ip, pod};
use crate::kernel::lower::{LocalPod, LocalPods};

pub const PODS: [(&str, &str, &str); 6] = [
    ("10.0.0.1", "fd00::1", "spiffe://cluster.local/ns/shop/sa/web"),
    ("10.0.0.2", "fd00::2", "spiffe://cluster.local/ns/shop/sa/web"),
    ("10.0.0.3", "fd00::3", "spiffe://cluster.local/ns/shop/sa/cart"),
    ("10.0.1.4", "fd00::4", "spiffe://cluster.local/ns/bank/sa/web"),
    ("10.0.1.5", "fd00::5", "spiffe://cluster.local/ns/bank/sa/till"),
    ("10.0.1.6", "fd00::6", "spiffe://cluster.local/ns/bank/sa/till"),
];
/// Those of this node, by cookie.
pub const HERE: [usize; 3] = [0, 2, 4];
const PATTERNS: [&str; 4] = [
    "spiffe://cluster.local/ns/shop/sa/web",
    "spiffe://cluster.local/ns/shop/sa/*",
    "spiffe://cluster.local/ns/*/sa/web",
    "spiffe://cluster.local/ns/nobody/sa/x",
];
const NETS: [&str; 4] = ["10.0.0.0/24", "10.0.0.3/32", "0.0.0.0/0", "fd00::/64"];
const PORTS: [u16; 6] = [1, 79, 80, 81, 8080, 65535];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn one<'a>(dice: &mut Dice, of: &[&'a str]) -> &'a str {
    of[dice.roll(of.len() as u64) as usize]
}

fn ports(dice: &mut Dice) -> std::ops::RangeInclusive<u16> {
    let (a, b) = (PORTS[dice.roll(6) as usize], PORTS[dice.roll(6) as usize]);
    a.min(b)..=a.max(b)
}

fn condition(dice: &mut Dice, addresses: bool) -> Condition {
    if addresses && dice.roll(3) == 0 {
        let except = (0..dice.roll(2)).map(|_| one(dice, &NETS).parse().unwrap()).collect();
        return Condition::Address(IpBlock { net: one(dice, &NETS).parse().unwrap(), except });
    }
    Condition::Identity(one(dice, &PATTERNS).parse().unwrap())
}

pub fn policy(dice: &mut Dice, name: &str, addresses: bool) -> Policy {
    let source = |dice: &mut Dice| Source {
        all: (0..dice.roll(2)).map(|_| condition(dice, addresses)).collect(),
        none: (0..dice.roll(2)).map(|_| vec![condition(dice, addresses)]).collect(),
    };
    let rule = |dice: &mut Dice| Rule {
        sources: (dice.roll(4) > 0).then(|| (0..dice.roll(3)).map(|_| source(dice)).collect()),
        ports: (0..dice.roll(3)).map(|_| ports(dice)).collect(),
        layer7: dice.roll(8) == 0,
    };
    let namespaces = if dice.roll(3) == 0 { vec![one(dice, &["shop", "bank"]).into()] } else { Vec::new() };
    Policy {
        key: PolicyKey::new("shop", name),
        reach: Reach { mesh: dice.roll(5) == 0, namespaces },
        action: if dice.roll(2) == 0 { Action::Allow } else { Action::Deny },
        mode: if dice.roll(3) == 0 { Mode::Audit } else { Mode::Enforce },
        rules: (0..dice.roll(3)).map(|_| rule(dice)).collect(),
    }
}

pub fn workload(dice: &mut Dice, number: usize) -> Workload {
    let (v4, v6, identity) = PODS[number];
    let listed = NAMES.iter().filter(|_| dice.roll(4) == 0);
    let bindings = Bindings {
        policies: listed.map(|name| PolicyKey::new("shop", name)).collect(),
        mtls: (0..dice.roll(2))
            .map(|_| PortMtls {
                ports: ports(dice),
                mtls: if dice.roll(2) == 0 { Mtls::Strict } else { Mtls::Permissive },
            })
            .collect(),
    };
    let identity: Identity = identity.parse().unwrap();
    Workload {
        uid: Uid::new(v4),
        namespace: if number < 3 { "shop".into() } else { "bank".into() },
        identity,
        addresses: vec![ip(v4), ip(v6)],
        bindings: (bindings != Bindings::default()).then(|| Box::new(bindings)),
        tunnel: if dice.roll(6) == 0 { Tunnel::None } else { Tunnel::Hbone },
        ..pod(v4)
    }
}

/// A few changes, as a controller sends them in one batch.
pub fn change(dice: &mut Dice, world: &mut World, addresses: bool) {
    for _ in 0..=dice.roll(3) {
        match dice.roll(10) {
            0 => {
                let mtls = if dice.roll(2) == 0 { Mtls::Strict } else { Mtls::Permissive };
                world.apply(Change::Mesh(MeshSettings { mtls: Some(mtls), ..MeshSettings::default() }));
            }
            1 | 2 => {
                let name = one(dice, &NAMES);
                world.apply(Change::PolicyRemoved(PolicyKey::new("shop", name)));
            }
            3..=5 => {
                let name = one(dice, &NAMES);
                world.apply(Change::Policy(policy(dice, name, addresses)));
            }
            6 => world.apply(Change::WorkloadRemoved(Uid::new(PODS[dice.roll(6) as usize].0))),
            _ => {
                let number = dice.roll(6) as usize;
                world.apply(Change::Workload(workload(dice, number)));
            }
        }
    }
}

pub fn local(dice: &mut Dice) -> LocalPods {
    let mut pods = everybody();
    HERE.iter().for_each(|number| {
        if dice.roll(8) == 0 {
            pods.remove(&(*number as u64));
        }
    });
    pods
}

/// All pods of this node.
pub fn everybody() -> LocalPods {
    let pods = HERE.iter().map(|number| {
        let (v4, v6, identity) = PODS[*number];
        let addresses = vec![ip(v4), ip(v6)];
        let pod = LocalPod { uid: Uid::new(v4), identity: identity.parse().unwrap(), addresses };
        (*number as u64, pod)
    });
    pods.collect()
}

/// What the model says of a connection, in the words of the tables; `None`: the destination is not in the mesh.
fn model(world: &World, source: Option<&LocalPod>, to: IpAddr, port: u16) -> Option<u32> {
    let workload = world.workload_at(to)?;
    if !workload.tunnel.is_hbone() {
        return None;
    }
    let from = |pod: &LocalPod| pod.addresses.iter().find(|one| one.is_ipv6() == to.is_ipv6()).copied();
    let peer = match source {
        Some(pod) => Peer { identity: Some(&pod.identity), address: from(pod).unwrap() },
        // Nobody's: what the tables say of who has no identity must hold for every address.
        None => Peer { identity: None, address: ip("192.0.2.77") },
    };
    let judgement = world.judge(workload, peer, port);
    Some(match (judgement.verdict.is_allowed(), judgement.audit) {
        (false, _) => Verdict::DENY,
        (true, None) => Verdict::ALLOW,
        (true, Some(_)) => Verdict::ALLOW_AUDITED,
    })
}

/// A connection, and what the model says of it.
pub type Expected = ((Option<u64>, IpAddr, u16), Option<u32>);

pub fn expected(world: &World, local: &LocalPods) -> Vec<Expected> {
    let mut all = Vec::new();
    let sources = || std::iter::once(None).chain(HERE.iter().map(|number| Some(*number as u64)));
    for source in sources() {
        for (v4, v6, _) in PODS {
            for to in [ip(v4), ip(v6)] {
                for port in PORTS.into_iter().chain([2, 1000, 8081]) {
                    let says = match source.map(|cookie| local.get(&cookie)) {
                        None => model(world, None, to, port),
                        Some(Some(pod)) => model(world, Some(pod), to, port),
                        // Whose source is not known is nobody's to say.
                        Some(None) => model(world, None, to, port).map(|_| Verdict::ASK),
                    };
                    all.push(((source, to, port), says));
                }
            }
        }
    }
    all
}

/// How often the tables have said what.
#[derive(Debug, Default)]
pub struct Said {
    settled: usize,
    asked: usize,
    outside: usize,
}

/// Whether the tables say what the model says, or leave it to the agent.
pub fn compare(tables: &Tables, expected: &[Expected], said: &mut Said) {
    for ((source, to, port), says) in expected {
        let found = tables.verdict(*source, *to, *port);
        match found {
            Some(Verdict::ASK) => said.asked += 1,
            None => said.outside += 1,
            Some(_) => said.settled += 1,
        }
        // An unknown source's connections to where no policy is are admitted: there is nothing to know.
        let agrees = found == *says
            || found == Some(Verdict::ASK)
            || (*says == Some(Verdict::ASK) && found == Some(Verdict::ALLOW));
        assert!(agrees, "{source:?} to {to}:{port}: the tables say {found:?}, the model {says:?}");
    }
}

#[test]
fn the_tables_and_the_model_agree_on_every_connection() {
    let mut dice = Dice(7);
    let mut said = Said::default();
    for addresses in [false, true] {
        let (mut world, mut kernel) = (World::default(), Kernel::new());
        world.set_complete();
        let mut asked = Said::default();
        for round in 0..600 {
            change(&mut dice, &mut world, addresses);
            let local = local(&mut dice);
            kernel.write(&world, &local);
            let wanted = expected(&world, &local);
            compare(&kernel.tables(), &wanted, &mut asked);
            assert!(kernel.lowerer.is_settled());
            if round % 50 == 49 {
                kernel.restart();
            }
        }
        // Only addresses of strangers are beyond the tables; and unknown sources.
        println!("with addresses: {addresses}: {asked:?}");
        assert!(addresses || asked.asked * 4 < asked.settled, "{asked:?}");
        said.settled += asked.settled;
        said.outside += asked.outside;
        // Nothing is kept that nobody needs.
        kernel.write(&World::default(), &LocalPods::new());
        assert_eq!(kernel.rows(), [0; 7]);
    }
    assert!(said.settled > 50_000 && said.outside > 10_000, "{said:?}");
}

#[test]
fn no_write_shows_anything_but_the_old_or_the_new() {
    let mut dice = Dice(11);
    let (mut world, mut kernel) = (World::default(), Kernel::new());
    world.set_complete();
    let mut before = expected(&world, &LocalPods::new());
    let writes = Arc::new(Mutex::new(0));
    for round in 0..300 {
        change(&mut dice, &mut world, round % 2 == 0);
        let local = local(&mut dice);
        let after = expected(&world, &local);
        let (count, old, new) = (writes.clone(), before.clone(), after.clone());
        kernel.watch(Some(Box::new(move |tables| {
            *count.lock().unwrap() += 1;
            for (((source, to, port), old), (_, new)) in old.iter().zip(&new) {
                let found = tables.verdict(*source, *to, *port);
                let unknown =
                    |says: &Option<u32>| *says == Some(Verdict::ASK) && found == Some(Verdict::ALLOW);
                let is_known = found == Some(Verdict::ASK) || found == *old || found == *new;
                assert!(
                    is_known || unknown(old) || unknown(new),
                    "{source:?} to {to}:{port}: {found:?} between {old:?} and {new:?}"
                );
            }
        })));
        kernel.write(&world, &local);
        kernel.watch(None);
        before = after;
    }
    let writes = *writes.lock().unwrap();
    assert!(writes > 1_000, "{writes} writes");
}

#[test]
fn what_has_no_room_is_the_agents_to_decide_until_there_is_room() {
    let mut dice = Dice(13);
    let (mut world, mut kernel) = (World::default(), Kernel::new());
    world.set_complete();
    let (mut unsettled, mut said) = (0, Said::default());
    for round in 0..400 {
        change(&mut dice, &mut world, false);
        let local = local(&mut dice);
        kernel.set_room((round % 4 != 3).then(|| dice.roll(12) as usize));
        kernel.write(&world, &local);
        let wanted = expected(&world, &local);
        if kernel.lowerer.is_settled() {
            compare(&kernel.tables(), &wanted, &mut said);
        } else {
            unsettled += 1;
            // What is not there is not known to be outside.
            let there: Vec<_> = wanted
                .into_iter()
                .filter(|((source, to, port), _)| kernel.tables().verdict(*source, *to, *port).is_some())
                .collect();
            compare(&kernel.tables(), &there, &mut said);
            let lacking = kernel.lowerer.lacking();
            assert!(lacking.iter().any(|(_, rows, _)| *rows > 0), "{lacking:?}");
        }
        if round % 4 == 3 {
            assert!(kernel.lowerer.is_settled(), "round {round}: {:?}", kernel.lowerer.lacking());
        }
    }
    println!("{unsettled} rounds were not settled: {said:?}");
    assert!(unsettled > 30 && said.settled > 20_000, "{unsettled}, {said:?}");
}
