//! Random names: lab ids, pod UIDs, container ids. From the kernel, so that two processes never agree.

use std::fs::File;
use std::io::{self, Read};

/// `bytes` random bytes as lower-case hex.
pub(crate) fn hex(bytes: usize) -> io::Result<String> {
    let mut buffer = vec![0_u8; bytes];
    File::open("/dev/urandom")?.read_exact(&mut buffer)?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A version 4 UUID, as the API server gives to pods.
pub(crate) fn uuid() -> io::Result<String> {
    let mut digits = hex(16)?.into_bytes();
    if let Some(version) = digits.get_mut(12) {
        *version = b'4';
    }
    if let Some(variant) = digits.get_mut(16) {
        *variant = b'8';
    }
    let text = String::from_utf8_lossy(&digits).into_owned();
    Ok(format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]))
}
