//! `meshctl status`: how an agent or a controller is doing.
//!
//! Both answer on the same path; who it was is told by a field that only one of them has.

use std::time::SystemTime;

use mesh_telemetry::api::{ControllerStatus, Status, Timestamp, path};
use serde_json::Value;

use super::{Answer, Context, Failure};
use crate::render::fields::Fields;
use crate::render::table::{Cell, Table};
use crate::render::{NONE, Style, Tone, human};

pub(super) fn run(context: &Context) -> Result<Answer, Failure> {
    if context.client.is_many() {
        return of_all_nodes(context);
    }
    let value: Value = context.client.get(path::STATUS)?;
    let text = if value.get("agents").is_some() {
        controller(&context.understand::<ControllerStatus>(value.clone())?, context.style)
    } else {
        agent(&context.understand::<Status>(value.clone())?, SystemTime::now().into(), context.style)
    };
    Ok(Answer::yes(context.one(&value, || text)))
}

/// One after the other; in JSON a list.
fn of_all_nodes(context: &Context) -> Result<Answer, Failure> {
    let answers = context.each(path::STATUS)?;
    let mut text = Vec::new();
    for (_, value) in &answers {
        text.push(agent(&context.understand(value.clone())?, SystemTime::now().into(), context.style));
    }
    let raw: Value = answers.into_iter().map(|(_, value)| value).collect();
    Ok(Answer::yes(context.one(&raw, || text.join("\n"))))
}

pub(super) fn agent(status: &Status, now: Timestamp, style: Style) -> String {
    let mut fields = Fields::default();
    fields.field("Node", &status.node);
    fields.field("Version", &status.version);
    fields.field("Trust domain", &status.trust_domain);
    fields.field("Uptime", human::duration(status.uptime_seconds));

    let link = &status.controller;
    let since = match link.since {
        Some(since) => format!(" since {since} ({})", human::relative(since, now)),
        None => String::new(),
    };
    let (tone, connected) =
        if link.connected { (Tone::Good, "connected") } else { (Tone::Bad, "not connected") };
    let mut lines = vec![(tone, format!("{}, {connected}{since}", link.address))];
    lines.extend(link.last_error.as_ref().map(|error| (Tone::Warn, format!("last error: {error}"))));
    fields.list("Controller", lines);

    let world = status.world;
    let (tone, complete) = match (world.complete, world.cached_seconds) {
        (true, None) => (Tone::Good, "complete".to_owned()),
        (true, Some(old)) => {
            (Tone::Warn, format!("complete, from this node's disk, {} old", human::duration(old)))
        }
        (false, _) => (Tone::Bad, "not complete: connections of captured pods are refused".to_owned()),
    };
    let holds =
        format!("{}, {}", human::count(world.workloads, "workload"), human::count(world.services, "service"));
    fields.toned("World", tone, format!("{complete}; {holds}"));

    let pods = status.pods;
    let tone = if pods.pending + pods.unknown > 0 { Tone::Warn } else { Tone::Plain };
    fields.toned(
        "Pods",
        tone,
        format!(
            "{} captured, {} pending, {} excluded, {} unknown",
            pods.captured, pods.pending, pods.excluded, pods.unknown
        ),
    );

    let hooks = &status.kernel.hooks;
    let missing: Vec<_> = hooks.iter().filter(|hook| !hook.attached).map(|hook| &hook.name).collect();
    let attached = format!("{} of {} attached", hooks.len() - missing.len(), hooks.len());
    let mut lines = vec![(if missing.is_empty() { Tone::Good } else { Tone::Bad }, attached)];
    if !missing.is_empty() {
        lines.push((Tone::Bad, format!("missing: {}", human::list(missing))));
    }
    fields.list("Hooks", lines);

    let refused = human::counts(&status.kernel.refused);
    fields.field("Refused", if refused.is_empty() { NONE } else { &refused });
    fields.render(style)
}

pub(super) fn controller(status: &ControllerStatus, style: Style) -> String {
    let mut fields = Fields::default();
    fields.field("Version", &status.version);
    fields.field("Trust domain", &status.trust_domain);
    fields.field(
        "World",
        format!(
            "{}, {}",
            human::count(status.workloads, "workload"),
            human::count(status.services, "service")
        ),
    );
    let broken = status.files.iter().filter(|file| file.error.is_some()).count();
    let files = human::count(status.files.len() as u64, "file");
    if broken == 0 {
        fields.toned("Files", Tone::Good, format!("{files}, all good"));
    } else {
        let lines = [(Tone::Bad, format!("{files}, {broken} broken: their last good state is in force"))];
        let errors = status
            .files
            .iter()
            .filter_map(|file| Some((Tone::Bad, format!("{}: {}", file.path, file.error.as_ref()?))));
        fields.list("Files", lines.into_iter().chain(errors));
    }
    let connected = status.agents.iter().filter(|agent| agent.connected).count();
    fields.field("Agents", format!("{connected} of {} connected", status.agents.len()));
    let refused = status.agents.iter().filter_map(|agent| {
        Some((Tone::Bad, format!("{}, its last update: {}", agent.node, agent.refused.as_ref()?)))
    });
    let refused: Vec<_> = refused.collect();
    if !refused.is_empty() {
        fields.list("Refused by", refused);
    }

    let mut table = Table::new(&["NODE", "CONNECTED", "VERSION", "ACKED", "BEHIND"]);
    for agent in &status.agents {
        let (tone, connected) = if agent.connected { (Tone::Good, "yes") } else { (Tone::Bad, "no") };
        table.row([
            agent.node.as_str().into(),
            Cell::toned(tone, connected),
            Cell::option(agent.version.as_ref()),
            Cell::option(agent.acked.as_ref()),
            Cell::toned(if agent.behind == 0 { Tone::Plain } else { Tone::Warn }, agent.behind.to_string()),
        ]);
    }
    let table = table.render(style);
    let gap = if table.is_empty() { "" } else { "\n" };
    format!("{}{gap}{table}", fields.render(style))
}
