//! What only one node's agent is told.

use super::*;

fn node(name: &str, zone: &str) -> Change {
    Change::Node(NodeInfo { name: name.into(), zone: Some(zone.into()), addresses: Vec::new() })
}

fn session(node: &str, held: Vec<proto::HeldResource>, published: &Published) -> Session {
    let hello = proto::Hello { node: node.into(), held, ..Default::default() };
    Session::new(&hello, published).unwrap()
}

#[test]
fn a_node_is_told_to_its_own_agent_alone_in_snapshots_changes_and_removals() {
    let mut published = published(1);
    published.apply([node("one", "a"), node("two", "b")]);
    let mut agents =
        ["one", "two"].map(|name| (name, session(name, Vec::new(), &published), Replica::default()));
    let mut told = |published: &Published| {
        let [one, two] = &mut agents;
        [one, two].map(|(name, session, replica)| {
            let deltas = drain(session, replica, published);
            let resources = deltas.iter().flat_map(|delta| &delta.resources).filter_map(|r| r.name.as_ref());
            let removed = deltas.iter().flat_map(|delta| &delta.removed);
            let kind = i32::from(proto::ResourceType::Node);
            let names = resources.chain(removed).filter(|name| name.r#type == kind);
            let names: Vec<_> = names.map(|name| name.name.clone()).collect();
            assert!(names.iter().all(|of| of == *name), "{name} heard of {names:?}");
            (deltas.len(), names.len())
        })
    };
    assert_eq!(told(&published), [(1, 1), (1, 1)]);
    published.apply([node("two", "c")]);
    assert_eq!(told(&published), [(0, 0), (1, 1)], "another node's change is not even an empty delta");
    published.apply([Change::NodeRemoved("two".into())]);
    assert_eq!(told(&published), [(0, 0), (1, 1)]);
    published.apply([Change::NodeRemoved("one".into()), node("three", "a")]);
    assert_eq!(told(&published), [(1, 1), (0, 0)]);
}

#[test]
fn an_agent_that_holds_another_nodes_resource_is_told_to_let_go_of_it() {
    let mut published = published(1);
    published.apply([node("one", "a"), node("two", "b")]);
    let Change::Node(two) = node("two", "b") else { unreachable!() };
    let mut replica = Replica::new(&[Resource::Node(two)]);
    let mut session = session("one", replica.held(), &published);
    let deltas = drain(&mut session, &mut replica, &published);
    assert_eq!(deltas[0].removed[0].name, "two");
}

#[test]
fn the_worlds_version_is_of_what_all_agents_are_told() {
    let mut published = published(2);
    let before = published.version();
    published.apply([node("one", "a"), node("two", "b")]);
    assert_eq!(published.version(), before, "two agents that are up to date say the same version");
    published.apply([Change::Workload(workload(1, 1))]);
    assert_ne!(published.version(), before);
    published.apply([Change::Workload(workload(1, 0)), Change::NodeRemoved("one".into())]);
    assert_eq!(published.version(), before);

    // An agent that is told nothing because nothing concerns it is not behind.
    let mut replica = Replica::default();
    let mut session = session("one", Vec::new(), &published);
    drain(&mut session, &mut replica, &published);
    published.apply([node("two", "c")]);
    assert!(session.next(&published).unwrap().is_none());
    assert_eq!(session.acked(), published.generation());
}
