//! The last line against secrets: what looks like one is struck out, whatever brought it here.
//!
//! ```text
//! JSON ─▶ values, by their keys and names ─▶ each string ─┐
//! text (metrics, errors) ─────────────────────────────────┴▶ PEM, URLs, headers, `key: value`, tokens
//! ```
//!
//! Struck out are private keys in PEM (in JSON with its `\n`, too), JSON web tokens, what follows `Bearer` and `Basic`, who logs in
//! within a URL, and values whose key says that they are secret, whatever they are: a string, a list, JSON quoted in JSON. Too much is
//! better than too little; identities, fingerprints and certificates are public and stay. JSON stays JSON. Pure.

use serde_json::Value;

#[cfg(test)]
pub(super) mod tests;

/// What stands in the place of a secret.
pub(super) const STRUCK: &str = "[struck out]";

/// Words after which a header's credentials come, in lower case.
const SCHEMES: [&str; 2] = ["bearer ", "basic "];
/// Ends of keys of secret values, in lower case and without `-`, `_` and `.`.
const KEYS: [&str; 18] = [
    "token",
    "tokens",
    "password",
    "passwords",
    "passwd",
    "secret",
    "secrets",
    "credential",
    "credentials",
    "apikey",
    "privatekey",
    "clientkeydata",
    "clientsecret",
    "authorization",
    "accesskey",
    "secretkey",
    "tlskey",
    "cakey",
];

/// `value` without them.
pub(super) fn json(value: Value) -> Value {
    match value {
        Value::String(string) => Value::String(string_of_json(string)),
        Value::Array(all) => all.into_iter().map(json).collect(),
        Value::Object(keys) => {
            // A row of settings: `{"name": "some-token", "value": …}`.
            let is_secret_row = keys.get("name").and_then(Value::as_str).is_some_and(is_secret);
            let clean = |(key, value): (String, Value)| {
                let value = match value {
                    Value::Null | Value::Bool(_) => value,
                    _ if is_secret(&key) => STRUCK.into(),
                    // A file's path is no secret.
                    Value::String(path) if is_secret_row && path.starts_with('/') => json(path.into()),
                    _ if is_secret_row && matches!(key.as_str(), "value" | "otherwise") => STRUCK.into(),
                    value => json(value),
                };
                (text(&key), value)
            };
            Value::Object(keys.into_iter().map(clean).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

/// Where it is JSON itself, that; it stays as it is written if nothing is struck out.
fn string_of_json(string: String) -> String {
    if string.starts_with(['{', '['])
        && let Ok(inner) = serde_json::from_str::<Value>(&string)
    {
        let clean = json(inner.clone());
        return if clean == inner { string } else { clean.to_string() };
    }
    text(&string)
}

/// `text` without them.
pub(super) fn text(text: &str) -> String {
    let text = pem(text);
    let text = logins(&text);
    let text = credentials(&text);
    let text = keyed(&text);
    tokens(&text)
}

/// `https://user:password@host`: what is before the host.
fn logins(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        out.push_str(before);
        let ends = |c: char| c.is_whitespace() || c.is_control() || "/?#\"'\\<>`".contains(c);
        let host = &after[..after.find(ends).unwrap_or(after.len())];
        rest = after;
        if let Some(login) = host.rfind('@') {
            out.push_str(STRUCK);
            rest = &after[login..];
        }
    }
    out + rest
}

/// Private keys, from their beginning to their end, or to the end of all where there is none.
fn pem(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("-----BEGIN ") {
        let label_at = at + "-----BEGIN ".len();
        let label = rest[label_at..].find("-----").map(|end| &rest[label_at..label_at + end]);
        let Some(label) = label.filter(|label| label.len() < 64) else {
            out.push_str(&rest[..label_at]);
            rest = &rest[label_at..];
            continue;
        };
        if !label.contains("PRIVATE KEY") {
            let end = label_at + label.len();
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        out.push_str(&rest[..at]);
        out.push_str(STRUCK);
        let end = format!("-----END {label}-----");
        rest = match rest[at..].find(&end) {
            Some(ends) => &rest[at + ends + end.len()..],
            // A piece of a key: what follows its beginning may all be of it, up to the end of the line or the string.
            None => {
                let from = label_at + label.len() + "-----".len();
                let body = rest.get(from..).unwrap_or_default();
                let stop = |c: char| !(c.is_ascii_alphanumeric() || "+/=\\ \r\n-".contains(c));
                &body[body.find(stop).unwrap_or(body.len())..]
            }
        };
    }
    out + rest
}

/// Values whose key says that they are secret: `"token": "…"`, `token=…`, `token: …`.
fn keyed(text: &str) -> String {
    text.split_inclusive('\n').map(keyed_line).collect()
}

fn keyed_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find([':', '=']) {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        rest = after;
        let Some(key_quote) = secret_before(&before[..at]) else { continue };
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        let (space, value) = rest.split_at(blanks);
        let (quote, inner) = value.split_at(quote_at(value));
        // What is not quoted may be a number, a list, or a word of a log line: where its key is quoted it is JSON, and stays JSON.
        let (quotes, end) = match (quote.is_empty(), inner.starts_with(['{', '['])) {
            (false, _) => ((quote, ""), closing(inner, quote.len() - 1)),
            (true, true) => ((key_quote, key_quote), bracketed(inner)),
            (true, false) => ((key_quote, key_quote), word(inner, !key_quote.is_empty())),
        };
        if end > 0 && !matches!(&inner[..end], "null" | "true" | "false") {
            out.extend([space, quotes.0, STRUCK, quotes.1]);
            rest = &inner[end..];
        }
    }
    out + rest
}

/// How long a quotation mark at the beginning is, with the backslashes before it: JSON within JSON has `\"`, and `\\\"` within that.
fn quote_at(text: &str) -> usize {
    let slashes = text.len() - text.trim_start_matches('\\').len();
    if text[slashes..].starts_with('"') { slashes + 1 } else { 0 }
}

/// Where a JSON string ends, without its quotation mark, which has so many backslashes before it.
fn closing(inner: &str, slashes: usize) -> usize {
    let mut before = 0;
    for (at, c) in inner.char_indices() {
        match c {
            '\\' => before += 1,
            // A quotation mark within it has more, and of a pair of them that stands for one each has as many.
            '"' if before < slashes || before % (2 * (slashes + 1)) == slashes => {
                return at - before.min(slashes);
            }
            _ => before = 0,
        }
    }
    inner.trim_end_matches('\n').len()
}

/// Where a word ends that is not quoted itself, but may stand within something that is.
fn word(inner: &str, is_json: bool) -> usize {
    let is_end = |c: char| " ,;}\n\"".contains(c) || (is_json && c == ']');
    let end = inner.find(is_end).unwrap_or(inner.len());
    match inner[end..].starts_with('"') {
        true => inner[..end].trim_end_matches('\\').len(),
        false => end,
    }
}

/// Where a list or an object ends, with its bracket; all of the line where it does not.
fn bracketed(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(c) = text[at..].chars().next() {
        let quote = quote_at(&text[at..]);
        if quote > 0 {
            let mark = &text[at..at + quote];
            at += quote;
            at += closing(&text[at..], quote - 1);
            // What it all stands in may end before.
            if !text[at..].starts_with(mark) {
                return at;
            }
            at += quote;
            continue;
        }
        at += c.len_utf8();
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    text.trim_end_matches('\n').len()
}

/// The quotation mark of the key that a text ends with, if it is a secret's.
fn secret_before(text: &str) -> Option<&str> {
    let text = text.trim_end();
    let key = text.trim_end_matches(['"', '\\']);
    let quote = &text[key.len()..];
    let from = key.rfind(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
    let (before, key) =
        key.split_at(from.map_or(0, |from| from + key[from..].chars().next().map_or(1, char::len_utf8)));
    // `/etc/weft/tls.key: no such file` is about a file.
    let is_file = before.ends_with('/') && key.ends_with(".key");
    (is_secret(key) && !is_file).then_some(quote)
}

fn is_secret(key: &str) -> bool {
    let plain: String =
        key.chars().filter(|c| !matches!(c, '-' | '_' | '.')).map(|c| c.to_ascii_lowercase()).collect();
    KEYS.iter().any(|secret| plain.ends_with(secret))
}

/// What follows `Bearer` and `Basic`.
fn credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let lower = rest.to_ascii_lowercase();
        let first = SCHEMES.iter().filter_map(|scheme| Some((lower.find(scheme)?, scheme.len()))).min();
        let Some((at, length)) = first else { return out + rest };
        let (before, after) = rest.split_at(at + length);
        out.push_str(before);
        let end = after
            .find(|c: char| !(c.is_ascii_alphanumeric() || "-._~+/=".contains(c)))
            .unwrap_or(after.len());
        // A word of a sentence is shorter.
        if end >= 12 {
            out.push_str(STRUCK);
            rest = &after[end..];
        } else {
            rest = after;
        }
    }
}

/// JSON web tokens: three parts of base64url, the first of which begins as `{"` does.
fn tokens(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("eyJ") {
        let end = rest[at..].find(|c: char| !is_part(c) && c != '.').map_or(rest.len(), |end| at + end);
        let word = &rest[at..end];
        let parts = word.split('.').filter(|part| !part.is_empty()).count();
        let is_token = word.len() >= 40 && parts >= 2;
        out.push_str(&rest[..at]);
        out.push_str(if is_token { STRUCK } else { word });
        rest = &rest[end..];
    }
    out + rest
}
