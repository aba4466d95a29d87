//! Promise: many policies at once, and policies that contradict each other, are in force like one: nobody waits for long, nothing
//! that was in force is lost on the way, and the one that counts is named.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::row::Table;
use lab::{Lab, eventually};
use policy::cast::{Cast, PORTS, at};
use policy::enforce::{Policy, await_enforced, put};
use policy::talk::talk;

const TEST: &str = "ten_thousand_policies_are_in_force_like_one";
const MANY: usize = 10_000;
/// Any number of policies may take so long to be known.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn ten_thousand_policies_are_in_force_like_one() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(they_are);
}

fn they_are(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let mut table = Table::new(TEST);
    let only_cart = "targetRefs: [{kind: Pod, selector: {}}], action: ALLOW, rules: [{sources: [{serviceAccount: {name: cart}}]}]";
    put(lab, Policy { key: "shop/only-cart", spec: only_cart })?;
    table.row("one: cart is admitted, till is not", || ensured(&cast).map(|()| String::new()));
    table.row("10,000 more, of which each tenth is about the server", || {
        let start = Instant::now();
        lab.write_object("many.yaml", &many())?;
        // Nothing is lost while they come.
        let mut rounds = 0;
        eventually(PATIENCE, || {
            ensured(&cast).map_err(|error| format!("{error:#}"))?;
            rounds += 1;
            let rows = lab.agent("b").admin("/v1/policies").map_err(|error| format!("{error:#}"))?;
            let known = rows.as_array().map_or(0, Vec::len);
            if known > MANY { Ok(()) } else { Err(format!("{known} are known on node b")) }
        })?;
        await_enforced(lab, &format!("shop/many-{}", MANY - 10), 1)?;
        Ok(format!("enforced after {:.1?}, looked at {rounds} times meanwhile", start.elapsed()))
    });
    table.row("of contradicting ones the refusal counts, and is named", || {
        let said = lab
            .agent("a")
            .admin(&format!("/v1/explain?src=bank/till&dst={}", at(&cast.near, false, PORTS[0])))?;
        ensure!(said["verdict"] == "deny" && said["policy"]["name"] == "many-0", "{said}");
        ensure!(said["kernel"]["agrees"] == true, "{said}");
        Ok(said["policy"].to_string())
    });
    table.row("they go, and the one stays", || {
        let start = Instant::now();
        lab.remove_object("many.yaml")?;
        eventually(PATIENCE, || {
            ensured(&cast).map_err(|error| format!("{error:#}"))?;
            let rows = lab.agent("a").admin("/v1/policies").map_err(|error| format!("{error:#}"))?;
            let known = rows.as_array().map_or(0, Vec::len);
            if known == 1 { Ok(()) } else { Err(format!("{known} are known on node a")) }
        })?;
        Ok(format!("after {:.1?}", start.elapsed()))
    });
    table.finish();
    Ok(())
}

/// To both servers.
fn ensured(cast: &Cast) -> Result<()> {
    for (_, to) in cast.destinations() {
        let to = at(to, false, PORTS[0]);
        ensure!(talk(&cast.cart, to)?.is_admitted(), "cart is refused");
        ensure!(!talk(&cast.till, to)?.is_admitted(), "till is admitted");
    }
    Ok(())
}

/// Each tenth refuses `till` what the one beside it admits; the rest is about pods that are not there.
fn many() -> String {
    let mut text = String::new();
    for number in 0..MANY {
        let (app, action) = match number % 10 {
            0 => ("{}".to_owned(), "DENY"),
            1 => ("{}".to_owned(), "ALLOW"),
            _ => (format!("{{matchLabels: {{app: none-{number}}}}}"), "ALLOW"),
        };
        let _ = writeln!(
            text,
            "---\napiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\n\
             metadata: {{name: many-{number}, namespace: shop, generation: 1}}\n\
             spec: {{targetRefs: [{{kind: Pod, selector: {app}}}], action: {action}, \
             rules: [{{sources: [{{serviceAccount: {{name: till, namespace: bank}}}}]}}]}}"
        );
    }
    text
}
