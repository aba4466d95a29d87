//! The controller as a process: exit codes, one clear error line, sockets, signals.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Flags and their values.
type Flags<'a> = &'a [(&'a str, &'a str)];

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir(home.0.path().join("objects")).unwrap();
        home.write("tokens", "one secret-of-one\n", 0o600);
        home
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The flags of a controller that works, with some replaced.
    fn command(&self, replaced: Flags<'_>) -> Command {
        let mut flags = vec![
            ("--dir", self.path("objects")),
            ("--listen", "127.0.0.1:0".to_owned()),
            ("--metrics-listen", "127.0.0.1:0".to_owned()),
            ("--state-dir", self.path("state")),
            ("--agent-tokens", self.path("tokens")),
            ("--admin-socket", self.path("admin.sock")),
        ];
        for (flag, value) in replaced {
            flags.retain(|(known, _)| known != flag);
            flags.push((flag, (*value).to_owned()));
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-controller"));
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        for (flag, value) in flags {
            command.arg(flag).arg(value);
        }
        command
    }

    fn start(&self) -> Running {
        let mut child = self.command(&[]).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("ready") {
            assert_ne!(log.read_line(&mut said).unwrap(), 0, "it ended: {said}");
        }
        // Kept open, so that later log lines have somewhere to go.
        Running { child, log }
    }
}

struct Running {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
}

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn exit_code(mut self) -> Option<i32> {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not stop");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut rest = String::new();
        let _ = self.log.read_to_string(&mut rest);
    }
}

fn complaint(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("mesh-controller: ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(!text.contains("secret"), "{text}");
    lines[0].to_owned()
}

#[test]
fn wrong_configuration_is_exit_code_2_and_one_line_with_the_remedy() {
    let home = Home::new();
    home.write("open-tokens", "one secret\n", 0o644);
    home.write("bad-tokens", "one\n", 0o600);
    home.write("not-a-cert", "hello\n", 0o644);
    home.write("not-a-key", "hello\n", 0o600);
    let (cert, key) = (home.path("not-a-cert"), home.path("not-a-key"));
    let cases: &[(Flags<'_>, &[&str])] = &[
        (&[("--dir", "/nowhere")], &["/nowhere", "--dir"]),
        (&[("--dir", &cert)], &["not-a-cert", "--dir"]),
        (&[("--agent-tokens", "/nowhere")], &["/nowhere", "NODE TOKEN"]),
        (&[("--agent-tokens", &home.path("open-tokens"))], &["open-tokens", "chmod 0600"]),
        (&[("--agent-tokens", &home.path("bad-tokens"))], &["bad-tokens", "line 1"]),
        (&[("--ca-cert", &cert), ("--ca-key", &key)], &["--ca-cert", "not-a-cert"]),
    ];
    for (flags, wanted) in cases {
        let output = home.command(flags).output().unwrap();
        let line = complaint(&output);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(wanted.iter().all(|wanted| line.contains(wanted)), "{flags:?}: {line}");
    }
    for flags in [&["--listen=x"][..], &["--no-such-flag"], &[]] {
        let output = Command::new(env!("CARGO_BIN_EXE_mesh-controller")).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
    let help = Command::new(env!("CARGO_BIN_EXE_mesh-controller")).arg("--help").output().unwrap();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in [
        "--dir",
        "--listen",
        "--trust-domain",
        "--ca-cert",
        "--ca-key",
        "--state-dir",
        "--agent-tokens",
        "--admin-socket",
        "--metrics-listen",
        "--cert-lifetime",
    ] {
        assert!(help.contains(flag), "{flag}: {help}");
    }
}

#[test]
fn what_fails_on_the_machine_is_exit_code_1() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flags, wanted) in [
        (&[("--listen", address.as_str())], "--listen"),
        (&[("--metrics-listen", address.as_str())], "cannot listen"),
        (&[("--state-dir", "/proc/nowhere")], "--state-dir"),
        (&[("--admin-socket", "/proc/nowhere/x.sock")], "/proc/nowhere"),
    ] {
        let output = home.command(flags).output().unwrap();
        let line = complaint(&output);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(line.contains(wanted), "{flags:?}: {line}");
    }
    home.write("state/captures.json", "{", 0o600);
    let output = home.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("captures.json"));
}

#[test]
fn a_signal_stops_it_cleanly_and_the_socket_goes_with_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let home = Home::new();
        let running = home.start();
        let mut socket = UnixStream::connect(home.path("admin.sock")).unwrap();
        let mode = fs::metadata(home.path("admin.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        socket.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\"trust_domain\":\"cluster.local\""), "{answer}");
        running.signal(signal);
        assert_eq!(running.exit_code(), Some(0), "{signal}");
        assert!(fs::symlink_metadata(home.path("admin.sock")).is_err());
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_an_error() {
    let home = Home::new();
    let running = home.start();
    let output = home.command(&[("--state-dir", &home.path("other"))]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = complaint(&output);
    assert!(line.contains("admin.sock") && line.contains("running process"), "{line}");

    running.signal(Signal::SIGKILL);
    assert_eq!(running.exit_code(), None, "killed");
    assert!(fs::symlink_metadata(home.path("admin.sock")).is_ok(), "stale");
    let root = fs::read(home.path("state/root.pem")).unwrap();
    let running = home.start();
    UnixStream::connect(home.path("admin.sock")).unwrap();
    assert_eq!(fs::read(home.path("state/root.pem")).unwrap(), root, "the same authority");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.exit_code(), Some(0));
}
