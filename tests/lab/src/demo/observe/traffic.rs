//! Traffic that goes on: who calls whom, in what way, and how often. The programs are unmodified and told nothing.
//!
//! ```text
//! shop/frontend ─┬─ mutual TLS ─────▶ shop/web, and its canary that crashes again and again
//!                ├─ mutual TLS ─────▶ shop/db
//!                ├─ in the kernel ──▶ shop/cart, on its own node
//!                └─ leaves the mesh ▶ legacy/files
//! shop/mobile ───┬─ mutual TLS ─────▶ shop/web, over IPv6
//!                └─ refused ────────▶ shop/db, by its Service and by its pod's address
//! legacy/batch ──── plain text ─────▶ shop/web
//! ```
//!
//! Each caller is a shell's loop around a program in the pod, so that it goes on when the demo has ended and is to stay,
//! and ends with the pod. Not here: whether it is seen.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::cast::{self, CART_PORT, Cast, DB_PORT, HOLD, ORDERS};
use super::super::samples::Services;
use crate::eventually;
use crate::lab::Lab;
use crate::pod::Pod;
use crate::process::Process;
use crate::programs::nginx;

#[cfg(test)]
mod tests;

/// `NAMESPACE/NAME` of the pod that fails.
pub(super) const CANARY: &str = "shop/web-canary";
/// `NAMESPACE/NAME` of the policy that refuses.
pub(super) const POLICY: &str = "shop/db";
/// Seconds that the canary serves before it is gone, and that it is gone.
const CANARY_UP: &str = "5";
const CANARY_DOWN: &str = "5";
const PATIENCE: Duration = Duration::from_secs(20);

/// Only the frontend may ask the database.
const POLICY_FILE: (&str, &str) = (
    "policy-db.yaml",
    "apiVersion: weft.dev/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: db
  namespace: shop
spec:
  targetRefs:
    - kind: Pod
      selector:
        matchLabels: {app: db}
  action: ALLOW
  rules:
    - sources:
        - serviceAccount: {name: frontend}
",
);

/// A caller.
#[derive(Debug)]
struct Call {
    from: &'static str,
    /// What it runs, again and again.
    program: String,
    /// Seconds between two.
    pause: &'static str,
}

/// Traffic that goes on as long as this lives, or for good if it is forgotten.
#[derive(Debug)]
pub(super) struct Traffic {
    _processes: Vec<Process>,
}

/// Puts the policy in force.
pub(super) fn publish_policy(lab: &Lab) -> Result<()> {
    let (file, text) = POLICY_FILE;
    lab.write_object(file, text)?;
    eventually(PATIENCE, || {
        let rows = lab.controller().admin("/v1/policies").map_err(|error| format!("{error:#}"))?;
        let enforced = |row: &&serde_json::Value| {
            let mut said = row["conditions"].as_array().into_iter().flatten();
            said.any(|said| said["type"] == "Enforced" && said["status"] == true)
        };
        match rows.as_array().into_iter().flatten().find(enforced) {
            Some(_) => Ok(()),
            None => Err(rows.to_string()),
        }
    })
    .with_context(|| format!("wait until policy {POLICY} is enforced"))
}

/// Starts the pod that is to fail: the same account and Service as the other web server, a workload of its own.
pub(super) fn start_canary(lab: &Lab) -> Result<Arc<Pod>> {
    let name = CANARY.rsplit('/').next().unwrap_or(CANARY);
    let pod = lab.pod(CANARY).node("b").service_account("web").label("app", "web");
    pod.label("app.kubernetes.io/name", name).start()
}

impl Traffic {
    /// Starts the canary's program and all callers.
    pub(super) fn start(cast: &Cast, services: &Services) -> Result<Self> {
        let mut processes = vec![crash_again_and_again(cast.pod(CANARY)?)?];
        for call in calls(services, cast.pod("shop/db")?.v4())? {
            processes.push(cast.pod(call.from)?.spawn([
                "sh",
                "-c",
                &again_and_again(&call.program, call.pause),
            ])?);
        }
        Ok(Self { _processes: processes })
    }
}

/// What it says is nobody's: a demo that is kept would fill the disk with it.
fn again_and_again(program: &str, pause: &str) -> String {
    format!("while :; do {program} >/dev/null 2>&1; sleep {pause}; done")
}

/// Serves the same as the other web server, for some seconds at a time.
fn crash_again_and_again(pod: &Arc<Pod>) -> Result<Process> {
    let server = cast::serving(nginx(pod), "orders", ORDERS);
    let directory = server.directory()?.display().to_string();
    // Writes its configuration, and shows that it can serve.
    drop(server.start()?);
    let program = format!("timeout {CANARY_UP} nginx -p {directory}/ -e stderr -c {directory}/nginx.conf");
    pod.spawn(["sh", "-c", &again_and_again(&program, CANARY_DOWN)])
}

/// `db_pod`: the address of the database's own pod, by which a policy is not got around either.
fn calls(services: &Services, db_pod: Ipv4Addr) -> Result<Vec<Call>> {
    let (web, files) = (services.front("shop/web")?, services.front("legacy/files")?);
    let (db, cart) = (services.front("shop/db")?, services.front("shop/cart")?);
    let curl = |url: String| format!("curl -s --max-time 15 '{url}'");
    let sql = |host: IpAddr, query: String| {
        format!("mariadb --no-defaults --skip-ssl --connect-timeout=5 -h {host} -P {DB_PORT} -e '{query}'")
    };
    let redis = |words: &str| format!("redis-cli -h {} -p {CART_PORT} {words}", cart.v4);
    let call = |from, pause, program| Call { from, program, pause };
    Ok(vec![
        call("shop/frontend", "0.15", curl(format!("http://{}/price", web.v4))),
        call("shop/frontend", "0.5", sql(db.v4, format!("SELECT REPEAT(0, 1000), SLEEP({HOLD})"))),
        call("shop/frontend", "0.3", redis("INCR teapots")),
        // One connection that stays, in the kernel.
        call("shop/frontend", "1", redis("SUBSCRIBE orders")),
        call("shop/frontend", "0.5", curl(format!("http://{}/price", files.v4))),
        // The server takes its time, so that there is always one to look at.
        call("shop/mobile", "0.5", curl(format!("http://[{}]/orders", web.v6))),
        call("shop/mobile", "0.7", sql(db.v4, "SELECT 1".to_owned())),
        call("shop/mobile", "0.7", sql(db_pod.into(), "SELECT 1".to_owned())),
        call("legacy/batch", "0.4", curl(format!("http://{}/price", web.v4))),
    ])
}
