//! Who is calling: a file of lines `NODE TOKEN`, read anew for each call.
//!
//! Reading it each time is cheap next to a TLS handshake, and a token that was taken out of the file stops working
//! with the next call.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The file of tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    path: PathBuf,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read the agents' tokens from {}: make a file of lines `NODE TOKEN`, mode 0600", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{} is readable by others (mode {mode:04o}): chmod 0600 {}", path.display(), path.display())]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A line is not of the form.
    #[error("{}, line {line}: not of the form `NODE TOKEN`", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// Two nodes with one token: nobody could say who calls.
    #[error("{}, line {line}: the token is another node's too", path.display())]
    Shared {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

impl Tokens {
    /// The file, read once to see that it is good.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let tokens = Self { path: path.into() };
        tokens.read()?;
        Ok(tokens)
    }

    /// The node whose token it is, if it is one's.
    pub fn node_of(&self, token: &str) -> Result<Option<String>, TokenError> {
        let given = Sha256::digest(token);
        let mut found = None;
        for (node, digest) in self.read()? {
            // Digests are compared, and all of them: time says nothing about the tokens.
            let differs = digest.iter().zip(&given).fold(0, |all, (a, b)| all | (a ^ b));
            if differs == 0 {
                found = Some(node);
            }
        }
        Ok(found)
    }

    fn read(&self) -> Result<Vec<(String, [u8; 32])>, TokenError> {
        let path = || self.path.clone();
        let failed = |source| TokenError::Read { path: path(), source };
        let mut file = fs::File::open(&self.path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Mode { path: path(), mode });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let mut tokens: Vec<(String, [u8; 32])> = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let mut words = content.split_whitespace();
            let (Some(node), Some(token), None) = (words.next(), words.next(), words.next()) else {
                return Err(TokenError::Line { path: path(), line });
            };
            let digest: [u8; 32] = Sha256::digest(token).into();
            if tokens.iter().any(|(other, known)| *known == digest && other != node) {
                return Err(TokenError::Shared { path: path(), line });
            }
            tokens.push((node.into(), digest));
        }
        Ok(tokens)
    }
}
