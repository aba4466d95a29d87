//! The admin routes elsewhere than on the socket: over TCP with mutual TLS, and on the agent's own loopback.
//!
//! Both are off unless they are asked for. Whoever gets in may ask, and change, what root may at the socket; so the loopback must be
//! nobody's but the agent's: in the host's network namespace it would be everybody's on the node, and is refused there (ADR 26).

use std::path::Path;

use anyhow::{Context as _, bail};
use mesh_telemetry::http::Server;
use mesh_telemetry::http::tls::{MutualTls, TlsFiles};

use crate::config::RemoteFlags;
use crate::netns::Netns;

/// Listens where the flags say; nobody is answered yet.
pub fn servers(flags: &RemoteFlags, host: &Netns) -> anyhow::Result<Vec<Server>> {
    let mut servers = Vec::new();
    if let (Some(addr), Some(cert), Some(key), Some(ca)) =
        (flags.admin_listen, &flags.admin_cert, &flags.admin_key, &flags.admin_client_ca)
    {
        let files = TlsFiles { cert: cert.clone(), key: key.clone(), ca: ca.clone() };
        let tls = MutualTls::open(files)
            .context("cannot serve meshctl over TLS (--admin-cert, --admin-key, --admin-client-ca)")?;
        servers.push(Server::tls(addr, tls).context("cannot serve meshctl over TLS (--admin-listen)")?);
    }
    if flags.admin_loopback_port > 0 {
        let own = Netns::open(Path::new("/proc/self/ns/net"))
            .context("cannot open the agent's own network namespace")?;
        if own.cookie() == host.cookie() {
            bail!(
                "--admin-loopback-port is for an agent with a network namespace of its own: here the loopback is everybody's on this node. \
                 Use the admin socket, or --admin-listen"
            );
        }
        let server = Server::loopback(flags.admin_loopback_port);
        servers.push(server.context("cannot serve meshctl on the loopback (--admin-loopback-port)")?);
    }
    Ok(servers)
}
