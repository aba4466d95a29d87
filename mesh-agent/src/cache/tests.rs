#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;

use mesh_model::{Change, Service, ServiceKey};

use super::*;

fn world(names: &[&str]) -> World {
    let mut world = World::default();
    for name in names {
        world.apply(Change::Service(Service::bare(ServiceKey::new("shop", name))));
    }
    world.set_complete();
    world
}

fn cache(directory: &Path) -> Cache {
    Cache::open(&directory.join("made/for/it"), "one").unwrap()
}

#[test]
fn a_world_is_kept_with_its_time_and_is_nobody_elses_to_read() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    assert!(cache.load().is_none());
    cache.write(&world(&["web"])).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&cache.path()), 0o600);
    assert_eq!(mode(&cache.directory), 0o700);
    let cached = cache.load().unwrap();
    assert_eq!(cached.resources.len(), 1);
    assert!(cached.as_of.elapsed().unwrap_or_default() < Duration::from_secs(60));
    assert_eq!(fs::read_dir(&cache.directory).unwrap().count(), 1, "nothing is left beside it");

    let old = SystemTime::now() - Duration::from_secs(7_200);
    File::options().write(true).open(cache.path()).unwrap().set_modified(old).unwrap();
    assert!(cache.load().unwrap().as_of.elapsed().unwrap() >= Duration::from_secs(7_200));
    cache.confirm().unwrap();
    assert!(cache.load().unwrap().as_of.elapsed().unwrap_or_default() < Duration::from_secs(60));
}

#[test]
fn what_may_not_be_trusted_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    cache.write(&world(&["web"])).unwrap();
    let says = |what: &str| {
        let error = Chain(&cache.read().unwrap_err()).to_string();
        assert!(error.contains(what) && error.contains("/world"), "{error}");
        assert!(cache.load().is_none());
    };
    fs::set_permissions(cache.path(), fs::Permissions::from_mode(0o622)).unwrap();
    says("by others than its owner");
    fs::remove_file(cache.path()).unwrap();
    fs::create_dir(cache.path()).unwrap();
    says("cannot read");
    fs::remove_dir(cache.path()).unwrap();
    cache.write(&world(&["web"])).unwrap();
    let file = File::options().write(true).open(cache.path()).unwrap();
    file.set_len(20).unwrap();
    says("checksum");
    file.set_len(MAX_FILE + 1).unwrap();
    says("larger than");
}

#[test]
fn a_write_that_was_cut_off_leaves_the_last_world() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    cache.write(&world(&["web"])).unwrap();
    fs::write(cache.directory.join(".world.new"), b"half of a wor").unwrap();
    assert_eq!(cache.load().unwrap().resources.len(), 1);
    cache.write(&world(&["web", "db"])).unwrap();
    assert_eq!(cache.load().unwrap().resources.len(), 2);
}

/// The writer without its thread's clocks: what it does when its time has come.
fn writer(cache: &Cache, world: World) -> Writer {
    let world = Arc::new(ArcSwap::from_pointee(world));
    let settings = Arc::new(ArcSwap::from_pointee(settings::example()));
    Writer { cache: cache.clone(), world, settings, unwritten: false, wrote: None, complaint: String::new() }
}

#[test]
fn only_a_whole_world_is_written_and_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let mut writer = writer(&cache, World::default());
    writer.unwritten = true;
    writer.write_or_confirm(&|| true);
    assert!(!cache.path().exists());
    writer.world.store(Arc::new(world(&["web"])));
    writer.write_or_confirm(&|| true);
    assert!(cache.path().exists() && !writer.unwritten);
    // The next is not due before its time, and longer after a slow disk.
    assert!(writer.due() >= writer.wrote.unwrap().0 + EVERY);
    writer.wrote = Some((Instant::now(), Duration::from_secs(3)));
    assert!(writer.due() >= Instant::now() + Duration::from_secs(59));
    // Nothing changed: only the time is set, and only while the controller agrees.
    let old = SystemTime::now() - Duration::from_secs(7_200);
    File::options().write(true).open(cache.path()).unwrap().set_modified(old).unwrap();
    writer.write_or_confirm(&|| false);
    assert_eq!(fs::metadata(cache.path()).unwrap().modified().unwrap(), old);
    writer.write_or_confirm(&|| true);
    assert!(fs::metadata(cache.path()).unwrap().modified().unwrap() > old);
}

#[test]
fn a_disk_that_fails_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let mut writer = writer(&cache, world(&["web"]));
    writer.unwritten = true;
    fs::remove_dir(&cache.directory).unwrap();
    writer.write_or_confirm(&|| true);
    assert!(writer.unwritten && writer.complaint.contains("cannot write"));
    fs::create_dir(&cache.directory).unwrap();
    writer.write_or_confirm(&|| true);
    assert!(!writer.unwritten && writer.complaint.is_empty());
    assert!(cache.load().is_some());
}

#[tokio::test]
async fn changes_are_written_by_a_thread_and_what_is_left_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    let (client, _events) =
        Client::spawn(mesh_xds::ClientConfig::new("127.0.0.1:1", "/none", "/none", "one"));
    let current = Arc::new(ArcSwap::from_pointee(World::default()));
    let settings = Arc::new(ArcSwap::from_pointee(settings::example()));
    let keeper = cache.clone().keep(current.clone(), settings, client).unwrap();
    for number in 0..100 {
        let names: Vec<String> = (0..number).map(|number| format!("s{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        current.store(Arc::new(world(&names)));
        keeper.changed();
    }
    keeper.finish();
    assert_eq!(cache.load().unwrap().resources.len(), 99, "the newest");
}

#[tokio::test]
async fn a_mesh_that_leaves_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path());
    cache.write(&world(&["one"])).unwrap();
    assert!(!cache.is_new());
    let (client, _events) =
        Client::spawn(mesh_xds::ClientConfig::new("127.0.0.1:1", "/none", "/none", "one"));
    let leaving = settings::InForce { leaving: true, ..settings::example() };
    let settings = Arc::new(ArcSwap::from_pointee(leaving));
    let current = Arc::new(ArcSwap::from_pointee(world(&["one", "two"])));
    let keeper = cache.clone().keep(current, settings, client).unwrap();
    keeper.changed();
    keeper.finish();
    assert!(cache.is_new(), "who comes next is the first");
}
