//! `meshctl top`: who talks to whom, how fast, and what is refused; live on a terminal, or one table.
//!
//! ```text
//! fetch (a thread of its own) ─ Sample ─▶ rates ─▶ Data ─┐
//! keys, resizes, signals ─────────────────────▶ View ────┴▶ draw ─▶ terminal
//! ```
//!
//! Invariants: nobody who is slow to answer holds up the keys; the terminal is given back as it was, whatever ends this: a key,
//! a signal, a panic; a terminal of 40 columns shows the most important ones. `rates`, `view` and `draw` are pure.

use std::collections::HashSet;
use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use mesh_telemetry::api::RefusalRow;
use ratatui::crossterm::event::{self, Event};

use super::{Answer, Context, Failure, Row};
use crate::args::{Output, TopArgs};
use crate::client::Client;
use crate::render::table::{Cell, Table};
use crate::render::{human, printable};

mod draw;
mod fetch;
mod rates;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use rates::{OfNode, Rates, TalkerRate};
use terminal::Screen;
use view::{Act, View};

/// How soon a key is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Refusals that are shown.
const REFUSALS: usize = 1000;

/// What was seen at one moment.
#[derive(Debug)]
struct Sample {
    at: Instant,
    /// Totals of each node that answered.
    talkers: Vec<OfNode>,
    /// What came since the last sample.
    refusals: Vec<RefusalRow>,
    /// Of a node that is heard for the first time: what it refused before. It is shown, and is no rate.
    old: Vec<RefusalRow>,
    /// Of how many refusals the agents no longer knew more.
    lost: u64,
    /// Who did not answer.
    missing: Vec<String>,
}

/// What is shown.
#[derive(Clone, Debug, Default)]
struct Data {
    /// Who is asked.
    end: String,
    talkers: Vec<TalkerRate>,
    /// Newest first.
    refusals: Vec<RefusalRow>,
    refused_per_second: f64,
    /// Why this is not as new as it should be.
    trouble: Option<String>,
    /// There was a sample to measure from.
    is_measured: bool,
}

impl Data {
    fn take(&mut self, rates: &mut Rates, sample: Sample, only: Option<&str>) {
        let is_in = |namespace: &Option<String>| only.is_none() || namespace.as_deref() == only;
        let is_shown = |row: &RefusalRow| is_in(&row.source.namespace) || is_in(&row.destination.namespace);
        let seconds = rates.since(sample.at);
        self.talkers = rates.of(sample.at, sample.talkers);
        self.talkers.retain(|talker| {
            is_in(&talker.pair.source.namespace) || is_in(&talker.pair.destination.namespace)
        });
        let (mut refusals, mut old) = (sample.refusals, sample.old);
        refusals.retain(is_shown);
        old.retain(is_shown);
        // Whose those were of which nothing is left nobody knows.
        let lost = if only.is_none() { sample.lost } else { 0 };
        let new = refusals.len() as u64 + lost;
        self.refused_per_second = seconds.map_or(0.0, |seconds| new as f64 / seconds);
        self.is_measured = seconds.is_some();
        self.trouble = sample.missing.into_iter().next();
        self.refusals.splice(0..0, refusals.into_iter().rev());
        let newest = |row: &RefusalRow| std::cmp::Reverse(row.unix_ms);
        if !old.is_empty() {
            self.refusals.extend(old.into_iter().rev());
            self.refusals.sort_by_key(newest);
        }
        self.refusals.truncate(REFUSALS);
    }

    /// What is shown: `self`, or while it is paused what `self` was when the pause began.
    fn shown<'a>(&'a self, frozen: &'a mut Option<Self>, is_paused: bool) -> &'a Self {
        match is_paused {
            true => frozen.get_or_insert_with(|| self.clone()),
            false => {
                *frozen = None;
                self
            }
        }
    }
}

pub(super) fn run(context: &Context, args: &TopArgs) -> Result<Answer, Failure> {
    let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if args.once || !is_terminal || !context.output.is_for_people() {
        return once(context, args);
    }
    live(context, args)
}

fn once(context: &Context, args: &TopArgs) -> Result<Answer, Failure> {
    let (mut fetch, mut rates) = (fetch::Fetch::new(context.client.clone()), Rates::default());
    let mut data = Data::default();
    let only = args.namespace.as_deref();
    data.take(&mut rates, fetch.sample()?, only);
    thread::sleep(args.interval);
    let sample = fetch.sample()?;
    context.aside.borrow_mut().missing.clone_from(&sample.missing);
    data.take(&mut rates, sample, only);
    let mut talkers = data.talkers;
    view::sort(&mut talkers, args.sort, false);
    let rows: Vec<Row<TalkerRate>> = talkers
        .into_iter()
        .map(|row| Row { raw: serde_json::to_value(&row).unwrap_or_default(), row })
        .collect();
    let mut answer = match context.output {
        Output::Name => Answer::yes(names(&rows)),
        _ => context.list(&rows, "talkers", table),
    };
    let refused = (data.refused_per_second * args.interval.as_secs_f64()).round() as u64;
    if context.output.is_for_people() && refused > 0 {
        answer.note = format!("{} meanwhile: meshctl logs says why.", human::count(refused, "refusal"));
    }
    Ok(answer)
}

/// `talker/SOURCE/DESTINATION`: a pair has no name of its own. Once each, whichever ways the bytes go.
fn names(rows: &[Row<TalkerRate>]) -> String {
    let mut said = HashSet::new();
    let name = |row: &Row<TalkerRate>| {
        let pair = &row.row.pair;
        printable(&format!("talker/{}/{}", rates::name(&pair.source), rates::name(&pair.destination))) + "\n"
    };
    rows.iter().map(name).filter(|name| said.insert(name.clone())).collect()
}

fn table(rows: &[Row<TalkerRate>]) -> Table {
    let mut table = Table::new(&[
        "SOURCE",
        "DESTINATION",
        "SERVICE",
        "SENT/S",
        "RECEIVED/S",
        "CONN/S",
        "OPEN",
        "CONNECT",
        "SECURITY",
        "DIRECTION",
        "PATH",
    ])
    .wide(&["PATH"]);
    for Row { row, .. } in rows {
        table.row([
            rates::name(&row.pair.source).into(),
            rates::name(&row.pair.destination).into(),
            Cell::option(row.pair.service.as_ref()),
            human::bytes(row.bytes_sent_per_second as u64).into(),
            human::bytes(row.bytes_received_per_second as u64).into(),
            rates::decimal(row.opened_per_second).into(),
            row.open.to_string().into(),
            Cell::option(row.connect_ms.map(rates::latency)),
            row.pair.security.as_str().into(),
            row.pair.direction.as_str().into(),
            Cell::option(row.pair.path.map(|path| path.as_str())),
        ]);
    }
    table
}

fn live(context: &Context, args: &TopArgs) -> Result<Answer, Failure> {
    // An end that cannot be reached is an error in a line, and not a screen.
    let mut fetch = fetch::Fetch::new(context.client.clone());
    let first = fetch.sample()?;
    let mut data = Data { end: context.client.end(), ..Data::default() };
    let mut rates = Rates::default();
    data.take(&mut rates, first, args.namespace.as_deref());
    let samples = follow(fetch, context.client.pace(args.interval));
    let mut view = View::new(args.sort, context.style.colours);
    let mut screen = Screen::open().map_err(Failure::Output)?;
    let mut frozen = None;
    loop {
        let shown = data.shown(&mut frozen, view.is_paused());
        screen.draw(|frame| draw::draw(frame, &mut view, shown)).map_err(Failure::Output)?;
        if screen.is_ended() {
            break;
        }
        if event::poll(TICK).map_err(Failure::Output)? {
            let act = match event::read().map_err(Failure::Output)? {
                Event::Key(key) => view.key(key),
                _ => Act::Nothing,
            };
            if act == Act::Quit {
                break;
            }
        }
        match samples.recv_timeout(Duration::ZERO) {
            // In a pause, too: what comes meanwhile is shown after it, and rates go on being measured.
            Ok(Ok(sample)) => data.take(&mut rates, sample, args.namespace.as_deref()),
            Ok(Err(trouble)) => data.trouble = Some(trouble),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(screen);
    Ok(Answer::yes(String::new()))
}

/// Samples, one an interval, as long as somebody takes them.
fn follow(mut fetch: fetch::Fetch, interval: Duration) -> Receiver<Result<Sample, String>> {
    let (tell, told) = sync_channel(1);
    thread::spawn(move || {
        loop {
            thread::sleep(interval);
            let sample = fetch.sample().map_err(|failure| super::complaint(&failure));
            if tell.send(sample).is_err() {
                return;
            }
        }
    });
    told
}

/// What fetches must be able to go to a thread of its own.
const fn _is_send<T: Send>() {}
const _: () = _is_send::<Client>();
