//! `meshctl certs`: the certificates of the node's identities, and the roots that it trusts.

use std::time::SystemTime;

use mesh_telemetry::api::{CertRow, CertState, Timestamp, TrustBundle, path};

use super::{Answer, Context, Failure, Row};
use crate::args::CertArgs;
use crate::cluster::Labelled;
use crate::render::table::{Cell, Table};
use crate::render::{Tone, human};

pub(super) fn run(context: &Context, args: &CertArgs) -> Result<Answer, Failure> {
    let now = SystemTime::now().into();
    if args.roots {
        let bundle: TrustBundle = context.understand(context.client.get(path::ROOTS)?)?;
        let stdout = context.one(&bundle, || roots(&bundle, now).render(context.style));
        return Ok(Answer { note: complaint(&bundle), ..Answer::yes(stdout) });
    }
    let mut rows = context.rows::<CertRow>(path::CERTS)?;
    let name = |cert: &CertRow| {
        vec![(cert.identity.namespace().to_owned(), cert.identity.service_account().to_owned())]
    };
    let namespace = |cert: &CertRow| vec![Some(cert.identity.namespace().to_owned())];
    context.choose(&mut rows, &args.scope, Labelled::Accounts, name, namespace)?;
    rows.sort_by(|a, b| a.row.identity.cmp(&b.row.identity));
    let mut answer = context.list(&rows, "certificates", |rows| table(rows, now));
    // An agent of an earlier version has no word on its roots.
    if context.output.is_for_people()
        && !context.client.is_many()
        && let Ok(value) = context.client.get(path::ROOTS)
    {
        let bundle: TrustBundle = context.understand(value)?;
        if !answer.stdout.is_empty() {
            answer.stdout.push('\n');
        }
        answer.stdout.push_str(&roots(&bundle, now).render(context.style));
        if answer.note.is_empty() {
            answer.note = complaint(&bundle);
        }
    }
    Ok(answer)
}

/// One line where the newest roots are not in force.
fn complaint(bundle: &TrustBundle) -> String {
    bundle.error.as_ref().map(|error| format!("The roots cannot be followed: {error}")).unwrap_or_default()
}

pub(super) fn roots(bundle: &TrustBundle, now: Timestamp) -> Table {
    let mut table = Table::new(&["ROOT", "EXPIRES", "NOT-AFTER", "SHA-256", "SIGNS"]).spare(&["NOT-AFTER"]);
    for (index, root) in bundle.roots.iter().enumerate() {
        let tone = if root.not_after <= now { Tone::Bad } else { Tone::Good };
        table.row([
            root.subject.clone().into(),
            Cell::toned(tone, human::relative(root.not_after, now)),
            root.not_after.to_string().into(),
            root.fingerprint.clone().into(),
            if index == 0 { "yes" } else { "no" }.into(),
        ]);
    }
    table
}

pub(super) fn table(rows: &[Row<CertRow>], now: Timestamp) -> Table {
    let mut table =
        Table::new(&["IDENTITY", "STATE", "EXPIRES", "NOT-AFTER", "NEXT", "SERIAL", "ISSUER", "LAST-ERROR"])
            .wide(&["SERIAL", "ISSUER"])
            .spare(&["NOT-AFTER", "NEXT", "LAST-ERROR"]);
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
            Cell::option(cert.next.map(|next| human::relative(next, now))),
            Cell::option(cert.serial.as_ref()),
            Cell::option(cert.issuer.as_ref()),
            Cell::option(cert.last_error.as_ref()),
        ]);
    }
    table
}
