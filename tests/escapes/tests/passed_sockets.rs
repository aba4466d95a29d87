//! A socket is of the network namespace in which it was made, whoever connects it: so it goes into the mesh as that pod's, or it
//! is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use escapes::Attempt;
use escapes::attempt::Gift;
use escapes::stage;

#[test]
fn a_socket_passed_in_from_outside_is_no_way_out() {
    stage::run("a_socket_passed_in_from_outside_is_no_way_out", |stage, table| {
        let (client, neighbour) = (&stage.client, &stage.neighbour);
        for v6 in [false, true] {
            let (family, to) = if v6 { ("IPv6", stage.door.v6()) } else { ("IPv4", stage.door.v4()) };
            table.row(&format!("{family}: made on the node in the pod's namespace"), || {
                let gift = Gift::offer(client, v6, |line| client.run_in_namespace_only(line))?;
                stage.carried(Attempt::from_pod(client, to, &gift.words())?, client)
            });
            table.row(&format!("{family}: made in the host's namespace, connected by the pod"), || {
                let gift = Gift::offer(client, v6, |line| client.node().command(line))?;
                stage.refused(|| Attempt::from_pod(client, to, &gift.words()), "foreign_netns")
            });
            table.row(&format!("{family}: made by the pod, connected by a process of the node's"), || {
                let gift = Gift::offer(client, v6, |line| client.command(line))?;
                let run = |line| client.node().command(line);
                stage.carried(Attempt::dial(to, &gift.words(), run)?, client)
            });
            table.row(&format!("{family}: made by the pod, connected by a pod outside the mesh"), || {
                let gift = Gift::offer(client, v6, |line| client.command(line))?;
                stage.carried(Attempt::from_pod(&stage.stranger, to, &gift.words())?, client)
            });
            table.row(&format!("{family}: made by the pod, connected by another captured pod"), || {
                let gift = Gift::offer(client, v6, |line| client.command(line))?;
                stage.carried(Attempt::from_pod(neighbour, to, &gift.words())?, client)
            });
            table.row(
                &format!("{family}: made in a namespace within the pod, connected from the pod"),
                || {
                    let unshared = |line: Vec<_>| {
                        client.command(["unshare".into(), "-n".into()].into_iter().chain(line))
                    };
                    let gift = Gift::offer(client, v6, unshared)?;
                    stage.refused(|| Attempt::from_pod(client, to, &gift.words()), "foreign_netns")
                },
            );
        }
        table.row("documented: one that another captured pod made and gives away is that pod's", || {
            let gift = Gift::offer(neighbour, false, |line| neighbour.command(line))?;
            stage.carried(Attempt::from_pod(client, stage.door.v4(), &gift.words())?, neighbour)
        });
        table.row("documented: one that a pod outside the mesh made and gives away has no identity", || {
            let gift = Gift::offer(&stage.stranger, false, |line| stage.stranger.command(line))?;
            let attempt = Attempt::openly(client, stage.door.v4(), &gift.words())?;
            stage.plain(attempt, stage.stranger.v4().into())
        });
        Ok(())
    });
}
