//! The demo's YAML: what a user would write, and what the demo really runs.
//!
//! ```text
//! shop.yaml, legacy.yaml ──▶ the directory that the controller reads, word for word
//!                     └────▶ the lab, which stands in for kube-proxy and must know the Services too
//! pods.yaml ──▶ names, labels, nodes and accounts of pods; UID and addresses come from the lab
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::lab::Lab;
use crate::objects::Words;
use crate::pod::Pod;
use crate::service::ServiceSpec;

#[cfg(test)]
mod tests;

/// Files that the controller reads as they are, with their names.
const FILES: [(&str, &str); 2] = [
    ("shop.yaml", include_str!("../../../../deploy/samples/shop.yaml")),
    ("legacy.yaml", include_str!("../../../../deploy/samples/legacy.yaml")),
];
const PODS: &str = include_str!("../../../../deploy/samples/pods.yaml");

/// As much of any object as the demo has to understand; the controller reads the rest.
#[derive(Debug, Deserialize)]
struct Object {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: Words,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    service_account_name: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<IpAddr>,
    selector: Words,
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    port: u16,
    target_port: u16,
}

/// A Service's addresses and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Front {
    pub(super) v4: IpAddr,
    pub(super) v6: IpAddr,
    pub(super) port: u16,
}

/// The Services, by `NAMESPACE/NAME`.
#[derive(Debug)]
pub(super) struct Services {
    fronts: BTreeMap<String, Front>,
}

impl Services {
    fn of(specs: &[ServiceSpec]) -> Self {
        let front = |spec: &ServiceSpec| Front {
            v4: spec.v4.into(),
            v6: spec.v6.into(),
            port: spec.ports.first().map_or(0, |(port, _)| *port),
        };
        Self { fronts: specs.iter().map(|spec| (spec.key(), front(spec))).collect() }
    }

    /// Those of the samples, of which nobody has been told.
    #[cfg(test)]
    pub(super) fn of_samples() -> Result<Self> {
        let mut specs = Vec::new();
        for (_, text) in FILES {
            let all = objects(text)?;
            let declared = all.iter().filter(|object| object.kind == "Service").map(service);
            specs.extend(declared.collect::<Result<Vec<_>>>()?);
        }
        Ok(Self::of(&specs))
    }

    /// One of them.
    pub(super) fn front(&self, key: &str) -> Result<&Front> {
        self.fronts.get(key).with_context(|| format!("the samples have no Service {key}"))
    }
}

/// Gives the files to the controller.
pub(super) fn publish(lab: &Lab) -> Result<Services> {
    let mut namespaces = BTreeMap::new();
    let mut services = Vec::new();
    for (file, text) in FILES {
        for object in objects(text).with_context(|| format!("read the sample {file}"))? {
            match object.kind.as_str() {
                "Namespace" => {
                    namespaces.insert(object.metadata.name.clone(), object.metadata.labels.clone());
                }
                "Service" => services.push(service(&object)?),
                _ => {}
            }
        }
        lab.write_object(file, text)?;
    }
    let fronts = Services::of(&services);
    lab.world().adopt(namespaces, services)?;
    Ok(fronts)
}

/// Starts every pod of the samples, each with a process that does nothing yet.
pub(super) fn start_pods(lab: &Lab) -> Result<Vec<Arc<Pod>>> {
    let start = |object: &Object| {
        let key = format!("{}/{}", object.metadata.namespace, object.metadata.name);
        let mut pod = lab.pod(&key).node(&object.spec.node_name);
        if let Some(account) = &object.spec.service_account_name {
            pod = pod.service_account(account);
        }
        for (key, value) in &object.metadata.labels {
            pod = pod.label(key, value);
        }
        pod.start()
    };
    objects(PODS).context("read the sample pods.yaml")?.iter().map(start).collect()
}

/// All documents of a text.
fn objects(text: &str) -> Result<Vec<Object>> {
    let documents = text.split("\n---\n");
    documents
        .map(|document| serde_saphyr::from_str(document).map_err(|error| anyhow::anyhow!("{error}")))
        .collect()
}

fn service(object: &Object) -> Result<ServiceSpec> {
    let name = &object.metadata.name;
    let (mut v4, mut v6) = (None, None);
    for address in &object.spec.cluster_ips {
        match address {
            IpAddr::V4(address) => v4 = Some(*address),
            IpAddr::V6(address) => v6 = Some(*address),
        }
    }
    let (Some(v4), Some(v6)) = (v4, v6) else { bail!("Service {name} needs an address of each family") };
    Ok(ServiceSpec {
        namespace: object.metadata.namespace.clone(),
        name: name.clone(),
        v4,
        v6,
        selector: object.spec.selector.clone(),
        ports: object.spec.ports.iter().map(|port| (port.port, port.target_port)).collect(),
    })
}
