//! The client end: one connection to an agent's port 15008, and CONNECTs on it.

use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::task::JoinHandle;

use crate::pki;
use crate::stream::{Stream, within};

/// Flow control, in bytes. As ztunnel's by default.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Of a stream.
    pub stream: u32,
    /// Of a connection.
    pub connection: u32,
    /// The largest frame taken.
    pub frame: u32,
}

impl Default for Windows {
    fn default() -> Self {
        Self { stream: 4 << 20, connection: 16 << 20, frame: 1 << 20 }
    }
}

/// A connection to an agent.
#[derive(Debug)]
pub struct Client {
    requests: SendRequest<Bytes>,
    pings: PingPong,
    driver: JoinHandle<Result<(), h2::Error>>,
    /// Who the agent showed to be.
    pub server: String,
    /// What the handshake agreed on, for people.
    pub agreed: String,
}

/// A CONNECT that is not answered yet.
#[derive(Debug)]
pub struct Asked {
    response: ResponseFuture,
    /// For what is said before the answer.
    pub send: SendStream<Bytes>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The tunnel, as far as there is one.
    pub stream: Stream,
}

impl Client {
    /// TLS and HTTP/2 on a connected socket. `name` is sent as the server's name if the configuration allows that.
    pub async fn start(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        windows: Windows,
    ) -> Result<Self> {
        tcp.set_nonblocking(true)?;
        tcp.set_nodelay(true)?;
        let tcp = tokio::net::TcpStream::from_std(tcp)?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let tls = within(async { Ok(connector.connect(name, tcp).await?) }).await.context("the handshake")?;
        let session = tls.get_ref().1;
        ensure!(session.alpn_protocol() == Some(b"h2"), "ALPN {:?}", session.alpn_protocol());
        let leaf: Option<&CertificateDer<'_>> = session.peer_certificates().and_then(<[_]>::first);
        let server = pki::identity(leaf.context("the server showed no certificate")?)?;
        let agreed = format!(
            "{:?}, {:?}, {:?}",
            session.negotiated_key_exchange_group().map(|group| group.name()),
            session.negotiated_cipher_suite().map(|suite| suite.suite()),
            session.handshake_kind(),
        );
        let (requests, mut connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(windows.stream)
            .initial_connection_window_size(windows.connection)
            .max_frame_size(windows.frame)
            .max_header_list_size(16 << 10)
            .handshake(tls)
            .await?;
        let pings = connection.ping_pong().context("the only one who asks for it")?;
        Ok(Self { requests, pings, driver: tokio::spawn(connection), server, agreed })
    }

    /// Sends a CONNECT and returns at once.
    pub async fn ask(&self, authority: &str, headers: &[(&str, &[u8])]) -> Result<Asked> {
        self.request(Method::CONNECT, authority, headers).await
    }

    /// The same with another method.
    pub async fn request(&self, method: Method, uri: &str, headers: &[(&str, &[u8])]) -> Result<Asked> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri.parse::<Uri>()?;
        for (name, value) in headers {
            request.headers_mut().append(name.parse::<HeaderName>()?, HeaderValue::from_bytes(value)?);
        }
        let mut requests = within(async { Ok(self.requests.clone().ready().await?) }).await?;
        let (response, send) = requests.send_request(request, false)?;
        Ok(Asked { response, send })
    }

    /// A CONNECT without further headers that has to be answered with 200.
    pub async fn connect(&self, authority: impl ToString) -> Result<Stream> {
        self.ask(&authority.to_string(), &[]).await?.accepted().await
    }

    /// Asks whether the other end is there.
    pub async fn ping(&mut self) -> Result<()> {
        let pings = &mut self.pings;
        within(async { Ok(pings.ping(Ping::opaque()).await.map(|_| ())?) })
            .await
            .context("wait for a PING's answer")
    }

    /// How many streams the agent takes at once, by its SETTINGS.
    pub fn most_streams(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Whether the agent announced extended CONNECT.
    pub fn is_extended(&self) -> bool {
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// Whether the connection is open.
    pub fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Asked {
    /// Waits for the answer, whatever it is.
    pub async fn answer(self) -> Result<Answer> {
        let Self { response, send } = self;
        let response = within(async { Ok(response.await?) }).await.context("wait for the answer")?;
        let (head, receive) = response.into_parts();
        let stream = Stream { send, receive };
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, stream })
    }

    /// Waits for the answer, which has to be 200 and nothing else: what ztunnel takes.
    pub async fn accepted(self) -> Result<Stream> {
        let answer = self.answer().await?;
        ensure!(answer.status == 200, "answered {}", answer.status);
        Ok(answer.stream)
    }
}
