//! Bytes that both ends of a transfer know: a fixed pseudo-random stream, and its digest.

use sha2::{Digest, Sha256};

/// Bytes made at a time.
pub const BLOCK: usize = 64 << 10;

/// The stream. Every one is the same, so a receiver needs only its length.
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
    left: u64,
    block: Vec<u8>,
}

impl Pattern {
    /// The first `length` bytes of the stream.
    pub fn new(length: u64) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, left: length, block: vec![0; BLOCK] }
    }

    /// The next block; empty at the end.
    pub fn next_block(&mut self) -> &[u8] {
        let count = self.left.min(BLOCK as u64) as usize;
        self.left -= count as u64;
        for word in self.block[..count.next_multiple_of(8)].chunks_exact_mut(8) {
            // xorshift64 (Marsaglia 2003): no two blocks alike, and faster than any wire.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes());
        }
        &self.block[..count]
    }
}

/// SHA-256 of the first `length` bytes of the stream, in hex.
pub fn digest(length: u64) -> String {
    let mut pattern = Pattern::new(length);
    let mut hash = Sha256::new();
    loop {
        match pattern.next_block() {
            [] => return hex(&hash.finalize()),
            block => hash.update(block),
        }
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
