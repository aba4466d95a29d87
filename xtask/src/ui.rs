//! How xtask talks: one line per step, colours only for a person at a terminal.
//!
//! Invariant: nothing here ends up in a line that a script reads (`GROUP: N passed, …`), which stay plain.

use std::io::IsTerminal as _;
use std::sync::LazyLock;

static COLOURS: LazyLock<bool> = LazyLock::new(|| {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none()
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
});

fn paint(code: &str, text: &str) -> String {
    if *COLOURS { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// For what failed.
pub(crate) fn red(text: &str) -> String {
    paint("1;31", text)
}

/// For what is as it should be.
pub(crate) fn green(text: &str) -> String {
    paint("32", text)
}

/// For what a person should look at, but need not.
pub(crate) fn yellow(text: &str) -> String {
    paint("33", text)
}

/// For headings.
pub(crate) fn bold(text: &str) -> String {
    paint("1", text)
}

/// `println!` that does not mind if nobody reads any more: a pipe that closes must not stop xtask from cleaning up.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _closed = writeln!(std::io::stdout().lock(), $($argument)*);
    }};
}
pub(crate) use say;

/// What a step of `setup` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is there.
    Ok,
    /// It is not there and is being installed, or would be.
    Install,
    /// It is not there and xtask cannot install it.
    Missing,
}

/// Prints the one line of a step.
pub(crate) fn step(found: Found, name: &str, detail: &str) {
    let word = match found {
        Found::Ok => green("ok     "),
        Found::Install => yellow("install"),
        Found::Missing => red("missing"),
    };
    say!("{word}  {name:<16} {detail}");
}

/// A line that says what is about to happen.
pub(crate) fn heading(text: &str) {
    say!("{} {text}", bold("==>"));
}
