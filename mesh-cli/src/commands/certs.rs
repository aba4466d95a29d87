//! `meshctl certs`: the certificates of the node's identities.

use std::time::SystemTime;

use mesh_telemetry::api::{CertRow, CertState, Timestamp, path};

use super::{Answer, Context, Failure, Row};
use crate::args::Scope;
use crate::render::table::{Cell, Table};
use crate::render::{Tone, human};

pub(super) fn run(context: &Context, scope: &Scope) -> Result<Answer, Failure> {
    let mut rows = context.rows::<CertRow>(path::CERTS)?;
    rows.retain(|cert| scope.covers(Some(cert.row.identity.namespace())));
    rows.sort_by(|a, b| a.row.identity.cmp(&b.row.identity));
    Ok(context.list(&rows, "certificates", |rows| table(rows, SystemTime::now().into())))
}

pub(super) fn table(rows: &[Row<CertRow>], now: Timestamp) -> Table {
    let mut table =
        Table::new(&["IDENTITY", "STATE", "EXPIRES", "NOT-AFTER", "SERIAL", "ISSUER", "LAST-ERROR"]);
    for Row { row: cert, .. } in rows {
        let tone = match (cert.state, &cert.last_error) {
            (CertState::Expired | CertState::Failed, _) => Tone::Bad,
            (CertState::Pending | CertState::Expiring, _) | (_, Some(_)) => Tone::Warn,
            (CertState::Valid, None) => Tone::Good,
        };
        table.row([
            cert.identity.to_string().into(),
            Cell::toned(tone, cert.state.as_str()),
            Cell::option(cert.not_after.map(|end| human::relative(end, now))),
            Cell::option(cert.not_after),
            Cell::option(cert.serial.as_ref()),
            Cell::option(cert.issuer.as_ref()),
            Cell::option(cert.last_error.as_ref()),
        ]);
    }
    table
}
