//! A small API server: lists the pods that it is given, and forwards to ports of this machine in their place.
//!
//! It speaks the subresource as the real one does: a WebSocket with two channels a port (bytes, and errors), each of which begins with
//! the port's number in two bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// What becomes of a forward to a pod.
#[derive(Clone)]
pub(super) enum Way {
    /// It leads here.
    To(SocketAddr),
    /// Nobody listens on the pod's port: the node says so in the channel of errors.
    Nobody,
    /// The pod is pending; the scheduler has not put it on its node yet.
    Pending,
    /// The API server says no.
    No(u16, &'static str),
}

/// A pod of the cluster.
pub(super) struct FakePod {
    pub(super) name: &'static str,
    pub(super) node: &'static str,
    pub(super) way: Way,
}

/// The server, while it lives.
pub(super) struct ApiServer {
    /// A kubeconfig that leads to it.
    pub(super) kubeconfig: PathBuf,
    /// Heads of all requests, in order.
    pub(super) requests: Arc<Mutex<Vec<String>>>,
    /// Its pods, to be changed while it runs.
    pub(super) pods: Arc<Mutex<Vec<FakePod>>>,
    _directory: tempfile::TempDir,
    _runtime: Runtime,
}

impl ApiServer {
    /// With agents of these names and nodes in `weft-system`. `protocol` is what it chooses of those that are offered.
    pub(super) fn start(pods: Vec<FakePod>, protocol: &'static str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "staging",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "staging", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let pods = Arc::new(Mutex::new(pods));
        let (known, heard) = (pods.clone(), requests.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, known.clone(), heard.clone(), protocol));
            }
        });
        Self { kubeconfig, requests, pods, _directory: directory, _runtime: runtime }
    }
}

async fn serve(
    mut stream: TcpStream,
    pods: Arc<Mutex<Vec<FakePod>>>,
    requests: Arc<Mutex<Vec<String>>>,
    protocol: &'static str,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    requests.lock().unwrap().push(head.clone());
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let Some(name) = path.strip_suffix("/portforward?&ports=15000").and_then(|path| path.rsplit('/').next())
    else {
        let listed = listed(&pods.lock().unwrap(), &path);
        return answer(&mut stream, 200, &listed).await;
    };
    let way = pods.lock().unwrap().iter().find(|pod| pod.name == name).map(|pod| pod.way.clone());
    match way {
        None => answer(&mut stream, 404, &status(404, &format!("pods \"{name}\" not found"))).await,
        Some(Way::No(code, message)) => answer(&mut stream, code, &status(code, message)).await,
        Some(Way::Nobody | Way::Pending) => forward(stream, &head, protocol, None).await,
        Some(Way::To(addr)) => forward(stream, &head, protocol, Some(addr)).await,
    }
}

fn listed(pods: &[FakePod], path: &str) -> Value {
    let is_pending = |pod: &FakePod| matches!(pod.way, Way::Pending);
    let on_node = |pod: &&FakePod| match path.split_once("spec.nodeName%3D") {
        Some((_, rest)) => !is_pending(pod) && rest.split('&').next() == Some(pod.node),
        None => true,
    };
    let meant_for = |node: &str| {
        let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
        let required =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        json!({"containers": [], "affinity": {"nodeAffinity": required}})
    };
    let items: Vec<Value> = pods
        .iter()
        .filter(on_node)
        .map(|pod| {
            let (spec, status) = match is_pending(pod) {
                true => (meant_for(pod.node), json!({"phase": "Pending"})),
                false => (
                    json!({"nodeName": pod.node, "containers": []}),
                    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
                ),
            };
            let metadata = json!({"namespace": "weft-system", "name": pod.name});
            json!({"metadata": metadata, "spec": spec, "status": status})
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})
}

fn status(code: u16, message: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": message,
           "reason": "", "metadata": {}})
}

async fn answer(stream: &mut TcpStream, code: u16, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
}

async fn forward(mut stream: TcpStream, head: &str, protocol: &str, to: Option<SocketAddr>) {
    let fields: BTreeMap<String, String> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    assert!(fields["sec-websocket-protocol"].contains(protocol), "{head}");
    let accept = derive_accept_key(fields["sec-websocket-key"].as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {accept}\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let (mut sink, mut source) = socket.split();
    let frame = |channel: u8, bytes: &[u8]| Message::binary([&[channel], bytes].concat());
    for channel in [0, 1] {
        sink.send(frame(channel, &15000_u16.to_le_bytes())).await.unwrap();
    }
    let Some(to) = to else {
        let said = "failed to connect to localhost:15000 inside namespace: connection refused";
        sink.send(frame(1, said.as_bytes())).await.unwrap();
        let _ = sink.send(Message::Close(None)).await;
        // Until the client has closed as well (RFC 6455, section 7.1.1): a socket that is closed with something unread takes back what
        // it has said.
        while let Some(Ok(_)) = source.next().await {}
        return;
    };
    let (mut from_pod, mut to_pod) = TcpStream::connect(to).await.unwrap().into_split();
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) if bytes.first() == Some(&0) => {
                    // A pod that has closed says so on the other half.
                    let _ = to_pod.write_all(&bytes[1..]).await;
                }
                Message::Close(_) => return,
                _ => {}
            }
        }
    });
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(read @ 1..) = from_pod.read(&mut buffer).await {
        if sink.send(frame(0, &buffer[..read])).await.is_err() {
            return;
        }
    }
    let _ = sink.send(Message::Close(None)).await;
}
