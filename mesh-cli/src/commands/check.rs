//! `meshctl check`: the preflight of a node, or of all, and of the cluster where there is a kubeconfig; before and after there is a mesh.
//!
//! A running agent is asked, for it knows its own flags. Where none answers on this machine's socket, `mesh-agent check` is run on the
//! spot: the probes need what only the agent links. That no agent answers is then itself a warning in the report. Of another machine
//! nothing can be found out that way: where that does not answer, it is unreachable.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use mesh_telemetry::api::path;
use mesh_telemetry::preflight::{Check, CheckStatus, Report};
use serde_json::Value;

use super::{Answer, Context, Failure, chain};
use crate::args::CheckArgs;
use crate::client::ClientError;
use crate::cluster::{ClusterError, clock_check};
use crate::render::table::{Cell, Table};
use crate::render::{Style, Tone, human, printable};

#[cfg(test)]
mod tests;

const AGENT: &str = "mesh-agent";
/// How often it is looked whether it has ended.
const TICK: Duration = Duration::from_millis(10);

pub(super) fn run(context: &Context, args: &CheckArgs) -> Result<Answer, Failure> {
    if context.client.is_many() {
        let mut checks = of_all_nodes(context)?;
        checks.extend(of_cluster(context).transpose()?.into_iter().flatten());
        let (raw, report) = whole(checks);
        return Ok(answer(context, &raw, &report));
    }
    let node = match context.client.get(path::CHECK) {
        Ok(raw) => of_agent(context, raw),
        Err(error) if error.is_unreachable() && context.client.is_here() => {
            without_agent(error, args, context.timeout)
        }
        Err(error) => Err(error.into()),
    };
    // The node's, unless there is nobody to make them: from elsewhere the cluster is all that can be looked at.
    let checks = match node {
        Ok((raw, report)) => match of_cluster(context) {
            None => return Ok(answer(context, &raw, &report)),
            Some(Ok(cluster)) => [report.checks, cluster].concat(),
            Some(Err(error)) if context.cluster.is_asked_for() => return Err(error.into()),
            Some(Err(error)) => [report.checks, vec![unusable(&error)]].concat(),
        },
        Err(failure) => match (unchecked(&failure), of_cluster(context)) {
            (Some(agent), Some(Ok(cluster))) => agent.into_iter().chain(cluster).collect(),
            (Some(_), Some(Err(error))) if context.cluster.is_asked_for() => return Err(error.into()),
            _ => return Err(failure),
        },
    };
    let (raw, report) = whole(checks);
    Ok(answer(context, &raw, &report))
}

/// The cluster's checks, where there is a kubeconfig.
fn of_cluster(context: &Context) -> Option<Result<Vec<Check>, ClusterError>> {
    context.cluster.is_named().then(|| Ok(context.cluster.open()?.checks()))
}

/// A kubeconfig that lies about and leads nowhere is no reason not to check the node.
fn unusable(error: &ClusterError) -> Check {
    Check::warn("kubernetes", chain(error), "name the cluster with --kubeconfig and --context")
}

/// What the report says of a node that could not be checked, if the cluster can be all the same. `None`: it is the failure.
fn unchecked(failure: &Failure) -> Option<Option<Check>> {
    match failure {
        // No node of the mesh: most likely somebody's own machine.
        Failure::NoPreflight { client: ClientError::NoSocket(_) } => Some(None),
        Failure::NoPreflight { client } => {
            let remedy = "start mesh-agent, or install it beside meshctl to have this node checked without";
            Some(Some(Check::warn("agent", chain(client), remedy)))
        }
        Failure::Client(error @ ClientError::Denied(_)) => Some(Some(Check::fail(
            "agent",
            error.to_string(),
            "run meshctl as root to have this node checked",
        ))),
        _ => None,
    }
}

/// What the agent found, and what is seen of it from here: its clock, where that is not this machine's.
fn of_agent(context: &Context, raw: Value) -> Result<(Value, Report), Failure> {
    let mut report = context.understand::<Report>(raw.clone())?;
    match context.client.clocks() {
        Some((theirs, ours)) if !context.client.is_here() => {
            let mut check = clock_check(&context.client.end(), theirs, ours.into());
            check.name = "agent_clock".into();
            report.checks.push(check);
            Ok(whole(report.checks))
        }
        _ => Ok((raw, report)),
    }
}

/// A line for each node where all is well, and for each thing that is not.
fn of_all_nodes(context: &Context) -> Result<Vec<Check>, Failure> {
    let mut checks = Vec::new();
    for (node, raw) in context.each(path::CHECK)? {
        let node = node.unwrap_or_default();
        let report: Report = context.understand(raw)?;
        if report.checks.iter().all(|check| check.status == CheckStatus::Pass) {
            let count = human::count(report.checks.len() as u64, "check");
            checks.push(Check::pass(node.as_str(), format!("{count} passed")));
        }
        let worse = report.checks.into_iter().filter(|check| check.status != CheckStatus::Pass);
        checks.extend(worse.map(|check| Check { name: format!("{node}/{}", check.name), ..check }));
    }
    Ok(checks)
}

fn whole(checks: Vec<Check>) -> (Value, Report) {
    let report = Report::new(checks);
    (serde_json::to_value(&report).unwrap_or_default(), report)
}

fn answer(context: &Context, raw: &Value, report: &Report) -> Answer {
    let failed = report.failed().count() as u64;
    let note = if context.output.is_for_people() && failed > 0 {
        format!("{} of {} failed.", failed, human::count(report.checks.len() as u64, "check"))
    } else {
        String::new()
    };
    let stdout = context.one(raw, || table(report, context.style));
    Answer { stdout, note, exit_code: u8::from(!report.ok) }
}

/// The checks, and below them what to do about those that did not pass.
pub(super) fn table(report: &Report, style: Style) -> String {
    let mut table = Table::new(&["CHECK", "STATUS", "MESSAGE"]);
    let mut remedies = String::new();
    for check in &report.checks {
        let tone = match check.status {
            CheckStatus::Pass => Tone::Good,
            CheckStatus::Warn => Tone::Warn,
            CheckStatus::Fail => Tone::Bad,
        };
        table.row([
            check.name.as_str().into(),
            Cell::toned(tone, check.status.as_str()),
            check.message.as_str().into(),
        ]);
        if let Some(remedy) = &check.remedy
            && check.status != CheckStatus::Pass
        {
            let name = style.paint(tone, &printable(&check.name));
            remedies.push_str(&format!("{name}: {}\n", printable(remedy)));
        }
    }
    let gap = if remedies.is_empty() { "" } else { "\n" };
    format!("{}{gap}{remedies}", table.render(style))
}

fn without_agent(
    unreachable: ClientError,
    args: &CheckArgs,
    timeout: Duration,
) -> Result<(Value, Report), Failure> {
    let program = beside_meshctl().unwrap_or_else(|| AGENT.into());
    let child = Command::new(&program)
        .args(["check", "--json"])
        .args(&args.agent_flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::NoPreflight { client: unreachable });
        }
        Err(source) => return Err(Failure::Run { program, source }),
    };
    let (status, stdout, stderr) = match ended(child, timeout) {
        Ok(ended) => ended,
        Err(source) => return Err(Failure::Run { program, source }),
    };
    let Ok(mut report) = serde_json::from_slice::<Report>(&stdout) else {
        let stderr = String::from_utf8_lossy(&stderr);
        let stderr = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().into();
        return Err(Failure::Preflight { program, status, stderr });
    };
    let remedy = "this is the preflight alone; start mesh-agent, or name its socket with --socket";
    report.checks.insert(0, Check::warn("agent", unreachable.to_string(), remedy));
    Ok(whole(report.checks))
}

/// How a process ended, and what it wrote to standard output and standard error. One that takes too long is ended.
fn ended(mut child: Child, timeout: Duration) -> io::Result<(String, Vec<u8>, Vec<u8>)> {
    let deadline = Instant::now() + timeout;
    let (stdout, stderr) = (child.stdout.take().map(read), child.stderr.take().map(read));
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status.to_string(),
            None if Instant::now() < deadline => thread::sleep(TICK),
            None => {
                child.kill()?;
                child.wait()?;
                let seconds = timeout.as_secs_f32();
                return Ok((format!("no end within {seconds} s: --timeout waits longer"), vec![], vec![]));
            }
        }
    };
    // A child of its own may hold a pipe open.
    let left = || deadline.saturating_duration_since(Instant::now()).max(TICK);
    let text = |pipe: Option<Receiver<Vec<u8>>>| {
        pipe.and_then(|pipe| pipe.recv_timeout(left()).ok()).unwrap_or_default()
    };
    Ok((status, text(stdout), text(stderr)))
}

/// All of a pipe, read while its writer writes.
fn read(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        // What came before an error may be the report.
        let _ = pipe.read_to_end(&mut text);
        let _ = tell.send(text);
    });
    told
}

fn beside_meshctl() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.with_file_name(AGENT);
    program.is_file().then_some(program)
}
