//! Pods that another mesh serves already, or whose connections no hook of this kernel sees.
//!
//! Two meshes in one pod redirect each other's connections, and a sandbox (gVisor, Kata) has a network stack of its own: the
//! node's kernel sees its packets and not its sockets. Such pods are not captured, whatever their labels say.
//!
//! Told by the Pod object alone, never by what runs in the pod: a process that could look like a sidecar or a sandbox could
//! take its pod out of the mesh. Who may write Pods may do that anyway (`weft.dev/capture: disabled`).

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_model::Reason;

/// Set by Istio's injector on every pod that it gave a proxy.
const ISTIO_STATUS: &str = "sidecar.istio.io/status";
const ISTIO_CONTAINER: &str = "istio-proxy";
/// Set by Istio's CNI agent: `enabled`, or `pending` while it is at it.
const ISTIO_REDIRECTION: &str = "ambient.istio.io/redirection";
/// Set by Linkerd's injector.
const LINKERD_VERSION: &str = "linkerd.io/proxy-version";
const LINKERD_CONTAINER: &str = "linkerd-proxy";

/// What the names of RuntimeClasses and their handlers begin with, where what they stand for has no host sockets: gVisor's
/// (`gvisor`, `runsc`, `runsc-kvm`), those of Kata Containers and of what is built on it (`kata`, `kata-qemu`, `kata-clh`,
/// `kata-fc`, `kata-remote`, `kata-mshv-vm-isolation`, `contrast-cc-…`).
const SANDBOXES: [&str; 4] = ["gvisor", "runsc", "kata", "contrast-cc"];

/// The other mesh that serves the pod.
pub(super) fn other_mesh(meta: &ObjectMeta, spec: &PodSpec) -> Option<Reason> {
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|annotations| annotations.get(key));
    // A native sidecar is an init container that restarts always.
    let has_container = |name: &str| {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        containers.into_iter().any(|container| container.name == name)
    };
    if annotation(ISTIO_STATUS).is_some() || has_container(ISTIO_CONTAINER) {
        Some(Reason::IstioSidecar)
    } else if annotation(LINKERD_VERSION).is_some() || has_container(LINKERD_CONTAINER) {
        Some(Reason::LinkerdSidecar)
    } else {
        let redirected = annotation(ISTIO_REDIRECTION).map(String::as_str);
        matches!(redirected, Some("enabled" | "pending")).then_some(Reason::IstioAmbient)
    }
}

/// Whether a RuntimeClass or a handler of this name stands for a sandbox.
pub(in crate::index) fn is_sandbox(name: &str) -> bool {
    SANDBOXES.iter().any(|prefix| name.starts_with(prefix))
}
