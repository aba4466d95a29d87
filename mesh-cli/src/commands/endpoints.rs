//! `meshctl endpoints`: where a node's connections to a Service may go, and why not elsewhere.

use mesh_model::{Phase, Tunnel};
use mesh_telemetry::api::{ChoiceRow, Choices, path};
use serde_json::Value;

use super::{Answer, Context, Failure, Row, printable};
use crate::args::{EndpointArgs, Output};
use crate::cluster::{Labelled, near};
use crate::render::table::{Cell, Table};
use crate::render::{Tone, human};

#[cfg(test)]
mod tests;

pub(super) fn run(context: &Context, args: &EndpointArgs) -> Result<Answer, Failure> {
    let wanted = args.service.as_deref().map(|name| named(name, args)).transpose()?;
    let asked = match &wanted {
        Some((namespace, name)) => format!("{}?service={namespace}/{name}", path::ENDPOINTS),
        None => match args.scope.namespace() {
            Some(namespace) => format!("{}?namespace={namespace}", path::ENDPOINTS),
            None => path::ENDPOINTS.to_owned(),
        },
    };
    let mut rows = Vec::new();
    let mut more = 0;
    for (_, value) in context.each(&asked)? {
        let answer: Choices = context.understand(value.clone())?;
        more += answer.more;
        let raw = value.get("endpoints").and_then(Value::as_array).cloned().unwrap_or_default();
        for (mut raw, row) in raw.into_iter().zip(answer.endpoints) {
            if let Some(keys) = raw.as_object_mut() {
                keys.insert("seen_from".into(), answer.node.clone().into());
            }
            rows.push(Row { row, raw });
        }
    }
    if let Some((namespace, name)) = &wanted
        && rows.is_empty()
    {
        return Err(Failure::No(missing(context, namespace, name)?));
    }
    let name = |row: &ChoiceRow| vec![(row.namespace.clone(), row.service.clone())];
    let namespace = |row: &ChoiceRow| vec![Some(row.namespace.clone())];
    context.choose(&mut rows, &args.scope, Labelled::Services, name, namespace)?;
    let none_chosen = wanted.is_some() && !rows.iter().any(|row| row.row.chosen);
    rows.retain(|row| row.row.chosen || !args.chosen);
    let mut answer = match context.output {
        Output::Name => Answer::yes(rows.iter().map(|row| name_of(&row.row) + "\n").collect()),
        _ => context.list(&rows, "endpoints", |rows| {
            let table = table(rows);
            match context.client.is_many() {
                true => table
                    .first("SEEN-FROM", rows.iter().map(|row| Cell::option(row.raw["seen_from"].as_str()))),
                false => table,
            }
        }),
    };
    if more > 0 {
        answer.note = format!("{} more: name a Service, or a namespace with -n.", human::count(more, "row"));
    }
    if none_chosen {
        answer.exit_code = 1;
    }
    Ok(answer)
}

/// Namespace and name of a Service as it was written.
fn named(text: &str, args: &EndpointArgs) -> Result<(String, String), Failure> {
    let text = text.strip_prefix("service/").or_else(|| text.strip_prefix("svc/")).unwrap_or(text);
    let (namespace, name) = match (text.split_once('/'), args.scope.namespace()) {
        (Some((namespace, name)), _) => (namespace, name),
        (None, Some(namespace)) => (namespace, text),
        (None, None) => {
            return Err(Failure::Usage(format!(
                "in which namespace is {text}? Write NAMESPACE/{text}, or -n NAMESPACE"
            )));
        }
    };
    let plain = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
    };
    match plain(namespace) && plain(name) {
        true => Ok((namespace.into(), name.into())),
        false => Err(Failure::Usage(format!("{text} is no name of a Service: write NAMESPACE/NAME"))),
    }
}

/// That there is no such Service, and which there are.
fn missing(context: &Context, namespace: &str, name: &str) -> Result<String, Failure> {
    let known = context.rows_known_to_all::<mesh_telemetry::api::ServiceRow>(path::SERVICES)?;
    let mut names: Vec<String> =
        known.iter().map(|row| format!("{}/{}", row.row.namespace, row.row.name)).collect();
    names.dedup();
    let wanted = format!("{namespace}/{name}");
    if names.contains(&wanted) {
        return Ok(format!("Service {wanted} has no TCP port: nothing of it is carried"));
    }
    Ok(printable(&format!("there is no Service {wanted}{}", near(&names, &wanted))))
}

fn name_of(row: &ChoiceRow) -> String {
    match (&row.pod, row.address) {
        (Some(pod), _) => printable(&format!("pod/{}/{}", pod.namespace, pod.name)),
        (None, Some(address)) => format!("address/{address}"),
        (None, None) => printable(&format!("service/{}/{}", row.namespace, row.service)),
    }
}

pub(super) fn table(rows: &[Row<ChoiceRow>]) -> Table {
    let mut table = Table::new(&[
        "SERVICE", "PORT", "ENDPOINT", "POD", "NODE", "ZONE", "HEALTH", "TUNNEL", "CHOSEN", "WHY-NOT",
        "HINTS",
    ])
    .wide(&["HINTS"])
    .spare(&["ZONE", "NODE", "PORT", "TUNNEL"]);
    for Row { row, .. } in rows {
        let (tone, health) = health(row);
        let (chosen_tone, chosen) = if row.chosen { (Tone::Good, "yes") } else { (Tone::Plain, "no") };
        let (tunnel_tone, tunnel) = match row.tunnel {
            Some(Tunnel::Hbone) => (Tone::Good, "hbone"),
            Some(Tunnel::Foreign) => (Tone::Good, "foreign"),
            Some(Tunnel::Withdrawn) => (Tone::Warn, "withdrawn"),
            Some(Tunnel::None) => (Tone::Warn, "none"),
            None => (Tone::Plain, ""),
        };
        let zones = row.for_zones.iter().map(|zone| format!("zone {zone}"));
        let nodes = row.for_nodes.iter().map(|node| format!("node {node}"));
        table.row([
            format!("{}/{}", row.namespace, row.service).into(),
            row.port.to_string().into(),
            Cell::option(row.address),
            Cell::option(row.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name))),
            Cell::option(row.node.as_ref()),
            Cell::option(row.zone.as_ref()),
            Cell::toned(tone, health),
            Cell::toned(tunnel_tone, tunnel),
            Cell::toned(chosen_tone, chosen),
            Cell::option(row.why.as_ref()),
            human::list(zones.chain(nodes)).into(),
        ]);
    }
    table
}

fn health(row: &ChoiceRow) -> (Tone, &'static str) {
    match (row.address, row.ready, row.phase) {
        (None, ..) => (Tone::Bad, "none"),
        (_, true, Some(Phase::Terminating)) => (Tone::Warn, "ready, terminating"),
        (_, true, _) => (Tone::Good, "ready"),
        (_, false, _) => (Tone::Warn, "terminating"),
    }
}
