#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const SHORT: Limits = Limits {
    expected: Duration::from_secs(60),
    hard: Duration::from_millis(1500),
    grace: Duration::from_millis(300),
    linger: Duration::from_millis(100),
};

fn watch(script: &str, limits: Limits) -> Seen {
    let directory = tempfile::tempdir().unwrap();
    let rows = directory.path().join("rows");
    let since = Instant::now();
    let watched = Watched { title: "it", rows: &rows, since, limits, verbose: false, live: false };
    watched.run(Command::new("sh").args(["-c", script]).env("WEFT_ROWS", &rows)).unwrap()
}

/// One test for all of it: what a program left behind is told by whose child it is, and all tests of this program have
/// the same children.
#[test]
fn a_program_is_watched_to_its_end_and_beyond() {
    process::adopt_orphans().unwrap();

    let seen = watch(
        "echo out; echo err >&2; printf 'pass\\tt\\tr\\td\\nfail\\tt' >> $WEFT_ROWS; exit 3",
        Limits::GROUP,
    );
    assert!(seen.output.contains("out\n") && seen.output.contains("err\n"), "{seen:?}");
    assert_eq!(seen.rows.len(), 1, "a row without its end is none: {seen:?}");
    assert_eq!(seen.end.as_deref(), Some("exit code 3"));
    assert!(seen.left.is_empty(), "{seen:?}");

    let seen = watch("kill -SEGV $$", Limits::GROUP);
    assert_eq!(seen.end.as_deref(), Some("ended by signal 11"));

    let seen = watch("setsid sleep 1000 >/dev/null 2>&1 & exit 0", SHORT);
    assert_eq!(seen.end, None);
    assert!(seen.left.len() == 1 && seen.left[0].ends_with("sleep 1000"), "{seen:?}");
    assert!(process::descendants().is_empty(), "it was ended");

    let seen = watch("trap 'echo cleaned; exit 1' TERM; while :; do sleep 0.1; done", SHORT);
    assert!(seen.end.unwrap().starts_with("ended: "), "its own exit code is not what matters");
    assert!(seen.output.contains("cleaned"), "it had the time to clean up");

    let seen = watch("trap '' TERM; while :; do sleep 0.1; done", SHORT);
    assert!(seen.end.is_some(), "who does not listen is killed");
    assert!(process::descendants().is_empty());
}
