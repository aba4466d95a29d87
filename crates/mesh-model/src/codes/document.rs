//! docs/errors.md, as `cargo xtask gen` writes it.

use std::fmt::Write as _;

use super::{Code, others};
use crate::{Reason, Topic};

const HEAD: &str = "<!-- Written by `cargo xtask gen` from crates/mesh-model; changes here are lost. -->
# Errors

Every word that Weft says when a connection is refused, fails or is cut, when a pod is not captured, and when an object cannot be in force:
what it means, what lies behind it and what to do. `meshctl explain-error WORD` prints the same in a terminal.

The words are stable: they stand in the `reason` of [access lines](access-logs.md), of log lines and of [metrics](metrics.md), in the JSON of `meshctl`,
in conditions and in Events. To get from a refused connection to its word and from there to the rule, see
[access logs](access-logs.md#from-econnrefused-to-the-rule).
";

/// The text of docs/errors.md.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    for topic in Topic::ALL {
        let codes: Vec<Code> = Reason::ALL
            .iter()
            .filter(|reason| reason.topic() == topic)
            .map(|reason| (*reason).into())
            .collect();
        section(&mut text, topic.title(), &codes);
    }
    for (title, codes) in others::GROUPS {
        section(&mut text, title, codes);
    }
    text
}

fn section(text: &mut String, title: &str, codes: &[Code]) {
    // A String takes whatever is written to it.
    let _written = write!(text, "\n## {title}\n");
    let seen_in_one =
        codes.first().map(|code| code.seen).filter(|seen| codes.iter().all(|code| code.seen == *seen));
    if let Some(seen) = seen_in_one {
        let _written = write!(text, "\nWhere it is said: {seen}.\n");
    }
    for Code { word, seen, meaning, cause, remedy, client_sees } in codes {
        let _written =
            write!(text, "\n### `{word}`\n\n{meaning}\n\n- **Cause:** {cause}\n- **Remedy:** {remedy}\n");
        if let Some(client) = client_sees {
            let _written = writeln!(text, "- **The client sees:** {client}.");
        }
        if seen_in_one.is_none() {
            let _written = writeln!(text, "- **Where it is said:** {seen}.");
        }
    }
}
