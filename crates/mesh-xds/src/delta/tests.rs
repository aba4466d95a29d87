#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;

use mesh_model::policy::{Action, Mode, Policy, PolicyKey, Reach};
use mesh_model::{Change, NodeInfo, Phase, Service, ServiceKey, TrustDomain, Tunnel, Uid, Workload};

use super::{ProtocolError, Published, Replica, Session};
use crate::proto;
use crate::proto::agent_message::Message as Say;
use crate::resource::{Name, Resource};

mod nodes;
mod resume;
mod slow;

/// Numbers that depend on the seed alone, so that a failure can be had again (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

fn workload(number: u64, revision: u64) -> Workload {
    let domain = TrustDomain::new("cluster.local").unwrap();
    Workload {
        uid: Uid::new(&format!("uid-{number}")),
        namespace: "default".into(),
        name: format!("pod-{number}").as_str().into(),
        owner: "web".into(),
        node: "one".into(),
        identity: mesh_model::Identity::new(domain, "default", "web").unwrap(),
        addresses: vec![[10, 0, (revision % 3) as u8, number as u8].into()],
        enrolled: revision.is_multiple_of(2),
        left_alone: None,
        bindings: None,
        tunnel: [Tunnel::None, Tunnel::Hbone, Tunnel::Withdrawn][(revision % 3) as usize],
        phase: Phase::Running,
        host_network: false,
    }
}

fn service(number: u64, revision: u64) -> Service {
    Service {
        addresses: vec![[10, 96, 0, number as u8].into()],
        ports: vec![80 + (revision % 3) as u16],
        ..Service::bare(ServiceKey::new("default", &format!("svc-{number}")))
    }
}

fn random_change(dice: &mut Dice) -> Change {
    let (number, revision) = (dice.roll(8), dice.roll(6));
    match dice.roll(10) {
        0..=2 => Change::Workload(workload(number, revision)),
        3 => Change::WorkloadRemoved(Uid::new(&format!("uid-{number}"))),
        4 => Change::Service(service(number, revision)),
        // Of the agent's own node, which is all of this kind that it hears of.
        5 => Change::Node(NodeInfo {
            name: "one".into(),
            zone: Some(format!("z{revision}").as_str().into()),
            addresses: Vec::new(),
        }),
        6 => Change::NodeRemoved("one".into()),
        7 => Change::Policy(Policy {
            key: PolicyKey::new("default", &format!("policy-{number}")),
            reach: Reach { mesh: revision.is_multiple_of(2), namespaces: Vec::new() },
            action: Action::Deny,
            mode: Mode::Enforce,
            rules: Vec::new(),
        }),
        8 => Change::PolicyRemoved(PolicyKey::new("default", &format!("policy-{number}"))),
        _ => Change::ServiceRemoved(ServiceKey::new("default", &format!("svc-{number}"))),
    }
}

/// What an agent or a controller holds, by name.
type Contents = BTreeMap<Name, Resource>;

fn apply(contents: &mut Contents, change: Change) {
    let resource = match change {
        Change::Workload(workload) => Resource::Workload(workload),
        Change::Service(service) => Resource::Service(service),
        Change::WorkloadRemoved(uid) => return drop(contents.remove(&Name::Workload(uid))),
        Change::ServiceRemoved(key) => return drop(contents.remove(&Name::of_service(&key))),
        Change::Mesh(settings) => Resource::Mesh(settings),
        Change::MeshRemoved => return drop(contents.remove(&Name::Mesh)),
        Change::Node(node) => Resource::Node(node),
        Change::NodeRemoved(name) => return drop(contents.remove(&Name::Node(name))),
        Change::Policy(policy) => Resource::Policy(policy),
        Change::PolicyRemoved(key) => return drop(contents.remove(&Name::Policy(key))),
    };
    contents.insert(resource.name(), resource);
}

fn hello(replica: &Replica) -> proto::Hello {
    proto::Hello { node: "one".into(), held: replica.held(), ..Default::default() }
}

fn answer(session: &mut Session, message: proto::AgentMessage) {
    match message.message.unwrap() {
        Say::Ack(ack) => session.ack(ack.nonce).unwrap(),
        Say::Nack(nack) => session.nack(nack.nonce, &nack.refused).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Everything at once: a controller, one stream, one agent.
struct Play {
    dice: Dice,
    truth: Contents,
    published: Published,
    session: Session,
    replica: Replica,
    agent: Contents,
    told_complete: bool,
}

impl Play {
    fn new(seed: u64) -> Self {
        let (published, replica) = (Published::default(), Replica::default());
        let session = Session::new(&hello(&replica), &published).unwrap();
        let (truth, agent) = Default::default();
        Self { dice: Dice(seed), truth, published, session, replica, agent, told_complete: false }
    }

    fn edit(&mut self) {
        let changes: Vec<_> = (0..self.dice.roll(5)).map(|_| random_change(&mut self.dice)).collect();
        for change in &changes {
            apply(&mut self.truth, change.clone());
        }
        self.published.apply(changes);
    }

    /// The agent takes a delta, or some of it, or none; the answer gets through, or the stream breaks first.
    fn exchange(&mut self, hostile: bool) {
        let Some(mut delta) = self.session.next(&self.published).unwrap() else { return };
        if hostile && self.dice.roll(4) == 0 && !delta.resources.is_empty() {
            let victim = self.dice.roll(delta.resources.len() as u64) as usize;
            delta.resources[victim].body = vec![0xff; 3].into();
        }
        let mut received = self.replica.receive(delta);
        let complete = received.complete;
        let refuses = hostile && self.dice.roll(4) == 0;
        for change in std::mem::take(&mut received.changes) {
            // An agent that fails half-way has applied some of it.
            if !refuses || self.dice.roll(2) == 0 {
                apply(&mut self.agent, change);
            }
        }
        let message = if refuses {
            self.replica.refuse(received, "does not fit".into())
        } else {
            self.told_complete |= complete;
            self.replica.accept(received)
        };
        if hostile && self.dice.roll(5) == 0 {
            self.reconnect();
        } else {
            answer(&mut self.session, message);
        }
    }

    /// To the same controller, or to one that came to the same contents on another way.
    fn reconnect(&mut self) {
        if self.dice.roll(2) == 0 {
            self.published = Published::default();
            let all: Vec<_> = self.truth.values().cloned().map(Resource::into_change).collect();
            for change in all {
                self.published.apply([change]);
            }
        }
        self.session = Session::new(&hello(&self.replica), &self.published).unwrap();
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.session.retry();
            self.exchange(false);
        }
    }
}

#[test]
fn whatever_happens_an_agent_that_is_left_in_peace_ends_up_with_what_is_published() {
    for seed in 0..2_000 {
        let mut play = Play::new(seed);
        for _ in 0..60 {
            match play.dice.roll(8) {
                0..3 => play.edit(),
                3 => play.reconnect(),
                4 => play.session.retry(),
                _ => play.exchange(true),
            }
        }
        play.settle();
        assert_eq!(play.agent, play.truth, "seed {seed}");
        assert!(play.told_complete, "seed {seed}");
        assert_eq!(play.session.acked(), play.published.generation(), "seed {seed}");
        assert!(play.session.next(&play.published).unwrap().is_none(), "seed {seed}: nothing is left to say");
        let held: BTreeMap<_, _> = play.replica.versions().map(|(name, v)| (name.clone(), v)).collect();
        let truth: BTreeMap<_, _> =
            play.truth.iter().map(|(name, r)| (name.clone(), Some(r.encode().version))).collect();
        assert_eq!(held, truth, "seed {seed}");
    }
}

#[test]
fn equal_contents_have_equal_versions_whatever_the_way_there() {
    for seed in 0..200 {
        let mut play = Play::new(seed);
        for _ in 0..20 {
            play.edit();
        }
        let mut other = Published::default();
        other.apply(play.truth.values().cloned().map(Resource::into_change));
        assert_eq!(other.version(), play.published.version(), "seed {seed}");
    }
}

fn published(workloads: u64) -> Published {
    let mut published = Published::default();
    published.apply((0..workloads).map(|number| Change::Workload(workload(number, 0))));
    published
}

/// Exchanges until nothing is left to say; the deltas.
fn drain(session: &mut Session, replica: &mut Replica, published: &Published) -> Vec<proto::Delta> {
    let mut deltas = Vec::new();
    while let Some(delta) = session.next(published).unwrap() {
        deltas.push(delta.clone());
        let received = replica.receive(delta);
        answer(session, replica.accept(received));
    }
    deltas
}

#[test]
fn an_agent_that_has_everything_is_told_so_and_nothing_else() {
    let published = published(5);
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    assert_eq!(drain(&mut session, &mut replica, &published).len(), 1);

    let mut session = Session::new(&hello(&replica), &published).unwrap();
    let deltas = drain(&mut session, &mut replica, &published);
    assert_eq!(deltas.len(), 1);
    assert!(deltas[0].complete);
    assert!(deltas[0].resources.is_empty() && deltas[0].removed.is_empty());
}

#[test]
fn a_cache_is_resumed_by_the_hash_of_its_contents() {
    let published = published(3);
    let cached = [Resource::Workload(workload(0, 0)), Resource::Workload(workload(1, 1))];
    let mut replica = Replica::new(&cached);
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    let deltas = drain(&mut session, &mut replica, &published);
    let names: Vec<_> = deltas[0].resources.iter().map(|r| r.name.clone().unwrap().name).collect();
    assert_eq!(names, ["uid-1", "uid-2"], "the first is the same, the second differs, the third is new");
}

#[test]
fn only_the_last_delta_of_a_large_snapshot_is_complete() {
    let published = published(2_500);
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    let complete: Vec<_> =
        drain(&mut session, &mut replica, &published).iter().map(|delta| delta.complete).collect();
    assert_eq!(complete, [false, false, true]);
    assert_eq!(replica.versions().count(), 2_500);
    assert_eq!(session.remembered(), 0, "what an agent has in common with the controller costs nothing");
}

#[test]
fn a_burst_while_a_delta_is_in_flight_becomes_one_delta_of_the_newest() {
    let mut published = published(1);
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    let first = session.next(&published).unwrap().unwrap();
    for revision in 1..=50 {
        published.apply([Change::Workload(workload(0, revision))]);
        assert!(session.next(&published).unwrap().is_none());
    }
    let received = replica.receive(first);
    answer(&mut session, replica.accept(received));
    assert!(session.acked() < published.generation());
    let second = session.next(&published).unwrap().unwrap();
    assert_eq!(second.resources.len(), 1);
    let received = replica.receive(second);
    assert_eq!(received.changes, [Change::Workload(workload(0, 50))]);
    answer(&mut session, replica.accept(received));
    assert_eq!(session.acked(), published.generation());
}

#[test]
fn a_generation_that_is_undone_before_it_is_sent_counts_as_acknowledged() {
    let mut published = published(1);
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    drain(&mut session, &mut replica, &published);
    published.apply([Change::Workload(workload(0, 1))]);
    published.apply([Change::Workload(workload(0, 0))]);
    assert!(session.next(&published).unwrap().is_none());
    assert_eq!(session.acked(), published.generation());
}

#[test]
fn a_refused_resource_is_named_and_the_rest_of_its_delta_holds() {
    let mut published = published(3);
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    let mut delta = session.next(&published).unwrap().unwrap();
    delta.resources[1].body = vec![0xff].into();
    let received = replica.receive(delta);
    assert_eq!(received.changes.len(), 2);
    assert!(!received.complete, "a world that lacks something is not whole");
    let message = replica.accept(received);
    let Some(Say::Nack(nack)) = &message.message else { panic!("{message:?}") };
    assert!(nack.error.contains("workload uid-1"), "{}", nack.error);
    answer(&mut session, message);

    assert!(session.next(&published).unwrap().is_none(), "a bad resource must not spin");
    assert_eq!(session.acked(), 0);
    published.apply([Change::Workload(workload(2, 5))]);
    let delta = session.next(&published).unwrap().unwrap();
    let names: Vec<_> = delta.resources.iter().map(|r| r.name.clone().unwrap().name).collect();
    assert_eq!(names, ["uid-1", "uid-2"], "said again with the next news");
    assert!(delta.complete);
}

#[test]
fn what_only_the_client_knows_is_left_with_it_while_the_published_is_partial() {
    let mut replica = Replica::new(&[Resource::Workload(workload(0, 0)), Resource::Workload(workload(9, 0))]);
    let mut published = published(1);
    published.set_partial(true);
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    let deltas = drain(&mut session, &mut replica, &published);
    assert!(deltas.iter().all(|delta| delta.removed.is_empty()));
    assert!(deltas.last().unwrap().complete);

    published.apply([Change::WorkloadRemoved(Uid::new("uid-0"))]);
    let deltas = drain(&mut session, &mut replica, &published);
    assert_eq!(deltas[0].removed[0].name, "uid-0", "what was published and is gone is removed all the same");

    published.set_partial(false);
    let deltas = drain(&mut session, &mut replica, &published);
    assert_eq!(deltas[0].removed[0].name, "uid-9");
    assert_eq!(replica.versions().count(), 0);
}

#[test]
fn an_agent_that_follows_workloads_alone_gets_no_service() {
    let mut published = published(1);
    published.apply([Change::Service(service(0, 0))]);
    let mut replica = Replica::default();
    let mut hello = hello(&replica);
    hello.subscribe = vec![proto::ResourceType::Workload.into()];
    let mut session = Session::new(&hello, &published).unwrap();
    let deltas = drain(&mut session, &mut replica, &published);
    assert_eq!(deltas.len(), 1);
    assert_eq!(deltas[0].resources.len(), 1);
    assert!(deltas[0].complete);
}

#[test]
fn answers_to_what_is_not_in_flight_and_malformed_hellos_are_errors() {
    let published = published(1);
    let replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    session.ack(0).unwrap_err();
    let delta = session.next(&published).unwrap().unwrap();
    session.ack(delta.nonce + 1).unwrap_err();
    session.ack(delta.nonce).unwrap();
    session.nack(delta.nonce, &[]).unwrap_err();

    let held = |kind: proto::ResourceType, name: &str, version: &[u8]| proto::HeldResource {
        name: Some(proto::ResourceName { r#type: kind.into(), name: name.into() }),
        version: version.to_vec().into(),
    };
    for bad in [
        held(proto::ResourceType::Unspecified, "x", &[0; 16]),
        held(proto::ResourceType::Workload, "", &[0; 16]),
        held(proto::ResourceType::Service, "no-namespace", &[0; 16]),
        held(proto::ResourceType::Workload, "x", &[0; 15]),
        proto::HeldResource::default(),
    ] {
        let hello = proto::Hello { held: vec![bad.clone()], ..Default::default() };
        assert!(Session::new(&hello, &published).is_err(), "{bad:?}");
    }
}
