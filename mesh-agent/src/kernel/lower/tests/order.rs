//! Services that lead to workloads which come into the mesh and leave it: what a connect meets at every single write, and across
//! a restart.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mesh_common::Verdict;
use mesh_model::policy::PolicyKey;
use mesh_model::{Change, Endpoint, PortMap, Service, ServiceKey, Tunnel, Uid, World};

use super::kernel::{Kernel, Tables, Watcher, Way, endpoint, everything};
use super::verdicts::{HERE, PODS, change, compare, everybody, expected, local, policy, workload};
use super::{Dice, ip};
use crate::kernel::lower::{LocalPods, Step};

const SERVICES: [&str; 3] = ["10.96.0.1", "10.96.0.2", "fd00:96::1"];

fn service(dice: &mut Dice, number: usize) -> Service {
    let address = ip(SERVICES[number]);
    let chosen = PODS.iter().filter(|_| dice.roll(3) == 0);
    let endpoints = chosen.map(|(v4, v6, _)| Endpoint {
        ports: vec![PortMap { service: 80, target: 8080 }, PortMap { service: 81, target: 81 }],
        ..Endpoint::at(ip(if address.is_ipv6() { v6 } else { v4 }))
    });
    Service {
        addresses: vec![address],
        endpoints: endpoints.collect(),
        ports: if dice.roll(3) == 0 { vec![80] } else { vec![80, 81] },
        affinity_seconds: dice.roll(2) as u32,
        other_proxy: (dice.roll(8) == 0).then(|| "somebody".into()),
        ..Service::bare(ServiceKey::new("shop", SERVICES[number]))
    }
}

/// Workloads, policies and Services in one batch.
fn change_all(dice: &mut Dice, world: &mut World) {
    change(dice, world, false);
    // Captured and chosen in the same step.
    for _ in 0..dice.roll(3) {
        let number = dice.roll(6) as usize;
        let tunnel = if dice.roll(2) == 0 { Tunnel::Withdrawn } else { Tunnel::Hbone };
        world.apply(Change::Workload(mesh_model::Workload { tunnel, ..workload(dice, number) }));
    }
    for _ in 0..dice.roll(3) {
        let number = dice.roll(3) as usize;
        match dice.roll(4) {
            0 => world.apply(Change::ServiceRemoved(ServiceKey::new("shop", SERVICES[number]))),
            _ => world.apply(Change::Service(service(dice, number))),
        }
    }
}

/// Everything that is dialled.
fn dialled() -> Vec<SocketAddr> {
    let of_services = SERVICES.iter().flat_map(|service| [80, 81, 82].map(|port| (ip(service), port)));
    let of_pods = PODS.iter().flat_map(|(v4, v6, _)| [(v4, 8080), (v4, 81), (v6, 8080), (v6, 81)]);
    let of_pods = of_pods.map(|(pod, port)| (ip(pod), port));
    of_services.chain(of_pods).map(SocketAddr::from).collect()
}

type Ways = HashMap<(u64, SocketAddr), Vec<Way>>;

fn ways(tables: &Tables) -> Ways {
    let each = |source: &usize| {
        let source = *source as u64;
        dialled().into_iter().map(move |to| (source, to))
    };
    HERE.iter().flat_map(each).map(|(source, to)| ((source, to), tables.ways(source, to))).collect()
}

/// What a connect may meet in a world.
#[derive(Clone)]
struct Told {
    ways: Ways,
    /// If the pods that are not known were.
    known: Ways,
}

impl Told {
    /// As kernels have it that were told of nothing else.
    fn of(world: &World, local: &LocalPods) -> Self {
        let of = |local: &LocalPods| {
            let mut kernel = Kernel::new();
            kernel.write(world, local);
            let tables = kernel.tables();
            ways(&tables)
        };
        Self { ways: of(local), known: of(&everybody()) }
    }

    /// Whether it says this of a pod's connections to an endpoint, however it was dialled.
    fn says(&self, source: u64, way: &Way) -> bool {
        self.known.iter().any(|((other, _), ways)| *other == source && ways.contains(way))
    }
}

/// Whether a way is one of the old or of the new world: the endpoint of one and what is said of it in one. Plain text must be
/// wholly of one of them.
fn is_known(way: &Way, old: &Told, new: &Told, of: &(u64, SocketAddr)) -> bool {
    let both = || old.ways[of].iter().chain(&new.ways[of]);
    match way {
        Way::Agent | Way::Mesh(_, Verdict::ASK) => true,
        Way::Left(_) | Way::Refused(_) => both().any(|one| one == way),
        Way::Mesh(to, _) => {
            let leads = |one: &Way| match one {
                Way::Left(other) | Way::Mesh(other, _) => other == to,
                Way::Agent => *to == endpoint(of.1),
                Way::Refused(_) => false,
            };
            both().any(leads) && (old.says(of.0, way) || new.says(of.0, way))
        }
    }
}

fn look_between(old: Told, new: Told, left: Arc<Mutex<usize>>) -> Watcher {
    Box::new(move |tables| {
        for (of, ways) in ways(tables) {
            for way in &ways {
                *left.lock().unwrap() += usize::from(matches!(way, Way::Left(_)));
                let (before, after) = (&old.ways[&of], &new.ways[&of]);
                assert!(is_known(way, &old, &new, &of), "{of:?}: {way:?} between {before:?} and {after:?}");
            }
        }
    })
}

#[test]
fn no_write_shows_a_service_that_leads_past_the_mesh() {
    let mut dice = Dice(17);
    let (mut world, mut kernel) = (World::default(), Kernel::new());
    world.stand_on("a");
    world.set_complete();
    let mut before = Told::of(&world, &LocalPods::new());
    let left = Arc::new(Mutex::new(0));
    for round in 0..400 {
        change_all(&mut dice, &mut world);
        let local = local(&mut dice);
        let after = Told::of(&world, &local);
        // Also where there is no room for some of it, and where there is again.
        kernel.set_room((round % 4 == 1).then(|| dice.roll(14) as usize));
        kernel.watch(Some(look_between(before.clone(), after.clone(), left.clone())));
        kernel.write(&world, &local);
        kernel.set_room(None);
        kernel.write(&world, &local);
        kernel.watch(None);
        assert_eq!(ways(&kernel.tables()), after.ways, "round {round}");
        before = after;
        if round % 40 == 39 {
            kernel.restart();
        }
    }
    let left = *left.lock().unwrap();
    assert!(left > 10_000, "{left} looks at what is left as it is");
}

#[test]
fn a_pod_that_is_captured_and_chosen_in_one_step_is_never_dialled_in_plain_text() {
    let mut dice = Dice(1);
    let captured = |tunnel| mesh_model::Workload { tunnel, bindings: None, ..workload(&mut Dice(1), 1) };
    let to = SocketAddr::new(ip(SERVICES[0]), 80);
    let with = |numbers: &[usize]| Service {
        endpoints: numbers
            .iter()
            .map(|number| Endpoint {
                ports: vec![PortMap { service: 80, target: 8080 }],
                ..Endpoint::at(ip(PODS[*number].0))
            })
            .collect(),
        ports: vec![80],
        other_proxy: None,
        ..service(&mut Dice(1), 0)
    };
    let mut world = World::default();
    world.apply(Change::Service(with(&[])));
    world.set_complete();
    let local = local(&mut dice);
    for (there_is_room, room) in [(true, None), (false, Some(1))] {
        let mut kernel = Kernel::new();
        kernel.write(&world, &local);
        let mut next = world.clone();
        next.apply(Change::Workload(captured(Tunnel::Hbone)));
        next.apply(Change::Service(with(&[1])));
        kernel.set_room(room);
        kernel.watch(Some(Box::new(move |tables| {
            let ways = tables.ways(0, to);
            assert!(!ways.iter().any(|way| matches!(way, Way::Left(_))), "{ways:?}");
        })));
        kernel.write(&next, &local);
        assert_eq!(kernel.lowerer.is_settled(), there_is_room);
    }
}

#[test]
fn a_set_that_has_no_room_is_the_agents_until_it_has() {
    let mut world = World::default();
    let at = |last: u8| Endpoint {
        ports: vec![PortMap { service: 80, target: 8080 }],
        ..Endpoint::at(std::net::IpAddr::from([10, 0, 0, last]))
    };
    let service = Service {
        addresses: vec![ip(SERVICES[0])],
        ports: vec![80],
        endpoints: (1..=9).map(at).collect(),
        ..Service::bare(ServiceKey::new("shop", "web"))
    };
    world.apply(Change::Service(service));
    world.set_complete();
    let mut kernel = Kernel::new();
    let to = SocketAddr::new(ip(SERVICES[0]), 80);
    let step = |kernel: &mut Kernel| {
        let none = LocalPods::new();
        // Nothing is said to be different.
        let work = Step { services: false, workloads: false, ..everything(&world, &none) };
        kernel.step(&work);
        let lacking: usize = kernel.lowerer.lacking().iter().map(|(_, rows, _)| rows).sum();
        (kernel.tables().ways(0, to), lacking > 0)
    };
    kernel.set_room(Some(5));
    for _ in 0..3 {
        assert_eq!(step(&mut kernel), (vec![Way::Agent], true));
        assert!(kernel.lowerer.is_settled(), "the Service has a row, which asks the agent");
    }
    kernel.set_room(None);
    let (ways, lacking) = step(&mut kernel);
    assert!(ways.len() == 9 && !lacking, "{ways:?}");
    assert_eq!(kernel.rows()[1], 9, "the rows of the first try are those of the last");
}

#[test]
fn what_went_without_an_agent_goes_on_until_the_next_one_knows_its_pods() {
    let mut dice = Dice(23);
    let mut kept = 0;
    for _ in 0..60 {
        let (mut world, mut kernel) = (World::default(), Kernel::new());
        world.set_complete();
        (0..6).for_each(|number| world.apply(Change::Workload(workload(&mut dice, number))));
        for _ in 0..4 {
            change(&mut dice, &mut world, false);
        }
        let local = local(&mut dice);
        kernel.write(&world, &local);
        let wanted = expected(&world, &local);
        let says = |tables: &Tables| -> Vec<_> {
            wanted.iter().map(|((source, to, port), _)| tables.verdict(*source, *to, *port)).collect()
        };
        let before = says(&kernel.tables());
        kernel.restart();
        let none = LocalPods::new();
        let unknown = Step { pods_whole: false, kept: true, ..everything(&world, &none) };
        kernel.step(&unknown);
        assert_eq!(says(&kernel.tables()), before);
        kept += before.iter().filter(|said| **said == Some(Verdict::ALLOW)).count();
        // What the controller says holds at once, whoever is known.
        let name = "a";
        let policy = policy(&mut dice, name, false);
        world.apply(Change::PolicyRemoved(PolicyKey::new("shop", name)));
        world.apply(Change::Policy(policy));
        world.apply(Change::WorkloadRemoved(Uid::new(PODS[5].0)));
        kernel.step(&Step { pods_whole: false, services: false, ..everything(&world, &none) });
        let wanted = expected(&world, &local);
        compare(&kernel.tables(), &wanted, &mut Default::default());
        // Nothing of the predecessor's is left.
        kernel.write(&world, &local);
        compare(&kernel.tables(), &wanted, &mut Default::default());
        let mut alone = Kernel::new();
        alone.write(&world, &local);
        assert_eq!(kernel.rows(), alone.rows());
    }
    assert!(kept > 5_000, "{kept} connections were admitted");
}
