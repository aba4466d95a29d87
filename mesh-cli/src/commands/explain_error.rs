//! `meshctl explain-error`: what a word of a log line, a metric, a condition or an Event means, what lies behind it, and what to
//! do: the index of `mesh_model::codes`, which docs/errors.md is, too. Nobody is asked.

use mesh_model::codes::{self, Code};
use serde_json::{Value, json};

use super::{Answer, Context, Failure, Row};
use crate::args::{ExplainErrorArgs, Output};
use crate::cluster::near;
use crate::render::table::Table;
use crate::render::{Style, printable};

#[cfg(test)]
mod tests;

/// Columns where the terminal does not say how many it has.
const COLUMNS: usize = 100;

pub(super) fn run(context: &Context, args: &ExplainErrorArgs) -> Result<Answer, Failure> {
    let Some(word) = &args.code else { return Ok(all(context)) };
    let code = found(word)?;
    Ok(Answer::yes(context.one(&value(&code), || text(&code, context.style))))
}

/// What an application sees, which many codes lie behind.
const OF_THE_SYSTEM: [&str; 5] = ["econnrefused", "econnreset", "etimedout", "eperm", "epipe"];

/// The code of a word; dashes and capitals are forgiven.
fn found(word: &str) -> Result<Code, Failure> {
    let wanted = word.trim();
    let code = codes::find(wanted).or_else(|| codes::find(&wanted.replace('-', "_")));
    code.ok_or_else(|| {
        if OF_THE_SYSTEM.contains(&wanted.to_lowercase().as_str()) {
            return Failure::No(format!(
                "{} is what an application sees: meshctl logs has the code behind it, and meshctl explain SOURCE DESTINATION:PORT \
                 says what decides",
                wanted.to_uppercase()
            ));
        }
        let known: Vec<String> = codes::all().map(|code| code.word.to_owned()).collect();
        let near = near(&known, &wanted.to_lowercase().replace('-', "_"));
        let end = if near.is_empty() { ": meshctl explain-error lists all of them".into() } else { near };
        Failure::No(printable(&format!("there is no code {wanted}{end}")))
    })
}

fn value(code: &Code) -> Value {
    json!({"code": code.word, "seen": code.seen, "meaning": code.meaning, "cause": code.cause,
           "remedy": code.remedy, "client_sees": code.client_sees})
}

fn text(code: &Code, style: Style) -> String {
    let width = style.width.unwrap_or(COLUMNS).max(30);
    let mut text = format!("{}\n", code.word);
    let parts = [
        ("Meaning", Some(code.meaning)),
        ("Cause", Some(code.cause)),
        ("What to do", Some(code.remedy)),
        ("The application sees", code.client_sees),
        ("Where it is said", Some(code.seen)),
    ];
    for (title, words) in parts {
        if let Some(words) = words {
            text.push_str(&format!("\n{title}:\n{}", wrapped(words, width)));
        }
    }
    text
}

/// Lines of at most `width` characters, two blanks in.
fn wrapped(words: &str, width: usize) -> String {
    let (mut text, mut line) = (String::new(), String::from(" "));
    for word in words.split_whitespace() {
        if line.trim().chars().count() > 0 && line.chars().count() + 1 + word.chars().count() > width {
            text.push_str(&format!("{line}\n"));
            line = String::from(" ");
        }
        line.push(' ');
        line.push_str(word);
    }
    text + &line + "\n"
}

fn all(context: &Context) -> Answer {
    let rows: Vec<Row<Code>> = codes::all().map(|code| Row { raw: value(&code), row: code }).collect();
    if context.output == Output::Name {
        return Answer::yes(rows.iter().map(|row| format!("{}\n", row.row.word)).collect());
    }
    context.list(&rows, "codes", table)
}

fn table(rows: &[Row<Code>]) -> Table {
    let mut table = Table::new(&["CODE", "MEANING", "SEEN"]).wide(&["SEEN"]);
    for Row { row: code, .. } in rows {
        table.row([code.word.into(), code.meaning.into(), code.seen.into()]);
    }
    table
}
