//! Applications: one that a captured pod has in the test's hands, and ones behind the peer's server.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use lab::Pod;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::Arrival;
use crate::stream::{PATIENCE, Stream, say};

/// A listener of a pod's, on a port that no other has.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    /// Its port.
    pub port: u16,
}

impl App {
    /// Listens on all of the pod's addresses.
    pub fn start(pod: &Pod) -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(21_000);
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let listener = pod.listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))??;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, port })
    }

    /// Where it is on one of the pod's addresses.
    pub fn at(&self, address: impl Into<IpAddr>) -> SocketAddr {
        SocketAddr::new(address.into(), self.port)
    }

    /// The next connection.
    pub fn accept(&self) -> Result<TcpStream> {
        let (stream, _) =
            lab::eventually(PATIENCE, || self.listener.accept().map_err(|error| error.to_string()))
                .context("wait for a connection")?;
        stream.set_nonblocking(false)?;
        patient(stream)
    }
}

/// Connects from a pod, as its applications do.
pub fn dial(from: &Pod, to: SocketAddr) -> Result<TcpStream> {
    let dialled = from.connect(to, PATIENCE)?;
    patient(dialled.with_context(|| format!("connect from {} to {to}", from.key()))?)
}

fn patient(stream: TcpStream) -> Result<TcpStream> {
    stream.set_read_timeout(Some(3 * PATIENCE))?;
    stream.set_write_timeout(Some(3 * PATIENCE))?;
    Ok(stream)
}

/// Hears exactly these words.
pub fn expect(mut stream: &TcpStream, words: &[u8]) -> Result<()> {
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).context("hear")?;
    ensure!(heard == words, "heard {:?}", String::from_utf8_lossy(&heard));
    Ok(())
}

/// Says something and hears it back.
pub fn echo(mut stream: &TcpStream, words: &[u8]) -> Result<()> {
    stream.write_all(words).context("say")?;
    expect(stream, words)
}

/// The next read has to say this: `eof`, `ECONNRESET`, or the like.
pub fn ends(mut stream: &TcpStream, wanted: &str) -> Result<()> {
    let said = match stream.read(&mut [0; 4096]) {
        Ok(0) => "eof".to_owned(),
        Ok(count) => format!("{count} bytes"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => "nothing".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(code) => format!("{:?}", nix::errno::Errno::from_raw(code)),
            None => error.to_string(),
        },
    };
    ensure!(said == wanted, "the application sees {said} instead of {wanted}");
    Ok(())
}

/// Closes with a RST.
pub fn reset(stream: TcpStream) -> Result<()> {
    Ok(setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}

/// Bytes of which no two pieces are alike (xorshift64, Marsaglia 2003).
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut words = Vec::with_capacity(bytes + 8);
    while words.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words.extend_from_slice(&state.to_le_bytes());
    }
    words.truncate(bytes);
    words
}

/// Behind the server: sends back what it gets, and ends when the client has.
pub async fn send_back(arrival: Arrival) {
    if let Ok(mut stream) = arrival.accept() {
        let _broken = give_back(&mut stream).await;
        // The client's end is answered with one of its own.
        let _gone = stream.end();
    }
}

/// Sends back what it gets until the client ends.
pub async fn give_back(stream: &mut Stream) -> Result<()> {
    while let Some(data) = stream.receive.data().await {
        let data = data?;
        stream.receive.flow_control().release_capacity(data.len())?;
        say(&mut stream.send, data).await?;
    }
    Ok(())
}

/// Behind the server: what listens at the authority in the pod itself. Answered when it was reached.
pub async fn deliver(pod: Arc<Pod>, arrival: Arrival) -> Result<()> {
    let target: SocketAddr = arrival.head.uri.to_string().parse()?;
    let dialled = tokio::task::spawn_blocking(move || pod.connect(target, PATIENCE)).await?;
    let Ok(Ok(app)) = dialled else { return arrival.refuse(503) };
    app.set_nonblocking(true)?;
    let mut app = tokio::net::TcpStream::from_std(app)?;
    let (mut from_app, mut to_app) = app.split();
    let Stream { mut send, mut receive } = arrival.accept()?;
    let up = async {
        while let Some(data) = receive.data().await {
            let data = data?;
            to_app.write_all(&data).await?;
            receive.flow_control().release_capacity(data.len())?;
        }
        anyhow::Ok(to_app.shutdown().await?)
    };
    let down = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match from_app.read(&mut buffer).await? {
                0 => return anyhow::Ok(send.send_data(bytes::Bytes::new(), true)?),
                count => say(&mut send, bytes::Bytes::copy_from_slice(&buffer[..count])).await?,
            }
        }
    };
    tokio::try_join!(up, down)?;
    Ok(())
}
