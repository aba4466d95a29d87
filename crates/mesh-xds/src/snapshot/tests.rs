#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::HashMap;

use mesh_model::{
    Endpoint, Identity, MeshSettings, NodeInfo, Phase, Service, ServiceKey, TrustDomain, Tunnel, Uid,
    Workload, World,
};
use sha2::{Digest as _, Sha256};

use super::{SnapshotError, read, write};
use crate::resource::Resource;

fn world() -> World {
    let mut world = World::default();
    for number in 0..20_u8 {
        let workload = Workload {
            uid: Uid::new(&format!("uid-{number}")),
            namespace: "shop".into(),
            name: format!("web-{number}").as_str().into(),
            owner: "web".into(),
            node: "one".into(),
            identity: Identity::new(TrustDomain::new("cluster.local").unwrap(), "shop", "web").unwrap(),
            addresses: vec![[10, 0, 0, number].into()],
            enrolled: true,
            left_alone: None,
            bindings: None,
            tunnel: Tunnel::Hbone,
            phase: Phase::Running,
            host_network: false,
        };
        world.apply(Resource::Workload(workload).into_change());
    }
    let endpoint = Endpoint { workload: Some(Uid::new("uid-1")), ..Endpoint::at([10, 0, 0, 1].into()) };
    let service = Service { endpoints: vec![endpoint], ..Service::bare(ServiceKey::new("shop", "web")) };
    world.apply(Resource::Service(service).into_change());
    world.apply(Resource::Mesh(MeshSettings { leaving: true, ..Default::default() }).into_change());
    let node = NodeInfo { name: "one".into(), zone: Some("a".into()), addresses: Vec::new() };
    world.apply(Resource::Node(node).into_change());
    world
}

fn bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&world(), "one", &mut bytes).unwrap();
    bytes
}

/// Puts a fitting digest below other bytes: whoever wrote them meant it so.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 32);
    let digest = Sha256::digest(&bytes);
    bytes.extend(digest);
    bytes
}

#[test]
fn a_world_comes_back_whole() {
    let back = read(&bytes(), "one").unwrap();
    let by_name = |all: Vec<Resource>| all.into_iter().map(|it| (it.name(), it)).collect::<HashMap<_, _>>();
    assert_eq!(back.len(), 23);
    assert_eq!(by_name(back), by_name(Resource::all_of(&world())));
}

#[test]
fn the_empty_world_is_a_world() {
    let mut bytes = Vec::new();
    write(&World::default(), "one", &mut bytes).unwrap();
    assert_eq!(read(&bytes, "one").unwrap(), []);
}

#[test]
fn every_cut_and_every_flipped_bit_is_an_error() {
    let whole = bytes();
    for length in 0..whole.len() {
        let error = read(&whole[..length], "one").unwrap_err();
        assert!(matches!(error, SnapshotError::Foreign | SnapshotError::Damaged), "{length}: {error}");
    }
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 1 << (position % 8);
        read(&bytes, "one").unwrap_err();
    }
    let mut longer = whole;
    longer.push(0);
    assert!(matches!(read(&longer, "one"), Err(SnapshotError::Damaged)));
}

#[test]
fn another_format_another_node_and_something_unknown_are_told_apart() {
    let mut other = bytes();
    other[15] = 0;
    let error = read(&sealed(other), "one").unwrap_err();
    assert!(matches!(error, SnapshotError::Format { found: 0 }), "{error}");

    let error = read(&bytes(), "two").unwrap_err();
    assert!(error.to_string().contains("node one's") && error.to_string().contains("this is two"), "{error}");

    // One record more than there are.
    let mut other = bytes();
    other[26] += 1;
    let error = read(&sealed(other), "one").unwrap_err();
    assert!(matches!(error, SnapshotError::Malformed { record: 23 }), "{error}");
}

#[test]
fn what_many_have_in_common_is_read_once() {
    let back = read(&bytes(), "one").unwrap();
    let workloads = back.iter().filter_map(|it| match it {
        Resource::Workload(workload) => Some(workload),
        _ => None,
    });
    let nodes: std::collections::HashSet<_> = workloads.map(|it| it.node.as_ptr()).collect();
    assert_eq!(nodes.len(), 1);
}
