//! What the mesh of the bench looks like: so many pods in namespaces of 250, each namespace with 25 Services of 10 pods.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use mesh_model::Workload;

/// Pods of a namespace.
const NAMESPACE: u32 = 250;
/// Pods behind a Service.
const SERVICE: u32 = 10;
/// Nodes that the pods are on.
const NODES: u32 = 20;
/// Name and UID of the pod that changes.
const CHANGING: &str = "changing";

/// A mesh by its size.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    workloads: u32,
}

impl Shape {
    /// A mesh of so many pods, the one that changes among them.
    pub fn of(workloads: u32) -> Self {
        Self { workloads }
    }

    /// How many pods.
    pub fn workloads(self) -> u32 {
        self.workloads
    }

    /// Files of objects, by name: one for each namespace.
    pub fn files(self) -> impl Iterator<Item = (String, String)> {
        let still = self.workloads - 1;
        (0..still.div_ceil(NAMESPACE)).map(move |number| {
            let pods = number * NAMESPACE..still.min((number + 1) * NAMESPACE);
            (format!("team-{number:03}.yaml"), namespace(number, pods))
        })
    }

    /// The file of the pod that changes; each revision has another address.
    pub fn changing(revision: u32) -> (String, String) {
        let mut text = String::from("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n");
        pod(&mut text, "bench", CHANGING, CHANGING, CHANGING, 0, address_of(revision));
        ("changing.yaml".into(), text)
    }

    /// Which revision of it a workload is.
    pub fn revision(workload: &Workload) -> Option<u32> {
        let IpAddr::V4(address) = workload.addresses.first()? else { return None };
        (workload.uid.as_str() == CHANGING).then(|| u32::from(*address) - u32::from(address_of(0)))
    }

    /// How many Services, without the pod that changes.
    pub fn services(self) -> u32 {
        (self.workloads - 1).div_ceil(SERVICE)
    }

    /// Namespace and name of a Service, which are also those of its pods' service account and their label `app`.
    pub fn service(number: u32) -> (String, String) {
        (format!("team-{:03}", number * SERVICE / NAMESPACE), format!("service-{number:04}"))
    }

    /// Namespace and name of the first pod.
    pub fn first_pod() -> (String, String) {
        let (namespace, app) = Self::service(0);
        (namespace, pod_name(&app, 0))
    }

    /// Nodes that have pods.
    pub fn nodes() -> impl Iterator<Item = String> {
        (0..NODES).map(Self::node)
    }

    /// Name of a simulated agent's node: those that have pods first.
    pub fn node(number: u32) -> String {
        format!("node-{number:03}.example.internal")
    }
}

fn pod_name(app: &str, number: u32) -> String {
    format!("{app}-5d4f8c7b9-{number:05x}")
}

fn address_of(revision: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + revision)
}

fn namespace(number: u32, pods: std::ops::Range<u32>) -> String {
    let namespace = format!("team-{number:03}");
    let mut text = format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{weft.dev/capture: enabled}}}}\n"
    );
    for pod_number in pods.clone() {
        let (_, app) = Shape::service(pod_number / SERVICE);
        let name = pod_name(&app, pod_number);
        let uid = format!("{pod_number:08x}-4d4e-4b8a-9b1c-0123456789ab");
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + pod_number + 1);
        pod(&mut text, &namespace, &name, &uid, &app, pod_number % NODES, address);
    }
    for service in pods.step_by(SERVICE as usize).map(|pod| pod / SERVICE) {
        let (_, app) = Shape::service(service);
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + service + 1);
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {app}, namespace: {namespace}}}\n\
             spec:\n  clusterIP: {address}\n  clusterIPs: [{address}]\n  selector: {{app: {app}}}\n  \
             ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: metrics, port: 9090, targetPort: 9090}}]\n"
        );
    }
    text
}

fn pod(text: &mut String, namespace: &str, name: &str, uid: &str, app: &str, node: u32, address: Ipv4Addr) {
    let node = Shape::node(node);
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  uid: {uid}\n  \
         labels: {{app: {app}, pod-template-hash: 5d4f8c7b9}}\n  \
         ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: {app}-5d4f8c7b9, uid: r-{app}, controller: true}}]\n\
         spec:\n  nodeName: {node}\n  serviceAccountName: {app}\n  containers: [{{name: main, image: none}}]\n\
         status:\n  phase: Running\n  podIP: {address}\n  podIPs: [{{ip: {address}}}]\n  \
         conditions: [{{type: Ready, status: \"True\"}}]\n"
    );
}

#[cfg(test)]
mod tests;
