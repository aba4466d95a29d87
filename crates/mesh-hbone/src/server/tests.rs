#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use futures_util::FutureExt;
use tokio::net::TcpStream;

use super::*;
use crate::testkit::{Server, eventually, next, request};
use crate::{ClientConfig, ConnectRequest, Duplex, Pool, Sink, connect_tls};

/// A client that sends what it likes.
async fn raw_client(server: &Server) -> h2::client::SendRequest<Bytes> {
    let tcp = TcpStream::connect(server.dial.address).await.unwrap();
    let tls = connect_tls(tcp, server.dial.tls.clone(), "peer".try_into().unwrap()).await.unwrap();
    let (wire, _) = tls.share();
    let (requests, mut h2) = h2::client::Builder::new().handshake(wire.clone()).await.unwrap();
    tokio::spawn(async move {
        poll_fn(|cx| {
            let polled = Pin::new(&mut h2).poll(cx);
            wire.flush_turn(cx);
            polled
        })
        .await
    });
    requests
}

async fn status(requests: &mut h2::client::SendRequest<Bytes>, method: Method, uri: &str) -> u16 {
    let request = Request::builder().method(method).uri(uri).body(()).unwrap();
    let (response, _stream) = requests.send_request(request, false).unwrap();
    response.await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_bad_authority_is_400_and_another_method_405() {
    let server = Server::echo().await;
    let mut requests = raw_client(&server).await;
    assert_eq!(status(&mut requests, Method::CONNECT, "cart.shop:80").await, 400);
    assert_eq!(status(&mut requests, Method::GET, "https://10.0.0.1/secret").await, 405);
    assert_eq!(status(&mut requests, Method::CONNECT, "[fd00::1]:80").await, 200);
    let rejected = server.handler.rejected.lock().unwrap().clone();
    assert_eq!(
        rejected,
        [(Reason::BadAuthority, "cart.shop:80".to_owned()), (Reason::BadRequest, "GET".to_owned()),]
    );
}

#[tokio::test]
async fn the_handler_sees_what_the_client_said() {
    let (seen, mut saw) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(ServerConfig::default(), move |request| {
        let seen = seen.clone();
        async move {
            let said = (
                request.authority(),
                request.forwarded_for(),
                request.baggage().map(str::to_owned),
                request.traceparent().map(str::to_owned),
            );
            seen.send((said, request.peer().ip())).unwrap();
            request.refuse(503);
        }
        .boxed()
    })
    .await;
    let asked = ConnectRequest {
        authority: "[fd00::1]:80".parse().unwrap(),
        client: "[fd00::2]:999".parse().unwrap(),
        baggage: Some("service.name=cart".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
    };
    let pool = Pool::new(ClientConfig::default());
    pool.open(&1, &server.dial, asked.clone()).await.unwrap().response().await.unwrap_err();
    let (said, peer) = saw.recv().await.unwrap();
    assert_eq!(said, (asked.authority, Some(asked.client), asked.baggage, asked.traceparent));
    assert!(peer.is_loopback());
}

#[tokio::test]
async fn a_request_dropped_without_an_answer_is_reset() {
    let server = Server::start(ServerConfig::default(), |request| async move { drop(request) }.boxed()).await;
    let pool = Pool::new(ClientConfig::default());
    let mut tunnel = pool.open(&1, &server.dial, request()).await.unwrap();
    let error = tunnel.response().await.unwrap_err();
    assert_eq!(error.reason(), Reason::Reset, "{error:?}");
}

#[tokio::test]
async fn a_client_that_gives_up_is_noticed_before_the_answer() {
    let (seen, mut saw) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(ServerConfig::default(), move |mut request| {
        let seen = seen.clone();
        async move {
            request.cancelled().await;
            // Too late, and harmless.
            let (mut sink, mut source) = request.accept().split();
            sink.open();
            let sent = crate::testkit::send(&mut sink, Bytes::from_static(b"x")).await;
            let got = next(&mut source).await;
            seen.send((sent.is_err(), got.is_some_and(|got| got.is_err()))).unwrap();
        }
        .boxed()
    })
    .await;
    let pool = Pool::new(ClientConfig::default());
    let tunnel = pool.open(&1, &server.dial, request()).await.unwrap();
    eventually("the server has it", || match server.accepted.load(Ordering::Relaxed) {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    drop(tunnel);
    assert_eq!(saw.recv().await.unwrap(), (true, true));
}

#[tokio::test]
async fn a_client_that_does_not_speak_is_cut_off() {
    let config =
        ServerConfig { handshake_timeout: std::time::Duration::from_secs(1), ..ServerConfig::default() };
    let server = Server::start(config, |_| async {}.boxed()).await;
    let tcp = TcpStream::connect(server.dial.address).await.unwrap();
    let _quiet = connect_tls(tcp, server.dial.tls.clone(), "peer".try_into().unwrap()).await.unwrap();
    eventually("the handshake times out", || {
        let ends = server.ends.lock().unwrap();
        if matches!(ends[..], [Err(ServeError::Timeout)]) { Ok(()) } else { Err(format!("{ends:?}")) }
    })
    .await;
}

/// A client without tunnels, and how the server ended its connection.
async fn end_of_a_quiet_one(config: ServerConfig, requests: usize) -> Result<(), ServeError> {
    let server = Server::start(config, |request| async move { request.refuse(503) }.boxed()).await;
    let mut client = raw_client(&server).await;
    for _ in 0..requests {
        assert_eq!(status(&mut client, Method::CONNECT, "10.0.0.1:80").await, 503);
    }
    eventually("the server hangs up", || match server.ends.lock().unwrap().len() {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    server.ends.lock().unwrap().pop().unwrap()
}

#[tokio::test]
async fn a_connection_without_tunnels_is_closed_after_a_time() {
    let long = std::time::Duration::from_secs(3600);
    let short = std::time::Duration::from_millis(1200);
    let config = |unused_timeout, idle_timeout| ServerConfig {
        unused_timeout,
        idle_timeout,
        ping_interval: short / 4,
        ping_timeout: short / 4,
        ..ServerConfig::default()
    };
    let never = end_of_a_quiet_one(config(short, long), 0).await;
    assert!(matches!(never, Err(ServeError::Unused)), "{never:?}");
    let no_more = end_of_a_quiet_one(config(long, short), 2).await;
    assert!(no_more.is_ok(), "{no_more:?}");
}

#[tokio::test]
async fn requests_that_are_reset_before_the_answer_are_bounded() {
    let server = Server::start(ServerConfig::default(), |mut request| {
        async move {
            request.cancelled().await;
            request.refuse(503);
        }
        .boxed()
    })
    .await;
    let mut requests = raw_client(&server).await;
    for sent in 0..100_000_u32 {
        if std::future::poll_fn(|cx| requests.poll_ready(cx)).await.is_err() {
            assert!(sent > config::VAIN_REQUESTS.burst / 2, "{sent} are not many");
            break;
        }
        let request = Request::builder().method(Method::CONNECT).uri("10.0.0.1:80").body(()).unwrap();
        let Ok((_response, mut stream)) = requests.send_request(request, false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        if sent % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    eventually("the connection is ended", || {
        let ends = server.ends.lock().unwrap();
        match ends[..] {
            [Err(ServeError::Flood(_) | ServeError::Excess(_))] => Ok(()),
            _ => Err(format!("{ends:?}")),
        }
    })
    .await;
}
