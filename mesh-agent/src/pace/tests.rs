use super::*;

fn pace() -> Pace {
    let pace = Pace::still();
    pace.spin.set(Duration::from_secs(60));
    pace
}

#[test]
fn a_lone_conversation_spins_and_many_do_not() {
    let lone = pace();
    lone.moved(7, 64);
    assert!(lone.spinning.get() && lone.is_worth_a_turn());
    let many = pace();
    (1..=3).for_each(|id| many.moved(id, 64));
    assert!(!many.is_worth_a_turn());
    assert!(!many.spinning.get());
}

#[test]
fn bulk_ends_it() {
    let pace = pace();
    pace.moved(7, 64);
    pace.moved(7, SMALL + 1);
    assert!(!pace.is_worth_a_turn());
}

#[test]
fn what_does_not_pay_becomes_a_probe_and_what_pays_comes_back() {
    let pace = pace();
    pace.spin.set(Duration::from_nanos(1));
    let spins = |pace: &Pace, messages: u32| {
        (0..messages)
            .filter(|_| {
                pace.moved(7, 64);
                let spun = pace.spinning.get();
                std::thread::sleep(Duration::from_micros(1));
                assert!(!pace.is_worth_a_turn());
                spun
            })
            .count()
    };
    assert!(spins(&pace, 40) >= 4, "tried at first");
    let later = spins(&pace, 10 * PROBE);
    assert!((9..=11).contains(&later), "{later} probes");
    pace.spin.set(Duration::from_secs(60));
    (0..PROBE).for_each(|_| pace.moved(7, 64));
    assert!(pace.spinning.get());
    (0..100).for_each(|_| pace.moved(7, 64));
    assert!(pace.score.get() > WORTH);
}

#[test]
fn nobody_spins_where_it_is_off() {
    let pace = Pace::still();
    pace.moved(7, 64);
    assert!(!pace.spinning.get());
}
