//! `meshctl connections`: what agents carry now, once or again and again.

use std::cmp::Reverse;
use std::io::{self, IsTerminal as _, Write as _};

use mesh_telemetry::api::{ConnectionPath, ConnectionRow, Direction, Security, path};

use super::{Answer, Aside, Context, Failure, Row, complaint, named};
use crate::args::{ConnectionArgs, ConnectionSort};
use crate::cluster::Labelled;
use crate::render::table::{Cell, Table};
use crate::render::{Style, Tone, human};

/// The terminal's cursor to the top left corner, and nothing below it.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) fn run(context: &Context, args: &ConnectionArgs) -> Result<Answer, Failure> {
    if args.watch { watch(context, args) } else { once(context, args) }
}

fn once(context: &Context, args: &ConnectionArgs) -> Result<Answer, Failure> {
    let mut rows = context.rows::<ConnectionRow>(path::CONNECTIONS)?;
    let names = |row: &ConnectionRow| {
        let ends = [(&row.src.namespace, &row.src.name), (&row.dst.namespace, &row.dst.name)];
        ends.into_iter().filter_map(|(namespace, name)| namespace.clone().zip(name.clone())).collect()
    };
    let namespaces = |row: &ConnectionRow| vec![row.src.namespace.clone(), row.dst.namespace.clone()];
    context.choose(&mut rows, &args.scope, Labelled::Pods, names, namespaces)?;
    sort(&mut rows, args.sort);
    Ok(context.list(&rows, "connections", table))
}

/// Until somebody stops it, or nobody reads any more. An agent that does not answer for a while is waited for, if it did at first.
fn watch(context: &Context, args: &ConnectionArgs) -> Result<Answer, Failure> {
    let mut said = None;
    loop {
        // A terminal may have another width by now.
        let style = Style { width: crate::width(), ..context.style };
        let round = Context { style, aside: Aside::default().into(), ..context.clone() };
        let shown = match once(&round, args) {
            Ok(answer) => {
                let answer = round.with_missing(answer);
                show(&answer.stdout, answer.note, &mut said)
            }
            Err(failure) if said.is_some() => show("", complaint(&failure), &mut said),
            Err(failure) => return Err(failure),
        };
        match shown {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Answer::yes(String::new())),
            Err(error) => return Err(Failure::Output(error)),
        }
        std::thread::sleep(context.client.pace(args.interval));
    }
}

/// In place on a terminal; else one after the other, with an empty line between, and the note on standard error, if it is not what was
/// `said` there last.
fn show(text: &str, note: String, said: &mut Option<String>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        let height =
            terminal_size::terminal_size_of(&stdout).map_or(usize::MAX, |(_, height)| height.0.into());
        let note = if note.is_empty() { String::new() } else { format!("{note}\n") };
        write!(stdout, "{CLEAR}{}", top(&format!("{text}{note}"), height))?;
    } else {
        writeln!(stdout, "{text}")?;
        if said.as_ref() != Some(&note) {
            crate::say(&note);
        }
    }
    *said = Some(note);
    stdout.flush()
}

/// As much of a text as a screen holds with a line for the cursor, and how much it does not.
pub(super) fn top(text: &str, height: usize) -> String {
    let lines = text.lines().count();
    let room = height.saturating_sub(2).max(1);
    if lines <= room {
        return text.into();
    }
    let shown: String = text.lines().take(room).map(|line| format!("{line}\n")).collect();
    format!("{shown}… {} more\n", lines - room)
}

pub(super) fn sort(rows: &mut [Row<ConnectionRow>], by: ConnectionSort) {
    // Stable sorts: those that are alike stay as they were opened.
    rows.sort_by_key(|connection| connection.row.id);
    match by {
        ConnectionSort::Id => {}
        ConnectionSort::Bytes => rows.sort_by_key(|connection| {
            Reverse(connection.row.bytes_sent.saturating_add(connection.row.bytes_received))
        }),
        ConnectionSort::Sent => rows.sort_by_key(|connection| Reverse(connection.row.bytes_sent)),
        ConnectionSort::Received => rows.sort_by_key(|connection| Reverse(connection.row.bytes_received)),
        ConnectionSort::Source => rows.sort_by_cached_key(|connection| source(&connection.row)),
        ConnectionSort::Destination => rows.sort_by_cached_key(|connection| destination(&connection.row)),
        ConnectionSort::Service => rows.sort_by_cached_key(|connection| {
            let dst = &connection.row.dst;
            (dst.service.is_none(), dst.namespace.clone(), dst.service.clone())
        }),
        ConnectionSort::Path => rows.sort_by_key(|connection| connection.row.path),
        ConnectionSort::Security => rows.sort_by_key(|connection| {
            (connection.row.security != Security::Plaintext, connection.row.security)
        }),
    }
}

fn source(connection: &ConnectionRow) -> String {
    let src = &connection.src;
    named(src.namespace.as_deref(), src.name.as_deref(), src.addr)
}

fn destination(connection: &ConnectionRow) -> String {
    let dst = &connection.dst;
    match dst.name {
        Some(_) => {
            format!("{}:{}", named(dst.namespace.as_deref(), dst.name.as_deref(), ""), dst.addr.port())
        }
        None => dst.addr.to_string(),
    }
}

pub(super) fn table(rows: &[Row<ConnectionRow>]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "DIRECTION",
        "PATH",
        "SECURITY",
        "SOURCE",
        "DESTINATION",
        "SERVICE",
        "PEER",
        "SENT",
        "RECEIVED",
        "SOURCE-ADDRESS",
        "DESTINATION-ADDRESS",
    ])
    .wide(&["SOURCE-ADDRESS", "DESTINATION-ADDRESS"])
    .spare(&["PEER", "ID", "SERVICE", "DIRECTION", "PATH"]);
    for Row { row: connection, .. } in rows {
        // The far end's: who the near one is, is a matter of this node.
        let peer = match connection.direction {
            Direction::Outbound => &connection.dst.identity,
            Direction::Inbound => &connection.src.identity,
        };
        let tone = match (connection.security, connection.path) {
            (Security::Mtls | Security::Kernel, _) => Tone::Good,
            (Security::Plaintext, ConnectionPath::Passthrough) => Tone::Plain,
            (Security::Plaintext, _) => Tone::Warn,
        };
        table.row([
            connection.id.to_string().into(),
            connection.direction.as_str().into(),
            connection.path.as_str().into(),
            Cell::toned(tone, connection.security.as_str()),
            source(connection).into(),
            destination(connection).into(),
            Cell::option(connection.dst.service.as_ref()),
            Cell::option(peer.as_ref()),
            human::bytes(connection.bytes_sent).into(),
            human::bytes(connection.bytes_received).into(),
            connection.src.addr.to_string().into(),
            connection.dst.addr.to_string().into(),
        ]);
    }
    table
}
