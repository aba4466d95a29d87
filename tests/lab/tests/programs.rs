//! The real programs come up and answer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use lab::{Lab, programs};

#[test]
fn databases_and_sshd_answer_from_another_node() {
    if !lab::ready("databases_and_sshd_answer_from_another_node") {
        return;
    }
    Lab::builder().node("a").node("b").without_mesh().run(|lab| {
        let client = lab.pod("shop/client").node("a").start()?;
        let server = lab.pod("shop/server").node("b").start()?;
        let host = server.v4().to_string();
        let mut table = lab::row::Table::new("databases_and_sshd_answer_from_another_node");

        let _sshd = programs::sshd(&server, 22)?;
        table.row("sshd's banner", || {
            let once = ["weft-lab-peer", "connect-once", "--read", "4", &format!("{host}:22")];
            let report: serde_json::Value = client.exec(once)?.ok()?.json()?;
            anyhow::ensure!(report["read"] == "SSH-", "{report}");
            Ok(String::new())
        });
        let _redis = programs::redis(&server, 6379)?;
        table.row("redis", || {
            let pong = client.exec(["redis-cli", "-h", &server.v6().to_string(), "ping"])?.ok()?.text();
            anyhow::ensure!(pong.trim() == "PONG", "{pong}");
            Ok(String::new())
        });
        let _postgres = programs::postgres(&server, 5432)?;
        table.row("postgres", || {
            let one =
                client.exec(["psql", "-h", &host, "-U", "postgres", "-Atc", "select 41+1"])?.ok()?.text();
            anyhow::ensure!(one.trim() == "42", "{one}");
            Ok(String::new())
        });
        let _mariadb = programs::mariadb(&server, 3306)?;
        table.row("mariadb", || {
            let query = ["mariadb", "--no-defaults", "-h", &host, "-u", "lab", "lab", "-Ne", "select 41+1"];
            let one = client.exec(query)?.ok()?.text();
            anyhow::ensure!(one.trim() == "42", "{one}");
            Ok(String::new())
        });
        table.finish();
        Ok(())
    });
}
