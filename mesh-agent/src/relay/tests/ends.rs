//! How connections end: FIN, RST, and what never may be mistaken for the former.

use super::*;

const BY_APP: End = End::Reset { by: Side::App };
const BY_PEER: End = End::Reset { by: Side::Peer };
const RESET: Result<usize, ErrorKind> = Err(ErrorKind::ConnectionReset);

#[tokio::test]
async fn half_close_by_the_client_lets_the_application_go_on() {
    let mut mesh = Mesh::start().await;
    let (mut client, mut server) = mesh.connect().await;
    say(&mut client, &mut server, b"question").await;
    client.shutdown().await.unwrap();
    assert_eq!(read_kind(&mut server).await, Ok(0));
    tokio::time::sleep(Duration::from_millis(50)).await;
    say(&mut server, &mut client, b"a long answer").await;
    say(&mut server, &mut client, b"and more").await;
    drop(server);
    assert_eq!(read_kind(&mut client).await, Ok(0));
    assert_eq!(mesh.ends().await, (End::Clean, End::Clean));
}

#[tokio::test]
async fn half_close_by_the_application_lets_the_client_go_on() {
    let mut mesh = Mesh::start().await;
    let (mut client, mut server) = mesh.connect().await;
    say(&mut server, &mut client, b"banner").await;
    server.shutdown().await.unwrap();
    assert_eq!(read_kind(&mut client).await, Ok(0));
    tokio::time::sleep(Duration::from_millis(50)).await;
    say(&mut client, &mut server, b"still here").await;
    drop(client);
    assert_eq!(read_kind(&mut server).await, Ok(0));
    assert_eq!(mesh.ends().await, (End::Clean, End::Clean));
    let meter = mesh.meters.lock().unwrap()[0].clone();
    assert_eq!(meter.sent.load(Ordering::Relaxed), 10);
    assert_eq!(meter.received.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn connect_write_close_loses_nothing() {
    let mut mesh = Mesh::start().await;
    for _ in 0..100 {
        let mut client = TcpStream::connect(mesh.near).await.unwrap();
        client.write_all(b"x").await.unwrap();
        drop(client);
        let (mut server, _) = soon(mesh.app.accept()).await.unwrap();
        let mut all = Vec::new();
        soon(server.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all, b"x");
        drop(server);
        assert_eq!(mesh.ends().await, (End::Clean, End::Clean));
    }
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_application() {
    let mut mesh = Mesh::start().await;
    let (mut client, mut server) = mesh.connect().await;
    say(&mut client, &mut server, b"hello").await;
    reset(client);
    assert_eq!(read_kind(&mut server).await, RESET);
    assert_eq!(mesh.ends().await, (BY_APP, BY_PEER));
}

#[tokio::test]
async fn a_reset_by_the_application_reaches_the_client() {
    let mut mesh = Mesh::start().await;
    let (mut client, mut server) = mesh.connect().await;
    say(&mut client, &mut server, b"hello").await;
    reset(server);
    assert_eq!(read_kind(&mut client).await, RESET);
    assert_eq!(mesh.ends().await, (BY_PEER, BY_APP));
}

#[tokio::test]
async fn a_reset_after_half_close_is_found_while_nothing_is_sent() {
    let mut mesh = Mesh::start().await;
    // The client has said its FIN and then dies; nobody reads from it any more, nobody writes to it.
    let (mut client, mut server) = mesh.connect().await;
    client.shutdown().await.unwrap();
    assert_eq!(read_kind(&mut server).await, Ok(0));
    reset(client);
    assert_eq!(mesh.ends().await, (BY_APP, BY_PEER));
    // The other way round.
    let (mut client, mut server) = mesh.connect().await;
    server.shutdown().await.unwrap();
    assert_eq!(read_kind(&mut client).await, Ok(0));
    reset(server);
    assert_eq!(mesh.ends().await, (BY_PEER, BY_APP));
}

#[tokio::test]
async fn a_reset_is_found_while_the_other_end_does_not_read() {
    let mut mesh = Mesh::start().await;
    let (client, server) = mesh.connect().await;
    // The client sends until everything is full: the near relay holds what nobody takes, and reads no more.
    let stuck = async { while client.writable().await.is_ok() && fill(&client) {} };
    let _ = tokio::time::timeout(Duration::from_millis(500), stuck).await;
    reset(client);
    assert_eq!(mesh.ends().await, (BY_APP, BY_PEER));
    drop(server);
    let (mut client, server) = mesh.connect().await;
    let stuck = async { while server.writable().await.is_ok() && fill(&server) {} };
    let _ = tokio::time::timeout(Duration::from_millis(500), stuck).await;
    reset(server);
    assert_eq!(mesh.ends().await, (BY_PEER, BY_APP));
    let mut all = Vec::new();
    let end = soon(client.read_to_end(&mut all)).await.map_err(|error| error.kind());
    assert_eq!(end.map(|_| ()), Err(ErrorKind::ConnectionReset));
}

fn fill(socket: &TcpStream) -> bool {
    !matches!(socket.try_write(&[0; 65536]), Err(error) if error.kind() != ErrorKind::WouldBlock)
}

#[tokio::test]
async fn a_refused_tunnel_is_a_reset_before_the_first_byte() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Bound, so that nobody else is given the port, and not listening.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut mesh = Mesh::to(app, taken.local_addr().unwrap()).await;
    for early in [false, true] {
        let mut client = TcpStream::connect(mesh.near).await.unwrap();
        if early {
            let _ = client.write_all(b"early").await;
        }
        assert_eq!(read_kind(&mut client).await, RESET);
        let outcome = soon(mesh.near_outcomes.recv()).await.unwrap();
        assert_eq!(outcome.end, End::Refused { status: 503 });
        assert_eq!(outcome.received, 0);
    }
}

#[tokio::test]
async fn a_peer_that_dies_is_a_reset_and_no_end_of_stream() {
    let mut mesh = Mesh::start().await;
    let (mut client, mut server) = mesh.connect().await;
    let (mut finished, mut finished_server) = mesh.connect().await;
    say(&mut client, &mut server, b"hello").await;
    say(&mut server, &mut client, b"hello").await;
    // One that has sent its FIN waits for an answer that will not come.
    finished.shutdown().await.unwrap();
    assert_eq!(read_kind(&mut finished_server).await, Ok(0));
    mesh.kill_far();
    assert_eq!(read_kind(&mut client).await, RESET);
    assert_eq!(read_kind(&mut finished).await, RESET);
    for _ in 0..2 {
        let outcome = soon(mesh.near_outcomes.recv()).await.unwrap();
        assert_eq!(outcome.end, End::Error(Reason::TunnelBroken));
    }
    assert_eq!(read_kind(&mut server).await, RESET);
    let (mut client, mut server) = mesh.connect().await;
    say(&mut client, &mut server, b"and again").await;
}

#[tokio::test]
async fn a_relay_that_is_dropped_resets_both_ends() {
    let (mut client, mut server, relaying) = plain().await;
    say(&mut client, &mut server, b"hello").await;
    relaying.abort();
    assert_eq!(read_kind(&mut client).await, RESET);
    assert_eq!(read_kind(&mut server).await, RESET);
}

#[tokio::test]
async fn plain_half_close_and_reset() {
    let (mut client, mut server, relaying) = plain().await;
    client.shutdown().await.unwrap();
    assert_eq!(read_kind(&mut server).await, Ok(0));
    say(&mut server, &mut client, b"answer").await;
    drop(server);
    assert_eq!(read_kind(&mut client).await, Ok(0));
    let outcome = soon(relaying).await.unwrap();
    assert_eq!(outcome, Outcome { sent: 0, received: 6, end: End::Clean });

    let (mut client, server, relaying) = plain().await;
    reset(server);
    assert_eq!(read_kind(&mut client).await, RESET);
    assert_eq!(soon(relaying).await.unwrap().end, BY_PEER);

    let (client, mut server, relaying) = plain().await;
    server.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    reset(client);
    assert_eq!(soon(relaying).await.unwrap().end, BY_APP);

    let (client, server, relaying) = plain().await;
    let stuck = async { while client.writable().await.is_ok() && fill(&client) {} };
    let _ = tokio::time::timeout(Duration::from_millis(500), stuck).await;
    reset(client);
    assert_eq!(soon(relaying).await.unwrap().end, BY_APP);
    drop(server);
}
