//! Arguments of `bpf`.

use clap::{Args as Group, Subcommand};

/// `bpf`'s own verbs.
#[derive(Debug, Group)]
#[command(
    subcommand_value_name = "COMMAND",
    after_help = "Examples:\n  \
        # How full is each map?\n  meshctl bpf maps\n\n  \
        # What does one hold?\n  meshctl bpf maps mesh_pods\n\n  \
        # Which programs run, and where?\n  meshctl bpf progs\n\n  \
        # The same by bpftool\n  meshctl bpf maps -o wide"
)]
pub(crate) struct BpfArgs {
    /// What to look at.
    #[command(subcommand)]
    pub(crate) verb: BpfVerb,
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub(crate) enum BpfVerb {
    /// List the pinned maps, or what one of them holds
    #[command(
        visible_alias = "map",
        after_help = "Examples:\n  \
            meshctl bpf maps\n\n  \
            # Every entry of one, as JSON\n  meshctl bpf maps mesh_services --limit 10000 -o json\n\n\
            Exits 1 where a map that the agent knows is not pinned."
    )]
    Maps(BpfMapArgs),
    /// List the programs and what they are attached to
    #[command(
        visible_aliases = ["programs", "prog"],
        after_help = "Examples:\n  \
            meshctl bpf progs\n\n  \
            # With the bpftool line that shows the same\n  meshctl bpf progs -o wide"
    )]
    Progs,
}

/// Which map.
#[derive(Debug, Group)]
pub(crate) struct BpfMapArgs {
    /// A map; all of them are listed otherwise
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// At most so many entries (10000 at most)
    #[arg(long, value_name = "N", default_value_t = 100, requires = "name")]
    pub(crate) limit: u32,
}
