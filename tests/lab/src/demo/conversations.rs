//! The conversations: started together, held open by their own programs, and looked up in the agents' tables meanwhile.
//!
//! Who is who is what the *other* side knows: the source's identity as the destination's agent read it from the peer's
//! certificate, the destination's as the source's agent did. Only on the direct path of one node, where there is no
//! certificate, both come from the one row there is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::captured::identity;
use super::cast::{CART, CART_PORT, Cast, HOLD, INVOICES, LINES, ORDERS, STOCK, is_enrolled};
use super::samples::Services;
use super::screen::{Screen, Tone, grouped};
use crate::eventually;
use crate::lab::Lab;
use crate::pod::Pod;
use crate::process::{Command, Output, Process};

const PATIENCE: Duration = Duration::from_secs(20);

/// What is to be said, by whom.
struct Plan {
    from: Arc<Pod>,
    to: Arc<Pod>,
    programs: &'static str,
    how: String,
    command: Command,
    /// What the answer holds, and how often.
    expected: (&'static str, usize),
}

/// A conversation that was held.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) from: Arc<Pod>,
    pub(super) to: Arc<Pod>,
    /// `curl → nginx`
    pub(super) programs: &'static str,
    /// What was dialled, in words.
    how: String,
    pub(super) expected: (&'static str, usize),
    sight: Sight,
    /// What the program said at its end: a few words, or what went wrong.
    answer: Result<String, String>,
}

/// What the agents' tables said of a conversation.
#[derive(Debug, Default)]
struct Sight {
    /// At the source's agent.
    outbound: Option<Row>,
    /// At the destination's agent.
    inbound: Option<Row>,
    /// Any row at all about one of the two pods, of a pair outside the mesh.
    stray: Option<Row>,
}

/// As much of a row of `GET /v1/connections` as is needed.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    direction: String,
    path: String,
    security: String,
    src: End,
    dst: End,
}

#[derive(Clone, Debug, Deserialize)]
struct End {
    namespace: Option<String>,
    name: Option<String>,
    identity: Option<String>,
    addr: SocketAddr,
}

impl Conversation {
    /// Whether both ends are in the mesh by their labels.
    pub(super) fn is_meshed(&self) -> bool {
        is_enrolled(&self.from) && is_enrolled(&self.to)
    }

    /// Whether it has to cross the wire.
    pub(super) fn crosses(&self) -> bool {
        self.from.node().name() != self.to.node().name()
    }

    /// Whether the connection table has it.
    pub(super) fn captured(&self) -> bool {
        self.sight.outbound.is_some() || self.sight.stray.is_some()
    }

    /// Who dialled, as the destination's agent knows.
    pub(super) fn identity_from(&self) -> Option<&str> {
        let seen = match (&self.sight.inbound, &self.sight.outbound) {
            (None, Some(row)) if row.path == "direct" => Some(row),
            (inbound, _) => inbound.as_ref(),
        };
        seen?.src.identity.as_deref()
    }

    /// Who was dialled, as the source's agent knows.
    pub(super) fn identity_to(&self) -> Option<&str> {
        self.sight.outbound.as_ref()?.dst.identity.as_deref()
    }

    /// Whether its program was content.
    pub(super) fn ok(&self) -> bool {
        self.answer.is_ok()
    }

    /// What protects it.
    pub(super) fn protection(&self) -> Protection {
        match &self.sight.outbound {
            Some(row) if row.security == "mtls" => Protection::MutualTls,
            Some(row) if row.security == "kernel" => Protection::Kernel,
            None if self.is_meshed() => Protection::NotSeen,
            _ => Protection::None,
        }
    }

    /// What is not as it should be, if anything.
    fn wrong(&self) -> Option<String> {
        let mut wrong = Vec::new();
        if let Err(error) = &self.answer {
            wrong.push(error.clone());
        }
        if self.is_meshed() {
            if !self.protection().is_some() {
                wrong.push(format!("it should be protected, and is: {}", self.protection().words()));
            }
            for (whose, shown, pod) in
                [("caller", self.identity_from(), &self.from), ("server", self.identity_to(), &self.to)]
            {
                let wanted = identity(pod);
                if shown != Some(&wanted) {
                    wrong.push(format!(
                        "the {whose} should be {wanted}, and is: {}",
                        shown.unwrap_or("nobody")
                    ));
                }
            }
        } else if let Some(row) = &self.sight.stray {
            wrong.push(format!("an agent has it in its table: {row:?}"));
        }
        (!wrong.is_empty()).then(|| wrong.join("\n"))
    }
}

/// What protects a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    MutualTls,
    /// It does not leave the node, and the kernel vouches for both ends.
    Kernel,
    None,
    /// It should have been in the tables, and was not.
    NotSeen,
}

impl Protection {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual TLS",
            Self::Kernel => "the kernel",
            Self::None => "plain text",
            Self::NotSeen => "not seen",
        }
    }

    pub(super) fn is_some(self) -> bool {
        matches!(self, Self::MutualTls | Self::Kernel)
    }
}

impl Sight {
    /// Whether there is nothing more to look for.
    fn is_complete(&self) -> bool {
        self.inbound.is_some() || self.outbound.as_ref().is_some_and(|row| row.path == "direct")
    }

    fn look(&mut self, from: &Pod, to: &Pod, at_source: &[Row], at_destination: &[Row]) {
        let is_of = |pod: &Pod, address: SocketAddr| pod.addresses().contains(&canonical(address));
        if !(is_enrolled(from) && is_enrolled(to)) {
            let mut rows = at_source.iter().chain(at_destination);
            let stray = rows.find(|row| is_of(from, row.src.addr) || is_of(to, row.dst.addr));
            self.stray = self.stray.take().or_else(|| stray.cloned());
            return;
        }
        let dialled = |row: &&Row| {
            row.direction == "outbound"
                && row.src.namespace.as_deref() == Some(from.namespace())
                && row.src.name.as_deref() == Some(from.name())
                && is_of(to, row.dst.addr)
        };
        let Some(outbound) = at_source.iter().find(dialled) else { return };
        let (client, port) = (canonical(outbound.src.addr), outbound.src.addr.port());
        let accepted = |row: &&Row| {
            row.direction == "inbound"
                && (canonical(row.src.addr), row.src.addr.port()) == (client, port)
                && is_of(to, row.dst.addr)
        };
        if let Some(inbound) = at_destination.iter().find(accepted) {
            self.inbound = Some(inbound.clone());
        }
        self.outbound = Some(outbound.clone());
    }
}

fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

/// Holds all conversations and shows what came of them.
pub(super) fn hold(
    screen: &mut Screen,
    lab: &Lab,
    cast: &Cast,
    services: &Services,
) -> Result<Vec<Conversation>> {
    let conversations = screen.step("hold the conversations and read the agents' tables", || {
        let conversations = converse(lab, plans(cast, services)?)?;
        let text =
            format!("{} conversations, held open while the agents' tables were read", conversations.len());
        Ok((conversations, text))
    })?;
    for conversation in &conversations {
        show(screen, conversation);
    }
    Ok(conversations)
}

fn show(screen: &mut Screen, conversation: &Conversation) {
    let (from, to) = (&conversation.from, &conversation.to);
    let answer = conversation.answer.as_deref().unwrap_or("failed");
    let head = format!("{} → {}", from.key(), to.key());
    let text = format!("{head:<28} {}: {answer}", conversation.how);
    let wrong = conversation.wrong();
    screen.expect(wrong.is_none(), &text, || wrong.unwrap_or_default());
    let style = screen.style();
    let detail = |left: String, tone: Tone, right: &str| {
        let left = style.paint(Tone::Dim, format_args!("{left:<27}"));
        screen.line(format_args!("      {left} {}", style.paint(tone, right)));
    };
    let place = if conversation.crosses() { "across the wire" } else { "within the node" };
    if !conversation.is_meshed() {
        return detail(place.into(), Tone::Warn, "plain text, and no agent has it in its table");
    }
    for (left, identity) in [
        (format!("to {}, the caller is", to.name()), conversation.identity_from()),
        (format!("to {}, the server is", from.name()), conversation.identity_to()),
    ] {
        detail(left, Tone::Name, identity.unwrap_or("nobody it can name"));
    }
    let protection = conversation.protection();
    detail(place.into(), if protection.is_some() { Tone::Good } else { Tone::Bad }, protection.words());
}

fn converse(lab: &Lab, plans: Vec<Plan>) -> Result<Vec<Conversation>> {
    let mut running: Vec<(Conversation, Process)> = Vec::new();
    for plan in plans {
        let process = plan.command.spawn()?;
        let conversation = Conversation {
            from: plan.from,
            to: plan.to,
            programs: plan.programs,
            how: plan.how,
            expected: plan.expected,
            sight: Sight::default(),
            answer: Err("it did not end".into()),
        };
        running.push((conversation, process));
    }
    look(lab, &mut running)?;
    let finish = |(mut conversation, process): (Conversation, Process)| {
        conversation.answer = match process.wait(PATIENCE) {
            Ok(output) => judge(&output, conversation.expected),
            Err(error) => Err(format!("{error:#}")),
        };
        conversation
    };
    Ok(running.into_iter().map(finish).collect())
}

/// Reads the tables until they have shown all there is to see, or until all programs have ended.
fn look(lab: &Lab, running: &mut [(Conversation, Process)]) -> Result<()> {
    let table = |node: &str| -> Result<Vec<Row>> {
        let rows = lab.agent(node).connections()?.into_iter().map(serde_json::from_value);
        rows.collect::<Result<_, _>>().with_context(|| format!("read the connections of the agent on {node}"))
    };
    let mut broken = None;
    // What is missing at the end shows in the conversations.
    let _timed_out = eventually(PATIENCE, || {
        let mut read = || -> Result<bool> {
            let (a, b) = (table("a")?, table("b")?);
            let mut complete = true;
            for (conversation, process) in running.iter_mut() {
                let at = |pod: &Pod| if pod.node().name() == "a" { &a } else { &b };
                let Conversation { from, to, sight, .. } = conversation;
                sight.look(from, to, at(from), at(to));
                // A pair that no table may show counts as seen only while it talks.
                let seen =
                    if is_enrolled(from) { sight.is_complete() } else { !process.stdout_so_far().is_empty() };
                complete &= seen || !process.is_running();
            }
            Ok(complete)
        };
        match read() {
            Ok(true) => Ok(()),
            Ok(false) => Err("not all seen".to_owned()),
            Err(error) => {
                broken = Some(error);
                Ok(())
            }
        }
    });
    broken.map_or(Ok(()), Err)
}

fn judge(output: &Output, (text, times): (&str, usize)) -> Result<String, String> {
    let errors = output.errors();
    let last = errors.trim().lines().last().unwrap_or_default();
    if !output.success() {
        return Err(format!("it failed ({}): {last}", output.status));
    }
    let found = memchr::memmem::find_iter(&output.stdout, text).count();
    if found != times {
        return Err(format!("{found} of {times} parts of the answer arrived. {last}"));
    }
    Ok(format!("{} bytes arrived", grouped(found * text.len())))
}

fn plans(cast: &Cast, services: &Services) -> Result<Vec<Plan>> {
    let pair =
        |from: &str, to: &str| Ok::<_, anyhow::Error>((cast.pod(from)?.clone(), cast.pod(to)?.clone()));
    let (web, files) = (services.front("shop/web")?, services.front("legacy/files")?);
    let (db, cart) = (services.front("shop/db")?, services.front("shop/cart")?);
    let mut plans = Vec::new();

    let (from, to) = pair("shop/frontend", "shop/web")?;
    let url = format!("http://{}/orders", web.v4);
    let command = curl(&from, &url)?;
    let how = format!("curl {url}");
    plans.push(Plan { from, to, programs: "curl → nginx", how, command, expected: (ORDERS, LINES) });

    let (from, to) = pair("shop/mobile", "shop/web")?;
    let url = format!("http://[{}]/orders", web.v6);
    let command = curl(&from, &url)?;
    let how = format!("curl {url}");
    plans.push(Plan { from, to, programs: "curl → nginx, IPv6", how, command, expected: (ORDERS, LINES) });

    let (from, to) = pair("shop/frontend", "shop/db")?;
    let (host, port) = (db.v4.to_string(), db.port.to_string());
    let query = format!("SELECT REPEAT('{STOCK}', 1000), SLEEP({HOLD})");
    let flags = ["mariadb", "--no-defaults", "--skip-ssl", "-N", "-h", &host, "-P", &port, "-e", &query];
    let command = from.command(flags)?;
    let how = format!("mariadb -h {host}, the server speaks first");
    plans.push(Plan { from, to, programs: "mariadb → MariaDB", how, command, expected: (STOCK, 1000) });

    let (from, to) = pair("shop/frontend", "shop/cart")?;
    let host = cart.v4.to_string();
    let words = format!("SET cart \"{}\"\nGET cart\nBLPOP nothing {HOLD}\n", CART.repeat(100));
    let command = from.command(["redis-cli", "-h", &host, "-p", &CART_PORT.to_string()])?.input(words);
    let how = format!("redis-cli -h {host}, on the same node");
    plans.push(Plan { from, to, programs: "redis-cli → Redis", how, command, expected: (CART, 100) });

    let (from, to) = pair("legacy/batch", "legacy/files")?;
    let url = format!("http://{}/invoices", files.v4);
    let command = curl(&from, &url)?;
    let how = format!("curl {url}");
    plans.push(Plan { from, to, programs: "curl → nginx", how, command, expected: (INVOICES, LINES) });
    Ok(plans)
}

fn curl(from: &Pod, url: &str) -> Result<Command> {
    from.command(["curl", "-sS", "--fail", "--max-time", "15", url])
}
