//! What agents said of their pods: the last word on each, kept over restarts of the controller.
//!
//! A word counts from the pod's own node alone. It holds until another word: no lost stream, no un-labelling and no
//! restart takes it back, because peers of a captured pod may only go back to plaintext when they are told to. Words
//! on pods that are not known (any more, or yet: an agent may have them from its cache) are kept for a while too, and
//! count once the pod is there and on the node that spoke.

use std::collections::{BTreeMap, HashSet, VecDeque};

use mesh_model::Uid;
use serde::{Deserialize, Serialize};

/// So many words of pods that are not known are kept.
const ABSENT: usize = 4_096;

/// The last word on each pod, by UID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captures {
    words: BTreeMap<Uid, Spoken>,
    /// Which of them are of pods that are not known.
    #[serde(skip)]
    absent: HashSet<Uid>,
    /// The same in the order in which they went; some may be back.
    #[serde(skip)]
    aging: VecDeque<Uid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Spoken {
    node: String,
    word: Word,
}

/// What peers are to think of a pod's tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// It is there.
    Captured,
    /// It was, and is no more.
    Withdrawn,
}

/// What an agent said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Captured.
    Captured,
    /// About to be released.
    Leaving,
    /// Not captured, or no more.
    Gone,
}

/// Why a report does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// A pod of another node.
    #[error("workload {uid} is on node {scheduled:?}, not on {node}, which reported it")]
    ForeignNode {
        /// Which pod.
        uid: Uid,
        /// Who reported it.
        node: String,
        /// Where it is.
        scheduled: String,
    },
}

impl Captures {
    /// Takes a word. `scheduled` is the pod's node, if the pod is known. True if something is different.
    pub(super) fn report(
        &mut self,
        node: &str,
        uid: &Uid,
        report: Report,
        scheduled: Option<&str>,
    ) -> Result<bool, ReportError> {
        let spoken = self.words.get(uid);
        // Nobody but its first speaker may speak of a pod that is not known.
        let home = scheduled.or(spoken.map(|spoken| spoken.node.as_str())).unwrap_or(node);
        if home != node {
            let (node, scheduled) = (node.into(), home.into());
            return Err(ReportError::ForeignNode { uid: uid.clone(), node, scheduled });
        }
        let word = match (report, spoken.map(|spoken| spoken.word)) {
            (Report::Captured, _) => Word::Captured,
            (Report::Leaving | Report::Gone, Some(_)) => Word::Withdrawn,
            // Only who captured it lets go of it: that it did was said to another replica, and is not known here yet.
            (Report::Leaving, None) => Word::Withdrawn,
            // It was never captured: there is nothing to withdraw.
            (Report::Gone, None) => return Ok(false),
        };
        let new = Spoken { node: node.into(), word };
        if spoken == Some(&new) {
            return Ok(false);
        }
        self.words.insert(uid.clone(), new);
        if scheduled.is_none() {
            self.age(uid);
        }
        Ok(true)
    }

    /// The word that counts for a pod on a node.
    pub(super) fn word(&self, uid: &Uid, node: &str) -> Option<Word> {
        self.words.get(uid).filter(|spoken| spoken.node == node).map(|spoken| spoken.word)
    }

    /// The pod is known.
    pub(super) fn seen(&mut self, uid: &Uid) {
        self.absent.remove(uid);
    }

    /// The pod is not known: its word begins to age.
    pub(super) fn age(&mut self, uid: &Uid) {
        if !self.words.contains_key(uid) || !self.absent.insert(uid.clone()) {
            return;
        }
        self.aging.push_back(uid.clone());
        while self.aging.len() > ABSENT {
            if let Some(oldest) = self.aging.pop_front()
                && self.absent.remove(&oldest)
            {
                self.words.remove(&oldest);
            }
        }
    }

    /// Ages the words on all pods that are not known.
    pub(super) fn age_all(&mut self, is_known: impl Fn(&Uid) -> bool) {
        let unknown: Vec<_> = self.words.keys().filter(|uid| !is_known(uid)).cloned().collect();
        for uid in unknown {
            self.age(&uid);
        }
    }

    /// Every word: of which pod, from which node.
    pub fn all(&self) -> impl Iterator<Item = (&Uid, &str, Word)> {
        self.words.iter().map(|(uid, spoken)| (uid, spoken.node.as_str(), spoken.word))
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}
