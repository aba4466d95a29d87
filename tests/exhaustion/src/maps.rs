//! The pinned maps of a node's agent, filled from outside.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use aya::Pod as Plain;
use aya::maps::{HashMap, Map, MapData, MapError, SockHash};
use lab::Lab;
use mesh_common::{Addr, ListenerKey, maps, paths};

/// An address that nothing in a lab has.
pub fn filler(number: usize) -> Addr {
    let [_, b, c, d] = (number as u32).to_be_bytes();
    Addr::v4([11, b, c, d])
}

/// A hash map that is full. It has its room back when the handle goes.
pub struct Full<K: Plain, V: Plain> {
    map: HashMap<MapData, K, V>,
    keys: Vec<K>,
}

impl<K: Plain, V: Plain> Full<K, V> {
    /// Fills a node's map with entries of these keys until it takes no more.
    pub fn fill(
        lab: &Lab,
        node: &str,
        name: &str,
        most: usize,
        value: V,
        key: impl Fn(usize) -> K,
    ) -> Result<Self> {
        let map = HashMap::try_from(Map::HashMap(open(lab, node, name)?))?;
        let mut full = Self { map, keys: Vec::new() };
        for number in 0..=most {
            let key = key(number);
            match full.map.insert(key, value, 0) {
                Ok(()) => full.keys.push(key),
                Err(error) if is_full(&error) => return Ok(full),
                Err(error) => return Err(error).with_context(|| format!("fill {name}")),
            }
        }
        bail!("{name} takes more than {most} entries")
    }

    /// How many entries it took.
    pub fn taken(&self) -> usize {
        self.keys.len()
    }
}

impl<K: Plain, V: Plain> Drop for Full<K, V> {
    fn drop(&mut self) {
        for key in &self.keys {
            // The agent may have removed what it did not know.
            let _gone = self.map.remove(key);
        }
    }
}

/// The listeners' map, full of one listener; closing that makes room.
#[derive(Debug)]
pub struct FullOfListeners {
    _listener: TcpListener,
}

impl FullOfListeners {
    /// Fills a node's map.
    pub fn fill(lab: &Lab, node: &str) -> Result<Self> {
        // In a namespace of the lab's, not in the machine's.
        let listener = lab.node(node).netns_thread(|| TcpListener::bind("127.0.0.1:0"))??;
        let data = open(lab, node, maps::LISTENERS)?;
        let mut map: SockHash<_, ListenerKey> = SockHash::try_from(Map::SockHash(data))?;
        for number in 0..=maps::LISTENERS_MAX {
            let key = ListenerKey { addr: filler(number), port: 1 };
            match map.insert(key, listener.as_raw_fd(), 0) {
                Ok(()) => {}
                Err(error) if is_full(&error) => {
                    ensure!(number > 0, "it was full before");
                    return Ok(Self { _listener: listener });
                }
                Err(error) => return Err(error).context("fill the map of listeners"),
            }
        }
        bail!("it takes more than {} listeners", maps::LISTENERS_MAX)
    }
}

fn open(lab: &Lab, node: &str, name: &str) -> Result<MapData> {
    let path: PathBuf = lab.place().bpffs(node).join(paths::ROOT).join(paths::MAPS).join(name);
    MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))
}

fn is_full(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG))
}
