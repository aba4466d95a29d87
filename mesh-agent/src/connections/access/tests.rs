#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use arc_swap::ArcSwap;
use mesh_model::{AccessLogMode, ServiceKey, Share, Uid, Workload};
use mesh_telemetry::api::{ConnectionPath, Direction, Security};
use mesh_telemetry::logs::Format;
use serde_json::{Value, json};

use super::*;
use crate::connections::End;
use crate::settings::{AccessLog as Settings, InForce};

fn workload(namespace: &str, name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        uid: Uid::new(name),
        namespace: namespace.into(),
        name: format!("{name}-0").into(),
        owner: name.into(),
        node: "a".into(),
        identity: format!("spiffe://weft.test/ns/{namespace}/sa/{name}").parse().unwrap(),
        addresses: Vec::new(),
        enrolled: true,
        left_alone: None,
        bindings: None,
        tunnel: Default::default(),
        phase: Default::default(),
        host_network: false,
    })
}

fn about() -> About {
    let end = |workload: Arc<Workload>, address: &str| End {
        identity: Some(workload.identity.clone()),
        workload: Some(workload),
        address: address.parse().unwrap(),
    };
    About {
        direction: Direction::Outbound,
        path: ConnectionPath::Tunnel,
        security: Security::Mtls,
        source: end(workload("shop", "cart"), "[::ffff:10.0.0.1]:40000"),
        destination: end(workload("bank", "till"), "10.0.1.1:8080"),
        service: Some(ServiceKey::new("bank", "till")),
    }
}

fn stranger() -> About {
    let End { address, .. } = about().source;
    let source = End { workload: None, identity: None, address };
    About { source, service: None, security: Security::Plaintext, ..about() }
}

fn ended() -> Ended {
    Ended {
        reason: None,
        bytes_sent: 120,
        bytes_received: 64_000,
        duration: Some(Duration::from_micros(1_002_345)),
        transport: Transport {
            connect: Some(Duration::from_micros(1_250)),
            rtt: Some(Duration::from_micros(310)),
            retransmits: Some(2),
        },
        audited: false,
    }
}

fn written(line: &Line<'_>, format: Format) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(1_769_846_400_007);
    let mut text = String::new();
    line.write(format, &mut Clock::default(), time, &mut text);
    assert_eq!(text.matches('\n').count(), 1, "{text:?}");
    assert!(text.ends_with('\n'));
    text.pop();
    text
}

fn object(line: &Line<'_>) -> Value {
    serde_json::from_str(&written(line, Format::Json)).unwrap()
}

#[test]
fn a_line_of_an_end_has_every_key() {
    let line = Line { event: Event::Closed, about: &about(), reason: None, detail: "", ended: &ended() };
    let wanted = json!({
        "time": "2026-01-31T08:00:00.007Z",
        "event": "closed",
        "direction": "outbound",
        "path": "tunnel",
        "security": "mtls",
        "verdict": "allowed",
        "reason": "clean",
        "detail": null,
        "source": {
            "namespace": "shop",
            "workload": "cart",
            "pod": "cart-0",
            "identity": "spiffe://weft.test/ns/shop/sa/cart",
            "address": "10.0.0.1:40000",
        },
        "destination": {
            "namespace": "bank",
            "workload": "till",
            "pod": "till-0",
            "service": "till",
            "identity": "spiffe://weft.test/ns/bank/sa/till",
            "address": "10.0.1.1:8080",
        },
        "policy": null,
        "bytes_sent": 120,
        "bytes_received": 64_000,
        "duration_ms": 1_002.345,
        "connect_ms": 1.25,
        "rtt_us": 310,
        "retransmits": 2,
    });
    assert_eq!(object(&line), wanted);
}

#[test]
fn text_has_the_same_words_and_leaves_out_what_is_not_there() {
    let closed = Line { event: Event::Closed, about: &about(), reason: None, detail: "", ended: &ended() };
    assert_eq!(
        written(&closed, Format::Text),
        "time=2026-01-31T08:00:00.007Z event=closed direction=outbound path=tunnel security=mtls verdict=allowed reason=clean \
         source.namespace=shop source.workload=cart source.pod=cart-0 source.identity=spiffe://weft.test/ns/shop/sa/cart \
         source.address=10.0.0.1:40000 destination.namespace=bank destination.workload=till destination.pod=till-0 \
         destination.service=till destination.identity=spiffe://weft.test/ns/bank/sa/till destination.address=10.0.1.1:8080 \
         bytes_sent=120 bytes_received=64000 duration_ms=1002.345 connect_ms=1.250 rtt_us=310 retransmits=2"
    );
    let refused = Line {
        event: Event::Refused,
        about: &stranger(),
        reason: Some(Reason::PolicyDenied),
        detail: "rule 0 of DENY policy bank/closed matches",
        ended: &Ended::default(),
    };
    assert_eq!(
        written(&refused, Format::Text),
        "time=2026-01-31T08:00:00.007Z event=refused direction=outbound path=tunnel security=plaintext verdict=denied \
         reason=policy_denied detail=\"rule 0 of DENY policy bank/closed matches\" source.address=10.0.0.1:40000 \
         destination.namespace=bank destination.workload=till destination.pod=till-0 \
         destination.identity=spiffe://weft.test/ns/bank/sa/till destination.address=10.0.1.1:8080 policy=bank/closed \
         bytes_sent=0 bytes_received=0"
    );
}

#[test]
fn the_verdict_is_of_who_decided() {
    let verdict = |event, reason, audited| {
        let ended = Ended { audited, ..Ended::default() };
        let line = Line { event, about: &about(), reason, detail: "", ended: &ended };
        object(&line)["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict(Event::Closed, Some(Reason::Reset), false), "allowed");
    assert_eq!(verdict(Event::Closed, None, true), "audited");
    assert_eq!(verdict(Event::Refused, Some(Reason::PlaintextRefused), false), "denied");
    assert_eq!(verdict(Event::Refused, Some(Reason::ConnectTimeout), false), "allowed");
    assert_eq!(verdict(Event::Cut, Some(Reason::PolicyNotAllowed), false), "denied");
}

#[test]
fn every_reason_is_in_the_line_by_its_word() {
    for reason in Reason::ALL {
        let line = Line {
            event: Event::Refused,
            about: &stranger(),
            reason: Some(*reason),
            detail: "why",
            ended: &ended(),
        };
        assert_eq!(object(&line)["reason"], reason.as_str());
        assert!(written(&line, Format::Text).contains(&format!(" reason={reason} detail=why ")));
    }
}

/// What no word of a peer's may do: end the line, end the quotes, reach the terminal as a command.
#[test]
fn nothing_that_others_say_escapes_its_place() {
    let hostile = "a\"b\\c\nevent=closed\r\t\u{1b}[2J\u{7f}\u{9b}31m\u{202e}gnp\u{2028}\u{feff}\0 é 🦀 {}";
    let line = Line {
        event: Event::Refused,
        about: &about(),
        reason: Some(Reason::TlsHandshake),
        detail: hostile,
        ended: &Ended::default(),
    };
    assert_eq!(object(&line)["detail"], hostile, "JSON has it whole");
    for format in [Format::Json, Format::Text] {
        let text = written(&line, format);
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(!text.contains(['\u{202e}', '\u{2028}', '\u{feff}']), "{text:?}");
    }
    let text = written(&line, Format::Text);
    assert!(
        text.contains(
            r#"detail="a\"b\\c\nevent=closed\r\t\u001b[2J\u007f\u009b31m\u202egnp\u2028\ufeff\u0000 é 🦀 {}""#
        ),
        "{text}"
    );
    // A word that could be taken for another key is quoted.
    let line = Line { detail: "a=b", ..line };
    assert!(written(&line, Format::Text).contains("detail=\"a=b\" "));
}

#[test]
fn long_words_are_cut_between_two_characters() {
    let long = "é".repeat(4_000);
    let line = Line { event: Event::Refused, about: &about(), reason: None, detail: &long, ended: &ended() };
    let detail = object(&line)["detail"].as_str().unwrap().to_owned();
    assert!(long.starts_with(&detail) && (500..=512).contains(&detail.len()), "{}", detail.len());
}

fn all() -> Settings {
    Settings { mode: AccessLogMode::All, ..Settings::written_as(Format::Json) }
}

#[test]
fn the_mode_says_which_events_have_a_line() {
    let wanted = |mode| {
        let log = Settings { mode, ..all() };
        [Event::Closed, Event::Refused, Event::Cut].map(|event| filter::wants(&log, event, &about(), None))
    };
    assert_eq!(wanted(AccessLogMode::Off), [false, false, false]);
    assert_eq!(wanted(AccessLogMode::Refused), [false, true, true]);
    assert_eq!(wanted(AccessLogMode::All), [true, true, true]);
}

#[test]
fn a_namespace_is_of_either_end_or_of_the_service() {
    let wanted = |names: &[&str], about: &About| {
        let namespaces = Some(names.iter().map(|name| (*name).into()).collect());
        filter::wants(&Settings { namespaces, ..all() }, Event::Refused, about, None)
    };
    assert!(wanted(&["shop"], &about()));
    assert!(wanted(&["other", "bank"], &about()));
    assert!(!wanted(&["other"], &about()));
    assert!(!wanted(&["shop"], &stranger()));
    let outside = End { workload: None, ..about().destination };
    let by_service = About { destination: outside, service: about().service, ..stranger() };
    assert!(wanted(&["bank"], &by_service), "a Service's endpoint outside the mesh");
}

#[test]
fn only_what_ended_is_too_short_or_not_in_the_sample() {
    let log = Settings { min_duration: Duration::from_secs(2), sample: Share::new(0.0).unwrap(), ..all() };
    let long = Some(Duration::from_secs(3));
    assert!(!filter::wants(&log, Event::Closed, &about(), long), "not in the sample");
    assert!(filter::wants(&log, Event::Refused, &about(), None));
    assert!(filter::wants(&log, Event::Cut, &about(), Some(Duration::ZERO)));
    let log = Settings { sample: Share::ALL, ..log };
    assert!(filter::wants(&log, Event::Closed, &about(), long));
    assert!(!filter::wants(&log, Event::Closed, &about(), Some(Duration::from_secs(1))));
    assert!(filter::wants(&log, Event::Closed, &about(), None), "nobody knows how long");
}

#[test]
fn a_sample_is_even_and_the_same_at_both_nodes() {
    let log = Settings { sample: Share::new(0.1).unwrap(), ..all() };
    let mut wanted = 0;
    for port in 1..=60_000 {
        let mut outbound = about();
        outbound.source.address.set_port(port);
        let inbound = About { direction: Direction::Inbound, service: None, ..outbound.clone() };
        let is_wanted = filter::wants(&log, Event::Closed, &outbound, None);
        assert_eq!(filter::wants(&log, Event::Closed, &inbound, None), is_wanted, "port {port}");
        wanted += u32::from(is_wanted);
    }
    assert!((5_500..6_500).contains(&wanted), "{wanted} of 60000 where 6000 are due");
}

/// Somebody who reads when he is told to.
struct Reader {
    go: mpsc::Receiver<()>,
    read: Arc<Mutex<Vec<u8>>>,
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nobody sends any more: read on.
        let _go = self.go.recv();
        self.read.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log_to(access_log: Settings, out: impl Write + Send + 'static) -> (AccessLog, Shared) {
    let in_force = InForce { access_log, ..crate::settings::example() };
    let settings = Arc::new(ArcSwap::from_pointee(in_force));
    (AccessLog::to(settings.clone(), out).unwrap(), settings)
}

fn reader() -> (mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>, Reader) {
    let (sender, go) = mpsc::channel();
    let read = Arc::default();
    (sender, Arc::clone(&read), Reader { go, read })
}

fn lines(read: &Mutex<Vec<u8>>) -> Vec<Value> {
    let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_happens_is_read_by_whoever_reads() {
    let (sender, read, out) = reader();
    drop(sender);
    let (log, settings) = log_to(all(), out);
    log.refused(&about(), Reason::AppRefused, &"nobody listens");
    log.note_audit(&about());
    assert!(log.was_audited(&about()));
    assert!(!log.was_audited(&about()), "once");
    log.ended(&about(), &Ended { audited: true, ..ended() });
    log.cut(&about(), Reason::PolicyDenied, "rule 1 of DENY policy bank/late matches", &ended());
    log.flush();
    let events = |key: &str| lines(&read).iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(events("event"), ["refused", "closed", "cut"]);
    assert_eq!(events("verdict"), ["allowed", "audited", "denied"]);
    assert_eq!(events("policy"), [json!(null), json!(null), json!("bank/late")]);

    // A change counts from the next line on.
    settings.store(Arc::new(InForce {
        access_log: Settings { mode: AccessLogMode::Off, ..all() },
        ..crate::settings::example()
    }));
    log.refused(&about(), Reason::AppRefused, &"nobody listens");
    log.flush();
    assert_eq!(lines(&read).len(), 3);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn who_does_not_read_costs_lines_and_nobodys_time() {
    let (sender, read, out) = reader();
    let writer = Writer::start(Queue::with_capacity(1_000), out).unwrap();
    let line = format!("{:099}\n", 7);
    let before = Instant::now();
    for _ in 0..10_000 {
        writer.queue().push(&line);
    }
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    // One buffer is full, another one is on its way out at most.
    let kept = 10_000 - writer.queue().dropped();
    assert!((10..=20).contains(&kept), "{kept}");
    drop(sender);
    writer.queue().flush();
    let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
    assert_eq!(
        text.lines().filter(|read| format!("{read}\n") == line).count() as u64,
        kept,
        "whole, or not at all"
    );
    writer.queue().push(&line);
    writer.queue().flush();
    assert_eq!(read.lock().unwrap().len() as u64, (kept + 1) * 100, "and on it goes");
}

#[test]
fn what_is_left_is_written_at_the_end_and_nobody_waits_for_ever() {
    let (sender, read, out) = reader();
    drop(sender);
    let (log, _settings) = log_to(all(), out);
    log.ended(&about(), &ended());
    drop(log);
    assert_eq!(lines(&read).len(), 1);

    let (_sender, _read, out) = reader();
    let (log, _settings) = log_to(all(), out);
    log.ended(&about(), &ended());
    let before = Instant::now();
    log.flush();
    drop(log);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_cannot_be_written_is_counted() {
    let (log, _settings) = log_to(all(), Broken);
    log.ended(&about(), &ended());
    log.ended(&about(), &ended());
    log.flush();
    assert_eq!(log.dropped(), 2);
}
