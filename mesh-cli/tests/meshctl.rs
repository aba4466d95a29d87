//! The built binary against a socket: what it prints, where, and how it exits.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mesh_telemetry::http::{Response, Routes, Server};
use mesh_telemetry::preflight::{Check, Report};
use mesh_telemetry::shutdown::Shutdown;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const MESHCTL: &str = env!("CARGO_BIN_EXE_meshctl");

/// An agent that answers what it was given; gone when it is dropped.
struct Agent {
    directory: tempfile::TempDir,
    shutdown: Shutdown,
    runtime: Runtime,
    serving: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

impl Agent {
    fn with(routes: Routes) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let shutdown = Shutdown::new();
        let server = Server::unix(directory.path().join("agent.sock")).unwrap();
        let serving = Some(runtime.spawn(server.serve(routes, shutdown.clone())));
        Self { directory, shutdown, runtime, serving }
    }

    fn answering(path: &'static str, value: Value) -> Self {
        Self::with(Routes::new().get(path, move |_| std::future::ready(Response::json(&value))))
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn meshctl(&self, args: &[&str]) -> Output {
        meshctl(&self.socket(), args)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(serving) = self.serving.take() {
            let _ = self.runtime.block_on(serving);
        }
    }
}

fn command(program: &Path, socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    // No PATH: a mesh-agent of this machine must not be found.
    command.env_clear().env("WEFT_SOCKET", socket).args(args).stdin(Stdio::null());
    command
}

fn meshctl(socket: &Path, args: &[&str]) -> Output {
    command(Path::new(MESHCTL), socket, args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn pods() -> Value {
    let pod = |namespace: &str, name: &str, state: &str| {
        json!({
            "namespace": namespace, "name": name, "uid": name, "node": "a", "state": state, "reason": null,
            "identity": format!("spiffe://cluster.local/ns/{namespace}/sa/default"), "from_the_future": 1,
        })
    };
    json!([pod("shop", "web-0", "captured"), pod("bank", "safe-0", "excluded")])
}

#[test]
fn json_is_what_the_agent_sent_in_order_and_filtered() {
    let agent = Agent::answering("/v1/pods", pods());
    let output = agent.meshctl(&["pods", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, json!([pods()[1], pods()[0]]), "sorted by namespace and name");
    assert_eq!(stderr(&output), "");
    assert!(stdout(&output).starts_with("[\n  {\n    \"namespace\": \"bank\",\n    \"name\": \"safe-0\",\n"));

    let output = agent.meshctl(&["pods", "-n", "shop", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json!([pods()[0]]));
}

#[test]
fn a_table_has_no_colours_in_a_pipe() {
    let agent = Agent::answering("/v1/pods", pods());
    let output = agent.meshctl(&["pods", "-A"]);
    assert_eq!(output.status.code(), Some(0));
    let expected = "\
NAMESPACE   NAME     STATE      REASON   IDENTITY                                    UID
bank        safe-0   excluded   <none>   spiffe://cluster.local/ns/bank/sa/default   safe-0
shop        web-0    captured   <none>   spiffe://cluster.local/ns/shop/sa/default   web-0
";
    assert_eq!(stdout(&output), expected);
}

#[test]
fn nothing_to_list_is_said_on_standard_error() {
    let agent = Agent::answering("/v1/connections", json!([]));
    let output = agent.meshctl(&["connections"]);
    assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(0), "", "No connections.\n"));
    let output = agent.meshctl(&["connections", "-o", "json"]);
    assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(0), "[]\n", ""));
}

#[test]
fn usage_is_exit_code_2() {
    let nowhere = Path::new("/nonexistent/agent.sock");
    for line in [
        &["pods", "-o", "xml"][..],
        &["frobnicate"],
        &[],
        &["connections", "--sort", "mood"],
        &["pods", "extra"],
    ] {
        let output = meshctl(nowhere, line);
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        assert_eq!(stdout(&output), "");
        assert!(!stderr(&output).is_empty());
    }
    assert_eq!(meshctl(nowhere, &["--help"]).status.code(), Some(0));
    assert_eq!(meshctl(nowhere, &["pods", "--help"]).status.code(), Some(0));
}

#[test]
fn nobody_there_is_exit_code_3_with_the_socket_and_the_remedy() {
    let (directory, alone) = without_mesh_agent();
    let socket = directory.path().join("agent.sock");
    let meshctl = |socket: &Path, args: &[&str]| command(&alone, socket, args).output().unwrap();
    for verb in ["status", "pods", "connections", "certs", "workloads", "services", "check", "version"] {
        for format in ["table", "json"] {
            let output = meshctl(&socket, &[verb, "-o", format]);
            assert_eq!(output.status.code(), Some(3), "{verb}: {}", stderr(&output));
            let message = stderr(&output);
            assert!(message.contains(socket.to_str().unwrap()), "{message}");
            assert!(message.contains("is the agent running") && message.contains("--socket"), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
    // The flag wins over the variable.
    let other = directory.path().join("other.sock");
    let output = meshctl(&socket, &["pods", "--socket", other.to_str().unwrap()]);
    assert!(stderr(&output).contains("other.sock"), "{}", stderr(&output));

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let output = meshctl(&socket, &["pods"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("nobody listens on"), "{}", stderr(&output));
}

#[test]
fn an_agent_that_says_no_is_exit_code_1() {
    let agent = Agent::with(Routes::new());
    for verb in ["status", "pods", "connections", "certs", "workloads", "services", "check", "version"] {
        let output = agent.meshctl(&[verb]);
        assert_eq!(output.status.code(), Some(1), "{verb}: {}", stderr(&output));
        assert!(stderr(&output).contains("no such path: /v1/"), "{}", stderr(&output));
    }
    let agent = Agent::answering("/v1/pods", json!([{"nonsense": true}]));
    let output = agent.meshctl(&["pods"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("are their versions alike?"), "{}", stderr(&output));
}

#[test]
fn a_failed_check_is_exit_code_1_and_a_warning_is_not() {
    let fail = Check::fail("bpffs", "not mounted", "mount -t bpf bpf /sys/fs/bpf");
    let warn = Check::warn("btf", "none", "use a kernel with BTF");
    for (checks, code, note) in [
        (vec![Check::pass("cgroup2", "mounted"), warn.clone()], 0, ""),
        (vec![fail, warn], 1, "1 of 2 checks failed.\n"),
    ] {
        let report = serde_json::to_value(Report::new(checks)).unwrap();
        let agent = Agent::answering("/v1/check", report.clone());
        let output = agent.meshctl(&["check"]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(code), note));
        let output = agent.meshctl(&["check", "-o", "json"]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(code), ""));
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), report);
    }
}

/// A copy of meshctl with nothing beside it. It is written by a child process: a file that this one had open for
/// writing while another test forked could not be executed (ETXTBSY).
fn without_mesh_agent() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("meshctl");
    assert!(Command::new("cp").arg(MESHCTL).arg(&copy).status().unwrap().success());
    (directory, copy)
}

/// A copy of meshctl with a `mesh-agent` beside it, written likewise.
fn with_mesh_agent(script: &str) -> (tempfile::TempDir, PathBuf) {
    let (directory, meshctl) = without_mesh_agent();
    let written = Command::new("/bin/sh")
        .args(["-ec", "printf %s \"$2\" > \"$1\"; chmod 755 \"$1\"", "sh"])
        .args([directory.path().join("mesh-agent").as_os_str(), script.as_ref()])
        .status()
        .unwrap();
    assert!(written.success());
    (directory, meshctl)
}

#[test]
fn check_runs_the_preflight_itself_where_no_agent_answers() {
    let (directory, meshctl) = with_mesh_agent(
        "#!/bin/sh\n\
         printf '{\"ok\":false,\"checks\":[{\"name\":\"args\",\"status\":\"fail\",\"message\":\"%s\",\"remedy\":\"r\"}]}' \"$*\"\n\
         exit 1\n",
    );
    let socket = directory.path().join("agent.sock");
    let args = ["check", "-o", "json", "--", "--cgroup", "/lab"];
    let output = command(&meshctl, &socket, &args).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!report.ok);
    assert_eq!(report.checks[0].name, "agent");
    assert!(report.checks[0].message.contains(socket.to_str().unwrap()));
    assert_eq!(report.checks[1].message, "check --json --cgroup /lab");
}

#[test]
fn check_of_another_machine_never_reports_this_one() {
    let (directory, meshctl) = with_mesh_agent("#!/bin/sh\nprintf '{\"ok\":true,\"checks\":[]}'\n");
    let kubeconfig = directory.path().join("kubeconfig");
    // Bound, so that nobody else is given the port, and not listening.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = taken.local_addr().unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{closed}")}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let check = |more: &[&str]| {
        let socket = directory.path().join("agent.sock");
        let mut command = command(&meshctl, &socket, &[&["check", "-o", "json"], more].concat());
        command.env("KUBECONFIG", &kubeconfig).output().unwrap()
    };
    for whom in [&["--node", "a"][..], &["--all-nodes"], &["--pod", "weft-system/weft-agent-x"]] {
        let output = check(whom);
        assert_eq!((output.status.code(), stdout(&output)), (Some(3), ""), "{whom:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(&closed.to_string()), "{}", stderr(&output));
    }
    // A kubeconfig that leads nowhere is said to, beside what the node's checks say; one that is asked for is an error.
    fs::write(&kubeconfig, json!({"apiVersion": "v1", "kind": "Config"}).to_string()).unwrap();
    let output = check(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = report.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["agent", "kubernetes"]);
    assert_eq!(check(&["--context", "staging"]).status.code(), Some(1));
}

#[test]
fn a_preflight_that_does_not_end_is_ended() {
    let (directory, meshctl) = with_mesh_agent("#!/bin/sh\nexec /bin/sleep 60\n");
    let args = ["check", "--timeout", "0.2"];
    let output = command(&meshctl, &directory.path().join("agent.sock"), &args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no end within 0.2 s"), "{}", stderr(&output));
}

#[test]
fn a_preflight_without_a_report_is_a_failure() {
    let (directory, meshctl) = with_mesh_agent("#!/bin/sh\necho 'no such flag' >&2\nexit 2\n");
    let output = command(&meshctl, &directory.path().join("agent.sock"), &["check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no such flag"), "{}", stderr(&output));
}

#[test]
fn a_controllers_socket_is_understood_too() {
    let status = json!({
        "version": "0.1.0", "trust_domain": "cluster.local", "agents": [], "workloads": 0, "services": 0, "files": [],
    });
    let controller = Agent::answering("/v1/status", status.clone());
    let output = controller.meshctl(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("Agents:        0 of 0 connected\n"), "{}", stdout(&output));
    let output = controller.meshctl(&["status", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), status);
    let output = controller.meshctl(&["version"]);
    assert!(stdout(&output).contains("Controller:  0.1.0\n"), "{}", stdout(&output));
}

#[test]
fn versions_are_printed_as_far_as_they_are_known() {
    let output = meshctl(Path::new("/nonexistent/agent.sock"), &["version"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).starts_with("Client:  "), "{}", stdout(&output));
    let output = meshctl(Path::new("/nonexistent/agent.sock"), &["version", "--client", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let version: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version, json!({"client": {"version": env!("CARGO_PKG_VERSION")}}));
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let many: Vec<Value> = (0..5_000).map(|_| pods()[0].clone()).collect();
    let agent = Agent::answering("/v1/pods", json!(many));
    let mut child = command(Path::new(MESHCTL), &agent.socket(), &["pods"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 9];
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut first).unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let agent = Agent::answering("/v1/pods", pods());
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(Path::new(MESHCTL), &agent.socket(), &["pods"])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: cannot write to standard output: "), "{}", stderr(&output));
}

#[test]
fn every_format_says_the_same() {
    let agent = Agent::answering("/v1/pods", pods());
    let said = |args: &[&str]| {
        let output = agent.meshctl(args);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{args:?}");
        stdout(&output).to_owned()
    };
    assert_eq!(said(&["pods", "-o", "name"]), "pod/bank/safe-0\npod/shop/web-0\n");
    let yaml: Value = serde_saphyr::from_str(&said(&["pods", "-o", "yaml"])).unwrap();
    assert_eq!(yaml, json!([pods()[1], pods()[0]]));
    let wide = said(&["pods", "-o", "wide"]);
    assert!(wide.lines().next().unwrap().ends_with("NODE") && wide.contains("web-0    a\n"), "{wide}");
    let bare = said(&["pods", "--no-headers", "--field-selector", "state=captured"]);
    assert_eq!(
        bare,
        "shop   web-0   captured   <none>   spiffe://cluster.local/ns/shop/sa/default   web-0\n"
    );
    assert_eq!(
        said(&["pods", "--field-selector", "namespace!=shop,from_the_future=1", "-o", "name"]),
        "pod/bank/safe-0\n"
    );
}

#[test]
fn what_does_not_exist_suggests_near_names() {
    let agent = Agent::answering("/v1/pods", pods());
    let output = agent.meshctl(&["pods", "-n", "shpo"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), ""));
    assert_eq!(stderr(&output), "No pods in namespace shpo: is it shop?\n");
    let output = agent.meshctl(&["pods", "--field-selector", "stat=captured"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no row has a key stat: there is state"), "{}", stderr(&output));
}

#[test]
fn labels_and_nodes_need_a_cluster_and_say_so() {
    let agent = Agent::answering("/v1/pods", pods());
    let output = agent.meshctl(&["pods", "-l", "app=web"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--kubeconfig") && stderr(&output).contains("--field-selector"));
    for whom in [&["--node", "a"][..], &["--all-nodes"], &["--controller"], &["--pod", "weft-system/x"]] {
        let output = agent.meshctl(&[&["status"], whom].concat());
        assert_eq!(output.status.code(), Some(3), "{whom:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: no cluster: name a kubeconfig"), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1);
    }
    for usage in [&["--node", "a", "--all-nodes"][..], &["--pod", "x"], &["--address", "a:1"]] {
        assert_eq!(agent.meshctl(&[&["status"], usage].concat()).status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn an_agent_of_another_version_is_a_warning_and_its_unknown_keys_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let body = pods().to_string();
    let server = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let head =
            format!("HTTP/1.1 200 OK\r\nweft-version: 99.1.0\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
    });
    let output = meshctl(&path, &["pods", "-o", "json"]);
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let note = stderr(&output);
    assert!(note.starts_with("warning: ") && note.contains("99.1.0, newer than this meshctl"), "{note}");
    assert_eq!(note.lines().count(), 1, "{note}");
    assert!(stdout(&output).contains("from_the_future"));
}

#[test]
fn a_watch_is_appended_in_a_pipe_and_ends_with_its_reader() {
    let agent = Agent::answering("/v1/connections", json!([]));
    let mut child =
        command(Path::new(MESHCTL), &agent.socket(), &["connections", "-w", "--interval", "0.05"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    // The answers alone; the note is beside them, and is not said again and again.
    let mut twice = [0; 2];
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut twice).unwrap();
    assert_eq!(&twice, b"\n\n");
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), "No connections.\n"));
}

#[test]
fn completion_is_for_every_common_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = meshctl(Path::new("/nonexistent/agent.sock"), &["completion", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("connections"));
    }
}

#[test]
fn a_process_is_named_by_who_was_asked() {
    let agent = Agent::answering("/v1/log-level", json!({"filter": "info", "start": "info", "until": null}));
    let output = agent.meshctl(&["log-level", "-o", "name"]);
    assert_eq!(stdout(&output), format!("{}\n", agent.socket().display()), "{}", stderr(&output));
}
