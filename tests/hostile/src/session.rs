//! A TLS connection with HTTP/2 frames on it, for either role, which never blocks where it does not want to: what is pushed
//! is sent as the other side takes it, what comes is kept, and how it ended is said in one word.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, Connection, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls::{ClientConnection, ServerConnection, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certs::Shown;
use crate::http2::{self, Frame, Statuses, kind};

/// How a request or a connection came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A response with this status.
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection ended: `alert NAME`, `closed`, `reset`, or another error.
    Ended(String),
    /// Nothing in the time there was.
    Nothing,
}

/// The session.
#[derive(Debug)]
pub struct Session {
    tcp: TcpStream,
    tls: Connection,
    inbox: Vec<u8>,
    statuses: Statuses,
    ended: Option<String>,
    deaf: bool,
    /// The socket takes no more writes; what has come can still be read.
    mute: bool,
    next_stream: u32,
}

/// TLS 1.3 alone.
pub static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// TLS 1.2 alone.
pub static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// What a client's TLS is to be like.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The certificate to show.
    pub shown: Option<Shown>,
    /// Versions to offer.
    pub versions: &'static [&'static SupportedProtocolVersion],
    /// Protocols to offer.
    pub alpn: &'static [&'static str],
}

impl Hello {
    /// As the mesh would have it.
    pub fn with(shown: &Shown) -> Self {
        Self { shown: Some(shown.clone()), versions: TLS13, alpn: &["h2"] }
    }

    /// The client's configuration, which believes every server and resumes nothing.
    pub fn config(&self) -> Result<Arc<ClientConfig>> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(self.versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut config = match &self.shown {
            Some(shown) => {
                let key = aws_lc_rs::sign::any_supported_type(&shown.key)?;
                // Not checked whether the key is the certificate's.
                let pair = rustls::sign::CertifiedKey::new(shown.chain.clone(), key);
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    /// A server's configuration with the same, which asks clients for nothing.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>> {
        let shown = self.shown.clone().context("a server needs a certificate")?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(self.versions)?
            .with_no_client_auth()
            .with_single_cert(shown.chain, shown.key)?;
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Session {
    /// A client on a connection. Nothing is sent yet.
    pub fn client(tcp: TcpStream, config: Arc<ClientConfig>) -> Result<Self> {
        let name = ServerName::try_from("nobody.test")?;
        Self::new(tcp, ClientConnection::new(config, name)?.into())
    }

    /// A server on a connection.
    pub fn server(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Self> {
        Self::new(tcp, ServerConnection::new(config)?.into())
    }

    fn new(tcp: TcpStream, mut tls: Connection) -> Result<Self> {
        tcp.set_nonblocking(true)?;
        tcp.set_nodelay(true)?;
        tls.set_buffer_limit(None);
        Ok(Self {
            tcp,
            tls,
            inbox: Vec::new(),
            statuses: Statuses::default(),
            ended: None,
            deaf: false,
            mute: false,
            next_stream: 1,
        })
    }

    /// From now on nothing is read.
    pub fn stop_reading(&mut self) {
        self.deaf = true;
    }

    /// The handshake, as far as this side can see it: a server may still refuse the client's certificate.
    pub fn shake_hands(&mut self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        while self.tls.is_handshaking() || self.tls.wants_write() {
            if let Some(end) = &self.ended {
                bail!("{end}");
            }
            if start.elapsed() > patience {
                bail!("the handshake does not end");
            }
            self.turn(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Since when the other side's certificate is valid.
    pub fn age_of_the_peers_certificate(&self) -> Result<Duration> {
        let leaf = self.tls.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
        let since = crate::certs::not_before(leaf).context("no date in the certificate")?;
        Ok(std::time::SystemTime::now().duration_since(since)?)
    }

    /// Does what there is to do without waiting: answers PING and SETTINGS as a good client, drops all else.
    pub fn tend(&mut self) -> Result<()> {
        self.turn(Duration::ZERO);
        while let Some(frame) = http2::take(&mut self.inbox) {
            if matches!(frame.kind, kind::PING | kind::SETTINGS) && frame.flags & http2::ACK == 0 {
                let answer = if frame.kind == kind::PING { &frame.payload[..] } else { &[] };
                self.push(&http2::frame(frame.kind, http2::ACK, 0, answer))?;
            }
        }
        self.turn(Duration::ZERO);
        Ok(())
    }

    /// Queues bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.tls.writer().write_all(bytes)?)
    }

    /// Writes bytes past TLS.
    pub fn push_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.send_all(Duration::from_secs(5));
        Ok(self.tcp.write_all(bytes)?)
    }

    /// Sends what is queued, reading meanwhile. Whether all was taken in the time.
    pub fn send_all(&mut self, patience: Duration) -> bool {
        let start = Instant::now();
        while self.tls.wants_write() && self.ended.is_none() && !self.mute {
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return false;
            }
            self.turn(left.min(Duration::from_millis(100)));
        }
        !self.tls.wants_write()
    }

    /// Whether the connection is gone.
    pub fn is_over(&self) -> bool {
        self.ended.is_some() || self.mute
    }

    /// Starts HTTP/2 as a client, and waits for the server's first frame, which proves that it believed the certificate.
    pub fn begin(&mut self, settings: &[u8], patience: Duration) -> Result<()> {
        self.push(http2::PREFACE)?;
        self.push(settings)?;
        match self.frame(patience) {
            Some(frame) if frame.kind == kind::SETTINGS => {}
            other => bail!("the server's first frame is {other:?}, its end {:?}", self.ended),
        }
        self.push(&http2::frame(kind::SETTINGS, http2::ACK, 0, &[]))?;
        self.send_all(patience);
        Ok(())
    }

    /// As a server: the client's preface and frames up to its first request. Everything that was read, or nothing if the
    /// client hung up before.
    pub fn preface_and_request(&mut self, patience: Duration) -> Result<Vec<u8>> {
        let start = Instant::now();
        while self.inbox.len() < http2::PREFACE.len() {
            if self.ended.is_some() || start.elapsed() > patience {
                return Ok(std::mem::take(&mut self.inbox));
            }
            self.turn(Duration::from_millis(100));
        }
        let mut told: Vec<u8> = self.inbox.drain(..http2::PREFACE.len()).collect();
        while let Some(frame) = self.frame(patience.saturating_sub(start.elapsed())) {
            told.extend_from_slice(&frame.payload);
            if frame.kind == kind::HEADERS {
                break;
            }
        }
        Ok(told)
    }

    /// A number for a new request.
    pub fn stream(&mut self) -> u32 {
        self.next_stream += 2;
        self.next_stream - 2
    }

    /// The next frame.
    pub fn frame(&mut self, patience: Duration) -> Option<Frame> {
        let start = Instant::now();
        loop {
            if let Some(frame) = http2::take(&mut self.inbox) {
                return Some(frame);
            }
            let left = patience.saturating_sub(start.elapsed());
            if self.ended.is_some() || left.is_zero() {
                return None;
            }
            self.turn(left.min(Duration::from_millis(100)));
        }
    }

    /// What becomes of a request. An end of the connection is told as its GOAWAY says, where it had one.
    pub fn fate_of(&mut self, stream: u32, patience: Duration) -> Fate {
        let start = Instant::now();
        while let Some(frame) = self.frame(patience.saturating_sub(start.elapsed())) {
            match (frame.kind, frame.stream == stream) {
                (kind::HEADERS, _) => {
                    // Each is to be read, as each may add to the table.
                    let status = self.statuses.read(&frame.payload);
                    if frame.stream == stream {
                        return status.map_or(Fate::Nothing, Fate::Status);
                    }
                }
                (kind::RST_STREAM, true) => return Fate::Reset(number(&frame.payload)),
                (kind::GOAWAY, _) => return Fate::GoAway(number(frame.payload.get(4..).unwrap_or_default())),
                _ => {}
            }
        }
        self.ended.clone().map_or(Fate::Nothing, Fate::Ended)
    }

    /// What becomes of the connection: requests are not looked at.
    pub fn fate(&mut self, patience: Duration) -> Fate {
        self.fate_of(u32::MAX, patience)
    }

    /// Waits for the end of the TCP connection, whatever comes before it. Says how it ended.
    pub fn end(&mut self, patience: Duration) -> Option<String> {
        let start = Instant::now();
        while self.ended.is_none() && start.elapsed() < patience {
            self.turn(Duration::from_millis(100));
            self.inbox.clear();
        }
        self.ended.clone()
    }

    /// Repeats what `make` gives for each number until so many were sent or the other side has had enough. Says how many
    /// were sent. Frames that come are kept while they are few.
    pub fn flood(&mut self, count: u32, mut make: impl FnMut(u32) -> Vec<u8>) -> Result<u32> {
        const AT_ONCE: u32 = 500;
        let mut sent = 0;
        while sent < count && !self.is_over() {
            let now = AT_ONCE.min(count - sent);
            let bytes: Vec<u8> = (sent..sent + now).flat_map(&mut make).collect();
            self.push(&bytes)?;
            sent += now;
            if !self.send_all(Duration::from_secs(5)) {
                break;
            }
            self.drop_answers();
        }
        Ok(sent)
    }

    /// Drops all frames but GOAWAY, those that carry responses, and the first resets.
    fn drop_answers(&mut self) {
        const RESETS: usize = 100;
        let (mut kept, mut resets) = (Vec::new(), 0);
        while let Some(frame) = http2::take(&mut self.inbox) {
            resets += usize::from(frame.kind == kind::RST_STREAM);
            let first = frame.kind == kind::RST_STREAM && resets <= RESETS;
            if first || matches!(frame.kind, kind::GOAWAY | kind::HEADERS) {
                kept.extend(http2::frame(frame.kind, frame.flags, frame.stream, &frame.payload));
            }
        }
        kept.append(&mut self.inbox);
        self.inbox = kept;
    }

    /// Waits for the socket and does what it is ready for.
    fn turn(&mut self, patience: Duration) {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::POLLIN, !self.deaf);
        wanted.set(PollFlags::POLLOUT, self.tls.wants_write() && !self.mute);
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        // Interrupted or late: the next turn looks again.
        let _ = poll(&mut [PollFd::new(self.tcp.as_fd(), wanted)], timeout);
        while self.tls.wants_write() && !self.mute {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What came before is still to be read.
                Err(_) => self.mute = true,
            }
        }
        if !self.deaf {
            self.hear();
        } else if self.mute {
            self.ended = Some("reset".into());
        }
    }

    fn hear(&mut self) {
        while self.ended.is_none() {
            match self.tls.read_tls(&mut self.tcp) {
                Ok(0) => self.ended = Some("closed".into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.ended = Some(word(&error)),
            }
            let processed = self.tls.process_new_packets();
            let mut reader = self.tls.reader();
            // Ends with WouldBlock or the end of the stream, which the socket tells too.
            let _ = reader.read_to_end(&mut self.inbox);
            if let Err(error) = processed {
                // The alert that says why.
                let _ = self.tls.write_tls(&mut self.tcp);
                self.ended = Some(said(&error));
            }
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(u32::MAX, |four| u32::from_be_bytes(*four))
}

fn word(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".into(),
        io::ErrorKind::UnexpectedEof => "closed".into(),
        _ => error.to_string(),
    }
}

fn said(error: &rustls::Error) -> String {
    match error {
        rustls::Error::AlertReceived(alert) => format!("alert {alert:?}"),
        other => other.to_string(),
    }
}

/// Believes everything.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
