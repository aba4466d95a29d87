//! What several files of the Kubernetes suite share. The suite itself is in `tests/`, one file a promise.
//!
//! ```text
//!   ApiServer     a real API server: the module in `apiserver/`, envtest's binaries, or somebody's cluster
//!   Cluster       the lab's nodes and pods, with that API server where the directory of YAML was:
//!                 scheduler, kubelet, endpoint and Job controllers are played, the mesh is real
//!   tools         kubectl and Helm
//! ```
//!
//! Not here: anything about what the mesh does with what it reads. The tests say that.

mod apiserver;
mod audit;
mod cluster;
pub mod containers;
mod envtest;
pub mod left;
mod objects;
mod player;
mod reach;
mod shop;
pub mod tools;
pub mod traffic;

pub use apiserver::{ApiServer, Options, free_ports};
pub use audit::Request;
pub use cluster::{Access, Cluster, ClusterBuilder};
pub use objects::Objects;
pub use shop::Shop;

use std::future::Future;
use std::sync::LazyLock;

/// Whether a whole cluster can be played here: a lab, and an API server of our own, since a lab's nodes have no place in
/// somebody's cluster. If not, a row says SKIP; in CI it fails.
pub fn ready(test: &str) -> bool {
    if !lab::ready(test) {
        return false;
    }
    if std::env::var_os("WEFT_TEST_KUBECONFIG").is_none() {
        return true;
    }
    let why = "WEFT_TEST_KUBECONFIG is set, and a lab's nodes have no place in a cluster that is there";
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} cannot run: {why}");
    lab::row::skip(test, "all", why);
    false
}

/// The runtime of everything that speaks to an API server on behalf of the tests, which themselves are synchronous.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("no runtime for the tests: {error}"))
});

/// Runs a future to its end. Not for use within a runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}
