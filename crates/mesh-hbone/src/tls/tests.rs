#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testkit;

async fn pair() -> (Wire, Wire) {
    let tls = testkit::tls(ALPN);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = async {
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        connect_tls(tcp, tls.client, "peer".try_into().unwrap()).await.unwrap()
    };
    let accept = async {
        let (tcp, _) = listener.accept().await.unwrap();
        accept_tls(tcp, tls.server, &ServerConfig::default()).await.unwrap()
    };
    let (client, server) = tokio::join!(connect, accept);
    (client.share().0, server.share().0)
}

async fn flush(wire: &Wire) {
    poll_fn(|cx| wire.lock().poll_flush(cx)).await.unwrap();
}

#[tokio::test]
async fn small_writes_wait_for_the_turns_flush_and_go_together() {
    let (mut client, mut server) = pair().await;
    for n in 0..100_u8 {
        client.write_all(&[n]).await.unwrap();
        client.flush().await.unwrap();
    }
    let mut got = [0; 100];
    let early = tokio::time::timeout(Duration::from_millis(20), server.read(&mut got)).await;
    assert!(early.is_err(), "written before the turn's end");
    flush(&client).await;
    assert_eq!(server.read(&mut got).await.unwrap(), 100);
    assert_eq!(got.to_vec(), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn writes_of_every_size_arrive_in_order() {
    let (mut client, mut server) = pair().await;
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 / 5) as u8).collect();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        let mut rest = &sent[..];
        for size in [1, 9, 100, 8191, 8192, 8193, 20_000, 64 << 10, 300_000].into_iter().cycle() {
            let (now, later) = rest.split_at(size.min(rest.len()));
            client.write_all(now).await.unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        flush(&client).await;
        client.shutdown().await.unwrap();
        // Not dropped before all is read: closed with unread session tickets, the socket would send RST.
        client
    });
    let mut got = Vec::new();
    let (sent, read) = tokio::join!(sending, server.read_to_end(&mut got));
    drop(sent.unwrap());
    read.unwrap();
    assert!(got == data);
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_the_writer_back() {
    let (mut client, _server) = pair().await;
    let mut written = 0;
    let stuck = async {
        loop {
            written += client.write(&[0; 64 << 10]).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(500), stuck).await.is_err());
    assert!(written < 32 << 20, "{written} bytes were taken");
    assert!(client.lock().queued <= QUEUE_LIMIT + (64 << 10));
}

#[tokio::test]
async fn an_idle_connection_holds_no_read_buffer() {
    let (mut client, mut server) = pair().await;
    client.write_all(&[7; 100]).await.unwrap();
    flush(&client).await;
    let mut got = [0; 100];
    server.read_exact(&mut got).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(20), server.read(&mut got)).await;
    assert!(more.is_err());
    assert!(server.lock().raw.is_empty());
    assert_eq!(client.lock().gathered.capacity(), 0);
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let tls = testkit::tls(b"http/1.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = async {
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        connect_tls(tcp, tls.client, "peer".try_into().unwrap()).await
    };
    let accept = async {
        let (tcp, _) = listener.accept().await.unwrap();
        accept_tls(tcp, tls.server, &ServerConfig::default()).await
    };
    let (client, server) = tokio::join!(connect, accept);
    assert_eq!(client.err().unwrap().reason(), mesh_model::Reason::Alpn);
    assert_eq!(server.err().unwrap().reason(), mesh_model::Reason::Alpn);
}

#[tokio::test]
async fn a_client_that_names_no_protocol_is_told_so() {
    let tls = testkit::tls(ALPN);
    let mut silent = rustls::ClientConfig::clone(&tls.client);
    silent.alpn_protocols.clear();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = async {
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        connect_tls(tcp, Arc::new(silent), "peer".try_into().unwrap()).await
    };
    let accept = async {
        let (tcp, _) = listener.accept().await.unwrap();
        accept_tls(tcp, tls.server, &ServerConfig::default()).await
    };
    let (client, server) = tokio::join!(connect, accept);
    assert_eq!(server.err().unwrap().reason(), mesh_model::Reason::Alpn);
    // By the alert: a connection that just ended would be another word.
    assert_eq!(client.err().unwrap().reason(), mesh_model::Reason::Alpn);
}
