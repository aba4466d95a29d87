//! Tells the agents: one stream each, the newest difference, at the agent's own pace.
//!
//! ```text
//! facts, reports ─▶ Hub (index + published, under one lock) ── generation ──▶ stream ═ Delta ═▶ agent
//!                    ▲                                                        │  ▲      │
//!                    └─────────────── reports, acks ──────────────────────────┘  └ Ack ─┘
//!                    └─ every stream acknowledged the withdrawal ─▶ Released ─▶ the agent that reported it
//! ```
//!
//! Invariants: the lock is never held across a wait; a stream that is not read holds up only itself; an agent is
//! released from serving a workload only when no connected agent may still dial it by tunnel. Not here: what the
//! world is (the index) and the wire's state machine (`mesh_xds::delta`).

mod agentless;
mod callers;
mod control;
mod hub;
mod stream;
mod tokens;

#[cfg(test)]
mod tests;

pub use agentless::watch_for_agentless;
pub use callers::{Callers, Refusal, ReviewConfig, Reviews};
pub use control::ControlService;
pub use hub::{Bare, Hub, NodeRow, PolicyState, Told};
pub use tokens::{TokenError, Tokens};
