//! What a step costs: how often policies are asked and pairs judged, and how many rows are written. Times are printed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use mesh_model::policy::{Action, Bindings, Condition, Mode, Policy, PolicyKey, Reach, Rule, Source};
use mesh_model::{Change, Tunnel, Uid, Workload, World};

use super::kernel::{Kernel, everything};
use super::pod;
use crate::kernel::lower::{LocalPod, LocalPods, Step, Work};

const WORKLOADS: u32 = 10_000;
const POLICIES: u16 = 1_000;
const PODS: u32 = 50;
/// Pods of the node that run under one service account.
const EACH: u32 = 2;
const SOURCES: usize = (PODS / EACH) as usize;

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

/// Every hundredth is selected by a policy by its labels, in one of ten ways.
fn workload(number: u32) -> Workload {
    let selected = number.is_multiple_of(100);
    let policies = vec![PolicyKey::new("shop", &format!("p{}", number / 100 % 10))];
    let address = address(number);
    Workload {
        uid: Uid::new(&number.to_string()),
        addresses: vec![address],
        identity: format!("spiffe://cluster.local/ns/shop/sa/app-{}", number / EACH).parse().unwrap(),
        bindings: selected.then(|| Box::new(Bindings { policies, mtls: Vec::new() })),
        tunnel: Tunnel::Hbone,
        ..pod("10.0.0.1")
    }
}

/// All but ten are about the whole namespace, each at one of twenty ports.
fn policy(number: u16) -> Policy {
    let pattern = format!("spiffe://cluster.local/ns/shop/sa/app-{number}");
    let port = 8_000 + number % 20;
    Policy {
        key: PolicyKey::new("shop", &format!("p{number}")),
        reach: Reach { mesh: false, namespaces: if number < 10 { Vec::new() } else { vec!["shop".into()] } },
        action: Action::Allow,
        mode: Mode::Enforce,
        rules: vec![Rule {
            sources: Some(vec![Source {
                all: vec![Condition::Identity(pattern.parse().unwrap())],
                none: Vec::new(),
            }]),
            ports: vec![port..=port],
            layer7: false,
        }],
    }
}

fn local(numbers: std::ops::Range<u32>) -> LocalPods {
    let pod = |number: u32| {
        let Workload { uid, identity, addresses, .. } = workload(number);
        (u64::from(number), LocalPod { uid, identity, addresses })
    };
    numbers.map(pod).collect()
}

fn workloads<'a>(world: &'a World, pods: &'a LocalPods) -> Step<'a> {
    Step { services: false, ..everything(world, pods) }
}

/// Lowers, and prints how long it took.
fn timed(kernel: &mut Kernel, what: &str, step: &Step<'_>) -> (Work, usize) {
    kernel.writes();
    let began = Instant::now();
    let work = kernel.step(step);
    let took = began.elapsed();
    let writes = kernel.writes();
    println!("{what}: {took:?}, {work:?}, {writes} rows");
    (work, writes)
}

#[test]
fn only_what_differs_is_judged_and_written() {
    let mut world = World::default();
    (0..POLICIES).for_each(|number| world.apply(Change::Policy(policy(number))));
    (0..WORKLOADS).for_each(|number| world.apply(Change::Workload(workload(number))));
    world.set_complete();
    let (mut kernel, pods) = (Kernel::new(), local(0..PODS));
    let ways = 11;

    let (work, writes) = timed(&mut kernel, "everything", &everything(&world, &pods));
    assert_eq!(work, Work { classes: ways, pairs: ways * (SOURCES + 1) });
    assert!(writes > WORKLOADS as usize);

    let (work, writes) = timed(&mut kernel, "nothing", &workloads(&world, &pods));
    assert_eq!((work, writes), (Work::default(), 0));

    world.apply(Change::Workload(workload(WORKLOADS + 1)));
    let (work, writes) = timed(&mut kernel, "a workload more", &workloads(&world, &pods));
    assert_eq!((work, writes), (Work::default(), 1));

    world.apply(Change::Workload(Workload { owner: "web".into(), ..workload(7) }));
    let (work, writes) = timed(&mut kernel, "a workload otherwise", &workloads(&world, &pods));
    assert_eq!((work, writes), (Work::default(), 0), "policies do not ask for its owner");

    let with = |policies: &[&str]| {
        let policies = policies.iter().map(|name| PolicyKey::new("shop", name)).collect();
        Some(Box::new(Bindings { policies, mtls: Vec::new() }))
    };
    world.apply(Change::Workload(Workload { bindings: with(&["p1", "p2"]), ..workload(7) }));
    let (work, _) = timed(&mut kernel, "a workload of a new class", &workloads(&world, &pods));
    assert_eq!(work, Work { classes: 1, pairs: SOURCES + 1 });

    world.apply(Change::Workload(workload(7)));
    let (work, _) = timed(&mut kernel, "and back", &workloads(&world, &pods));
    assert_eq!(work, Work::default());
    world.apply(Change::Workload(Workload { bindings: with(&["p1", "p2"]), ..workload(7) }));
    let (work, _) = timed(&mut kernel, "and again, its number being gone", &workloads(&world, &pods));
    assert_eq!(work, Work { classes: 1, pairs: SOURCES + 1 });
    world.apply(Change::Workload(workload(7)));
    timed(&mut kernel, "and back", &workloads(&world, &pods));

    world.apply(Change::Policy(Policy { action: Action::Deny, ..policy(1) }));
    let (work, writes) = timed(&mut kernel, "a policy of few", &workloads(&world, &pods));
    assert_eq!(work, Work { classes: ways, pairs: SOURCES + 1 }, "all are asked, one class is another");
    assert!(writes < 1_000, "{writes}");

    world.apply(Change::Policy(Policy { action: Action::Deny, ..policy(500) }));
    let (work, _) = timed(&mut kernel, "a policy of all", &workloads(&world, &pods));
    assert_eq!(work, Work { classes: ways, pairs: ways * (SOURCES + 1) });

    let unlike = |pods| Step { workloads: false, ..workloads(&world, pods) };
    let (work, writes) = timed(&mut kernel, "the same pods", &unlike(&pods));
    assert_eq!((work, writes), (Work::default(), 0));
    let more = local(0..PODS + EACH);
    let (work, _) = timed(&mut kernel, "pods of a new identity", &unlike(&more));
    assert_eq!(work, Work { classes: 0, pairs: ways });
    let fewer = local(0..PODS - 1);
    let (work, _) = timed(&mut kernel, "pods less", &unlike(&fewer));
    assert_eq!(work, Work::default());
}
