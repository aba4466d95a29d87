//! `meshctl config`: everything that an agent holds, and what differs between two such dumps.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use mesh_telemetry::api::{ConfigDump, SettingRow, path};
use serde_json::Value;

use super::{Answer, Context, Failure};
use crate::args::{ConfigVerb, DiffArgs};
use crate::client::{Client, Transport};
use crate::render::fields::Fields;
use crate::render::table::{Cell, Table};
use crate::render::{Style, Tone, human};

mod diff;
#[cfg(test)]
mod tests;

use diff::{Change, Items};

/// The longest file that is read.
const LONGEST: u64 = 512 * 1024 * 1024;

pub(super) fn run(context: &Context, verb: &ConfigVerb) -> Result<Answer, Failure> {
    match verb {
        ConfigVerb::Dump => dump(context),
        ConfigVerb::Diff(args) => differ(context, args),
    }
}

fn dump(context: &Context) -> Result<Answer, Failure> {
    // A dump for each node: `-o json` has a list of them where all nodes are asked.
    let dumps: Vec<Value> = context.each(path::CONFIG)?.into_iter().map(|(_, dump)| dump).collect();
    let understood = dumps.iter().map(|dump| context.understand(dump.clone()));
    let understood: Vec<ConfigDump> = understood.collect::<Result<_, _>>()?;
    let raw = shape(dumps, context.client.is_many());
    let text = || {
        let each = understood.iter().map(|dump| summary(dump, context.style));
        each.collect::<Vec<_>>().join("\n")
    };
    let stdout = context.one(&raw, text);
    let note = match context.output.is_for_people() {
        true => "-o json shows all of it.".to_owned(),
        false => String::new(),
    };
    Ok(Answer { stdout, note, exit_code: 0 })
}

/// A list by what is asked for, however many answer: scripts rely on it.
fn shape(mut dumps: Vec<Value>, is_many: bool) -> Value {
    match is_many {
        true => Value::Array(dumps),
        false => dumps.pop().unwrap_or_default(),
    }
}

/// The settings, and how much there is of the rest.
fn summary(dump: &ConfigDump, style: Style) -> String {
    let mut fields = Fields::default();
    fields.field("Node", &dump.node);
    fields.field("Version", &dump.version);
    fields.field("As of", dump.as_of.to_string());
    let world = match (dump.complete, dump.cached_seconds) {
        (false, _) => (Tone::Bad, "not complete".to_owned()),
        (true, Some(old)) => (Tone::Warn, format!("from this node's disk, {} old", human::duration(old))),
        (true, None) => (Tone::Good, format!("version {}", dump.applied.as_deref().unwrap_or("unknown"))),
    };
    fields.toned("World", world.0, world.1);
    let zone = dump.node_info.as_ref().and_then(|info| info.zone.as_deref());
    fields.field("Zone", zone.unwrap_or(crate::render::NONE));
    fields.field("Workloads", dump.workloads.len().to_string());
    fields.field("Services", dump.services.len().to_string());
    fields.field("Policies", dump.policies.len().to_string());
    format!("{}\n{}", fields.render(style), settings(&dump.settings).render(style))
}

fn settings(rows: &[SettingRow]) -> Table {
    let mut table = Table::new(&["SETTING", "VALUE", "FROM", "OTHERWISE"]);
    for row in rows {
        let tone = if row.from == "default" { Tone::Plain } else { Tone::Good };
        table.row([
            row.name.as_str().into(),
            diff::words(&row.value).into(),
            Cell::toned(tone, &row.from),
            diff::words(&row.otherwise).into(),
        ]);
    }
    table
}

fn differ(context: &Context, args: &DiffArgs) -> Result<Answer, Failure> {
    let of_agent = |context: &Context| -> Result<Value, Failure> { Ok(context.client.get(path::CONFIG)?) };
    let (left, right) = match (&args.controller_socket, &args.file, &args.other) {
        (Some(socket), ..) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = Arc::new(runtime.map_err(Failure::Start)?);
            let controller = Client::new(Transport::Unix(socket.clone()), runtime, context.timeout);
            let world = controller.get(path::WORLD)?;
            (Items::of_controller(&world), Items::as_a_controller_knows(&of_agent(context)?))
        }
        (None, Some(file), Some(other)) => (Items::of_dump(&read(file)?), Items::of_dump(&read(other)?)),
        (None, Some(file), None) => (Items::of_dump(&read(file)?), Items::of_dump(&of_agent(context)?)),
        (None, None, _) => return Err(Failure::Usage("name a FILE, or --controller-socket".into())),
    };
    let changes = left.changes(&right);
    let stdout = context.one(&changes, || text(&changes, context.style));
    let note = match (changes.is_empty(), context.output.is_for_people()) {
        (true, true) => "Nothing differs.".to_owned(),
        (false, true) => format!("{} differ.", human::count(changes.len() as u64, "object")),
        (_, false) => String::new(),
    };
    Ok(Answer { stdout, note, exit_code: u8::from(!changes.is_empty()) })
}

/// A dump that was written down.
fn read(file: &Path) -> Result<Value, Failure> {
    let failed = |source| Failure::File { path: file.into(), action: "read", source };
    let mut text = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(LONGEST).read_to_end(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(file)
            .and_then(|file| file.take(LONGEST).read_to_end(&mut text))
            .map_err(failed)?;
    }
    let value: Value = serde_json::from_slice(&text)
        .map_err(|error| Failure::No(format!("{} is no JSON: {error}", file.display())))?;
    let is_of_one_end = value.get("settings").is_some() || value.get("observed").is_some_and(Value::is_array);
    match value.get("workloads").is_some_and(Value::is_array) && is_of_one_end {
        true => Ok(value),
        false => Err(Failure::No(format!(
            "{} is no dump of one agent: write one with meshctl config dump -o json, or of the controller with meshctl --controller policy dump",
            file.display()
        ))),
    }
}

fn text(changes: &[Change], style: Style) -> String {
    let mut text = String::new();
    for change in changes {
        let (tone, sign) = change.sign();
        let head = crate::render::printable(&format!("{sign} {} {}", change.kind, change.name));
        text.push_str(&format!("{}\n", style.paint(tone, &head)));
        for field in &change.fields {
            let line =
                format!("    {}: {} -> {}", field.path, diff::short(&field.left), diff::short(&field.right));
            text.push_str(&format!("{}\n", crate::render::printable(&line)));
        }
    }
    text
}
