//! The usual cast: two pods in the mesh that talk all the time, and one outside that means harm.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Agent, Lab, Pod, Process};
use serde_json::Value;

use crate::certs::{Ca, Leaf, Shown};
use crate::session::{Hello, Session};

/// The port of HBONE.
pub const HBONE: u16 = 15008;
/// Where the server echoes.
pub const ECHO: u16 = 7000;
/// How long an attacked agent may take to answer somebody.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Connections per second of the neighbours.
const RATE: u32 = 40;

/// The pods.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// In the mesh, on node a.
    pub client: Arc<Pod>,
    /// In the mesh, on node b, where the attacked agent is. Echoes at [`ECHO`].
    pub server: Arc<Pod>,
    /// Outside the mesh, on node a.
    pub mallory: Arc<Pod>,
    /// The mesh's authority.
    pub ca: Ca,
    /// A good certificate for [`Self::mallory`].
    pub own: Shown,
    _echo: Process,
}

/// Connections between client and server while something else goes on.
#[derive(Debug)]
pub struct Neighbours(Process);

impl<'a> Stage<'a> {
    /// Starts everybody, in a lab with the nodes a and b.
    pub fn set(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let pod = |key: &str, node: &str| {
            let name = key.rsplit('/').next().unwrap_or(key);
            lab.pod(key).node(node).service_account(name).start()
        };
        let (client, server) = (pod("shop/client", "a")?, pod("shop/server", "b")?);
        let mallory = pod("yard/mallory", "a")?;
        lab.await_captured(&client)?;
        lab.await_captured(&server)?;
        lab.await_excluded(&mallory)?;
        lab.await_peers_tunnel(&server)?;
        let echo = server.spawn(["weft-lab-peer", "echo-many", "--listen", &ECHO.to_string()])?;
        server.await_listening(ECHO, PATIENCE)?;
        let ca = Ca::of_mesh(lab)?;
        let own = ca.sign(&Leaf::of(&[&identity("yard", "mallory")])?)?;
        Ok(Self { lab, client, server, mallory, ca, own, _echo: echo })
    }

    /// The agent that is attacked.
    pub fn agent(&self) -> &Agent {
        self.lab.agent("b")
    }

    /// What the mesh's members ask for.
    pub fn echo(&self) -> SocketAddr {
        SocketAddr::new(self.server.v4().into(), ECHO)
    }

    /// So many connections from mallory to the server's HBONE port.
    pub fn dial_many(&self, count: usize) -> Result<Vec<TcpStream>> {
        let to = SocketAddr::new(self.server.v4().into(), HBONE);
        let dial = || -> io::Result<Vec<TcpStream>> {
            (0..count).map(|_| TcpStream::connect_timeout(&to, PATIENCE)).collect()
        };
        self.mallory.netns_thread(dial)?.with_context(|| format!("dial {to}"))
    }

    /// One of them.
    pub fn dial(&self) -> Result<TcpStream> {
        self.dial_many(1)?.pop().context("a connection")
    }

    /// A client on a new connection, before its handshake.
    pub fn visit(&self, hello: &Hello) -> Result<Session> {
        Session::client(self.dial()?, hello.config()?)
    }

    /// A client with a good certificate whose HTTP/2 has begun.
    pub fn enter(&self) -> Result<Session> {
        self.enter_with(&crate::http2::frame(crate::http2::kind::SETTINGS, 0, 0, &[]))
    }

    /// The same with other first frames.
    pub fn enter_with(&self, settings: &[u8]) -> Result<Session> {
        let mut session = self.visit(&Hello::with(&self.own))?;
        session.shake_hands(PATIENCE)?;
        session.begin(settings, PATIENCE)?;
        Ok(session)
    }

    /// A pod on node b that its annotation says speaks HBONE without Weft. It listens to nothing yet.
    pub fn foreign(&self, name: &str) -> Result<Arc<Pod>> {
        let pod = self.lab.pod(&format!("yard/{name}")).node("b").service_account(name);
        let pod = pod.annotation("weft.dev/tunnel", "hbone").start()?;
        self.lab.await_excluded(&pod)?;
        // Its annotation may be known before its address.
        let (uid, address) = (pod.uid(), pod.v4().to_string());
        lab::eventually(PATIENCE, || {
            let known = self.lab.agent("a").workloads().map_err(|error| format!("{error:#}"))?;
            let entry = known.iter().find(|entry| entry["uid"] == uid).cloned().unwrap_or_default();
            let whole = entry["tunnel"] == "foreign" && entry["addresses"].to_string().contains(&address);
            if whole { Ok(()) } else { Err(entry.to_string()) }
        })?;
        Ok(pod)
    }

    /// Lets client and server talk until the end.
    pub fn neighbours(&self) -> Result<Neighbours> {
        let (to, rate) = (self.echo().to_string(), RATE.to_string());
        let hammer = ["weft-lab-peer", "hammer", "--to", &to, "--rate", &rate, "--seconds", "600"];
        Ok(Neighbours(self.client.spawn(hammer)?))
    }
}

impl Neighbours {
    /// Ends it. An error if any of their connections failed.
    pub fn none_failed(self) -> Result<String> {
        let report: Value = self.0.stop(Duration::from_secs(30))?.ok()?.json()?;
        let number = |key: &str| report[key].as_u64().unwrap_or_default();
        ensure!(number("attempted") > 0 && number("failed") == 0, "{report}");
        let milliseconds = number("max_us") / 1000;
        Ok(format!("{} connections, none failed, the longest {milliseconds} ms", number("attempted")))
    }
}

/// The next connection of a listener, if one comes.
pub fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let (tcp, _) = lab::eventually(PATIENCE, || listener.accept().map_err(|error| error.to_string()))?;
    Ok(tcp)
}

/// An identity of the lab's trust domain.
pub fn identity(namespace: &str, account: &str) -> String {
    format!("spiffe://{}/ns/{namespace}/sa/{account}", lab::TRUST_DOMAIN)
}
