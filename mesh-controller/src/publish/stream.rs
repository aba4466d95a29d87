//! One agent's stream: says what there is to say, hears the answers.

use std::time::Duration;

use mesh_model::Uid;
use mesh_telemetry::shutdown::Shutdown;
use mesh_xds::Seen;
use mesh_xds::delta::{ProtocolError, Session};
use mesh_xds::proto;
use mesh_xds::proto::agent_message::Message as Hear;
use mesh_xds::proto::controller_message::Message as Say;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::Hub;
use super::hub::Place;
use crate::index::Report;

/// What was refused is said again after this …
const RETRY: Duration = Duration::from_secs(1);
/// … then after twice as long, and so on up to this.
const RETRY_MOST: Duration = Duration::from_secs(30);

/// What an agent hears.
pub(super) type Outbox = mpsc::Sender<Result<proto::ControllerMessage, Status>>;

pub(super) struct Stream {
    pub(super) node: String,
    pub(super) hub: std::sync::Arc<Hub>,
    pub(super) place: Place,
    pub(super) session: Session,
    pub(super) inbox: Streaming<proto::AgentMessage>,
    pub(super) outbox: Outbox,
    pub(super) shutdown: Shutdown,
    pub(super) generations: watch::Receiver<u64>,
}

/// When to say again what was refused.
#[derive(Debug)]
struct Retry {
    wait: Duration,
    at: Option<Instant>,
}

/// The agent no longer reads.
struct Unread;

impl Stream {
    /// Until either end has had enough.
    pub(super) async fn run(mut self) {
        tracing::info!(node = self.node, "agent connected");
        match self.exchange().await {
            Ok(()) | Err(None) => tracing::info!(node = self.node, "agent disconnected"),
            Err(Some(status)) => {
                tracing::info!(node = self.node, reason = status.message(), "agent disconnected");
                // Best effort: an agent that is gone wants no reason.
                let _ = self.outbox.try_send(Err(status));
            }
        }
    }

    async fn exchange(&mut self) -> Result<(), Option<Status>> {
        let mut retry = Retry { wait: RETRY, at: None };
        loop {
            let behind = |error: ProtocolError| Some(Status::aborted(error.to_string()));
            if let Some(delta) = self.place.next(&mut self.session).map_err(behind)? {
                self.hub.metrics().pushes.inc();
                self.say(Say::Delta(delta)).await.map_err(|Unread| None)?;
            }
            tokio::select! {
                heard = self.inbox.message() => match heard {
                    Ok(Some(proto::AgentMessage { message: Some(message) })) => {
                        self.hear(message, &mut retry).map_err(Some)?;
                    }
                    // A message of a later version.
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(Some(status)),
                },
                // The hub goes last: it cannot be closed while this stream has a share in it.
                _ = self.generations.changed() => {}
                () = self.place.wake.notified() => {
                    if self.place.is_over() {
                        return Err(Some(Status::aborted("this node's agent has newer streams")));
                    }
                    let uids: Vec<_> =
                        self.place.released().iter().map(|uid| uid.as_str().to_owned()).collect();
                    if !uids.is_empty() {
                        self.say(Say::Released(proto::Released { uids })).await.map_err(|Unread| None)?;
                    }
                }
                () = sleep_until(retry.at) => {
                    retry.at = None;
                    self.session.retry();
                }
                () = self.shutdown.wait() => {
                    return Err(Some(Status::unavailable("the controller is stopping")));
                }
            }
        }
    }

    async fn say(&self, message: Say) -> Result<(), Unread> {
        let message = proto::ControllerMessage { message: Some(message) };
        self.outbox.send(Ok(message)).await.map_err(|_| Unread)
    }

    fn hear(&mut self, message: Hear, retry: &mut Retry) -> Result<(), Status> {
        let broken = |error: ProtocolError| Status::invalid_argument(error.to_string());
        match message {
            Hear::Ack(ack) => {
                self.session.ack(ack.nonce).map_err(broken)?;
                self.hub.metrics().acks.inc();
                retry.wait = RETRY;
            }
            Hear::Nack(nack) => {
                self.session.nack(nack.nonce, &nack.refused).map_err(broken)?;
                self.hub.metrics().nacks.inc();
                tracing::warn!(node = self.node, error = nack.error, "the agent refused an update");
                self.place.refused(&nack.error);
                retry.at = Some(Instant::now() + retry.wait);
                retry.wait = (retry.wait * 2).min(RETRY_MOST);
            }
            Hear::Reports(reports) => {
                let reports = reports.reports.into_iter().map(decode_report).collect::<Result<_, _>>()?;
                self.hub.report(&self.node, reports);
            }
            Hear::Events(events) => {
                for event in events.events {
                    let uid = (!event.uid.is_empty()).then(|| Uid::new(&event.uid));
                    let (reason, note, warning) = (event.reason, event.note, event.warning);
                    self.hub.tell(super::Told { node: self.node.clone(), uid, reason, note, warning });
                }
            }
            Hear::Observations(told) => {
                let (seen, wrong): (Vec<_>, Vec<_>) =
                    told.observations.into_iter().map(Seen::try_from).partition(Result::is_ok);
                if let Some(Err(error)) = wrong.into_iter().next() {
                    tracing::warn!(node = self.node, %error, "an agent told of a connection that makes no sense");
                }
                self.hub.observe(&self.node, seen.into_iter().flatten(), told.lost);
            }
            Hear::Left(left) => self.hub.left(&self.node, !left.stays),
            Hear::Hello(_) => return Err(Status::invalid_argument("a second hello")),
        }
        Ok(())
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn decode_report(report: proto::CaptureReport) -> Result<(Uid, Report, String), Status> {
    let word = match proto::CaptureState::try_from(report.state) {
        Ok(proto::CaptureState::Captured) => Report::Captured,
        Ok(proto::CaptureState::Leaving) => Report::Leaving,
        Ok(proto::CaptureState::Gone) => Report::Gone,
        Ok(proto::CaptureState::Unspecified) | Err(_) => {
            return Err(Status::invalid_argument(format!("capture state {} is unknown", report.state)));
        }
    };
    if report.uid.is_empty() {
        return Err(Status::invalid_argument("a capture report without a workload"));
    }
    Ok((Uid::new(&report.uid), word, report.reason))
}
