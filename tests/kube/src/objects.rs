//! The lab's objects in a real API server: what scheduler and kubelet would have written of Nodes and Pods, and the
//! EndpointSlices that the controller of endpoints would have made.
//!
//! Everything is by server-side apply, so that what others write on the same object (`kubectl label`, say) stays theirs. A
//! pod goes by the UID that the server gives it; applying with that UID never brings a deleted pod back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::{Value, json};

use crate::block_on;

/// Namespace and name.
type Key = (String, String);

/// Tells an API server what the lab's nodes and pods are.
pub struct Objects {
    client: Client,
    told: Mutex<Told>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("told", &self.told).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Told {
    pods: BTreeMap<Key, Value>,
    services: BTreeMap<Key, Value>,
    /// What was last said of each service's endpoints.
    slices: BTreeMap<Key, Value>,
    accounts: BTreeSet<Key>,
}

impl Objects {
    /// With an administrator's client.
    pub fn new(client: Client) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self { client, told: Mutex::default() })
    }

    /// An API for objects of a kind; `namespace` empty for what has none.
    pub fn api(&self, version: &str, kind: &str, namespace: &str) -> Result<Api<DynamicObject>> {
        api(&self.client, version, kind, namespace)
    }

    /// Creates or changes any object, given as JSON.
    pub fn apply(&self, object: &Value) -> Result<DynamicObject> {
        self.patch(object, None)
    }

    fn patch(&self, object: &Value, subresource: Option<&str>) -> Result<DynamicObject> {
        let (namespace, name) = key(object);
        let api = self.api(text(&object["apiVersion"]), text(&object["kind"]), &namespace)?;
        // One manager for what a person says and one for what a kubelet says.
        let params = PatchParams::apply(subresource.map_or("lab", |_| "lab-kubelet")).force();
        let mut object = object.clone();
        one_address_of_a_type(&mut object);
        let patch = Patch::Apply(&object);
        let answer = block_on(async {
            match subresource {
                Some(_) => api.patch_status(&name, &params, &patch).await,
                None => api.patch(&name, &params, &patch).await,
            }
        });
        answer.with_context(|| format!("apply {} {namespace}/{name}", object["kind"]))
    }

    fn delete(&self, version: &str, kind: &str, key: &Key, grace: u32) -> Result<()> {
        let api = self.api(version, kind, &key.0)?;
        match block_on(api.delete(&key.1, &DeleteParams::default().grace_period(grace))) {
            Ok(_) => Ok(()),
            Err(Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("delete {kind} {}/{}", key.0, key.1)),
        }
    }

    fn put_pod(&self, mut object: Value) -> Result<Option<String>> {
        let own = key(&object);
        self.account(&own.0, text(&object["spec"]["serviceAccountName"]))?;
        let known = self.told().pods.get(&own).map(|pod| text(&pod["metadata"]["uid"]).to_owned());
        let dying = object["metadata"]["deletionTimestamp"].is_string();
        if dying {
            // The server has times of its own.
            self.delete("v1", "Pod", &own, 30)?;
        }
        let mut said = object.clone();
        for gone in ["deletionTimestamp", "deletionGracePeriodSeconds", "uid"] {
            remove(&mut said["metadata"], gone);
        }
        remove(&mut said, "status");
        if let Some(uid) = &known {
            said["metadata"]["uid"] = json!(uid);
        }
        let uid = match self.patch(&said, None) {
            Ok(there) => there.metadata.uid.context("a pod without a UID")?,
            // A pod that had ended is gone as soon as it is deleted.
            Err(_) if dying => known.unwrap_or_default(),
            Err(error) => return Err(error),
        };
        object["metadata"]["uid"] = json!(uid);
        if !dying || self.exists("Pod", &own)? {
            let status = object["status"].clone();
            let head = json!({"name": own.1, "namespace": own.0, "uid": uid});
            self.patch(
                &json!({"apiVersion": "v1", "kind": "Pod", "metadata": head, "status": status}),
                Some("status"),
            )?;
        }
        self.told().pods.insert(own, object);
        self.update_endpoints()?;
        Ok(Some(uid))
    }

    fn exists(&self, kind: &str, key: &Key) -> Result<bool> {
        let api = self.api("v1", kind, &key.0)?;
        Ok(block_on(api.get_opt(&key.1))?.is_some())
    }

    /// A service account, as the admission of a pod that uses it would insist on.
    fn account(&self, namespace: &str, name: &str) -> Result<()> {
        let own = (namespace.to_owned(), name.to_owned());
        if name.is_empty() || self.told().accounts.contains(&own) {
            return Ok(());
        }
        if !self.exists("ServiceAccount", &own)? {
            let head = json!({"name": name, "namespace": namespace});
            self.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": head}))?;
        }
        self.told().accounts.insert(own);
        Ok(())
    }

    /// The controller of EndpointSlices: one slice for each family of a service with a selector.
    fn update_endpoints(&self) -> Result<()> {
        let mut fresh = Vec::new();
        let mut gone = Vec::new();
        {
            let mut told = self.told();
            let slices: BTreeMap<Key, Value> =
                told.services.values().flat_map(|service| slices(service, told.pods.values())).collect();
            for (key, slice) in &slices {
                if told.slices.get(key) != Some(slice) {
                    fresh.push(slice.clone());
                }
            }
            gone.extend(told.slices.keys().filter(|key| !slices.contains_key(*key)).cloned());
            told.slices = slices;
        }
        for slice in fresh {
            self.apply(&slice)?;
        }
        for key in gone {
            self.delete("discovery.k8s.io/v1", "EndpointSlice", &key, 0)?;
        }
        Ok(())
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl lab::Objects for Objects {
    fn put(&self, object: &str) -> Result<Option<String>> {
        let mut object: Value = serde_saphyr::from_str(object).context("the lab's object")?;
        match text(&object["kind"]) {
            "Pod" => self.put_pod(object),
            "Service" => {
                let there = self.apply(&object)?;
                object["metadata"]["uid"] = json!(there.metadata.uid);
                self.told().services.insert(key(&object), object);
                self.update_endpoints().map(|()| None)
            }
            "Node" => {
                let status = object["status"].clone();
                remove(&mut object, "status");
                let there = self.apply(&object)?;
                object["status"] = status;
                remove(&mut object, "spec");
                self.patch(&object, Some("status"))?;
                Ok(there.metadata.uid)
            }
            _ => self.apply(&object).map(|there| there.metadata.uid),
        }
    }

    fn remove(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let own = (namespace.to_owned(), name.to_owned());
        let kind = match kind {
            "pod" => {
                self.told().pods.remove(&own);
                "Pod"
            }
            "service" => {
                self.told().services.remove(&own);
                "Service"
            }
            "node" => "Node",
            "namespace" => "Namespace",
            other => bail!("the lab has no {other}s to remove"),
        };
        self.delete("v1", kind, &own, 0)?;
        self.update_endpoints()
    }
}

/// An API for objects of a kind; `namespace` empty for what has none.
pub(crate) fn api(client: &Client, version: &str, kind: &str, namespace: &str) -> Result<Api<DynamicObject>> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Ok(match namespace {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    })
}

fn slices<'a>(service: &Value, pods: impl Iterator<Item = &'a Value>) -> Vec<(Key, Value)> {
    let (namespace, name) = key(service);
    let Some(selector) = service["spec"]["selector"].as_object() else { return Vec::new() };
    let selected: Vec<&Value> = pods
        .filter(|pod| text(&pod["metadata"]["namespace"]) == namespace)
        .filter(|pod| selector.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value))
        .filter(|pod| !matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed"))
        .collect();
    let ports: Vec<Value> = items(&service["spec"]["ports"])
        .map(|port| json!({"name": port["name"], "protocol": port["protocol"], "port": port["targetPort"]}))
        .collect();
    let mut made = Vec::new();
    for family in ["IPv4", "IPv6"] {
        let endpoints: Vec<Value> = selected.iter().filter_map(|pod| endpoint(pod, family)).collect();
        let own = (namespace.clone(), format!("{name}-{}", family.to_lowercase()));
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": own.1, "namespace": own.0,
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "addressType": family, "ports": ports, "endpoints": endpoints,
        });
        made.push((own, slice));
    }
    made
}

fn endpoint(pod: &Value, family: &str) -> Option<Value> {
    let of_family = |ip: &&str| ip.contains(':') == (family == "IPv6");
    let address = items(&pod["status"]["podIPs"]).map(|ip| text(&ip["ip"])).find(of_family)?;
    let mut conditions = items(&pod["status"]["conditions"]);
    let serving = conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let terminating = pod["metadata"]["deletionTimestamp"].is_string();
    let (namespace, name) = key(pod);
    Some(json!({
        "addresses": [address],
        "conditions": {"ready": serving && !terminating, "serving": serving, "terminating": terminating},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {"kind": "Pod", "namespace": namespace, "name": name, "uid": pod["metadata"]["uid"]},
    }))
}

fn key(object: &Value) -> Key {
    let word = |field| text(&object["metadata"][field]).to_owned();
    (word("namespace"), word("name"))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

/// Server-side apply takes one address of each type in a Node's status; kubelet writes it in another way.
fn one_address_of_a_type(object: &mut Value) {
    if object["kind"] == "Node"
        && let Some(addresses) = object["status"]["addresses"].as_array_mut()
    {
        let mut known = Vec::new();
        addresses.retain(|address| {
            let is_new = !known.contains(&address["type"]);
            known.push(address["type"].clone());
            is_new
        });
    }
}
