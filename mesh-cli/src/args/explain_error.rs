//! Arguments of `explain-error`.

use clap::Args as Group;

/// Which word.
#[derive(Debug, Group)]
#[command(after_help = "Examples:\n  \
    # What does the word in a log line, a metric, a condition or an Event mean, and what is to be done?\n  \
    meshctl explain-error policy_not_allowed\n\n  \
    # All of them\n  meshctl explain-error\n\n\
    Nobody is asked. Exits 1 for a code that does not exist, and names those that are near.")]
pub(crate) struct ExplainErrorArgs {
    /// The word; all of them are listed otherwise
    #[arg(value_name = "CODE")]
    pub(crate) code: Option<String>,
}
