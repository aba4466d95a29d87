//! Policies, bindings and mesh settings over the wire and back.

use mesh_model::MeshSettings;
use mesh_model::policy::{
    Action, Bindings, Condition, IpBlock, Mode, Mtls, Policy, PolicyKey, PortMtls, Reach, Rule, Source,
};

use super::*;

pub(super) fn policy() -> Policy {
    let identity = Condition::Identity("spiffe://cluster.local/ns/shop/sa/web-*".parse().unwrap());
    let block = Condition::Address(IpBlock {
        net: "10.0.0.0/8".parse().unwrap(),
        except: vec!["10.1.0.0/16".parse().unwrap()],
    });
    Policy {
        key: PolicyKey::new("shop", "web"),
        reach: Reach { mesh: true, namespaces: vec!["shop".into(), "bank".into()] },
        action: Action::Deny,
        mode: Mode::Audit,
        rules: vec![
            Rule {
                sources: Some(vec![Source {
                    all: vec![identity.clone(), block.clone()],
                    none: vec![vec![identity], vec![block]],
                }]),
                ports: vec![80..=80, 9000..=9010],
                layer7: true,
            },
            Rule { sources: Some(Vec::new()), ..Rule::default() },
            Rule::default(),
        ],
    }
}

#[test]
fn a_policy_comes_back_from_the_wire_as_it_went() {
    for policy in
        [policy(), Policy { action: Action::Allow, mode: Mode::Enforce, rules: Vec::new(), ..policy() }]
    {
        let resource = Resource::Policy(policy);
        let (name, encoded) = (resource.name(), resource.encode());
        assert_eq!(Resource::decode(&name, &encoded.body).unwrap(), resource);
        assert_eq!(Name::decode(Some(&name.encode())).unwrap(), name);
    }
    let bindings = Bindings {
        policies: vec![PolicyKey::new("shop", "web")],
        mtls: vec![
            PortMtls { ports: 80..=90, mtls: Mtls::Strict },
            PortMtls { ports: 1..=65535, mtls: Mtls::Permissive },
        ],
    };
    let bound = Resource::Workload(Workload { bindings: Some(Box::new(bindings)), ..workload() });
    assert_eq!(Resource::decode(&bound.name(), &bound.encode().body).unwrap(), bound);
    assert_ne!(bound.encode().version, Resource::Workload(workload()).encode().version);
    for mtls in [None, Some(Mtls::Permissive), Some(Mtls::Strict)] {
        let mesh = Resource::Mesh(MeshSettings {
            mtls,
            same_node_tunnel: mtls.map(|_| true),
            ..MeshSettings::default()
        });
        assert_eq!(Resource::decode(&Name::Mesh, &mesh.encode().body).unwrap(), mesh);
    }
}

#[test]
fn every_field_of_a_policy_is_part_of_the_version() {
    let base = Resource::Policy(policy()).encode().version;
    let edits: [fn(&mut Policy); 10] = [
        |p| p.reach.mesh = false,
        |p| p.reach.namespaces.truncate(1),
        |p| p.action = Action::Allow,
        |p| p.mode = Mode::Enforce,
        |p| p.rules.truncate(2),
        |p| p.rules[0].ports.truncate(1),
        |p| p.rules[0].layer7 = false,
        |p| p.rules[1].sources = None,
        |p| p.rules[0].sources.as_mut().unwrap()[0].none.truncate(1),
        |p| p.rules[0].sources.as_mut().unwrap()[0].all.truncate(1),
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        let mut changed = policy();
        edit(&mut changed);
        assert_ne!(Resource::Policy(changed).encode().version, base, "edit {number}");
    }
}

#[test]
fn a_bad_policy_is_refused_by_name_and_field() {
    type Edit = fn(&mut proto::Policy);
    fn condition(policy: &mut proto::Policy) -> &mut proto::PolicyCondition {
        &mut policy.rules[0].sources.as_mut().unwrap().sources[0].all[0]
    }
    let cases: &[(&str, Edit)] = &[
        ("name", |p| p.name = "other".into()),
        ("namespace", |p| p.namespace.clear()),
        ("action", |p| p.action = 0),
        ("action", |p| p.action = 9),
        ("mode", |p| p.mode = 0),
        ("rules.ports", |p| p.rules[0].ports[0].first = 0),
        ("rules.ports", |p| p.rules[0].ports[0] = proto::PortRange { first: 9, last: 8 }),
        ("rules.sources.identity", |p| {
            condition(p).condition = Some(proto::policy_condition::Condition::Identity("web".into()));
        }),
        ("rules.sources.block.net", |p| {
            condition(p).condition =
                Some(proto::policy_condition::Condition::Block(proto::IpBlock::default()));
        }),
        ("rules.sources", |p| condition(p).condition = None),
    ];
    let resource = Resource::Policy(policy());
    for (field, edit) in cases {
        let mut message = proto::Policy::decode(resource.encode().body).unwrap();
        edit(&mut message);
        let error = Resource::decode(&resource.name(), &message.encode_to_vec().into()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("policy shop/web") && text.contains(field), "{field}: {text}");
    }
    let name = proto::ResourceName { r#type: proto::ResourceType::Policy.into(), name: "shop".into() };
    assert!(Name::decode(Some(&name)).is_err());
}
