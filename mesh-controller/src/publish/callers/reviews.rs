//! Service account tokens, as the API server sees them (TokenReview), remembered for a while.
//!
//! ```text
//!  token ─▶ claims: can it be any good? ─▶ remembered, fresh ─▶ answer
//!                 │ no                          │ not, or too old
//!                 ▼                             ▼
//!              refused            TokenReview (one a token at a time, a few at once)
//!                                     │ answer           │ no answer
//!                                     ▼                  ▼
//!                                 remembered     remembered and not too old: goes on; else unavailable
//! ```
//!
//! What is remembered is the token's SHA-256 with the node or the refusal, never the token. Invariants: nothing is
//! remembered past the token's own end; there is a bound on what is remembered, and refused tokens cannot push out good
//! ones; `unavailable` is remembered by nobody.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::Api;
use kube::api::PostParams;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::Refusal;
use super::claims::Claims;

/// Where the API server says on which node a token is used (Kubernetes 1.32 and newer).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// A token that ended so long ago is not worth a request, whatever the clocks say.
const SKEW: Duration = Duration::from_secs(120);

/// What a good token is, and how long an answer counts.
#[derive(Clone, Debug)]
pub struct ReviewConfig {
    /// The audience that the agents' tokens are bound to.
    pub audience: String,
    /// Where the agents' service account is.
    pub namespace: String,
    /// The agents' service account.
    pub service_account: String,
    /// So long an answer is good without asking again. A token that was taken away works for so long.
    pub fresh: Duration,
    /// An open stream is asked for its token about this often.
    pub again: Duration,
    /// So long a good answer counts while the API server gives none.
    pub stale: Duration,
    /// So long a refusal counts.
    pub refused: Duration,
    /// How long one review may take.
    pub timeout: Duration,
    /// So many reviews at once.
    pub at_once: usize,
    /// So many answers are remembered, and so many refusals.
    pub most: usize,
}

impl ReviewConfig {
    /// With the usual times.
    pub fn new(audience: &str, namespace: &str, service_account: &str) -> Self {
        Self {
            audience: audience.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
            fresh: Duration::from_secs(60),
            again: super::AGAIN,
            stale: Duration::from_secs(600),
            refused: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            at_once: 16,
            most: 8_192,
        }
    }

    fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }
}

/// Asks the API server; clones share what is remembered.
#[derive(Clone)]
pub struct Reviews {
    shared: Arc<Shared>,
}

struct Shared {
    api: Api<TokenReview>,
    config: ReviewConfig,
    at_once: Semaphore,
    /// Held for a look or a store.
    known: Mutex<Known>,
}

type Hash = [u8; 32];

#[derive(Default)]
struct Known {
    good: HashMap<Hash, Good>,
    refused: HashMap<Hash, (Instant, Refusal)>,
    /// Tokens that are being reviewed: who has the same one waits for the answer.
    asking: HashMap<Hash, Arc<tokio::sync::Mutex<()>>>,
}

#[derive(Clone)]
struct Good {
    node: String,
    at: Instant,
    expires: SystemTime,
}

impl Reviews {
    /// Reviews with this client, which needs `create` on `tokenreviews`.
    pub fn new(client: kube::Client, config: ReviewConfig) -> Self {
        let at_once = Semaphore::new(config.at_once.max(1));
        let api = Api::all(client);
        Self { shared: Arc::new(Shared { api, config, at_once, known: Mutex::default() }) }
    }

    pub(super) fn again(&self) -> Duration {
        self.shared.config.again
    }

    /// The node whose token it is.
    pub(super) async fn node_of(&self, token: &str) -> Result<String, Refusal> {
        let shared = &*self.shared;
        let claims = Claims::of(token).ok_or(Refusal::Malformed)?;
        let now = SystemTime::now();
        if claims.expires + SKEW < now {
            return Err(Refusal::Expired);
        }
        if !claims.audiences.contains(&shared.config.audience) {
            return Err(Refusal::Audience { wanted: shared.config.audience.clone() });
        }
        let hash: Hash = Sha256::digest(token).into();
        if let Some(answer) = shared.remembered(&hash) {
            return answer;
        }
        let turn = Turn { shared, hash, lock: shared.known().asking.entry(hash).or_default().clone() };
        let _mine = turn.lock.lock().await;
        // Whoever was before us has the answer.
        if let Some(answer) = shared.remembered(&hash) {
            return answer;
        }
        shared.ask(token, &claims, &hash).await
    }
}

/// A place in the row of those who ask for one token; the last one takes the row away, whatever became of it.
struct Turn<'a> {
    shared: &'a Shared,
    hash: Hash,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut known = self.shared.known();
        // The map's own share and ours.
        if Arc::strong_count(&self.lock) <= 2 {
            known.asking.remove(&self.hash);
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, hash: &Hash) -> Option<Result<String, Refusal>> {
        let known = self.known();
        if let Some(good) = known.good.get(hash) {
            let fresh = good.at.elapsed() < self.config.fresh && SystemTime::now() < good.expires;
            return fresh.then(|| Ok(good.node.clone()));
        }
        let (at, refusal) = known.refused.get(hash)?;
        (at.elapsed() < self.config.refused).then(|| Err(refusal.clone()))
    }

    async fn ask(&self, token: &str, claims: &Claims, hash: &Hash) -> Result<String, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![self.config.audience.clone()]),
                token: Some(token.into()),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let asked = async {
            // Never closed.
            let _slot = self.at_once.acquire().await.ok();
            self.api.create(&params, &review).await
        };
        let failed = match tokio::time::timeout(self.config.timeout, asked).await {
            Ok(Ok(review)) => {
                let answer = self.judge(review.status.unwrap_or_default(), claims);
                self.remember(hash, claims, &answer);
                return answer;
            }
            Ok(Err(error)) => crate::chain(&error),
            Err(_) => format!("no answer within {} s", self.config.timeout.as_secs()),
        };
        tracing::warn!(error = failed, "the API server does not review tokens");
        let known = self.known();
        match known.good.get(hash) {
            Some(good) if good.at.elapsed() < self.config.stale && SystemTime::now() < good.expires => {
                Ok(good.node.clone())
            }
            _ => Err(Refusal::Unavailable(
                "the controller cannot have the token reviewed: the API server does not answer".into(),
            )),
        }
    }

    /// What an answer means.
    fn judge(&self, status: TokenReviewStatus, claims: &Claims) -> Result<String, Refusal> {
        let wanted = &self.config.audience;
        if status.authenticated != Some(true) {
            if claims.expires <= SystemTime::now() {
                return Err(Refusal::Expired);
            }
            let why = status.error.filter(|error| !error.is_empty());
            return Err(Refusal::NotAccepted(why.unwrap_or_else(|| "it gives no reason".into())));
        }
        // A server that knows nothing of audiences answers without one: for whom the token is, it has not looked.
        if !status.audiences.unwrap_or_default().contains(wanted) {
            return Err(Refusal::Audience { wanted: wanted.clone() });
        }
        let UserInfo { username, extra, .. } = status.user.unwrap_or_default();
        let (got, wanted) = (username.unwrap_or_default(), self.config.username());
        if got != wanted {
            return Err(Refusal::ServiceAccount { got, wanted });
        }
        match extra.unwrap_or_default().get(NODE_NAME).map(Vec::as_slice) {
            Some([node]) if !node.is_empty() => Ok(node.clone()),
            _ => Err(Refusal::NoNode),
        }
    }

    fn remember(&self, hash: &Hash, claims: &Claims, answer: &Result<String, Refusal>) {
        let at = Instant::now();
        let mut known = self.known();
        let Known { good, refused, .. } = &mut *known;
        match answer {
            Ok(node) => {
                refused.remove(hash);
                make_room(good, self.config.most, |good| good.at);
                good.insert(*hash, Good { node: node.clone(), at, expires: claims.expires });
            }
            Err(refusal) => {
                good.remove(hash);
                make_room(refused, self.config.most, |(at, _)| *at);
                refused.insert(*hash, (at, refusal.clone()));
            }
        }
    }
}

/// Where it is full, the older half goes: seldom, and then in one pass.
fn make_room<T>(map: &mut HashMap<Hash, T>, most: usize, at: impl Fn(&T) -> Instant) {
    if map.len() < most.max(2) {
        return;
    }
    let mut times: Vec<Instant> = map.values().map(&at).collect();
    let middle = times.len() / 2;
    let (_, limit, _) = times.select_nth_unstable(middle);
    let limit = *limit;
    map.retain(|_, value| at(value) > limit);
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
