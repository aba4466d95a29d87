//! Promise: an agent is who its service account token says, on the node that the token names, for as long as the API server
//! says so; and an API server that is away cuts off nobody who was known.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client as Kube};
use kube_tests::{ApiServer, block_on};
use lab::eventually;
use lab::row::Table;
use mesh_controller::index::Captures;
use mesh_controller::issue::{self, Issuer};
use mesh_controller::metrics::Metrics;
use mesh_controller::publish::{Callers, ControlService, Hub, ReviewConfig, Reviews};
use mesh_identity::{Authority as _, BuiltinAuthority, tls};
use mesh_model::TrustDomain;
use mesh_telemetry::shutdown::Shutdown;
use mesh_xds::{Client, ClientConfig, Event};

/// How long one step may take on a busy machine.
const NOTICE: Duration = Duration::from_secs(40);
const NAMESPACE: &str = "weft-system";
const AUDIENCE: &str = "weft-controller";

/// A controller's wire with nothing behind it but who calls.
struct Wire {
    address: SocketAddr,
    dir: tempfile::TempDir,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// An agent, and what it heard.
struct Agent {
    client: Client,
    errors: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Wire {
    fn start(kube: &Kube, config: ReviewConfig) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let domain = TrustDomain::new("cluster.local")?;
        let authority = Arc::new(BuiltinAuthority::open_or_create(&dir.path().join("state"), &domain)?);
        std::fs::write(dir.path().join("root.pem"), authority.roots().to_pem())?;
        let own = issue::server_certificate(&*authority, Duration::from_secs(3600))?;
        let metrics = Metrics::default();
        let hub = Hub::new(Captures::default(), metrics.clone());
        hub.loaded();
        let shutdown = Shutdown::new();
        let callers = Callers::Reviewed(Reviews::new(kube.clone(), config));
        let issuer = Issuer::new(authority, Duration::from_secs(3600));
        let control = ControlService::new(hub, callers, issuer, shutdown.clone());
        let listener = block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let config = tls::control_server_config(&own)?;
        let stop = shutdown.clone();
        block_on(async {
            tokio::spawn(mesh_xds::server::serve(
                listener,
                config,
                control,
                async move { stop.wait().await },
            ));
        });
        Ok(Self { address, dir, metrics, shutdown })
    }

    fn config(&self, node: &str, token: &str) -> Result<ClientConfig> {
        static FILES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file: PathBuf = self.dir.path().join(format!("token-{number}"));
        std::fs::write(&file, token)?;
        Ok(ClientConfig::new(self.address.to_string(), self.dir.path().join("root.pem"), file, node))
    }

    fn agent(&self, node: &str, token: &str) -> Result<Agent> {
        let config = self.config(node, token)?;
        let errors = Arc::new(Mutex::new(Vec::new()));
        let (client, task) = block_on(async {
            let (client, mut events) = Client::spawn(config);
            let errors = errors.clone();
            let task = tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    match event {
                        Event::Disconnected { error } => errors.lock().unwrap().push(error),
                        Event::Update(update) => update.receipt.ack(),
                        Event::Connected | Event::Released(_) => {}
                    }
                }
            });
            (client, task)
        });
        Ok(Agent { client, errors, task })
    }

    /// The words of the refusal that an agent gets, which has all of these in it.
    fn refused(&self, node: &str, token: &str, reason: &'static str, words: &[&str]) -> Result<String> {
        let before = self.metrics.unauthenticated_by(reason);
        let agent = self.agent(node, token)?;
        let error = agent.await_error("refused")?;
        for word in words {
            ensure!(error.contains(word), "no {word:?} in {error:?}");
        }
        ensure!(self.metrics.unauthenticated_by(reason) > before, "{reason} is not counted");
        Ok(error)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Agent {
    fn await_connected(&self) -> Result<()> {
        eventually(NOTICE, || {
            let status = self.client.status();
            if status.connected { Ok(()) } else { Err(format!("{status:?}")) }
        })
    }

    fn await_error(&self, word: &str) -> Result<String> {
        eventually(NOTICE, || {
            let errors = self.errors.lock().unwrap();
            errors.iter().find(|error| error.contains(word)).cloned().ok_or_else(|| format!("{errors:?}"))
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the cluster holds for this test.
struct Cluster {
    kube: Kube,
}

impl Cluster {
    fn new(kube: Kube) -> Result<Self> {
        let cluster = Self { kube };
        for namespace in [NAMESPACE, "elsewhere"] {
            let namespaces: Api<Namespace> = Api::all(cluster.kube.clone());
            let object = Namespace { metadata: meta(namespace), ..Namespace::default() };
            made(block_on(namespaces.create(&PostParams::default(), &object)))?;
            for account in ["weft-agent", "other"] {
                let accounts: Api<ServiceAccount> = Api::namespaced(cluster.kube.clone(), namespace);
                let object = ServiceAccount { metadata: meta(account), ..ServiceAccount::default() };
                made(block_on(accounts.create(&PostParams::default(), &object)))?;
            }
        }
        Ok(cluster)
    }

    /// A pod that runs on a node as an account.
    fn pod(&self, namespace: &str, name: &str, account: &str, node: &str) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.kube.clone(), namespace);
        let main = Container { name: "main".into(), image: Some("none".into()), ..Container::default() };
        let pod = Pod {
            metadata: meta(name),
            spec: Some(PodSpec {
                node_name: Some(node.into()),
                service_account_name: Some(account.into()),
                containers: vec![main],
                ..PodSpec::default()
            }),
            ..Pod::default()
        };
        Ok(block_on(pods.create(&PostParams::default(), &pod))?)
    }

    /// A token as kubelet gets it for a projected volume.
    fn token(&self, pod: &Pod, audience: &str) -> Result<String> {
        let spec = pod.spec.as_ref().context("spec")?;
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        };
        let namespace = pod.metadata.namespace.as_deref().context("namespace")?;
        let account = spec.service_account_name.as_deref().context("account")?;
        self.request(namespace, account, audience, Some(bound))
    }

    fn request(
        &self,
        namespace: &str,
        account: &str,
        audience: &str,
        bound: Option<BoundObjectReference>,
    ) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.kube.clone(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.into()],
                expiration_seconds: Some(600),
                bound_object_ref: bound,
            },
            ..TokenRequest::default()
        };
        let answer = block_on(accounts.create_token_request(account, &PostParams::default(), &request))?;
        Ok(answer.status.context("status")?.token)
    }

    fn remove(&self, pod: &Pod) -> Result<()> {
        let namespace = pod.metadata.namespace.as_deref().context("namespace")?;
        let pods: Api<Pod> = Api::namespaced(self.kube.clone(), namespace);
        let name = pod.metadata.name.as_deref().context("name")?;
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        block_on(pods.delete(name, &now))?;
        Ok(())
    }
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

/// What is there already is as good.
fn made<T>(created: kube::Result<T>) -> Result<()> {
    match created {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

fn reviews() -> ReviewConfig {
    ReviewConfig::new(AUDIENCE, NAMESPACE, "weft-agent")
}

/// The payload of a token exchanged for another: the signature no longer fits.
fn forged(token: &str, payload: &serde_json::Value) -> String {
    let bytes = k8s_openapi::ByteString(payload.to_string().into_bytes());
    let text = serde_json::to_value(bytes).unwrap();
    let text = text.as_str().unwrap().replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned();
    let mut parts: Vec<&str> = token.split('.').collect();
    parts[1] = &text;
    parts.join(".")
}

#[test]
fn a_token_is_good_for_its_audience_its_account_and_its_node() {
    let server = ApiServer::start().unwrap();
    let cluster = Cluster::new(server.client().unwrap()).unwrap();
    let wire = Wire::start(&cluster.kube, reviews()).unwrap();
    let mut table = Table::new("tokens of agents");
    let pod = cluster.pod(NAMESPACE, "weft-agent-1", "weft-agent", "node-1").unwrap();
    let good = cluster.token(&pod, AUDIENCE).unwrap();
    let other = cluster.pod(NAMESPACE, "other", "other", "node-1").unwrap();
    let elsewhere = cluster.pod("elsewhere", "weft-agent", "weft-agent", "node-1").unwrap();

    table.row("the token of an agent's pod is its node's", || {
        let agent = wire.agent("node-1", &good)?;
        agent.await_connected()?;
        Ok(String::new())
    });
    table.row("another node's is refused", || {
        wire.refused("node-2", &good, "other_node", &["node-1's", "node-2"])
    });
    table.row("one for another audience is refused", || {
        let token = cluster.token(&pod, "somebody-else")?;
        wire.refused("node-1", &token, "wrong_audience", &[AUDIENCE, "projected volume"])
    });
    table.row("another service account's is refused", || {
        let token = cluster.token(&other, AUDIENCE)?;
        let words =
            ["system:serviceaccount:weft-system:other", "system:serviceaccount:weft-system:weft-agent"];
        wire.refused("node-1", &token, "other_service_account", &words)
    });
    table.row("the same account's of another namespace is refused", || {
        let token = cluster.token(&elsewhere, AUDIENCE)?;
        wire.refused("node-1", &token, "other_service_account", &["serviceaccount:elsewhere:weft-agent"])
    });
    table.row("one that is bound to no pod names no node", || {
        let token = cluster.request(NAMESPACE, "weft-agent", AUDIENCE, None)?;
        wire.refused("node-1", &token, "token_without_node", &["Kubernetes 1.32"])
    });
    table.row("one that has expired is refused", || {
        let token = forged(&good, &serde_json::json!({"aud": [AUDIENCE], "exp": 1_700_000_000}));
        wire.refused("node-1", &token, "expired_token", &["expired"])
    });
    table.row("a forged one is refused", || {
        let token = forged(&good, &serde_json::json!({"aud": [AUDIENCE], "exp": 4_000_000_000_u64}));
        wire.refused("node-1", &token, "token_not_accepted", &["API server"])
    });
    table.row("what is no service account token is refused", || {
        wire.refused("node-1", "token-of-one", "malformed_token", &["projected volume"])
    });
    table.row("the controller's own audience is asked for, and one review serves a node for a while", || {
        let before = reviewed(&server)?;
        for _ in 0..5 {
            wire.agent("node-1", &good)?.await_connected()?;
        }
        ensure!(reviewed(&server)? == before, "asked again");
        Ok(format!("{before} reviews in all"))
    });
    table.finish();
}

/// How many reviews the API server was asked for; none for a cluster whose log is not ours.
fn reviewed(server: &ApiServer) -> Result<usize> {
    Ok(server.audit()?.iter().filter(|request| request.resource == "tokenreviews").count())
}

#[test]
fn a_token_that_is_taken_away_ends_the_stream() {
    let server = ApiServer::start().unwrap();
    let cluster = Cluster::new(server.client().unwrap()).unwrap();
    let mut config = reviews();
    (config.fresh, config.again) = (Duration::from_millis(100), Duration::from_millis(200));
    let wire = Wire::start(&cluster.kube, config).unwrap();
    let mut table = Table::new("a token that is taken away");
    table.row("with its pod the token goes, and with the token the stream", || {
        let pod = cluster.pod(NAMESPACE, "weft-agent-gone", "weft-agent", "node-1")?;
        let stays = cluster.pod(NAMESPACE, "weft-agent-stays", "weft-agent", "node-2")?;
        let agent = wire.agent("node-1", &cluster.token(&pod, AUDIENCE)?)?;
        let other = wire.agent("node-2", &cluster.token(&stays, AUDIENCE)?)?;
        agent.await_connected()?;
        other.await_connected()?;
        cluster.remove(&pod)?;
        let error = agent.await_error("API server does not accept the token")?;
        ensure!(other.client.status().connected && other.errors.lock().unwrap().is_empty(), "the other, too");
        Ok(error)
    });
    table.finish();
}

#[test]
fn with_the_api_server_gone_who_is_known_goes_on_and_others_wait() {
    let server = ApiServer::start().unwrap();
    let mut table = Table::new("the API server is gone");
    if !server.is_ours() {
        table.skip("the API server is gone", "it is somebody's cluster");
        return table.finish();
    }
    let cluster = Cluster::new(server.client().unwrap()).unwrap();
    let mut config = reviews();
    (config.fresh, config.again) = (Duration::from_millis(1), Duration::from_millis(200));
    let wire = Wire::start(&cluster.kube, config).unwrap();
    let pod = |node: &str| cluster.pod(NAMESPACE, &format!("weft-agent-{node}"), "weft-agent", node).unwrap();
    let known = cluster.token(&pod("node-1"), AUDIENCE).unwrap();
    let stranger = cluster.token(&pod("node-2"), AUDIENCE).unwrap();
    let open = wire.agent("node-1", &known).unwrap();
    open.await_connected().unwrap();
    server.stop();
    table.row("an agent whose token was reviewed connects again", || {
        wire.agent("node-1", &known)?.await_connected()?;
        Ok(String::new())
    });
    let waiting = wire.agent("node-2", &stranger).unwrap();
    table.row("one whose token was not waits, and is told why", || {
        waiting.await_error("API server does not answer")
    });
    table.row("a stream that is open stays", || {
        ensure!(open.client.status().connected, "{:?}", open.errors.lock().unwrap());
        ensure!(open.errors.lock().unwrap().is_empty(), "{:?}", open.errors.lock().unwrap());
        Ok(String::new())
    });
    server.start_again().unwrap();
    table.row("it is let in once the API server is back", || {
        waiting.await_connected()?;
        Ok(String::new())
    });
    table.finish();
}

#[test]
fn a_storm_of_reconnects_is_one_review_a_token() {
    const AGENTS: usize = 200;
    let server = ApiServer::start().unwrap();
    let cluster = Cluster::new(server.client().unwrap()).unwrap();
    // On a slow machine a minute may be over before all are back, and one review of so many waits longer than usual.
    let config =
        ReviewConfig { fresh: Duration::from_secs(600), timeout: Duration::from_secs(60), ..reviews() };
    let wire = Wire::start(&cluster.kube, config).unwrap();
    let mut table = Table::new("a storm of reconnects");
    let tokens: Vec<(String, String)> = (0..AGENTS)
        .map(|number| {
            let node = format!("node-{number}");
            let pod = cluster.pod(NAMESPACE, &format!("weft-agent-{number}"), "weft-agent", &node).unwrap();
            let token = cluster.token(&pod, AUDIENCE).unwrap();
            (node, token)
        })
        .collect();
    let storm = || {
        let agents: Vec<Agent> =
            tokens.iter().map(|(node, token)| wire.agent(node, token)).collect::<Result<_>>()?;
        agents.iter().try_for_each(Agent::await_connected)?;
        anyhow::Ok(agents)
    };
    table.row("all are let in, with one review each", || {
        let first = storm()?;
        let asked = reviewed(&server)?;
        ensure!(!server.is_ours() || asked == AGENTS, "{asked} reviews for {AGENTS} agents");
        drop(first);
        Ok(format!("{asked} reviews"))
    });
    table.row("all come back at once, and nobody is asked", || {
        let before = reviewed(&server)?;
        let _second = storm()?;
        let asked = reviewed(&server)? - before;
        ensure!(asked == 0, "{asked} reviews");
        Ok(format!("{asked} reviews"))
    });
    table.finish();
}
