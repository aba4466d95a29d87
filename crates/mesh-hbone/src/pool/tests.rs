#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;
use crate::testkit::{Loopback, Server, eventually, next, receive, request, send, tls};
use crate::{ALPN, Duplex, RecvError, ServerConfig, Sink};

fn pool() -> Pool<u32> {
    Pool::new(ClientConfig::default())
}

/// `open` runs inside spawned tasks.
fn _open_is_send<'a>(pool: &'a Pool<u32>, dial: &'a dyn Dial) -> impl Send + 'a {
    pool.open(&1, dial, request())
}

#[tokio::test]
async fn what_goes_in_comes_back_and_ends_cleanly() {
    let server = Server::echo().await;
    let mut tunnel = pool().open(&1, &server.dial, request()).await.unwrap();
    tunnel.response().await.unwrap();
    let (mut sink, mut source) = tunnel.split();
    send(&mut sink, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(receive(&mut source, 5).await, b"hello");
    sink.send(Bytes::new(), true).unwrap();
    assert!(next(&mut source).await.is_none());
}

#[tokio::test]
async fn data_may_come_before_the_answer() {
    let (answered, answer) = tokio::sync::watch::channel(false);
    let server = Server::start(ServerConfig::default(), move |request| {
        let mut answer = answer.clone();
        async move {
            answer.wait_for(|answer| *answer).await.unwrap();
            let (mut sink, mut source) = request.accept().split();
            sink.open();
            let data = receive(&mut source, 5).await;
            send(&mut sink, data.into()).await.unwrap();
            sink.send(Bytes::new(), true).unwrap();
        }
        .boxed()
    })
    .await;
    let (mut sink, mut source) = pool().open(&1, &server.dial, request()).await.unwrap().split();
    send(&mut sink, Bytes::from_static(b"early")).await.unwrap();
    answered.send(true).unwrap();
    assert_eq!(receive(&mut source, 5).await, b"early");
    assert!(next(&mut source).await.is_none());
}

#[tokio::test]
async fn a_thousand_tunnels_share_a_bounded_number_of_connections() {
    let server = Server::echo().await;
    let pool = pool();
    let open = (0..1000_u32).map(|n| {
        let (pool, dial) = (&pool, &server.dial);
        async move {
            let (mut sink, mut source) = pool.open(&1, dial, request()).await.unwrap().split();
            send(&mut sink, n.to_be_bytes().to_vec().into()).await.unwrap();
            assert_eq!(receive(&mut source, 4).await, n.to_be_bytes());
            (sink, source)
        }
    });
    let tunnels = join_all(open).await;
    assert_eq!(pool.stats(), [(1, KeyStats { connections: 8, streams: 1000 })]);
    assert_eq!(server.dial.dials.load(Ordering::Relaxed), 8);
    drop(tunnels);
    assert_eq!(pool.stats(), [(1, KeyStats { connections: 8, streams: 0 })]);
}

#[tokio::test]
async fn keys_do_not_share_connections() {
    let server = Server::echo().await;
    let pool = pool();
    let _a = pool.open(&1, &server.dial, request()).await.unwrap();
    let _b = pool.open(&2, &server.dial, request()).await.unwrap();
    assert_eq!(server.dial.dials.load(Ordering::Relaxed), 2);
    assert_eq!(pool.stats().len(), 2);
}

#[tokio::test]
async fn when_all_connections_are_full_the_peers_own_limit_holds() {
    let config = ServerConfig { max_concurrent_streams: 5, ..ServerConfig::default() };
    let server = Server::start(config, |request| {
        async move {
            let mut tunnel = request.accept().split();
            tunnel.0.open();
            next(&mut tunnel.1).await;
        }
        .boxed()
    })
    .await;
    let pool = Pool::new(ClientConfig {
        max_streams_per_connection: 2,
        max_connections_per_key: 2,
        ..ClientConfig::default()
    });
    let mut tunnels = Vec::new();
    for _ in 0..10 {
        let mut tunnel = pool.open(&1, &server.dial, request()).await.unwrap();
        tunnel.response().await.unwrap();
        tunnels.push(tunnel);
    }
    assert_eq!(pool.stats(), [(1, KeyStats { connections: 2, streams: 10 })]);
    let full = pool.open(&1, &server.dial, request()).await.err().unwrap();
    assert!(matches!(full, OpenError::Full), "{full:?}");
    tunnels.pop();
    pool.open(&1, &server.dial, request()).await.unwrap().response().await.unwrap();
}

#[tokio::test]
async fn a_slow_stream_does_not_starve_another() {
    let server = Server::echo().await;
    let pool = pool();
    // All but one of a connection's streams send, and never take what comes back: both directions stand still.
    let mut stuck = Vec::new();
    for _ in 0..127 {
        let (mut sink, source) = pool.open(&1, &server.dial, request()).await.unwrap().split();
        let sending = async { while send(&mut sink, vec![0; 64 << 10].into()).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_millis(20), sending).await.is_err());
        stuck.push((sink, source));
    }
    let (mut sink, mut source) = pool.open(&1, &server.dial, request()).await.unwrap().split();
    assert_eq!(pool.stats()[0].1.connections, 1);
    for _ in 0..64 {
        send(&mut sink, vec![1; 64 << 10].into()).await.unwrap();
        receive(&mut source, 64 << 10).await;
    }
}

#[tokio::test]
async fn a_refusal_comes_out_with_its_status() {
    let server = Server::start(ServerConfig::default(), |request| {
        async move {
            let status = request.authority().port();
            request.refuse(status);
        }
        .boxed()
    })
    .await;
    let pool = pool();
    for status in [401, 403, 503] {
        let asked = ConnectRequest { authority: ([10, 0, 0, 1], status).into(), ..request() };
        let mut tunnel = pool.open(&1, &server.dial, asked.clone()).await.unwrap();
        let refused = tunnel.response().await.unwrap_err();
        assert!(matches!(refused, RecvError::Refused { status: got } if got == status), "{refused:?}");
        assert_eq!(refused.reason(), mesh_model::Reason::PeerRefused);
        // The same without asking for the answer, and with data on the way.
        let (mut sink, mut source) = pool.open(&1, &server.dial, asked).await.unwrap().split();
        send(&mut sink, Bytes::from_static(b"data")).await.unwrap();
        let refused = next(&mut source).await.unwrap().unwrap_err();
        assert!(matches!(refused, RecvError::Refused { status: got } if got == status), "{refused:?}");
        let again = next(&mut source).await.unwrap();
        assert!(again.is_err(), "a refusal was followed by a clean end");
    }
    assert_eq!(server.accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn going_away_lets_running_tunnels_finish_and_new_ones_use_a_new_connection() {
    let server = Server::echo().await;
    let pool = pool();
    let (mut sink, mut source) = pool.open(&1, &server.dial, request()).await.unwrap().split();
    send(&mut sink, Bytes::from_static(b"one")).await.unwrap();
    receive(&mut source, 3).await;
    server.shutdown.cancel();
    // GOAWAY is two frames and a PING apart; until it is here, tunnels may still go over the old connection.
    let until = Instant::now() + Duration::from_secs(5);
    while server.dial.dials.load(Ordering::Relaxed) == 1 && Instant::now() < until {
        let _ = pool.open(&1, &server.dial, request()).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(server.dial.dials.load(Ordering::Relaxed) > 1, "the connection that goes away was handed out");
    send(&mut sink, Bytes::from_static(b"two")).await.unwrap();
    assert_eq!(receive(&mut source, 3).await, b"two");
    sink.send(Bytes::new(), true).unwrap();
    assert!(next(&mut source).await.is_none());
    drop((sink, source));
    eventually("the old connection ends well", || {
        let ends = server.ends.lock().unwrap();
        if ends.iter().any(Result::is_ok) { Ok(()) } else { Err(format!("{ends:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_dies_is_an_error_and_never_a_clean_end() {
    let server = Server::echo().await;
    let pool = pool();
    let (mut sink, mut source) = pool.open(&1, &server.dial, request()).await.unwrap().split();
    send(&mut sink, Bytes::from_static(b"one")).await.unwrap();
    receive(&mut source, 3).await;
    server.kill();
    let broken = next(&mut source).await.expect("a clean end").unwrap_err();
    assert!(matches!(broken, RecvError::Broken(_)), "{broken:?}");
    let lost = std::future::poll_fn(|cx| sink.poll_reset(cx)).await;
    assert_eq!(lost.reason(), mesh_model::Reason::TunnelBroken, "{lost:?}");
    let (mut sink, mut source) = pool.open(&1, &server.dial, request()).await.unwrap().split();
    send(&mut sink, Bytes::from_static(b"new")).await.unwrap();
    receive(&mut source, 3).await;
    assert_eq!(server.dial.dials.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_reset_reaches_the_other_end_as_a_reset() {
    let (seen, mut saw) = tokio::sync::mpsc::unbounded_channel();
    let got = Arc::new(tokio::sync::Notify::new());
    let server_got = got.clone();
    let server = Server::start(ServerConfig::default(), move |request| {
        let (seen, got) = (seen.clone(), server_got.clone());
        async move {
            let (mut sink, mut source) = request.accept().split();
            sink.open();
            receive(&mut source, 3).await;
            got.notify_one();
            let reset = std::future::poll_fn(|cx| sink.poll_reset(cx)).await;
            let end = next(&mut source).await.map(|end| end.map_err(|error| error.reason()));
            seen.send((reset.reason(), end)).unwrap();
        }
        .boxed()
    })
    .await;
    let (mut sink, _source) = pool().open(&1, &server.dial, request()).await.unwrap().split();
    send(&mut sink, Bytes::from_static(b"one")).await.unwrap();
    got.notified().await;
    sink.reset(crate::ResetCode::Cancel);
    let (reset, end) = tokio::time::timeout(Duration::from_secs(20), saw.recv()).await.unwrap().unwrap();
    assert_eq!(reset, mesh_model::Reason::Reset);
    assert_eq!(end, Some(Err(mesh_model::Reason::Reset)));
}

#[tokio::test]
async fn a_failed_handshake_fails_all_who_waited_for_it() {
    struct Slow(AtomicUsize);
    impl Dial for Slow {
        fn dial(&self) -> BoxFuture<'_, Result<Dialed, DialError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(DialError::NoCertificate)
            }
            .boxed()
        }
    }
    let (pool, dial) = (pool(), Slow(AtomicUsize::new(0)));
    let results = join_all((0..50).map(|_| pool.open(&1, &dial, request()))).await;
    for result in results {
        assert!(matches!(result.err(), Some(OpenError::Dial(DialError::NoCertificate))));
    }
    assert_eq!(dial.0.load(Ordering::Relaxed), 1);
    assert!(pool.stats().is_empty());
}

#[tokio::test]
async fn a_maker_that_is_dropped_hands_over() {
    let server = Server::echo().await;
    struct Never(AtomicUsize);
    impl Dial for Never {
        fn dial(&self) -> BoxFuture<'_, Result<Dialed, DialError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::future::pending().boxed()
        }
    }
    let (pool, never) = (pool(), Never(AtomicUsize::new(0)));
    let mut maker = Box::pin(pool.open(&1, &never, request()));
    assert!((&mut maker).now_or_never().is_none());
    let waiting = pool.open(&1, &server.dial, request());
    let dropped = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(maker);
    };
    let (opened, ()) = tokio::join!(waiting, dropped);
    opened.unwrap().response().await.unwrap();
}

#[tokio::test]
async fn failures_are_told_apart() {
    let server = Server::echo().await;
    let reason_within = async |handshake_timeout: Duration, dial: &dyn Dial| {
        let pool = Pool::new(ClientConfig { handshake_timeout, ..ClientConfig::default() });
        pool.open(&1, dial, request()).await.err().unwrap()
    };
    let reason = async |dial: &dyn Dial| reason_within(ClientConfig::default().handshake_timeout, dial).await;
    // Bound, so that nobody else is given the port, and not listening.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = Loopback {
        address: taken.local_addr().unwrap(),
        tls: server.dial.tls.clone(),
        dials: AtomicUsize::new(0),
    };
    let got = reason(&refused).await;
    assert_eq!(got.reason(), mesh_model::Reason::ConnectRefused, "{got:?}");
    let foreign =
        Loopback { address: server.dial.address, tls: tls(ALPN).client, dials: AtomicUsize::new(0) };
    let got = reason(&foreign).await;
    assert!(matches!(got, OpenError::Tls(_)), "{got:?}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let unanswered = Loopback {
        address: silent.local_addr().unwrap(),
        tls: server.dial.tls.clone(),
        dials: AtomicUsize::new(0),
    };
    let got = reason_within(Duration::from_millis(300), &unanswered).await;
    assert!(matches!(got, OpenError::Timeout), "{got:?}");
}

#[tokio::test]
async fn evicted_connections_finish_what_they_carry() {
    let server = Server::echo().await;
    let pool = pool();
    let (mut sink, mut source) = pool.open(&1, &server.dial, request()).await.unwrap().split();
    let _other = pool.open(&2, &server.dial, request()).await.unwrap();
    pool.evict(|key| *key == 1);
    assert_eq!(pool.stats().into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [2]);
    send(&mut sink, Bytes::from_static(b"still")).await.unwrap();
    assert_eq!(receive(&mut source, 5).await, b"still");
    assert!(server.ends.lock().unwrap().is_empty());
    drop((sink, source));
    eventually("the evicted connection closes", || {
        let ends = server.ends.lock().unwrap();
        if ends.len() == 1 && ends[0].is_ok() { Ok(()) } else { Err(format!("{ends:?}")) }
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_closes_after_its_time() {
    let server = Server::echo().await;
    let pool: Pool<u32> = Pool::new(ClientConfig {
        idle_timeout: Duration::from_millis(100),
        ping_interval: Duration::from_millis(20),
        ..ClientConfig::default()
    });
    let tunnel = pool.open(&1, &server.dial, request()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(pool.stats(), [(1, KeyStats { connections: 1, streams: 1 })]);
    drop(tunnel);
    eventually("idle connection leaves", || match pool.stats() {
        stats if stats.is_empty() => Ok(()),
        stats => Err(stats),
    })
    .await;
    eventually("and closes", || {
        let ends = server.ends.lock().unwrap();
        if ends.len() == 1 && ends[0].is_ok() { Ok(()) } else { Err(format!("{ends:?}")) }
    })
    .await;
}

/// Forwards bytes until told to be silent; then keeps both connections open and moves nothing.
async fn pausing_proxy(to: std::net::SocketAddr, mut pause: watch::Receiver<bool>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let paused = async { pause.wait_for(|pause| *pause).await.is_ok() };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
            _ = paused => {}
        }
        std::future::pending::<()>().await;
    });
    address
}

#[tokio::test]
async fn a_silent_peer_is_found_by_both_ends() {
    let (interval, timeout) = (Duration::from_millis(100), Duration::from_millis(100));
    let config = ServerConfig { ping_interval: interval, ping_timeout: timeout, ..ServerConfig::default() };
    let server = Server::start(config, |request| {
        async move {
            let (mut sink, mut source) = request.accept().split();
            sink.open();
            next(&mut source).await;
        }
        .boxed()
    })
    .await;
    let (silence, pause) = watch::channel(false);
    let address = pausing_proxy(server.dial.address, pause).await;
    let dial = Loopback { address, tls: server.dial.tls.clone(), dials: AtomicUsize::new(0) };
    let pool: Pool<u32> =
        Pool::new(ClientConfig { ping_interval: interval, ping_timeout: timeout, ..ClientConfig::default() });
    let mut tunnel = pool.open(&1, &dial, request()).await.unwrap();
    tunnel.response().await.unwrap();
    // Nothing to say, but there: the connection lives on.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(pool.stats().len(), 1);
    assert!(server.ends.lock().unwrap().is_empty());
    silence.send(true).unwrap();
    let (_sink, mut source) = tunnel.split();
    let end = tokio::time::timeout(Duration::from_secs(2), next(&mut source)).await.unwrap();
    assert!(end.expect("a clean end").is_err());
    eventually("both ends know", || {
        let ends = server.ends.lock().unwrap();
        let known = matches!(ends[..], [Err(crate::ServeError::Silent)]) && pool.stats().is_empty();
        if known { Ok(()) } else { Err(format!("{ends:?} {:?}", pool.stats())) }
    })
    .await;
}
