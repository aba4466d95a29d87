//! The picture: a line of tabs, a line of sums, a list with as many columns as there is room for, a line of keys.

use mesh_telemetry::api::{RefusalRow, Security};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table};

use super::Data;
use super::rates::{TalkerRate, counted_once, decimal, latency, name};
use super::view::{Tab, View, word};
use crate::render::{human, printable};

/// Between two columns.
const GAP: u16 = 1;
/// What is left of a name where there is little room: of talkers …
const LEAST: u16 = 12;
/// … and of refusals, whose reasons are long.
const LEAST_OF_REFUSALS: u16 = 10;
const HELP: [&str; 9] = [
    "Tab   talkers or refusals",
    "s     next order",
    "r     the other way round",
    "/     filter (Enter, Esc)",
    "p     pause, go on",
    "↑ ↓   scroll; PgUp PgDn Home End",
    "Esc   no filter",
    "?     this",
    "q     quit",
];

/// A column: its header, how wide it is (0: takes what is left), and how soon it is dropped.
struct Column<T> {
    header: &'static str,
    width: u16,
    /// The higher, the sooner it goes where there is no room; 0: never.
    rank: u8,
    text: fn(&T) -> String,
}

pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, data: &Data) {
    let area = frame.area();
    let [tabs, sums, list, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(tab_line(view, data, tabs.width), tabs);
    frame.render_widget(sum_line(data), sums);
    match view.tab {
        Tab::Talkers => {
            let rows = view.talkers(&data.talkers);
            let tone = |row: &TalkerRate| match row.pair.security {
                Security::Plaintext => Color::Yellow,
                Security::Mtls | Security::Kernel => Color::Reset,
            };
            let nothing = if data.is_measured { "Nobody talks." } else { "Measuring …" };
            draw_list(frame, list, view, &talker_columns(), &rows, tone, nothing);
        }
        Tab::Refusals => {
            let rows = view.refusals(&data.refusals);
            let tone = |row: &&RefusalRow| if row.reason.is_denial() { Color::Red } else { Color::Yellow };
            draw_list(frame, list, view, &refusal_columns(), &rows, tone, "Nothing was refused.");
        }
    }
    frame.render_widget(key_line(view, data), keys);
    if view.help {
        draw_help(frame, area);
    }
}

fn painted(view: &View, style: Style, colour: Color) -> Style {
    if view.colours && colour != Color::Reset { style.fg(colour) } else { style }
}

fn tab_line(view: &View, data: &Data, width: u16) -> Line<'static> {
    let style = |tab: Tab| match view.tab == tab {
        true => Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
        false => Style::new(),
    };
    let talkers = format!(" Talkers {} ", data.talkers.len());
    let refusals = format!(" Refusals {} ", data.refusals.len());
    let used = talkers.chars().count() + refusals.chars().count();
    let mut spans =
        vec![Span::styled(talkers, style(Tab::Talkers)), Span::styled(refusals, style(Tab::Refusals))];
    let end = printable(&data.end);
    let left = usize::from(width).saturating_sub(used + 2);
    if end.chars().count() <= left {
        spans.push(Span::raw(format!("  {end:>left$}")));
    }
    Line::from(spans)
}

fn sum_line(data: &Data) -> Line<'static> {
    let once: Vec<&TalkerRate> = counted_once(&data.talkers).collect();
    let sum = |field: fn(&TalkerRate) -> f64| once.iter().map(|talker| field(talker)).sum::<f64>();
    let open: u64 = once.iter().map(|talker| talker.open).sum();
    Line::raw(format!(
        "{}/s  {} new/s  {open} open  {} refused/s",
        human::bytes(sum(TalkerRate::bytes_per_second) as u64),
        decimal(sum(|talker| talker.opened_per_second)),
        decimal(data.refused_per_second),
    ))
}

fn key_line(view: &View, data: &Data) -> Line<'static> {
    if view.is_typing() {
        return Line::raw(format!("/{}_", view.filter));
    }
    if let Some(trouble) = &data.trouble {
        let style = Style::new().add_modifier(Modifier::BOLD);
        return Line::styled(printable(trouble), painted(view, style, Color::Red));
    }
    let mut line = String::new();
    if view.is_paused() {
        line.push_str("PAUSED  ");
    }
    if !view.filter.is_empty() {
        line.push_str(&format!("/{}  ", view.filter));
    }
    line.push_str("q quit  ? help  Tab  / filter  p pause");
    if view.tab == Tab::Talkers {
        let way = if view.reverse { "↑" } else { "↓" };
        line.push_str(&format!("  s {}{way}", word(view.sort)));
    }
    Line::styled(line, Style::new().add_modifier(Modifier::DIM))
}

fn draw_list<T>(
    frame: &mut Frame<'_>,
    area: Rect,
    view: &mut View,
    columns: &[Column<T>],
    rows: &[T],
    tone: impl Fn(&T) -> Color,
    nothing: &'static str,
) {
    if rows.is_empty() {
        let nothing = if view.filter.is_empty() { nothing } else { "Nothing fits the filter." };
        return frame.render_widget(Paragraph::new(nothing), area);
    }
    // Down to the last row, and no further.
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    view.scroll = view.scroll.min(rows.len().saturating_sub(room));
    let least = if view.tab == Tab::Refusals { LEAST_OF_REFUSALS } else { LEAST };
    let shown = fitting(columns, area.width, least);
    let widths: Vec<u16> = widths(&shown, area.width);
    let header =
        Row::new(shown.iter().map(|column| column.header)).style(Style::new().add_modifier(Modifier::BOLD));
    let body = rows.iter().skip(view.scroll).take(room).map(|row| {
        let cells = shown.iter().zip(&widths).map(|(column, width)| cut(&(column.text)(row), *width));
        Row::new(cells).style(painted(view, Style::new(), tone(row)))
    });
    let table = Table::new(body, widths.iter().map(|width| Constraint::Length(*width)))
        .header(header)
        .column_spacing(GAP);
    frame.render_widget(table, area);
}

/// The columns for which there is room, the least important dropped first.
fn fitting<T>(columns: &[Column<T>], width: u16, name: u16) -> Vec<&Column<T>> {
    let least = |columns: &[&Column<T>]| -> u16 {
        let sum: u16 = columns.iter().map(|column| if column.width == 0 { name } else { column.width }).sum();
        sum + GAP * (columns.len() as u16).saturating_sub(1)
    };
    let mut shown: Vec<&Column<T>> = columns.iter().collect();
    while least(&shown) > width && shown.len() > 1 {
        let Some(worst) = (0..shown.len()).max_by_key(|at| shown[*at].rank) else { break };
        shown.remove(worst);
    }
    shown
}

/// What is left over goes to the columns that take it.
fn widths<T>(columns: &[&Column<T>], width: u16) -> Vec<u16> {
    let fixed: u16 = columns.iter().map(|column| column.width).sum();
    let gaps = GAP * (columns.len() as u16).saturating_sub(1);
    let takers = columns.iter().filter(|column| column.width == 0).count() as u16;
    let left = width.saturating_sub(fixed + gaps);
    let share = left.checked_div(takers).unwrap_or(0);
    columns.iter().map(|column| if column.width == 0 { share } else { column.width }).collect()
}

fn cut(text: &str, width: u16) -> String {
    let (text, width) = (printable(text), usize::from(width));
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn talker_columns() -> [Column<TalkerRate>; 11] {
    [
        Column { header: "SOURCE", width: 0, rank: 0, text: |row| name(&row.pair.source) },
        Column { header: "DESTINATION", width: 0, rank: 0, text: |row| name(&row.pair.destination) },
        Column {
            header: "SERVICE",
            width: 16,
            rank: 7,
            text: |row| row.pair.service.clone().unwrap_or_default(),
        },
        Column {
            header: " BYTES/S",
            width: 8,
            rank: 0,
            text: |row| number(8, human::bytes(row.bytes_per_second() as u64)),
        },
        Column {
            header: "  SENT/S",
            width: 8,
            rank: 9,
            text: |row| number(8, human::bytes(row.bytes_sent_per_second as u64)),
        },
        Column {
            header: "  RECV/S",
            width: 8,
            rank: 9,
            text: |row| number(8, human::bytes(row.bytes_received_per_second as u64)),
        },
        Column {
            header: " CONN/S",
            width: 7,
            rank: 2,
            text: |row| number(7, decimal(row.opened_per_second)),
        },
        Column { header: "  OPEN", width: 6, rank: 3, text: |row| number(6, row.open.to_string()) },
        Column {
            header: "CONNECT",
            width: 7,
            rank: 5,
            text: |row| number(7, row.connect_ms.map(latency).unwrap_or_default()),
        },
        Column { header: "SECURITY", width: 9, rank: 4, text: |row| row.pair.security.as_str().to_owned() },
        Column { header: "DIRECTION", width: 9, rank: 8, text: |row| row.pair.direction.as_str().to_owned() },
    ]
}

/// To the right, as numbers are.
fn number(width: usize, text: String) -> String {
    format!("{text:>width$}")
}

fn refusal_columns<'a>() -> [Column<&'a RefusalRow>; 7] {
    [
        Column { header: "TIME", width: 8, rank: 3, text: |row| clock(row) },
        Column { header: "REASON", width: 18, rank: 0, text: |row| row.reason.to_string() },
        Column { header: "SOURCE", width: 0, rank: 1, text: |row| ends(row).0 },
        Column { header: "DESTINATION", width: 0, rank: 1, text: |row| ends(row).1 },
        Column {
            header: "SERVICE",
            width: 14,
            rank: 6,
            text: |row| row.destination.service.clone().unwrap_or_default(),
        },
        Column { header: "POLICY", width: 18, rank: 4, text: |row| row.policy.clone().unwrap_or_default() },
        Column { header: "DETAIL", width: 24, rank: 5, text: |row| row.detail.clone() },
    ]
}

/// Hours, minutes, seconds; UTC.
fn clock(row: &RefusalRow) -> String {
    row.time.to_string().get(11..19).unwrap_or_default().to_owned()
}

/// Who dialled, and whom.
pub(super) fn ends(row: &RefusalRow) -> (String, String) {
    let named = |namespace: &Option<String>, pod: &Option<String>| match (namespace, pod) {
        (Some(namespace), Some(pod)) => Some(format!("{namespace}/{pod}")),
        _ => None,
    };
    let source = named(&row.source.namespace, &row.source.pod);
    let destination = named(&row.destination.namespace, &row.destination.pod);
    let port = row.destination.address.port();
    (
        source.unwrap_or_else(|| row.source.address.ip().to_string()),
        destination.map_or_else(|| row.destination.address.to_string(), |pod| format!("{pod}:{port}")),
    )
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let width = area.width.min(38);
    let height = area.height.min(HELP.len() as u16 + 2);
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::raw(*line)).collect();
    let help = Paragraph::new(lines).block(Block::bordered().title(" Keys ")).alignment(Alignment::Left);
    frame.render_widget(Clear, place);
    frame.render_widget(help, place);
}
