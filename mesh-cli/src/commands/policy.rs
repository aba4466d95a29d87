//! `meshctl policy`: who may talk to whom, and whether every node has it.
//!
//! Asked of the cluster where one is named, else of the socket: a controller's, or an agent's, which knows only what is in
//! force on its own node.

use std::time::{Duration, Instant};

use mesh_crd::AuthorizationPolicy;
use mesh_model::TrustDomain;
use mesh_model::policy::{Action, Mode};
use mesh_telemetry::api::{ConditionRow, PolicyRow, path};
use serde_json::Value;

use super::{Answer, Context, Failure, Row};
use crate::args::{PolicyName, PolicyVerb, Scope};
use crate::cluster::Labelled;
use crate::render::fields::Fields;
use crate::render::table::{Cell, Table};
use crate::render::{Style, Tone, human, printable};

mod test;
mod trial;

/// How often it is asked again.
const AGAIN: Duration = Duration::from_millis(100);

pub(super) fn run(context: &Context, verb: &PolicyVerb) -> Result<Answer, Failure> {
    match verb {
        PolicyVerb::List(scope) => list(context, scope),
        PolicyVerb::Show(name) => {
            let found = find(all(context)?, name)?;
            Ok(Answer::yes(context.one(&found.raw, || show(&found.row, context.style))))
        }
        PolicyVerb::Wait(name) => wait(context, name),
        PolicyVerb::Test(asked) => test::test(context, asked),
        PolicyVerb::Dump => test::dump(context),
    }
}

fn list(context: &Context, scope: &Scope) -> Result<Answer, Failure> {
    let mut rows = all(context)?;
    let name = |policy: &PolicyRow| vec![(policy.namespace.clone(), policy.name.clone())];
    let namespace = |policy: &PolicyRow| vec![Some(policy.namespace.clone())];
    context.choose(&mut rows, scope, Labelled::Policies, name, namespace)?;
    Ok(context.list(&rows, "policies", table))
}

/// All policies, in the order of their names.
fn all(context: &Context) -> Result<Vec<Row<PolicyRow>>, Failure> {
    // What agents say differs by how many pods each has: of all of them, the cluster is asked.
    let of_cluster_too = !context.socket_named && context.cluster.is_named();
    let mut rows = if of_cluster_too || context.client.is_many() {
        let policies = context.cluster.open()?.policies()?;
        let rows: Result<Vec<_>, _> = policies.iter().map(of_cluster).collect();
        rows.map_err(|source| Failure::Shape { end: context.client.end(), source })?
    } else {
        context.rows::<PolicyRow>(path::POLICIES)?
    };
    rows.sort_by(|a, b| (&a.row.namespace, &a.row.name).cmp(&(&b.row.namespace, &b.row.name)));
    Ok(rows)
}

/// The same shape, of what the API server has.
fn of_cluster(policy: &AuthorizationPolicy) -> Result<Row<PolicyRow>, serde_json::Error> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let status = policy.status.clone().unwrap_or_default();
    let conditions = status.conditions.iter().map(|condition| ConditionRow {
        kind: condition.type_.clone(),
        status: condition.status == "True",
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        observed_generation: condition.observed_generation,
    });
    // Any trust domain will do where a rule is put in words; that it cannot be read is said by `Accepted`.
    let authored =
        TrustDomain::new("cluster.local").ok().and_then(|domain| policy.authored(&domain, "").ok());
    let rules = authored.iter().flat_map(|authored| &authored.policy.rules).map(ToString::to_string);
    let targets: Result<Vec<String>, _> = policy.spec.target_refs.iter().map(serde_json::to_string).collect();
    let row = PolicyRow {
        namespace: text(&policy.metadata.namespace),
        name: text(&policy.metadata.name),
        action: serde_json::from_value(serde_json::to_value(policy.spec.action)?)?,
        mode: serde_json::from_value(serde_json::to_value(policy.spec.mode)?)?,
        targets: targets?,
        rules: rules.collect(),
        pods: status.targeted_pods.and_then(|pods| u64::try_from(pods).ok()).unwrap_or(0),
        generation: policy.metadata.generation,
        nodes_pending: Vec::new(),
        conditions: conditions.collect(),
    };
    Ok(Row { raw: serde_json::to_value(&row)?, row })
}

fn find(rows: Vec<Row<PolicyRow>>, wanted: &PolicyName) -> Result<Row<PolicyRow>, Failure> {
    let (namespace, name) = match wanted.name.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (wanted.namespace.as_deref(), wanted.name.as_str()),
    };
    let fits =
        |row: &PolicyRow| row.name == name && namespace.is_none_or(|namespace| row.namespace == namespace);
    let near = || {
        let alike = rows.iter().map(|row| format!("{}/{}", row.row.namespace, row.row.name));
        let alike: Vec<String> = alike.filter(|known| human::is_like(known, &wanted.name)).collect();
        if alike.is_empty() { String::new() } else { format!(": is it {}?", alike.join(", ")) }
    };
    let count = rows.iter().filter(|row| fits(&row.row)).count();
    match count {
        0 => Err(Failure::Policy(format!("there is no policy {}{}", wanted.name, near()))),
        1 => rows
            .into_iter()
            .find(|row| fits(&row.row))
            .ok_or_else(|| Failure::Policy(format!("there is no policy {}", wanted.name))),
        _ => {
            let names = rows.iter().filter(|row| fits(&row.row)).map(|row| row.row.namespace.as_str());
            Err(Failure::Policy(format!(
                "there is a policy {name} in several namespaces ({}): say which with --namespace",
                names.collect::<Vec<_>>().join(", ")
            )))
        }
    }
}

fn wait(context: &Context, name: &PolicyName) -> Result<Answer, Failure> {
    let until = Instant::now() + context.timeout;
    loop {
        let found = all(context).and_then(|rows| find(rows, name));
        let last = match found {
            Ok(found) if found.row.conditions.is_empty() && found.row.generation.is_none() => {
                return Err(Failure::Policy(
                    "an agent does not know what other nodes have applied: ask a controller (--controller, or \
                        --socket of one), or name a kubeconfig"
                        .into(),
                ));
            }
            Ok(found) if found.row.is_enforced() => {
                let text = || {
                    let PolicyRow { namespace, name, .. } = &found.row;
                    printable(&format!("policy {namespace}/{name}: {}", enforced(&found.row))) + "\n"
                };
                return Ok(Answer::yes(context.one(&found.raw, text)));
            }
            Ok(found) => Ok(found),
            Err(Failure::Policy(missing)) => Err(missing),
            Err(other) => return Err(other),
        };
        if Instant::now() >= until {
            let within = format!("within {} s", context.timeout.as_secs_f32());
            let (raw, note) = match last {
                Ok(found) => {
                    let PolicyRow { namespace, name, .. } = &found.row;
                    let note = format!(
                        "error: policy {namespace}/{name} is not enforced {within}: {}",
                        enforced(&found.row)
                    );
                    (found.raw, note)
                }
                Err(missing) => (Value::Null, format!("error: {missing} {within}")),
            };
            return Ok(Answer {
                stdout: context.one(&raw, String::new),
                note: printable(&note),
                exit_code: 1,
            });
        }
        std::thread::sleep(AGAIN);
    }
}

fn enforced(row: &PolicyRow) -> String {
    let refused = row.condition("Accepted").filter(|accepted| !accepted.status);
    match (refused, row.condition("Enforced")) {
        (Some(refused), _) => refused.message.clone(),
        (None, Some(enforced)) if enforced.observed_generation == row.generation => enforced.message.clone(),
        (None, _) => "the controller has not looked at it yet".into(),
    }
}

pub(super) fn table(rows: &[Row<PolicyRow>]) -> Table {
    let mut table =
        Table::new(&["NAMESPACE", "NAME", "ACTION", "MODE", "TARGETS", "PODS", "ENFORCED", "NOTE", "RULES"])
            .wide(&["RULES"]);
    for Row { row, .. } in rows {
        let (tone, word) = match (row.condition("Accepted"), row.condition("Enforced")) {
            (Some(accepted), _) if !accepted.status => (Tone::Bad, "refused"),
            (_, Some(enforced)) if enforced.status => (Tone::Good, "yes"),
            (_, Some(_)) => (Tone::Warn, "pending"),
            (_, None) => (Tone::Plain, "here"),
        };
        let note = row.condition("Accepted").filter(|accepted| !accepted.status).or_else(|| {
            row.condition("Enforced").filter(|enforced| !enforced.status).or_else(|| row.condition("Warning"))
        });
        table.row([
            row.namespace.as_str().into(),
            row.name.as_str().into(),
            row.action.as_str().into(),
            Cell::toned(if row.mode == Mode::Audit { Tone::Warn } else { Tone::Plain }, row.mode.as_str()),
            row.targets.join("; ").into(),
            row.pods.to_string().into(),
            Cell::toned(tone, word),
            Cell::option(note.map(|note| &note.message)),
            row.rules.join("; ").into(),
        ]);
    }
    table
}

pub(super) fn show(row: &PolicyRow, style: Style) -> String {
    let mut fields = Fields::default();
    fields.field("Policy", format!("{}/{}", row.namespace, row.name));
    fields.field("Action", row.action.as_str());
    fields.field("Mode", row.mode.as_str());
    fields.list("Targets", row.targets.iter().map(|target| (Tone::Plain, target.clone())));
    fields.field("Pods", row.pods.to_string());
    let none = match row.action {
        Action::Allow => "none: nothing is admitted by it",
        Action::Deny => "none: nothing is refused by it",
    };
    match row.rules.is_empty() {
        true => fields.toned("Rules", Tone::Warn, none),
        false => fields.list(
            "Rules",
            row.rules.iter().enumerate().map(|(at, rule)| (Tone::Plain, format!("{at}: {rule}"))),
        ),
    }
    for condition in &row.conditions {
        let good = condition.status && condition.kind != "Warning";
        let tone = if good { Tone::Good } else { Tone::Warn };
        let word = if condition.status { "True" } else { "False" };
        let text = format!("{word} ({}): {}", condition.reason, condition.message);
        let name = match condition.kind.as_str() {
            "Accepted" => "Accepted",
            "Enforced" => "Enforced",
            "Warning" => "Warning",
            _ => "Condition",
        };
        fields.toned(name, tone, text);
    }
    fields.render(style)
}
