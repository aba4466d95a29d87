//! `meshctl connections`: what the agent carries now.

use std::cmp::Reverse;

use mesh_telemetry::api::{ConnectionPath, ConnectionRow, Direction, Security, path};

use super::{Answer, Context, Failure, Row, named};
use crate::args::{ConnectionArgs, ConnectionSort};
use crate::render::table::{Cell, Table};
use crate::render::{Tone, human};

pub(super) fn run(context: &Context, args: &ConnectionArgs) -> Result<Answer, Failure> {
    let mut rows = context.rows::<ConnectionRow>(path::CONNECTIONS)?;
    rows.retain(|connection| {
        let ends = [&connection.row.src.namespace, &connection.row.dst.namespace];
        ends.into_iter().any(|namespace| args.scope.covers(namespace.as_deref()))
    });
    sort(&mut rows, args.sort);
    Ok(context.list(&rows, "connections", table))
}

pub(super) fn sort(rows: &mut [Row<ConnectionRow>], by: ConnectionSort) {
    // Stable sorts: those that are alike stay as they were opened.
    rows.sort_by_key(|connection| connection.row.id);
    match by {
        ConnectionSort::Id => {}
        ConnectionSort::Bytes => rows.sort_by_key(|connection| {
            Reverse(connection.row.bytes_sent.saturating_add(connection.row.bytes_received))
        }),
        ConnectionSort::Source => rows.sort_by_cached_key(|connection| source(&connection.row)),
        ConnectionSort::Destination => rows.sort_by_cached_key(|connection| destination(&connection.row)),
        ConnectionSort::Path => rows.sort_by_key(|connection| connection.row.path),
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
    ]);
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
        ]);
    }
    table
}
