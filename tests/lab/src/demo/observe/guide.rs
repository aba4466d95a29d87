//! What there is to open and to type, each with its path and port; all of it was tried before it is said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::cast::Cast;
use super::super::keep::{commands, entrance, from_here};
use super::super::samples::Services;
use super::super::screen::{Screen, Tone};
use super::grafana::DASHBOARDS;
use super::scraper::Scraper;
use super::traffic::POLICY;
use crate::lab::Lab;
use crate::prometheus::Client;
use crate::{binaries, eventually};

#[cfg(test)]
mod tests;

/// Questions to Prometheus, each with what it tells.
pub(super) const QUERIES: [(&str, &str); 8] = [
    (
        r#"sum by (source_workload, destination_workload, security) (rate(weft_connections_opened_total{direction="outbound"}[1m]))"#,
        "who talks to whom, and how: new connections a second",
    ),
    (
        "sum by (destination_workload, reason, verdict) (rate(weft_connections_failed_total[1m])) > 0",
        "what fails, and why; denied: a policy refuses it",
    ),
    (
        r#"sum by (source_workload, destination_workload, flow) (rate(weft_bytes_total{direction="outbound"}[1m]))"#,
        "bytes a second, each way",
    ),
    (
        r#"sum by (source_workload, destination_workload) (weft_open_connections{direction="outbound"}) > 0"#,
        "what is open now",
    ),
    ("weft:connect_duration_seconds:p99_5m", "how long a connect takes: 99 of 100 no longer"),
    ("weft:tcp_rtt_seconds:p99_5m", "round trips, as the kernel measures them"),
    ("weft:connections_failed:by_destination:ratio_rate5m", "which share fails, by destination"),
    ("ALERTS", "alerts: pending for ten minutes, then firing"),
];
/// Whose connections are refused, and what is dialled.
const REFUSED: (&str, &str) = ("shop/mobile", "service/shop/db:3306");
const REASON: &str = "policy_not_allowed";
/// Rates over five minutes are there from the second evaluation on.
const PATIENCE: Duration = Duration::from_secs(60);

/// How it ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// When somebody ends it.
    CtrlC,
    /// By itself.
    After(Duration),
    /// Not with this process.
    Kept,
}

/// Whom `meshctl` asks.
#[derive(Debug)]
struct Meshctl {
    program: PathBuf,
}

impl Meshctl {
    fn find() -> Result<Self> {
        Ok(Self { program: binaries::binary("meshctl")? })
    }

    /// The line to type.
    fn line(&self, socket: &Path, words: &str) -> String {
        format!("{} --socket {} {words}", from_here(&self.program), socket.display())
    }

    /// Exit code and what it wrote.
    fn run(&self, socket: &Path, words: &str) -> Result<(Option<i32>, String)> {
        let mut command = Command::new(&self.program);
        command.arg("--socket").arg(socket).args(words.split(' ')).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("run {}", self.program.display()))?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    }
}

/// What is read once, without a look at the screen.
fn once(words: &str) -> String {
    let words = words.replace(" --watch", "").replace(" --follow", "");
    if words == "top" { "top --once".to_owned() } else { words }
}

/// What is typed at each node's agent.
const AT_AGENTS: [(&str, &str); 3] = [
    ("top", "who talks to whom, how fast, and what is refused; ? for the keys"),
    ("connections --watch", "every connection, now"),
    ("logs --follow", "what is refused or cut, and why"),
];

fn explain() -> String {
    let (source, destination) = REFUSED;
    format!("explain {source} {destination}")
}

/// Tries everything that [`show`] says.
pub(super) fn try_all(screen: &mut Screen, lab: &Lab, client: &Client) -> Result<()> {
    let mut empty = Vec::new();
    // What is missing at the end shows below.
    let _timed_out = eventually(PATIENCE, || {
        empty.clear();
        for (query, _) in QUERIES {
            match client.query(query) {
                Ok(samples) if samples.iter().any(|sample| !sample.value.is_nan()) => {}
                Ok(_) => empty.push(format!("no data: {query}")),
                Err(error) => empty.push(format!("{error:#}")),
            }
        }
        std::thread::sleep(Duration::from_millis(200));
        if empty.is_empty() { Ok(()) } else { Err(empty.join("; ")) }
    });
    let text = format!("each of {} queries, over recorded rates too, has data", QUERIES.len());
    screen.expect(empty.is_empty(), &text, || empty.join("\n"));

    let meshctl = Meshctl::find()?;
    let mut wrong = Vec::new();
    for agent in lab.agents() {
        for (words, _) in AT_AGENTS {
            let words = once(words);
            let (code, text) = meshctl.run(agent.admin_socket(), &words)?;
            if code != Some(0) {
                wrong.push(format!("meshctl {words} on node {}: {code:?} {}", agent.node(), text.trim()));
            }
        }
    }
    screen.expect(wrong.is_empty(), "meshctl top, connections and logs answer on both nodes", || {
        wrong.join("\n")
    });
    let followed = follow(&meshctl, lab);
    let text = format!("meshctl logs and explain name policy {POLICY}, which refuses {}", REFUSED.0);
    screen.expect(followed.is_ok(), &text, || {
        followed.err().map(|error| format!("{error:#}")).unwrap_or_default()
    });
    Ok(())
}

/// From the refusal to the rule.
fn follow(meshctl: &Meshctl, lab: &Lab) -> Result<()> {
    let socket = lab.agent("a").admin_socket();
    for (words, code) in [(explain(), 1), (format!("logs --reason {REASON}"), 0)] {
        let (ended, text) = meshctl.run(socket, &words)?;
        ensure!(ended == Some(code), "meshctl {words} ends with {ended:?}: {}", text.trim());
        ensure!(text.contains(POLICY), "meshctl {words} does not name it: {}", text.trim());
    }
    let (ended, text) = meshctl.run(socket, &format!("explain-error {REASON}"))?;
    ensure!(ended == Some(0), "meshctl explain-error {REASON} ends with {ended:?}: {}", text.trim());
    Ok(())
}

/// What to open, what to type, and how it ends.
pub(super) fn show(
    screen: &Screen,
    lab: &Lab,
    cast: &Cast,
    services: &Services,
    scraper: &Scraper,
    grafana: &Path,
    end: End,
) -> Result<()> {
    let meshctl = Meshctl::find()?;
    let (style, url) = (screen.style(), scraper.url());
    let show = |heading: &str, rows: Vec<(String, &'static str)>| {
        screen.heading(heading);
        commands(screen, rows);
    };

    screen.heading("Open Prometheus");
    screen.line(format_args!("  {}", style.paint(Tone::Name, &url)));
    let (host, port) = ("THIS-MACHINE", scraper.address().port());
    screen.note(&format!("from elsewhere: ssh -L {port}:{} {host}, and the same address", scraper.address()));
    show("Ask it", QUERIES.map(|(query, what)| (query.to_owned(), what)).into());
    screen.note(&format!("or in a terminal: promtool query instant {url} 'QUERY'"));

    for agent in lab.agents() {
        let line = |words: &str| meshctl.line(agent.admin_socket(), words);
        let rows = AT_AGENTS.map(|(words, what)| (line(words), what));
        show(&format!("Look at node {}", agent.node()), rows.into());
    }
    let socket = lab.agent("a").admin_socket();
    let mobile = entrance(lab.place(), cast.pod(REFUSED.0)?);
    let db = services.front("shop/db")?;
    show(
        "From an application's error to the rule that refuses it",
        vec![
            (
                format!("{} mariadb --skip-ssl -h {}", mobile.display(), db.v4),
                "what the application sees: connection refused",
            ),
            (meshctl.line(socket, &format!("logs --reason {REASON} --tail 1")), "what its node says of it"),
            (meshctl.line(socket, &explain()), "every step, and which object decided"),
            (meshctl.line(lab.controller().admin_socket(), &format!("policy show {POLICY}")), "the rule"),
            (
                format!("{} explain-error {REASON}", from_here(&meshctl.program)),
                "what the reason means, and what to do",
            ),
        ],
    );
    show(
        "And the controller",
        vec![
            (meshctl.line(lab.controller().admin_socket(), "status"), "agents, files, versions"),
            (meshctl.line(lab.controller().admin_socket(), "policy list"), "which node has which policy"),
        ],
    );
    screen.note(&format!(
        "its objects are files: change a policy or the MeshConfig in {}",
        lab.place().objects().display()
    ));
    screen.note(&format!("what agents say and their access lines: {}", lab.place().logs().display()));
    show_grafana(screen, grafana);
    screen.heading("The end");
    match end {
        End::CtrlC => screen.line("  Ctrl-C ends all of it, and takes it away."),
        End::After(span) => screen.line(format_args!(
            "  It ends by itself after {} s of traffic, and takes all of it away; Ctrl-C ends it now.",
            span.as_secs()
        )),
        End::Kept => {
            screen.line("  It stays up, traffic and all. Take it away with");
            commands(screen, [("cargo xtask demo down".to_owned(), "")]);
        }
    }
    Ok(())
}

fn show_grafana(screen: &Screen, directory: &Path) {
    screen.heading(&format!("See {} dashboards in a Grafana", DASHBOARDS.len()));
    let provisioning = directory.join("provisioning").display().to_string();
    let rows = [
        (
            format!("GF_PATHS_PROVISIONING={provisioning} grafana server --homepath /usr/share/grafana"),
            "one that is installed here (10 or newer), with this data source and these dashboards",
        ),
        (
            format!(
                "docker run --rm --network host -v {dir}:{dir}:ro -e GF_PATHS_PROVISIONING={provisioning} grafana/grafana",
                dir = directory.display()
            ),
            "one in a container, likewise; then http://localhost:3000, admin and admin",
        ),
    ];
    commands(screen, rows);
    screen.note(
        "In one that runs: Connections, add a Prometheus with the address above; then Dashboards, New, Import, each of \
         deploy/dashboards/*.json.",
    );
}
