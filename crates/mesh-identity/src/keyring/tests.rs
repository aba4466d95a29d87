#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

use futures_util::FutureExt;

use super::*;
use crate::fixtures::{Ca, HOUR, Leaf, handshake, id};
use crate::{Authority, BuiltinAuthority, tls};

/// What the authority does at one request; after the list is used up, it signs.
enum Answer {
    Refuse,
    Hang,
    Rubbish,
}

struct TestSigner {
    ca: Ca,
    authority: BuiltinAuthority,
    lifetime: Duration,
    script: Mutex<VecDeque<Answer>>,
    calls: AtomicUsize,
}

impl TestSigner {
    fn new(lifetime: Duration) -> Arc<Self> {
        let ca = Ca::new("root");
        let authority = ca.authority();
        Arc::new(Self { ca, authority, lifetime, script: Mutex::default(), calls: AtomicUsize::new(0) })
    }

    fn then(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().extend(answers);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Signer for TestSigner {
    fn sign(&self, identity: Identity, csr_pem: String) -> BoxFuture<'static, Result<String, SignError>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.script.lock().unwrap().pop_front() {
            None => {
                let chain = self.authority.sign(&csr_pem, &identity, self.lifetime);
                std::future::ready(chain.map(Into::into).map_err(|e| SignError(e.to_string()))).boxed()
            }
            Some(Answer::Refuse) => std::future::ready(Err(SignError("not on your node".into()))).boxed(),
            Some(Answer::Hang) => std::future::pending().boxed(),
            Some(Answer::Rubbish) => std::future::ready(Ok("rubbish".into())).boxed(),
        }
    }
}

fn keyring(signer: &Arc<TestSigner>, config: RotationConfig) -> Keyring {
    Keyring::new(Arc::clone(signer) as Arc<dyn Signer>, signer.authority.roots(), config).unwrap()
}

fn kept_in(dir: &Path) -> RotationConfig {
    RotationConfig { state_dir: Some(dir.join("certs")), ..RotationConfig::default() }
}

/// Whether a certificate is there under its final name.
fn is_kept(dir: &Path) -> bool {
    let mut files = fs::read_dir(dir.join("certs")).unwrap();
    files.any(|file| file.unwrap().path().extension().is_some_and(|e| e == "pem"))
}

fn only_file(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir.join("certs")).unwrap();
    let path = files.next().expect("a file").unwrap().path();
    assert!(files.next().is_none());
    path
}

/// Lets tasks and timers run until `done`, in paused time.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(start_paused = true)]
async fn a_wanted_identity_gets_a_certificate_that_serves_and_dials() {
    let signer = TestSigner::new(HOUR);
    let keyring = keyring(&signer, RotationConfig::default());
    let (client, server) = (id("ns/a/sa/client"), id("ns/a/sa/server"));
    assert!(keyring.certificate(&client).is_none());
    assert!(matches!(keyring.ready(&client).await, Err(KeyringError::NotWanted(_))));
    let _wanted = [keyring.want(&client), keyring.want(&server), keyring.want(&server)];
    let serving = keyring.ready(&server).await.unwrap();
    keyring.ready(&client).await.unwrap();
    assert_eq!(signer.calls(), 2, "one request for two uses");

    let config = keyring.client_config(&client, &server).unwrap();
    assert!(Arc::ptr_eq(&config, &keyring.client_config(&client, &server).unwrap()));
    let (near, far) = handshake(&config, serving.server_config()).await;
    assert_eq!(tls::peer_identity(near.unwrap().get_ref().1).unwrap(), server);
    assert_eq!(tls::peer_identity(far.unwrap().get_ref().1).unwrap(), client);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_about_half_life() {
    let signer = TestSigner::new(HOUR);
    let keyring = keyring(&signer, RotationConfig::default());
    let wanted = keyring.want(&id("ns/a/sa/b"));
    let first = keyring.ready(wanted.identity()).await.unwrap();
    let mut entries = keyring.watch(wanted.identity()).unwrap();
    for _ in 0..3 {
        entries.mark_unchanged();
        let before = Instant::now();
        entries.changed().await.unwrap();
        let minutes = before.elapsed().as_secs() / 60;
        assert!((26..=34).contains(&minutes), "{minutes}");
    }
    let last = wanted.certificate().unwrap();
    assert_ne!(first.generation(), last.generation());
    assert_ne!(first.certificate().serial(), last.certificate().serial());
    assert_eq!(signer.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_certificate_and_says_so() {
    let signer = TestSigner::new(HOUR);
    let keyring = keyring(&signer, RotationConfig::default());
    let wanted = keyring.want(&id("ns/a/sa/b"));
    let first = keyring.ready(wanted.identity()).await.unwrap();
    signer.then([Answer::Refuse, Answer::Hang, Answer::Rubbish]);
    let error = || keyring.status()[0].last_error.clone().unwrap_or_default();
    eventually("refused", || error().contains("not on your node")).await;
    assert_eq!(wanted.certificate().unwrap().generation(), first.generation());
    assert_eq!(keyring.status()[0].state, CertState::Valid);
    eventually("timeout", || error().contains("did not answer")).await;
    eventually("rubbish", || error().contains("no certificate")).await;
    assert_eq!(wanted.certificate().unwrap().generation(), first.generation());
    eventually("renewed", || error().is_empty()).await;
    assert_ne!(wanted.certificate().unwrap().generation(), first.generation());
}

#[tokio::test(start_paused = true)]
async fn a_first_failure_is_tried_again_ever_more_slowly_and_at_once_when_nudged() {
    let signer = TestSigner::new(HOUR);
    signer.then((0..200).map(|_| Answer::Refuse));
    let keyring = keyring(&signer, RotationConfig::default());
    let wanted = keyring.want(&id("ns/a/sa/b"));
    assert_eq!(keyring.status()[0].state, CertState::Pending);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let status = &keyring.status()[0];
    assert_eq!(status.state, CertState::Failed);
    let early = signer.calls();
    assert!((4..=8).contains(&early), "{early}");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let late = signer.calls() - early;
    assert!((18..=32).contains(&late), "{late}");

    signer.script.lock().unwrap().clear();
    // The next attempt is due in anything up to 30 s.
    let before = Instant::now();
    keyring.nudge();
    keyring.ready(wanted.identity()).await.unwrap();
    assert!(before.elapsed() < Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_an_unknown_root_is_not_used() {
    let (signer, other) = (TestSigner::new(HOUR), TestSigner::new(HOUR));
    let roots = other.authority.roots();
    let keyring =
        Keyring::new(Arc::clone(&signer) as Arc<dyn Signer>, roots, RotationConfig::default()).unwrap();
    let wanted = keyring.want(&id("ns/a/sa/b"));
    eventually("failed", || keyring.status()[0].state == CertState::Failed).await;
    assert!(keyring.status()[0].last_error.as_ref().unwrap().contains("trust anchor"));
    assert!(wanted.certificate().is_none());
}

#[tokio::test(start_paused = true)]
async fn new_roots_make_new_configurations_and_renew_what_they_do_not_cover() {
    let signer = TestSigner::new(HOUR);
    let keyring = keyring(&signer, RotationConfig::default());
    let wanted = keyring.want(&id("ns/a/sa/b"));
    let first = keyring.ready(wanted.identity()).await.unwrap();
    let other = TestSigner::new(HOUR);
    keyring.replace_roots(keyring.roots().merge(&other.authority.roots()));
    let second = wanted.certificate().unwrap();
    assert_ne!(first.generation(), second.generation());
    assert_eq!(first.certificate().serial(), second.certificate().serial());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(signer.calls(), 1, "still trusted, so not renewed");

    keyring.replace_roots(other.authority.roots());
    eventually("asked again", || signer.calls() > 1).await;
    assert!(wanted.certificate().is_some(), "and kept meanwhile");
}

#[tokio::test(start_paused = true)]
async fn a_released_identity_lingers_and_is_forgotten_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let signer = TestSigner::new(HOUR);
    let keyring = keyring(&signer, kept_in(dir.path()));
    let who = id("ns/a/sa/b");
    let first = keyring.want(&who);
    keyring.ready(&who).await.unwrap();
    eventually("kept", || is_kept(dir.path())).await;
    let second = keyring.want(&who);
    drop(first);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(keyring.certificate(&who).is_some(), "the second use holds it");
    drop(second);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let third = keyring.want(&who);
    assert!(third.certificate().is_some(), "it lingered");
    assert_eq!(signer.calls(), 1);
    drop(third);
    eventually("forgotten", || keyring.status().is_empty()).await;
    assert_eq!(fs::read_dir(dir.path().join("certs")).unwrap().count(), 0);
    assert!(keyring.certificate(&who).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_kept_certificate_is_used_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let signer = TestSigner::new(24 * HOUR);
    let who = id("ns/a/sa/b");
    let serial = {
        let keyring = keyring(&signer, kept_in(dir.path()));
        let _wanted = keyring.want(&who);
        let entry = keyring.ready(&who).await.unwrap();
        eventually("kept", || is_kept(dir.path())).await;
        entry.certificate().serial().to_owned()
    };
    let file = only_file(dir.path());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(&dir.path().join("certs"))), (0o600, 0o700));

    signer.then((0..100).map(|_| Answer::Refuse));
    let keyring = keyring(&signer, kept_in(dir.path()));
    let _wanted = keyring.want(&who);
    assert_eq!(keyring.ready(&who).await.unwrap().certificate().serial(), serial);
    tokio::time::sleep(HOUR).await;
    assert_eq!(signer.calls(), 1, "no need to ask before half life");
}

#[tokio::test(start_paused = true)]
async fn a_kept_certificate_that_is_no_good_is_passed_over() {
    let signer = TestSigner::new(HOUR);
    let who = id("ns/a/sa/b");
    let dir = tempfile::tempdir().unwrap();
    let foreign = Ca::new("another root").cert(&who);
    Store::open(dir.path().join("certs")).unwrap().save(&foreign).unwrap();
    let file = only_file(dir.path());
    let other_identity = signer.ca.cert(&id("ns/a/sa/other")).to_pem();
    let over =
        Leaf { not_after: SystemTime::now() - Duration::from_secs(5), ..Leaf::of(&[&who.to_string()]) };
    let (chain, key) = signer.ca.raw(over);
    let expired = crate::Certificate::from_parts(chain, key).unwrap().to_pem();
    let cut = &foreign.to_pem()[..400];
    for (number, text) in
        [foreign.to_pem().as_str(), &other_identity, cut, "", &expired].into_iter().enumerate()
    {
        fs::write(&file, text).unwrap();
        let keyring = keyring(&signer, kept_in(dir.path()));
        let _wanted = keyring.want(&who);
        let entry = keyring.ready(&who).await.unwrap();
        assert_eq!(entry.certificate().identity(), &who);
        assert_eq!(signer.calls(), number + 1, "asked for a new one");
        eventually("replaced", || fs::read_to_string(&file).is_ok_and(|t| t != text)).await;
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let keyring = keyring(&signer, kept_in(dir.path()));
    let _wanted = keyring.want(&who);
    keyring.ready(&who).await.unwrap();
    assert_eq!(signer.calls(), 6, "not the one that others could read");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_removes_what_nobody_wants() {
    let dir = tempfile::tempdir().unwrap();
    let signer = TestSigner::new(HOUR);
    let keyring = keyring(&signer, kept_in(dir.path()));
    let who = id("ns/a/sa/b");
    let _wanted = keyring.want(&who);
    keyring.ready(&who).await.unwrap();
    eventually("kept", || is_kept(dir.path())).await;
    let kept = only_file(dir.path());
    for stale in ["a_gone_0123.pem", ".a_gone_0123.pem.new", "unrelated.txt"] {
        fs::write(dir.path().join("certs").join(stale), "x").unwrap();
    }
    assert_eq!(keyring.sweep().unwrap(), 2);
    assert!(kept.exists() && dir.path().join("certs/unrelated.txt").exists());
}

#[tokio::test(start_paused = true)]
async fn a_directory_open_to_others_is_an_error_at_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let signer = TestSigner::new(HOUR);
    let config = RotationConfig { state_dir: Some(dir.path().into()), ..RotationConfig::default() };
    let error = Keyring::new(Arc::clone(&signer) as Arc<dyn Signer>, signer.authority.roots(), config);
    assert!(matches!(error, Err(KeyringError::StateDir(_))));
}

#[tokio::test(start_paused = true)]
async fn client_configurations_are_bounded_and_the_oldest_goes() {
    let signer = TestSigner::new(HOUR);
    let config = RotationConfig { client_configs: 2, ..RotationConfig::default() };
    let keyring = keyring(&signer, config);
    let who = id("ns/a/sa/b");
    let _wanted = keyring.want(&who);
    keyring.ready(&who).await.unwrap();
    let config = |name: &str| keyring.client_config(&who, &id(&format!("ns/a/sa/{name}"))).unwrap();
    let (x, y) = (config("x"), config("y"));
    assert!(Arc::ptr_eq(&x, &config("x")));
    let _z = config("z");
    assert!(Arc::ptr_eq(&x, &config("x")), "used after y");
    assert!(!Arc::ptr_eq(&y, &config("y")), "y went");
}

#[tokio::test(start_paused = true)]
async fn the_status_is_the_json_that_meshctl_prints() {
    let signer = TestSigner::new(HOUR);
    let keyring = keyring(&signer, RotationConfig::default());
    let wanted = [keyring.want(&id("ns/b/sa/b")), keyring.want(&id("ns/a/sa/b"))];
    let json = serde_json::to_value(&keyring.status()[0]).unwrap();
    let expected = serde_json::json!({
        "identity": "spiffe://mesh.test/ns/a/sa/b", "serial": null, "issuer": null, "not_before": null,
        "not_after": null, "state": "pending", "last_error": null, "next": null,
    });
    assert_eq!(json, expected);
    keyring.ready(wanted[1].identity()).await.unwrap();
    let slot = keyring.slot(wanted[1].identity()).unwrap();
    let now = SystemTime::now();
    let states = [0, 45, 90].map(|minutes| slot.status(now + Duration::from_secs(minutes * 60)).state);
    assert_eq!(states, [CertState::Valid, CertState::Expiring, CertState::Expired]);
    let status = slot.status(now);
    assert!(status.not_after.as_ref().unwrap().ends_with('Z'));
    assert!(status.issuer.as_ref().unwrap().starts_with("CN=root"));
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<CertStatus>(&text).unwrap(), status);
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_not_handed_out_and_its_end_is_still_told() {
    let signer = TestSigner::new(HOUR);
    signer.then([Answer::Hang]);
    let keyring = keyring(&signer, RotationConfig::default());
    let wanted = keyring.want(&id("ns/a/sa/b"));
    assert_eq!(keyring.expiries(), [], "there was none yet");
    let over = SystemTime::now() - Duration::from_secs(5);
    let leaf = Leaf { not_after: over, ..Leaf::of(&[&wanted.identity().to_string()]) };
    let (chain, key) = signer.ca.raw(leaf);
    let certificate = crate::Certificate::from_parts(chain, key).unwrap();
    let core = &keyring.shared.core;
    let entry = core.make_entry(certificate, &core.roots()).unwrap();
    keyring.slot(wanted.identity()).unwrap().entry.send_replace(Some(entry));
    assert!(keyring.certificate(wanted.identity()).is_none());
    let [(identity, ends)] = &keyring.expiries()[..] else { panic!("{:?}", keyring.expiries()) };
    assert_eq!(identity, wanted.identity());
    assert!(*ends <= over, "it is told of whoever has one that ended");
}

#[tokio::test(start_paused = true)]
async fn when_another_root_signs_certificates_are_renewed_before_long_and_not_at_half_life() {
    let signer = TestSigner::new(24 * HOUR);
    let keyring = keyring(&signer, RotationConfig::default());
    let wanted = keyring.want(&id("ns/a/sa/b"));
    let first = keyring.ready(wanted.identity()).await.unwrap();
    let old = keyring.roots();
    // Trusted beside the old one: nothing to do.
    let new = TestSigner::new(24 * HOUR);
    keyring.replace_roots(old.merge(&new.authority.roots()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(signer.calls(), 1);
    // It signs: asked again, and more and more seldom while what comes is signed by the old one.
    keyring.replace_roots(new.authority.roots().merge(&old));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(signer.calls(), 2);
    assert!(wanted.certificate().is_some_and(|entry| entry.generation() > first.generation()));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!((4..=6).contains(&signer.calls()), "{}", signer.calls());
    // The other way round again: what there is leads to the first.
    keyring.replace_roots(old.merge(&new.authority.roots()));
    let calls = signer.calls();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(signer.calls() <= calls + 1);
}

#[tokio::test(start_paused = true)]
async fn keys_go_to_the_disk_when_told_and_leave_it_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let signer = TestSigner::new(HOUR);
    let identity = id("ns/a/sa/b");
    let config = || RotationConfig {
        state_dir: Some(dir.path().join("memory")),
        disk_dir: Some(dir.path().join("certs")),
        ..RotationConfig::default()
    };
    let memory = keyring(&signer, config());
    let wanted = memory.want(&identity);
    memory.ready(&identity).await.unwrap();
    assert!(!dir.path().join("certs").exists(), "memory is the default");

    memory.keep_on_disk(true).unwrap();
    memory.keep_on_disk(true).unwrap();
    let file = only_file(dir.path());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(dir.path().join("certs")).unwrap().permissions().mode() & 0o777, 0o700);
    let serial = wanted.certificate().unwrap().certificate().serial().to_owned();
    drop((wanted, memory));

    // The node was started over: its memory is empty, and there is no controller.
    fs::remove_dir_all(dir.path().join("memory")).unwrap();
    signer.then((0..100).map(|_| Answer::Hang));
    let disk = keyring(&signer, config());
    let wanted = disk.want(&identity);
    assert_eq!(disk.ready(&identity).await.unwrap().certificate().serial(), serial);

    disk.keep_on_disk(false).unwrap();
    assert!(!dir.path().join("certs").exists(), "nothing is left");
    assert!(wanted.certificate().is_some());
    let nowhere = keyring(&signer, RotationConfig::default());
    assert!(matches!(nowhere.keep_on_disk(true), Err(KeyringError::NoDisk)));
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_and_the_next_one_is_told() {
    let signer = TestSigner::new(HOUR);
    signer.then([Answer::Refuse, Answer::Refuse]);
    let keyring = keyring(&signer, RotationConfig::default());
    let wanted = keyring.want(&id("ns/a/sa/b"));
    eventually("a failure", || keyring.attempts().failed > 0).await;
    let status = keyring.status().remove(0);
    assert!(status.next.is_some() && status.last_error.is_some(), "{status:?}");
    keyring.ready(wanted.identity()).await.unwrap();
    assert_eq!(keyring.attempts(), Attempts { signed: 1, failed: 2 });
    let status = keyring.status().remove(0);
    assert!(status.next < status.not_after && status.last_error.is_none(), "{status:?}");
}
