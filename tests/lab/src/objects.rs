//! The Kubernetes-shaped objects that the controller reads, as YAML text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

/// A label map or the like.
pub(crate) type Words = BTreeMap<String, String>;

/// What a Pod object says.
#[derive(Debug)]
pub(crate) struct PodObject<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) node: &'a str,
    pub(crate) service_account: &'a str,
    /// `runtimeClassName`; empty for none.
    pub(crate) runtime_class: &'a str,
    pub(crate) labels: &'a Words,
    pub(crate) annotations: &'a Words,
    pub(crate) addresses: &'a [IpAddr],
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    pub(crate) phase: &'a str,
    pub(crate) ready: bool,
    /// Has a deletion timestamp.
    pub(crate) terminating: bool,
}

pub(crate) fn namespace(name: &str, labels: &Words) -> String {
    let mut text = head("v1", "Namespace", name, None);
    map(&mut text, 2, "labels", labels);
    text
}

pub(crate) fn node(name: &str, addresses: &[IpAddr], ranges: &[String]) -> String {
    let mut text = head("v1", "Node", name, None);
    let _ = writeln!(text, "spec:\n  podCIDR: {}\n  podCIDRs:", quote(&ranges[0]));
    for range in ranges {
        let _ = writeln!(text, "    - {}", quote(range));
    }
    text.push_str("status:\n  addresses:\n");
    for address in addresses {
        let _ = writeln!(text, "    - type: InternalIP\n      address: {}", quote(&address.to_string()));
    }
    text
}

pub(crate) fn pod(pod: &PodObject<'_>) -> String {
    let mut text = head("v1", "Pod", pod.name, Some(pod.namespace));
    let _ = writeln!(text, "  uid: {}", quote(pod.uid));
    if pod.terminating {
        text.push_str("  deletionTimestamp: \"2025-01-01T00:00:00Z\"\n  deletionGracePeriodSeconds: 30\n");
    }
    map(&mut text, 2, "labels", pod.labels);
    map(&mut text, 2, "annotations", pod.annotations);
    let runtime = match pod.runtime_class {
        "" => String::new(),
        class => format!("  runtimeClassName: {}\n", quote(class)),
    };
    let _ = writeln!(
        text,
        "spec:\n  nodeName: {}\n  serviceAccountName: {}\n{runtime}  containers:\n    - name: main\n      image: lab\nstatus:\n  \
         phase: {}",
        quote(pod.node),
        quote(pod.service_account),
        pod.phase
    );
    if let Some(first) = pod.addresses.first() {
        let _ = writeln!(text, "  podIP: {}\n  podIPs:", quote(&first.to_string()));
        for address in pod.addresses {
            let _ = writeln!(text, "    - ip: {}", quote(&address.to_string()));
        }
    }
    let ready = if pod.ready { "True" } else { "False" };
    let _ = writeln!(text, "  conditions:\n    - type: Ready\n      status: \"{ready}\"");
    text
}

pub(crate) fn service(
    namespace: &str,
    name: &str,
    addresses: &[IpAddr],
    selector: &Words,
    ports: &[(u16, u16)],
) -> String {
    let mut text = head("v1", "Service", name, Some(namespace));
    text.push_str("spec:\n  type: ClusterIP\n");
    if let Some(first) = addresses.first() {
        let _ = writeln!(text, "  clusterIP: {}\n  clusterIPs:", quote(&first.to_string()));
        for address in addresses {
            let _ = writeln!(text, "    - {}", quote(&address.to_string()));
        }
        text.push_str("  ipFamilies:\n");
        for address in addresses {
            let _ = writeln!(text, "    - {}", if address.is_ipv4() { "IPv4" } else { "IPv6" });
        }
    } else {
        text.push_str("  clusterIP: None\n");
    }
    map(&mut text, 2, "selector", selector);
    text.push_str("  ports:\n");
    for (port, target) in ports {
        let _ = writeln!(
            text,
            "    - name: p{port}\n      protocol: TCP\n      port: {port}\n      targetPort: {target}"
        );
    }
    text
}

fn head(version: &str, kind: &str, name: &str, namespace: Option<&str>) -> String {
    let mut text = format!("apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {}\n", quote(name));
    if let Some(namespace) = namespace {
        let _ = writeln!(text, "  namespace: {}", quote(namespace));
    }
    text
}

fn map(text: &mut String, indent: usize, key: &str, words: &Words) {
    if words.is_empty() {
        return;
    }
    let _ = writeln!(text, "{:indent$}{key}:", "");
    for (key, value) in words {
        let _ = writeln!(text, "{:indent$}  {}: {}", "", quote(key), quote(value));
    }
}

/// A double-quoted scalar. JSON's strings are YAML's.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
