//! What kubelet and the Job controller do in a cluster and nobody does in the lab: a ConfigMap and a token become files
//! in a pod, and a Job's container is run.
//!
//! The template of a Deployment, DaemonSet or Job is taken at its word: its container's arguments and environment are
//! what the program is started with. What is a path of the node or of a volume is then said anew.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::objects::{self, items, text};
use crate::{ApiServer, block_on};
use lab::SYSTEM_NAMESPACE;

const PAUSE: Duration = Duration::from_millis(100);

/// A container as its template has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Container {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// The first container of a pod template. `resolve` answers the downward API's `fieldPath`s.
pub(crate) fn container(template: &Value, resolve: impl Fn(&str) -> String) -> Result<Container> {
    let container = &template["spec"]["containers"][0];
    let words = |field: &str| items(&container[field]).map(|word| text(word).to_owned()).collect::<Vec<_>>();
    let image = text(&container["image"]);
    let command = words("command");
    let program = match command.first() {
        Some(path) => path.rsplit('/').next().unwrap_or_default().to_owned(),
        // The image's entry point, which is named like the image.
        None => image
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .split([':', '@'])
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    let mut arguments = vec![OsString::from(lab::binary(&program)?)];
    arguments.extend(command.iter().skip(1).chain(&words("args")).map(OsString::from));
    let mut environment = Vec::new();
    for variable in items(&container["env"]) {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some(path) => resolve(path),
            None => text(&variable["value"]).to_owned(),
        };
        environment.push((text(&variable["name"]).into(), value.into()));
    }
    Ok(Container { arguments, environment })
}

/// A token of a service account, bound to a pod if one is named.
pub(crate) fn token(
    api: &ApiServer,
    account: &str,
    audience: &str,
    pod: Option<(&str, &str)>,
) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(api.client()?, SYSTEM_NAMESPACE);
    let bound = pod.map(|(name, uid)| BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(name.into()),
        uid: Some(uid.into()),
    });
    let audiences = if audience.is_empty() { Vec::new() } else { vec![audience.to_owned()] };
    let spec = TokenRequestSpec { audiences, bound_object_ref: bound, expiration_seconds: Some(3600) };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = block_on(accounts.create_token_request(account, &PostParams::default(), &request))
        .with_context(|| format!("a token for {account}"))?;
    Ok(answer.status.context("a TokenRequest without an answer")?.token)
}

/// Writes a file as kubelet does: whoever reads sees the old one or the new one.
pub(crate) fn write(path: &Path, content: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let draft = path.with_extension("new");
    std::fs::write(&draft, content).with_context(|| format!("write {}", draft.display()))?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&draft, path).with_context(|| format!("rename to {}", path.display()))
}

/// Plays for as long as it lives.
#[derive(Debug)]
pub(crate) struct Player {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Player {
    /// `roots` are the files that the ConfigMap of roots becomes.
    pub(crate) fn start(api: Arc<ApiServer>, roots: Vec<PathBuf>, logs: PathBuf) -> Result<Self> {
        let client = api.client()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut written = String::new();
            let mut jobs = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                // An API server that does not answer is what some tests are about.
                let _ = mount(&client, &roots, &mut written);
                let _ = run_jobs(&api, &client, &logs, &mut jobs);
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn mount(client: &Client, files: &[PathBuf], written: &mut String) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let Some(map) = block_on(maps.get_opt("weft-roots"))? else { return Ok(()) };
    let Some(roots) = map.data.and_then(|data| data.get("root.pem").cloned()) else { return Ok(()) };
    if *written != roots {
        for file in files {
            write(file, &roots)?;
        }
        *written = roots;
    }
    Ok(())
}

/// Runs every Job that has not ended, one after the other, each once.
fn run_jobs(api: &ApiServer, client: &Client, logs: &Path, started: &mut BTreeSet<String>) -> Result<()> {
    let jobs = objects::api(client, "batch/v1", "Job", SYSTEM_NAMESPACE)?;
    for job in block_on(jobs.list(&ListParams::default()))? {
        let (Some(name), Some(uid)) = (job.metadata.name.clone(), job.metadata.uid.clone()) else { continue };
        if !started.insert(uid) {
            continue;
        }
        let log = logs.join(format!("job-{name}.log"));
        let ended = run_job(api, &name, &job.data["spec"]["template"], &log);
        if let Err(error) = &ended {
            // Where `kubectl logs` would show it.
            let _ = std::fs::write(log.with_extension("failed"), format!("{error:#}\n"));
        }
        let kind = if ended.is_ok() { "Complete" } else { "Failed" };
        let before = if ended.is_ok() { "SuccessCriteriaMet" } else { "FailureTarget" };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = |kind| json!({"type": kind, "status": "True", "lastTransitionTime": now});
        let count = if ended.is_ok() { "succeeded" } else { "failed" };
        let status = json!({"status": {
            "startTime": now, "completionTime": now, count: 1, "conditions": [condition(before), condition(kind)],
        }});
        block_on(jobs.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)))?;
    }
    Ok(())
}

fn run_job(api: &ApiServer, name: &str, template: &Value, log: &Path) -> Result<()> {
    let account = text(&template["spec"]["serviceAccountName"]);
    let file = api.directory().join(format!("{name}.token"));
    write(&file, &token(api, account, "", None)?)?;
    let kubeconfig = api.kubeconfig_for(name, &file)?;
    let container = container(template, |path| match path {
        "metadata.namespace" => SYSTEM_NAMESPACE.to_owned(),
        _ => name.to_owned(),
    })?;
    let output = std::fs::File::create(log)?;
    let (program, arguments) = container.arguments.split_first().context("a Job without a command")?;
    let status = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(container.environment)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("run the Job {name}"))?;
    if !status.success() {
        bail!("the Job {name} ended with {status}");
    }
    Ok(())
}
