//! Every query of every dashboard is run against a real Prometheus that has scraped a mesh at work.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::row::Table;
use lab::{Lab, eventually};
use observe::dashboards::{self, Variables, live};
use observe::stage::{Stage, talk};

/// Rates look at four scrapes and more; recorded ones come one evaluation later.
const SEEN: Duration = Duration::from_secs(60);
/// A port that nobody listens at.
const NOBODY: u16 = 9;
/// What exists in Kubernetes alone, or when something is wrong with a node: `tests/dashboards.rs` asks for it where it is made up.
const NOT_HERE: [&str; 9] = [
    "weft_controller_unauthenticated_total",
    "weft_controller_sign_refusals_total",
    "weft_controller_objects",
    "weft_controller_watch_restarts_total",
    "weft_controller_api_errors_total",
    "weft_controller_events_total",
    "weft_pods_not_captured",
    "weft_repairs_total",
    "weft_root_expiry_timestamp_seconds",
];

#[test]
fn every_query_of_every_dashboard_returns_data() {
    const NAME: &str = "every_query_of_every_dashboard_returns_data";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        let stage = Stage::set(lab)?;
        deny(lab)?;
        let prometheus = stage.prometheus()?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            scope.spawn(|| {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    for way in stage.ways() {
                        let _one_of_them_may_fail = talk(&way.from, &way.to, 2);
                    }
                    // A caller that is refused, and one that nobody listens to.
                    let _refused = talk(&stage.far, &stage.near, 1);
                    let _refused =
                        stage.outside.connect((stage.near.v4(), NOBODY).into(), Duration::from_secs(1));
                    let _two_ways = [&stage.far, &stage.outside].map(|to| talk(&stage.near, to, 1));
                    let _refused =
                        stage.near.connect((stage.outside.v4(), NOBODY).into(), Duration::from_secs(1));
                    // New pods are new tunnels.
                    if round % 10 == 0 {
                        let _guest = guest(&stage, round);
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
            let variables = Variables::default().with("namespace", "shop").with("workload", "near");
            for dashboard in dashboards::load()? {
                let (here, not_here): (Vec<_>, Vec<_>) = [dashboard.queries(), dashboard.variable_queries()]
                    .concat()
                    .into_iter()
                    .partition(|query| !NOT_HERE.iter().any(|name| query.expression.contains(name)));
                table.row(&dashboard.name, || {
                    eventually(SEEN, || {
                        let report = live::run(&prometheus, &here, &variables)
                            .map_err(|error| format!("{error:#}"))?;
                        if report.is_whole() { Ok(()) } else { Err(report.to_string()) }
                    })?;
                    Ok(format!("{} queries with data, {} of what is not here", here.len(), not_here.len()))
                });
            }
            stop.store(true, Ordering::Relaxed);
            Ok(())
        })?;
        table.row("the rules have been evaluated, and no alert of a mesh that is well is firing", || {
            let (good, bad) = prometheus.rules()?;
            ensure!(bad.is_empty() && !good.is_empty(), "{bad:?}");
            let firing = prometheus.query("ALERTS{alertstate=\"firing\"}")?;
            ensure!(firing.is_empty(), "{firing:?}");
            Ok(format!("{} rules", good.len()))
        });
        table.finish();
        Ok(())
    });
}

/// A pod that comes, dials the other node once, and goes.
fn guest(stage: &Stage<'_>, round: u32) -> Result<()> {
    let guest = stage.lab.pod(&format!("shop/guest-{round}")).node("a").service_account("guest").start()?;
    stage.lab.await_captured(&guest)?;
    talk(&guest, &stage.far, 1)?;
    guest.delete()
}

/// One policy that refuses, and one that would.
fn deny(lab: &Lab) -> Result<()> {
    for (name, more) in [("no-far", ""), ("no-client", ", mode: Audit")] {
        let account = name.trim_start_matches("no-");
        lab.write_object(
            &format!("policy-{name}.yaml"),
            &format!(
                "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop, generation: 1}}\n\
                 spec: {{targetRefs: [{{kind: Namespace}}], action: DENY, rules: [{{sources: [{{serviceAccount: {{name: {account}}}}}]}}]{more}}}\n"
            ),
        )?;
    }
    Ok(())
}
