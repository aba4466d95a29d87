//! One certificate of the keyring with the TLS configurations made of it. Never changed: a renewal makes a new one, so
//! whoever holds an entry holds things that belong together.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_model::Identity;
use rustls::{ClientConfig, ServerConfig};

use crate::certificate::Certificate;
use crate::roots::Roots;
use crate::tls::{self, TlsError};

/// A certificate and what is made of it.
pub struct Entry {
    generation: u64,
    certificate: Certificate,
    roots: Roots,
    server_config: Arc<ServerConfig>,
    /// A plain lock: held while a configuration is looked up or made, which takes microseconds.
    clients: Mutex<Clients>,
}

/// Client configurations by expected peer, the one that was used longest ago going first.
struct Clients {
    configs: HashMap<Identity, (u64, Arc<ClientConfig>)>,
    capacity: usize,
    clock: u64,
}

impl Entry {
    pub(super) fn new(
        generation: u64,
        certificate: Certificate,
        roots: Roots,
        client_configs: usize,
    ) -> Result<Self, TlsError> {
        let server_config = tls::server_config(&certificate, &roots)?;
        let clients = Clients { configs: HashMap::new(), capacity: client_configs.max(1), clock: 0 };
        Ok(Self { generation, certificate, roots, server_config, clients: Mutex::new(clients) })
    }

    /// Different for any two entries of a keyring: a key for caches of things made of this one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// For accepting peers ([`tls::server_config`]).
    pub fn server_config(&self) -> &Arc<ServerConfig> {
        &self.server_config
    }

    /// For dialling `expected` ([`tls::client_config`]): the same one at each call, so that sessions are resumed.
    pub fn client_config(&self, expected: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.clock += 1;
        let clock = clients.clock;
        if let Some((used, config)) = clients.configs.get_mut(expected) {
            *used = clock;
            return Ok(Arc::clone(config));
        }
        let config = tls::client_config(&self.certificate, &self.roots, std::slice::from_ref(expected))?;
        if clients.configs.len() >= clients.capacity {
            let oldest = clients.configs.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                clients.configs.remove(&oldest);
            }
        }
        clients.configs.insert(expected.clone(), (clock, Arc::clone(&config)));
        Ok(config)
    }

    pub(super) fn roots(&self) -> &Roots {
        &self.roots
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("generation", &self.generation)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}
