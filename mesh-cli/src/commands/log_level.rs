//! `meshctl log-level`: what an agent or a controller logs, shown and changed while it runs.

use std::time::SystemTime;

use mesh_telemetry::api::{LogLevel, SetLogLevel, Timestamp, path};
use serde_json::Value;

use super::{Answer, Context, Failure, Row};
use crate::args::{LogLevelArgs, Output};
use crate::render::table::{Cell, Table};
use crate::render::{Tone, human, printable};

#[cfg(test)]
mod tests;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub(super) fn run(context: &Context, args: &LogLevelArgs) -> Result<Answer, Failure> {
    let asked = SetLogLevel { filter: args.filter.clone(), seconds: args.span.map(|span| span.as_secs()) };
    let answers = match args.filter.is_some() || args.reset {
        true => {
            let body = serde_json::to_value(&asked).unwrap_or_default();
            context.client.post_each(path::LOG_LEVEL, &body)?
        }
        false => context.client.get_each(path::LOG_LEVEL)?,
    };
    let mut rows = Vec::new();
    for (node, mut raw) in context.answered(answers)? {
        if let (Some(node), Some(keys)) = (node, raw.as_object_mut()) {
            keys.insert("node".into(), node.into());
        }
        rows.push(Row { row: context.understand(raw.clone())?, raw });
    }
    let now = SystemTime::now().into();
    let mut answer = match context.output {
        Output::Name => Answer::yes(rows.iter().map(|row| name(context, row) + "\n").collect()),
        _ => context.list(&rows, "processes", |rows| table(rows, now)),
    };
    if let Some(filter) = &args.filter
        && !has_level(filter)
    {
        answer.note =
            "All other parts are silent now: begin with a level to hear them (info,TARGET=LEVEL).".into();
    }
    Ok(answer)
}

/// A process has no name of its own: it is a node's agent, or whoever was asked.
fn name(context: &Context, row: &Row<LogLevel>) -> String {
    let node = row.raw.get("node").and_then(Value::as_str).or_else(|| context.client.node());
    printable(&node.map_or_else(|| context.client.end(), |node| format!("agent/{node}")))
}

/// Whether a filter says what is logged of what it does not name.
fn has_level(filter: &str) -> bool {
    filter.split(',').any(|word| LEVELS.contains(&word.trim().to_lowercase().as_str()))
}

fn table(rows: &[Row<LogLevel>], now: Timestamp) -> Table {
    let mut table = Table::new(&["FILTER", "UNTIL", "AT-START"]);
    for Row { row, .. } in rows {
        let tone = if row.filter == row.start { Tone::Plain } else { Tone::Warn };
        table.row([
            Cell::toned(tone, &row.filter),
            Cell::option(row.until.map(|until| human::relative(until, now))),
            row.start.as_str().into(),
        ]);
    }
    table
}
