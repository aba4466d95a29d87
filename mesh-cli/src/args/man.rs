//! Arguments of `man`.

use std::path::PathBuf;

use clap::Args as Group;

/// Where they go.
#[derive(Debug, Group)]
#[command(after_help = "Examples:\n  \
    # For this user\n  meshctl man --dir ~/.local/share/man/man1\n\n  \
    # Read one without installing it\n  meshctl man | man -l -")]
pub(crate) struct ManArgs {
    /// Write meshctl.1 and meshctl-VERB.1 into this directory; meshctl.1 is printed otherwise
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}
