//! The mesh is being uninstalled: every pod is released as when its label goes, and then the node.
//!
//! ```text
//! in ── leaving ─▶ each pod: as without a label (peers know, or 30 s) ── none is enrolled ─▶ hooks and pins gone: left
//!  ▲                                                                                           │
//!  └───────────────── not leaving after all: hooks attached, pods taken in as running ones ◀───┘
//! ```
//!
//! The agent stays, for connections that run. While it is away it goes on recording what the pods are, in maps that no
//! hook reads: so when it comes back, they are known, and none of them is refused.

use super::{Actor, find};

impl Actor {
    /// Another agent, or this one before it was started again, has let go of the node already.
    pub(super) fn start_away(&mut self) {
        (self.leaving, self.node.leaving) = (true, true);
        self.say_left();
    }

    pub(super) fn set_leaving(&mut self, leaving: bool) {
        if std::mem::replace(&mut self.leaving, leaving) == leaving {
            return;
        }
        if leaving {
            self.node.leaving = true;
            tracing::info!("the mesh is leaving: every pod is released");
            // Before the first step: an agent that is killed on the way frees the node when it is back.
            if let Err(error) = self.config.mark.set() {
                tracing::warn!(%error, "an agent that is started again will attach its hooks until it knows the world");
            }
            if !self.left {
                self.drive_all();
            }
            return;
        }
        tracing::info!("the mesh stays after all: its pods are taken in again");
        match self.left {
            true => self.come_back_if_wanted(),
            false => {
                self.clear_mark();
                self.node.leaving = false;
                self.drive_all();
            }
        }
    }

    /// Lets go of the node once no pod is in the mesh any more.
    pub(super) fn let_go_if_done(&mut self) {
        let is_done = || !self.entries.values().any(|entry| entry.may_be_enrolled());
        if !self.leaving || self.left || !is_done() {
            return;
        }
        if let Err(error) = self.node.kernel.let_go() {
            // Tried again at the next turn of the loop, which comes within a second.
            tracing::error!(%error, "this node's hooks and pins cannot all be removed (`mesh-agent reset` does)");
            return;
        }
        self.node.guards.forget_all();
        tracing::info!("left: every pod is released, every hook detached, every pin removed");
        self.say_left();
    }

    fn say_left(&mut self) {
        (self.left, self.node.left) = (true, true);
        self.config.staying.lost("left: the mesh is being uninstalled, every pod of this node was released");
        self.node.client.left();
    }

    /// Attaches everything again; every pod is recorded as it is without the mesh, and taken in as one that runs.
    pub(super) fn come_back_if_wanted(&mut self) {
        // Before the first look at all cgroups whoever runs would be unknown, and refused.
        if self.leaving || !self.left || !self.swept {
            return;
        }
        let kubepods = find::kubepods(&self.config.cgroup);
        let (maps, own) = (self.node.maps.clone(), self.config.own_cgroup);
        if let Err(error) = self.node.kernel.take_hold(&maps, &self.config.cgroup, own, &kubepods) {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(error, "the hooks cannot be attached again; tried every second");
            return;
        }
        tracing::info!("hooks attached again");
        self.clear_mark();
        // Until here everybody was recorded as outside: whoever runs is taken in as such, and not refused on the way.
        (self.left, self.node.left, self.node.leaving) = (false, false, false);
        self.node.client.stays();
        self.config.staying.met();
        self.drive_all();
    }

    fn clear_mark(&self) {
        if let Err(error) = self.config.mark.clear() {
            tracing::error!(%error, "an agent that is started again will release every pod first");
        }
    }

    fn drive_all(&mut self) {
        let uids: Vec<_> = self.entries.keys().cloned().collect();
        for uid in uids {
            self.drive(&uid);
        }
    }
}
