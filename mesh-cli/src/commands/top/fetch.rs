//! One sample: totals of pairs, and what was refused since the last one.
//!
//! An agent that has totals of pairs is asked for them; of any other the totals are made of its open connections, each of which
//! counts as it grows. What begins and ends between two samples is then not seen.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use mesh_telemetry::api::{ConnectionRow, Refusals, TalkerPair, TalkerRow, path};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Sample;
use super::rates::OfNode;
use crate::client::{Client, ClientError, FromNode};
use crate::commands::logs::Cursor;
use crate::commands::{Failure, chain};
use crate::render::printable;

/// Asks again and again.
#[derive(Debug)]
pub(super) struct Fetch {
    client: Client,
    cursor: Cursor,
    /// Where there are no totals of pairs.
    made: Option<Totals>,
}

/// Totals that are made of connections, of each node.
#[derive(Debug, Default)]
pub(super) struct Totals(HashMap<String, Made>);

/// Those of one node. They stay while it does not answer.
#[derive(Debug, Default)]
struct Made {
    /// Bytes of each connection when it was last seen, by number.
    seen: HashMap<u64, (u64, u64)>,
    rows: BTreeMap<TalkerPair, TalkerRow>,
}

impl Fetch {
    pub(super) fn new(client: Client) -> Self {
        Self { client, cursor: Cursor::default(), made: None }
    }

    pub(super) fn sample(&mut self) -> Result<Sample, Failure> {
        let mut missing = Vec::new();
        let talkers = match &mut self.made {
            Some(made) => made.take(&lists(&self.client, path::CONNECTIONS, &mut missing)?),
            None => match lists::<TalkerRow>(&self.client, path::TALKERS, &mut missing) {
                Ok(totals) => totals,
                Err(Failure::Client(ClientError::NoSuchPath { .. })) => {
                    missing.clear();
                    let connections = lists(&self.client, path::CONNECTIONS, &mut missing)?;
                    self.made.insert(Totals::default()).take(&connections)
                }
                Err(failure) => return Err(failure),
            },
        };
        let at = Instant::now();
        let (mut refusals, mut old, mut lost) = (Vec::new(), Vec::new(), 0);
        let asked = self.cursor.question(None);
        for answer in answers(&self.client, &asked, &mut missing)? {
            let answer: Refusals = understood(&self.client, answer.1)?;
            let is_first = !self.cursor.knows(&answer.node);
            let (gone, is_new) = self.cursor.heard(&answer);
            lost += gone;
            match (is_new, is_first) {
                (false, _) => {}
                (true, true) => old.extend(answer.refusals),
                (true, false) => refusals.extend(answer.refusals),
            }
        }
        refusals.sort_by_key(|row| row.unix_ms);
        old.sort_by_key(|row| row.unix_ms);
        Ok(Sample { at, talkers, refusals, old, lost, missing })
    }
}

impl Totals {
    /// Adds what each connection has grown by. What a node has at first counts from then on.
    pub(super) fn take(&mut self, nodes: &[(String, Vec<ConnectionRow>)]) -> Vec<OfNode> {
        nodes.iter().map(|(node, connections)| (node.clone(), self.of_node(node, connections))).collect()
    }

    fn of_node(&mut self, node: &str, connections: &[ConnectionRow]) -> Vec<TalkerRow> {
        let is_first = !self.0.contains_key(node);
        let made = self.0.entry(node.to_owned()).or_default();
        made.rows.values_mut().for_each(|row| row.open = 0);
        let mut seen = HashMap::new();
        for connection in connections {
            let pair = TalkerPair::from(connection);
            let row = made.rows.entry(pair.clone()).or_insert_with(|| TalkerRow::new(pair));
            row.open += 1;
            let now = (connection.bytes_sent, connection.bytes_received);
            let before = match made.seen.get(&connection.id) {
                Some(before) => *before,
                None if is_first => now,
                None => {
                    row.opened += 1;
                    (0, 0)
                }
            };
            row.bytes_sent += now.0.saturating_sub(before.0);
            row.bytes_received += now.1.saturating_sub(before.1);
            seen.insert(connection.id, now);
        }
        made.seen = seen;
        made.rows.values().cloned().collect()
    }
}

/// A list of each node that answers.
fn lists<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    missing: &mut Vec<String>,
) -> Result<Vec<(String, Vec<T>)>, Failure> {
    let answers = answers(client, path, missing)?;
    answers.into_iter().map(|(node, value)| Ok((node, understood(client, value)?))).collect()
}

/// What each node answers; an error where none does.
fn answers(client: &Client, path: &str, missing: &mut Vec<String>) -> Result<Vec<(String, Value)>, Failure> {
    let (mut all, mut last) = (Vec::new(), None);
    for FromNode { node, answer } in client.get_each(path)? {
        match answer {
            Ok(value) => all.push((node.unwrap_or_default(), value)),
            Err(error) => {
                // A node is asked for more than one thing.
                let said = printable(&chain(&error));
                if !missing.contains(&said) {
                    missing.push(said);
                }
                last = Some(error);
            }
        }
    }
    match last {
        Some(error) if all.is_empty() => Err(error.into()),
        _ => Ok(all),
    }
}

fn understood<T: DeserializeOwned>(client: &Client, value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|source| Failure::Shape { end: client.end(), source })
}
