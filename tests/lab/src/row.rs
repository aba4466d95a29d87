//! Reporting rows: what `cargo xtask test` counts.
//!
//! Every row of a table and every scenario is one line in the file that `WEFT_ROWS` names:
//! `pass|fail|skip<TAB>test<TAB>row<TAB>detail`. Without that variable rows are only printed.

use std::any::Any;
use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Reports a row that holds.
pub fn pass(test: &str, row: &str, detail: &str) {
    report("pass", test, row, detail);
}

/// Reports a row that does not hold. Does not fail the test by itself.
pub fn fail(test: &str, row: &str, detail: &str) {
    report("fail", test, row, detail);
}

/// Reports a row that could not be tried here.
pub fn skip(test: &str, row: &str, detail: &str) {
    report("skip", test, row, detail);
}

fn report(verdict: &str, test: &str, row: &str, detail: &str) {
    println!("{verdict}  {test}: {row}{}{detail}", if detail.is_empty() { "" } else { "  " });
    let Some(path) = std::env::var_os("WEFT_ROWS") else { return };
    let [test, row, detail] = [test, row, detail].map(|text| text.replace(['\t', '\n', '\r'], " "));
    // One write in append mode: lines of parallel tests do not mix.
    let line = format!("{verdict}\t{test}\t{row}\t{detail}\n");
    let written = OpenOptions::new().create(true).append(true).open(&path).and_then(|mut file| {
        file.write_all(line.as_bytes())?;
        file.flush()
    });
    if let Err(error) = written {
        eprintln!("cannot write a row to {}: {error}", path.to_string_lossy());
    }
}

/// A table of named rows. Every row is tried and reported, also after one has failed; [`Table::finish`] fails the test.
#[derive(Debug)]
pub struct Table {
    test: String,
    failed: Vec<String>,
}

impl Table {
    /// A table for the test of this name.
    pub fn new(test: &str) -> Self {
        Self { test: test.to_owned(), failed: Vec::new() }
    }

    /// Tries one row. It holds if `check` returns `Ok`, whose text is the detail; an error or a panic fails it.
    pub fn row(&mut self, name: &str, check: impl FnOnce() -> anyhow::Result<String>) {
        match catch_unwind(AssertUnwindSafe(check)) {
            Ok(Ok(detail)) => pass(&self.test, name, &detail),
            Ok(Err(error)) => self.note_failure(name, &format!("{error:#}")),
            Err(panic) => self.note_failure(name, &format!("panicked: {}", message(&*panic))),
        }
    }

    /// Reports a row that cannot be tried here.
    pub fn skip(&mut self, name: &str, why: &str) {
        skip(&self.test, name, why);
    }

    /// Says that this kernel lacks what the row is about, so that there is nothing to try: neither passed nor skipped.
    pub fn absent(&mut self, name: &str, why: &str) {
        println!("none  {}: {name}  {why}", self.test);
    }

    /// Ends the table.
    ///
    /// # Panics
    /// If any row failed.
    pub fn finish(self) {
        assert!(
            self.failed.is_empty(),
            "{}: {} failed:\n{}",
            self.test,
            self.failed.len(),
            self.failed.join("\n")
        );
    }

    fn note_failure(&mut self, name: &str, detail: &str) {
        fail(&self.test, name, detail);
        self.failed.push(format!("  {name}: {detail}"));
    }
}

/// What a panic said.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}
