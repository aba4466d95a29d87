//! Promise: a live view ends with its terminal.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use lab::Lab;
use lab::row::Table;
use observe::cli::Meshctl;

#[test]
fn a_view_ends_with_its_terminal() {
    const NAME: &str = "a_view_ends_with_its_terminal";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").run(|lab| {
        let mut table = Table::new(NAME);
        let meshctl = Meshctl::of(lab.agent("a").admin_socket())?;
        for words in ["top", "connections --watch", "logs --follow"] {
            table.row(words, || Ok(format!("after {:.1?}", meshctl.abandoned(words)?)));
        }
        table.finish();
        Ok(())
    });
}
