//! Large transfers, slow readers, many at once.

use std::task::{Context, Poll};

use super::*;

const LARGE: usize = 64 << 20;

/// Byte `n` of a stream that differs by `seed`.
fn pattern(seed: u64, at: usize, into: &mut [u8]) {
    for (n, byte) in into.iter_mut().enumerate() {
        let at = (at + n) as u64;
        *byte = (at.wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ seed) >> 56) as u8;
    }
}

async fn produce(socket: &mut (impl AsyncWriteExt + Unpin), seed: u64, total: usize) {
    let mut chunk = vec![0; 100_000];
    let mut at = 0;
    while at < total {
        let size = chunk.len().min(total - at);
        pattern(seed, at, &mut chunk[..size]);
        socket.write_all(&chunk[..size]).await.unwrap();
        at += size;
    }
    socket.shutdown().await.unwrap();
}

async fn consume(socket: &mut (impl AsyncReadExt + Unpin), seed: u64, total: usize) {
    let (mut chunk, mut expected) = (vec![0; 100_000], vec![0; 100_000]);
    let mut at = 0;
    loop {
        let size = socket.read(&mut chunk).await.unwrap();
        if size == 0 {
            break;
        }
        pattern(seed, at, &mut expected[..size]);
        assert!(chunk[..size] == expected[..size], "differs within {size} bytes from {at}");
        at += size;
    }
    assert_eq!(at, total);
}

async fn exchange(client: TcpStream, server: TcpStream, total: usize) {
    let ((mut cr, mut cw), (mut sr, mut sw)) = (client.into_split(), server.into_split());
    tokio::join!(
        produce(&mut cw, 1, total),
        produce(&mut sw, 2, total),
        consume(&mut sr, 1, total),
        consume(&mut cr, 2, total),
    );
}

#[tokio::test]
async fn much_in_both_directions_at_once_arrives_unchanged() {
    let mut mesh = Mesh::start().await;
    let (client, server) = mesh.connect().await;
    exchange(client, server, LARGE).await;
    let near = mesh.near_outcomes.recv().await.unwrap();
    assert_eq!(near, Outcome { sent: LARGE as u64, received: LARGE as u64, end: End::Clean });
    assert_eq!(mesh.far_outcomes.recv().await.unwrap(), near);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_several_threads() {
    let mut mesh = Mesh::start().await;
    let (client, server) = mesh.connect().await;
    exchange(client, server, LARGE).await;
    assert_eq!(mesh.near_outcomes.recv().await.unwrap().end, End::Clean);
}

#[tokio::test]
async fn much_through_a_plain_relay_arrives_unchanged() {
    let (client, server, relaying) = plain().await;
    exchange(client, server, LARGE).await;
    let expected = Outcome { sent: LARGE as u64, received: LARGE as u64, end: End::Clean };
    assert_eq!(relaying.await.unwrap(), expected);
}

#[tokio::test]
async fn a_reader_that_stops_holds_back_its_own_peer_only() {
    let mesh = Mesh::start().await;
    let (slow, server) = mesh.connect().await;
    let sending = tokio::spawn(async move {
        let mut server = server;
        produce(&mut server, 3, LARGE).await;
    });
    // As much as goes; then nothing.
    let mut before = 0;
    soon(async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = mesh.meters.lock().unwrap()[0].received.load(Ordering::Relaxed);
            if now == before {
                break;
            }
            before = now;
        }
    })
    .await;
    assert!(!sending.is_finished());
    // A neighbour on the same connection.
    let (client, server) = mesh.connect().await;
    assert_eq!(mesh.far_tasks.lock().unwrap().len(), 1);
    soon(exchange(client, server, LARGE / 8)).await;
    // And the slow one goes on when it likes.
    let (mut reader, _writer) = slow.into_split();
    soon(consume(&mut reader, 3, LARGE)).await;
    sending.await.unwrap();
}

#[tokio::test]
async fn single_bytes_to_a_reader_that_stops_cost_their_neighbours_nothing() {
    let mesh = Mesh::start().await;
    // Of the listener, so that the connection has it from its SYN on: segments larger than a window that shrinks later go by
    // the kernel's probe timer alone, 200 ms apart.
    SockRef::from(&mesh.app).set_recv_buffer_size(4096).unwrap();
    let (mut client, mut slow) = mesh.connect().await;
    client.set_nodelay(true).unwrap();
    let (mut other, mut other_server) = mesh.connect().await;
    let mut sent = 0;
    for _ in 0..400_000 {
        match tokio::time::timeout(Duration::from_millis(500), client.write_all(b"x")).await {
            Ok(written) => written.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    say(&mut other, &mut other_server, b"unharmed").await;
    drop(client);
    let mut got = Vec::new();
    soon(slow.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got.len(), sent);
}

#[tokio::test]
async fn many_at_once_are_all_answered() {
    let mut mesh = Mesh::start().await;
    let mut pairs = Vec::new();
    for _ in 0..300 {
        pairs.push(mesh.connect().await);
    }
    for _ in 0..20 {
        for (n, (client, _)) in pairs.iter_mut().enumerate() {
            client.write_all(&(n as u32).to_be_bytes()).await.unwrap();
        }
        for (client, server) in &mut pairs {
            let number = soon(server.read_u32()).await.unwrap();
            server.write_u32(number).await.unwrap();
            client.readable().await.unwrap();
        }
        let mut back: Vec<_> = Vec::new();
        for (client, _) in &mut pairs {
            back.push(soon(client.read_u32()).await.unwrap());
        }
        assert_eq!(back, (0..300).collect::<Vec<_>>());
    }
    drop(pairs);
    for _ in 0..300 {
        assert_eq!(mesh.ends().await, (End::Clean, End::Clean));
    }
    assert_eq!(mesh.far_tasks.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn an_idle_relay_is_small() {
    let mesh = Mesh::start().await;
    let (client, _server) = mesh.connect().await;
    let (other, _other_server, _relaying) = plain().await;
    let meter = Meter::default();
    let size = size_of_val(&relay_plain(client, other, &meter));
    assert!(size <= 1024, "a plain relay is {size} bytes");
    let (client, _server) = mesh.connect().await;
    let size = size_of_val(&relay(client, Never, &meter));
    assert!(size <= 1024, "a relay without its tunnel is {size} bytes");
}

/// A tunnel in which nothing happens.
struct Never;

impl mesh_hbone::Duplex for Never {
    type Sink = Never;
    type Source = Never;

    fn split(self) -> (Never, Never) {
        (Never, Never)
    }
}

impl mesh_hbone::Source for Never {
    fn poll_data(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<bytes::Bytes, mesh_hbone::RecvError>>> {
        Poll::Pending
    }

    fn release(&mut self, _: usize) {}
}

impl mesh_hbone::Sink for Never {
    fn poll_capacity(&mut self, _: &mut Context<'_>, _: usize) -> Poll<Result<usize, mesh_hbone::SendError>> {
        Poll::Pending
    }

    fn open(&mut self) {}

    fn send(&mut self, _: bytes::Bytes, _: bool) -> Result<(), mesh_hbone::SendError> {
        Ok(())
    }

    fn reset(&mut self, _: mesh_hbone::ResetCode) {}

    fn poll_reset(&mut self, _: &mut Context<'_>) -> Poll<mesh_hbone::SendError> {
        Poll::Pending
    }
}
