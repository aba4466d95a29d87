//! `meshctl bpf`: the agent's maps and programs in the kernel, decoded, and the bpftool line that shows the same.

use std::time::SystemTime;

use mesh_telemetry::api::{BpfEntries, BpfEntry, BpfMapRow, BpfProgramRow, BpfSummary, Timestamp, path};
use serde_json::Value;

use super::{Answer, Context, Failure, Row};
use crate::args::{BpfMapArgs, BpfVerb};
use crate::cluster::near;
use crate::render::table::{Cell, Table};
use crate::render::{Tone, human};

#[cfg(test)]
mod tests;

/// From so much on a map is said to fill up, in percent.
const FILLS_UP: u64 = 80;

pub(super) fn run(context: &Context, verb: &BpfVerb) -> Result<Answer, Failure> {
    match verb {
        BpfVerb::Maps(BpfMapArgs { name: Some(name), limit }) => entries(context, name, *limit),
        BpfVerb::Maps(BpfMapArgs { name: None, .. }) => {
            let rows = part::<BpfMapRow>(context, "maps")?;
            let broken = rows.iter().filter(|row| row.row.error.is_some()).count() as u64;
            let mut answer = context.list(&rows, "maps", maps);
            if broken > 0 {
                answer.exit_code = 1;
                answer.note = format!("{} cannot be read.", human::count(broken, "map"));
            }
            Ok(answer)
        }
        BpfVerb::Progs => {
            let rows = part::<BpfProgramRow>(context, "programs")?;
            Ok(context.list(&rows, "programs", |rows| programs(rows, SystemTime::now().into())))
        }
    }
}

/// One list of the summary, of one node or of all.
fn part<T: serde::de::DeserializeOwned>(context: &Context, key: &str) -> Result<Vec<Row<T>>, Failure> {
    let mut rows = Vec::new();
    for (node, mut value) in context.each(path::BPF)? {
        let list = value.get_mut(key).map(Value::take).unwrap_or_default();
        for mut raw in context.understand::<Vec<Value>>(list)? {
            if let (Some(node), Some(keys)) = (&node, raw.as_object_mut()) {
                keys.insert("node".into(), node.clone().into());
            }
            rows.push(Row { row: context.understand(raw.clone())?, raw });
        }
    }
    Ok(rows)
}

fn entries(context: &Context, name: &str, limit: u32) -> Result<Answer, Failure> {
    let known = mesh_maps(context)?;
    if !known.iter().any(|map| map == name) {
        return Err(Failure::No(format!("there is no map {name}{}", near(&known, name))));
    }
    let raw = context.client.get(&format!("{}?map={name}&limit={limit}", path::BPF_ENTRIES))?;
    let found: BpfEntries = context.understand(raw.clone())?;
    let mut note = format!("The same: {}", found.bpftool);
    if found.more {
        note.insert_str(0, "There are more: --limit shows them. ");
    }
    if found.entries.is_empty() {
        note.insert_str(0, "No entries. ");
    }
    let stdout = context.one(&raw, || entry_table(&found.entries).render(context.style));
    let note = if context.output.is_for_people() { note } else { String::new() };
    Ok(Answer { stdout, note, exit_code: 0 })
}

fn mesh_maps(context: &Context) -> Result<Vec<String>, Failure> {
    let summary: BpfSummary = context.understand(context.client.get(path::BPF)?)?;
    Ok(summary.maps.into_iter().map(|map| map.name).collect())
}

fn maps(rows: &[Row<BpfMapRow>]) -> Table {
    let headers =
        ["NAME", "TYPE", "ENTRIES", "MAX", "FILL", "PURPOSE", "ID", "KEY", "VALUE", "PINNED", "BPFTOOL"];
    let mut table = Table::new(&headers).wide(&["ID", "KEY", "VALUE", "PINNED", "BPFTOOL"]);
    for Row { row: map, .. } in rows {
        let fill = match (map.entries, map.max_entries) {
            (Some(entries), Some(max)) if max > 0 => Some(entries.saturating_mul(100) / max),
            _ => None,
        };
        let tone = match fill {
            Some(100..) => Tone::Bad,
            Some(FILLS_UP..) => Tone::Warn,
            _ => Tone::Plain,
        };
        // Arrays are always full: each of their elements is there from the beginning.
        let is_array = map.kind.as_deref().is_some_and(|kind| kind.ends_with("array"));
        let tone = if is_array { Tone::Plain } else { tone };
        let purpose = match &map.error {
            Some(error) => Cell::toned(Tone::Bad, error),
            None => map.purpose.as_str().into(),
        };
        table.row([
            map.name.as_str().into(),
            Cell::option(map.kind.as_ref()),
            Cell::option(map.entries),
            Cell::option(map.max_entries),
            Cell::toned(tone, fill.map(|fill| format!("{fill}%")).unwrap_or_default()),
            purpose,
            Cell::option(map.id),
            Cell::option(map.key_bytes),
            Cell::option(map.value_bytes),
            map.path.as_str().into(),
            map.bpftool.as_str().into(),
        ]);
    }
    table
}

fn programs(rows: &[Row<BpfProgramRow>], now: Timestamp) -> Table {
    let headers =
        ["NAME", "LINKS", "ATTACHED-TO", "LOADED", "PURPOSE", "ID", "TAG", "BYTES", "PINNED", "BPFTOOL"];
    let mut table = Table::new(&headers).wide(&["ID", "TAG", "BYTES", "PINNED", "BPFTOOL"]);
    for Row { row: program, .. } in rows {
        let tone = if program.links == 0 { Tone::Warn } else { Tone::Good };
        table.row([
            program.name.as_str().into(),
            Cell::toned(tone, program.links.to_string()),
            program.attached_to.as_str().into(),
            Cell::option(program.loaded.map(|loaded| human::relative(loaded, now))),
            program.purpose.as_str().into(),
            human::list(&program.ids).into(),
            Cell::option(program.tag.as_ref()),
            Cell::option(program.bytes),
            program.path.as_str().into(),
            program.bpftool.as_str().into(),
        ]);
    }
    table
}

fn entry_table(entries: &[BpfEntry]) -> Table {
    let mut table = Table::new(&["KEY", "VALUE"]);
    for entry in entries {
        table.row([words(&entry.key).into(), words(&entry.value).into()]);
    }
    table
}

/// `name=value name=value`; a bare value as it is.
fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            fields.map(|(name, value)| format!("{name}={}", words(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}
