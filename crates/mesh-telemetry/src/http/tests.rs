#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

use super::*;
use crate::shutdown::Shutdown;

fn routes() -> Routes {
    Routes::new()
        .get("/v1/pods", async |_request| Response::json(&["a", "b"]))
        .get("/healthz", async |_request| Response::text("ok"))
        .post("/v1/echo", async |request| Response::text(String::from_utf8_lossy(&request.body).into_owned()))
}

async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    request: &str,
) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn ask(path: &Path, request: &str) -> String {
    let request = request.replacen("\r\n", "\r\nhost: weft\r\nconnection: close\r\n", 1);
    exchange(UnixStream::connect(path).await.unwrap(), &request).await
}

#[tokio::test]
async fn a_unix_server_answers_its_routes_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/agent.sock");
    let server = Server::unix(&path).unwrap();
    let shutdown = Shutdown::new();
    let serving = tokio::spawn(server.serve(routes(), shutdown.clone()));

    let answer = ask(&path, "GET /v1/pods?namespace=a HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n[\"a\",\"b\"]"), "{answer}");

    let answer = ask(&path, "HEAD /healthz HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");

    let answer = ask(&path, "POST /v1/echo HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello").await;
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");

    let answer =
        ask(&path, "POST /v1/echo HTTP/1.1\r\norigin: http://a\r\ncontent-length: 5\r\n\r\nhello").await;
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "a web page's: {answer}");

    let answer = ask(&path, "GET /v1/nothing HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"error":"no such path: /v1/nothing"}"#), "{answer}");

    let answer = ask(&path, "POST /v1/pods HTTP/1.1\r\ncontent-length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
    assert!(answer.contains("allow: GET\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"error":"POST is not for /v1/pods: use GET"}"#), "{answer}");

    let long = "x".repeat(70_000);
    let request = format!("POST /v1/echo HTTP/1.1\r\ncontent-length: {}\r\n\r\n{long}", long.len());
    let answer = ask(&path, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    shutdown.trigger();
    serving.await.unwrap().unwrap();
    assert!(!path.exists(), "the socket's file is removed");
}

#[tokio::test]
async fn the_socket_and_the_directory_made_for_it_are_the_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/agent.sock");
    let _server = Server::unix(&path).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());

    let server = Server::unix(&path).unwrap();
    let error = Server::unix(&path).unwrap_err();
    assert!(matches!(&error, BindError::Live(_)), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    drop(server);
    assert!(!path.exists());

    std::fs::write(&path, "notes").unwrap();
    assert!(matches!(Server::unix(&path).unwrap_err(), BindError::NotASocket(_)));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "notes");
}

#[tokio::test]
async fn a_server_does_not_remove_a_socket_that_took_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let first = Server::unix(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _second = Server::unix(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

#[tokio::test]
async fn a_path_that_no_socket_address_can_hold_is_named() {
    let path = Path::new("/tmp").join("x".repeat(120));
    assert!(matches!(Server::unix(path).unwrap_err(), BindError::TooLong(_)));
}

#[tokio::test]
async fn a_tcp_port_that_is_taken_is_named() {
    let server = Server::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let addr = server.local_addr().unwrap();
    let error = Server::tcp(addr).unwrap_err();
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}

#[tokio::test]
async fn an_answer_under_way_is_finished_when_the_server_stops() {
    let (started, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = Server::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let addr = server.local_addr().unwrap();
    let slow = {
        let (started, release) = (started.clone(), release.clone());
        move |_request| {
            let (started, release) = (started.clone(), release.clone());
            async move {
                started.notify_one();
                release.notified().await;
                Response::text("done")
            }
        }
    };
    let shutdown = Shutdown::new();
    let serving = tokio::spawn(server.serve(Routes::new().get("/slow", slow), shutdown.clone()));
    let asking = tokio::spawn(async move {
        exchange(TcpStream::connect(addr).await.unwrap(), "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await
    });
    started.notified().await;
    shutdown.trigger();
    // The listener is gone while the answer is still under way.
    while TcpStream::connect(addr).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    release.notify_one();
    assert!(asking.await.unwrap().ends_with("done"));
    serving.await.unwrap().unwrap();
}

/// Bytes of an answer that fits in no socket's buffers.
const LARGE: usize = 8 << 20;

/// A server with a large answer, and its socket.
fn large(directory: &Path) -> (std::path::PathBuf, Shutdown) {
    let path = directory.join("agent.sock");
    let shutdown = Shutdown::new();
    let routes = routes().get("/large", async |_request| Response::text("x".repeat(LARGE)));
    tokio::spawn(Server::unix(&path).unwrap().serve(routes, shutdown.clone()));
    (path, shutdown)
}

async fn sends(path: &Path, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn whoever_does_nothing_with_a_connection_makes_room_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _shutdown) = large(directory.path());
    let mut idle = Vec::new();
    for _ in 0..crowd::CONNECTIONS + 40 {
        idle.push(sends(&path, "GET /healthz HTTP/1.1\r\nhost: ").await);
    }
    let answer = ask(&path, "GET /healthz HTTP/1.1\r\n\r\n").await;
    assert!(answer.ends_with("ok"), "{answer}");
    let mut rest = String::new();
    // Hung up on, with what it had sent unread.
    let first = idle[0].read_to_string(&mut rest).await;
    assert!(first.is_err() || rest.is_empty(), "{rest}");
    idle.last_mut().unwrap().write_all(b"a\r\nconnection: close\r\n\r\n").await.unwrap();
    idle.last_mut().unwrap().read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("ok"), "the youngest keeps its place: {rest}");
}

#[tokio::test]
async fn who_waits_for_its_answer_keeps_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let (asked, made) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = (asked.clone(), made.clone());
    let routes = routes().get("/slow", move |_request| {
        let (asked, made) = slow.clone();
        async move {
            asked.notify_one();
            made.notified().await;
            Response::text("done")
        }
    });
    tokio::spawn(Server::unix(&path).unwrap().serve(routes, Shutdown::new()));
    let mut waits = sends(&path, "GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    asked.notified().await;
    let mut idle = Vec::new();
    for _ in 0..crowd::CONNECTIONS + 40 {
        idle.push(sends(&path, "GET /healthz HTTP/1.1\r\nhost: ").await);
    }
    assert!(ask(&path, "GET /healthz HTTP/1.1\r\n\r\n").await.ends_with("ok"));
    made.notify_one();
    let mut answer = String::new();
    waits.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("done"), "{answer}");
}

#[tokio::test]
async fn answers_that_nobody_takes_are_given_up_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _shutdown) = large(directory.path());
    let mut greedy = Vec::new();
    for _ in 0..12 {
        // Four requests each: a connection has one answer under way.
        greedy.push(sends(&path, &"GET /large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(4)).await);
    }
    let answer = ask(&path, "GET /large HTTP/1.1\r\n\r\n").await;
    assert!(answer.len() > LARGE);
    let mut cut = 0;
    for mut stream in greedy {
        let mut taken = Vec::new();
        let read = tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut taken)).await;
        cut += usize::from(read.is_ok() && taken.len() < LARGE);
    }
    assert!((1..12).contains(&cut), "{cut} of 12 were cut");
}

#[tokio::test]
async fn who_takes_no_answer_is_hung_up_on() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _shutdown) = large(directory.path());
    let mut stream = sends(&path, "GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut taken = vec![0];
    stream.read_exact(&mut taken).await.unwrap();
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(40)).await;
    tokio::time::resume();
    let _ended = stream.read_to_end(&mut taken).await;
    assert!(taken.len() < LARGE, "{} bytes", taken.len());
}
