//! Whether this machine can hold a lab at all, asked once and answered in words.

use std::path::Path;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

use crate::{binaries, cgroup, random, row};

/// What is missing for a lab, each with its remedy; empty if nothing is.
pub fn missing() -> Vec<String> {
    if !geteuid().is_root() {
        return vec!["not root: namespaces and cgroups need it (run as root)".into()];
    }
    let mut missing = Vec::new();
    match cgroup::mount_point() {
        Err(error) => missing.push(format!("{error:#}")),
        Ok(root) => match probe_cgroup(&root) {
            Ok(true) => {}
            Ok(false) => missing.push("cgroup.kill is missing: Linux 5.14 or newer is needed".into()),
            Err(error) => missing.push(format!("cannot make a cgroup in {}: {error}", root.display())),
        },
    }
    for (path, what) in [("/proc/self/ns/net", "network namespaces"), ("/sys/fs/bpf", "the BPF file system")]
    {
        if !Path::new(path).exists() {
            missing.push(format!("this kernel has no {what} ({path})"));
        }
    }
    for program in ["nft", "tcpdump", "ip", "curl"] {
        if binaries::system(program).is_none() {
            missing.push(format!("{program} is not installed: run `cargo xtask setup`"));
        }
    }
    missing
}

fn probe_cgroup(root: &Path) -> std::io::Result<bool> {
    let probe = root.join(format!("weft-preflight-{}", random::hex(6)?));
    std::fs::create_dir(&probe)?;
    let kill = probe.join("cgroup.kill").exists();
    std::fs::remove_dir(&probe)?;
    Ok(kill)
}

/// For the first line of a test that needs a lab: whether to go on. What is missing is named once; the test is reported
/// as skipped, or fails where `CI=true`.
///
/// # Panics
/// Where `CI=true` and something is missing.
pub fn ready(test: &str) -> bool {
    static MISSING: OnceLock<Vec<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let missing = missing();
        if !missing.is_empty() {
            eprintln!("no lab on this machine:\n  {}", missing.join("\n  "));
        }
        missing
    });
    if missing.is_empty() {
        return true;
    }
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!in_ci, "{test} cannot run: {}", missing.join("; "));
    row::skip(test, "all", &missing.join("; "));
    false
}

static OPEN_FILES: OnceLock<Option<(u64, u64)>> = OnceLock::new();

/// What container runtimes give (systemd's and the kernel's own bound).
const RUNTIMES_OPEN_FILES: u64 = 1 << 20;

/// Lets this process have as many open files as it may: every pod costs a few. The programs it starts get the soft limit
/// back that was there before, and a hard limit as from a container runtime, where this process may give it.
pub(crate) fn raise_open_files() {
    OPEN_FILES.get_or_init(|| {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        let wanted = hard.max(RUNTIMES_OPEN_FILES);
        let raised = [wanted, hard];
        let hard =
            raised.into_iter().find(|most| setrlimit(Resource::RLIMIT_NOFILE, *most, *most).is_ok())?;
        Some((soft, hard))
    });
}

/// The limits, soft and hard, of the programs that are started.
pub fn open_files() -> Option<(u64, u64)> {
    OPEN_FILES.get().copied().flatten()
}
