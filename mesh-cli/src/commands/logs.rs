//! `meshctl logs`: the connections that were refused or cut, with who, whom and why; once, or as they come, on one node or all.
//!
//! ```text
//! /v1/refusals?after=… ─▶ each node's new rows ─▶ chosen ─▶ table, or lines as they come
//!        ▲                                        │
//!        └────────── where each node stands ◀─────┘
//! ```

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_model::Reason;
use mesh_telemetry::api::{RefusalEvent, RefusalRow, Refusals, path};
use serde_json::Value;

use super::{Answer, Context, Failure, Row, complaint, named};
use crate::args::{LogArgs, Output};
use crate::cluster::{Labelled, near};
use crate::render::table::{Cell, Table};
use crate::render::{Style, Tone, human, printable, yaml};

#[cfg(test)]
mod tests;

/// How often it is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Where each node stands: which start of its agent, and the last number that was seen.
#[derive(Debug, Default)]
pub(super) struct Cursor(BTreeMap<String, (u64, u64)>);

/// Where each node stood when it was first asked: which start of its agent, and its last number.
#[derive(Debug, Default)]
struct Ends(BTreeMap<String, (u64, u64)>);

/// What one round of questions brought.
#[derive(Debug, Default)]
struct Round {
    rows: Vec<Row<RefusalRow>>,
    lost: u64,
    /// There may be more to be had at once.
    more: bool,
}

pub(super) fn run(context: &Context, args: &LogArgs) -> Result<Answer, Failure> {
    let reasons = reasons(&args.reason)?;
    let since = args.since.map(|span| millis_now().saturating_sub(span.as_millis() as u64));
    let mut cursor = Cursor::default();
    let mut rows = chosen(context, args, &reasons, since, backlog(context, &mut cursor)?)?;
    if let Some(tail) = args.tail {
        rows.drain(..rows.len().saturating_sub(tail));
    }
    if args.follow {
        return follow(context, args, &reasons, cursor, &rows);
    }
    let mut answer = match context.output {
        Output::Name => Answer::yes(
            rows.iter().map(|row| format!("refusal/{}/{}\n", row.row.node, row.row.seq)).collect(),
        ),
        _ => context.list(&rows, "refusals", table),
    };
    if context.output.is_for_people()
        && let Some(hint) = hint(rows.iter().map(|row| &row.row))
    {
        answer.note = hint;
    }
    Ok(answer)
}

/// What there is already: from the beginning, a piece at a time, up to where each node stood when it was first asked, so that it
/// ends under load, too. In the order in which it happened.
fn backlog(context: &Context, cursor: &mut Cursor) -> Result<Vec<Row<RefusalRow>>, Failure> {
    let (mut ends, mut rows) = (Ends::default(), Vec::new());
    loop {
        let mut round = ask(context, cursor, Some(0), &mut ends)?;
        rows.append(&mut round.rows);
        // Who does not answer does so in each round, and is named once.
        let missing = &mut context.aside.borrow_mut().missing;
        let mut said = HashSet::new();
        missing.retain(|line| said.insert(line.clone()));
        if !round.more {
            break;
        }
    }
    by_time(&mut rows);
    Ok(rows)
}

/// Oldest first; what happened at once stays in its node's order.
fn by_time(rows: &mut [Row<RefusalRow>]) {
    rows.sort_by_key(|row| row.row.unix_ms);
}

/// Until somebody stops it, or nobody reads any more. A node that does not answer for a while is waited for, and said to be.
fn follow(
    context: &Context,
    args: &LogArgs,
    reasons: &[Reason],
    mut cursor: Cursor,
    first: &[Row<RefusalRow>],
) -> Result<Answer, Failure> {
    let mut said = String::new();
    let mut rows = Ok(Vec::new());
    let mut begun = false;
    loop {
        let written = match (&rows, begun) {
            (_, false) => write(context, first),
            (Ok(rows), true) => write(context, rows),
            (Err(_), true) => Ok(()),
        };
        begun = true;
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Answer::yes(String::new())),
            Err(error) => return Err(Failure::Output(error)),
        }
        // The same complaint once, and not each second.
        let trouble = match &rows {
            Err(failure) => complaint(failure),
            Ok(_) => context.aside.borrow().missing.join("\n"),
        };
        if trouble != said && !trouble.is_empty() {
            let _ = writeln!(io::stderr(), "{trouble}");
        }
        said = trouble;
        context.forget_aside();
        std::thread::sleep(context.client.pace(AGAIN));
        rows = ask(context, &mut cursor, None, &mut Ends::default()).and_then(|round| {
            if round.lost > 0 {
                let _ =
                    writeln!(io::stderr(), "{} were lost meanwhile.", human::count(round.lost, "refusal"));
            }
            chosen(context, args, reasons, None, round.rows)
        });
    }
}

/// What is new at each node. `from`: where to begin at a node that is new. `ends`: up to where it is to be had.
fn ask(context: &Context, cursor: &mut Cursor, from: Option<u64>, ends: &mut Ends) -> Result<Round, Failure> {
    let asked = cursor.question(from);
    let mut round = Round::default();
    for (_, value) in context.each(&asked)? {
        let rows = value.get("refusals").and_then(Value::as_array).cloned().unwrap_or_default();
        let answer: Refusals = context.understand(value)?;
        let (lost, is_new) = cursor.heard(&answer);
        round.lost += lost;
        round.more |= ends.is_before(cursor, &answer);
        if is_new {
            round.rows.extend(answer.refusals.into_iter().zip(rows).map(|(row, raw)| Row { row, raw }));
        }
    }
    by_time(&mut round.rows);
    Ok(round)
}

impl Ends {
    /// A node that has just answered has not yet told all that there was when it was first asked.
    fn is_before(&mut self, cursor: &Cursor, answer: &Refusals) -> bool {
        let end = self.0.entry(answer.node.clone()).or_insert((answer.epoch, answer.last));
        let is_anew = end.0 != answer.epoch;
        if is_anew {
            *end = (answer.epoch, answer.last);
        }
        // Who has nothing more to tell has told all, whatever it said before.
        let goes_on = is_anew || !answer.refusals.is_empty();
        goes_on && cursor.0.get(&answer.node).is_some_and(|(_, last)| *last < end.1)
    }
}

impl Cursor {
    /// The node was heard before.
    pub(super) fn knows(&self, node: &str) -> bool {
        self.0.contains_key(node)
    }

    /// The question for what comes after what was heard.
    pub(super) fn question(&self, from: Option<u64>) -> String {
        let each: Vec<String> = self.0.iter().map(|(node, (_, last))| format!("{node}:{last}")).collect();
        match (each.is_empty(), from) {
            (false, _) => format!("{}?after={}", path::REFUSALS, each.join(",")),
            (true, Some(from)) => format!("{}?after={from}", path::REFUSALS),
            (true, None) => path::REFUSALS.into(),
        }
    }

    /// Notes where a node stands. How many were lost, and whether the rows are new: those of an agent that was started anew are
    /// asked for again from the beginning.
    pub(super) fn heard(&mut self, answer: &Refusals) -> (u64, bool) {
        let last = answer.refusals.last().map_or(answer.last, |row| row.seq);
        match self.0.insert(answer.node.clone(), (answer.epoch, last)) {
            Some((epoch, _)) if epoch != answer.epoch => {
                self.0.insert(answer.node.clone(), (answer.epoch, 0));
                (0, false)
            }
            // What was gone before anybody asked is nobody's loss.
            None => (0, true),
            Some(_) => (answer.lost, true),
        }
    }
}

/// The reasons that are asked for; none: all.
fn reasons(codes: &[String]) -> Result<Vec<Reason>, Failure> {
    let known = |code: &String| {
        Reason::of_word(code).ok_or_else(|| {
            let all: Vec<String> = Reason::ALL.iter().map(ToString::to_string).collect();
            Failure::Usage(printable(&format!("there is no reason {code}{}", near(&all, code))))
        })
    };
    codes.iter().map(known).collect()
}

fn chosen(
    context: &Context,
    args: &LogArgs,
    reasons: &[Reason],
    since: Option<u64>,
    mut rows: Vec<Row<RefusalRow>>,
) -> Result<Vec<Row<RefusalRow>>, Failure> {
    rows.retain(|row| {
        (reasons.is_empty() || reasons.contains(&row.row.reason))
            && since.is_none_or(|since| row.row.unix_ms >= since)
    });
    let names = |row: &RefusalRow| {
        let ends =
            [(&row.source.namespace, &row.source.pod), (&row.destination.namespace, &row.destination.pod)];
        ends.into_iter().filter_map(|(namespace, name)| namespace.clone().zip(name.clone())).collect()
    };
    let namespaces = |row: &RefusalRow| vec![row.source.namespace.clone(), row.destination.namespace.clone()];
    context.choose(&mut rows, &args.scope, Labelled::Pods, names, namespaces)?;
    Ok(rows)
}

/// Rows as they come: a line each; as JSON one object a line, as YAML one document each.
fn write(context: &Context, rows: &[Row<RefusalRow>]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for row in rows {
        match context.output {
            Output::Json => writeln!(stdout, "{}", row.raw)?,
            Output::Yaml => write!(stdout, "---\n{}", yaml::render(&row.raw))?,
            Output::Name => writeln!(stdout, "refusal/{}/{}", row.row.node, row.row.seq)?,
            Output::Table | Output::Wide => writeln!(stdout, "{}", line(&row.row, context.style))?,
        }
    }
    stdout.flush()
}

/// One refusal in one line.
fn line(row: &RefusalRow, style: Style) -> String {
    let service = row.destination.service.as_ref().map(|service| format!(" (service {service})"));
    let tone = if row.reason.is_denial() { Tone::Bad } else { Tone::Warn };
    format!(
        "{} {} {} {} {} -> {}{}: {}",
        row.time,
        printable(&row.node),
        row.event.as_str(),
        style.paint(tone, row.reason.as_str()),
        printable(&source(row)),
        printable(&destination(row)),
        printable(&service.unwrap_or_default()),
        printable(&row.detail),
    )
}

fn source(row: &RefusalRow) -> String {
    named(row.source.namespace.as_deref(), row.source.pod.as_deref(), row.source.address.ip())
}

fn destination(row: &RefusalRow) -> String {
    let destination = &row.destination;
    match &destination.pod {
        Some(_) => {
            let name = named(destination.namespace.as_deref(), destination.pod.as_deref(), "");
            format!("{name}:{}", destination.address.port())
        }
        None => destination.address.to_string(),
    }
}

fn table(rows: &[Row<RefusalRow>]) -> Table {
    let headers = [
        "TIME",
        "EVENT",
        "DIRECTION",
        "REASON",
        "SOURCE",
        "DESTINATION",
        "SERVICE",
        "POLICY",
        "DETAIL",
        "PATH",
        "IDENTITY",
        "SOURCE-ADDRESS",
        "DESTINATION-ADDRESS",
    ];
    let mut table = Table::new(&headers)
        .wide(&["PATH", "IDENTITY", "SOURCE-ADDRESS", "DESTINATION-ADDRESS"])
        .spare(&["EVENT", "DIRECTION", "SERVICE", "POLICY"]);
    for Row { row, .. } in rows {
        let event = if row.event == RefusalEvent::Cut { Tone::Warn } else { Tone::Plain };
        let reason = if row.reason.is_denial() { Tone::Bad } else { Tone::Warn };
        table.row([
            row.time.to_string().into(),
            Cell::toned(event, row.event.as_str()),
            row.direction.as_str().into(),
            Cell::toned(reason, row.reason.as_str()),
            source(row).into(),
            destination(row).into(),
            Cell::option(row.destination.service.as_ref()),
            Cell::option(row.policy.as_ref()),
            row.detail.as_str().into(),
            row.path.as_str().into(),
            Cell::option(row.source.identity.as_ref()),
            row.source.address.to_string().into(),
            row.destination.address.to_string().into(),
        ]);
    }
    table
}

/// What to ask next: about the most frequent reason, and the policy of the newest that names one.
fn hint<'a>(rows: impl DoubleEndedIterator<Item = &'a RefusalRow> + Clone) -> Option<String> {
    let mut counts: BTreeMap<Reason, u64> = BTreeMap::new();
    rows.clone().for_each(|row| *counts.entry(row.reason).or_default() += 1);
    let (reason, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let policy = rows.rev().find_map(|row| row.policy.as_deref());
    let policy = policy.map(|policy| printable(&format!("; the rule: meshctl policy show {policy}")));
    Some(format!("What to do: meshctl explain-error {reason}{}", policy.unwrap_or_default()))
}

fn millis_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
