//! Promise: the mesh has one root, however many replicas start at once; the operator's is followed; what makes no sense is one
//! clear Event, and the last good one stays in force.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use kube_tests::{ApiServer, block_on};
use lab::eventually;
use lab::row::Table;
use mesh_controller::issue::secret::{SecretAuthority, SecretConfig, SecretError};
use mesh_controller::metrics::Metrics;
use mesh_identity::{Authority as _, BuiltinAuthority, LiveAuthority, Roots};
use mesh_model::TrustDomain;
use mesh_telemetry::shutdown::Shutdown;

/// How long a change may take until it is in force.
const NOTICE: Duration = Duration::from_secs(40);

struct Place {
    client: Client,
    namespace: String,
}

/// A replica that follows the Secret, until it is dropped.
struct Replica {
    live: LiveAuthority,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Place {
    fn new(client: &Client, namespace: &str) -> Result<Self> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = Namespace { metadata: meta(namespace), ..Namespace::default() };
        block_on(namespaces.create(&PostParams::default(), &object))?;
        Ok(Self { client: client.clone(), namespace: namespace.into() })
    }

    fn config(&self, replica: &str) -> SecretConfig {
        SecretConfig {
            namespace: self.namespace.clone(),
            secret: "weft-ca".into(),
            config_map: "weft-roots".into(),
            replica: replica.into(),
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
            look: Duration::from_secs(1),
        }
    }

    fn open(&self) -> Result<SecretAuthority, SecretError> {
        block_on(SecretAuthority::open(self.client.clone(), self.config("one")))
    }

    fn replica(&self) -> Result<Replica> {
        let authority = self.open()?;
        let (live, metrics, shutdown) = (authority.authority(), Metrics::default(), Shutdown::new());
        let follow = authority.follow(metrics.clone(), shutdown.clone());
        block_on(async { tokio::spawn(follow) });
        Ok(Replica { live, metrics, shutdown })
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What agents get.
    fn published(&self) -> Result<Roots> {
        let map = block_on(self.config_maps().get("weft-roots"))?;
        let pem = map.data.unwrap_or_default().remove("root.pem").context("no root.pem")?;
        Ok(Roots::from_pem(pem.as_bytes())?)
    }

    /// The Secret as an operator writes it.
    fn write(&self, data: &[(&str, &str)]) -> Result<()> {
        let data: BTreeMap<String, ByteString> =
            data.iter().map(|(key, pem)| ((*key).into(), ByteString(pem.as_bytes().to_vec()))).collect();
        let secrets = self.secrets();
        block_on(async {
            match secrets.get_opt("weft-ca").await? {
                Some(_) => {
                    let patch = serde_json::json!({ "data": data });
                    secrets.patch("weft-ca", &PatchParams::default(), &Patch::Merge(&patch)).await
                }
                None => {
                    let secret = Secret { metadata: meta("weft-ca"), data: Some(data), ..Secret::default() };
                    secrets.create(&PostParams::default(), &secret).await
                }
            }
        })?;
        Ok(())
    }

    /// Waits for an Event on the Secret with this reason, and these words in its note.
    fn await_event(&self, reason: &str, words: &[&str]) -> Result<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let note = eventually(NOTICE, || {
            let list = block_on(events.list(&ListParams::default())).map_err(|error| error.to_string())?;
            let notes: Vec<(String, String)> = list
                .items
                .into_iter()
                .filter(|event| {
                    let about = event.regarding.as_ref();
                    about.is_some_and(|about| {
                        about.kind.as_deref() == Some("Secret") && about.name.as_deref() == Some("weft-ca")
                    })
                })
                .map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default()))
                .collect();
            let found =
                notes.iter().find(|(r, note)| r == reason && words.iter().all(|word| note.contains(word)));
            found.map(|(_, note)| note.clone()).ok_or_else(|| format!("no {reason} {words:?} in {notes:?}"))
        })?;
        Ok(note)
    }
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

/// Certificate and key, PEM.
fn authority() -> (String, String) {
    BuiltinAuthority::generate(&TrustDomain::new("cluster.local").unwrap()).unwrap()
}

fn roots(pem: &str) -> Roots {
    Roots::from_pem(pem.as_bytes()).unwrap()
}

fn await_roots(what: &str, expected: &Roots, mut now: impl FnMut() -> Result<Roots>) -> Result<()> {
    eventually(NOTICE, || match now() {
        Ok(roots) if roots == *expected => Ok(()),
        other => Err(format!("{what}: {other:?} and not {expected:?}")),
    })
}

#[test]
fn replicas_that_start_at_once_make_one_root() {
    let server = ApiServer::start().unwrap();
    let client = server.client().unwrap();
    let mut table = Table::new("one root");
    for round in 0..5 {
        table.row(&format!("twenty replicas start at once, round {round}"), || {
            let place = Place::new(&client, &format!("weft-race-{round}"))?;
            let opened = block_on(async {
                let replicas: Vec<_> = (0..20)
                    .map(|number| {
                        let config = place.config(&format!("replica-{number}"));
                        tokio::spawn(SecretAuthority::open(client.clone(), config))
                    })
                    .collect();
                let mut opened = Vec::new();
                for replica in replicas {
                    opened.push(replica.await??);
                }
                anyhow::Ok(opened)
            })?;
            let made: BTreeSet<String> =
                opened.iter().map(|replica| replica.authority().roots().to_pem()).collect();
            ensure!(made.len() == 1, "{} roots: {made:?}", made.len());
            let secret = block_on(place.secrets().get("weft-ca"))?;
            let kept = secret.data.context("data")?;
            ensure!(kept["tls.crt"].0 == made.first().context("a root")?.as_bytes(), "another one is kept");
            ensure!(
                place.published()?.to_pem() == *made.first().context("a root")?,
                "another one is published"
            );
            // And whoever comes later finds it.
            let later = place.open()?.authority().roots().to_pem();
            ensure!(made.contains(&later), "a later replica has another");
            Ok(format!("{} replicas, one root", opened.len()))
        });
    }
    table.finish();
}

#[test]
fn the_operators_authority_is_followed_and_a_bad_one_is_not() {
    let server = ApiServer::start().unwrap();
    let client = server.client().unwrap();
    let mut table = Table::new("the authority in a Secret");
    let place = Place::new(&client, "weft-follow").unwrap();
    let ((old, old_key), (new, new_key)) = (authority(), authority());
    place.write(&[("tls.crt", &old), ("tls.key", &old_key), ("ca.crt", &old)]).unwrap();
    let replica = place.replica().unwrap();
    let both = format!("{old}{new}");
    let in_force = || Ok(replica.live.roots());

    table.row("the operator's is used, and published", || {
        await_roots("in force", &roots(&old), in_force)?;
        await_roots("published", &roots(&old), || place.published())?;
        Ok(String::new())
    });
    table.row("a second root in ca.crt is trusted, and published", || {
        place.write(&[("ca.crt", &both)])?;
        await_roots("in force", &roots(&both), in_force)?;
        await_roots("published", &roots(&both), || place.published())?;
        place.await_event("AuthorityChanged", &["2 roots"])
    });
    for (name, data, words) in [
        (
            "a key that fits another certificate",
            vec![("tls.key", new_key.as_str())],
            vec!["tls.key", "tls.crt"],
        ),
        ("a certificate that is none", vec![("tls.crt", "garbage")], vec!["tls.crt", "BEGIN CERTIFICATE"]),
        ("no key at all", vec![("tls.crt", old.as_str()), ("tls.key", "")], vec!["has no tls.key"]),
        (
            "roots that are none",
            vec![("tls.key", old_key.as_str()), ("ca.crt", "garbage")],
            vec!["ca.crt", "holds no trust anchors"],
        ),
    ] {
        table.row(&format!("{name} is an Event, and changes nothing"), || {
            place.write(&data)?;
            let note = place.await_event("AuthorityRejected", &words)?;
            ensure!(note.contains("weft-follow/weft-ca") && note.contains("stays in force"), "{note}");
            ensure!(replica.live.roots() == roots(&both), "{:?}", replica.live.roots());
            ensure!(place.published()? == roots(&both), "{:?}", place.published());
            ensure!(replica.metrics.authority_rejected.get() == 1, "not counted");
            Ok(note)
        });
    }
    table.row("a replica that starts on a bad Secret says so and what to do", || {
        let error = place.open().err().context("it opens")?;
        let text = mesh_controller::chain(&error);
        for word in ["weft-follow/weft-ca", "ca.crt", "put it right, or delete it"] {
            ensure!(text.contains(word), "no {word:?} in {text:?}");
        }
        Ok(text)
    });
    table.row("the new root signs, and the old one is trusted still", || {
        place.write(&[("tls.crt", &new), ("tls.key", &new_key), ("ca.crt", &both)])?;
        let expected = roots(&format!("{new}{old}"));
        await_roots("in force", &expected, in_force)?;
        await_roots("published", &expected, || place.published())?;
        ensure!(replica.metrics.authority_rejected.get() == 0, "still counted");
        Ok(String::new())
    });
    table.row("what somebody does to the ConfigMap is put right", || {
        let patch = serde_json::json!({ "data": { "root.pem": "garbage" } });
        block_on(place.config_maps().patch("weft-roots", &PatchParams::default(), &Patch::Merge(&patch)))?;
        await_roots("published", &replica.live.roots(), || place.published())?;
        block_on(place.config_maps().delete("weft-roots", &DeleteParams::default()))?;
        await_roots("published", &replica.live.roots(), || place.published())?;
        Ok(String::new())
    });
    table.row("the Secret is gone: the last good one stays in force", || {
        block_on(place.secrets().delete("weft-ca", &DeleteParams::default()))?;
        let expected = replica.live.roots();
        // It looks every second, and does nothing.
        for _ in 0..3 {
            std::thread::sleep(Duration::from_secs(1));
            ensure!(replica.live.roots() == expected, "{:?}", replica.live.roots());
        }
        ensure!(block_on(place.secrets().get_opt("weft-ca"))?.is_none(), "it was made again");
        Ok(String::new())
    });
    table.row("a switch to a root that nobody knows is said", || {
        let (third, key) = authority();
        place.write(&[("tls.crt", &third), ("tls.key", &key), ("ca.crt", &third)])?;
        await_roots("in force", &roots(&third), in_force)?;
        place.await_event("AuthoritySwitchedEarly", &["add a root to ca.crt first"])
    });
    if server.is_ours() {
        table.row("with the API server gone it goes on; back again, changes are followed", || {
            server.stop();
            let before = replica.live.roots();
            ensure!(
                replica.live.issue_server(&["weft-controller"], Duration::from_secs(60)).is_ok(),
                "no signature"
            );
            server.start_again()?;
            ensure!(replica.live.roots() == before, "another one");
            let (fourth, key) = authority();
            place.write(&[("tls.crt", &fourth), ("tls.key", &key), ("ca.crt", &fourth)])?;
            await_roots("in force", &roots(&fourth), in_force)?;
            await_roots("published", &roots(&fourth), || place.published())?;
            Ok(String::new())
        });
    } else {
        table.skip("with the API server gone it goes on", "it is somebody's cluster");
    }
    drop(replica);
    table.finish();
}
