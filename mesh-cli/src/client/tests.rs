#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use mesh_telemetry::http::tls::{MutualTls, TlsFiles};
use mesh_telemetry::http::{Response, Routes, Server};
use mesh_telemetry::shutdown::Shutdown;

use super::*;

/// Serves `routes` while `f` runs.
fn with_server(routes: Routes, f: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let shutdown = Shutdown::new();
    let server = Server::unix(&path).unwrap();
    let serving = runtime.spawn(server.serve(routes, shutdown.clone()));
    f(&path);
    shutdown.trigger();
    runtime.block_on(serving).unwrap().unwrap();
}

fn client(transport: Transport, timeout: Duration) -> Client {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Client::new(transport, Arc::new(runtime), timeout)
}

fn unix(path: &Path) -> Client {
    client(Transport::Unix(path.into()), Duration::from_secs(5))
}

fn get(path: &Path) -> Result<Value, ClientError> {
    unix(path).get("/v1/pods")
}

#[test]
fn an_answer_comes_back_as_it_was_sent() {
    let routes = Routes::new().get("/v1/pods", async |_| Response::json(&["a"]));
    with_server(routes, |path| assert_eq!(get(path).unwrap(), serde_json::json!(["a"])));
}

#[test]
fn an_agent_that_says_no_is_not_unreachable() {
    let routes = Routes::new()
        .get("/v1/pods", async |_| Response::error(StatusCode::SERVICE_UNAVAILABLE, "not attached yet"));
    with_server(routes, |path| {
        let error = get(path).unwrap_err();
        assert!(!error.is_unreachable());
        let message = error.to_string();
        assert!(message.ends_with("answers 503 Service Unavailable: not attached yet"), "{message}");
    });
    with_server(Routes::new(), |path| {
        let error = get(path).unwrap_err();
        assert!(matches!(&error, ClientError::NoSuchPath { .. }) && !error.is_unreachable(), "{error}");
    });
}

#[test]
fn an_answer_that_is_no_json_is_an_error() {
    let routes = Routes::new().get("/v1/pods", async |_| Response::text("hello"));
    with_server(routes, |path| {
        assert!(matches!(get(path).unwrap_err(), ClientError::NotJson { .. }));
    });
}

#[test]
fn a_socket_that_is_missing_or_abandoned_is_unreachable_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let error = get(&path).unwrap_err();
    assert!(matches!(error, ClientError::NoSocket(_)) && error.is_unreachable());
    assert!(error.to_string().contains(path.to_str().unwrap()));
    drop(UnixListener::bind(&path).unwrap());
    let error = get(&path).unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }) && error.is_unreachable());
    assert!(error.to_string().contains(path.to_str().unwrap()));
}

#[test]
fn silence_ends_after_the_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = client(Transport::Unix(path), Duration::from_millis(50)).get("/v1/pods").unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }) && error.is_unreachable(), "{error}");
}

#[test]
fn a_connection_that_breaks_off_is_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[").unwrap();
    });
    let error = get(&path).unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }) && error.is_unreachable(), "{error}");
    server.join().unwrap();
}

#[test]
fn what_is_posted_arrives_and_text_comes_as_it_is() {
    let routes = Routes::new()
        .post("/v1/echo", async |request| {
            Response::json(&serde_json::from_slice::<Value>(&request.body).unwrap())
        })
        .get("/text", async |_| Response::text("two\nlines"));
    with_server(routes, |path| {
        let body = serde_json::json!({"filter": "debug"});
        let mut texts = Vec::new();
        unix(path).get_text_each_with("/text", |one| texts.push(one.answer.unwrap())).unwrap();
        assert_eq!(texts, ["two\nlines"]);
        let each = unix(path).post_each("/v1/echo", &body).unwrap();
        assert!(each.len() == 1 && each[0].node.is_none(), "{each:?}");
        assert_eq!(each[0].answer.as_ref().unwrap(), &body);
    });
}

#[test]
fn an_ends_clock_and_version_are_heard_beside_its_answer() {
    let routes = Routes::new().get("/v1/pods", async |_| Response::json(&["a"]));
    with_server(routes, |path| {
        let client = unix(path);
        client.get("/v1/pods").unwrap();
        let (theirs, ours) = client.clocks().unwrap();
        assert!(theirs.unix().abs_diff(Timestamp::from(ours).unix()) <= 2);
        assert_eq!(client.warnings(), Vec::<String>::new(), "the same version");
    });
    let ends = BTreeSet::from(["a".to_owned(), "b".to_owned(), "c".to_owned(), "d".to_owned()]);
    let warning = |version: &str| version::warning(version, &ends);
    assert!(warning("0.0.1").unwrap().contains("a, b, c, 1 more has version 0.0.1, older than this meshctl"));
    assert!(warning("99.0.0").unwrap().contains("newer than this meshctl"));
    assert_eq!(warning(version::OWN), None);
    assert_eq!(warning("nonsense\u{1b}"), None);
}

#[test]
fn a_date_of_a_head_is_read_and_nothing_else() {
    let at = |text: &str| date::parse(text).map(|at| at.to_string());
    assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT").as_deref(), Some("1994-11-06T08:49:37Z"));
    for bad in
        ["", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nox 1994 08:49:37 GMT"]
    {
        assert_eq!(at(bad), None, "{bad}");
    }
}

/// Files of an authority and of what it signs, by the names that certificates are for.
fn signed(directory: &Path, names: &[&str]) -> Vec<TlsFiles> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = directory.join("ca.pem");
    std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let sign = |name: &&str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([(*name).to_owned()]).unwrap();
        let (cert, file) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        std::fs::write(&cert, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(&file, key.serialize_pem()).unwrap();
        TlsFiles { cert, key: file, ca: ca.clone() }
    };
    names.iter().map(sign).collect()
}

#[test]
fn an_address_is_asked_with_mutual_tls_and_who_is_not_let_in_is_told_so() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = signed(ours.path(), &["localhost", "operator"]);
    let stranger = signed(theirs.path(), &["stranger"]).remove(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let tls = MutualTls::open(files[0].clone()).unwrap();
    let server = Server::tls("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let address = server.local_addr().unwrap();
    let routes = Routes::new().get("/v1/pods", async |_| Response::json(&["a"]));
    runtime.spawn(server.serve(routes, Shutdown::new()));

    let ask = |address: &str, files: &TlsFiles, name: &str| {
        let remote = crate::args::Remote {
            address: address.into(),
            server_name: name.into(),
            cert: files.cert.clone(),
            key: files.key.clone(),
            ca: files.ca.clone(),
        };
        client(Transport::Tls(Arc::new(remote)), Duration::from_secs(5)).get("/v1/pods")
    };
    let here = address.to_string();
    assert_eq!(ask(&here, &files[1], "localhost").unwrap(), serde_json::json!(["a"]));

    let trusting = TlsFiles { ca: files[1].ca.clone(), ..stranger.clone() };
    let error = ask(&here, &trusting, "localhost").unwrap_err();
    assert!(matches!(&error, ClientError::NotLetIn { .. }) && !error.is_unreachable(), "{error:?}");

    for (files, name) in [(&files[1], "elsewhere"), (&stranger, "localhost")] {
        let error = ask(&here, files, name).unwrap_err();
        assert!(matches!(&error, ClientError::NotThem { .. }), "{name}: {error:?}");
    }
    let missing = TlsFiles { key: "/nowhere/key.pem".into(), ..files[1].clone() };
    assert!(matches!(ask(&here, &missing, "localhost").unwrap_err(), ClientError::Files(_)));
    // Bound, so that nobody else is given the port, and not listening.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = taken.local_addr().unwrap().to_string();
    let error = ask(&nobody, &files[1], "localhost").unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains(&nobody), "{error}");
}
