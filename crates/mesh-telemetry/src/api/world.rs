//! A controller's world as policies are judged by it, and who talked to whom in it: what `meshctl policy test` works on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_model::policy::Policy;
use mesh_model::{Identity, MeshSettings, TrustDomain, Uid, Workload};
use serde::{Deserialize, Serialize};

use super::Timestamp;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorldDump {
    /// When it was asked for.
    pub as_of: Timestamp,
    /// Whose identities pods have.
    pub trust_domain: TrustDomain,
    /// Weft's own namespace: its policies are about the whole mesh.
    pub system_namespace: String,
    /// What the operator set; `null` where there is no MeshConfig.
    pub mesh: Option<MeshSettings>,
    /// Every pod, with the policies that list it.
    pub workloads: Vec<DumpedWorkload>,
    /// Every Service.
    pub services: Vec<DumpedService>,
    /// Every policy in force.
    pub policies: Vec<Policy>,
    /// Connections of the last hour, by who, whom, and where.
    pub observed: Vec<ObservedRow>,
    /// Connections that agents had no room to remember.
    pub unobserved: u64,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedWorkload {
    /// As agents are told.
    #[serde(flatten)]
    pub workload: Workload,
    /// By which policies select it.
    pub labels: BTreeMap<String, String>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pods behind it.
    pub pods: Vec<Uid>,
}

/// Connections that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRow {
    /// Who the client has shown to be; `null`: it came in plaintext.
    pub identity: Option<Identity>,
    /// The client's pod, where it is known.
    pub source: Option<Uid>,
    /// Where it dialled from.
    pub address: IpAddr,
    /// The pod that was dialled.
    pub uid: Uid,
    /// The pod's own port.
    pub port: u16,
    /// How many there were, as far as the pod's agent remembers.
    pub connections: u64,
    /// When the last one began.
    pub last: Timestamp,
}
