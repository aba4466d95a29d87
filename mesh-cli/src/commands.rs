//! The verbs, one file each: ask, choose, lay out.
//!
//! A verb returns its whole answer as a value, so that printing, broken pipes and exit codes are one place's concern
//! (`main`). Rows are read into the shared shapes of `mesh_telemetry::api` to be chosen and sorted, and kept as they
//! came for `-o json`, so that a key that this meshctl does not know yet still reaches the script.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::{Args, End, Output, Scope, Verb};
use crate::client::{Client, ClientError, FromNode, Transport};
use crate::cluster::forward::{Tunnels, Wanted};
use crate::cluster::{Labelled, Place, near};
use crate::render::table::{Cell, Table};
use crate::render::{Style, json, name, printable, yaml};

mod bpf;
mod capture;
mod certs;
mod check;
mod completion;
mod config;
mod connections;
mod endpoints;
mod explain;
mod explain_error;
mod failure;
mod log_level;
mod logs;
mod man;
mod pods;
mod policy;
mod ready;
mod select;
mod services;
mod status;
mod support_bundle;
#[cfg(test)]
mod tests;
mod top;
mod version;
mod workloads;

pub(crate) use failure::{Failure, chain, complaint};
use select::FieldSelector;

/// What a verb has to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The answer itself.
    pub(crate) stdout: String,
    /// One line for people, or empty.
    pub(crate) note: String,
    /// 0 for yes, 1 for no; 3 where only half of the answer could be had.
    pub(crate) exit_code: u8,
}

/// What every verb needs.
#[derive(Clone, Debug)]
struct Context {
    /// Whom the command line names. Where that is the agents of all nodes, [`Client::get_each`] asks them and [`Client::get`] refuses.
    client: Client,
    cluster: Place,
    /// Somebody named another end than this machine's agent.
    socket_named: bool,
    /// How long to wait for an answer, or for what is waited for.
    timeout: Duration,
    output: Output,
    style: Style,
    /// What is to be said beside the answer: of nodes that have none, and of names that are near.
    aside: RefCell<Aside>,
}

/// What is said on standard error beside an answer.
#[derive(Clone, Debug, Default)]
struct Aside {
    /// Nodes that did not answer. The exit code is then 3, for only a part of the answer could be had.
    missing: Vec<String>,
    /// What a list without rows says after "No pods".
    hint: String,
}

/// A row as it came and as it is understood.
#[derive(Debug)]
struct Row<T> {
    raw: Value,
    row: T,
}

/// What a command line leads to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The answer, or why there is none.
    pub(crate) result: Result<Answer, Failure>,
    /// Lines for people that change nothing: other versions.
    pub(crate) warnings: Vec<String>,
}

/// Does what the command line says.
pub(crate) fn run(args: &Args, style: Style) -> Outcome {
    let context = match Context::new(args, style) {
        Ok(context) => context,
        Err(failure) => return Outcome { result: Err(failure), warnings: Vec::new() },
    };
    let result = verb(args, &context).map(|answer| context.with_missing(answer));
    let warnings = context.client.warnings();
    // A name that does not resolve keeps a thread of the runtime busy beyond --timeout, and to drop the runtime is to wait for it.
    // The process ends here.
    std::mem::forget(context);
    Outcome { result, warnings }
}

fn verb(args: &Args, context: &Context) -> Result<Answer, Failure> {
    match &args.verb {
        Verb::Check(check) => check::run(context, check),
        Verb::Status => status::run(context),
        Verb::Pods(scope) => pods::run(context, scope),
        Verb::Connections(connections) => connections::run(context, connections),
        Verb::Certs(certs) => certs::run(context, certs),
        Verb::Workloads(scope) => workloads::run(context, scope),
        Verb::Services(scope) => services::run(context, scope),
        Verb::Capture(capture) => capture::run(context, capture),
        Verb::Explain(asked) => explain::run(context, asked),
        Verb::Policy(policy) => policy::run(context, &policy.verb),
        Verb::Ready(ready) => ready::run(ready, args.global.timeout),
        Verb::Version(version) => version::run(context, version),
        Verb::Endpoints(endpoints) => endpoints::run(context, endpoints),
        Verb::Top(top) => top::run(context, top),
        Verb::Logs(logs) => logs::run(context, logs),
        Verb::ExplainError(asked) => explain_error::run(context, asked),
        Verb::Config(config) => config::run(context, &config.verb),
        Verb::LogLevel(level) => log_level::run(context, level),
        Verb::Bpf(bpf) => bpf::run(context, &bpf.verb),
        Verb::SupportBundle(bundle) => support_bundle::run(context, bundle),
        Verb::Man(man) => man::run(man),
        Verb::Completion(completion) => Ok(completion::run(completion)),
    }
}

impl Answer {
    /// Yes, with something to show.
    fn yes(stdout: String) -> Self {
        Self { stdout, note: String::new(), exit_code: 0 }
    }
}

impl Context {
    fn new(args: &Args, style: Style) -> Result<Self, Failure> {
        let global = &args.global;
        let end = global.end().map_err(Failure::Usage)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = Arc::new(runtime.map_err(Failure::Start)?);
        let cluster = Place::new(global, runtime.clone());
        let tunnels = || Tunnels::new(cluster.clone(), &global.weft_namespace, global.admin_port);
        let transport = match end {
            End::Socket(path) => Transport::Unix(path),
            End::Address(remote) => Transport::Tls(Arc::new(remote)),
            End::Node(node) => Transport::pod(tunnels(), Wanted::Node(node)),
            End::Controller => Transport::pod(tunnels(), Wanted::Controller),
            End::Pod(namespace, pod) => Transport::pod(tunnels(), Wanted::Pod(namespace, pod)),
            End::AllNodes => Transport::nodes(tunnels()),
        };
        Ok(Self {
            client: Client::new(transport, runtime, global.timeout),
            socket_named: global.names_an_end(),
            timeout: global.timeout,
            output: global.output,
            style: Style { wide: global.output == Output::Wide, no_headers: global.no_headers, ..style },
            cluster,
            aside: RefCell::default(),
        })
    }

    /// The rows of a list: of one end, or of all nodes with a key `node` in each. A node that does not answer is left out, and said to be.
    fn rows<T: DeserializeOwned>(&self, path: &'static str) -> Result<Vec<Row<T>>, Failure> {
        let mut rows = Vec::new();
        for (node, value) in self.each(path)? {
            let values: Vec<Value> = self.understand(value)?;
            for mut raw in values {
                if let (Some(node), Some(keys)) = (&node, raw.as_object_mut())
                    && keys.get("node").is_none_or(Value::is_null)
                {
                    keys.insert("node".into(), node.clone().into());
                }
                rows.push(Row { row: self.understand(raw.clone())?, raw });
            }
        }
        Ok(rows)
    }

    /// The rows of a list that every agent should know alike: of all nodes, what is the same is shown once.
    fn rows_known_to_all<T: DeserializeOwned>(&self, path: &'static str) -> Result<Vec<Row<T>>, Failure> {
        if !self.client.is_many() {
            return self.rows(path);
        }
        // As the answers come: each of many nodes has the whole mesh.
        let mut distinct = BTreeMap::new();
        let (mut answered, mut errors) = (0_usize, Vec::new());
        let mut understood = Ok(());
        self.client.get_each_with(path, |FromNode { node, answer }| match answer {
            Ok(value) => {
                answered += 1;
                match self.understand::<Vec<Value>>(value) {
                    Ok(rows) => distinct.extend(rows.into_iter().map(|raw| (raw.to_string(), raw))),
                    Err(failure) => understood = Err(failure),
                }
            }
            Err(error) => errors.push((node, error)),
        })?;
        understood?;
        errors.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.miss(answered, errors.into_iter().map(|(_, error)| error))?;
        let row = |raw: Value| Ok(Row { row: self.understand(raw.clone())?, raw });
        distinct.into_values().map(row).collect()
    }

    /// What each named end answers, with its node where there are many. Fails where nobody answers; else those who do not are named
    /// beside the answer.
    fn each(&self, path: &str) -> Result<Vec<(Option<String>, Value)>, Failure> {
        self.answered(self.client.get_each(path)?)
    }

    /// The same of what ends have answered already.
    fn answered(&self, all: Vec<FromNode>) -> Result<Vec<(Option<String>, Value)>, Failure> {
        let (mut answers, mut errors) = (Vec::new(), Vec::new());
        for FromNode { node, answer } in all {
            match answer {
                Ok(value) => answers.push((node, value)),
                Err(error) => errors.push(error),
            }
        }
        self.miss(answers.len(), errors.into_iter())?;
        Ok(answers)
    }

    /// Names those who do not answer beside the answer; where nobody does, the last error is the failure.
    fn miss(
        &self,
        answered: usize,
        mut errors: impl DoubleEndedIterator<Item = ClientError>,
    ) -> Result<(), Failure> {
        let failure = if answered == 0 { errors.next_back() } else { None };
        self.aside.borrow_mut().missing.extend(errors.map(|error| printable(&chain(&error))));
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    fn understand<T: DeserializeOwned>(&self, value: Value) -> Result<T, Failure> {
        serde_json::from_value(value).map_err(|source| Failure::Shape { end: self.client.end(), source })
    }

    /// Keeps the rows that are asked for. `namespaces` are a row's own; `names` are what labels are looked for on.
    fn choose<T>(
        &self,
        rows: &mut Vec<Row<T>>,
        scope: &Scope,
        kind: Labelled,
        names: impl Fn(&T) -> Vec<(String, String)>,
        namespaces: impl Fn(&T) -> Vec<Option<String>>,
    ) -> Result<(), Failure> {
        let all: BTreeSet<String> = match scope.namespace() {
            Some(_) => rows.iter().flat_map(|row| namespaces(&row.row)).flatten().collect(),
            None => BTreeSet::new(),
        };
        rows.retain(|row| namespaces(&row.row).iter().any(|namespace| scope.covers(namespace.as_deref())));
        if let Some(wanted) = scope.namespace()
            && rows.is_empty()
        {
            let all: Vec<String> = all.into_iter().collect();
            self.aside.borrow_mut().hint = format!(" in namespace {wanted}{}", near(&all, wanted));
        }
        if let Some(fields) = &scope.field_selector {
            let selector: FieldSelector = fields.parse().map_err(Failure::Usage)?;
            selector.check(rows.iter().map(|row| &row.raw)).map_err(Failure::Usage)?;
            rows.retain(|row| selector.covers(&row.raw));
        }
        if let Some(selector) = &scope.selector {
            if !self.cluster.is_named() {
                let no = "labels are the cluster's, and no agent knows them: name a kubeconfig (--kubeconfig, KUBECONFIG), or select rows \
                    by what -o json shows of them (--field-selector)";
                return Err(Failure::Usage(no.into()));
            }
            // A connection may have its labelled end elsewhere.
            let found = self.cluster.open()?.labelled(kind, None, selector)?;
            rows.retain(|row| names(&row.row).iter().any(|name| found.contains(name)));
        }
        Ok(())
    }

    /// A list in the form that is asked for; `nouns` is what there is none of.
    fn list<T>(&self, rows: &[Row<T>], nouns: &str, table: impl FnOnce(&[Row<T>]) -> Table) -> Answer {
        match self.output {
            Output::Json => Answer::yes(json::render(&raw(rows))),
            Output::Yaml => Answer::yes(yaml::render(&raw(rows))),
            Output::Name => Answer::yes(rows.iter().map(|row| name::of(nouns, &row.raw) + "\n").collect()),
            Output::Table | Output::Wide if rows.is_empty() => {
                let note = printable(&format!("No {nouns}{}", self.aside.borrow().hint));
                let end = if note.ends_with('?') { "" } else { "." };
                Answer { stdout: String::new(), note: note + end, exit_code: 0 }
            }
            Output::Table | Output::Wide => {
                let mut table = table(rows);
                if self.client.is_many() && rows.iter().any(|row| row.raw.get("node").is_some()) {
                    table =
                        table.first("NODE", rows.iter().map(|row| Cell::option(row.raw["node"].as_str())));
                }
                Answer::yes(table.render(self.style))
            }
        }
    }

    /// One value in the form that is asked for. It has no name of its own: `-o name` is as a table.
    fn one(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> String {
        match self.output {
            Output::Json => json::render(value),
            Output::Yaml => yaml::render(&serde_json::to_value(value).unwrap_or_default()),
            Output::Table | Output::Wide | Output::Name => text(),
        }
    }

    /// The answer, and which nodes it lacks.
    fn with_missing(&self, mut answer: Answer) -> Answer {
        let missing = &self.aside.borrow().missing;
        for line in missing {
            if !answer.note.is_empty() {
                answer.note.push('\n');
            }
            answer.note.push_str(&format!("error: {line}"));
        }
        if !missing.is_empty() && answer.exit_code == 0 {
            answer.exit_code = 3;
        }
        answer
    }
}

impl Context {
    /// What was said is said: another round begins.
    fn forget_aside(&self) {
        *self.aside.borrow_mut() = Aside::default();
    }
}

/// The rows as they came.
fn raw<T>(rows: &[Row<T>]) -> Value {
    rows.iter().map(|row| row.raw.clone()).collect()
}

/// `NAMESPACE/NAME`, or `fallback` for who has no name.
fn named(namespace: Option<&str>, name: Option<&str>, fallback: impl ToString) -> String {
    match (namespace, name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.into(),
        _ => fallback.to_string(),
    }
}
