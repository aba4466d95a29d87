//! AuthorizationPolicy: who may talk to whom.
//!
//! The shape is that of Gateway API's GEP-3779, so that its objects can be copied here with another `apiVersion`; beyond it are
//! `action: DENY`, `mode`, targets that are a namespace, sources by namespace, address and `not`, several conditions in one
//! source, wildcards, ranges of ports, and `httpAttributes`. What it means is `mesh_model::policy`'s to say; `convert` gets
//! from here to there.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::port::PortRange;

mod convert;

pub(crate) use convert::check_selector;
pub use convert::{Authored, PolicyError, Target, Within};

/// Who may talk to the pods that it targets.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    singular = "authorizationpolicy",
    shortname = "azp",
    category = "weft",
    namespaced,
    status = "AuthorizationPolicyStatus",
    derive = "PartialEq",
    doc = "Who may talk to the pods that it targets. A superset of Gateway API's GEP-3779.",
    printcolumn(
        name = "Action",
        type_ = "string",
        description = "What becomes of a connection that a rule matches",
        json_path = ".spec.action"
    ),
    printcolumn(
        name = "Mode",
        type_ = "string",
        description = "Whether it counts",
        json_path = ".spec.mode"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        description = "It can be enforced as it stands",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(
        name = "Enforced",
        type_ = "string",
        description = "Every node with a pod that it targets has applied it",
        json_path = ".status.conditions[?(@.type=='Enforced')].status"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        description = "What is to be said of it",
        json_path = ".status.conditions[?(@.type=='Accepted')].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// Which pods it is about. Those of its own namespace; of a policy in Weft's own namespace, those of the whole mesh.
    pub target_refs: Vec<TargetRef>,
    /// What becomes of a connection that a rule matches. DENY comes before ALLOW; once any ALLOW policy targets a pod, what none
    /// of them matches is refused.
    pub action: PolicyAction,
    /// Audit: it is not enforced; what would be different if it were is logged and counted.
    #[serde(default)]
    pub mode: PolicyMode,
    /// It matches what any of them matches. None: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<AuthorizationRule>,
}

/// Some pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// Empty: the core group, in which all kinds are that can be targeted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// What is referred to.
    pub kind: TargetKind,
    /// Of a Service: required. Of a Namespace: the policy's own if it is left out; every namespace if the policy is in Weft's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of Pods: required; an empty selector selects all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// What can be targeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// Pods by their labels.
    Pod,
    /// The pods of a Service, however they are dialled.
    Service,
    /// All pods of a namespace.
    Namespace,
}

/// What becomes of a connection that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum PolicyAction {
    /// It is admitted.
    Allow,
    /// It is refused.
    Deny,
}

/// Whether a policy counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyMode {
    /// It does.
    #[default]
    Enforce,
    /// It does not; what would be different is logged and counted.
    Audit,
}

/// Matches a connection that fits both sources and attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationRule {
    /// Any of them fits. An empty list: nobody. Left out: anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<AuthorizationSource>>,
    /// What of the connection itself is asked. Left out: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_attributes: Option<NetworkAttributes>,
    /// What of HTTP requests is asked, which needs a waypoint. Without one a DENY rule matches as if it were met, an ALLOW
    /// rule does not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_attributes: Option<HttpAttributes>,
}

/// A peer that meets every condition that is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationSource {
    /// Which of the conditions is set; may be left out.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub source_type: Option<SourceType>,
    /// A SPIFFE ID, with * for a whole part, or at the beginning or end of one: spiffe://cluster.local/ns/shop/sa/web-*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<String>,
    /// A service account of the mesh's own trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountRef>,
    /// All service accounts of a namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The address that it dials from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlockRef>,
    /// It meets none of these (of each, not every condition that is set).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not: Vec<NegatedSource>,
}

/// A peer that meets every condition that is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NegatedSource {
    /// Which of the conditions is set; may be left out.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub source_type: Option<SourceType>,
    /// A SPIFFE ID, with wildcards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<String>,
    /// A service account of the mesh's own trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountRef>,
    /// All service accounts of a namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The address that it dials from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlockRef>,
}

/// The names of a source's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceType {
    /// `spiffe`.
    #[serde(rename = "SPIFFE")]
    Spiffe,
    /// `serviceAccount`.
    ServiceAccount,
    /// `namespace`.
    Namespace,
    /// `ipBlock`.
    #[serde(rename = "IPBlock")]
    IpBlock,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountRef {
    /// Left out: the policy's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name; "*": every one of the namespace.
    pub name: String,
}

/// Addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlockRef {
    /// In here, for example 10.0.0.0/8,
    pub cidr: String,
    /// and in none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// What of a connection is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkAttributes {
    /// The pod's own ports, not the Service's: numbers, or ranges like "9000-9010". Left out: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortRange>>,
}

/// What of an HTTP request is asked; any of each list that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpAttributes {
    /// GET, POST …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// /healthz, or /api/* for all below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Of the `Host` header or `:authority`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

/// What the controller says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicyStatus {
    /// The generation of the spec that the conditions are about.
    pub observed_generation: Option<i64>,
    /// How many pods it targets.
    pub targeted_pods: Option<i32>,
    /// `Accepted`: it can be enforced as it stands; `Enforced`: every node with a pod that it targets has applied it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests;
