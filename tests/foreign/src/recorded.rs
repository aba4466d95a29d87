//! What is recorded of the wire, as JSON files of this package: read, and compared with what was seen.
//!
//! A recorded value may have holes: `{client}` for something that the test knows, `{number}` for any number.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use http::HeaderMap;
use serde::Deserialize;

/// Names and values, in any order; a name that comes twice is there twice.
pub type Fields = BTreeSet<(String, String)>;

/// What a request or an answer says: names of HTTP/2's own fields begin with a colon.
#[derive(Debug, Deserialize)]
pub struct Recorded {
    /// What it is, in words.
    pub name: String,
    /// Its fields.
    pub fields: Vec<(String, String)>,
}

/// A request that other peers send, to be accepted.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// Who sends such a one.
    pub name: String,
    /// The fields beside the method and the authority.
    pub fields: Vec<(String, String)>,
    /// Whether the application sees the port that it tells.
    pub tells_port: bool,
}

/// Fields of HTTP as they were seen.
pub fn seen(headers: &HeaderMap) -> Fields {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// What is recorded with its holes filled.
pub fn filled(recorded: &[(String, String)], holes: &BTreeMap<&str, String>) -> Fields {
    let fill = |value: &String| {
        holes.iter().fold(value.clone(), |value, (name, what)| value.replace(&format!("{{{name}}}"), what))
    };
    recorded.iter().map(|(name, value)| (name.clone(), fill(value))).collect()
}

/// Fails unless what was seen is what is recorded, neither more nor less.
pub fn compare(seen: &Fields, recorded: &Fields) -> Result<()> {
    let known = |field: &&(String, String)| {
        recorded.contains(*field) || recorded.contains(&(field.0.clone(), "{number}".into()))
    };
    let new: Vec<_> = seen.iter().filter(|field| !known(field)).collect();
    let names: BTreeSet<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    let missing: Vec<_> = recorded.iter().filter(|(name, _)| !names.contains(name.as_str())).collect();
    ensure!(new.is_empty() && missing.is_empty(), "not recorded: {new:?}; recorded and missing: {missing:?}");
    Ok(())
}

/// The settings that a client's preface announces (RFC 9113, section 6.5), by their names.
pub fn settings(heard: &[u8]) -> Result<Fields> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const NAMES: [&str; 10] = [
        "",
        "header_table_size",
        "enable_push",
        "max_concurrent_streams",
        "initial_window_size",
        "max_frame_size",
        "max_header_list_size",
        "",
        "enable_connect_protocol",
        "no_rfc7540_priorities",
    ];
    ensure!(heard.starts_with(PREFACE), "no preface: {heard:?}");
    let frame = &heard[PREFACE.len()..];
    ensure!(frame.len() > 9 && frame[3] == 4 && frame[4] == 0, "no SETTINGS: {frame:?}");
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
    ensure!(frame.len() >= 9 + length, "SETTINGS of {length} bytes are cut off");
    let (pairs, _) = frame[9..9 + length].as_chunks::<6>();
    Ok(pairs
        .iter()
        .map(|pair| {
            let id = u16::from_be_bytes([pair[0], pair[1]]);
            let value = u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]);
            let name = NAMES.get(usize::from(id)).filter(|name| !name.is_empty());
            (name.map_or_else(|| format!("setting {id}"), |name| (*name).to_owned()), value.to_string())
        })
        .collect())
}
