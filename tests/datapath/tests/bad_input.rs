//! Promise: whatever is wrong with a flag or a file at start gets one clear complaint with the remedy and an exit code that
//! is not 0. What breaks while the mesh runs is in `nothing_is_lost`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datapath::words::ensure_complaint;
use lab::row::Table;
use lab::{Lab, Node, Output};

/// A flag and what it is set to; `None` takes it away.
type Change<'a> = (&'a str, Option<&'a str>);
/// Name of the row, what is different from a good command line, exit code, words of the complaint.
type Case<'a> = (&'a str, Vec<Change<'a>>, i32, Vec<&'a str>);

/// Flags of a command line that is good, before something is changed.
struct Flags(Vec<(String, String)>);

impl Flags {
    fn with(&self, changes: &[Change<'_>]) -> Vec<String> {
        let mut flags = self.0.clone();
        for (flag, value) in changes {
            flags.retain(|(name, _)| name != flag);
            flags.extend(value.map(|value| ((*flag).to_owned(), value.to_owned())));
        }
        flags.into_iter().flat_map(|(name, value)| [name, value]).filter(|word| !word.is_empty()).collect()
    }
}

/// Directories and files to be wrong about.
struct Stuff {
    directory: PathBuf,
    cgroup: PathBuf,
    bpffs: PathBuf,
    host_netns: PathBuf,
}

impl Stuff {
    fn make(lab: &Lab) -> Result<Self> {
        let node = lab.node("a");
        let directory = lab.place().dir().join("bad-input");
        fs::create_dir_all(directory.join("objects"))?;
        let bpffs = lab.place().bpffs("a");
        fs::create_dir_all(&bpffs)?;
        let cgroup = node.cgroup().child("bad-input")?.path().to_owned();
        let host_netns = Path::new("/run/netns").join(node.netns());
        Ok(Self { directory, cgroup, bpffs, host_netns })
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Writes a file with a mode.
    fn file(&self, name: &str, content: &str, mode: u32) -> Result<String> {
        let path = self.directory.join(name);
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path.display().to_string())
    }

    fn controller(&self) -> Result<Flags> {
        let tokens = self.file("tokens", "a token-of-a\n# a comment\nb token-of-b\n", 0o600)?;
        Ok(Flags(pairs(&[
            ("--dir", self.path("objects")),
            ("--listen", "127.0.0.1:15010".into()),
            ("--trust-domain", "lab.weft.dev".into()),
            ("--state-dir", self.path("state")),
            ("--agent-tokens", tokens),
            ("--admin-socket", self.path("controller.sock")),
            ("--metrics-listen", "127.0.0.1:0".into()),
        ])))
    }

    fn agent(&self) -> Result<Flags> {
        let token = self.file("token", "token-of-a", 0o600)?;
        Ok(Flags(pairs(&[
            ("--node", "a".into()),
            ("--controller", "127.0.0.1:15010".into()),
            ("--token-file", token),
            ("--root-cert", self.path("state/root.pem")),
            ("--state-dir", self.path("agent-state")),
            ("--cache-dir", self.path("agent-cache")),
            ("--cgroup", self.cgroup.display().to_string()),
            ("--bpffs", self.bpffs.display().to_string()),
            ("--host-netns", self.host_netns.display().to_string()),
            ("--pod-logs", self.path("objects")),
            ("--admin-socket", self.path("agent.sock")),
            ("--metrics-listen", "127.0.0.1:0".into()),
            ("--ready-listen", "127.0.0.1:0".into()),
        ])))
    }
}

fn pairs(flags: &[(&str, String)]) -> Vec<(String, String)> {
    flags.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// Runs a program on the node; all of these are to end by themselves, and soon.
fn run(node: &Node, program: &str, arguments: &[String]) -> Result<Output> {
    let program = lab::binary(program)?.display().to_string();
    let line: Vec<&String> = std::iter::once(&program).chain(arguments).collect();
    node.command(line)?.timeout(Duration::from_secs(10)).run()
}

fn try_all(table: &mut Table, node: &Node, program: &str, flags: &Flags, cases: Vec<Case<'_>>) {
    for (name, changes, code, words) in cases {
        table.row(&format!("{program}: {name}"), || {
            ensure_complaint(&run(node, program, &flags.with(&changes))?, code, &words)
        });
    }
}

/// A key and a certificate that is no authority's, and one that is.
fn make_certificates(stuff: &Stuff, node: &Node) -> Result<()> {
    for (name, authority) in [("leaf", "CA:FALSE"), ("ca", "critical,CA:TRUE")] {
        let (key, cert) = (stuff.path(&format!("{name}.key")), stuff.path(&format!("{name}.pem")));
        let extension = format!("basicConstraints={authority}");
        let usage = "keyUsage=critical,keyCertSign,cRLSign";
        let mut line =
            vec!["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        line.extend(["-nodes", "-keyout", &key, "-out", &cert, "-days", "1", "-subj", "/CN=bad-input"]);
        line.extend(["-addext", &extension]);
        if name == "ca" {
            line.extend(["-addext", usage]);
        }
        node.command(line)?.run()?.ok()?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_said_clearly() {
    if !lab::ready("what_is_wrong_is_said_clearly") {
        return;
    }
    Lab::builder().node("a").without_mesh().run(|lab| {
        let mut table = Table::new("what_is_wrong_is_said_clearly");
        let stuff = Stuff::make(lab)?;
        let node = lab.node("a");
        make_certificates(&stuff, &node)?;
        let taken = node.netns_thread(|| TcpListener::bind("127.0.0.1:7001"))??;
        controllers_flags(&mut table, &stuff, &node)?;
        controllers_state(&mut table, &stuff, &node)?;
        agents_flags(&mut table, &stuff, &node)?;
        resets(&mut table, &stuff, &node);
        drop(taken);
        table.finish();
        Ok(())
    });
}

fn controllers_flags(table: &mut Table, stuff: &Stuff, node: &Node) -> Result<()> {
    let good = stuff.controller()?;
    let tokens = |name: &str, text: &str, mode| stuff.file(name, text, mode);
    let open = tokens("tokens-0644", "a token-of-a\n", 0o644)?;
    let odd = tokens("tokens-odd", "a token-of-a\nb\n", 0o600)?;
    let shared = tokens("tokens-shared", "a one\nb one\n", 0o600)?;
    let [ca, key, leaf, leaf_key] = ["ca.pem", "ca.key", "leaf.pem", "leaf.key"].map(|name| stuff.path(name));
    let open_key = stuff.file("open.key", &fs::read_to_string(&key)?, 0o644)?;
    let (nowhere, file) = (stuff.path("nowhere"), stuff.path("tokens"));
    let cases: Vec<Case<'_>> = vec![
        ("no --dir", vec![("--dir", None)], 2, vec!["--dir"]),
        ("--dir is not there", vec![("--dir", Some(&nowhere))], 2, vec!["--dir", &nowhere, "create it"]),
        ("--dir is a file", vec![("--dir", Some(&file))], 2, vec!["--dir", &file]),
        ("no --agent-tokens", vec![("--agent-tokens", None)], 2, vec!["--agent-tokens"]),
        ("no tokens file", vec![("--agent-tokens", Some(&nowhere))], 2, vec![&nowhere, "NODE TOKEN", "0600"]),
        ("tokens that others can read", vec![("--agent-tokens", Some(&open))], 2, vec!["0644", "chmod 0600"]),
        ("a line of tokens", vec![("--agent-tokens", Some(&odd))], 2, vec![&odd, "line 2", "NODE TOKEN"]),
        ("two nodes, one token", vec![("--agent-tokens", Some(&shared))], 2, vec![&shared, "line 2"]),
        ("--trust-domain", vec![("--trust-domain", Some("Not One"))], 2, vec!["--trust-domain", "Not One"]),
        ("--listen", vec![("--listen", Some("somewhere"))], 2, vec!["--listen", "somewhere"]),
        (
            "--listen in use",
            vec![("--listen", Some("127.0.0.1:7001"))],
            1,
            vec!["127.0.0.1:7001", "--listen"],
        ),
        (
            "--metrics-listen in use",
            vec![("--metrics-listen", Some("127.0.0.1:7001"))],
            1,
            vec!["127.0.0.1:7001"],
        ),
        (
            "--admin-socket nowhere",
            vec![("--admin-socket", Some("/proc/nowhere/x"))],
            1,
            vec!["/proc/nowhere"],
        ),
        ("--state-dir is a file", vec![("--state-dir", Some(&file))], 1, vec!["--state-dir", &file]),
        ("--cert-lifetime", vec![("--cert-lifetime", Some("1s"))], 2, vec!["--cert-lifetime", "1m to 90d"]),
        ("--ca-cert without --ca-key", vec![("--ca-cert", Some(&ca))], 2, vec!["--ca-key"]),
        (
            "no certificate in --ca-cert",
            vec![("--ca-cert", Some(&file)), ("--ca-key", Some(&key))],
            2,
            vec!["--ca-cert", &file, "BEGIN CERTIFICATE"],
        ),
        (
            "no key in --ca-key",
            vec![("--ca-cert", Some(&ca)), ("--ca-key", Some(&file))],
            2,
            vec!["--ca-key", &file],
        ),
        (
            "a key that others can read",
            vec![("--ca-cert", Some(&ca)), ("--ca-key", Some(&open_key))],
            2,
            vec![&open_key, "0600"],
        ),
        (
            "another certificate's key",
            vec![("--ca-cert", Some(&ca)), ("--ca-key", Some(&leaf_key))],
            2,
            vec!["--ca-key"],
        ),
        (
            "a certificate that is no authority's",
            vec![("--ca-cert", Some(&leaf)), ("--ca-key", Some(&leaf_key))],
            2,
            vec![&leaf],
        ),
        ("a flag that there is not", vec![("--frobnicate", Some("x"))], 2, vec!["--frobnicate"]),
    ];
    try_all(table, node, "mesh-controller", &good, cases);
    Ok(())
}

/// What a start that failed later has left is a state directory that is good; then its files are broken one by one.
fn controllers_state(table: &mut Table, stuff: &Stuff, node: &Node) -> Result<()> {
    let good = stuff.controller()?;
    let state = Path::new(&stuff.path("state")).to_owned();
    run(node, "mesh-controller", &good.with(&[("--listen", Some("127.0.0.1:7001"))]))?;
    ensure!(state.join("root.pem").exists(), "no authority was made in {}", state.display());
    let [ca, key] = ["ca.pem", "ca.key"].map(|name| stuff.path(name));
    let given: Case<'_> = (
        "an authority given beside the kept one",
        vec![("--ca-cert", Some(&ca)), ("--ca-key", Some(&key))],
        2,
        vec!["--ca-cert", "--state-dir", "root.pem"],
    );
    try_all(table, node, "mesh-controller", &good, vec![given]);
    for (name, file, content, mode, words) in [
        ("what agents reported is damaged", "captures.json", "{", 0o600, vec!["captures.json", "remove it"]),
        ("its kept key is damaged", "ca.key", "not a key", 0o600, vec!["ca.key"]),
        ("its kept key is open to others", "ca.key", "", 0o644, vec!["ca.key", "0600"]),
        ("its kept root is damaged", "root.pem", "not a root", 0o644, vec!["root.pem"]),
    ] {
        let path = state.join(file);
        let before = fs::read(&path).ok();
        if !content.is_empty() {
            fs::write(&path, content)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let listen = [("--listen", Some("127.0.0.1:7001"))];
        table.row(&format!("mesh-controller: {name}"), || {
            ensure_complaint(&run(node, "mesh-controller", &good.with(&listen))?, 1, &words)
        });
        match before {
            Some(bytes) => fs::write(&path, bytes)?,
            None => fs::remove_file(&path)?,
        }
        fs::set_permissions(
            &path,
            fs::Permissions::from_mode(if file == "root.pem" { 0o644 } else { 0o600 }),
        )
        .ok();
    }
    Ok(())
}

fn agents_flags(table: &mut Table, stuff: &Stuff, node: &Node) -> Result<()> {
    let good = stuff.agent()?;
    let file = stuff.path("token");
    let nowhere = stuff.path("nowhere");
    let cases: Vec<Case<'_>> = vec![
        ("no --node", vec![("--node", None)], 2, vec!["--node", "NODE_NAME"]),
        ("--cgroup is no cgroup2", vec![("--cgroup", Some("/tmp"))], 1, vec!["/tmp", "--cgroup", "cgroup2"]),
        ("--cgroup is not there", vec![("--cgroup", Some(&nowhere))], 1, vec![&nowhere, "--cgroup"]),
        ("--bpffs is no bpffs", vec![("--bpffs", Some("/tmp"))], 1, vec!["/tmp", "--bpffs", "mount -t bpf"]),
        ("--bpffs is not there", vec![("--bpffs", Some(&nowhere))], 1, vec![&nowhere, "--bpffs"]),
        (
            "--host-netns is not there",
            vec![("--host-netns", Some(&nowhere))],
            1,
            vec![&nowhere, "--host-netns"],
        ),
        ("--host-netns is no namespace", vec![("--host-netns", Some(&file))], 1, vec![&file, "--host-netns"]),
        ("--state-dir is a file", vec![("--state-dir", Some(&file))], 1, vec!["--state-dir", &file]),
        (
            "--metrics-listen in use",
            vec![("--metrics-listen", Some("127.0.0.1:7001"))],
            1,
            vec!["127.0.0.1:7001"],
        ),
        (
            "--ready-listen in use",
            vec![("--ready-listen", Some("127.0.0.1:7001"))],
            1,
            vec!["127.0.0.1:7001"],
        ),
        (
            "--admin-socket nowhere",
            vec![("--admin-socket", Some("/proc/nowhere/x"))],
            1,
            vec!["/proc/nowhere"],
        ),
        ("--unknown-pods", vec![("--unknown-pods", Some("maybe"))], 2, vec!["maybe", "refuse, allow"]),
        ("--log-format", vec![("--log-format", Some("xml"))], 2, vec!["xml", "text or json"]),
        ("a flag that there is not", vec![("--frobnicate", Some("x"))], 2, vec!["--frobnicate"]),
    ];
    try_all(table, node, "mesh-agent", &good, cases);
    table.row("mesh-agent: a start that failed leaves the node as it was", || {
        let weft = stuff.bpffs.join("weft");
        ensure!(!weft.exists(), "hooks are attached for nobody: {} is there", weft.display());
        Ok("no hooks, no pins".to_owned())
    });
    table.row("mesh-agent: not root", || {
        let program = lab::binary("mesh-agent")?.display().to_string();
        let words: Vec<String> = std::iter::once(program).chain(good.with(&[])).collect();
        let output = node.command(&words)?.user("nobody").run()?;
        ensure_complaint(&output, 1, &["CAP_BPF", "run as root"])
    });
    Ok(())
}

/// `reset` takes away what the agents above pinned, and says so; where there is nothing to look at, it does not say yes.
fn resets(table: &mut Table, stuff: &Stuff, node: &Node) {
    let reset = |bpffs: &str| run(node, "mesh-agent", &["reset", "--bpffs", bpffs].map(str::to_owned));
    table.row("mesh-agent reset: --bpffs is no bpffs", || {
        ensure_complaint(&reset("/tmp")?, 1, &["/tmp", "bpffs"])
    });
    table.row("mesh-agent reset: --bpffs is not there", || {
        let nowhere = stuff.path("nowhere");
        ensure_complaint(&reset(&nowhere)?, 1, &[&nowhere])
    });
    table.row("mesh-agent reset", || {
        let said = reset(&stuff.bpffs.display().to_string())?.ok()?.text();
        ensure!(!stuff.bpffs.join("weft").exists(), "pins are left, though it says {said}");
        Ok(said.trim().to_owned())
    });
}
