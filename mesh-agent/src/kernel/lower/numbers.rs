//! Numbers for classes and sets: none is used twice, also over a restart (`Settings::next_number`), so what an old row led to
//! is never something else.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::kernel::MapFailure;

/// Says that numbers below this one are used.
pub type Reserve = Box<dyn Fn(u32) -> Result<(), MapFailure> + Send>;

/// Gives them out.
pub(super) struct Numbers {
    next: u32,
    /// Below this one they may be given out.
    reserved: u32,
    reserve: Reserve,
    /// How many were not given out since somebody last asked for that.
    refused: usize,
    /// Why.
    failure: Option<MapFailure>,
}

impl Numbers {
    /// Reserved so many at a time.
    const STEP: u32 = 1_024;

    /// `next`: the first one that nobody has used.
    pub(super) fn new(next: u32, reserve: Reserve) -> Self {
        let first = next.max(1);
        Self { next: first, reserved: first, reserve, refused: 0, failure: None }
    }

    /// `None`: it cannot be said that it is used, so it must not be.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.next >= self.reserved {
            let reserved = self.next.checked_add(Self::STEP);
            let said = reserved.map(|reserved| (self.reserve)(reserved));
            match (reserved, said) {
                (Some(reserved), Some(Ok(()))) => self.reserved = reserved,
                (_, said) => {
                    self.refused += 1;
                    self.failure = said.and_then(Result::err);
                    return None;
                }
            }
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// Whether everybody got one.
    pub(super) fn is_whole(&self) -> bool {
        self.refused == 0
    }

    /// Whoever lacks one asks again.
    pub(super) fn ask_again(&mut self) {
        self.refused = 0;
    }

    /// How many were not given out; and why, once.
    pub(super) fn lacking(&mut self) -> (usize, Option<MapFailure>) {
        (self.refused, self.failure.take())
    }
}

/// Classes and their numbers. A number means the same for ever.
pub(super) struct Classes<C> {
    numbers: HashMap<Arc<C>, u32>,
    classes: HashMap<u32, Arc<C>>,
    /// Those that are new since somebody last asked.
    fresh: HashSet<u32>,
}

impl<C> Default for Classes<C> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), classes: HashMap::new(), fresh: HashSet::new() }
    }
}

impl<C: Eq + Hash> Classes<C> {
    /// The number of a class, a new one if need be.
    pub(super) fn number(&mut self, class: C, numbers: &mut Numbers) -> Option<u32> {
        if let Some(number) = self.numbers.get(&class) {
            return Some(*number);
        }
        let number = numbers.take()?;
        let class = Arc::new(class);
        self.numbers.insert(class.clone(), number);
        self.classes.insert(number, class);
        self.fresh.insert(number);
        Some(number)
    }

    pub(super) fn class(&self, number: u32) -> Option<&Arc<C>> {
        self.classes.get(&number)
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.classes.contains_key(&number)
    }

    /// All numbers, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.classes.keys().copied()
    }

    /// Those that were not there when this was last asked.
    pub(super) fn take_fresh(&mut self) -> HashSet<u32> {
        std::mem::take(&mut self.fresh)
    }

    /// Forgets the others. Whether there were any.
    pub(super) fn retain(&mut self, used: &HashSet<u32>) -> bool {
        let before = self.classes.len();
        self.classes.retain(|number, _| used.contains(number));
        let differs = self.classes.len() != before;
        if differs {
            self.numbers.retain(|_, number| used.contains(number));
            self.fresh.retain(|number| used.contains(number));
        }
        differs
    }
}
