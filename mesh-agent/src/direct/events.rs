//! What the hooks refused, in words: for who, what and why there is a number in the event, for policies the world is asked which one decided.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_common::{Addr, Refusal, RefusalEvent};
use mesh_model::policy::Peer;
use mesh_model::{Reason, World};
use mesh_telemetry::api::{ConnectionPath, Direction, Security};

use super::ring::{Pace, follow};
use super::{Direct, destination, service, source};
use crate::connections::{About, End};
use crate::kernel::maps::{event, socket_addr};
use crate::pods::Local;

/// 6,400 a second at most.
const PACE: Pace = Pace { at_once: 64, pause: Duration::from_millis(10) };

impl Direct {
    /// Follows the kernel's events, on a task of the running runtime.
    pub fn follow_events(self: &Arc<Self>) {
        let Some(ring) = self.maps.direct().events() else { return };
        let direct = self.clone();
        follow(
            self.clone().knows(),
            ring,
            PACE,
            "what the kernel refuses is counted and not logged",
            move |item| {
                if let Some(event) = event(item) {
                    direct.tell(&event);
                }
            },
        );
    }

    fn tell(&self, event: &RefusalEvent) {
        let world = self.world.load_full();
        let local = self.local.borrow().clone();
        let to = socket_addr(event.addr, event.port);
        let dialled = match event.dialled {
            Addr::NONE => to,
            dialled => socket_addr(dialled, event.dialled_port),
        };
        let from = match event.from {
            Addr::NONE => SocketAddr::new(self.own_address(&local, event.netns_cookie, to.is_ipv4()), 0),
            from => socket_addr(from, event.from_port),
        };
        let inbound = event.reason == Refusal::Plaintext as u32;
        // Refused as it arrived, after it was noted: whose it is stands in the note.
        let cookie = match event.netns_cookie {
            0 if !inbound => self.maps.direct().source_of(from, to).unwrap_or(0),
            cookie => cookie,
        };
        let source = match inbound || !local.pods.contains_key(&cookie) {
            true => End { workload: world.workload_at(from.ip()).cloned(), identity: None, address: from },
            false => source(&world, &local, cookie, from),
        };
        let service = service(&world, dialled);
        let is_here = local.pods.values().any(|pod| pod.addresses.contains(&to.ip()));
        let destination = destination(&world, to);
        let is_known = destination.workload.is_some() || service.is_some();
        let (path, security) = match (inbound, &source.workload) {
            (true, Some(_)) => (ConnectionPath::Plaintext, Security::Plaintext),
            (true, None) => (ConnectionPath::Passthrough, Security::Plaintext),
            (false, _) if is_here => (ConnectionPath::Direct, Security::Kernel),
            (false, _) if is_known => (ConnectionPath::Tunnel, Security::Mtls),
            (false, _) => (ConnectionPath::Passthrough, Security::Plaintext),
        };
        let about = About {
            direction: if inbound { Direction::Inbound } else { Direction::Outbound },
            path,
            security,
            source,
            destination,
            service,
        };
        match Refusal::ALL.get(event.reason as usize) {
            None | Some(Refusal::Policy | Refusal::Plaintext) => self.judge(&world, event, &about),
            Some(refusal) => {
                let reason = Reason::from(*refusal);
                self.connections.refuse(&about, reason, &reason.meaning());
            }
        }
    }

    /// A pod's address of a family, also of one that is not captured yet.
    fn own_address(&self, local: &Local, cookie: u64, v4: bool) -> IpAddr {
        let known = local.pods.get(&cookie).map(|pod| pod.addresses.clone());
        let known = known.unwrap_or_else(|| {
            let recorded = self.maps.pod(cookie).into_iter().flat_map(|pod| [pod.addr4, pod.addr6]);
            recorded.filter(|own| !own.is_none()).map(|own| socket_addr(own, 0).ip()).collect()
        });
        known.into_iter().find(|own| own.is_ipv4() == v4).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// The world is asked for the policy that decided.
    fn judge(&self, world: &World, event: &RefusalEvent, about: &About) {
        let Some(workload) = &about.destination.workload else {
            // It has gone since.
            let reason = Refusal::ALL.get(event.reason as usize).map(|refusal| Reason::from(*refusal));
            return reason
                .into_iter()
                .for_each(|reason| self.connections.refuse(about, reason, &reason.meaning()));
        };
        let peer = Peer { identity: about.source.identity.as_ref(), address: about.source.address.ip() };
        let judgement = world.judge(workload, peer, about.destination.address.port());
        if event.reason == RefusalEvent::AUDIT {
            if let Some(audit) = judgement.audit {
                self.connections.audit(about, &audit);
            }
            return;
        }
        match judgement.verdict.reason() {
            Some(reason) => self.connections.refuse(about, reason, &judgement.verdict),
            // The world is another one by now.
            None => self.connections.refuse(about, Reason::Policy, &"a policy that has changed since"),
        }
    }
}
