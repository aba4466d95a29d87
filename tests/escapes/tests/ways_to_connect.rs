//! Every way in which a program can begin a connection ends in the mesh, with the pod's own identity, or nowhere.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use escapes::stage::{self, Stage};
use escapes::{Attempt, Door};
use lab::eventually;
use lab::row::Table;

/// What the kernel may lack: then there is no such way out.
const NOT_THERE: [&str; 5] = ["ENOSYS", "EPROTONOSUPPORT", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "EPERM"];

/// A row for a way that not every kernel has: tried first at a destination outside the mesh.
fn optional(table: &mut Table, stage: &Stage<'_>, name: &str, how: &str) -> Result<()> {
    let outside = Door::open(&stage.store, 7001)?;
    let words = ["--how", how];
    let probe = Attempt::openly(&stage.stranger, outside.v4(), &words)?;
    if let Ok(guest) = outside.guest_within(Duration::from_secs(5)) {
        guest.answer("heard")?;
    }
    let end = probe.end()?;
    if let Some(errno) = end.errno.filter(|errno| NOT_THERE.contains(&errno.as_str())) {
        table.absent(name, &format!("this kernel has no such way ({errno})"));
        return Ok(());
    }
    table.row(name, || {
        let attempt = Attempt::from_pod(&stage.client, stage.door.v4(), &words)?;
        stage.carried(attempt, &stage.client)
    });
    Ok(())
}

#[test]
fn every_way_to_connect_is_in_the_mesh() {
    stage::run("every_way_to_connect_is_in_the_mesh", |stage, table| {
        let ways = [
            ("connect", "plain"),
            ("data with the SYN (MSG_FASTOPEN)", "fastopen"),
            ("TCP_FASTOPEN_CONNECT", "fastopen-connect"),
        ];
        for (name, how) in ways {
            for to in [stage.door.v4(), stage.door.v6()] {
                table.row(&format!("{name}, {}", if to.is_ipv4() { "IPv4" } else { "IPv6" }), || {
                    let attempt = Attempt::from_pod(&stage.client, to, &["--how", how])?;
                    stage.carried(attempt, &stage.client)
                });
            }
        }
        table.row("an IPv4-mapped address on an IPv6 socket", || {
            let attempt = Attempt::from_pod(&stage.client, stage.door.v4(), &["--how", "mapped"])?;
            stage.carried(attempt, &stage.client)
        });
        optional(table, stage, "io_uring (IORING_OP_CONNECT)", "uring")?;
        optional(table, stage, "io_uring with a submitting thread of the kernel's (SQPOLL)", "uring-sqpoll")?;
        optional(table, stage, "MPTCP", "mptcp")?;
        optional(table, stage, "AF_SMC, which falls back to TCP", "smc")?;
        table.row("MPTCP with a second address to join by: no subflow goes beside the mesh", || {
            stage.sh(
                "ip addr add 10.244.77.77/32 dev eth0; ip mptcp limits set subflow 4 add_addr_accepted 4; \
                 ip mptcp endpoint add 10.244.77.77 dev eth0 subflow fullmesh",
            )?;
            let attempt = Attempt::from_pod(&stage.client, stage.door.v4(), &["--how", "mptcp"])?;
            let said = stage.carried(attempt, &stage.client);
            stage.sh("ip mptcp endpoint flush; ip addr del 10.244.77.77/32 dev eth0")?;
            said
        });
        table.row("TCP_REPAIR makes a connection of nobody's", || {
            let words = ["--how", "repair", "--timeout-ms", "1500"];
            stage.fruitless(Attempt::from_pod(&stage.client, stage.door.v4(), &words)?)
        });
        Ok(())
    });
}

#[test]
fn a_socket_that_was_elsewhere_before_is_in_the_mesh() {
    stage::run("a_socket_that_was_elsewhere_before_is_in_the_mesh", |stage, table| {
        let outside = Door::open(&stage.store, 7001)?;
        let inside = Door::open(&stage.client, 7002)?;
        let same = Door::open(&stage.neighbour, 7003)?;
        for (name, first) in [
            ("connected outside the mesh, then AF_UNSPEC", outside.v4()),
            ("connected to the pod itself, then AF_UNSPEC", inside.v4()),
            ("connected over loopback, then AF_UNSPEC", ([127, 0, 0, 1], 7002).into()),
            ("connected to a captured pod, then AF_UNSPEC", same.v4()),
        ] {
            table.row(name, || {
                let words = ["--first".to_owned(), first.to_string()];
                let attempt = Attempt::from_pod(&stage.client, stage.door.v4(), &words)?;
                stage.carried(attempt, &stage.client)
            });
        }
        table.row("and from the mesh to a destination outside of it", || {
            let words = ["--first".to_owned(), stage.door.v4().to_string()];
            let attempt = Attempt::openly(&stage.client, outside.v4(), &words)?;
            // The first of them is there already: the row above.
            let guest = loop {
                let guest = outside.guest().with_context(|| attempt.report())?;
                if guest.line().is_ok_and(|line| line == attempt.said) {
                    break guest;
                }
            };
            guest.answer("heard")?;
            let end = attempt.end()?;
            ensure!(end.heard == "heard", "{end:?}");
            Ok("passed through".to_owned())
        });
        Ok(())
    });
}

#[test]
fn a_socket_made_before_the_pod_was_captured_is_in_the_mesh() {
    stage::run("a_socket_made_before_the_pod_was_captured_is_in_the_mesh", |stage, table| {
        let lab = stage.lab;
        let early = lab.pod("shop/early").node("a").service_account("early");
        let early = early.label("weft.dev/capture", "disabled").start()?;
        lab.await_excluded(&early)?;
        let ways = [
            ("connect", "plain", stage.door.v4()),
            ("connect, IPv6", "plain", stage.door.v6()),
            ("MSG_FASTOPEN", "fastopen", stage.door.v4()),
            ("an IPv4-mapped address", "mapped", stage.door.v4()),
            ("MPTCP", "mptcp", stage.door.v4()),
        ];
        let mut waiting = Vec::new();
        for (number, (name, how, to)) in ways.into_iter().enumerate() {
            let file = early.directory("signals")?.join(number.to_string());
            let words: [OsString; 4] = ["--how".into(), how.into(), "--after".into(), file.clone().into()];
            let attempt = Attempt::from_pod(&early, to, &words)?;
            waiting.push((name, attempt, file));
        }
        for (_, attempt, file) in &waiting {
            let ready = file.with_extension("ready");
            eventually(
                Duration::from_secs(10),
                || {
                    if ready.exists() { Ok(()) } else { Err(attempt.report()) }
                },
            )?;
        }
        early.set_label("weft.dev/capture", None)?;
        lab.await_captured(&early)?;
        for (name, attempt, file) in waiting {
            table.row(&format!("made before, connected after: {name}"), || {
                std::fs::write(&file, "")?;
                stage.carried(attempt, &early)
            });
        }
        Ok(())
    });
}
