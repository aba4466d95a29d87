//! The authority is exchanged while agents are connected: what is signed, what agents are to trust, and the controller's own
//! certificate go over to the new one; files that make no sense change nothing.

use std::path::PathBuf;

use mesh_identity::{BuiltinAuthority, KeyRequest, Roots};
use mesh_model::{Identity, TrustDomain};

use crate::lab::{Agent, Lab, eventually, pod, settle};

struct Authority {
    cert: String,
    key: String,
}

fn authority() -> Authority {
    let (cert, key) = BuiltinAuthority::generate(&TrustDomain::new("cluster.local").unwrap()).unwrap();
    Authority { cert, key }
}

fn roots(pem: &str) -> Roots {
    Roots::from_pem(pem.as_bytes()).unwrap()
}

/// The root to which a certificate leads that an agent gets now.
async fn signs(agent: &Agent) -> Result<String, String> {
    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let key = KeyRequest::new(&identity).unwrap();
    let chain = agent.client.sign(&identity, &key.csr_pem()).await.map_err(|error| error.to_string())?;
    Ok(key.finish(&chain).unwrap().issuer().to_owned())
}

fn subject(authority: &Authority) -> String {
    roots(&authority.cert).infos()[0].subject.clone()
}

fn published(lab: &Lab) -> Roots {
    Roots::from_pem_file(&lab.path("state/root.pem")).unwrap()
}

/// Nobody reads half of it.
fn replace(lab: &Lab, name: &str, text: &str) {
    lab.private(&format!("{name}.new"), text);
    std::fs::rename(lab.path(&format!("{name}.new")), lab.path(name)).unwrap();
}

/// An agent that trusts these roots, whatever the controller publishes.
fn agent_with(lab: &Lab, node: &str, roots: &str) -> Agent {
    let mut config = lab.agent_config(node);
    let file: PathBuf = lab.path(&format!("roots-{node}"));
    std::fs::write(&file, roots).unwrap();
    config.roots = file;
    Agent::start(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_authority_is_followed_with_agents_connected() {
    let (old, new) = (authority(), authority());
    let mut lab = Lab::stopped();
    lab.private("ca.pem", &old.cert);
    lab.private("ca.key", &old.key);
    let path = |name: &str| lab.path(name).display().to_string();
    let (cert, key) = (path("ca.pem"), path("ca.key"));
    lab.flag("--ca-cert", &cert);
    lab.flag("--ca-key", &key);
    lab.start_controller().await;
    lab.write("pods.yaml", &pod("web", "one", "10.0.1.1"));
    let one = lab.agent("one");
    eventually("the pod", || one.workload("uid-web").ok_or(())).await;
    assert_eq!(signs(&one).await.unwrap(), subject(&old));

    // Trusted beside the old one, which goes on signing.
    replace(&lab, "ca.pem", &format!("{}{}", old.cert, new.cert));
    eventually("both roots", || match published(&lab).len() {
        2 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(published(&lab).first(), roots(&old.cert));
    assert_eq!(signs(&one).await.unwrap(), subject(&old));

    // A key that fits nothing: the last good authority stays in force.
    replace(&lab, "ca.key", &authority().key);
    for _ in 0..50 {
        if lab.metrics("/metrics").await.contains("weft_controller_authority_rejected 1") {
            break;
        }
        settle().await;
    }
    assert!(lab.metrics("/metrics").await.contains("weft_controller_authority_rejected 1"));
    assert_eq!(signs(&one).await.unwrap(), subject(&old));

    // The new one signs; who trusts both, or the new one alone, finds the controller.
    replace(&lab, "ca.key", &new.key);
    replace(&lab, "ca.pem", &format!("{}{}", new.cert, old.cert));
    eventually("the new root first", || {
        let first = published(&lab).first();
        if first == roots(&new.cert) { Ok(()) } else { Err(first) }
    })
    .await;
    let mut signed = String::new();
    for _ in 0..50 {
        signed = signs(&one).await.unwrap();
        if signed == subject(&new) {
            break;
        }
        settle().await;
    }
    assert_eq!(signed, subject(&new));
    assert!(one.client.status().connected && one.errors().is_empty(), "{:?}", one.errors());
    assert!(lab.metrics("/metrics").await.contains("weft_controller_authority_rejected 0"));
    agent_with(&lab, "two", &new.cert).whole().await;
    agent_with(&lab, "three", &format!("{}{}", old.cert, new.cert)).whole().await;
}
