//! A connection between two pods with both ends in the hands of the test, for what no program does on command: to go away
//! with a RST, to stop reading, to be silent for long.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Pod;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

/// How long an end waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both ends.
#[derive(Debug)]
pub struct Conversation {
    /// Of the pod that dialled.
    pub client: TcpStream,
    /// Of the pod that was dialled.
    pub server: TcpStream,
}

/// A listener of a pod's, on a port that no other has.
#[derive(Debug)]
pub struct Host {
    listener: TcpListener,
    port: u16,
}

impl Host {
    /// Listens on all addresses of both families.
    pub fn start(pod: &Pod) -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(20_000);
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let listener = pod.listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))??;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, port })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next connection.
    pub fn accept(&self) -> Result<TcpStream> {
        let (stream, _) =
            lab::eventually(PATIENCE, || self.listener.accept().map_err(|error| error.to_string()))
                .context("wait for a connection")?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    /// A connection from a pod to this listener at `address`.
    pub fn converse(&self, from: &Pod, address: IpAddr) -> Result<Conversation> {
        let client = dial(from, SocketAddr::new(address, self.port))?;
        let server = self.accept()?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Conversation { client, server })
    }
}

/// Connects from a pod.
pub fn dial(from: &Pod, to: SocketAddr) -> Result<TcpStream> {
    let dialled = from.connect(to, Duration::from_secs(5))?;
    let stream = dialled.with_context(|| format!("connect from {} to {to}", from.key()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One end says something and the other one hears it.
pub fn say(mut from: &TcpStream, mut to: &TcpStream, words: &[u8]) -> Result<()> {
    from.write_all(words).context("say")?;
    let mut heard = vec![0; words.len()];
    to.read_exact(&mut heard).context("hear")?;
    ensure!(heard == words, "said {words:?}, heard {heard:?}");
    Ok(())
}

/// What the next read says: `eof`, `N bytes`, or the error's name.
pub fn next_read(mut stream: &TcpStream) -> String {
    match stream.read(&mut [0; 4096]) {
        Ok(0) => "eof".to_owned(),
        Ok(count) => format!("{count} bytes"),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            "timeout".to_owned()
        }
        Err(error) => match error.raw_os_error() {
            Some(code) => format!("{:?}", nix::errno::Errno::from_raw(code)),
            None => error.to_string(),
        },
    }
}

/// Closes with a RST.
pub fn reset(stream: TcpStream) -> Result<()> {
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}
