//! A demo that stays: how to look around in it, and how it goes away again.

use std::fmt::Write as _;
use std::mem::ManuallyDrop;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::cast::Cast;
use super::samples::Services;
use super::screen::{Screen, Tone};
use crate::lab::Lab;
use crate::place::Place;
use crate::pod::Pod;
use crate::{binaries, teardown};

/// In the directory of a lab that is a demo.
const MARK: &str = "demo";

/// Makes a lab known as a demo.
pub(super) fn mark(place: &Place) -> Result<()> {
    std::fs::write(place.dir().join(MARK), "").context("mark the lab as a demo")
}

/// Demos that were left up.
fn kept() -> Vec<Place> {
    Place::all().into_iter().filter(|place| place.dir().join(MARK).exists() && !is_running(place)).collect()
}

/// A demo that somebody watches just now, and that goes by itself.
fn is_running(place: &Place) -> bool {
    !place.is_detached() && place.owner().is_some_and(|owner| owner.is_alive())
}

/// Says that there are demos from before; they do not disturb this one.
pub(super) fn mention_others(screen: &Screen) {
    let ids: Vec<String> = kept().iter().map(|place| place.id().to_owned()).collect();
    if !ids.is_empty() {
        screen.line("");
        screen.note(&format!(
            "A demo is still up from before (lab {}). This one gets nodes of its own and leaves it alone; \
             `cargo xtask demo down` removes all that were kept.",
            ids.join(", ")
        ));
    }
}

/// `demo down`: removes every demo that was left up.
pub fn down() -> ExitCode {
    let screen = Screen::stdout();
    let kept = kept();
    if kept.is_empty() {
        screen.line("no demo is up, nothing to remove");
        return ExitCode::SUCCESS;
    }
    let mut code = ExitCode::SUCCESS;
    for place in kept {
        match teardown::remove(&place) {
            Ok(()) => screen.line(format_args!("removed the demo in {}", place.dir().display())),
            Err(error) => {
                let text = format!("the demo in {} is not all gone: {error:#}", place.dir().display());
                screen.line(screen.style().paint(Tone::Bad, text));
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// What there would be to look at.
pub(super) fn hints(screen: &Screen) {
    screen.heading("To look further");
    screen.line("  cargo xtask demo --observe goes on, with a Prometheus, and says what to open there.");
    screen
        .line("  cargo xtask demo --keep leaves all of this up, and prints these commands with their paths:");
    screen.line("");
    let rows = [
        ("meshctl --socket …/a/agent.sock pods", "who is captured, and if not, why not"),
        ("meshctl --socket …/a/agent.sock connections", "who talks to whom, now"),
        ("meshctl --socket …/a/agent.sock certs", "who may prove to be whom, until when"),
        ("meshctl --socket …/a/agent.sock check", "whether kernel and agent are all right"),
        ("bpftool map dump pinned …/weft/maps/mesh_pods", "what the kernel knows, by named fields"),
        ("bpftool cgroup tree …/a", "where its programs are attached"),
        ("ip netns exec … tcpdump -i wire -A", "what is on the wire"),
    ];
    commands(screen, rows.map(|(command, what)| (command.to_owned(), what)));
}

/// Lets go of the lab and says how to use it.
pub(super) fn leave_up(screen: &Screen, lab: Lab, cast: Cast, services: &Services) -> Result<()> {
    // The programs are to run on when this process ends.
    let cast = ManuallyDrop::new(cast);
    write_entrances(&lab, &cast)?;
    let place = lab.place().clone();
    let dir = place.dir();
    let (agent, other) = (lab.agent("a").admin_socket().to_owned(), lab.agent("b").admin_socket().to_owned());
    let controller = lab.controller().admin_socket().to_owned();
    let cgroup = lab.node("a").cgroup().path().to_owned();
    let (wire, pins) = (lab.node("b").netns().to_owned(), place.bpffs("a").join("weft"));
    let metrics = lab.agent("a").pod().netns().to_owned();
    lab.leave_up()?;

    let meshctl = from_here(&binaries::binary("meshctl")?);
    let show = |heading: &str, rows: &[(String, &'static str)]| {
        screen.heading(heading);
        commands(screen, rows.iter().cloned());
    };
    let frontend = entrance(&place, cast.pod("shop/frontend")?);
    let batch = entrance(&place, cast.pod("legacy/batch")?);
    let url = format!("http://{}/orders", services.front("shop/web")?.v4);
    screen.heading("It stays up. Enter a pod (its cgroup and network namespace): a shell, or a command");
    commands(screen, [(format!("{} [COMMAND…]", dir.join("enter/POD").display()), "")]);
    let names: Vec<String> = cast.pods().iter().map(|pod| short_name(pod)).collect();
    screen.note(&format!("POD is one of {}", names.join(", ")));
    show(
        "Try",
        &[
            (format!("{} curl -s {url} | head -2", frontend.display()), "in the mesh: mutual TLS"),
            (format!("{} curl -s {url} | head -2", batch.display()), "from outside the mesh: plain text"),
            (
                format!("{} curl -s '{url}?[1-99]' >/dev/null &", frontend.display()),
                "some minutes of it, to look at with meshctl connections",
            ),
            (
                format!("sed -i '/capture: enabled/d' {}", place.objects().join("shop.yaml").display()),
                "take the shop out of the mesh",
            ),
            (
                format!("cp deploy/samples/shop.yaml {}/", place.objects().display()),
                "and put it back, while it talks",
            ),
        ],
    );
    let ctl = |socket: &Path, command: &str| format!("{meshctl} --socket {} {command}", socket.display());
    show(
        "Ask the agents and the controller at their sockets",
        &[
            (ctl(&agent, "pods"), "who is captured on node a, and why not"),
            (ctl(&agent, "connections"), "who talks to whom, now"),
            (ctl(&other, "connections"), "the same, as node b sees it"),
            (ctl(&agent, "certs"), "who may prove to be whom, until when"),
            (ctl(&agent, "check"), "whether kernel and agent are all right"),
            (ctl(&controller, "status"), "the controller: agents, files"),
        ],
    );
    show(
        "Ask the kernel, and the wire",
        &[
            (
                format!("bpftool map dump pinned {}", pins.join("maps/mesh_pods").display()),
                "its pods, by fields",
            ),
            (format!("bpftool cgroup tree {}", cgroup.display()), "where programs are attached"),
            (format!("ip netns exec {wire} tcpdump -ni wire -A tcp"), "what is on the wire"),
            (format!("ip netns exec {metrics} curl -s localhost:15020/metrics | grep ^weft_"), "all metrics"),
            (format!("tail -f {}", dir.join("logs/agent-a.log").display()), "the agent's log"),
        ],
    );
    screen.heading("Remove it with");
    commands(screen, [("cargo xtask demo down".to_owned(), "")]);
    Ok(())
}

/// Commands, each with what it is for: beside it where both fit.
pub(super) fn commands(screen: &Screen, rows: impl IntoIterator<Item = (String, &'static str)>) {
    let rows: Vec<_> = rows.into_iter().collect();
    let style = screen.style();
    let widest = rows.iter().map(|(command, _)| super::screen::width(command)).max().unwrap_or_default();
    let fits = rows.iter().all(|(_, what)| widest + 4 + super::screen::width(what) <= super::screen::WIDTH);
    for (command, what) in rows {
        let mut line = String::from("  ");
        if fits {
            let gap = " ".repeat(widest - super::screen::width(&command));
            let _ =
                write!(line, "{}{gap}  {}", style.paint(Tone::Name, &command), style.paint(Tone::Dim, what));
        } else {
            if !what.is_empty() {
                screen.line(format_args!("  {}", style.paint(Tone::Dim, format_args!("# {what}"))));
            }
            line.push_str(&style.paint(Tone::Name, &command));
        }
        screen.line(line.trim_end());
    }
}

/// The script that enters a pod.
pub(super) fn entrance(place: &Place, pod: &Pod) -> PathBuf {
    place.dir().join("enter").join(short_name(pod))
}

fn short_name(pod: &Pod) -> String {
    pod.key().replace('/', "-")
}

/// Writes the scripts that enter the pods.
pub(super) fn write_entrances(lab: &Lab, cast: &Cast) -> Result<()> {
    cast.pods().iter().try_for_each(|pod| write_entrance(lab.place(), pod))
}

/// A script that enters a pod as a program of it would be in it: its cgroup too, for that is where Weft's hooks know
/// it by. The machine's own environment stays outside.
fn write_entrance(place: &Place, pod: &Pod) -> Result<()> {
    let path = entrance(place, pod);
    let script = format!(
        "#!/bin/sh\n# Runs a command in pod {key}, a shell if none is named.\nset -e\n\
         [ $# -gt 0 ] || set -- bash --norc\necho $$ > {cgroup}/cgroup.procs\n\
         exec env -i PATH=\"$PATH\" HOME=\"$HOME\" TERM=\"${{TERM:-dumb}}\" LANG=C.UTF-8 PS1='{key} # ' \\\n  \
         nsenter --net={netns} -- \"$@\"\n",
        key = pod.key(),
        cgroup = pod.container().path().display(),
        netns = pod.netns_path().display(),
    );
    let context = || format!("write {}", path.display());
    std::fs::create_dir_all(place.dir().join("enter")).with_context(context)?;
    std::fs::write(&path, script).with_context(context)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).with_context(context)
}

/// A path as short as it can be typed from the working directory.
pub(super) fn from_here(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
