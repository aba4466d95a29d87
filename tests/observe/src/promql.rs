//! As much of PromQL as it takes to say which metrics and labels an expression is about. Whether it is well formed is
//! for Prometheus to say.
//!
//! ```text
//! text ─▶ words, braces, parentheses (strings and durations skipped) ─▶ selectors, labels of `by (…)` and the like
//! ```

use std::collections::BTreeSet;

/// Words that are no metric where they stand.
const KEYWORDS: [&str; 17] = [
    "and",
    "atan2",
    "bool",
    "by",
    "end",
    "group_left",
    "group_right",
    "ignoring",
    "inf",
    "nan",
    "offset",
    "on",
    "or",
    "start",
    "unless",
    "without",
    "Inf",
];
/// Those after which parentheses hold labels.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// A metric, and the labels that its braces ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The metric's name; empty where the braces stand alone.
    pub metric: String,
    /// Labels of the matchers.
    pub labels: Vec<String>,
}

/// What an expression is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// In their order.
    pub selectors: Vec<Selector>,
    /// Labels of `by`, `on` and the like.
    pub grouping: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Sign(char),
}

/// Reads an expression.
pub fn mentions(expression: &str) -> Mentions {
    let tokens = tokens(expression);
    let mut found = Mentions::default();
    let mut at = 0;
    while at < tokens.len() {
        let next = tokens.get(at + 1);
        match &tokens[at] {
            Token::Word(word) if GROUPING.contains(word) && next == Some(&Token::Sign('(')) => {
                let end = closing(&tokens, at + 1, ')');
                let words = tokens[at + 1..end].iter().filter_map(|token| match token {
                    Token::Word(word) => Some((*word).to_owned()),
                    _ => None,
                });
                found.grouping.extend(words);
                at = end;
            }
            Token::Word(word) if next == Some(&Token::Sign('{')) => {
                let end = closing(&tokens, at + 1, '}');
                let labels = matchers(&tokens[at + 1..end]);
                found.selectors.push(Selector { metric: (*word).to_owned(), labels });
                at = end;
            }
            // `sum by (…) (…)`: an aggregation, whose parentheses come later.
            Token::Word(_) if matches!(next, Some(Token::Word("by" | "without"))) => {}
            Token::Word(word) if !KEYWORDS.contains(word) && next != Some(&Token::Sign('(')) => {
                found.selectors.push(Selector { metric: (*word).to_owned(), labels: Vec::new() });
            }
            Token::Sign('{') => {
                let end = closing(&tokens, at, '}');
                found.selectors.push(Selector { metric: String::new(), labels: matchers(&tokens[at..end]) });
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The first two strings of each `label_replace` and `label_join`: names of labels that the expression makes.
pub fn made_labels(expression: &str) -> BTreeSet<String> {
    // The label that is made is the first string after a selector's end, which is a `,` away; a string that is
    // followed by another after a comma, and has the form of a label.
    let tokens = tokens(expression);
    let mut made = BTreeSet::new();
    let mut braces = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Sign('{') => braces += 1,
            Token::Sign('}') => braces -= 1,
            Token::Text(text) if braces == 0 && is_label(text) => {
                let follows = |offset: usize, sign| tokens.get(at + offset) == Some(&Token::Sign(sign));
                if follows(1, ',') && matches!(tokens.get(at + 2), Some(Token::Text(_))) {
                    made.insert((*text).to_owned());
                }
            }
            _ => {}
        }
    }
    made
}

fn is_label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn closing(tokens: &[Token<'_>], open: usize, sign: char) -> usize {
    let length = tokens[open..].iter().position(|token| *token == Token::Sign(sign));
    length.map_or(tokens.len() - 1, |length| open + length)
}

/// The words inside braces: strings are no words, so each is a label.
fn matchers(tokens: &[Token<'_>]) -> Vec<String> {
    let words = tokens.iter().filter_map(|token| match token {
        Token::Word(word) => Some((*word).to_owned()),
        _ => None,
    });
    words.collect()
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            quote @ (b'"' | b'\'' | b'`') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' && quote != b'`' { 2 } else { 1 };
                }
                tokens.push(Token::Text(text.get(start + 1..at.min(bytes.len())).unwrap_or_default()));
                at += 1;
            }
            b'[' => {
                while at < bytes.len() && bytes[at] != b']' {
                    at += 1;
                }
                at += 1;
            }
            byte if byte.is_ascii_digit() => {
                // Numbers, and durations after `offset`: none is a word.
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'.') {
                    at += 1;
                }
            }
            byte if byte.is_ascii_alphabetic() || byte == b'_' => {
                let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
                while at < bytes.len() && part(bytes[at]) {
                    at += 1;
                }
                tokens.push(Token::Word(&text[start..at]));
            }
            byte => {
                if byte.is_ascii_punctuation() {
                    tokens.push(Token::Sign(byte.into()));
                }
                at += 1;
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests;
