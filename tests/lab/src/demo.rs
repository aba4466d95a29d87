//! `weft-lab demo`: a shop on two nodes, talking through Weft, and what can be seen of that.
//!
//! ```text
//! nodes ─▶ mesh ─▶ samples, pods, programs ─▶ who is captured ─▶ conversations ─▶ wire ─▶ metrics ─▶ table, report
//!                                                                    └ held open while the agents' tables are read
//! ```
//!
//! Every claim that is printed was looked up: in an agent's table, in a packet capture, in a program's own output. The
//! same searches are made for two pods outside the mesh, on the same wire, where they must find what they look for.
//!
//! Invariants: no claim without a look; the programs are unmodified and told nothing; all is taken away at the end,
//! unless it is to be kept. With `--observe` it is another demo on the same nodes (`observe`). Not here: building, and installing what is missing (`cargo xtask demo` has done it).

mod captured;
mod cast;
mod conversations;
mod figures;
mod keep;
mod observe;
mod outcome;
mod samples;
mod screen;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::{mesh, teardown};
use cast::Cast;
use screen::Screen;

pub use keep::down;
pub use observe::{Observe, doorway};

/// What is wanted of the demo.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Leave everything up at the end.
    pub keep: bool,
    /// Write what was seen as JSON.
    pub report: Option<PathBuf>,
    /// Traffic that goes on, and a Prometheus that sees it, instead of conversations.
    pub observe: Option<Observe>,
}

const PICTURE: &str = "
   node a                                          node b
  ┌──────────────────────────────┐                ┌──────────────────────────────┐
  │ shop/frontend    curl and    │                │ shop/web       nginx         │
  │                  other tools │      wire      │ shop/db        MariaDB       │
  │ shop/mobile      curl        │════════════════│ legacy/files   nginx         │
  │ shop/cart        Redis       │                │                              │
  │ legacy/batch     curl        │                │                              │
  │ weft: agent, controller      │                │ weft: agent                  │
  └──────────────────────────────┘                └──────────────────────────────┘";

/// Shows it. The exit code says whether all was as it should be.
pub fn run(options: &Options) -> ExitCode {
    let mut screen = Screen::stdout();
    let shown = match options.observe {
        Some(wanted) => observe::show(&mut screen, wanted, options.keep),
        None => show(&mut screen, options),
    };
    match shown {
        Ok(seconds) => screen.verdict(None, seconds),
        Err(error) => screen.verdict(Some(error), 0.0),
    }
}

fn show(screen: &mut Screen, options: &Options) -> Result<f64> {
    if let Some(file) = &options.report {
        check_writable(file)?;
    }
    cast::check_programs()?;
    screen.line(
        screen.style().paint(screen::Tone::Bold, "Weft: a shop on two nodes, in the mesh by one label"),
    );
    screen.line(PICTURE);
    keep::mention_others(screen);

    screen.heading("Setting up");
    let lab = set_up(screen)?;
    let services = publish(screen, &lab)?;
    let cast = screen.step("start pods and programs", || Cast::start(&lab))?;

    screen.heading("Who is captured");
    captured::show(screen, &lab, &cast)?;

    screen.heading("Who talks to whom, and under which identity");
    let watch = lab.capture_wire("b")?;
    let conversations = conversations::hold(screen, &lab, &cast, &services)?;

    screen.heading("What a packet capture of the wire shows");
    let pcap = watch.stop()?;
    let wire = wire::judge(screen, &pcap, &conversations, &cast)?;

    screen.heading("What the metrics say");
    figures::show(screen, &lab, &conversations)?;

    screen.heading("In short");
    let seconds = seconds(screen);
    outcome::table(screen, &conversations, &wire);
    if let Some(file) = &options.report {
        outcome::write(file, &conversations, &wire, seconds)?;
        screen.line(format_args!("  written to {}", file.display()));
    }
    if options.keep {
        keep::leave_up(screen, lab, cast, &services)?;
    } else {
        keep::hints(screen);
        take_away(screen, lab)?;
    }
    Ok(seconds)
}

/// How long it took so far, as it is said.
fn seconds(screen: &Screen) -> f64 {
    (screen.elapsed().as_secs_f64() * 10.0).round() / 10.0
}

fn set_up(screen: &mut Screen) -> Result<Lab> {
    let mut lab = screen.step("make two nodes", || {
        let lab = Lab::builder().node("a").node("b").without_mesh().start()?;
        keep::mark(lab.place())?;
        let id = lab.place().id().to_owned();
        Ok((
            lab,
            format!("two nodes made of network namespaces and cgroups, one wire between them (lab {id})"),
        ))
    })?;
    screen.has_logs();
    screen.step("start the mesh", || {
        mesh::install(&mut lab, mesh::TRUST_DOMAIN)?;
        mesh::start_all(&lab)?;
        Ok(((), "one controller, and an agent on each node: eBPF programs attached, the world known".into()))
    })?;
    Ok(lab)
}

fn publish(screen: &mut Screen, lab: &Lab) -> Result<samples::Services> {
    screen.step("hand deploy/samples/*.yaml to the controller", || {
        let services = samples::publish(lab)?;
        Ok((services, "the controller reads deploy/samples/shop.yaml and legacy.yaml".into()))
    })
}

fn take_away(screen: &mut Screen, lab: Lab) -> Result<()> {
    screen.heading("Cleaning up");
    screen.step("take everything away", || {
        let place = lab.place().clone();
        lab.stop()?;
        let left = teardown::left(&place);
        if left.is_empty() {
            return Ok(((), "no namespace, cgroup, pin or process is left".into()));
        }
        bail!("left behind: {}", left.join(", "));
    })
}

/// Says early what would otherwise be said when all is done.
fn check_writable(file: &Path) -> Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.is_dir() || !parent.is_dir() {
        bail!("cannot write the report to {}: name a file in a directory that is there", file.display());
    }
    let open = std::fs::File::options().append(true).create(true).open(file);
    open.map(drop).with_context(|| format!("cannot write the report to {}", file.display()))
}
