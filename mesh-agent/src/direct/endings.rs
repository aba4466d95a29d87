//! How connections ended that no agent carried, for the access log: the kernel tells of each while somebody wants lines.
//!
//! One line a connection, as its client's node sees it: both ends of a direct one are here. What a policy cut has its line
//! already, from who cut it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mesh_common::{EndedEvent, FlowKey};
use mesh_model::Reason;
use mesh_telemetry::api::{ConnectionPath, Direction, Security};

use super::ring::{Pace, follow};
use super::{Direct, destination, service, source};
use crate::connections::{About, End, Ended, Transport};
use crate::kernel::maps::{ended, socket_addr};

/// Those that were cut and whose end has not been told; when there are more they are forgotten, and may have two lines.
const CUT_AT_ONCE: usize = 4096;
/// The ring holds some nine thousand: many come at once.
const PACE: Pace = Pace { at_once: 512, pause: Duration::from_millis(2) };

/// Connections that were cut, by their ends.
pub type Cut = HashSet<(SocketAddr, SocketAddr)>;

impl Direct {
    /// Follows what the kernel tells, on a task of the running runtime.
    pub fn follow_endings(self: &Arc<Self>) {
        let Some(ring) = self.maps.direct().ended() else { return };
        let direct = self.clone();
        follow(
            self.clone().knows(),
            ring,
            PACE,
            "ends of connections are counted and have no line",
            move |item| {
                if let Some(event) = ended(item) {
                    direct.tell_end(&event);
                }
            },
        );
    }

    /// These are about to be cut, and get their line from who cuts them.
    pub(super) fn has_cut_line(&self, all: impl Iterator<Item = (SocketAddr, SocketAddr)>) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        if cut.len() >= CUT_AT_ONCE {
            cut.clear();
        }
        cut.extend(all);
    }

    /// These were not.
    pub(super) fn has_no_cut_line(&self, all: impl Iterator<Item = (SocketAddr, SocketAddr)>) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        for one in all {
            cut.remove(&one);
        }
    }

    fn tell_end(&self, event: &EndedEvent) {
        let (client, server) =
            (socket_addr(event.src, event.src_port), socket_addr(event.dst, event.dst_port));
        if event.kind == FlowKey::DIRECT
            && self.cut.lock().unwrap_or_else(PoisonError::into_inner).remove(&(client, server))
        {
            return;
        }
        let world = self.world.load_full();
        let local = self.local.borrow().clone();
        let is_direct = event.kind == FlowKey::DIRECT;
        // What was left as dialled may lead to a pod that is not captured: it has a name, and shows no identity.
        let reached = destination(&world, server);
        let about = About {
            direction: Direction::Outbound,
            path: if is_direct { ConnectionPath::Direct } else { ConnectionPath::Passthrough },
            security: if is_direct { Security::Kernel } else { Security::Plaintext },
            source: source(&world, &local, event.netns_cookie, client),
            destination: End { identity: reached.identity.filter(|_| is_direct), ..reached },
            service: service(&world, socket_addr(event.dialled, event.dialled_port)),
        };
        let access = self.connections.access();
        let reason = match event.how {
            EndedEvent::CLEAN => None,
            EndedEvent::FAILED => {
                return access.refused(
                    &about,
                    Reason::ConnectFailed,
                    &"nobody answered, or nobody listens there",
                );
            }
            _ => Some(Reason::Reset),
        };
        let ended = Ended {
            reason,
            bytes_sent: event.sent,
            bytes_received: event.received,
            duration: Some(Duration::from_micros(event.lasted)),
            transport: Transport {
                connect: None,
                rtt: (event.round_trip > 0).then(|| Duration::from_micros(event.round_trip.into())),
                retransmits: Some(event.retransmits.into()),
            },
            audited: event.audited != 0,
        };
        access.ended(&about, &ended);
    }
}
