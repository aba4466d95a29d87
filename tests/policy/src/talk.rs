//! What comes of a connect.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use lab::Pod;

/// A loaded machine may take so long; nothing that is refused may.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered.
    Admitted,
    /// connect(2) said ECONNREFUSED.
    Refused,
    /// The connection was reset before a byte came back.
    Reset,
}

impl Outcome {
    /// Whether the server was reached.
    pub fn is_admitted(self) -> bool {
        self == Self::Admitted
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitted => "admitted",
            Self::Refused => "ECONNREFUSED",
            Self::Reset => "ECONNRESET",
        })
    }
}

/// Dials a server that echoes, and says a word. Whatever is neither an echo nor a refusal at once is an error.
pub fn talk(from: &Pod, to: SocketAddr) -> Result<Outcome> {
    let mut stream = match from.connect(to, PATIENCE)? {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(Outcome::Refused),
        // The RST was there before this thread ran again.
        Err(error) if is_end(&error) => return Ok(Outcome::Reset),
        Err(error) => bail!("connect to {to}: {error}"),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut word = [0; 4];
    match stream.write_all(b"word").and_then(|()| stream.read_exact(&mut word)) {
        Ok(()) if word == *b"word" => Ok(Outcome::Admitted),
        Ok(()) => bail!("{to} echoes {word:?}"),
        Err(error) if is_end(&error) => Ok(Outcome::Reset),
        Err(error) => bail!("{to}: {error}"),
    }
}

/// What an application reads whose connection was ended: by the other side, or by its own node.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionReset | BrokenPipe | ConnectionAborted)
}
