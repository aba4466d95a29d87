use super::*;

fn package(name: &str, dependencies: &[&str]) -> Package {
    Package {
        name: name.to_owned(),
        directory: "/".into(),
        default_member: true,
        library: true,
        dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
    }
}

#[test]
fn an_end_may_use_every_wire() {
    assert!(layers(&[package("mesh-agent", &["mesh-common", "mesh-hbone", "tokio"])]).is_empty());
}

#[test]
fn an_end_must_not_use_an_end() {
    assert_eq!(layers(&[package("mesh-cli", &["mesh-agent"])]), ["mesh-cli depends on mesh-agent"]);
}

#[test]
fn a_wire_must_not_use_its_neighbour() {
    assert_eq!(layers(&[package("mesh-xds", &["mesh-hbone"])]), ["mesh-xds depends on mesh-hbone"]);
}

#[test]
fn a_new_crate_has_to_be_given_a_layer() {
    assert_eq!(layers(&[package("mesh-moon", &[])]).len(), 1);
}
