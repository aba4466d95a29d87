//! `meshctl completion`: a script that makes a shell complete verbs and flags.

use clap::CommandFactory;

use super::Answer;
use crate::args::{Args, CompletionArgs};

pub(super) fn run(args: &CompletionArgs) -> Answer {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "meshctl", &mut script);
    Answer::yes(String::from_utf8_lossy(&script).into_owned())
}
