//! What came out of a tunnel and is not yet with the application.
//!
//! Small pieces that have to wait are put together: a client that sends byte by byte to an application that does not read
//! must not cost a buffer per byte (the peer's window counts bytes, not frames).

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// A waiting piece below this is copied to its neighbour.
const SMALL: usize = 1 << 10;

/// Pieces for one write.
pub(super) const SLICES: usize = 16;

/// A queue of bytes in pieces.
#[derive(Default)]
pub(super) struct Backlog {
    /// The first piece; empty only if all is empty.
    front: Bytes,
    rest: VecDeque<Bytes>,
    /// Small pieces put together, after `rest`.
    tail: BytesMut,
    len: usize,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, data: Bytes) {
        self.len += data.len();
        if self.front.is_empty() {
            self.front = data;
        } else if data.len() < SMALL {
            self.tail.extend_from_slice(&data);
        } else {
            self.close_tail();
            self.rest.push_back(data);
        }
    }

    /// The first pieces, for one write. Returns how many.
    pub(super) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; SLICES]) -> usize {
        let tail = Some(&self.tail[..]).filter(|tail| !tail.is_empty());
        let pieces =
            std::iter::once(&self.front[..]).chain(self.rest.iter().map(|piece| &piece[..])).chain(tail);
        into.iter_mut().zip(pieces).map(|(slot, piece)| *slot = IoSlice::new(piece)).count()
    }

    /// Takes away what was written.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.len -= written;
        loop {
            let now = written.min(self.front.len());
            self.front.advance(now);
            written -= now;
            if !self.front.is_empty() {
                return;
            }
            match self.rest.pop_front() {
                Some(next) => self.front = next,
                None if self.tail.is_empty() => break,
                None => self.front = self.tail.split().freeze(),
            }
        }
        // Nothing is left, and nothing is held.
        *self = Self::default();
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail).freeze();
            self.rest.push_back(tail);
        }
    }
}

#[cfg(test)]
mod tests;
