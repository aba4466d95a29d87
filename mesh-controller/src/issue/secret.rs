//! The authority in a Secret: made if there is none, followed when it changes, and its roots written down for agents.
//!
//! ```text
//!              ┌ absent ─▶ make one ─▶ create ─┬─ 201 ─▶ ours
//!   get Secret ┤                               └─ 409 ─▶ get: the other replica's
//!              └ there ──▶ check ─▶ LiveAuthority ─▶ signs
//!                            │ no good: an Event, and the last good one stays in force (at start: an error)
//!                            └─▶ ConfigMap, key root.pem: the roots, the one that signs first
//! ```
//!
//! Invariants: a Secret that is there is never written; roots are published before what leads to them is signed with;
//! any number of replicas may do this at once, as each writes what the one Secret says. Not here: what makes an authority
//! good (`mesh_identity`), and agents, which get the ConfigMap as a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, Resource as _};
use mesh_identity::{
    Authority as _, AuthorityError, AuthorityPem, BuiltinAuthority, LiveAuthority, Named, Roots,
};
use mesh_model::TrustDomain;
use mesh_telemetry::shutdown::Shutdown;

use crate::cluster;
use crate::metrics::Metrics;

/// The keys of the Secret: those of `kubernetes.io/tls`, and of cert-manager.
const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";
/// The key of the ConfigMap.
const ROOT_PEM: &str = "root.pem";
/// The usual time between two looks at Secret and ConfigMap.
pub const LOOK: Duration = Duration::from_secs(30);
/// So long the API server may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// After it gave none.
const AGAIN: Duration = Duration::from_secs(1);

/// Which objects.
#[derive(Clone, Debug)]
pub struct SecretConfig {
    /// Weft's own namespace.
    pub namespace: String,
    /// The Secret with the authority.
    pub secret: String,
    /// The ConfigMap with the roots for agents.
    pub config_map: String,
    /// This replica's name, for Events.
    pub replica: String,
    /// Whose identities it signs.
    pub trust_domain: TrustDomain,
    /// What the watch may have missed, and what somebody did to the ConfigMap, is found this often ([`LOOK`]).
    pub look: Duration,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server refuses.
    #[error("{0}")]
    Api(String),
    /// A key is not there.
    #[error(
        "Secret {secret} has no {key}: it needs tls.crt and tls.key of an authority, and in ca.crt the roots to trust; \
         or delete it, and the controller makes an authority of its own (agents then need its root)"
    )]
    Missing {
        /// Which Secret.
        secret: String,
        /// Which key.
        key: &'static str,
    },
    /// What is in it is no good.
    #[error("the authority in Secret {secret} cannot be used: put it right, or delete it for a new one")]
    Unusable {
        /// Which Secret.
        secret: String,
        /// What is wrong.
        source: Box<AuthorityError>,
    },
    /// None could be made.
    #[error("cannot make an authority")]
    Make(#[source] AuthorityError),
}

/// The authority of a Secret.
pub struct SecretAuthority {
    config: SecretConfig,
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    events: Api<Event>,
    live: LiveAuthority,
    /// What was looked at last, good or not.
    seen: BTreeMap<String, ByteString>,
    /// The Secret's version at the last look: what is older is no news.
    version: u64,
}

impl SecretAuthority {
    /// Opens the authority, or makes it. Waits while the API server does not answer; what it refuses, and a Secret that
    /// is no good, is an error.
    pub async fn open(client: Client, config: SecretConfig) -> Result<Self, SecretError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &config.namespace);
        let config_maps = Api::namespaced(client.clone(), &config.namespace);
        let events = Api::namespaced(client, &config.namespace);
        let secret = loop {
            let found = tokio::time::timeout(ANSWER, find_or_make(&secrets, &config)).await;
            match found.unwrap_or_else(|_| Err(Failed::NoAnswer("no answer".into()))) {
                Ok(secret) => break secret,
                Err(Failed::Error(error)) => return Err(error),
                Err(Failed::NoAnswer(error)) => {
                    tracing::warn!(error, "waiting for the API server to read the authority");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        let data = secret.data.unwrap_or_default();
        let live = LiveAuthority::new(Arc::new(read(&data, &config)?));
        let this = Self { config, secrets, config_maps, events, live, seen: data, version: 0 };
        if let Err(error) = this.publish(&this.live.roots()).await {
            tracing::warn!(error, "cannot write the roots for agents; trying again");
        }
        let roots = this.live.roots();
        let signs = roots.infos().first().map(|root| root.fingerprint.as_str()).unwrap_or_default();
        tracing::info!(secret = this.name(), roots = roots.len(), signs, "the authority is open");
        Ok(this)
    }

    /// What signs: follows the Secret while [`Self::follow`] runs.
    pub fn authority(&self) -> LiveAuthority {
        self.live.clone()
    }

    /// Follows the Secret, and keeps the ConfigMap as it should be, until shutdown.
    pub async fn follow(mut self, metrics: Metrics, shutdown: Shutdown) {
        let watched = watch_object(self.secrets.clone(), &self.config.secret).default_backoff();
        let mut watched = std::pin::pin!(watched);
        let mut look = tokio::time::interval(self.config.look);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut watching = true;
        loop {
            let found = tokio::select! {
                () = shutdown.wait() => return,
                _ = look.tick() => {
                    let asked = self.secrets.get_opt(&self.config.secret);
                    match tokio::time::timeout(ANSWER, asked).await {
                        Ok(Ok(secret)) => {
                            self.version = secret.as_ref().map_or(0, version);
                            secret
                        }
                        Ok(Err(error)) => {
                            tracing::warn!("{}", cluster::explain("get", "secrets", &error));
                            continue;
                        }
                        Err(_) => continue,
                    }
                }
                found = watched.next() => match found {
                    // A watch may lag behind what was read beside it.
                    Some(Ok(Some(secret))) if version(&secret) < self.version => continue,
                    Some(Ok(secret)) => {
                        watching = true;
                        secret
                    }
                    Some(Err(error)) => {
                        // Said once: the watcher tries again by itself, and the look goes on.
                        if std::mem::take(&mut watching) {
                            tracing::warn!(error = crate::chain(&error), "the watch on the authority's Secret is broken");
                        }
                        continue;
                    }
                    None => return,
                },
            };
            match found {
                Some(secret) => self.consider(secret, &metrics).await,
                None => tracing::error!(
                    secret = self.name(),
                    "the authority's Secret is gone: its last state stays in force until the controller restarts; put it back"
                ),
            }
        }
    }

    /// Takes up what the Secret says now.
    async fn consider(&mut self, secret: Secret, metrics: &Metrics) {
        let about = secret.object_ref(&());
        let data = secret.data.unwrap_or_default();
        if data != self.seen {
            match read(&data, &self.config) {
                Ok(authority) => {
                    let roots = authority.roots();
                    let known = self.live.roots();
                    let early = !known.contains_all(&roots.first());
                    // First the trust, then what leads to it.
                    if let Err(error) = self.publish(&roots).await {
                        tracing::warn!(error, "cannot write the roots for agents; trying again");
                    }
                    self.live.replace(Arc::new(authority));
                    metrics.authority_rejected.set(0);
                    let signs =
                        roots.infos().first().map(|root| root.fingerprint.clone()).unwrap_or_default();
                    let note = format!("{} roots are trusted, {signs} signs", roots.len());
                    tracing::info!(secret = self.name(), "the authority changed: {note}");
                    self.event(&about, "Normal", "AuthorityChanged", &note).await;
                    if early {
                        let note = format!(
                            "{signs} signs from now on, and agents did not know it before: connections may fail until \
                             every node has it (about two minutes). Next time add a root to ca.crt first"
                        );
                        tracing::warn!(secret = self.name(), "{note}");
                        self.event(&about, "Warning", "AuthoritySwitchedEarly", &note).await;
                    }
                }
                Err(error) => {
                    let note = format!("{}; the last good authority stays in force", crate::chain(&error));
                    tracing::error!(secret = self.name(), "{note}");
                    metrics.authority_rejected.set(1);
                    self.event(&about, "Warning", "AuthorityRejected", &note).await;
                }
            }
            self.seen = data;
        }
        if let Err(error) = self.publish(&self.live.roots()).await {
            tracing::warn!(error, "cannot write the roots for agents; trying again");
        }
    }

    /// Writes the roots for agents, where they are not what stands there.
    async fn publish(&self, roots: &Roots) -> Result<(), String> {
        let written = tokio::time::timeout(ANSWER, self.write_roots(roots)).await;
        written.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER.as_secs())))
    }

    async fn write_roots(&self, roots: &Roots) -> Result<(), String> {
        let name = &self.config.config_map;
        let pem = roots.to_pem();
        let failed =
            |verb: &'static str| move |error: kube::Error| cluster::explain(verb, "configmaps", &error);
        let there = self.config_maps.get_opt(name).await.map_err(failed("get"))?;
        match there {
            Some(there) if there.data.as_ref().and_then(|data| data.get(ROOT_PEM)) == Some(&pem) => Ok(()),
            Some(_) => {
                let patch = serde_json::json!({ "data": { ROOT_PEM: pem } });
                let params = PatchParams::default();
                let patched = self.config_maps.patch(name, &params, &Patch::Merge(&patch)).await;
                patched.map(drop).map_err(failed("patch"))
            }
            None => {
                let map = ConfigMap {
                    metadata: meta(&self.config.namespace, name),
                    data: Some(BTreeMap::from([(ROOT_PEM.to_owned(), pem)])),
                    ..ConfigMap::default()
                };
                match self.config_maps.create(&PostParams::default(), &map).await {
                    // The other replica was first; what it wrote is looked at the next time.
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                    created => created.map(drop).map_err(failed("create")),
                }
            }
        }
    }

    /// Says it once, whichever replica comes first: the name follows from what is said.
    async fn event(&self, about: &ObjectReference, kind: &str, reason: &str, note: &str) {
        use sha2::{Digest as _, Sha256};
        // The API's limit.
        let note: String = note.chars().take(1_000).collect();
        let digest = Sha256::digest(format!("{reason} {note}"));
        let mark: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let event = Event {
            metadata: meta(&self.config.namespace, &format!("{}.{mark}", self.config.secret)),
            action: Some("FollowAuthority".into()),
            event_time: Some(MicroTime(jiff::Timestamp::now())),
            note: Some(note),
            reason: Some(reason.into()),
            regarding: Some(about.clone()),
            reporting_controller: Some("weft.dev/controller".into()),
            reporting_instance: Some(self.config.replica.clone()),
            type_: Some(kind.into()),
            ..Event::default()
        };
        let params = PostParams::default();
        match tokio::time::timeout(ANSWER, self.events.create(&params, &event)).await {
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
            Ok(Err(error)) => {
                tracing::warn!("{}", cluster::explain("create", "events.events.k8s.io", &error))
            }
        }
    }

    fn name(&self) -> String {
        named(&self.config)
    }
}

enum Failed {
    Error(SecretError),
    NoAnswer(String),
}

/// The Secret, made if it is not there.
async fn find_or_make(secrets: &Api<Secret>, config: &SecretConfig) -> Result<Secret, Failed> {
    let failed = |verb: &'static str| {
        move |error: kube::Error| {
            let text = cluster::explain(verb, "secrets", &error);
            match error {
                kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                    Failed::Error(SecretError::Api(text))
                }
                _ => Failed::NoAnswer(text),
            }
        }
    };
    if let Some(secret) = secrets.get_opt(&config.secret).await.map_err(failed("get"))? {
        return Ok(secret);
    }
    let (root, key) = BuiltinAuthority::generate(&config.trust_domain)
        .map_err(|error| Failed::Error(SecretError::Make(error)))?;
    let data = [(CERT, root.clone()), (KEY, key), (ROOTS, root)];
    let secret = Secret {
        metadata: meta(&config.namespace, &config.secret),
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data.into_iter().map(|(key, pem)| (key.into(), ByteString(pem.into_bytes()))).collect()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(made) => {
            tracing::info!(secret = named(config), "made an authority");
            Ok(made)
        }
        // Another replica was first: its authority is everybody's.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            secrets.get(&config.secret).await.map_err(failed("get"))
        }
        Err(error) => Err(failed("create")(error)),
    }
}

/// Grows with each write (Kubernetes' versions are etcd's revisions).
fn version(secret: &Secret) -> u64 {
    secret.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

/// The authority that the Secret's data make.
fn read(data: &BTreeMap<String, ByteString>, config: &SecretConfig) -> Result<BuiltinAuthority, SecretError> {
    let secret = named(config);
    let part = |key: &'static str| {
        let bytes = data.get(key).map(|bytes| bytes.0.as_slice()).filter(|bytes| !bytes.is_empty());
        bytes.ok_or_else(|| SecretError::Missing { secret: secret.clone(), key })
    };
    let name = |key: &str| PathBuf::from(format!("Secret {secret}, {key}"));
    let names = [name(CERT), name(KEY), name(ROOTS)];
    let [cert, key, roots]: [&Path; 3] = [&names[0], &names[1], &names[2]];
    let pem = AuthorityPem {
        cert: Named { name: cert, pem: part(CERT)? },
        key: Named { name: key, pem: part(KEY)? },
        roots: part(ROOTS).ok().map(|pem| Named { name: roots, pem }),
    };
    BuiltinAuthority::from_pem(&pem, &config.trust_domain)
        .map_err(|source| SecretError::Unusable { secret: secret.clone(), source: Box::new(source) })
}

fn named(config: &SecretConfig) -> String {
    format!("{}/{}", config.namespace, config.secret)
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    let labels = [("app.kubernetes.io/part-of", "weft"), ("app.kubernetes.io/managed-by", "weft-controller")];
    ObjectMeta {
        namespace: Some(namespace.into()),
        name: Some(name.into()),
        labels: Some(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()),
        ..ObjectMeta::default()
    }
}
