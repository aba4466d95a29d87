#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod policies;
mod settings;

use bytes::Bytes;
use mesh_model::{
    Endpoint, Identity, Phase, PortMap, Reason, Service, ServiceKey, TrustDomain, Tunnel, Uid, Workload,
};
use prost::Message as _;

use super::{Name, Resource};
use crate::proto;

fn workload() -> Workload {
    Workload {
        uid: Uid::new("0f1e"),
        namespace: "shop".into(),
        name: "web-1".into(),
        owner: "web".into(),
        node: "one".into(),
        identity: Identity::new(TrustDomain::new("cluster.local").unwrap(), "shop", "web").unwrap(),
        addresses: vec!["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()],
        enrolled: true,
        left_alone: None,
        bindings: None,
        tunnel: Tunnel::Hbone,
        phase: Phase::Terminating,
        host_network: false,
    }
}

fn service() -> Service {
    Service {
        key: ServiceKey::new("shop", "web"),
        addresses: vec!["10.96.0.7".parse().unwrap(), "fd01::7".parse().unwrap()],
        ports: vec![80, 443],
        endpoints: vec![
            Endpoint {
                workload: Some(Uid::new("0f1e")),
                ports: vec![PortMap { service: 80, target: 8080 }],
                node: Some("node-1".into()),
                for_zones: vec!["a".into(), "b".into()],
                for_nodes: vec!["node-1".into()],
                ..Endpoint::at("10.1.2.3".parse().unwrap())
            },
            Endpoint { ready: false, ..Endpoint::at("192.0.2.1".parse().unwrap()) },
        ],
        affinity_seconds: 10_800,
        local_only: true,
        external_addresses: vec!["192.0.2.7".parse().unwrap()],
        load_balancer_addresses: vec!["198.51.100.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        source_ranges: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        other_proxy: Some("somebody".into()),
        untouched: ["udp/53", "sctp/9000", "node-port/30080", "proxied/203.0.113.7", "unserved/2001:db8::8"]
            .map(|word| word.parse().unwrap())
            .to_vec(),
    }
}

#[test]
fn a_resource_comes_back_from_the_wire_as_it_went() {
    let mut all = vec![Resource::Service(service())];
    for tunnel in [Tunnel::None, Tunnel::Hbone, Tunnel::Withdrawn, Tunnel::Foreign] {
        for phase in [Phase::Pending, Phase::Running, Phase::Terminating, Phase::Finished] {
            all.push(Resource::Workload(Workload { tunnel, phase, ..workload() }));
        }
    }
    all.push(Resource::Workload(Workload {
        node: "".into(),
        addresses: Vec::new(),
        host_network: true,
        ..workload()
    }));
    for reason in [Reason::IstioSidecar, Reason::SandboxedRuntime] {
        all.push(Resource::Workload(Workload { enrolled: false, left_alone: Some(reason), ..workload() }));
    }
    for resource in all {
        let encoded = resource.encode();
        assert_eq!(Resource::decode(&resource.name(), &encoded.body).unwrap(), resource);
        assert_eq!(resource.encode(), encoded);
        let name = resource.name();
        assert_eq!(Name::decode(Some(&name.encode())).unwrap(), name);
    }
}

#[test]
fn every_field_is_part_of_the_version() {
    let base = Resource::Workload(workload()).encode().version;
    let other = TrustDomain::new("other").unwrap();
    let changed = [
        Workload { namespace: "x".into(), ..workload() },
        Workload { name: "x".into(), ..workload() },
        Workload { owner: "x".into(), ..workload() },
        Workload { node: "x".into(), ..workload() },
        Workload { identity: Identity::new(other, "shop", "web").unwrap(), ..workload() },
        Workload { addresses: Vec::new(), ..workload() },
        Workload { enrolled: false, ..workload() },
        Workload { enrolled: false, left_alone: Some(Reason::IstioSidecar), ..workload() },
        Workload { tunnel: Tunnel::Withdrawn, ..workload() },
        Workload { phase: Phase::Finished, ..workload() },
        Workload { host_network: true, ..workload() },
    ];
    for workload in changed {
        assert_ne!(Resource::Workload(workload.clone()).encode().version, base, "{workload:?}");
    }
}

#[test]
fn every_field_of_a_service_is_part_of_the_version() {
    let base = Resource::Service(service()).encode().version;
    let without: [fn(&mut Service); 12] = [
        |s| s.addresses.clear(),
        |s| s.ports.clear(),
        |s| s.endpoints.truncate(1),
        |s| s.endpoints[1].ready = true,
        |s| s.endpoints[0].node = None,
        |s| s.endpoints[0].for_zones.clear(),
        |s| s.affinity_seconds = 0,
        |s| s.local_only = false,
        |s| s.external_addresses.clear(),
        |s| s.load_balancer_addresses.clear(),
        |s| s.source_ranges.clear(),
        |s| s.other_proxy = None,
    ];
    for (number, edit) in without.into_iter().enumerate() {
        let mut changed = service();
        edit(&mut changed);
        assert_ne!(Resource::Service(changed).encode().version, base, "edit {number}");
    }
}

type EditWorkload = fn(&mut proto::Workload);
type EditService = fn(&mut proto::Service);

#[test]
fn a_bad_workload_is_refused_by_name_and_field() {
    let cases: &[(&str, EditWorkload)] = &[
        ("uid", |w| w.uid.clear()),
        ("uid", |w| w.uid = "another".into()),
        ("namespace", |w| w.namespace.clear()),
        ("name", |w| w.name.clear()),
        ("owner", |w| w.owner.clear()),
        ("identity", |w| w.identity = "spiffe://cluster.local/web".into()),
        ("addresses", |w| w.addresses.push(Bytes::from_static(&[1, 2, 3]))),
        ("tunnel", |w| w.tunnel = 0),
        ("tunnel", |w| w.tunnel = 99),
        ("phase", |w| w.phase = 0),
        ("phase", |w| w.phase = -1),
        ("left_alone", |w| w.left_alone = "because".into()),
    ];
    let resource = Resource::Workload(workload());
    for (field, edit) in cases {
        let mut message = proto::Workload::decode(resource.encode().body).unwrap();
        edit(&mut message);
        let error = Resource::decode(&resource.name(), &message.encode_to_vec().into()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("workload 0f1e") && text.contains(field), "{field}: {text}");
    }
}

#[test]
fn a_bad_service_is_refused_by_name_and_field() {
    let cases: &[(&str, EditService)] = &[
        ("name", |s| s.name = "other".into()),
        ("namespace", |s| s.namespace.clear()),
        ("addresses", |s| s.addresses.push(Bytes::new())),
        ("ports", |s| s.ports.push(0)),
        ("ports", |s| s.ports.push(65_536)),
        ("endpoints.address", |s| s.endpoints[0].address = Bytes::new()),
        ("endpoints.ports.target", |s| s.endpoints[0].ports[0].target = 0),
        ("endpoints.ports.service", |s| s.endpoints[0].ports[0].service = 70_000),
        ("external_addresses", |s| s.external_addresses.push(Bytes::from_static(&[1]))),
        ("load_balancer_addresses", |s| s.load_balancer_addresses.push(Bytes::new())),
        ("source_ranges", |s| s.source_ranges[0].bits = 33),
        ("untouched", |s| s.untouched.push("everything".into())),
        ("untouched", |s| s.untouched.push("udp/dns".into())),
    ];
    let resource = Resource::Service(service());
    for (field, edit) in cases {
        let mut message = proto::Service::decode(resource.encode().body).unwrap();
        edit(&mut message);
        let error = Resource::decode(&resource.name(), &message.encode_to_vec().into()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("service shop/web") && text.contains(field), "{field}: {text}");
    }
}

#[test]
fn arbitrary_bytes_never_panic() {
    let mut state = 1_u32;
    for length in 0..512 {
        let body: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        for resource in [
            Resource::Workload(workload()),
            Resource::Service(service()),
            Resource::Policy(policies::policy()),
        ] {
            let _ = Resource::decode(&resource.name(), &body.clone().into());
            // And real messages, cut short or with a byte changed.
            let mut real = resource.encode().body.to_vec();
            let at = length % real.len();
            let _ = Resource::decode(&resource.name(), &real[..at].to_vec().into());
            real[at] ^= 1 << (length % 8);
            let _ = Resource::decode(&resource.name(), &real.into());
        }
    }
}
