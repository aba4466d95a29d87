//! Arguments of `support-bundle`.

use std::path::PathBuf;

use clap::Args as Group;

/// Where it goes.
#[derive(Debug, Group)]
#[command(after_help = "Examples:\n  \
    # Of this node\n  meshctl support-bundle\n\n  \
    # Of a node of the cluster\n  meshctl support-bundle --node worker-1 --file worker-1.tar.gz\n\n  \
    # What is in it?\n  tar tzf weft-support.tar.gz\n\n\
    It holds what status, pods, connections, certs, policies, config dump, check, bpf, logs, metrics and version show: names, \
    labels of metrics, addresses. Only these are asked for; no key, token, environment or kubeconfig is read, and what looks like \
    one all the same is struck out. Exits 0 if all of it could be had, 1 if a part is missing (errors.txt says which), 3 if \
    nobody answers.")]
pub(crate) struct SupportBundleArgs {
    /// The file to write; it must not be there yet
    #[arg(long, value_name = "FILE", default_value = "weft-support.tar.gz")]
    pub(crate) file: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}
