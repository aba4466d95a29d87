//! The real `meshctl`, asked by a test: one end, many questions.
//!
//! Invariants: it runs with an empty environment but for what a test sets, so that nothing of the machine's (a kubeconfig, a
//! colour setting) has a say; whatever it prints, a panic in it is a failure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::program;

/// `meshctl --socket SOCKET`.
#[derive(Clone, Debug)]
pub struct Meshctl {
    program: PathBuf,
    socket: PathBuf,
    environment: BTreeMap<String, String>,
}

/// How it ended and what it said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Meshctl {
    /// Asks this socket.
    pub fn of(socket: &Path) -> Result<Self> {
        let program = lab::binary("meshctl")?;
        Ok(Self { program, socket: socket.into(), environment: BTreeMap::new() })
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.insert(key.into(), value.into());
        self
    }

    /// Runs it, with words that are separated by single blanks.
    pub fn run(&self, words: &str) -> Result<Said> {
        let mut command = self.bare(&self.program);
        command.arg("--socket").arg(&self.socket).args(words.split(' '));
        said(command.output().context("run meshctl")?)
    }

    /// The same, and it must end with this code.
    pub fn ends(&self, words: &str, code: i32) -> Result<Said> {
        let said = self.run(words)?;
        ensure!(said.code == Some(code), "{words}: {:?} and not {code}: {}{}", said.code, said.out, said.err);
        Ok(said)
    }

    /// What it prints when all is well.
    pub fn text(&self, words: &str) -> Result<String> {
        Ok(self.ends(words, 0)?.out)
    }

    /// What it prints with `-o json`, when all is well.
    pub fn json(&self, words: &str) -> Result<Value> {
        let text = self.text(&format!("{words} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("{words} printed {text:?}"))
    }

    /// The same of a list.
    pub fn rows(&self, words: &str) -> Result<Vec<Value>> {
        let answer = self.json(words)?;
        answer.as_array().cloned().with_context(|| format!("{words} is no list: {answer}"))
    }

    /// A line of sh(1) in which `meshctl` is a function that asks this socket.
    pub fn shell(&self, line: &str) -> Result<Said> {
        let shell = program("sh").context("sh is not here")?;
        let [meshctl, socket] = [&self.program, &self.socket].map(|path| path.display().to_string());
        let script = format!("meshctl() {{ '{meshctl}' --socket '{socket}' \"$@\"; }}\n{line}");
        let mut command = self.bare(&shell);
        command.env("PATH", "/usr/bin:/bin").arg("-c").arg(script);
        said(command.output().context("run sh")?)
    }

    /// What it prints on a terminal with so many columns; the terminal's own line ends are taken off.
    pub fn terminal(&self, columns: u16, words: &str) -> Result<String> {
        let script = program("script").context("script is not here")?;
        let [meshctl, socket] = [&self.program, &self.socket].map(|path| path.display().to_string());
        let line = format!("stty cols {columns} rows 40; '{meshctl}' --socket '{socket}' {words}");
        let mut command = self.bare(&script);
        command.env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh").env("TERM", "xterm");
        command.envs(&self.environment).args(["-qec", &line, "/dev/null"]);
        Ok(said(command.output().context("run script")?)?.out.replace('\r', ""))
    }

    /// Runs it on a terminal that is taken away after a moment. How long it went on after that.
    pub fn abandoned(&self, words: &str) -> Result<Duration> {
        const MOMENT: Duration = Duration::from_secs(2);
        const PATIENCE: Duration = Duration::from_secs(10);
        let script = program("script").context("script is not here")?;
        let [meshctl, socket] = [&self.program, &self.socket].map(|path| path.display().to_string());
        let pid_file = self.socket.with_extension("terminal");
        let pid_path = pid_file.display();
        let line = format!("echo $$ > '{pid_path}'; exec '{meshctl}' --socket '{socket}' {words}");
        let mut command = self.bare(&script);
        command.env("PATH", "/usr/bin:/bin").env("SHELL", "/bin/sh").env("TERM", "xterm");
        // What is typed on the terminal: nothing, and not its end.
        command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut terminal = command.spawn().context("run script")?;
        std::thread::sleep(MOMENT);
        let pid = std::fs::read_to_string(&pid_file).context("it did not start")?;
        let proc = PathBuf::from(format!("/proc/{}/exe", pid.trim()));
        let runs = || std::fs::read_link(&proc).is_ok_and(|exe| exe == self.program);
        ensure!(runs(), "it has ended by itself");
        terminal.kill()?;
        terminal.wait()?;
        let began = Instant::now();
        while runs() {
            ensure!(began.elapsed() < PATIENCE, "it goes on without its terminal");
            std::thread::sleep(Duration::from_millis(50));
        }
        std::fs::remove_file(&pid_file)?;
        Ok(began.elapsed())
    }

    fn bare(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.environment).stdin(Stdio::null());
        command
    }
}

fn said(output: Output) -> Result<Said> {
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ensure!(!err.contains("panicked"), "it panicked: {err}");
    Ok(Said { code: output.status.code(), out, err })
}
