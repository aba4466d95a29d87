//! A stream that goes on where another one, to any replica, ended.

use std::collections::BTreeSet;

use super::*;

/// A controller that came to these contents in steps of its own, with things that came and went on the way.
fn replica_of(truth: &Contents, dice: &mut Dice) -> Published {
    let mut published = Published::default();
    let mut all: Vec<_> = truth.values().cloned().collect();
    while !all.is_empty() {
        if dice.roll(3) == 0 {
            // Of a name that is in the truth or not: overwritten or taken away below.
            published.apply([random_change(dice)]);
        }
        let one = dice.roll(all.len() as u64) as usize;
        published.apply([all.swap_remove(one).into_change()]);
    }
    let strangers: Vec<_> = published
        .from(std::ops::Bound::Unbounded)
        .map(|(name, _)| name.clone())
        .filter(|name| !truth.contains_key(name))
        .collect();
    published.apply(strangers.into_iter().map(Name::into_removal));
    // What was overwritten after it had been said.
    published.apply(truth.values().cloned().map(Resource::into_change));
    published
}

fn random_contents(dice: &mut Dice) -> Contents {
    let mut contents = Contents::new();
    for _ in 0..dice.roll(30) {
        apply(&mut contents, random_change(dice));
    }
    contents
}

/// An agent that was told everything by one replica.
fn told(published: &Published) -> Replica {
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), published).unwrap();
    drain(&mut session, &mut replica, published);
    replica
}

#[test]
fn a_replica_with_equal_contents_and_another_history_sends_a_resuming_agent_nothing() {
    for seed in 0..500 {
        let mut dice = Dice(seed);
        let truth = random_contents(&mut dice);
        let (first, second) = (replica_of(&truth, &mut dice), replica_of(&truth, &mut dice));
        let mut agent = told(&first);
        assert_eq!(first.version(), second.version(), "seed {seed}");
        let mut session = Session::new(&hello(&agent), &second).unwrap();
        assert_eq!(session.remembered(), 0, "seed {seed}");
        let deltas = drain(&mut session, &mut agent, &second);
        assert_eq!(deltas.len(), 1, "seed {seed}: the marker of completeness");
        assert!(deltas[0].complete, "seed {seed}");
        assert!(deltas[0].resources.is_empty() && deltas[0].removed.is_empty(), "seed {seed}: {deltas:?}");
    }
}

#[test]
fn a_replica_with_other_contents_sends_exactly_the_difference() {
    for seed in 0..500 {
        let mut dice = Dice(seed);
        let old = random_contents(&mut dice);
        let mut new = old.clone();
        for _ in 0..dice.roll(12) {
            apply(&mut new, random_change(&mut dice));
        }
        let (first, second) = (replica_of(&old, &mut dice), replica_of(&new, &mut dice));
        let mut agent = told(&first);
        let mut session = Session::new(&hello(&agent), &second).unwrap();
        let deltas = drain(&mut session, &mut agent, &second);

        let names = |all: Vec<&proto::ResourceName>| -> BTreeSet<Name> {
            let names: Vec<_> = all.iter().map(|name| Name::decode(Some(name)).unwrap()).collect();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "seed {seed}: said once");
            names.into_iter().collect()
        };
        let sent = names(deltas.iter().flat_map(|d| &d.resources).filter_map(|r| r.name.as_ref()).collect());
        let removed = names(deltas.iter().flat_map(|d| &d.removed).collect());
        let differs: BTreeSet<_> =
            new.iter().filter(|(n, r)| old.get(n) != Some(r)).map(|(n, _)| n.clone()).collect();
        let gone: BTreeSet<_> = old.keys().filter(|name| !new.contains_key(name)).cloned().collect();
        assert_eq!((sent, removed), (differs, gone), "seed {seed}");
    }
}
