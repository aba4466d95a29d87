//! The wire's service: who calls, and what they get.

use std::sync::Arc;
use std::time::Duration;

use mesh_model::Identity;
use mesh_telemetry::shutdown::Shutdown;
use mesh_xds::proto;
use mesh_xds::proto::agent_message::Message as Hear;
use mesh_xds::proto::control_server::Control;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::stream::Stream;
use super::{Hub, Tokens};
use crate::issue::{Issuer, SignRefusal};

/// So long an agent may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// Messages that may wait for an agent: one delta, and a few releases.
const OUTBOX: usize = 4;

/// Answers agents.
#[derive(Clone, Debug)]
pub struct ControlService {
    hub: Arc<Hub>,
    tokens: Tokens,
    issuer: Issuer,
    shutdown: Shutdown,
}

impl ControlService {
    /// Puts the parts together.
    pub fn new(hub: Arc<Hub>, tokens: Tokens, issuer: Issuer, shutdown: Shutdown) -> Self {
        Self { hub, tokens, issuer, shutdown }
    }

    /// The node whose token the call carries.
    fn node(&self, metadata: &MetadataMap) -> Result<String, Status> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let token = header
            .and_then(|header| header.split_once(' '))
            .and_then(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()));
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            self.hub.metrics().unauthenticated.inc();
            return Err(Status::unauthenticated("no bearer token"));
        };
        match self.tokens.node_of(token) {
            Ok(Some(node)) => Ok(node),
            Ok(None) => {
                self.hub.metrics().unauthenticated.inc();
                Err(Status::unauthenticated("the token is no node's: check the agent's token file"))
            }
            Err(error) => {
                tracing::error!(%error, "cannot authenticate agents");
                Err(Status::unavailable("the controller cannot read its file of tokens"))
            }
        }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type FollowStream = ReceiverStream<Result<proto::ControllerMessage, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let node = self.node(request.metadata())?;
        let mut inbox = request.into_inner();
        let first = tokio::time::timeout(HELLO, inbox.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(Hear::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("the first message is not a hello"));
        };
        if hello.node != node {
            self.hub.metrics().unauthenticated.inc();
            let message = format!("the token is node {node}'s, and the agent says that it is {}", hello.node);
            tracing::warn!("{message}");
            return Err(Status::permission_denied(message));
        }
        let joined = self.hub.join(&hello);
        let (place, session) = joined.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let stream = Stream {
            node,
            generations: self.hub.generations(),
            hub: self.hub.clone(),
            place,
            session,
            inbox,
            outbox,
            shutdown: self.shutdown.clone(),
        };
        tokio::spawn(stream.run());
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn sign(
        &self,
        request: Request<proto::SignRequest>,
    ) -> Result<Response<proto::SignResponse>, Status> {
        let node = self.node(request.metadata())?;
        let request = request.into_inner();
        let identity: Identity = request
            .identity
            .parse()
            .map_err(|error: mesh_model::IdentityError| Status::invalid_argument(error.to_string()))?;
        match self.issuer.sign(&self.hub, &node, &identity, &request.csr) {
            Ok(chain) => {
                self.hub.metrics().signed.inc();
                tracing::info!(node, %identity, "signed a certificate");
                Ok(Response::new(proto::SignResponse { chain }))
            }
            Err(refusal) => {
                self.hub.metrics().refuse(refusal.reason());
                let message = refusal.in_words();
                tracing::warn!(node, %identity, reason = refusal.reason(), "not signed: {message}");
                Err(match refusal {
                    SignRefusal::NotOnNode(_) => Status::permission_denied(message),
                    SignRefusal::BadRequest(_) => Status::invalid_argument(message),
                    SignRefusal::Authority(_) => Status::internal(message),
                })
            }
        }
    }
}
