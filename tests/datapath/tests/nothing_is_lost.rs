//! Promise: whatever breaks while the mesh runs, a file, a secret or a frame, is named with its remedy, and nothing that
//! worked is lost; mended, it is taken up without a restart.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datapath::held::Held;
use datapath::kept;
use datapath::words::await_line;
use lab::row::Table;
use lab::{Agent, Lab, Node, Pod, eventually, programs};
use serde_json::Value;

/// How long agents and controller may take to notice something.
const NOTICE: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;

/// A mesh at work, of which one thing after the other is broken and mended.
struct Running<'a> {
    lab: &'a Lab,
    client: Arc<Pod>,
    web: Arc<Pod>,
    outside: Arc<Pod>,
    _echo: programs::Server,
}

impl<'a> Running<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let web = lab.pod("shop/web").node("b").service_account("web").start()?;
        let outside = lab.pod("plain/one").node("a").start()?;
        let echo = programs::peer(&web, "echo", PORT, &[])?;
        lab.await_captured(&client)?;
        lab.await_peers_tunnel(&web)?;
        lab.await_excluded(&outside)?;
        // Agents that are started again with something broken begin with what they kept.
        kept::await_tunnel(lab.agent("a"), &web)?;
        kept::await_known(lab.agent("a"), &client, true)?;
        kept::await_known(lab.agent("a"), &outside, true)?;
        Ok(Self { lab, client, web, outside, _echo: echo })
    }

    fn agent(&self) -> &Agent {
        self.lab.agent("a")
    }

    fn open(&self) -> Result<Held> {
        Held::open(&self.client, SocketAddr::new(self.web.v4().into(), PORT))
    }

    fn works(&self) -> Result<()> {
        self.open()?.ensure_mtls(self.agent())
    }

    fn works_again(&self) -> Result<()> {
        self.agent().await_ready()?;
        eventually(NOTICE, || self.works().map_err(|error| format!("{error:#}")))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.lab.place().logs().join(format!("{name}.log"))
    }

    /// Starts the agent anew and waits until it says why it has no controller.
    fn agent_complains(&self, words: &[&str]) -> Result<String> {
        self.agent().kill();
        self.agent().launch()?;
        eventually(NOTICE, || {
            let status = self.agent().status().map_err(|error| format!("{error:#}"))?;
            let complaint = status["controller"]["last_error"].as_str().unwrap_or_default();
            let fits = words.iter().all(|word| complaint.contains(word));
            if fits { Ok(complaint.to_owned()) } else { Err(status["controller"].to_string()) }
        })
        .with_context(|| format!("wait for {words:?}"))
    }

    /// What the controller says of one of its files; nothing for a good one.
    fn complaint_about(&self, file: &str) -> Result<Option<String>> {
        let status = self.lab.controller().admin("/v1/status")?;
        let files = status["files"].as_array().context("files")?;
        let row = files.iter().find(|row| row["path"].as_str().is_some_and(|path| path.ends_with(file)));
        let error = row.map_or(&Value::Null, |row| &row["error"]);
        Ok(error.as_str().map(str::to_owned))
    }

    /// A file of the directory is broken, then mended; all the while connections run and begin.
    fn breaks_file(
        &self,
        file: &str,
        content: &str,
        words: &[&str],
        mend: impl FnOnce() -> Result<()>,
    ) -> Result<String> {
        let mut held = self.open()?;
        self.lab.write_object(file, content)?;
        let complaint = eventually(NOTICE, || match self.complaint_about(file) {
            Ok(Some(complaint)) => Ok(complaint),
            other => Err(format!("{file}: {other:?}")),
        })?;
        let logged = await_line(&self.log("controller"), &[file, "stays in force"])?;
        for word in words {
            ensure!(
                complaint.contains(word) && logged.contains(word),
                "no {word:?} in {complaint:?} {logged:?}"
            );
        }
        self.works()?;
        held.speak()?;
        mend()?;
        eventually(NOTICE, || match self.complaint_about(file) {
            Ok(None) => Ok(()),
            other => Err(format!("{file}: {other:?}")),
        })?;
        self.works()?;
        Ok(complaint)
    }

    /// Sends what makes no sense and reads to the end, which comes.
    fn nonsense(&self, to: SocketAddr) -> Result<()> {
        let mut stream = match self.outside.connect(to, NOTICE)? {
            Ok(stream) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error).context(to.to_string()),
        };
        stream.set_read_timeout(Some(NOTICE))?;
        // A peer that does not want it may say so before it has everything.
        let _reset = stream.write_all(&[0xff; 4096]);
        let _reset = stream.shutdown(std::net::Shutdown::Write);
        match stream.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(error).context(to.to_string())
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn nothing_that_worked_is_lost() {
    if !lab::ready("nothing_that_worked_is_lost") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("nothing_that_worked_is_lost");
        let mesh = Running::start(lab)?;
        broken_files(&mut table, &mesh);
        table.row("frames that make no sense", || frames(&mesh));
        broken_secrets(&mut table, &mesh)?;
        table.row("an agent that is told to stop says nothing of a panic and ends with 0", || {
            let output = mesh.agent().stop(NOTICE)?.ok()?;
            let log = fs::read_to_string(mesh.log("agent-a"))?;
            ensure!(!log.contains("panicked"), "{:?}", log.lines().find(|line| line.contains("panicked")));
            mesh.agent().launch()?;
            mesh.works_again()?;
            Ok(format!("{}, and works again", output.status))
        });
        table.finish();
        Ok(())
    });
}

fn broken_files(table: &mut Table, mesh: &Running<'_>) {
    let lab = mesh.lab;
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  namespace: shop\n";
    let extra = [
        ("no YAML", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: [\n".to_owned(), vec!["line "]),
        ("text with a NUL byte in it", "a: b\nc: \u{0}\n".to_owned(), vec!["line "]),
        ("a field of another kind", format!("{pod}spec:\n  containers: seven\n"), vec!["line 7"]),
    ];
    for (name, content, words) in extra {
        table.row(&format!("a file that is {name}"), || {
            mesh.breaks_file("extra.yaml", &content, &words, || lab.remove_object("extra.yaml"))
        });
    }
    table.row("a running pod's own file is broken", || {
        mesh.breaks_file("pod-shop-web.yaml", "kind: Pod\nmetadata: {\n", &["line "], || {
            mesh.web.set_ready(true)
        })
    });
    table.row("its namespace's file is broken", || {
        let mend = || lab.namespace("shop").captured();
        mesh.breaks_file("namespace-shop.yaml", "kind: Namespace\n  x\n: :\n", &["line "], mend)
    });
}

fn frames(mesh: &Running<'_>) -> Result<String> {
    let mut held = mesh.open()?;
    let controller = mesh.lab.controller().pod().v4().into();
    let to: Vec<SocketAddr> = [15001, 15006, 15008]
        .into_iter()
        .map(|port| SocketAddr::new(mesh.web.v4().into(), port))
        .chain([15010, 15020].map(|port| SocketAddr::new(controller, port)))
        .chain([15020, 15021].map(|port| SocketAddr::new(mesh.agent().pod().v4().into(), port)))
        .collect();
    to.iter().try_for_each(|to| mesh.nonsense(*to))?;
    held.speak()?;
    mesh.works()?;
    Ok(format!("to {} ports, and all went on", to.len()))
}

fn broken_secrets(table: &mut Table, mesh: &Running<'_>) -> Result<()> {
    let token = mesh.agent().token_file().to_owned();
    let good = fs::read(&token)?;
    table.row("an agent with a wrong token, then the right one", || {
        fs::write(&token, "wrong")?;
        let complaint = mesh.agent_complains(&["token"])?;
        // It knows the mesh from its cache, once it has looked at its pods.
        mesh.works_again()?;
        fs::write(&token, &good)?;
        mesh.works_again().map(|()| complaint)
    });
    table.row("an agent whose token is not there, then it is", || {
        fs::remove_file(&token)?;
        let complaint = mesh.agent_complains(&["token", &token.display().to_string()])?;
        fs::write(&token, &good)?;
        mesh.works_again().map(|()| complaint)
    });
    let tokens = mesh.lab.place().dir().join("controller/tokens");
    table.row("the controller's tokens become readable by others, then not", || {
        let mut held = mesh.open()?;
        fs::set_permissions(&tokens, fs::Permissions::from_mode(0o644))?;
        mesh.works()?;
        held.speak()?;
        let complaint = mesh.agent_complains(&["token"])?;
        await_line(&mesh.log("controller"), &["tokens", "chmod 0600"])?;
        fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600))?;
        mesh.works_again().map(|()| complaint)
    });
    let root = mesh.lab.controller().root_cert();
    let pem = fs::read(&root)?;
    table.row("an agent whose root is none goes on with those from before the restart", || {
        fs::write(&root, "not a root\n")?;
        mesh.agent().kill();
        mesh.agent().launch()?;
        let line = await_line(&mesh.log("agent-a"), &["--root-cert", &root.display().to_string()]);
        let works = eventually(NOTICE, || mesh.works().map_err(|error| format!("{error:#}")));
        fs::write(&root, &pem)?;
        works?;
        mesh.works_again()?;
        line
    });
    table.row("an agent with another mesh's root does not trust the controller", || {
        make_root(&root, &mesh.lab.node("a"))?;
        let complaint = mesh.agent_complains(&["ertificate"]);
        fs::write(&root, &pem)?;
        mesh.agent().kill();
        mesh.agent().launch()?;
        mesh.works_again()?;
        complaint
    });
    table.row("an agent whose kept certificates are garbage", || {
        let spoilt = spoil(mesh.agent().state_dir())?;
        mesh.agent().kill();
        mesh.agent().launch()?;
        mesh.works_again()?;
        ensure!(spoilt > 0, "nothing is kept in {}", mesh.agent().state_dir().display());
        Ok(format!("{spoilt} files"))
    });
    Ok(())
}

/// Puts a fresh authority's certificate in a file's place.
fn make_root(file: &Path, node: &Node) -> Result<()> {
    let (path, key) = (file.display().to_string(), node.directory().join("other.key").display().to_string());
    let mut line =
        vec!["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    line.extend(["-keyout", &key, "-out", &path, "-days", "1", "-subj", "/CN=another mesh"]);
    node.command(line)?.run()?.ok().map(|_| ())
}

/// Overwrites every file in and below a directory.
fn spoil(directory: &Path) -> Result<usize> {
    let mut spoilt = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            spoilt += spoil(&path)?;
        } else {
            fs::write(&path, "garbage")?;
            spoilt += 1;
        }
    }
    Ok(spoilt)
}
