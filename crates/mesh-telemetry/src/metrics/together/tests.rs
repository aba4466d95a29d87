#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Exposition, Together};
use crate::http::Response;

/// Makes answers, each when it is let.
struct Kitchen {
    together: Together,
    begun: AtomicUsize,
    lets: Semaphore,
}

impl Kitchen {
    fn new() -> Arc<Self> {
        Arc::new(Self { together: Together::default(), begun: AtomicUsize::new(0), lets: Semaphore::new(0) })
    }

    async fn ask(self: Arc<Self>, form: Exposition) {
        let make = async || {
            self.begun.fetch_add(1, Ordering::SeqCst);
            self.lets.acquire().await.unwrap().forget();
            Response::text("answer")
        };
        drop(self.together.answer(form, make).await);
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_asks_while_one_is_made_shares_the_next() {
    let kitchen = Kitchen::new();
    let mut all = JoinSet::new();
    all.spawn(kitchen.clone().ask(Exposition::Classic));
    settle().await;
    for _ in 0..100 {
        all.spawn(kitchen.clone().ask(Exposition::Classic));
    }
    settle().await;
    assert_eq!(kitchen.begun(), 1, "the others wait");
    kitchen.lets.add_permits(1);
    settle().await;
    assert_eq!(kitchen.begun(), 2, "the first's answer had begun before they asked");
    kitchen.lets.add_permits(1);
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_eq!(kitchen.begun(), 2, "all of them have the second");
    assert!(kitchen.together.last.lock().await.is_empty(), "nothing is kept");
}

#[tokio::test]
async fn another_form_is_another_answer_and_later_is_anew() {
    let kitchen = Kitchen::new();
    kitchen.lets.add_permits(9);
    for (form, begun) in [(Exposition::Classic, 1), (Exposition::OpenMetrics, 2), (Exposition::Classic, 3)] {
        kitchen.clone().ask(form).await;
        assert_eq!(kitchen.begun(), begun);
    }
    let mut both = JoinSet::new();
    for form in [Exposition::Classic, Exposition::OpenMetrics] {
        both.spawn(kitchen.clone().ask(form));
    }
    while let Some(done) = both.join_next().await {
        done.unwrap();
    }
    assert_eq!(kitchen.begun(), 5);
}

#[tokio::test]
async fn who_hangs_up_while_it_makes_one_leaves_it_to_the_next() {
    let kitchen = Kitchen::new();
    let first = tokio::spawn(kitchen.clone().ask(Exposition::Classic));
    settle().await;
    let second = tokio::spawn(kitchen.clone().ask(Exposition::Classic));
    settle().await;
    first.abort();
    settle().await;
    kitchen.lets.add_permits(1);
    second.await.unwrap();
    assert_eq!(kitchen.begun(), 2);
    assert!(kitchen.together.last.lock().await.is_empty());
}
