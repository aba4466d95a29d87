//! For tests: certificates of a throw-away authority, a server on loopback that does what a test tells it, and a dialler
//! to it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mesh_model::Reason;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};

use crate::*;

/// TLS configs of both ends, mutual.
pub(crate) struct Tls {
    pub(crate) client: Arc<rustls::ClientConfig>,
    pub(crate) server: Arc<rustls::ServerConfig>,
}

pub(crate) fn tls(alpn: &[u8]) -> Tls {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let leaf = || {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["peer".into()]).unwrap().signed_by(&key, &ca).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![CertificateDer::from(cert)], key)
    };
    let versions = &[&rustls::version::TLS13];
    let (chain, key) = leaf();
    let mut client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain, key)
        .unwrap();
    client.alpn_protocols = vec![ALPN.to_vec()];
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().unwrap();
    let (chain, key) = leaf();
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    server.alpn_protocols = vec![alpn.to_vec()];
    Tls { client: Arc::new(client), server: Arc::new(server) }
}

/// Dials one address, and counts.
pub(crate) struct Loopback {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) dials: AtomicUsize,
}

impl Dial for Loopback {
    fn dial(&self) -> BoxFuture<'_, Result<Dialed, DialError>> {
        async move {
            self.dials.fetch_add(1, Ordering::Relaxed);
            let tcp = TcpStream::connect(self.address).await?;
            let server_name = "peer".try_into().unwrap();
            Ok(Dialed { tcp, tls: self.tls.clone(), server_name })
        }
        .boxed()
    }
}

type Connect = Box<dyn Fn(InboundRequest) -> BoxFuture<'static, ()> + Send + Sync>;

/// A handler that does what a closure says, and remembers what was rejected.
pub(crate) struct Scripted {
    connect: Connect,
    pub(crate) rejected: Mutex<Vec<(Reason, String)>>,
}

impl Handler for Scripted {
    fn connect(&self, request: InboundRequest) -> BoxFuture<'static, ()> {
        (self.connect)(request)
    }

    fn rejected(&self, reason: Reason, detail: &str) {
        self.rejected.lock().unwrap().push((reason, detail.into()));
    }
}

/// An HBONE server on loopback.
pub(crate) struct Server {
    pub(crate) dial: Loopback,
    pub(crate) handler: Arc<Scripted>,
    pub(crate) shutdown: Shutdown,
    /// Accepted so far.
    pub(crate) accepted: Arc<AtomicUsize>,
    /// How the connections ended.
    pub(crate) ends: Arc<Mutex<Vec<Result<(), ServeError>>>>,
    /// One per connection.
    pub(crate) tasks: Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>,
    listening: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Server {
    pub(crate) async fn start<F>(config: ServerConfig, connect: F) -> Self
    where
        F: Fn(InboundRequest) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    {
        let tls = tls(ALPN);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handler = Arc::new(Scripted { connect: Box::new(connect), rejected: Mutex::default() });
        let shutdown = Shutdown::new();
        let accepted = Arc::new(AtomicUsize::new(0));
        let ends = Arc::new(Mutex::new(Vec::new()));
        let tasks = Arc::new(Mutex::new(Vec::new()));
        let listening = tokio::spawn({
            let (handler, shutdown, accepted) = (handler.clone(), shutdown.clone(), accepted.clone());
            let (ends, tasks) = (ends.clone(), tasks.clone());
            async move {
                loop {
                    let (tcp, peer) = listener.accept().await.unwrap();
                    accepted.fetch_add(1, Ordering::Relaxed);
                    let (handler, shutdown, tls) = (handler.clone(), shutdown.clone(), tls.server.clone());
                    let (config, ends) = (config.clone(), ends.clone());
                    tasks.lock().unwrap().push(tokio::spawn(async move {
                        let Ok(stream) = accept_tls(tcp, tls, &config).await else { return };
                        let end = serve_connection(stream, &config, peer, handler, shutdown).await;
                        ends.lock().unwrap().push(end);
                    }));
                }
            }
        });
        let dial = Loopback { address, tls: tls.client, dials: AtomicUsize::new(0) };
        Self { dial, handler, shutdown, accepted, ends, tasks, listening }
    }

    /// One that gives back what it gets.
    pub(crate) async fn echo() -> Self {
        Self::start(ServerConfig::default(), |request| {
            async move {
                let (mut sink, mut source) = request.accept().split();
                sink.open();
                while let Some(Ok(data)) = next(&mut source).await {
                    source.release(data.len());
                    if send(&mut sink, data).await.is_err() {
                        return;
                    }
                }
                let _ = sink.send(Bytes::new(), true);
            }
            .boxed()
        })
        .await
    }

    /// Cuts all connections, as a node that loses its agent does.
    pub(crate) fn kill(&self) {
        self.tasks.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

pub(crate) fn request() -> ConnectRequest {
    ConnectRequest {
        authority: "10.0.0.1:80".parse().unwrap(),
        client: "10.0.0.2:1234".parse().unwrap(),
        baggage: Some("k8s.namespace.name=shop,service.name=cart".into()),
        traceparent: None,
    }
}

pub(crate) async fn next(source: &mut impl Source) -> Option<Result<Bytes, RecvError>> {
    std::future::poll_fn(|cx| source.poll_data(cx)).await
}

/// Sends all of it, within what the peer grants.
pub(crate) async fn send(sink: &mut impl Sink, mut data: Bytes) -> Result<(), SendError> {
    while !data.is_empty() {
        let granted = std::future::poll_fn(|cx| sink.poll_capacity(cx, data.len())).await?;
        sink.send(data.split_to(granted.min(data.len())), false)?;
    }
    Ok(())
}

/// Receives exactly as much, releasing it.
pub(crate) async fn receive(source: &mut impl Source, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < bytes {
        let data = next(source).await.expect("ended early").expect("broke");
        source.release(data.len());
        all.extend_from_slice(&data);
    }
    assert_eq!(all.len(), bytes);
    all
}

/// Waits for what comes soon or not at all.
pub(crate) async fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<(), T>) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match look() {
            Ok(()) => return,
            Err(last) if tokio::time::Instant::now() > deadline => panic!("{what}: last saw {last:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
