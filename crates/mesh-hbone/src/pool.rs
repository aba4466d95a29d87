//! The client end: connections to peers' agents, kept per key and shared by tunnels.
//!
//! ```text
//!  open(key) ─┬─ a connection with room ──────────────▶ CONNECT on it
//!             ├─ somebody is making one ──▶ wait ──▶ again, or that one's failure
//!             ├─ a new one, SETTINGS to come ─▶ wait ──▶ again
//!             └─ make one (dial, TLS, h2) ──▶ put it in, wake the others ──▶ again
//! ```
//!
//! Invariants:
//! - One handshake per key at a time; all who waited for it share its failure. A maker that is dropped hands over to
//!   one of the waiting.
//! - A connection that has said GOAWAY, broke, or was evicted gets no new tunnel; the ones it has live on.
//! - A CONNECT is tried a second time only if the first was never put on the wire.
//! - The lock over the map is held for a look-up and never across an await.
//!
//! Not here: which peer a key stands for, and how its agent is reached (`Dial`).

mod connection;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::{ClientConfig, ConnectRequest, DialError, OpenError, Tunnel};
use connection::Connection;
pub(crate) use connection::Lease;

#[cfg(test)]
mod tests;

/// What a [`Dial`] brings.
pub struct Dialed {
    /// Connected to the peer's agent.
    pub tcp: TcpStream,
    /// The source's certificate, and the verifier that knows which peer is expected. ALPN must offer `h2`.
    pub tls: Arc<rustls::ClientConfig>,
    /// For rustls; a SPIFFE verifier does not look at it.
    pub server_name: ServerName<'static>,
}

/// Reaches a peer's agent. Called once per handshake, under the pool's timeout.
pub trait Dial: Send + Sync {
    /// Connects.
    fn dial(&self) -> BoxFuture<'_, Result<Dialed, DialError>>;

    /// The TLS handshake came out well, and took so long.
    fn secured(&self, took: Duration) {
        let _ = took;
    }
}

/// What the pool holds for one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyStats {
    /// Connections that may get new tunnels.
    pub connections: usize,
    /// Tunnels on them.
    pub streams: usize,
}

/// Connections to peers' agents. Cheap to clone; dropped with the last clone, while running tunnels live on.
pub struct Pool<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Pool<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<K> {
    config: ClientConfig,
    /// Held for a look-up.
    entries: Mutex<HashMap<K, Entry>>,
}

#[derive(Default)]
struct Entry {
    connections: Vec<Arc<Connection>>,
    /// The handshake in progress.
    flight: Option<watch::Receiver<Flight>>,
}

/// How far a handshake that others wait for is.
#[derive(Clone)]
enum Flight {
    Going,
    /// Succeeded, or given up by its maker: look again.
    Over,
    Failed(OpenError),
}

/// What `open` found.
enum Found {
    Room(Lease),
    Wait(watch::Receiver<Flight>),
    /// A new connection may have room, as soon as its peer has said how much.
    Settling(watch::Receiver<bool>),
    /// This caller makes the connection.
    Make(watch::Sender<Flight>),
    Full,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Pool<K> {
    /// An empty pool.
    pub fn new(config: ClientConfig) -> Self {
        Self { inner: Arc::new(Inner { config, entries: Mutex::default() }) }
    }

    /// Opens a tunnel. Does not wait for the peer's answer: data may be sent at once, and a refusal comes out of the
    /// receiving half (or [`Tunnel::response`]).
    ///
    /// # Errors
    /// See [`OpenError`]. All who waited for the same connection get the same one.
    pub async fn open(&self, key: &K, dial: &dyn Dial, request: ConnectRequest) -> Result<Tunnel, OpenError> {
        let request = request.to_http()?;
        loop {
            match self.inner.find(key) {
                Found::Room(lease) => {
                    let connection = lease.connection().clone();
                    match lease.request(clone(&request)) {
                        Ok(tunnel) => return Ok(tunnel),
                        // Nothing of it was sent: the connection was found dead or going away.
                        Err(error) => {
                            self.inner.remove(key, &connection);
                            if connection.is_new() {
                                return Err(OpenError::Http(Arc::new(error)));
                            }
                        }
                    }
                }
                Found::Wait(mut flight) => {
                    let over = flight.wait_for(|flight| !matches!(flight, Flight::Going)).await;
                    // A maker that vanished without a word is a maker that gave up.
                    if let Ok(state) = over
                        && let Flight::Failed(error) = &*state
                    {
                        return Err(error.clone());
                    }
                }
                Found::Settling(mut settled) => {
                    let limit = self.inner.config.handshake_timeout;
                    // Settled or over: look again.
                    let _ = tokio::time::timeout(limit, settled.wait_for(|settled| *settled))
                        .await
                        .map_err(|_| OpenError::Timeout)?;
                }
                // Boxed: it is large and rare, and every tunnel would carry its room for life.
                Found::Make(sender) => Box::pin(self.make(key, dial, sender)).await?,
                Found::Full => return Err(OpenError::Full),
            }
        }
    }

    /// Takes the connections of all keys for which `gone` holds out of the pool. Their tunnels live on, and each
    /// connection closes with its last one.
    pub fn evict(&self, mut gone: impl FnMut(&K) -> bool) {
        self.inner.lock().retain(|key, _| !gone(key));
    }

    /// What the pool holds, per key.
    pub fn stats(&self) -> Vec<(K, KeyStats)> {
        let entries = self.inner.lock();
        let stats = |entry: &Entry| KeyStats {
            connections: entry.connections.len(),
            streams: entry.connections.iter().map(|connection| connection.streams()).sum(),
        };
        entries.iter().map(|(key, entry)| (key.clone(), stats(entry))).collect()
    }

    async fn make(&self, key: &K, dial: &dyn Dial, sender: watch::Sender<Flight>) -> Result<(), OpenError> {
        let landing = Landing { inner: &self.inner, key, sender };
        let config = &self.inner.config;
        let made = within(config.handshake_timeout, Connection::make(dial, config)).await;
        let (connection, driver) = match made {
            Ok(made) => made,
            Err(error) => {
                landing.over(None, Flight::Failed(error.clone()));
                return Err(error);
            }
        };
        let (inner, key) = (Arc::downgrade(&self.inner), key.clone());
        let ended = Arc::downgrade(&connection);
        // Gives the connection away: it closes when pool and tunnels have let go of it.
        landing.over(Some(connection), Flight::Over);
        tokio::spawn(async move {
            let idle = |connection: &Arc<Connection>| {
                if let Some(inner) = inner.upgrade() {
                    inner.remove_idle(&key, connection);
                }
            };
            driver.run(idle).await;
            if let (Some(inner), Some(ended)) = (inner.upgrade(), ended.upgrade()) {
                inner.remove(&key, &ended);
            }
        });
        Ok(())
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, OpenError>>,
) -> Result<T, OpenError> {
    tokio::time::timeout(limit, work).await.map_err(|_| OpenError::Timeout)?
}

fn clone(request: &http::Request<()>) -> http::Request<()> {
    let mut copy = http::Request::new(());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// The maker's duty to say that it is over, also when it is dropped half-way.
struct Landing<'a, K: Hash + Eq + Clone> {
    inner: &'a Inner<K>,
    key: &'a K,
    sender: watch::Sender<Flight>,
}

impl<K: Hash + Eq + Clone> Landing<'_, K> {
    /// Puts the connection where the flight was. Where the key was evicted meanwhile, it is dropped: it was made with
    /// what the eviction made void.
    fn over(&self, connection: Option<Arc<Connection>>, state: Flight) {
        let mut entries = self.inner.lock();
        if let Some(entry) = entries.get_mut(self.key)
            && entry.flight.as_ref().is_some_and(|flight| flight.same_channel(&self.sender.subscribe()))
        {
            entry.flight = None;
            entry.connections.extend(connection);
            if entry.connections.is_empty() {
                entries.remove(self.key);
            }
        }
        drop(entries);
        self.sender.send_replace(state);
    }
}

impl<K: Hash + Eq + Clone> Drop for Landing<'_, K> {
    fn drop(&mut self) {
        if matches!(*self.sender.borrow(), Flight::Going) {
            self.over(None, Flight::Over);
        }
    }
}

impl<K: Hash + Eq + Clone> Inner<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &K) -> Found {
        let mut entries = self.lock();
        if !entries.contains_key(key) {
            entries.insert(key.clone(), Entry::default());
        }
        let Some(entry) = entries.get_mut(key) else {
            return Found::Full;
        };
        let bound = self.config.max_streams_per_connection;
        if let Some(lease) = entry.connections.iter().find_map(|connection| connection.lease(bound)) {
            return Found::Room(lease);
        }
        if let Some(flight) = &entry.flight {
            return Found::Wait(flight.clone());
        }
        if let Some(settling) = entry.connections.iter().find_map(|connection| connection.settling()) {
            return Found::Settling(settling);
        }
        if entry.connections.len() < self.config.max_connections_per_key.max(1) {
            let (sender, receiver) = watch::channel(Flight::Going);
            entry.flight = Some(receiver);
            return Found::Make(sender);
        }
        let emptiest = entry.connections.iter().min_by_key(|connection| connection.streams());
        match emptiest.and_then(|connection| connection.lease(usize::MAX)) {
            Some(lease) => Found::Room(lease),
            None => Found::Full,
        }
    }

    /// Takes a connection out of the pool.
    fn remove(&self, key: &K, connection: &Arc<Connection>) {
        remove(&mut self.lock(), key, connection);
    }

    /// The same, if nobody uses it. Under the lock under which leases are given, so that nobody gets it meanwhile.
    fn remove_idle(&self, key: &K, connection: &Arc<Connection>) {
        let mut entries = self.lock();
        if connection.streams() == 0 {
            remove(&mut entries, key, connection);
        }
    }
}

fn remove<K: Hash + Eq>(entries: &mut HashMap<K, Entry>, key: &K, connection: &Arc<Connection>) {
    if let Some(entry) = entries.get_mut(key) {
        entry.connections.retain(|other| !Arc::ptr_eq(other, connection));
        if entry.connections.is_empty() && entry.flight.is_none() {
            entries.remove(key);
        }
    }
}
