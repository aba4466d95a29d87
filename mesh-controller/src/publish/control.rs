//! The wire's service: who calls, and what they get.

use std::sync::Arc;
use std::time::Duration;

use mesh_model::Identity;
use mesh_telemetry::shutdown::Shutdown;
use mesh_xds::proto;
use mesh_xds::proto::agent_message::Message as Hear;
use mesh_xds::proto::control_server::Control;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::Hub;
use super::callers::{self, Callers, Refusal};
use super::stream::Stream;
use crate::issue::{Issuer, SignRefusal};

/// So long an agent may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// Messages that may wait for an agent: one delta, and a few releases.
const OUTBOX: usize = 4;
/// Hellos that are read at once: each may hold the names of a whole world, and after a restart all agents come together …
const HELLOS: usize = 16;
/// … but nobody waits longer than this for others that do not speak.
const TURN: Duration = Duration::from_secs(5);

/// Answers agents.
#[derive(Clone, Debug)]
pub struct ControlService {
    hub: Arc<Hub>,
    callers: Callers,
    issuer: Issuer,
    shutdown: Shutdown,
    hellos: Arc<Semaphore>,
}

impl ControlService {
    /// Puts the parts together.
    pub fn new(hub: Arc<Hub>, callers: Callers, issuer: Issuer, shutdown: Shutdown) -> Self {
        Self { hub, callers, issuer, shutdown, hellos: Arc::new(Semaphore::new(HELLOS)) }
    }

    /// The token that the call carries, and its node.
    async fn caller(&self, metadata: &MetadataMap, call: &'static str) -> Result<(String, String), Status> {
        let known = async {
            let token = callers::bearer(metadata)?;
            Ok((token.to_owned(), self.callers.node_of(token).await?))
        };
        known.await.map_err(|refusal| self.refuse(&refusal, call))
    }

    /// Says so to everybody whom it concerns.
    fn refuse(&self, refusal: &Refusal, call: &'static str) -> Status {
        self.hub.metrics().unauthenticated(refusal.reason());
        tracing::warn!(call, reason = refusal.reason(), "an agent is refused: {refusal}");
        refusal.status()
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type FollowStream = ReceiverStream<Result<proto::ControllerMessage, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (token, node) = self.caller(request.metadata(), "follow").await?;
        let mut inbox = request.into_inner();
        let turn = tokio::time::timeout(TURN, self.hellos.acquire()).await;
        let first = tokio::time::timeout(HELLO, inbox.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(Hear::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("the first message is not a hello"));
        };
        if hello.node != node {
            let refusal = Refusal::OtherNode { token: node, said: hello.node };
            return Err(self.refuse(&refusal, "follow"));
        }
        let joined = self.hub.join(&hello);
        let (place, session) = joined.map_err(|error| Status::invalid_argument(error.to_string()))?;
        drop((hello, turn));
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let (control, end) = (self.clone(), outbox.clone());
        let stream = Stream {
            node: node.clone(),
            generations: self.hub.generations(),
            hub: self.hub.clone(),
            place,
            session,
            inbox,
            outbox,
            shutdown: self.shutdown.clone(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = stream.run() => {}
                refusal = control.callers.until_refused(&token, &node) => {
                    let status = control.refuse(&refusal, "follow");
                    // Best effort: the stream ends with it or without.
                    let _ = end.try_send(Err(status));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn sign(
        &self,
        request: Request<proto::SignRequest>,
    ) -> Result<Response<proto::SignResponse>, Status> {
        let (_, node) = self.caller(request.metadata(), "sign").await?;
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
