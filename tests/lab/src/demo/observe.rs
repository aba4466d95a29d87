//! `weft-lab demo --observe`: the shop with traffic that goes on, a real Prometheus that scrapes all of it, and what to open.
//!
//! ```text
//! nodes, mesh, samples ─▶ canary, policy ─▶ who is captured ─▶ Prometheus ─▶ traffic ─▶ what it sees ─▶ what to open
//!                                                                              └ goes on until Ctrl-C, or so many seconds
//! ```
//!
//! Invariants: what is said to be seen was asked of Prometheus; what is said to type was tried; all is taken away, whatever
//! way it ends, unless it is to be kept.

mod doorway;
mod grafana;
mod guide;
mod scraper;
mod sight;
mod traffic;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::cast::{self, Cast};
use super::screen::{Screen, Tone};
use super::{PICTURE, captured, keep};
use crate::binaries;
use crate::prometheus::Sample;
use guide::End;
use scraper::{INTERVAL, Scraper};
use traffic::Traffic;

pub use doorway::serve as doorway;

/// What is wanted of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observe {
    /// End after so many seconds of traffic; otherwise with Ctrl-C.
    pub seconds: Option<u64>,
}

pub(super) fn show(screen: &mut Screen, wanted: Observe, keep: bool) -> Result<f64> {
    check_programs()?;
    let style = screen.style();
    screen.line(
        style.paint(
            Tone::Bold,
            "Weft: a shop on two nodes, and who talks to whom in it, how fast, and why not",
        ),
    );
    screen.line(PICTURE);
    keep::mention_others(screen);

    screen.heading("Setting up");
    let lab = super::set_up(screen)?;
    let services = super::publish(screen, &lab)?;
    let mut cast = screen.step("start pods and programs", || Cast::start(&lab))?;
    screen.step("start a canary, and let only the frontend ask the database", || {
        cast.join(traffic::start_canary(&lab)?);
        traffic::publish_policy(&lab)?;
        let text = format!("{} is going to crash; only shop/frontend may ask shop/db", traffic::CANARY);
        Ok(((), text))
    })?;
    let scraper = screen.step("start Prometheus", || {
        let scraper = Scraper::start(&lab)?;
        let text = format!(
            "a real Prometheus scrapes {} targets every {} s, with the rules of deploy/rules",
            scraper.targets,
            INTERVAL.as_secs()
        );
        Ok((scraper, text))
    })?;
    screen.heading("Who is captured");
    captured::show(screen, &lab, &cast)?;

    screen.heading("Traffic, as Prometheus sees it");
    let started = Instant::now();
    let traffic = screen.step("start the callers", || {
        let traffic = Traffic::start(&cast, &services)?;
        Ok((traffic, "curl, redis-cli and mariadb call again and again".into()))
    })?;
    sight::await_all(screen, &scraper.client, started)?;
    guide::try_all(screen, &lab, &scraper.client)?;
    let alerts = alerts(&scraper)?;
    screen.note(&format!("alerts so far: {alerts}"));

    keep::write_entrances(&lab, &cast)?;
    let grafana = grafana::write(&lab.place().dir(), &scraper.url())?;
    let end = match (keep, wanted.seconds.map(Duration::from_secs)) {
        (true, _) => End::Kept,
        (false, Some(span)) => End::After(span),
        (false, None) => End::CtrlC,
    };
    guide::show(screen, &lab, &cast, &services, &scraper, &grafana, end)?;
    if keep {
        // All of them are to run on when this process ends.
        std::mem::forget((traffic, scraper, cast));
        lab.leave_up()?;
        return Ok(super::seconds(screen));
    }
    watch(screen, &scraper, started, wanted.seconds.map(Duration::from_secs));
    screen.heading("At the end, as Prometheus sees it");
    sight::show(screen, &scraper.client)?;
    let complaint = scraper.complaint();
    let text = format!("all {} targets are up, and every rule is evaluated", scraper.targets);
    screen.expect(complaint.is_none(), &text, || complaint.unwrap_or_default());
    let seconds = super::seconds(screen);
    super::take_away(screen, lab)?;
    Ok(seconds)
}

fn check_programs() -> Result<()> {
    cast::check_programs()?;
    if binaries::system("prometheus").is_none() {
        bail!("not installed: prometheus; run `cargo xtask setup`");
    }
    Ok(())
}

/// Lets it go on, with a line on the terminal that says how it goes.
fn watch(screen: &Screen, scraper: &Scraper, started: Instant, span: Option<Duration>) {
    while span.is_none_or(|span| started.elapsed() < span) {
        if screen.is_live() {
            let said = sight::in_short(&scraper.client);
            let said = said.unwrap_or_else(|| "Prometheus does not answer".into());
            screen.status(&format!("{} s: {said}", started.elapsed().as_secs()));
        }
        let left = span.map_or(INTERVAL, |span| span.saturating_sub(started.elapsed()));
        std::thread::sleep(left.min(INTERVAL));
    }
    screen.status("");
}

/// Names and states, the firing ones first.
fn alerts(scraper: &Scraper) -> Result<String> {
    let samples = scraper.client.query("count by (alertname, alertstate) (ALERTS)")?;
    let word = |key: &str, sample: &Sample| sample.labels.get(key).cloned().unwrap_or_default();
    let mut all: Vec<String> = samples
        .iter()
        .map(|sample| format!("{} is {}", word("alertname", sample), word("alertstate", sample)))
        .collect();
    all.sort();
    Ok(if all.is_empty() { "none".to_owned() } else { all.join(", ") })
}
