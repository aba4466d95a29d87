//! An object as it comes in: trimmed while it is read, and read as its kind only later, on its own, so that one
//! that is malformed is one problem and not the whole list's.

use std::borrow::Cow;
use std::fmt;

use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// An object of any kind: one type for all, so that lists and watches are compiled once.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Name, namespace, UID, resource version and generation alone.
    pub(crate) meta: ObjectMeta,
    /// All that was not dropped; not yet read as what it should be.
    pub(crate) value: Value,
}

impl<'de> de::Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Trim { parent: "" }.deserialize(deserializer)?;
        let meta = value.get("metadata");
        let text = |key: &str| meta.and_then(|meta| meta.get(key)?.as_str()).map(str::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: meta.and_then(|meta| meta.get("generation")?.as_i64()),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, value })
    }
}

impl Resource for Seen {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// What nobody needs, by what it stands in. The maps that people fill (labels, annotations) are no such place but for the
/// one annotation that holds the whole object again.
fn is_dropped(parent: &str, key: &str) -> bool {
    match parent {
        "metadata" => key == "managedFields",
        "annotations" => key == "kubectl.kubernetes.io/last-applied-configuration",
        "containers" | "initContainers" | "ephemeralContainers" => matches!(
            key,
            "args"
                | "command"
                | "env"
                | "envFrom"
                | "lifecycle"
                | "livenessProbe"
                | "readinessProbe"
                | "resources"
                | "securityContext"
                | "startupProbe"
                | "volumeDevices"
                | "volumeMounts"
        ),
        "spec" => matches!(
            key,
            "affinity"
                | "imagePullSecrets"
                | "securityContext"
                | "tolerations"
                | "topologySpreadConstraints"
                | "volumes"
        ),
        "status" => matches!(
            key,
            "containerStatuses"
                | "ephemeralContainerStatuses"
                | "images"
                | "initContainerStatuses"
                | "nodeInfo"
                | "volumesAttached"
                | "volumesInUse"
        ),
        _ => false,
    }
}

/// Reads any value and leaves out what [`is_dropped`] names.
#[derive(Clone, Copy)]
struct Trim<'a> {
    parent: &'a str,
}

impl<'de> DeserializeSeed<'de> for Trim<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Trim<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        // What stands in a list stands in what the list is.
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if is_dropped(self.parent, &key) {
                entries.next_value::<IgnoredAny>()?;
            } else {
                let value = entries.next_value_seed(Trim { parent: &key })?;
                all.insert(key, value);
            }
        }
        Ok(Value::Object(all))
    }
}
