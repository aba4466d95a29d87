//! What is to be said of one panel.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Wrong, filled, is_prometheus, sentence};

const KINDS: [&str; 11] = [
    "bargauge",
    "gauge",
    "heatmap",
    "histogram",
    "logs",
    "piechart",
    "row",
    "stat",
    "state-timeline",
    "table",
    "timeseries",
];
/// Units of Grafana that make sense here. Another one is shown as plain text behind the number.
const UNITS: [&str; 27] = [
    "bits",
    "bool",
    "bps",
    "bytes",
    "Bps",
    "cpm",
    "cps",
    "d",
    "dateTimeAsIso",
    "dateTimeFromNow",
    "decbytes",
    "dtdurations",
    "h",
    "hertz",
    "locale",
    "m",
    "ms",
    "none",
    "ns",
    "ops",
    "percent",
    "percentunit",
    "pps",
    "reqps",
    "s",
    "short",
    "µs",
];
const CALCULATIONS: [&str; 9] =
    ["count", "first", "firstNotNull", "last", "lastNotNull", "max", "mean", "min", "sum"];
const TRANSFORMATIONS: [&str; 9] = [
    "calculateField",
    "filterFieldsByName",
    "groupBy",
    "joinByField",
    "limit",
    "merge",
    "organize",
    "sortBy",
    "seriesToColumns",
];
const MATCHERS: [&str; 5] = ["byFrameRefID", "byName", "byRegexp", "byType", "byValue"];
const STACKING: [&str; 3] = ["none", "normal", "percent"];

pub(super) fn check(panel: &Value, wrong: &mut Wrong) {
    let kind = panel["type"].as_str().unwrap_or_default();
    wrong.unless(KINDS.contains(&kind), "Grafana has no such panel");
    wrong.unless(filled(&panel["title"]), "it has no title");
    if kind == "row" {
        wrong.unless(
            panel["collapsed"].is_boolean() && panel["panels"].is_array(),
            "a row has collapsed and panels",
        );
        return;
    }
    wrong.unless(sentence(&panel["description"]), "its description is no sentence");
    wrong.unless(is_prometheus(&panel["datasource"]), "its data source is not ${datasource}");
    wrong.unless(panel["options"].is_object(), "it has no options");
    targets(panel, kind, wrong);
    fields(&panel["fieldConfig"], wrong);
    options(&panel["options"], kind, wrong);
    for step in panel["transformations"].as_array().into_iter().flatten() {
        let known = step["id"].as_str().is_some_and(|id| TRANSFORMATIONS.contains(&id));
        wrong.unless(known && step["options"].is_object(), "Grafana has no such transformation");
    }
}

fn targets(panel: &Value, kind: &str, wrong: &mut Wrong) {
    let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    wrong.unless(!targets.is_empty(), "it asks nothing");
    let mut references = BTreeSet::new();
    for target in targets {
        let reference = target["refId"].as_str().unwrap_or_default();
        wrong.unless(!reference.is_empty() && references.insert(reference), "refId is not its own");
        wrong.unless(filled(&target["expr"]), "a query without an expression");
        wrong.unless(is_prometheus(&target["datasource"]), "a query's data source is not ${datasource}");
        wrong.unless(
            target["range"].is_boolean()
                && target["instant"].is_boolean()
                && target["range"] != target["instant"],
            "a query is either instant or a range",
        );
        let table = target["format"] == "table";
        wrong.unless(table == (kind == "table"), "tables ask for tables, others for time series");
        wrong.unless(table || filled(&target["legendFormat"]), "a query without a legend");
        legend(target, wrong);
    }
}

/// A legend prints labels that the expression keeps.
fn legend(target: &Value, wrong: &mut Wrong) {
    let text = target["legendFormat"].as_str().unwrap_or_default();
    let expression = target["expr"].as_str().unwrap_or_default();
    let grouping = crate::promql::mentions(expression).grouping;
    let aggregates = ["sum", "max", "min", "count", "avg"]
        .iter()
        .any(|name| expression.contains(&format!("{name} by (")) || expression.contains(&format!("{name}(")));
    for (at, _) in text.match_indices("{{") {
        let label = text[at + 2..].split("}}").next().unwrap_or_default().trim();
        wrong.unless(
            !aggregates || grouping.contains(label),
            &format!("its legend prints {label}, which the query does not keep"),
        );
    }
}

fn fields(config: &Value, wrong: &mut Wrong) {
    let defaults = &config["defaults"];
    wrong.unless(config["overrides"].is_array(), "fieldConfig has no overrides");
    wrong.unless(
        defaults["unit"].as_str().is_some_and(|unit| UNITS.contains(&unit)),
        "its unit is none of Grafana's, or missing",
    );
    wrong.unless(filled(&defaults["color"]["mode"]), "it has no colour mode");
    let steps = defaults["thresholds"]["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mode = &defaults["thresholds"]["mode"];
    wrong.unless(mode == "absolute" || mode == "percentage", "thresholds are absolute or percentage");
    wrong.unless(
        steps.first().is_some_and(|first| first["value"].is_null()),
        "the first threshold is the ground: null",
    );
    let values: Vec<f64> = steps.iter().skip(1).filter_map(|step| step["value"].as_f64()).collect();
    wrong.unless(
        values.len() + 1 == steps.len().max(1) && values.is_sorted(),
        "thresholds are numbers that rise",
    );
    wrong.unless(steps.iter().all(|step| filled(&step["color"])), "a threshold without a colour");
    let stacking = &defaults["custom"]["stacking"]["mode"];
    wrong.unless(
        stacking.is_null() || stacking.as_str().is_some_and(|mode| STACKING.contains(&mode)),
        "Grafana has no such stacking",
    );
    for limit in ["min", "max", "decimals"] {
        wrong.unless(defaults.get(limit).is_none_or(Value::is_number), "min, max and decimals are numbers");
    }
    for change in config["overrides"].as_array().into_iter().flatten() {
        let known = change["matcher"]["id"].as_str().is_some_and(|id| MATCHERS.contains(&id));
        let properties = change["properties"].as_array().map(Vec::as_slice).unwrap_or_default();
        let whole =
            properties.iter().all(|property| filled(&property["id"]) && property.get("value").is_some());
        wrong.unless(known && !properties.is_empty() && whole, "an override that changes nothing");
        for unit in properties.iter().filter(|property| property["id"] == "unit") {
            wrong.unless(
                unit["value"].as_str().is_some_and(|unit| UNITS.contains(&unit)),
                "the unit of an override is none of Grafana's",
            );
        }
    }
}

fn options(options: &Value, kind: &str, wrong: &mut Wrong) {
    let known = |list: &Value| {
        let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
        !all.is_empty() && all.iter().all(|one| one.as_str().is_some_and(|one| CALCULATIONS.contains(&one)))
    };
    match kind {
        "timeseries" => {
            let legend = &options["legend"];
            let mode = &legend["displayMode"];
            wrong.unless(
                legend["showLegend"] == true && (mode == "list" || mode == "table"),
                "it has no legend",
            );
            wrong.unless(known(&legend["calcs"]), "its legend has no values that Grafana knows");
            let tooltip = &options["tooltip"]["mode"];
            wrong
                .unless(tooltip == "single" || tooltip == "multi", "its tooltip is neither single nor multi");
        }
        "stat" | "gauge" | "bargauge" => {
            wrong.unless(
                known(&options["reduceOptions"]["calcs"]),
                "reduceOptions has no value that Grafana knows",
            );
        }
        "table" => {
            wrong.unless(options["showHeader"] == true, "a table without a header");
            let fields = &options["footer"]["fields"];
            wrong.unless(fields.is_null() || fields.is_array(), "a footer's fields are a list");
        }
        _ => {}
    }
}
