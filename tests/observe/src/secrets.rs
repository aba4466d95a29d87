//! Secrets that a test knows, and whether a text has one of them in any of the forms in which it could get there.
//!
//! ```text
//! files of the lab ─▶ Secret: as it is, hex, base64, a list of numbers ─▶ found in? ◀─ logs, answers, bundles
//! ```
//!
//! Invariant: what is reported of a find is the secret's name, never the secret.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A secret's forms are this long at least: what is shorter may be anywhere by chance.
const SHORTEST: usize = 16;
/// Bytes of a private key that are looked for: enough to be no chance, few enough to be found in a piece of it.
const PIECE: usize = 12;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// One secret.
#[derive(Clone, Debug)]
pub struct Secret {
    /// What it is, for a failure.
    pub name: String,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    /// A word: a token, or what was planted in an environment.
    pub fn word(name: &str, word: &str) -> Self {
        let bytes = word.trim().as_bytes();
        // Base64 of what stands before it is not known: three phases, and the ends left out.
        let shifted = (0..3).map(|skip| bytes.get(skip..).unwrap_or_default()).map(base64);
        let forms = [bytes.to_vec(), hex(bytes)].into_iter().chain(shifted);
        Self { name: name.into(), forms: forms.filter(|form| form.len() >= SHORTEST).collect() }
    }

    /// A private key in PEM: its lines, and what its DER ends with in other forms. The beginning is alike in all keys.
    pub fn key(name: &str, pem: &str) -> Result<Self> {
        let begin = pem.find("PRIVATE KEY-----").context("no private key")?;
        let body = pem[begin..].lines().skip(1).take_while(|line| !line.starts_with("-----"));
        let lines: Vec<&str> = body.map(str::trim).collect();
        let der = decode(&lines.concat());
        // PKCS #8 of a P-256 key: 36 bytes that are the same in all, then the secret number.
        let scalar = der.get(36..68).context("a key of another form")?;
        let mut forms: Vec<Vec<u8>> = Vec::new();
        for piece in scalar.chunks_exact(PIECE) {
            let numbers = |between: &str| piece.iter().map(u8::to_string).collect::<Vec<_>>().join(between);
            forms.extend([piece.to_vec(), hex(piece), numbers(",").into(), numbers(", ").into()]);
        }
        forms.extend(lines.first().and_then(|line| line.get(48..)).map(|rest| rest.as_bytes().to_vec()));
        forms.extend((0..3).map(|skip| base64(&scalar[skip..])));
        Ok(Self { name: name.into(), forms })
    }

    /// Whether it is in there.
    pub fn is_in(&self, haystack: &[u8]) -> bool {
        self.forms.iter().any(|form| haystack.windows(form.len()).any(|window| window == form))
    }
}

/// Every private key in the files below a directory, by file.
pub fn keys_below(directory: &Path) -> Result<Vec<Secret>> {
    let mut keys = Vec::new();
    for path in files_below(directory)? {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if text.contains("PRIVATE KEY-----") {
            keys.push(
                Secret::key(&path.display().to_string(), &text)
                    .with_context(|| path.display().to_string())?,
            );
        }
    }
    Ok(keys)
}

/// Every file below a directory.
pub fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

/// Whole groups alone: what would follow changes the last characters.
fn base64(bytes: &[u8]) -> Vec<u8> {
    let group = |three: &[u8]| {
        let number = three.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| ALPHABET[number >> shift & 63])
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

fn decode(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for value in text.bytes().filter_map(|byte| ALPHABET.iter().position(|known| *known == byte)) {
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests;
