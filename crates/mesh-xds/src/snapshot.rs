//! A world as one file: what an agent keeps of what it was told, for its next start.
//!
//! ```text
//! magic │ format │ node │ count │ count × (length, Resource: name and body) │ SHA-256 of all before
//! ```
//!
//! Numbers are big-endian, 32 bits. Bodies are those of the wire, so what is read back is what was told, and its hashes
//! are the versions that the next hello holds. Invariants: what is read is whole and of this node, or it is an error:
//! there is nothing in between. Not here: where the file is, and when it is written (the agent).

use std::io::{self, Write};

use mesh_model::World;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::proto;
use crate::resource::{Name, Resource, ResourceError, Strings};

const MAGIC: &[u8; 12] = b"weft-world\r\n";
/// To be raised when a reader of the one before would understand something else than was meant.
const FORMAT: u32 = 1;
const DIGEST: usize = 32;

/// Why bytes are no world of this node's.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Something else, or next to nothing.
    #[error("it does not begin as one: it is empty, cut off, or something else")]
    Foreign,
    /// Written by an agent of another version.
    #[error("it is of format {found}, and this agent reads format {FORMAT} alone")]
    Format {
        /// Its format.
        found: u32,
    },
    /// The digest does not fit.
    #[error("its checksum does not fit: it is damaged or cut off")]
    Damaged,
    /// Of another node.
    #[error("it is node {found}'s, and this is {wanted}")]
    Node {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// Whole, and yet malformed.
    #[error("it is whole, but record {record} is malformed")]
    Malformed {
        /// Which, from 0.
        record: u32,
    },
    /// A resource that this agent does not understand.
    #[error("it holds something that this agent does not understand")]
    Resource(#[source] ResourceError),
}

/// Writes a world, and flushes nothing.
pub fn write(world: &World, node: &str, out: impl Write) -> io::Result<()> {
    let mut out = Hashed { out, hash: Sha256::new() };
    let mesh = usize::from(world.mesh().is_some());
    let count = world.workloads().count()
        + world.services().count()
        + world.nodes().count()
        + world.policies().count()
        + mesh;
    out.write(MAGIC)?;
    out.number(FORMAT as usize)?;
    out.text(node.as_bytes())?;
    out.number(count)?;
    for (name, body) in Resource::each_of(world) {
        let record = proto::Resource { name: Some(name.encode()), version: Default::default(), body };
        out.text(&record.encode_to_vec())?;
    }
    let digest = out.hash.finalize();
    out.out.write_all(&digest)
}

/// Reads what [`write`] wrote for the same node.
pub fn read(bytes: &[u8], node: &str) -> Result<Vec<Resource>, SnapshotError> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotError::Foreign)?;
    // Before the digest, which another format may have elsewhere.
    let format = number(&mut rest).ok_or(SnapshotError::Foreign)?;
    if format != FORMAT {
        return Err(SnapshotError::Format { found: format });
    }
    let (before, digest) = bytes.split_last_chunk::<DIGEST>().ok_or(SnapshotError::Damaged)?;
    if *digest != *Sha256::digest(before) {
        return Err(SnapshotError::Damaged);
    }
    let mut rest = rest.strip_suffix(digest).ok_or(SnapshotError::Damaged)?;
    let malformed = |record| SnapshotError::Malformed { record };
    let of = text(&mut rest).ok_or(malformed(0))?;
    if of != node.as_bytes() {
        return Err(SnapshotError::Node {
            found: String::from_utf8_lossy(of).into_owned(),
            wanted: node.into(),
        });
    }
    let count = number(&mut rest).ok_or(malformed(0))?;
    let mut strings = Strings::default();
    let mut resources = Vec::new();
    for record in 0..count {
        let bytes = text(&mut rest).ok_or(malformed(record))?;
        let resource = proto::Resource::decode(bytes).map_err(|_| malformed(record))?;
        let mut name = Name::decode(resource.name.as_ref()).map_err(SnapshotError::Resource)?;
        let mut resource = Resource::decode(&name, &resource.body).map_err(SnapshotError::Resource)?;
        strings.share(&mut name, &mut resource);
        resources.push(resource);
    }
    if rest.is_empty() { Ok(resources) } else { Err(malformed(count)) }
}

/// Everything that passes is hashed.
struct Hashed<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }

    fn number(&mut self, number: usize) -> io::Result<()> {
        let number = u32::try_from(number).map_err(|_| io::Error::other("more than 4 GiB of one thing"))?;
        self.write(&number.to_be_bytes())
    }

    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.number(bytes.len())?;
        self.write(bytes)
    }
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*number))
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(text)
}

#[cfg(test)]
mod tests;
