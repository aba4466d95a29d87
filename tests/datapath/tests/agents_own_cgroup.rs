//! Promise: the agent's own sockets pass the hooks, and nobody else's for that, also in a cgroup namespace of its own, as a
//! DaemonSet's pod has one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datapath::held::Held;
use lab::row::Table;
use lab::{Agent, Lab, eventually, programs};

const PORT: u16 = 7000;
const SOON: Duration = Duration::from_secs(10);

/// A new mount of cgroup2 in a cgroup namespace begins at its root: what a container finds at /sys/fs/cgroup. The node's own is
/// elsewhere, and `--cgroup` names it.
const OWN_MOUNT: &str = "mount -t cgroup2 none /mnt && exec \"$@\"";

#[test]
fn an_agent_in_a_cgroup_namespace_of_its_own_finds_its_cgroup() {
    const NAME: &str = "an_agent_in_a_cgroup_namespace_of_its_own_finds_its_cgroup";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").systemd_cgroups().run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let server = lab.pod("shop/server").node("b").service_account("server").start()?;
        let _echo = programs::peer(&server, "echo", PORT, &[])?;
        let to = SocketAddr::new(server.v4().into(), PORT);
        let ways: [(&str, &[&str]); 3] = [
            ("the node's own namespace", &["env"]),
            ("one of its own", &["unshare", "--cgroup"]),
            (
                "one of its own, with a mount of its own first",
                &["unshare", "--cgroup", "--mount", "sh", "-c", OWN_MOUNT, "sh"],
            ),
        ];
        for (way, program) in ways {
            table.row(&format!("{way}: its dials pass, its pods' are captured"), || {
                for agent in lab.agents() {
                    agent.kill();
                    agent.launch_under(program)?;
                    agent.await_ready()?;
                    let said = namespace_of(agent)?;
                    let own = std::fs::read_link("/proc/self/ns/cgroup")?;
                    ensure!((said == own) == (program == ["env"]), "{}", said.display());
                }
                lab.await_captured(&client)?;
                lab.await_captured(&server)?;
                lab.await_peers_tunnel(&server)?;
                let held =
                    eventually(SOON, || Held::open(&client, to).map_err(|error| format!("{error:#}")))?;
                lab.agents().iter().try_for_each(|agent| held.ensure_mtls(agent))?;
                Ok(String::new())
            });
        }
        table.finish();
        Ok(())
    });
}

fn namespace_of(agent: &Agent) -> Result<std::path::PathBuf> {
    let pid = agent.pid().context("it does not run")?;
    Ok(std::fs::read_link(format!("/proc/{pid}/ns/cgroup"))?)
}
