//! `meshctl check`: the preflight of this node, and of the cluster where there is a kubeconfig.
//!
//! A running agent is asked, for it knows its own flags. Where none answers, `mesh-agent check` is run on the spot: the
//! probes need what only the agent links. That no agent answers is then itself a warning in the report.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mesh_telemetry::api::path;
use mesh_telemetry::preflight::{Check, CheckStatus, Report};
use serde_json::Value;

use super::{Answer, Context, Failure};
use crate::args::{CheckArgs, Output};
use crate::client::ClientError;
use crate::render::table::{Cell, Table};
use crate::render::{Style, Tone, human, json, printable};

const AGENT: &str = "mesh-agent";

pub(super) fn run(context: &Context, args: &CheckArgs) -> Result<Answer, Failure> {
    let cluster = if context.cluster.is_named() { Some(context.cluster.open()?.checks()) } else { None };
    let node = match context.client.get(path::CHECK) {
        Ok(raw) => context.understand::<Report>(raw.clone()).map(|report| (raw, report)),
        Err(error) if error.is_unreachable() => without_agent(error, args),
        Err(error) => Err(error.into()),
    };
    let (raw, report) = match (node, cluster) {
        (Ok((_, report)), Some(cluster)) => whole(report.checks.into_iter().chain(cluster).collect()),
        (Ok(node), None) => node,
        // From where there is no node, the cluster is all that can be looked at.
        (Err(Failure::NoPreflight { .. }), Some(cluster)) => whole(cluster),
        (Err(error), _) => return Err(error),
    };
    Ok(answer(&raw, &report, context.output, context.style))
}

fn whole(checks: Vec<Check>) -> (Value, Report) {
    let report = Report::new(checks);
    (serde_json::to_value(&report).unwrap_or_default(), report)
}

fn answer(raw: &Value, report: &Report, output: Output, style: Style) -> Answer {
    let failed = report.failed().count() as u64;
    let note = match output {
        Output::Table if failed > 0 => {
            format!("{} of {} failed.", failed, human::count(report.checks.len() as u64, "check"))
        }
        _ => String::new(),
    };
    let stdout = match output {
        Output::Json => json::render(raw),
        Output::Table => table(report, style),
    };
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

fn without_agent(unreachable: ClientError, args: &CheckArgs) -> Result<(Value, Report), Failure> {
    let program = beside_meshctl().unwrap_or_else(|| AGENT.into());
    let output = Command::new(&program)
        .args(["check", "--json"])
        .args(&args.agent_flags)
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::NoPreflight { client: unreachable });
        }
        Err(source) => return Err(Failure::Run { program, source }),
    };
    let Ok(mut report) = serde_json::from_slice::<Report>(&output.stdout) else {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stderr = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().into();
        return Err(Failure::Preflight { program, status: output.status.to_string(), stderr });
    };
    let remedy = "this is the preflight alone; start mesh-agent, or name its socket with --socket";
    report.checks.insert(0, Check::warn("agent", unreachable.to_string(), remedy));
    Ok(whole(report.checks))
}

fn beside_meshctl() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.with_file_name(AGENT);
    program.is_file().then_some(program)
}
