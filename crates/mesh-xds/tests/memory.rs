//! What a world costs where it is held: the agent's bytes for each remote workload, the controller's for each agent.
//!
//! Live bytes of the allocator are counted, not resident pages, so the figures do not depend on the machine;
//! `cargo xtask bench control` measures resident memory of real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mesh_model::{
    Change, Endpoint, Identity, Phase, PortMap, Service, ServiceKey, TrustDomain, Tunnel, Uid, Workload,
    World,
};
use mesh_xds::delta::{Published, Replica, Session};
use mesh_xds::proto;
use mesh_xds::proto::agent_message::Message as Say;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only sizes are counted beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(rounded(layout), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(rounded(layout), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// As malloc rounds: a word of its own, and multiples of 16.
fn rounded(layout: Layout) -> usize {
    (layout.size() + 8).max(32).next_multiple_of(16)
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time counts.
static TURN: Mutex<()> = Mutex::new(());

const WORKLOADS: u32 = 10_000;
const SERVICES: u32 = 1_000;
const NODES: u32 = 20;

fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// How much more there is than there was; nothing if there is less.
fn grown(before: usize) -> usize {
    live().saturating_sub(before)
}

fn address(number: u32) -> std::net::IpAddr {
    std::net::Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn uid(number: u32) -> Uid {
    Uid::new(&format!("{number:08x}-4d4e-4b8a-9b1c-0123456789ab"))
}

fn workload(number: u32) -> Workload {
    let service = number % SERVICES;
    let namespace = format!("team-{:02}", service % 40);
    let owner = format!("service-{service:04}");
    let domain = TrustDomain::new("cluster.local").unwrap();
    Workload {
        uid: uid(number),
        namespace: namespace.as_str().into(),
        name: format!("{owner}-5d4f8c7b9-{:05x}", number * 37).as_str().into(),
        owner: owner.as_str().into(),
        node: format!("node-{:03}.example.internal", number % NODES).as_str().into(),
        identity: Identity::new(domain, &namespace, &owner).unwrap(),
        addresses: vec![address(number)],
        enrolled: true,
        left_alone: None,
        bindings: None,
        tunnel: Tunnel::Hbone,
        phase: Phase::Running,
        host_network: false,
    }
}

fn service(number: u32) -> Service {
    let key = ServiceKey::new(&format!("team-{:02}", number % 40), &format!("service-{number:04}"));
    let behind = (0..WORKLOADS / SERVICES).map(|step| number + step * SERVICES);
    let endpoint = |pod: u32| Endpoint {
        workload: Some(uid(pod)),
        ports: vec![PortMap { service: 80, target: 8080 }],
        node: Some(format!("node-{:03}.example.internal", pod % NODES).as_str().into()),
        ..Endpoint::at(address(pod))
    };
    Service {
        addresses: vec![std::net::Ipv4Addr::from(0x0a60_0000 + number).into()],
        ports: vec![80],
        endpoints: behind.map(endpoint).collect(),
        ..Service::bare(key)
    }
}

fn published() -> Published {
    let mut published = Published::default();
    published.apply((0..WORKLOADS).map(|number| Change::Workload(workload(number))));
    published.apply((0..SERVICES).map(|number| Change::Service(service(number))));
    published
}

fn join(replica: &Replica, published: &Published) -> Session {
    let hello = proto::Hello { node: "node-000".into(), held: replica.held(), ..Default::default() };
    Session::new(&hello, published).unwrap()
}

/// As the agent does it: each update is a new world, made of the one before.
fn follow(session: &mut Session, replica: &mut Replica, world: &mut World, published: &Published) {
    while let Some(delta) = session.next(published).unwrap() {
        let mut received = replica.receive(delta);
        let mut next = world.clone();
        for change in std::mem::take(&mut received.changes) {
            next.apply(change);
        }
        *world = next;
        let Some(Say::Ack(ack)) = replica.accept(received).message else { panic!("refused") };
        session.ack(ack.nonce).unwrap();
    }
}

#[test]
fn a_remote_workload_with_its_share_of_the_services_costs_an_agent_less_than_1_kib() {
    let _turn = TURN.lock();
    let published = published();
    let before = live();
    let (mut replica, mut world) = (Replica::default(), World::default());
    let mut session = join(&replica, &published);
    let without = live();
    follow(&mut session, &mut replica, &mut world, &published);
    assert_eq!(world.workloads().count() as u32, WORKLOADS);
    let each = grown(before) / WORKLOADS as usize;
    println!("{each} bytes for each remote workload");
    assert!(each <= 1024, "{each} bytes");
    assert!(each > 100, "{each} bytes: something is not counted");
    drop(session);
    assert!(without - before < 4096, "a session of an agent that has nothing: {} bytes", without - before);
}

#[test]
fn a_session_costs_the_controller_little_whatever_the_agent_has_and_however_slow_it_is() {
    let _turn = TURN.lock();
    let mut published = published();
    let (mut replica, mut world) = (Replica::default(), World::default());
    let mut session = join(&replica, &published);
    follow(&mut session, &mut replica, &mut world, &published);
    drop(session);

    let before = live();
    let mut resumed = join(&replica, &published);
    println!("{} bytes for the session of an agent that resumed", grown(before));
    assert!(grown(before) < 4096, "{} bytes", grown(before));
    follow(&mut resumed, &mut replica, &mut world, &published);
    assert!(grown(before) < 64 << 10, "after the marker: {} bytes", grown(before));

    // One that never answers its first delta, with everything changing behind it.
    let before = live();
    let mut slow = join(&Replica::default(), &published);
    let unanswered = slow.next(&published).unwrap();
    let first = grown(before);
    println!("{first} bytes for a first delta that is not answered");
    assert!(first < 1 << 20, "{first} bytes");
    drop(unanswered);
    // The published may grow by its log; what is left is the session's.
    let remembered = slow.remembered();
    for round in 0..3 {
        let tunnel = [Tunnel::None, Tunnel::Withdrawn, Tunnel::Hbone][round];
        for number in 0..WORKLOADS {
            published.apply([Change::Workload(Workload { tunnel, ..workload(number) })]);
            if number % 1_000 == 0 {
                assert!(slow.next(&published).unwrap().is_none());
            }
        }
    }
    assert!(slow.remembered() <= remembered * 2, "{} names, {remembered} before", slow.remembered());
}
