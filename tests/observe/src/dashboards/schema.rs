//! What Grafana (10 and later, classic schema 39) would complain of in a dashboard, drop or show wrongly, and what a
//! reader would miss. In our words: Grafana publishes its schema as CUE and TypeScript, and loads what breaks it anyway.
//!
//! Invariant: every complaint names the panel or variable and what is wrong with it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Dashboard, variables_in};

mod panel;

/// Fields of a dashboard. Another one is a slip of the pen: Grafana drops it silently.
const FIELDS: [&str; 20] = [
    "annotations",
    "description",
    "editable",
    "fiscalYearStartMonth",
    "graphTooltip",
    "id",
    "links",
    "liveNow",
    "panels",
    "refresh",
    "schemaVersion",
    "tags",
    "templating",
    "time",
    "timepicker",
    "timezone",
    "title",
    "uid",
    "version",
    "weekStart",
];
const VARIABLE_KINDS: [&str; 7] =
    ["adhoc", "constant", "custom", "datasource", "interval", "query", "textbox"];
/// Grafana's own variables begin so.
const BUILT_IN: [&str; 2] = ["__", "datasource"];
/// The oldest schema of Grafana 10 and 11.
const SCHEMA: u64 = 39;

/// All complaints about a dashboard. `others` are those that it may link to, itself included.
pub fn complaints(dashboard: &Dashboard, others: &[Dashboard]) -> Vec<String> {
    let mut wrong = Wrong::default();
    root(dashboard, &mut wrong);
    variables(dashboard, &mut wrong);
    let mut ids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for panel in dashboard.panels() {
        let title = panel["title"].as_str().unwrap_or("(no title)");
        wrong.about(&format!("panel {title:?}"));
        wrong.unless(
            panel["id"].as_u64().is_some_and(|id| id > 0 && ids.insert(id)),
            "its id is no number of its own",
        );
        wrong.unless(titles.insert(title), "another panel has the same title");
        panel::check(panel, &mut wrong);
    }
    grid(&dashboard.panels(), &mut wrong);
    uses(dashboard, others, &mut wrong);
    wrong.found
}

/// Complaints, each with what it is about.
#[derive(Debug, Default)]
pub(crate) struct Wrong {
    subject: String,
    found: Vec<String>,
}

impl Wrong {
    fn about(&mut self, subject: &str) {
        subject.clone_into(&mut self.subject);
    }

    fn unless(&mut self, good: bool, complaint: &str) {
        if !good {
            self.found.push(format!("{}: {complaint}", self.subject));
        }
    }
}

fn filled(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

/// A whole sentence.
fn sentence(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() > 10 && text.ends_with('.'))
}

/// The variable that names the data source, and its kind.
fn is_prometheus(reference: &Value) -> bool {
    reference["type"] == "prometheus" && reference["uid"] == "${datasource}"
}

fn root(dashboard: &Dashboard, wrong: &mut Wrong) {
    let json = &dashboard.json;
    wrong.about("the dashboard");
    for key in json.as_object().into_iter().flat_map(|fields| fields.keys()) {
        wrong.unless(FIELDS.contains(&key.as_str()), &format!("Grafana knows no field {key}"));
    }
    let uid = json["uid"].as_str().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    wrong.unless(
        uid == format!("weft-{}", dashboard.name) && uid.len() <= 40 && uid.chars().all(plain),
        "its uid is not weft-NAME",
    );
    wrong.unless(filled(&json["title"]), "it has no title");
    wrong.unless(sentence(&json["description"]), "its description is no sentence");
    wrong.unless(json["id"].is_null(), "an id belongs to one Grafana and is null in a file");
    wrong.unless(
        json["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == "weft")),
        "it is not tagged weft, by which the others link to it",
    );
    wrong.unless(
        json["schemaVersion"].as_u64().is_some_and(|version| version >= SCHEMA),
        "its schema is older than Grafana 10",
    );
    wrong.unless(json["version"].is_u64(), "it has no version");
    wrong.unless(json["editable"].is_boolean(), "editable is neither true nor false");
    wrong.unless(json["graphTooltip"].as_u64().is_some_and(|mode| mode <= 2), "graphTooltip is 0, 1 or 2");
    wrong.unless(filled(&json["time"]["from"]) && filled(&json["time"]["to"]), "it has no time range");
    wrong.unless(json["refresh"].as_str().is_some_and(is_duration), "refresh is no duration");
    wrong.unless(json["annotations"]["list"].is_array(), "it has no list of annotations");
    for link in json["links"].as_array().into_iter().flatten() {
        let known = link["type"] == "dashboards" || link["type"] == "link";
        let flags = ["asDropdown", "includeVars", "keepTime", "targetBlank"]
            .iter()
            .all(|flag| link[*flag].is_boolean());
        let leads = if link["type"] == "link" { filled(&link["url"]) } else { link["tags"].is_array() };
        wrong.unless(known && flags && leads && filled(&link["title"]), "a link lacks a field");
    }
    wrong.unless(
        json["links"].as_array().is_some_and(|links| !links.is_empty()),
        "it links to no other dashboard",
    );
    wrong.unless(
        dashboard.text == canonical(json),
        "the file is not as serde_json would print it: two spaces, sorted keys, a last line feed",
    );
}

/// One text for one content, so that changes are what a diff shows.
fn canonical(json: &Value) -> String {
    format!("{json:#}\n")
}

/// `30s`, `5m`.
pub(crate) fn is_duration(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    digits.parse::<u32>().is_ok() && ["ms", "s", "m", "h", "d", "w"].contains(&unit)
}

fn variables(dashboard: &Dashboard, wrong: &mut Wrong) {
    let mut names = BTreeSet::new();
    let all = dashboard.variables();
    wrong.about("variables");
    wrong.unless(
        all.first().is_some_and(|first| {
            first["name"] == "datasource" && first["type"] == "datasource" && first["query"] == "prometheus"
        }),
        "the first is not the data source",
    );
    for variable in all {
        let name = variable["name"].as_str().unwrap_or_default();
        wrong.about(&format!("variable {name:?}"));
        wrong.unless(!name.is_empty() && names.insert(name.to_owned()), "its name is not its own");
        wrong.unless(
            variable["type"].as_str().is_some_and(|kind| VARIABLE_KINDS.contains(&kind)),
            "Grafana has no such type",
        );
        wrong.unless(
            filled(&variable["label"]) && filled(&variable["description"]),
            "it has no label or no description",
        );
        wrong.unless(variable["hide"].as_u64().is_some_and(|hide| hide <= 2), "hide is 0, 1 or 2");
        wrong.unless(
            variable["multi"].is_boolean() && variable["includeAll"].is_boolean(),
            "multi and includeAll are true or false",
        );
        let current = &variable["current"];
        let chosen = current.get("text").is_some() && current.get("value").is_some();
        wrong.unless(current.is_null() || chosen, "what is chosen has a text and a value, or is left out");
        if variable["type"] == "query" {
            wrong.unless(is_prometheus(&variable["datasource"]), "its data source is not ${datasource}");
            wrong.unless(
                filled(&variable["query"]["query"]) && variable["query"]["query"] == variable["definition"],
                "its query is not its definition",
            );
            wrong.unless(
                variable["refresh"].as_u64().is_some_and(|when| (1..=2).contains(&when)),
                "it is never refreshed",
            );
            wrong.unless(
                variable["multi"] == variable["includeAll"]
                    && (variable["multi"] == false || filled(&variable["allValue"])),
                "several of it, but not all of it",
            );
        }
    }
}

/// Column, line, width and height.
type Place = (u64, u64, u64, u64);

/// Panels fill a grid of 24 columns, and no two of them one place.
fn grid(panels: &[&Value], wrong: &mut Wrong) {
    let place = |panel: &Value| -> Option<Place> {
        let part = |name: &str| panel["gridPos"][name].as_u64();
        Some((part("x")?, part("y")?, part("w")?, part("h")?))
    };
    let mut placed: Vec<(&str, Place)> = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        wrong.about(&format!("panel {title:?}"));
        let Some(own @ (x, y, w, h)) = place(panel) else {
            wrong.unless(false, "gridPos lacks a number");
            continue;
        };
        wrong.unless(w > 0 && h > 0 && x + w <= 24, "it is not within the 24 columns");
        wrong.unless(panel["type"] != "row" || (x, w, h) == (0, 24, 1), "a row is one line over all columns");
        for (other, (ox, oy, ow, oh)) in &placed {
            let apart = x >= ox + ow || *ox >= x + w || y >= oy + oh || *oy >= y + h;
            wrong.unless(apart, &format!("it lies over {other:?}"));
        }
        placed.push((title, own));
    }
}

/// Variables that are used are there; dashboards that are linked to are, too, with the variables that the link sets.
fn uses(dashboard: &Dashboard, others: &[Dashboard], wrong: &mut Wrong) {
    let names = |dashboard: &Dashboard| -> BTreeSet<String> {
        let all = dashboard.variables().into_iter();
        all.filter_map(|variable| variable["name"].as_str().map(str::to_owned)).collect()
    };
    let own = names(dashboard);
    let built_in = |name: &str| BUILT_IN.iter().any(|begin| name.starts_with(begin));
    for query in dashboard.queries().into_iter().chain(dashboard.variable_queries()) {
        wrong.about(&format!("{:?} {}", query.panel, query.reference));
        for name in variables_in(&query.expression) {
            wrong.unless(own.contains(&name) || built_in(&name), &format!("there is no variable ${name}"));
        }
        let fixed = query.expression.contains("[") && !query.expression.contains("[$__");
        wrong.unless(
            !fixed || query.expression.contains("increase("),
            "a rate over a fixed time: use $__rate_interval",
        );
    }
    for panel in dashboard.panels() {
        wrong.about(&format!("panel {:?}", panel["title"].as_str().unwrap_or_default()));
        for url in urls(&panel["fieldConfig"]) {
            let target = url.strip_prefix("/d/").and_then(|rest| rest.split(['?', '/']).next());
            let target = others.iter().find(|other| target.is_some_and(|uid| other.json["uid"] == uid));
            let Some(target) = target else {
                wrong.unless(false, &format!("it links to no dashboard of ours: {url}"));
                continue;
            };
            let known = names(target);
            let set = url.split(['?', '&']).filter_map(|part| part.strip_prefix("var-")?.split('=').next());
            for name in set {
                wrong.unless(known.contains(name), &format!("{} has no variable {name}", target.name));
            }
        }
    }
}

/// Every `url` of the links below.
fn urls(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match value.as_str() {
                Some(url) if key == "url" => vec![url.to_owned()],
                _ => urls(value),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(urls).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
