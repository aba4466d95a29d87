//! `meshctl policy test` and `policy dump`: a file's policies, tried on the connections of the last hour.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use mesh_telemetry::api::{WorldDump, path};
use serde_json::Value;

use super::super::{Answer, Context, Failure, named};
use super::trial::{self, Changed, Trial};
use crate::args::PolicyTest;
use crate::client::ClientError;
use crate::render::table::{Cell, Table};
use crate::render::{Style, Tone, human, json};

/// More is no file of policies.
const MOST: u64 = 64 << 20;

pub(super) fn test(context: &Context, asked: &PolicyTest) -> Result<Answer, Failure> {
    let wrong = |file: &Path, error: String| Failure::Policy(format!("{}: {error}", file.display()));
    let text = read(&asked.file).map_err(|error| wrong(&asked.file, error.to_string()))?;
    let (policies, others) = trial::read(&text).map_err(|error| wrong(&asked.file, error))?;
    let dump = match &asked.world {
        Some(file) => {
            let text = read(file).map_err(|error| wrong(file, error.to_string()))?;
            serde_json::from_str(&text)
                .map_err(|error| wrong(file, format!("is not what `meshctl policy dump` wrote: {error}")))?
        }
        None => context.understand(live(context)?)?,
    };
    let dump: WorldDump = dump;
    let trial = trial::run(&dump, &policies).map_err(|error| wrong(&asked.file, error))?;
    let stdout = context.one(&trial, || show(&trial, &dump, context.style));
    let note = match others {
        0 => String::new(),
        others => {
            format!("{} in the file besides: not looked at", human::count(others as u64, "other object"))
        }
    };
    Ok(Answer { stdout, note, exit_code: if trial.cut.is_empty() { 0 } else { 1 } })
}

pub(super) fn dump(context: &Context) -> Result<Answer, Failure> {
    Ok(Answer::yes(json::render(&live(context)?)))
}

/// From a controller: an agent knows neither labels nor other nodes.
fn live(context: &Context) -> Result<Value, Failure> {
    context.client.get(path::WORLD).map_err(|error| match matches!(error, ClientError::NoSuchPath { .. }) {
        true => Failure::Policy(
            "who talks to whom in the mesh is known to a controller, not to an agent: ask one (--controller, or --socket of one), or give a \
            file that `meshctl --controller policy dump` wrote (--world)"
                .into(),
        ),
        false => error.into(),
    })
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => io::stdin().lock().take(MOST + 1).read_to_string(&mut text)?,
        false => fs::File::open(file)?.take(MOST + 1).read_to_string(&mut text)?,
    };
    if read as u64 > MOST {
        return Err(io::Error::other(format!("more than {} long", human::bytes(MOST))));
    }
    Ok(text)
}

pub(super) fn show(trial: &Trial, dump: &WorldDump, style: Style) -> String {
    let mut policies = Table::new(&["NAMESPACE", "NAME", "CHANGE", "PODS", "WARNINGS"]);
    for one in &trial.policies {
        policies.row([
            one.namespace.as_str().into(),
            one.name.as_str().into(),
            one.change.into(),
            one.pods.to_string().into(),
            Cell::toned(
                if one.warnings.is_empty() { Tone::Plain } else { Tone::Warn },
                one.warnings.join("; "),
            ),
        ]);
    }
    let mut text = policies.render(style);
    let groups = [
        (Tone::Bad, "cut", &trial.cut),
        (Tone::Warn, "audited", &trial.audited),
        (Tone::Good, "admitted", &trial.admitted),
    ];
    let mut table = Table::new(&["EFFECT", "SOURCE", "DESTINATION", "CONNECTIONS", "LAST", "BECAUSE"]);
    for (tone, word, all) in groups {
        for one in all {
            table.row([
                Cell::toned(tone, word),
                source(one).into(),
                format!("{}/{}:{}", one.destination.namespace, one.destination.name, one.destination.port)
                    .into(),
                one.connections.to_string().into(),
                human::relative(one.last, dump.as_of).into(),
                one.because.as_str().into(),
            ]);
        }
    }
    let rows = table.render(style);
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&rows);
    }
    text.push('\n');
    text.push_str(&summary(trial));
    text
}

fn summary(trial: &Trial) -> String {
    let pairs = |count: usize| human::count(count as u64, "observed pair");
    let mut text = match trial.cut.is_empty() {
        true => format!("None of {} of the last hour would be cut", pairs(trial.observed)),
        false => {
            let by = trial::deciders(&trial.cut);
            let by =
                by.iter().map(|(name, count)| format!("{name} ({})", human::count(*count, "connection")));
            format!(
                "{} of {} of the last hour would be cut, by {}",
                trial.cut.len(),
                pairs(trial.observed),
                human::list(by)
            )
        }
    };
    if trial.gone > 0 {
        text.push_str(&format!("; {} not judged: their pods are gone", trial.gone));
    }
    if trial.unobserved > 0 {
        text.push_str(&format!(
            "; {} had no room to be remembered",
            human::count(trial.unobserved, "connection")
        ));
    }
    text.push_str(".\n");
    text
}

/// Who, as people know it best.
fn source(one: &Changed) -> String {
    let source = &one.source;
    let name = named(source.namespace.as_deref(), source.name.as_deref(), source.address);
    match &source.identity {
        Some(identity) => format!("{name} ({}/{})", identity.namespace(), identity.service_account()),
        None => format!("{name} (plaintext)"),
    }
}
