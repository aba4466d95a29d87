//! Real containers: containerd and runc put a process into a pod's network namespace and into a cgroup below the pod's,
//! named as kubelet names it. The pod's sandbox (namespace, veth, cgroup) is the lab's.
//!
//! The daemon is one of the test's own, with its socket and state in a directory that goes with it; no other daemon of the
//! machine is asked.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Pod, cgroup, eventually};

const NAMESPACE: &str = "k8s.io";
const APPLETS: [&str; 6] = ["sh", "httpd", "wget", "sleep", "nc", "cat"];

/// A container runtime.
#[derive(Debug)]
pub struct Runtime {
    directory: tempfile::TempDir,
    daemon: Child,
    names: Mutex<Vec<String>>,
    next: AtomicU32,
    /// The lab's directories in the hierarchies of version 1, where there are such: runc makes them.
    traces: Mutex<Vec<PathBuf>>,
}

/// A container that runs.
#[derive(Debug)]
pub struct Container<'a> {
    runtime: &'a Runtime,
    name: String,
    cgroup: PathBuf,
}

impl Runtime {
    /// Starts containerd, with one root file system for all: busybox, and `/www/secret` with this content.
    pub fn start(secret: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("weft-ctr-").tempdir()?;
        let path = directory.path();
        root_file_system(&path.join("rootfs"), secret)?;
        let config = path.join("config.toml");
        let place = path.display();
        std::fs::write(
            &config,
            format!(
                "version = 2\nroot = \"{place}/root\"\nstate = \"{place}/state\"\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = \"{place}/sock\"\n\
                 [ttrpc]\n  address = \"{place}/sock.ttrpc\"\n"
            ),
        )?;
        let log = std::fs::File::create(path.join("log"))?;
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start containerd (`cargo xtask setup` installs it)")?;
        let runtime = Self {
            directory,
            daemon,
            names: Mutex::default(),
            next: AtomicU32::new(1),
            traces: Mutex::default(),
        };
        let version = || runtime.ctr(&["version"]).map(drop).map_err(|error| format!("{error:#}"));
        eventually(Duration::from_secs(30), version).context("wait for containerd")?;
        Ok(runtime)
    }

    /// Starts a container in a pod.
    pub fn run(&self, pod: &Pod, arguments: &[&str]) -> Result<Container<'_>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", pod.name());
        // As kubelet's: 64 hex digits below the pod's own.
        let cgroup = pod.cgroup().path().join(format!("{number:064x}"));
        let below = cgroup.strip_prefix(cgroup::mount_point()?).context("a cgroup outside the hierarchy")?;
        self.note_traces(below);
        let cgroup_flag = format!("/{}", below.display());
        let network = format!("network:{}", pod.netns_path().display());
        let rootfs = self.directory.path().join("rootfs").display().to_string();
        let flags =
            ["run", "--detach", "--null-io", "--rootfs", "--cgroup", &cgroup_flag, "--with-ns", &network];
        self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(name.clone());
        self.ctr(&[&flags[..], &[rootfs.as_str(), name.as_str()], arguments].concat())?;
        Ok(Container { runtime: self, name, cgroup })
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.directory.path().join("sock"))
            .args(["--namespace", NAMESPACE])
            .args(arguments)
            .output()
            .context("start ctr")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("ctr {}: {}: {said}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn note_traces(&self, below: &Path) {
        let Some(top) = below.iter().next() else { return };
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let own = cgroup::mount_point().unwrap_or_default();
        let mut traces = self.traces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // With the unified hierarchy alone these would be its groups, which are the lab's.
        for hierarchy in hierarchies.map(|entry| entry.path()).filter(|path| !path.starts_with(&own)) {
            if hierarchy.join("cgroup.procs").exists() && !own.starts_with(&hierarchy) {
                traces.push(hierarchy.join(top));
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let names =
            std::mem::take(&mut *self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for name in names {
            // Some have ended by themselves.
            let _ = self.ctr(&["task", "kill", "--signal", "SIGKILL", &name]);
            let _ = eventually(Duration::from_secs(10), || {
                self.ctr(&["task", "delete", "--force", &name]).map_err(|error| format!("{error:#}"))
            });
            let _ = self.ctr(&["container", "delete", &name]);
        }
        let pid = nix::unistd::Pid::from_raw(self.daemon.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.daemon.wait();
        for trace in self.traces.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            let _ = cgroup::Cgroup::at(trace.clone()).remove();
        }
    }
}

impl Container<'_> {
    /// Runs a program in it to its end; its output.
    pub fn exec(&self, arguments: &[&str]) -> Result<String> {
        let number = self.runtime.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("exec-{number}");
        let exec = ["task", "exec", "--exec-id", &id, &self.name];
        self.runtime.ctr(&[&exec[..], arguments].concat())
    }

    /// That its process is where kubelet would have it: in its cgroup of the unified hierarchy.
    pub fn ensure_in_cgroup(&self) -> Result<()> {
        let pids = cgroup::Cgroup::at(self.cgroup.clone()).pids();
        ensure!(!pids.is_empty(), "no process of {} in {}", self.name, self.cgroup.display());
        Ok(())
    }
}

fn root_file_system(path: &Path, secret: &str) -> Result<()> {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "www"] {
        std::fs::create_dir_all(path.join(directory))?;
    }
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
    let busybox = busybox.context("no busybox (`cargo xtask setup` installs it)")?;
    std::fs::copy(busybox, path.join("bin/busybox"))?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", path.join("bin").join(applet))?;
    }
    std::fs::write(path.join("www/secret"), secret)?;
    Ok(())
}
