#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

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

fn get(path: &Path) -> Result<Value, ClientError> {
    Client::new(path, Duration::from_secs(5)).get("/v1/pods")
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
    assert!(matches!(error, ClientError::Refused(_)) && error.is_unreachable());
    assert!(error.to_string().contains(path.to_str().unwrap()));
}

#[test]
fn silence_ends_after_the_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = Client::new(&path, Duration::from_millis(50)).get("/v1/pods").unwrap_err();
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
