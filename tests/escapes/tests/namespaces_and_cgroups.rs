//! A captured pod's process that makes a network namespace of its own, or goes to another cgroup, does not get around the mesh.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::PathBuf;

use anyhow::ensure;
use escapes::outlet::Outlet;
use escapes::stage::{self, refusals};
use escapes::{Attempt, Door};
use lab::Lab;

/// Ways to begin that must make no difference.
const WAYS: [(&str, &[&str]); 4] = [
    ("connect", &[]),
    ("MSG_FASTOPEN", &["--how", "fastopen"]),
    ("io_uring", &["--how", "uring"]),
    ("MPTCP", &["--how", "mptcp"]),
];

#[test]
fn a_network_namespace_of_its_own_is_refused() {
    stage::run("a_network_namespace_of_its_own_is_refused", |stage, table| {
        let outlet = Outlet::dig(&stage.client)?;
        let run = |to, words: &[&str]| Attempt::dial(to, words, |line| outlet.command(&stage.client, line));
        for (name, words) in WAYS {
            table.row(&format!("a namespace with a way out through the pod: {name}"), || {
                stage.refused(|| run(stage.door.v4(), words), "foreign_netns")
            });
        }
        table.row("the same to a destination outside the mesh", || {
            let store = Door::open(&stage.store, 7001)?;
            let said = stage.refused(|| run(store.v4(), &[]), "foreign_netns")?;
            store.nobody()?;
            Ok(said)
        });
        table.row("the same in a cgroup below the pod's", || {
            stage.refused(|| run(stage.door.v4(), &["--cgroup", "./below"]), "foreign_netns")
        });
        table.row("a namespace without any way out", || {
            let isolated =
                |line: Vec<_>| stage.client.command(["unshare".into(), "-n".into()].into_iter().chain(line));
            stage.refused(|| Attempt::dial::<&str>(stage.door.v4(), &[], isolated), "foreign_netns")
        });
        table.row("a namespace of an unprivileged user's own", || {
            let line = |line: Vec<_>| {
                let unshare = ["unshare", "-r", "-n"].map(std::ffi::OsString::from);
                Ok(stage.client.command(unshare.into_iter().chain(line))?.user("nobody"))
            };
            stage.refused(|| Attempt::dial::<&str>(stage.door.v4(), &[], line), "foreign_netns")
        });
        table.row("the pod's own namespace goes on beside it", || {
            stage.carried(Attempt::from_pod::<&str>(&stage.client, stage.door.v4(), &[])?, &stage.client)
        });
        Ok(())
    });
}

#[test]
fn another_cgroup_makes_no_difference() {
    stage::run("another_cgroup_makes_no_difference", |stage, table| {
        let node = stage.client.node().cgroup().path().to_owned();
        let places: [(&str, PathBuf); 5] = [
            ("a new one below its own", "./below".into()),
            ("one of the node's, beside kubelet's", node.join("system.slice")),
            ("the root of the node", node),
            ("another captured pod's", stage.neighbour.cgroup().path().to_owned()),
            ("that of a pod outside the mesh", stage.stranger.cgroup().path().to_owned()),
        ];
        for (name, place) in &places {
            for (way, words) in WAYS {
                table.row(&format!("{name}: {way}"), || {
                    let mut words: Vec<_> = words.iter().map(std::ffi::OsString::from).collect();
                    words.extend(["--cgroup".into(), place.clone().into()]);
                    let attempt = Attempt::from_pod(&stage.client, stage.door.v4(), &words)?;
                    stage.carried(attempt, &stage.client)
                });
            }
        }
        table.row("none of these was refused, or anybody else", || {
            let counted = refusals(stage.near(), "foreign_netns")?;
            anyhow::ensure!(counted == 0, "{counted} refused");
            Ok(String::new())
        });
        Ok(())
    });
}

#[test]
fn documented_a_privileged_pod_is_whom_the_node_lets_it_be() {
    let test = "documented_a_privileged_pod_is_whom_the_node_lets_it_be";
    stage::document(test, Lab::builder().node("a").node("b"), |stage, table| {
        // It takes write access to the node's cgroups, which only a privileged pod has.
        let outlet = Outlet::dig(&stage.client)?;
        let elsewhere = stage.client.node().cgroup().path().join("system.slice");
        table.row(
            "out of its cgroup and its namespace both, it reaches nobody of the mesh through its device",
            || {
                let words = [
                    "--cgroup".into(),
                    elsewhere.clone().into_os_string(),
                    "--timeout-ms".into(),
                    "1500".into(),
                ];
                let before = refusals(stage.near(), "bypass")?;
                let run = |line| outlet.command(&stage.client, line);
                let end =
                    stage.fruitless(Attempt::dial_saying(stage.door.v4(), "no secret", &words, run)?)?;
                let count = refusals(stage.near(), "bypass")? - before;
                ensure!(count > 0, "nobody has counted it");
                Ok(format!("{count} stopped at the pod's device; {end}"))
            },
        );
        table.row("documented: one of the two alone gets it nowhere", || {
            let run = |line| outlet.command(&stage.client, line);
            stage.refused(|| Attempt::dial::<&str>(stage.door.v4(), &[], run), "foreign_netns")
        });
        table.row("documented: on the host's network, it is the node", || {
            let run = |line| stage.client.node().command(line);
            let attempt = Attempt::dial_saying::<&str>(stage.door.v4(), "no secret", &[], run)?;
            stage.plain(attempt, stage.client.node().v4().into())
        });
        table.row("documented: in another captured pod's namespace, it is that pod", || {
            let enter = format!("--net={}", stage.neighbour.netns_path().display());
            let run =
                |line: Vec<_>| stage.client.command(["nsenter".into(), enter.into()].into_iter().chain(line));
            let attempt = Attempt::dial::<&str>(stage.door.v4(), &[], run)?;
            stage.carried(attempt, &stage.neighbour)
        });
        Ok(())
    });
}
