//! Dashboards and rules by themselves: what Grafana and Prometheus think of them, whether what they ask for exists, and
//! whether every query can return data. No lab: what is scraped is made up (`observe::synthetic`).
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::row::Table;
use observe::dashboards::{self, Query, Variables, live, schema};
use observe::exposition::Exposition;
use observe::names::{self, Names};
use observe::prometheus::{Config, Prometheus, Target};
use observe::rules::{self, Rule};
use observe::synthetic::{self, End};
use observe::{missing, promql, promtool};

/// Panels, and what their variables ask.
fn every_query() -> Vec<Query> {
    let all = dashboards::load().unwrap();
    all.iter().flat_map(|dashboard| [dashboard.queries(), dashboard.variable_queries()].concat()).collect()
}

fn every_rule() -> Vec<Rule> {
    rules::files().unwrap().iter().flat_map(|file| rules::load(file).unwrap()).collect()
}

fn none(complaints: Vec<String>) -> Result<String> {
    ensure!(complaints.is_empty(), "{}", complaints.join("\n    "));
    Ok(String::new())
}

/// Two agents and a controller that are made up, scraped and evaluated every second.
struct Mesh {
    // Dropped in this order: the scraper before what it scrapes.
    prometheus: Prometheus,
    _ends: Vec<Exposition>,
}

impl Mesh {
    fn start() -> Result<Self> {
        let started = Instant::now();
        let (mut ends, mut targets) = (Vec::new(), Vec::new());
        for (job, instance, end) in [
            ("weft-agent", "node-a", End::Agent),
            ("weft-agent", "node-b", End::Agent),
            ("weft-controller", "controller-0", End::Controller),
        ] {
            let served = Exposition::serve(move || synthetic::exposition(end, started.elapsed()))?;
            targets.push(Target { job: job.into(), instance: instance.into(), address: served.address() });
            ends.push(served);
        }
        let config = Config { targets, rules: rules::files()?, ..Config::default() };
        let prometheus = Prometheus::start(&config)?;
        prometheus.await_up(Duration::from_secs(30))?;
        Ok(Self { prometheus, _ends: ends })
    }
}

#[test]
fn grafana_has_nothing_to_complain_of() {
    let mut table = Table::new("grafana_has_nothing_to_complain_of");
    let all = dashboards::load().unwrap();
    let found: Vec<&str> = all.iter().map(|dashboard| dashboard.name.as_str()).collect();
    assert_eq!(found, ["agents", "control-plane", "mesh", "namespace", "workload"]);
    for dashboard in &all {
        table.row(&dashboard.name, || {
            none(schema::complaints(dashboard, &all))?;
            Ok(format!("{} panels, {} queries", dashboard.panels().len(), dashboard.queries().len()))
        });
    }
    table.finish();
}

#[test]
fn what_is_asked_for_exists() {
    let known = Names::known().unwrap();
    let mut table = Table::new("what_is_asked_for_exists");
    for dashboard in dashboards::load().unwrap() {
        table.row(&dashboard.name, || {
            let queries = [dashboard.queries(), dashboard.variable_queries()].concat();
            let wrong = queries.iter().flat_map(|query| {
                let complaints = known.complaints(&query.expression).into_iter();
                complaints.map(move |complaint| format!("{:?}: {complaint}", query.panel))
            });
            none(wrong.collect())
        });
    }
    for file in rules::files().unwrap() {
        table.row(&file.file_name().unwrap().to_string_lossy(), || {
            let rules = rules::load(&file)?;
            let wrong = rules.iter().flat_map(|rule| {
                let complaints = known.complaints(rule.expression()).into_iter();
                complaints.map(move |complaint| format!("{}: {complaint}", rule.name()))
            });
            none(wrong.collect())
        });
    }
    table.finish();
}

#[test]
fn every_metric_is_on_a_dashboard_or_in_a_rule_and_documented() {
    let expressions = every_query().into_iter().map(|query| query.expression);
    let expressions = expressions.chain(every_rule().into_iter().map(|rule| rule.expression().to_owned()));
    let mentioned: BTreeSet<String> = expressions
        .flat_map(|expression| promql::mentions(&expression).selectors)
        .map(|selector| selector.metric)
        .collect();
    let mentioned = |name: &str| {
        ["", "_bucket", "_sum", "_count"].iter().any(|end| mentioned.contains(&format!("{name}{end}")))
    };
    let documented = names::documented().unwrap();
    let mut table = Table::new("every_metric_is_on_a_dashboard_or_in_a_rule_and_documented");
    for family in synthetic::FAMILIES {
        table.row(family.name, || {
            ensure!(mentioned(family.name), "it is on no dashboard and in no rule");
            let process = family.name.starts_with("process_");
            ensure!(process || documented.contains(family.name), "docs/metrics.md does not have it");
            Ok(String::new())
        });
    }
    let made_up = |name: &str| {
        let names = synthetic::FAMILIES
            .iter()
            .flat_map(|family| synthetic::series_names(family).into_iter().chain([family.name.to_owned()]));
        names.into_iter().any(|known| known == name)
    };
    table.row("and what is documented is made up too", || {
        none(documented.iter().filter(|name| !made_up(name)).cloned().collect())
    });
    table.finish();
}

#[test]
fn promtool_has_nothing_to_complain_of() {
    let test = "promtool_has_nothing_to_complain_of";
    if let Some(why) = missing(&["promtool"]) {
        return lab::row::skip(test, "all", &why);
    }
    let mut table = Table::new(test);
    for file in rules::files().unwrap() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        table.row(&name, || {
            let said = promtool::check_rules(std::slice::from_ref(&file))?;
            Ok(said.lines().last().unwrap_or_default().trim().to_owned())
        });
    }
    for file in rules::test_files().unwrap() {
        let name = format!("tests/{}", file.file_name().unwrap().to_string_lossy());
        table.row(&name, || promtool::test_rules(&file).map(|_| String::new()));
    }
    for (name, end) in [("an agent's metrics", End::Agent), ("the controller's metrics", End::Controller)] {
        let text = synthetic::exposition(end, Duration::from_secs(60));
        table.row(name, || promtool::check_metrics(&text));
    }
    table.finish();
}

#[test]
fn every_rule_has_tests_and_every_alert_a_runbook() {
    let tested = rules::tested().unwrap();
    let runbooks = fs::read_to_string(observe::workspace().join("docs/runbooks.md")).unwrap();
    let mut table = Table::new("every_rule_has_tests_and_every_alert_a_runbook");
    let mut alerts = BTreeSet::new();
    for rule in every_rule() {
        table.row(rule.name(), || match &rule {
            Rule::Record { name, .. } => {
                ensure!(tested.records.contains(name), "no test asks for it");
                Ok(String::new())
            }
            Rule::Alert { name, severity, annotations, .. } => {
                ensure!(alerts.insert(name.clone()), "there are two of it");
                ensure!(["critical", "warning", "info"].contains(&severity.as_str()), "severity {severity}");
                let labels = tested.fires.get(name).context("no test lets it fire")?;
                ensure!(tested.quiet.contains(name), "no test has it not fire");
                for key in ["summary", "description", "runbook", "runbook_url"] {
                    let text = annotations.get(key).with_context(|| format!("no {key}"))?;
                    let unknown =
                        rules::labels_in_template(text).into_iter().find(|label| !labels.contains(label));
                    ensure!(unknown.is_none(), "{key} prints {unknown:?}, which it does not fire with");
                }
                let section = section(&runbooks, name).context("docs/runbooks.md has no section for it")?;
                ensure!(
                    section.contains(&annotations["runbook"]),
                    "docs/runbooks.md says something else first"
                );
                ensure!(section.contains(&format!("`{severity}`")), "docs/runbooks.md has another severity");
                let anchor = format!("docs/runbooks.md#{}", name.to_lowercase());
                ensure!(annotations["runbook_url"] == anchor, "runbook_url is not {anchor}");
                Ok(String::new())
            }
        });
    }
    table.row("no runbook without an alert", || {
        let headings = runbooks.lines().filter_map(|line| line.strip_prefix("### "));
        none(headings.filter(|name| !alerts.contains(*name)).map(str::to_owned).collect())
    });
    table.finish();
}

/// What is below a heading of the third level.
fn section<'a>(document: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("\n### {heading}\n"))?;
    Some(rest.split("\n#").next().unwrap_or(rest))
}

#[test]
fn the_chart_carries_the_same_dashboards_and_rules() {
    let root = observe::workspace();
    let mut table = Table::new("the_chart_carries_the_same_dashboards_and_rules");
    for (kind, extension) in [("dashboards", "json"), ("rules", "yaml")] {
        for entry in fs::read_dir(root.join("deploy").join(kind)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|found| found != extension) {
                continue;
            }
            let name = path.file_name().unwrap();
            table.row(&format!("{kind}/{}", name.to_string_lossy()), || {
                let copy = root.join("deploy/charts/mesh").join(kind).join(name);
                ensure!(fs::read(&path)? == fs::read(&copy)?, "the copy differs: run `cargo xtask gen`");
                Ok(String::new())
            });
        }
    }
    table.finish();
}

#[test]
fn every_query_and_every_rule_has_data_where_there_is_a_mesh() {
    let test = "every_query_and_every_rule_has_data_where_there_is_a_mesh";
    if let Some(why) = missing(&["prometheus"]) {
        return lab::row::skip(test, "all", &why);
    }
    let mesh = Mesh::start().unwrap();
    let prometheus = &mesh.prometheus;
    let variables = Variables::default().with("namespace", "shop").with("workload", "web");
    let mut table = Table::new(test);
    for dashboard in dashboards::load().unwrap() {
        let queries = [dashboard.queries(), dashboard.variable_queries()].concat();
        table.row(&dashboard.name, || {
            for query in &queries {
                prometheus.parse(&variables.put_into(&query.expression)?)?;
            }
            lab::eventually(Duration::from_secs(60), || match live::run(prometheus, &queries, &variables) {
                Ok(report) if report.is_whole() => Ok(report.to_string()),
                Ok(report) => Err(report.to_string()),
                Err(error) => Err(format!("{error:#}")),
            })
        });
    }
    table.row("rules are evaluated without an error", || {
        let count = every_rule().len();
        lab::eventually(Duration::from_secs(60), || match prometheus.rules() {
            Ok((good, bad)) if good.len() == count && bad.is_empty() => Ok(format!("{count} rules")),
            Ok((good, bad)) => Err(format!("{} of {count} evaluated; {bad:?}", good.len())),
            Err(error) => Err(format!("{error:#}")),
        })
    });
    for rule in every_rule() {
        let Rule::Record { name, .. } = &rule else { continue };
        table.row(name, || {
            lab::eventually(Duration::from_secs(60), || match prometheus.query(name) {
                Ok(samples) if samples.iter().any(|sample| !sample.value.is_nan()) => {
                    Ok(format!("{} series", samples.len()))
                }
                Ok(_) => Err("no data".into()),
                Err(error) => Err(format!("{error:#}")),
            })
        });
    }
    table.row("a query that is wrong is refused", || match prometheus.parse("sum(") {
        Err(error) if format!("{error:#}").contains("parse") => Ok(String::new()),
        other => bail!("{other:?}"),
    });
    table.finish();
}
