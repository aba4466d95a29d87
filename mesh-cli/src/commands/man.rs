//! `meshctl man`: manual pages, made of the same help that the verbs print.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};

use super::{Answer, Failure};
use crate::args::{Args, ManArgs};
use crate::render::human;

#[cfg(test)]
mod tests;

pub(super) fn run(args: &ManArgs) -> Result<Answer, Failure> {
    let mut command = Args::command();
    // What `--help` shows of a verb has the global options only then.
    command.build();
    let Some(directory) = &args.dir else {
        return Ok(Answer::yes(page(&command, "meshctl").map_err(Failure::Output)?));
    };
    let count = write(&command, directory).map_err(|source| Failure::File {
        path: directory.clone(),
        action: "write manual pages into",
        source,
    })?;
    let note = format!("{} in {}.", human::count(count, "manual page"), directory.display());
    Ok(Answer { note, ..Answer::yes(String::new()) })
}

fn page(command: &Command, name: &str) -> io::Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).manual("Weft").source("meshctl").render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// meshctl.1 and meshctl-VERB.1, for each verb of a verb another one. How many.
fn write(command: &Command, directory: &Path) -> io::Result<u64> {
    fn each(command: &Command, name: &str, directory: &Path) -> io::Result<u64> {
        fs::write(directory.join(format!("{name}.1")), page(command, name)?)?;
        let mut count = 1;
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            count += each(verb, &format!("{name}-{}", verb.get_name()), directory)?;
        }
        Ok(count)
    }
    fs::create_dir_all(directory)?;
    each(command, "meshctl", directory)
}
