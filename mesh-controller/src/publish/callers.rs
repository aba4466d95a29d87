//! Who is calling: the one question that every call and every open stream is asked.
//!
//! ```text
//!                      ┌─ standalone: a file of lines `NODE TOKEN` (tokens)
//!  bearer token ─▶ Callers
//!                      └─ Kubernetes: the API server reviews it (reviews), remembered for a while
//!        │
//!        └─▶ a node's name, or a refusal with one of the words below
//! ```
//!
//! A stream is asked again while it is open ([`Callers::until_refused`]): a token that was taken away, or whose pod is gone,
//! ends it within [`AGAIN`] and what the answer is remembered for. Invariants: whoever is not known is refused; that
//! nobody can be asked is `unavailable`, ends no stream, and never lets anybody in who was not known already.
//! Not here: what a node may have (`issue`), and the hello that must name the same node (`control`).

use std::time::Duration;

use tonic::Status;
use tonic::metadata::MetadataMap;

use super::tokens::Tokens;

mod claims;
mod reviews;

pub use reviews::{ReviewConfig, Reviews};

#[cfg(test)]
mod tests;

/// An open stream is asked for its token about this often.
const AGAIN: Duration = Duration::from_secs(30);

/// Knows agents by their tokens.
#[derive(Clone, Debug)]
pub enum Callers {
    /// A file of tokens.
    File(Tokens),
    /// Service account tokens, which the API server reviews.
    Reviewed(Reviews),
}

/// Why a caller is not known. The words are those of metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No `authorization: Bearer …`.
    #[error("no bearer token")]
    NoToken,
    /// In nobody's name.
    #[error("the token is no node's: check the agent's token file")]
    UnknownToken,
    /// Not of the form that the API server issues.
    #[error(
        "the token is no service account token: the agent must present the token that its pod's projected volume holds"
    )]
    Malformed,
    /// Over.
    #[error(
        "the token has expired: kubelet replaces it in the agent's volume before that; compare the clocks"
    )]
    Expired,
    /// For somebody else.
    #[error(
        "the token is not for the audience {wanted:?}: set `audience: {wanted}` in the agent's projected volume"
    )]
    Audience {
        /// Ours.
        wanted: String,
    },
    /// The API server does not vouch for it.
    #[error("the API server does not accept the token: {0}")]
    NotAccepted(String),
    /// Another service account.
    #[error("the token is of {got}, and agents run as {wanted}")]
    ServiceAccount {
        /// Whose it is.
        got: String,
        /// Whose it must be.
        wanted: String,
    },
    /// It does not say on which node it is used.
    #[error(
        "the token names no node: agents need Kubernetes 1.32 or newer, whose projected tokens say on which node \
         their pod runs"
    )]
    NoNode,
    /// The hello is another node's.
    #[error("the token is node {token}'s, and the agent says that it is {said}")]
    OtherNode {
        /// Whose it is.
        token: String,
        /// Who the caller says it is.
        said: String,
    },
    /// Nobody can say.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    /// The word for it in metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::UnknownToken => "unknown_token",
            Self::Malformed => "malformed_token",
            Self::Expired => "expired_token",
            Self::Audience { .. } => "wrong_audience",
            Self::NotAccepted(_) => "token_not_accepted",
            Self::ServiceAccount { .. } => "other_service_account",
            Self::NoNode => "token_without_node",
            Self::OtherNode { .. } => "other_node",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// What the caller gets.
    pub fn status(&self) -> Status {
        match self {
            Self::Unavailable(text) => Status::unavailable(text),
            Self::OtherNode { .. } | Self::ServiceAccount { .. } => {
                Status::permission_denied(self.to_string())
            }
            Self::NoToken
            | Self::UnknownToken
            | Self::Malformed
            | Self::Expired
            | Self::Audience { .. }
            | Self::NotAccepted(_)
            | Self::NoNode => Status::unauthenticated(self.to_string()),
        }
    }
}

impl Callers {
    /// The node whose token it is.
    pub async fn node_of(&self, token: &str) -> Result<String, Refusal> {
        match self {
            Self::File(tokens) => match tokens.node_of(token) {
                Ok(Some(node)) => Ok(node),
                Ok(None) => Err(Refusal::UnknownToken),
                Err(error) => {
                    tracing::error!(%error, "cannot authenticate agents");
                    Err(Refusal::Unavailable("the controller cannot read its file of tokens".into()))
                }
            },
            Self::Reviewed(reviews) => reviews.node_of(token).await,
        }
    }

    fn again(&self) -> Duration {
        match self {
            Self::File(_) => AGAIN,
            Self::Reviewed(reviews) => reviews.again(),
        }
    }

    /// Returns once the token is refused for good, or is another node's.
    pub(super) async fn until_refused(&self, token: &str, node: &str) -> Refusal {
        let mut part = 0.5 + rand_part(token);
        loop {
            tokio::time::sleep(self.again().mul_f64(part)).await;
            // Agents that came together do not all ask together; after that their own times keep them apart.
            part = 1.0;
            match self.node_of(token).await {
                Ok(same) if same == node => {}
                Ok(said) => return Refusal::OtherNode { token: said, said: node.into() },
                // The world does not change while nobody can be asked, and a stream grants nothing else.
                Err(Refusal::Unavailable(_)) => {}
                Err(refusal) => return refusal,
            }
        }
    }
}

/// Between 0 and 1, another one for each token.
fn rand_part(token: &str) -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let hash = RandomState::new().hash_one(token);
    f64::from(u32::try_from(hash >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

/// The bearer token of a call.
pub(super) fn bearer(metadata: &MetadataMap) -> Result<&str, Refusal> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
    header
        .and_then(|header| header.split_once(' '))
        .and_then(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()))
        .filter(|token| !token.is_empty())
        .ok_or(Refusal::NoToken)
}
