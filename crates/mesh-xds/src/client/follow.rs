//! The stream's task: connect, follow, answer, report, and start over.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_model::Uid;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::backoff::{Backoff, jitter};
use super::connect::{ConnectError, authorization, connect, control};
use super::{Capture, Event, NodeEvent, Shared, Update};
use crate::delta::{Received, Replica};
use crate::proto;
use crate::proto::agent_message::Message as Say;
use crate::proto::controller_message::Message as Hear;
use crate::resource::Resource;

/// So long the controller may take to accept a hello.
const HELLO: Duration = Duration::from_secs(15);
/// Messages that may wait for the stream's flow control.
const OUTBOX: usize = 16;

/// The agent's verdict on an update, to come.
type Answer = oneshot::Receiver<Result<(), String>>;

pub(super) struct Follower {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    replica: Replica,
    /// The update that the agent has not answered yet.
    pending: Option<(Received, Answer)>,
    backoff: Backoff,
}

/// The agent dropped its receiver: nobody listens any more.
struct Unheard;

/// Why following ended.
enum End {
    Lost(ConnectError),
    Unheard,
}

impl From<ConnectError> for End {
    fn from(error: ConnectError) -> Self {
        Self::Lost(error)
    }
}

impl From<Unheard> for End {
    fn from(_: Unheard) -> Self {
        Self::Unheard
    }
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>, events: mpsc::Sender<Event>, initial: &[Resource]) -> Self {
        Self { shared, events, replica: Replica::new(initial), pending: None, backoff: Backoff::default() }
    }

    /// Runs until nobody listens.
    pub(super) async fn run(mut self) {
        let mut said = String::new();
        loop {
            let ended = self.follow().await;
            self.shared.channel.send_replace(None);
            let error = match ended {
                End::Unheard => return,
                End::Lost(error) => crate::chain(&error),
            };
            let was_connected = self.shared.status().connected;
            self.shared.status().disconnected(&error);
            if was_connected || said != error {
                tracing::warn!(
                    controller = self.shared.config.controller,
                    error,
                    "no stream to the controller"
                );
                let event = Event::Disconnected { error: error.clone() };
                if self.events.send(event).await.is_err() {
                    return;
                }
                said = error;
            }
            // The next hello must say what the agent really has.
            if let Some((received, answer)) = self.pending.take() {
                let verdict = answer.await.unwrap_or_else(|_| Err("not answered".into()));
                self.settle(received, verdict);
            }
            let wait = self.backoff.wait(jitter());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.events.closed() => return,
            }
        }
    }

    async fn follow(&mut self) -> End {
        match self.try_follow().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_follow(&mut self) -> Result<std::convert::Infallible, End> {
        let config = &self.shared.config;
        let channel = connect(config).await?;
        let authorization = authorization(&config.token_file).await?;
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let hello = proto::Hello {
            node: config.node.clone(),
            agent_version: config.version.clone(),
            subscribe: Vec::new(),
            held: self.replica.held(),
        };
        say(&outbox, Say::Hello(hello)).await?;
        let mut request = tonic::Request::new(ReceiverStream::new(messages));
        request.metadata_mut().insert("authorization", authorization);
        let mut control = control(channel.clone());
        let mut inbox = tokio::time::timeout(HELLO, control.follow(request))
            .await
            .map_err(|_| ConnectError::Silent(HELLO))?
            .map_err(ConnectError::Refused)?
            .into_inner();

        self.shared.status().connected();
        self.shared.channel.send_replace(Some(channel));
        tracing::info!(controller = self.shared.config.controller, "connected to the controller");
        self.tell(Event::Connected).await?;
        self.shared.say_everything_again();
        loop {
            tokio::select! {
                heard = inbox.message() => {
                    let heard = heard.map_err(ConnectError::Broken)?.ok_or(ConnectError::Closed)?;
                    self.backoff.reset();
                    self.hear(heard).await?;
                }
                verdict = answered(&mut self.pending) => {
                    if let Some((received, _)) = self.pending.take() {
                        let message = self.settle(received, verdict);
                        outbox.send(message).await.map_err(|_| ConnectError::Closed)?;
                    }
                }
                () = self.shared.reported.notified() => {
                    let unsaid = self.shared.unsaid();
                    for message in unsaid {
                        say(&outbox, message).await?;
                    }
                }
                () = self.events.closed() => return Err(End::Unheard),
            }
        }
    }

    async fn hear(&mut self, heard: proto::ControllerMessage) -> Result<(), End> {
        self.shared.status().received += heard.encoded_len() as u64;
        match heard.message {
            Some(Hear::Delta(delta)) => {
                if self.pending.is_some() {
                    return Err(ConnectError::Protocol("a delta before the last one was answered").into());
                }
                let mut received = self.replica.receive(delta);
                if let Some(complaint) = received.complaint() {
                    tracing::error!(
                        error = complaint,
                        "the controller sent what cannot be read; refusing that part"
                    );
                }
                let (update, answer) = Update::new(std::mem::take(&mut received.changes), received.complete);
                self.pending = Some((received, answer));
                self.tell(Event::Update(update)).await?;
            }
            Some(Hear::Released(released)) => {
                let uids = released.uids.iter().map(|uid| Uid::new(uid)).collect();
                self.tell(Event::Released(uids)).await?;
            }
            // A message of a later version.
            None => {}
        }
        Ok(())
    }

    async fn tell(&self, event: Event) -> Result<(), Unheard> {
        self.events.send(event).await.map_err(|_| Unheard)
    }

    /// Books the agent's verdict; the answer to send.
    fn settle(&mut self, received: Received, verdict: Result<(), String>) -> proto::AgentMessage {
        let mut status = self.shared.status();
        match verdict {
            Ok(()) => {
                status.updates += 1;
                status.applied_at = Some(SystemTime::now());
                if received.complete {
                    status.applied = Some(received.world_version);
                }
                if received.complaint().is_some() {
                    status.refused += 1;
                }
                self.replica.accept(received)
            }
            Err(error) => {
                status.refused += 1;
                tracing::warn!(error, "refusing an update");
                self.replica.refuse(received, error)
            }
        }
    }
}

async fn answered(pending: &mut Option<(Received, Answer)>) -> Result<(), String> {
    match pending {
        Some((_, answer)) => answer.await.unwrap_or_else(|_| Err("not answered".into())),
        None => std::future::pending().await,
    }
}

async fn say(outbox: &mpsc::Sender<proto::AgentMessage>, message: Say) -> Result<(), ConnectError> {
    let message = proto::AgentMessage { message: Some(message) };
    outbox.send(message).await.map_err(|_| ConnectError::Closed)
}

impl Shared {
    /// A new stream knows nothing of what was reported on an earlier one.
    fn say_everything_again(&self) {
        let mut reports = self.reports();
        let all = reports.newest.keys().cloned().collect();
        reports.unsaid = all;
        reports.left_unsaid = reports.left;
        drop(reports);
        self.reported.notify_one();
    }

    /// Takes what has not been said on this stream.
    fn unsaid(&self) -> Vec<Say> {
        let mut messages = Vec::new();
        let mut reports = self.reports();
        let unsaid = std::mem::take(&mut reports.unsaid);
        let said: Vec<_> =
            unsaid.iter().filter_map(|uid| Some(encode_report(uid, reports.newest.get(uid)?))).collect();
        if !said.is_empty() {
            messages.push(Say::Reports(proto::CaptureReports { reports: said }));
        }
        let events: Vec<_> = reports.events.drain(..).map(encode_event).collect();
        if !events.is_empty() {
            messages.push(Say::Events(proto::NodeEvents { events }));
        }
        let observations: Vec<_> = reports.seen.drain(..).map(Into::into).collect();
        if !observations.is_empty() {
            let lost = reports.unseen;
            messages.push(Say::Observations(proto::Observations { observations, lost }));
        }
        if std::mem::take(&mut reports.left_unsaid) {
            messages.push(Say::Left(proto::Left { stays: !reports.left }));
        }
        messages
    }
}

fn encode_event(event: NodeEvent) -> proto::NodeEvent {
    let NodeEvent { uid, reason, note, warning } = event;
    proto::NodeEvent {
        uid: uid.map(|uid| uid.as_str().to_owned()).unwrap_or_default(),
        reason,
        note,
        warning,
    }
}

fn encode_report(uid: &Uid, capture: &Capture) -> proto::CaptureReport {
    let (state, reason) = match capture {
        Capture::Captured => (proto::CaptureState::Captured, String::new()),
        Capture::Leaving => (proto::CaptureState::Leaving, String::new()),
        Capture::Gone { reason } => (proto::CaptureState::Gone, reason.clone()),
    };
    proto::CaptureReport { uid: uid.as_str().into(), state: state.into(), reason }
}
