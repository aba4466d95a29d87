#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_model::TrustDomain;

use super::catalog::Catalog;
use super::inotify::Hints;
use super::parse::{Format, Parsed, parse};
use super::{Batch, FactChange, FilesConfig, FilesError, Source, Told, facts_of};
use crate::index::facts::{Fact, Reading};

fn reading() -> Reading {
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    Reading { trust_domain, release_namespace: "weft-system".into() }
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: u-{name}}}\nstatus: {{podIP: {address}}}\n"
    )
}

fn read(text: &str, format: Format) -> Result<Parsed, String> {
    parse(text, format, &reading()).map_err(|error| error.to_string())
}

fn names(facts: &[Fact]) -> Vec<String> {
    facts.iter().map(|fact| fact.key().to_string()).collect()
}

#[test]
fn documents_are_told_apart_whatever_is_around_them() {
    let text = "\u{feff}# a comment\n---\n---\n# nothing\n\n".to_owned()
        + &pod("a", "10.0.0.1")
        + "...\n"
        + "--- # more\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n"
        + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  x: |\n    ---\n     --- not one\n"
        + "---\r\napiVersion: v1\r\nkind: Service\r\nmetadata: {name: d}\r\n---";
    let parsed = read(&text, Format::Yaml).unwrap();
    assert_eq!(names(&parsed.facts), ["Pod default/a", "Namespace b", "Service default/d"]);
    assert_eq!(parsed.unknown, BTreeSet::from(["v1 ConfigMap".to_owned()]));
    assert!(read("", Format::Yaml).unwrap().facts.is_empty());
    assert!(read("# nothing\n", Format::Yaml).unwrap().facts.is_empty());
}

#[test]
fn nodes_and_service_accounts_are_read_and_other_groups_kinds_are_not_ours() {
    let text = "apiVersion: v1\nkind: Node\nmetadata: {name: one}\n---\n\
        apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web}\n---\n\
        apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\n";
    let parsed = read(text, Format::Yaml).unwrap();
    assert_eq!(names(&parsed.facts), ["Node one"]);
    assert_eq!(parsed.unknown, BTreeSet::from(["serving.knative.dev/v1 Service".to_owned()]));
}

#[test]
fn lists_and_json_are_read() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a, uid: u1}}\n\
        - apiVersion: v1\n  kind: Pod\n  metadata: {name: b, uid: '2'}\n";
    assert_eq!(names(&read(list, Format::Yaml).unwrap().facts), ["Pod default/a", "Pod default/b"]);
    let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "u1"}}]}
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}"#;
    assert_eq!(names(&read(json, Format::Json).unwrap().facts), ["Pod default/a", "Namespace b"]);
    let tabs =
        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"c\"}\n}\n";
    assert_eq!(names(&read(tabs, Format::Json).unwrap().facts), ["Namespace c"]);
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_document() {
    let good = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
    let mut wrong = Vec::new();
    for (text, line, document, what) in [
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x\n".to_owned(), 3, 1, "unclosed"),
        (format!("{good}---\n{good}---\n\napiVersion: v1\nkind: Pod\nmetadata:\n  name: [1]\n"), 13, 3, ""),
        (format!("{good}---\n\n# lost\napiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\n"), 7, 2, "Pod x"),
        (format!("{good}---\njust text\n"), 5, 2, ""),
        ("apiVersion: v1\nmetadata: {}\n".to_owned(), 1, 1, "kind is missing"),
        ("kind: Pod\nmetadata: {name: x}\n".to_owned(), 1, 1, "apiVersion is missing"),
        ("apiVersion: v1\nkind: Pod\nkind: Pod\n".to_owned(), 3, 1, "duplicate"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x, uid: u}\nspec:\n  hostNetwork: maybe\n".to_owned(), 5, 1, ""),
        ("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: x}\n".to_owned(), 7, 1, "item 2: Pod x"),
        ("a: \"\n".to_owned(), 2, 1, ""),
    ] {
        let error = read(&text, Format::Yaml).unwrap_err();
        let place = (format!("line {line}: "), format!("(document {document})"));
        let placed = error.starts_with(&place.0) && error.ends_with(&place.1);
        if !placed || !error.contains(what) || error.contains('\n') {
            wrong.push(format!("wanted line {line}, document {document}: {error}\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (text, line, document) in [
        ("{\n\"apiVersion\": \"v1\",\n}", 3, 1),
        (
            "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}\n{\n  \"apiVersion\": \"v1\",\n\"kind\": \"Pod\", \"metadata\": {\"name\": \"x\", \"uid\": 1}\n}",
            4,
            2,
        ),
    ] {
        let error = read(text, Format::Json).unwrap_err();
        assert!(error.starts_with(&format!("line {line}: ")), "{text}\n{error}");
        assert!(error.ends_with(&format!("(document {document})")), "{text}\n{error}");
    }
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let above = level - 1;
        let refs = vec![format!("*a{above}"); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    let start = Instant::now();
    read(&text, Format::Yaml).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

fn path(name: &str) -> Arc<Path> {
    Path::new(name).into()
}

fn set(catalog: &mut Catalog, file: &str, yaml: &str) -> Vec<FactChange> {
    let mut changes = Vec::new();
    catalog.set(&path(file), facts_of(yaml).unwrap(), &mut changes);
    changes
}

fn remove(catalog: &mut Catalog, file: &str) -> Vec<FactChange> {
    let mut changes = Vec::new();
    catalog.remove(&path(file), &mut changes);
    changes
}

fn address(change: &FactChange) -> String {
    match change {
        FactChange::Set(Fact::Pod(pod)) => pod.addresses[0].to_string(),
        FactChange::Removed(key) => format!("no {key}"),
        other => panic!("{other:?}"),
    }
}

fn addresses(changes: &[FactChange]) -> Vec<String> {
    changes.iter().map(address).collect()
}

#[test]
fn of_two_files_with_one_object_the_first_by_path_counts_and_the_other_is_told() {
    let mut catalog = Catalog::default();
    assert_eq!(addresses(&set(&mut catalog, "b.yaml", &pod("x", "10.0.0.2"))), ["10.0.0.2"]);
    assert!(set(&mut catalog, "c.yaml", &pod("x", "10.0.0.3")).is_empty());
    let rows = catalog.rows();
    assert_eq!(rows[0].error, None);
    assert!(rows[1].error.as_deref().unwrap().contains("Pod default/x is in b.yaml too"), "{rows:?}");
    assert_eq!(addresses(&set(&mut catalog, "a.yaml", &pod("x", "10.0.0.1"))), ["10.0.0.1"]);
    assert_eq!(addresses(&remove(&mut catalog, "a.yaml")), ["10.0.0.2"]);
    assert_eq!(addresses(&remove(&mut catalog, "b.yaml")), ["10.0.0.3"]);
    assert_eq!(catalog.rows()[0].error, None);
    assert_eq!(addresses(&remove(&mut catalog, "c.yaml")), ["no Pod default/x"]);
}

#[test]
fn an_object_twice_in_one_file_is_told() {
    let mut catalog = Catalog::default();
    let twice = pod("x", "10.0.0.1") + &pod("x", "10.0.0.2");
    assert_eq!(addresses(&set(&mut catalog, "a.yaml", &twice)), ["10.0.0.1"]);
    assert!(catalog.rows()[0].error.as_deref().unwrap().contains("twice"));
    assert!(set(&mut catalog, "a.yaml", &pod("x", "10.0.0.1")).is_empty());
    assert_eq!(catalog.rows()[0].error, None);
}

#[test]
fn a_file_that_fails_keeps_what_it_said_and_one_that_never_was_good_is_remembered() {
    let mut catalog = Catalog::default();
    set(&mut catalog, "a.yaml", &pod("x", "10.0.0.1"));
    catalog.fail(&path("a.yaml"), "line 3: bad".into());
    assert_eq!(catalog.rows()[0].error.as_deref(), Some("line 3: bad"));
    assert!(!catalog.is_partial());
    catalog.fail(&path("b.yaml"), "line 1: bad".into());
    assert!(catalog.is_partial());
    assert!(remove(&mut catalog, "b.yaml").is_empty());
    assert!(!catalog.is_partial());
    assert_eq!(addresses(&set(&mut catalog, "a.yaml", &pod("x", "10.0.0.9"))), ["10.0.0.9"]);
}

/// A directory and a source on it, looked at by hand or followed.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn open(&self) -> (Source, Batch) {
        Source::open(FilesConfig { directory: self.dir.path().into(), reading: reading() }).unwrap()
    }

    /// Follows; gives each batch's changes.
    fn follow(&self) -> Followed {
        let (source, first) = self.open();
        let (told, asker, stop) = source.follow().unwrap();
        Followed { told, first, asker, stop }
    }
}

struct Followed {
    told: tokio::sync::mpsc::Receiver<Told>,
    first: Batch,
    asker: super::Asker,
    stop: super::settled::Stop,
}

impl Followed {
    /// The next batch, which must come soon.
    fn next(&mut self) -> Batch {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            match self.told.try_recv() {
                Ok(Told::Changed(batch)) => return batch,
                Ok(Told::Settled(_)) => {}
                Err(error) if Instant::now() > end => panic!("no batch: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn quiet(&mut self) {
        std::thread::sleep(Duration::from_millis(200));
        assert!(self.told.try_recv().is_err());
    }
}

fn everything() -> Hints {
    Hints { everything: true, ..Hints::default() }
}

#[test]
fn the_first_look_reads_all_that_is_below_and_nothing_else() {
    let files = Files::new();
    fs::create_dir_all(files.path("deep/er")).unwrap();
    files.write("a.yaml", &pod("a", "10.0.0.1"));
    files.write("deep/b.yml", &pod("b", "10.0.0.2"));
    files.write(
        "deep/er/c.json",
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c","uid":"c"},"status":{"podIP":"10.0.0.3"}}"#,
    );
    for other in ["README.md", ".hidden.yaml", "a.yaml~", "a.yaml.swp", "a.yaml.bak"] {
        files.write(other, "nonsense: [");
    }
    std::os::unix::fs::symlink(files.path("a.yaml"), files.path("deep/z-link.yaml")).unwrap();
    std::os::unix::fs::symlink(files.dir.path(), files.path("loop")).unwrap();
    let (_, batch) = files.open();
    assert_eq!(addresses(&batch.changes), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(batch.rows.len(), 4);
    assert!(!batch.partial);
}

#[test]
fn a_directory_that_is_not_there_is_an_error_with_the_remedy() {
    let error =
        Source::open(FilesConfig { directory: "/nowhere/at/all".into(), reading: reading() }).unwrap_err();
    assert!(matches!(&error, FilesError::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains("--dir"), "{error}");
}

#[test]
fn only_files_that_changed_are_read_again() {
    let files = Files::new();
    files.write("a.yaml", &pod("a", "10.0.0.1"));
    let (mut source, _) = files.open();
    assert!(source.look(&everything()).is_none());
    files.write("a.yaml", "broken: [");
    assert!(source.look(&everything()).is_none(), "somebody may still be writing it");
    std::thread::sleep(Duration::from_millis(120));
    let batch = source.look(&everything()).unwrap();
    assert!(batch.changes.is_empty());
    let error = batch.rows[0].error.clone().unwrap();
    assert_eq!(source.error_of(&files.path("a.yaml")), Some(error.as_str()));
    assert!(error.starts_with("line "), "{error}");
    assert!(source.look(&everything()).is_none(), "told once");
    // Same size, another inode.
    fs::write(files.path("new"), pod("a", "10.0.0.2")).unwrap();
    fs::rename(files.path("new"), files.path("a.yaml")).unwrap();
    std::thread::sleep(Duration::from_millis(120));
    let batch = source.look(&everything()).unwrap();
    assert_eq!(addresses(&batch.changes), ["10.0.0.2"]);
    assert_eq!(batch.rows[0].error, None);
    fs::remove_file(files.path("a.yaml")).unwrap();
    assert_eq!(addresses(&source.look(&everything()).unwrap().changes), ["no Pod default/a"]);
}

#[test]
fn files_that_are_no_text_or_no_files_are_named() {
    let files = Files::new();
    files.write("a.yaml", "");
    fs::write(files.path("b.yaml"), b"a: 1\nb: \xff\n").unwrap();
    nix::unistd::mkfifo(&files.path("c.yaml"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    std::os::unix::fs::symlink("nowhere", files.path("d.yaml")).unwrap();
    let (_, batch) = files.open();
    let errors: Vec<_> = batch.rows.iter().map(|row| row.error.as_deref()).collect();
    assert_eq!(errors, [None, Some("line 2: not UTF-8 text"), Some("not a file")]);
    assert!(batch.partial);
}

#[test]
fn writes_renames_moves_and_deletes_are_followed() {
    let files = Files::new();
    files.write("a.yaml", &pod("a", "10.0.0.1"));
    let mut followed = files.follow();
    assert_eq!(followed.first.changes.len(), 1);

    files.write("a.yaml", &pod("a", "10.0.0.2"));
    assert_eq!(addresses(&followed.next().changes), ["10.0.0.2"]);
    files.write(".a.yaml.swp", &pod("a", "10.0.0.3"));
    fs::rename(files.path(".a.yaml.swp"), files.path("a.yaml")).unwrap();
    assert_eq!(addresses(&followed.next().changes), ["10.0.0.3"], "an editor's rename over the old");
    fs::rename(files.path("a.yaml"), files.path("b.yaml")).unwrap();
    let batch = followed.next();
    assert_eq!(addresses(&batch.changes), ["10.0.0.3"], "the same object in another file");
    assert!(batch.rows[0].path.ends_with("b.yaml"));

    fs::create_dir(files.path("sub")).unwrap();
    files.write("sub/c.yaml", &pod("c", "10.0.1.1"));
    assert_eq!(addresses(&followed.next().changes), ["10.0.1.1"]);
    files.write("sub/c.yaml", &pod("c", "10.0.1.2"));
    assert_eq!(addresses(&followed.next().changes), ["10.0.1.2"]);
    fs::rename(files.path("sub"), files.path("moved")).unwrap();
    assert_eq!(followed.next().changes, []);
    files.write("moved/c.yaml", &pod("c", "10.0.1.3"));
    assert_eq!(addresses(&followed.next().changes), ["10.0.1.3"]);
    fs::remove_dir_all(files.path("moved")).unwrap();
    assert_eq!(addresses(&followed.next().changes), ["no Pod default/c"]);
    fs::remove_file(files.path("b.yaml")).unwrap();
    assert_eq!(addresses(&followed.next().changes), ["no Pod default/a"]);
    followed.quiet();
}

#[test]
fn a_file_that_is_being_written_is_not_looked_at_before_it_is_closed() {
    use std::io::Write as _;
    let files = Files::new();
    files.write("a.yaml", &pod("a", "10.0.0.1"));
    let mut followed = files.follow();
    let mut file = fs::File::create(files.path("a.yaml")).unwrap();
    let mut new = fs::File::create(files.path("b.yaml")).unwrap();
    let (text_a, text_b) = (pod("a", "10.0.0.2"), pod("b", "10.0.0.3"));
    file.write_all(&text_a.as_bytes()[..20]).unwrap();
    new.write_all(&text_b.as_bytes()[..20]).unwrap();
    followed.quiet();
    file.write_all(&text_a.as_bytes()[20..]).unwrap();
    new.write_all(&text_b.as_bytes()[20..]).unwrap();
    // Two closes, which may come to one batch or two.
    drop((file, new));
    let mut seen = addresses(&followed.next().changes);
    if seen.len() == 1 {
        seen.extend(addresses(&followed.next().changes));
    }
    seen.sort();
    assert_eq!(seen, ["10.0.0.2", "10.0.0.3"]);
}

#[test]
fn a_configmap_volume_is_followed_through_its_links() {
    use std::os::unix::fs::symlink;
    let files = Files::new();
    fs::create_dir_all(files.path("..1")).unwrap();
    files.write("..1/a.yaml", &pod("a", "10.0.0.1"));
    symlink("..1", files.path("..data")).unwrap();
    symlink("..data/a.yaml", files.path("a.yaml")).unwrap();
    let mut followed = files.follow();
    assert_eq!(addresses(&followed.first.changes), ["10.0.0.1"]);
    fs::create_dir_all(files.path("..2")).unwrap();
    files.write("..2/a.yaml", &pod("a", "10.0.0.2"));
    symlink("..2", files.path("..data_tmp")).unwrap();
    fs::rename(files.path("..data_tmp"), files.path("..data")).unwrap();
    assert_eq!(addresses(&followed.next().changes), ["10.0.0.2"]);
}

#[test]
fn a_directory_that_vanishes_leaves_its_last_good_state_in_force() {
    let files = Files::new();
    let root = files.path("objects");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    let (mut source, _) = Source::open(FilesConfig { directory: root.clone(), reading: reading() }).unwrap();
    fs::rename(&root, files.path("away")).unwrap();
    let batch = source.look(&everything()).unwrap();
    assert_eq!(batch.changes, []);
    assert!(batch.rows.iter().any(|row| row.error.as_deref().is_some_and(|e| e.contains("cannot read"))));
    fs::rename(files.path("away"), &root).unwrap();
    let batch = source.look(&everything()).unwrap();
    assert_eq!(batch.changes, []);
    assert!(batch.rows.iter().all(|row| row.error.is_none()), "{:?}", batch.rows);
}

#[tokio::test]
async fn who_asks_hears_after_what_was_written_before() {
    let files = Files::new();
    files.write("a.yaml", &pod("a", "10.0.0.1"));
    let Followed { mut told, asker, stop, .. } = files.follow();
    for last in 2..30 {
        let address = format!("10.0.0.{last}");
        files.write("a.yaml", &pod("a", &address));
        let (asking, asker) = (std::time::Instant::now(), asker.clone());
        let asked = tokio::spawn(async move { asker.settled().await });
        let Some(Told::Changed(batch)) = told.recv().await else { panic!("no change comes first") };
        assert_eq!(addresses(&batch.changes), [address]);
        let Some(Told::Settled(questions)) = told.recv().await else { panic!("no answer comes next") };
        assert!(!asked.is_finished());
        questions.into_iter().for_each(|question| question.send(()).unwrap());
        asked.await.unwrap();
        assert!(asking.elapsed() < Duration::from_secs(2));
    }
    // With the thread gone there is nobody to wait for.
    drop(stop);
    asker.settled().await;
    assert!(told.recv().await.is_none());
}
