//! `meshctl support-bundle`: one file with all that is needed to look into a problem, without secrets.
//!
//! ```text
//! PARTS (what may be asked for) ─▶ admin end ─▶ scrub ─▶ tar.gz (`file`), mode 0600
//! ```
//!
//! Each answer is written as it comes: of many nodes not all are kept at once.
//!
//! Invariants: only what stands in [`PARTS`] is asked for, and nothing else is read: no file, no environment, no kubeconfig. No
//! end has a secret in any of these answers; what looks like one all the same is struck out (`scrub`) as it is written. A part
//! that cannot be had is missing and said to be, it is no reason to have no bundle.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use mesh_telemetry::api::path;
use serde_json::{Value, json};

use super::{Answer, Context, Failure, chain};
use crate::args::SupportBundleArgs;
use crate::client::{ClientError, FromNode};
use crate::render::{human, printable};

mod file;
mod scrub;
#[cfg(test)]
mod tests;

use file::Unfinished;

/// Everything that is asked for: the file's name, and the path on an agent. A controller has some of it.
const PARTS: [(&str, &str); 13] = [
    ("status.json", path::STATUS),
    ("pods.json", path::PODS),
    ("connections.json", path::CONNECTIONS),
    ("certs.json", path::CERTS),
    ("roots.json", path::ROOTS),
    ("workloads.json", path::WORKLOADS),
    ("services.json", path::SERVICES),
    ("policies.json", path::POLICIES),
    ("config.json", path::CONFIG),
    ("check.json", path::CHECK),
    ("bpf.json", path::BPF),
    ("refusals.json", path::REFUSALS),
    ("log-level.json", path::LOG_LEVEL),
];
/// What a controller's own socket has.
const OF_CONTROLLER: [&str; 3] = ["status.json", "policies.json", "log-level.json"];

/// What is written so far.
struct Bundle<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    /// Seconds since the epoch: when everything in it was asked for.
    now: u64,
    parts: u64,
    /// What could not be had, and why.
    errors: Vec<String>,
}

pub(super) fn run(context: &Context, args: &SupportBundleArgs) -> Result<Answer, Failure> {
    let failed = |source| Failure::File { path: args.file.clone(), action: "write", source };
    // Before anybody is asked for anything that may take long.
    let status = context.client.get_each(path::STATUS)?;
    if let Some(unreachable) = all_unreachable(&status) {
        return Err(unreachable);
    }
    let (unfinished, file) = Unfinished::create(&args.file, args.force)?;
    unfinished.remove_at_signals().map_err(Failure::Start)?;
    let mut bundle = Bundle::new(file);
    gather(context, status, &mut bundle).map_err(failed)?;
    let (file, parts, errors) = bundle.finish().map_err(failed)?;
    file.sync_all().map_err(failed)?;
    unfinished.finish()?;
    let missing = errors.len() as u64;
    let answer = json!({"file": args.file.display().to_string(), "parts": parts, "missing": errors});
    let stdout = context.one(&answer, || format!("{}\n", args.file.display()));
    let mut note = String::new();
    if context.output.is_for_people() {
        note = format!("{} of {}.", human::count(parts, "part"), context.client.end());
        if missing > 0 {
            note.push_str(&format!(" {} not be had: errors.txt says why.", could(missing)));
        }
    }
    Ok(Answer { stdout, note: printable(&note), exit_code: u8::from(missing > 0) })
}

fn could(missing: u64) -> String {
    human::count(missing, "part") + " could"
}

/// Nobody at all answers.
fn all_unreachable(status: &[FromNode]) -> Option<Failure> {
    let is_unreachable =
        |one: &FromNode| matches!(&one.answer, Err(error) if ClientError::is_unreachable(error));
    if !status.is_empty() && !status.iter().all(is_unreachable) {
        return None;
    }
    let first = status.iter().find_map(|one| one.answer.as_ref().err().map(|error| printable(&chain(error))));
    Some(Failure::Unreachable(first.unwrap_or_else(|| "there is no agent to ask".into())))
}

/// All parts that can be had, and what is to be said of the others.
fn gather<W: Write>(context: &Context, status: Vec<FromNode>, bundle: &mut Bundle<W>) -> io::Result<()> {
    let is_controller =
        status.iter().any(|one| one.answer.as_ref().is_ok_and(|status| status.get("agents").is_some()));
    let wanted = |name: &str| !is_controller || OF_CONTROLLER.contains(&name);
    for one in status {
        bundle.take(PARTS[0].0, one)?;
    }
    for (name, path) in PARTS.iter().skip(1).filter(|(name, _)| wanted(name)) {
        let mut written = Ok(());
        let asked = context.client.get_each_with(path, |one| {
            if written.is_ok() {
                written = bundle.take(name, one);
            }
        });
        written?;
        if let Err(error) = asked {
            bundle.lacks(name, &chain(&error));
        }
    }
    let mut written = Ok(());
    let asked = context.client.get_text_each_with(path::METRICS, |one| {
        if written.is_ok() {
            written = bundle.take("metrics.txt", one);
        }
    });
    written?;
    if let Err(error) = asked {
        bundle.lacks("metrics.txt", &chain(&error));
    }
    bundle.json("meshctl.json", own(context))
}

/// What meshctl says of itself.
fn own(context: &Context) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "asked": context.client.end(),
        "as_of": mesh_telemetry::api::Timestamp::from(SystemTime::now()),
        "warnings": context.client.warnings(),
    })
}

impl<W: Write> Bundle<W> {
    fn new(file: W) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        Self { tar, now, parts: 0, errors: Vec::new() }
    }

    /// A node's answer, or why there is none.
    fn take(&mut self, name: &str, one: FromNode) -> io::Result<()> {
        let name = match &one.node {
            Some(node) => format!("{node}/{name}"),
            None => name.to_owned(),
        };
        match one.answer {
            Ok(Value::String(text)) => self.text(&name, &text),
            Ok(value) => self.json(&name, value),
            Err(error) => {
                self.lacks(&name, &chain(&error));
                Ok(())
            }
        }
    }

    fn lacks(&mut self, name: &str, why: &str) {
        self.errors.push(format!("{name}: {why}"));
    }

    fn json(&mut self, name: &str, value: Value) -> io::Result<()> {
        let text = serde_json::to_string_pretty(&scrub::json(value)).unwrap_or_default() + "\n";
        self.parts += 1;
        self.append(name, &text)
    }

    fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        self.parts += 1;
        self.append(name, &scrub::text(text))
    }

    /// What is written has been scrubbed.
    fn append(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.now);
        let path = format!("weft-support/{}", plain(name));
        self.tar.append_data(&mut header, path, text.as_bytes())
    }

    /// The file, how many parts are in it, and what is not.
    fn finish(mut self) -> io::Result<(W, u64, Vec<String>)> {
        // As nodes answer, so in no order.
        self.errors.sort();
        if !self.errors.is_empty() {
            let text = scrub::text(&(self.errors.join("\n") + "\n"));
            self.append("errors.txt", &text)?;
        }
        let mut file = self.tar.into_inner()?.finish()?;
        file.flush()?;
        Ok((file, self.parts, self.errors))
    }
}

/// A name that cannot lead anywhere but into the bundle, whatever a node is called.
fn plain(name: &str) -> String {
    let part = |part: &str| -> String {
        let kept = part.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' });
        let kept: String = kept.collect();
        if kept.chars().all(|c| c == '.') { "_".into() } else { kept }
    };
    name.split('/').map(part).collect::<Vec<_>>().join("/")
}
