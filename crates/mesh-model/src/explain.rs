//! Why a connection is let through, refused, encrypted or not: every decision on its way, with the object that took it.
//!
//! ```text
//! source ─▶ capture ─▶ identity ─▶ service ─▶ endpoint ─▶ destination ─▶ path ─▶ mtls ─▶ policy
//! ```
//!
//! The same functions as the agent's ([`route`](crate::route), [`World::judge`]), asked in the same order, with what they say written
//! down: an explanation of its own could be wrong in its own way. Nothing is dialled. A Service's endpoints are all looked at; where
//! they are not judged alike, the first that is refused is what is shown. Pure. Not here: what the tables of a node's kernel say,
//! which only its agent can add ([`Explanation::kernel`]).

mod place;
mod steps;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::policy::{PolicyKey, Verdict};

pub use place::{NoSuchPlace, Place, Source, Target};
pub use steps::explain;

/// Whether a connection is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is.
    Allow,
    /// It is refused, or never reaches anybody.
    Deny,
}

/// How the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// From socket to socket on one node; the kernel vouches for the source.
    Direct,
    /// Under mutual TLS, from agent to agent.
    Tunnel,
    /// Bare, to a captured pod's agent: the source is not in the mesh.
    Plaintext,
    /// Bare, to what is outside the mesh.
    Passthrough,
    /// Nowhere.
    Refused,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which: `source`, `capture`, `identity`, `service`, `endpoint`, `destination`, `path`, `mtls`, `policy`.
    pub step: String,
    /// What was decided, in a word.
    pub result: String,
    /// The object that decided: `Pod shop/web`, `AuthorizationPolicy shop/a rule 0`; none where nothing was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What else there is to be said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A policy that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decider {
    /// Kubernetes namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// From 0; none: no rule of it matched.
    pub rule: Option<usize>,
}

/// What policies in mode Audit would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Would {
    /// What it would be.
    pub verdict: Answer,
    /// Because of this one.
    #[serde(flatten)]
    pub policy: Decider,
}

/// What the tables of the source's or the destination's node say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelAnswer {
    /// `allow`, `deny`, `agent` (the tables leave it to the agent) or `unknown` (no agent of a node that has them was asked).
    pub verdict: String,
    /// Whether that is what the model says; none where there is nothing to compare.
    pub agrees: Option<bool>,
    /// Whose tables.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What becomes of the connection.
    pub verdict: Answer,
    /// Which way.
    pub path: Path,
    /// Why it is refused, in the one list of words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In their order.
    pub steps: Vec<Step>,
    /// Which policy decided, if one did.
    pub policy: Option<Decider>,
    /// What Audit policies would have done, where that is something else.
    pub audit: Vec<Would>,
    /// What the kernel says.
    pub kernel: KernelAnswer,
    /// Who is dialled in the end; of several endpoints the one that is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Whether the source dials as a part of the mesh.
    #[serde(default)]
    pub in_mesh: bool,
}

impl Decider {
    fn of(key: &PolicyKey, rule: Option<usize>) -> Self {
        Self { namespace: key.namespace.to_string(), name: key.name.to_string(), rule }
    }

    pub(crate) fn of_verdict(verdict: &Verdict<'_>) -> Option<Self> {
        verdict.decided_by().map(|(key, rule)| Self::of(key, rule))
    }
}

impl From<bool> for Answer {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allow } else { Self::Deny }
    }
}

impl Path {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tunnel => "tunnel",
            Self::Plaintext => "plaintext",
            Self::Passthrough => "passthrough",
            Self::Refused => "refused",
        }
    }
}
