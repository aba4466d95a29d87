//! Labelled pods that are not captured because another mesh serves them, or because a sandbox runs them.

use mesh_model::{Reason, Tunnel};

use super::{ENABLED, Kind, Report, World, pod};

/// A pod with these annotations, and with this beside its containers and among them.
fn annotated(labels: &str, annotations: &str, spec: &str, containers: &str) -> String {
    pod(1, labels, "")
        .replace("uid: u1,", &format!("uid: u1, annotations: {{{annotations}}},"))
        .replace("nodeName: one, containers: [", &format!("nodeName: one, {spec} containers: [{containers}"))
}

#[test]
fn a_labelled_pod_of_another_mesh_is_left_alone_and_says_why() {
    let native = "initContainers: [{name: NAME, restartPolicy: Always}],";
    let rows: [(&str, &str, &str, Option<Reason>); 14] = [
        ("sidecar.istio.io/status: '{\"containers\":[\"istio-proxy\"]}'", "", "", Some(Reason::IstioSidecar)),
        ("", "", "{name: istio-proxy}, ", Some(Reason::IstioSidecar)),
        ("", &native.replace("NAME", "istio-proxy"), "", Some(Reason::IstioSidecar)),
        ("linkerd.io/proxy-version: edge-25.8.1", "", "", Some(Reason::LinkerdSidecar)),
        ("", "", "{name: linkerd-proxy}, ", Some(Reason::LinkerdSidecar)),
        ("", &native.replace("NAME", "linkerd-proxy"), "", Some(Reason::LinkerdSidecar)),
        ("ambient.istio.io/redirection: enabled", "", "", Some(Reason::IstioAmbient)),
        ("ambient.istio.io/redirection: pending", "", "", Some(Reason::IstioAmbient)),
        // What only asks for a sidecar, or is not the proxy, is none.
        ("ambient.istio.io/redirection: disabled", "", "", None),
        ("sidecar.istio.io/inject: 'true'", "", "", None),
        ("linkerd.io/inject: enabled", "", "", None),
        ("", &native.replace("NAME", "istio-init"), "", None),
        ("", "", "{name: my-istio-proxy}, ", None),
        ("", "", "", None),
    ];
    for (annotations, spec, containers, reason) in rows {
        let world = World::of(&annotated(ENABLED, annotations, spec, containers));
        let workload = world.workload("u1");
        let what = format!("{annotations} {spec} {containers}");
        assert_eq!((workload.left_alone, workload.enrolled), (reason, reason.is_none()), "{what}");
        assert_eq!(workload.tunnel, Tunnel::None, "{what}");
        // Nobody wants it: there is nothing to say.
        let world = World::of(&annotated("", annotations, spec, containers));
        assert_eq!((world.workload("u1").left_alone, world.workload("u1").enrolled), (None, false), "{what}");
    }
}

#[test]
fn a_labelled_pod_in_a_sandbox_is_left_alone_by_the_name_of_its_class_or_of_the_handler() {
    let class = |name: &str, handler: &str| {
        format!(
            "---\napiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {name}}}\nhandler: {handler}\n"
        )
    };
    let under = |name: &str| annotated(ENABLED, "", &format!("runtimeClassName: {name},"), "");
    for name in ["gvisor", "runsc", "kata", "kata-qemu", "kata-mshv-vm-isolation", "contrast-cc-abcdef"] {
        let world = World::of(&under(name));
        assert_eq!(world.workload("u1").left_alone, Some(Reason::SandboxedRuntime), "{name}");
    }
    for name in ["nvidia", "runc", "crun", "sysbox-runc", "my-kata"] {
        assert_eq!(World::of(&under(name)).workload("u1").left_alone, None, "{name}");
    }
    let mut world = World::of(&under("untrusted"));
    assert!(world.workload("u1").enrolled);
    assert_eq!(world.set(&class("untrusted", "runsc")), 1);
    assert_eq!(world.workload("u1").left_alone, Some(Reason::SandboxedRuntime));
    assert_eq!(world.set(&class("untrusted", "runc")), 1);
    assert!(world.workload("u1").enrolled);
    world.set(&class("untrusted", "kata-clh"));
    assert_eq!(world.remove(Kind::RuntimeClass, "", "untrusted"), 1);
    assert!(world.workload("u1").enrolled);
}

#[test]
fn a_captured_pod_that_istio_begins_to_redirect_is_withdrawn() {
    let mut world = World::of(&pod(1, ENABLED, ""));
    world.report("one", "u1", Report::Captured).unwrap();
    assert_eq!(world.tunnel("u1"), Tunnel::Hbone);
    assert_eq!(world.set(&annotated(ENABLED, "ambient.istio.io/redirection: enabled", "", "")), 1);
    assert_eq!(world.tunnel("u1"), Tunnel::Withdrawn);
    assert_eq!(world.workload("u1").left_alone, Some(Reason::IstioAmbient));
    // Its ztunnel speaks the same wire: who says so has peers use it.
    let both = "ambient.istio.io/redirection: enabled, weft.dev/tunnel: hbone";
    world.set(&annotated(ENABLED, both, "", ""));
    assert_eq!(world.tunnel("u1"), Tunnel::Foreign);
}
