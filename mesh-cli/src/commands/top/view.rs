//! What somebody wants to see: tab, order, filter, place in the list; changed by keys.

use mesh_telemetry::api::RefusalRow;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::rates::{TalkerRate, name};
use crate::args::TalkerSort;

/// Characters of a filter.
const LONGEST: usize = 100;
/// Rows that PgUp and PgDn go.
const PAGE: usize = 10;

/// Which list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Talkers,
    Refusals,
}

/// What a key leads to beside a new picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Nothing,
    Quit,
}

/// What is wanted.
#[derive(Debug)]
pub(super) struct View {
    pub(super) tab: Tab,
    pub(super) sort: TalkerSort,
    pub(super) reverse: bool,
    pub(super) filter: String,
    /// The filter as it was before it is typed anew.
    typing: Option<String>,
    paused: bool,
    pub(super) help: bool,
    pub(super) scroll: usize,
    pub(super) colours: bool,
}

impl View {
    pub(super) fn new(sort: TalkerSort, colours: bool) -> Self {
        let (filter, typing, tab) = (String::new(), None, Tab::default());
        Self { tab, sort, reverse: false, filter, typing, paused: false, help: false, scroll: 0, colours }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn is_typing(&self) -> bool {
        self.typing.is_some()
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Act {
        if key.kind == KeyEventKind::Release {
            return Act::Nothing;
        }
        // In raw mode the terminal makes no signal of it.
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd' | 'q') => Act::Quit,
                _ => Act::Nothing,
            };
        }
        if self.typing.is_some() {
            self.type_filter(key.code);
            return Act::Nothing;
        }
        if self.help {
            self.help = false;
            return if key.code == KeyCode::Char('q') { Act::Quit } else { Act::Nothing };
        }
        match key.code {
            KeyCode::Char('q') => return Act::Quit,
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => {
                self.tab = if self.tab == Tab::Talkers { Tab::Refusals } else { Tab::Talkers };
                self.scroll = 0;
            }
            KeyCode::Char('s') => self.sort = next(self.sort),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = Some(self.filter.clone()),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(PAGE),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.scroll = 0,
            KeyCode::End | KeyCode::Char('G') => self.scroll = usize::MAX,
            _ => {}
        }
        Act::Nothing
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = None,
            KeyCode::Esc => self.filter = self.typing.take().unwrap_or_default(),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.chars().count() < LONGEST => self.filter.push(c),
            _ => {}
        }
        self.scroll = 0;
    }

    /// The talkers that are wanted, in order.
    pub(super) fn talkers(&self, all: &[TalkerRate]) -> Vec<TalkerRate> {
        let mut wanted: Vec<TalkerRate> =
            all.iter().filter(|talker| self.wants(&words_of(talker))).cloned().collect();
        sort(&mut wanted, self.sort, self.reverse);
        wanted
    }

    /// The refusals that are wanted; the newest first, unless it is the other way round.
    pub(super) fn refusals<'a>(&self, all: &'a [RefusalRow]) -> Vec<&'a RefusalRow> {
        let mut wanted: Vec<&RefusalRow> =
            all.iter().filter(|row| self.wants(&words_of_refusal(row))).collect();
        if self.reverse {
            wanted.reverse();
        }
        wanted
    }

    fn wants(&self, words: &str) -> bool {
        self.filter.is_empty() || words.to_lowercase().contains(&self.filter.to_lowercase())
    }
}

fn next(sort: TalkerSort) -> TalkerSort {
    match sort {
        TalkerSort::Bytes => TalkerSort::Connections,
        TalkerSort::Connections => TalkerSort::Open,
        TalkerSort::Open => TalkerSort::Source,
        TalkerSort::Source => TalkerSort::Destination,
        TalkerSort::Destination => TalkerSort::Bytes,
    }
}

/// The most first, names from A; what is alike is in the order of names, so that rows do not dance.
pub(super) fn sort(talkers: &mut [TalkerRate], by: TalkerSort, reverse: bool) {
    talkers.sort_by(|a, b| a.pair.cmp(&b.pair));
    match by {
        TalkerSort::Bytes => talkers.sort_by(|a, b| b.bytes_per_second().total_cmp(&a.bytes_per_second())),
        TalkerSort::Connections => {
            talkers.sort_by(|a, b| b.opened_per_second.total_cmp(&a.opened_per_second));
        }
        TalkerSort::Open => talkers.sort_by_key(|talker| std::cmp::Reverse(talker.open)),
        TalkerSort::Source => talkers.sort_by_cached_key(|talker| name(&talker.pair.source)),
        TalkerSort::Destination => talkers.sort_by_cached_key(|talker| name(&talker.pair.destination)),
    }
    if reverse {
        talkers.reverse();
    }
}

/// The word of an order, as `--sort` has it.
pub(super) fn word(sort: TalkerSort) -> &'static str {
    match sort {
        TalkerSort::Bytes => "bytes",
        TalkerSort::Connections => "connections",
        TalkerSort::Open => "open",
        TalkerSort::Source => "source",
        TalkerSort::Destination => "destination",
    }
}

fn words_of(talker: &TalkerRate) -> String {
    let pair = &talker.pair;
    let path = pair.path.map_or("", |path| path.as_str());
    let service = pair.service.as_deref().unwrap_or_default();
    let (security, direction) = (pair.security.as_str(), pair.direction.as_str());
    format!("{} {} {service} {path} {security} {direction}", name(&pair.source), name(&pair.destination))
}

fn words_of_refusal(row: &RefusalRow) -> String {
    let (source, destination) = super::draw::ends(row);
    let service = row.destination.service.as_deref().unwrap_or_default();
    format!("{source} {destination} {service} {} {} {}", row.reason, row.detail, row.node)
}
