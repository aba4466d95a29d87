//! `meshctl explain`: what becomes of a connection, and which object decided.

use mesh_model::explain::{Answer as Verdict, Explanation, Path};
use mesh_telemetry::api::{ServiceRow, WorkloadRow, path};

use super::{Answer, Context, Failure, chain, printable};
use crate::args::ExplainArgs;
use crate::client::ClientError;
use crate::cluster::near;
use crate::render::fields::Fields;
use crate::render::table::{Cell, Table};
use crate::render::{Style, Tone};

pub(super) fn run(context: &Context, asked: &ExplainArgs) -> Result<Answer, Failure> {
    let path = format!("{}?src={}&dst={}", path::EXPLAIN, asked.source, asked.destination);
    let raw = context.client.get(&path).map_err(|error| unknown(context, asked, error))?;
    let explanation: Explanation = context.understand(raw.clone())?;
    let stdout = context.one(&raw, || text(&explanation, context.style));
    let exit_code = if explanation.verdict == Verdict::Allow { 0 } else { 1 };
    Ok(Answer { stdout, note: String::new(), exit_code })
}

/// What the agent says of an end that it does not know, and the names that are like it.
fn unknown(context: &Context, asked: &ExplainArgs, error: ClientError) -> Failure {
    if !matches!(error, ClientError::Answer { .. }) {
        return error.into();
    }
    let workloads = context.rows_known_to_all::<WorkloadRow>(path::WORKLOADS).unwrap_or_default();
    let services = context.rows_known_to_all::<ServiceRow>(path::SERVICES).unwrap_or_default();
    let workloads = workloads.iter().map(|row| format!("{}/{}", row.row.namespace, row.row.name));
    let services = services.iter().map(|row| format!("{}/{}", row.row.namespace, row.row.name));
    let known: Vec<String> = workloads.chain(services).collect();
    let destination = asked.destination.rsplit_once(':').map_or(&*asked.destination, |(place, _)| place);
    // KIND/NAMESPACE/NAME or NAMESPACE/NAME; an address has no slash.
    let names = [&*asked.source, destination].map(|place| match place.matches('/').count() {
        2.. => place.split_once('/').map_or(place, |(_, name)| name),
        _ => place,
    });
    let said = chain(&error);
    let strange = names.iter().find(|name| {
        name.contains('/') && said.contains(**name) && !known.iter().any(|known| known == *name)
    });
    match strange.map(|name| near(&known, name)) {
        Some(hint) if !hint.is_empty() => Failure::No(printable(&format!("{said}{hint}"))),
        _ => error.into(),
    }
}

pub(super) fn text(explanation: &Explanation, style: Style) -> String {
    let mut steps = Table::new(&["STEP", "RESULT", "OBJECT", "DETAIL"]);
    for step in &explanation.steps {
        let tone = match step.result.as_str() {
            "deny" | "refused" | "pending" | "differ" => Tone::Bad,
            "allow" | "authenticated" | "captured" => Tone::Good,
            _ => Tone::Plain,
        };
        steps.row([
            step.step.as_str().into(),
            Cell::toned(tone, step.result.as_str()),
            Cell::option(step.object.as_ref()),
            step.detail.as_str().into(),
        ]);
    }
    let mut fields = Fields::default();
    let (tone, word) = match explanation.verdict {
        Verdict::Allow => (Tone::Good, "allow".to_owned()),
        Verdict::Deny => match &explanation.reason {
            Some(reason) => (Tone::Bad, format!("deny ({reason})")),
            None => (Tone::Bad, "deny".to_owned()),
        },
    };
    fields.toned("Verdict", tone, word);
    let bare = matches!(explanation.path, Path::Plaintext | Path::Passthrough);
    fields.toned("Path", if bare { Tone::Warn } else { Tone::Plain }, explanation.path.as_str());
    for would in &explanation.audit {
        let word = if would.verdict == Verdict::Allow { "allow" } else { "deny" };
        let by = format!("{word}, if {}/{} were enforced", would.policy.namespace, would.policy.name);
        fields.toned("Audit", Tone::Warn, by);
    }
    let kernel = &explanation.kernel;
    let (tone, agrees) = match kernel.agrees {
        Some(true) => (Tone::Good, ", as the model says"),
        Some(false) => (Tone::Bad, ", AGAINST the model: please report this"),
        None => (Tone::Plain, ""),
    };
    let whose = if kernel.detail.is_empty() { String::new() } else { format!(" ({})", kernel.detail) };
    fields.toned("Kernel", tone, format!("{}{agrees}{whose}", kernel.verdict));
    format!("{}\n{}", steps.render(style), fields.render(style))
}
