//! A captured pod, as the data path sees it.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::{Identity, Workload};
use tokio_util::sync::CancellationToken;

use crate::netns::{BigSegments, DeliveryRoute, Netns};

/// A captured pod: who it is, and the namespace in which its sockets are made. Lives as long as its enrolment and the
/// connections that began in it; never changes.
#[derive(Debug)]
pub struct Pod {
    /// As the controller described it when it was taken in.
    pub workload: Arc<Workload>,
    /// Where its sockets are made.
    pub netns: Arc<Netns>,
    /// What IPv6 deliveries need in the namespace; kept as long as connections run. `None`: they come from the pod's own
    /// address.
    #[expect(dead_code, reason = "it is held, not asked: the namespace says whether there is one")]
    pub delivery_route: Option<Arc<DeliveryRoute>>,
    /// Cheaper bulk on the pod's loopback, if the kernel has it.
    #[expect(dead_code, reason = "it is held, not read")]
    pub big_segments: Option<Arc<BigSegments>>,
    /// Its own addresses: at most one of each family is listened at.
    pub addresses: Vec<IpAddr>,
    /// Cancelled when the pod is let go: listeners stop accepting, relays that run go on.
    pub released: CancellationToken,
}

impl Pod {
    /// Who the pod is.
    pub fn identity(&self) -> &Identity {
        &self.workload.identity
    }

    /// Whether an address is the pod's own.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address.to_canonical())
    }

    /// The pod's address of the same family as another one.
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|own| own.is_ipv4() == other.is_ipv4())
    }
}
