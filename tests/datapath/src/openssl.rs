//! OpenSSL's command line as a witness that shares no code with the mesh: what certificates say, and a peer of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Lab, Node, Output, Pod, Process};

/// The port of HBONE.
pub const HBONE: u16 = 15008;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// A certificate and its key, as files.
#[derive(Debug)]
pub struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

/// Who signs a pair.
#[derive(Clone, Copy, Debug)]
pub enum Signer {
    /// The mesh's authority, whose key is in the controller's state directory.
    Mesh,
    /// The pair itself.
    Itself,
}

impl Pair {
    /// Makes a pair for a SPIFFE ID.
    pub fn make(lab: &Lab, name: &str, identity: &str, signer: Signer) -> Result<Self> {
        let node = &lab.nodes()[0];
        let file = |suffix: &str| node.directory().join(format!("{name}.{suffix}"));
        let pair = Self { cert: file("pem"), key: file("key") };
        let extensions = format!("subjectAltName=critical,URI:{identity}");
        let (key, cert, request) = (text(&pair.key)?, text(&pair.cert)?, file("csr"));
        let new =
            ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let subject = ["-subj", "/", "-keyout", key];
        match signer {
            Signer::Itself => {
                let more = ["-x509", "-days", "1", "-addext", &extensions, "-out", cert];
                run(node, new.iter().chain(&subject).chain(&more))?;
            }
            Signer::Mesh => {
                run(node, new.iter().chain(&subject).chain(&["-out", text(&request)?]))?;
                let usage = file("ext");
                std::fs::write(&usage, format!("{extensions}\nextendedKeyUsage=serverAuth,clientAuth\n"))?;
                let root = lab.controller().root_cert();
                let authority = root.with_file_name("ca.key");
                let sign = ["openssl", "x509", "-req", "-in", text(&request)?, "-CA", text(&root)?, "-CAkey"];
                let more = [text(&authority)?, "-days", "1", "-extfile", text(&usage)?, "-out", cert];
                run(node, sign.iter().chain(&more))?;
            }
        }
        Ok(pair)
    }
}

/// What a client without knowledge of HBONE, on a node and outside every pod, makes of a pod's HBONE port.
#[derive(Debug)]
pub struct Visit {
    said: String,
}

impl Visit {
    /// Connects, with a certificate or without, and sends a line.
    pub fn pay(lab: &Lab, node: &str, to: &Pod, with: Option<&Pair>) -> Result<Self> {
        let (node, to) = (lab.node(node), format!("{}:{HBONE}", to.v4()));
        let root = lab.controller().root_cert();
        let mut words =
            vec!["openssl", "s_client", "-connect", &to, "-alpn", "h2", "-CAfile", text(&root)?, "-ign_eof"];
        if let Some(pair) = with {
            words.extend(["-cert", text(&pair.cert)?, "-key", text(&pair.key)?]);
        }
        // Not HTTP/2: a server that serves answers with a frame or hangs up, one that does not serve with an alert.
        let command = node.command(words)?.input("hello\n").timeout(Duration::from_secs(15));
        let output = command.run()?;
        Ok(Self { said: format!("{}\n{}", output.text(), output.errors()) })
    }

    /// SPIFFE ID of the server's certificate, which must lead to the mesh's root, under TLS 1.3.
    pub fn identity(&self, lab: &Lab) -> Result<String> {
        ensure!(self.said.contains("Verification: OK"), "not the mesh's root: {}", self.said);
        ensure!(self.said.contains("TLSv1.3"), "not TLS 1.3: {}", self.said);
        identity(lab, &self.said)
    }

    /// The alert by which the server hung up.
    pub fn alert(&self) -> Result<String> {
        let line = self.said.lines().find(|line| line.contains("alert") && line.contains("error:"));
        let words = line.with_context(|| format!("no alert: {}", self.said))?;
        Ok(words.split(':').find(|part| part.contains("alert")).unwrap_or(words).to_owned())
    }
}

/// A TLS server that is no part of the mesh, on a pod's HBONE port: it prints who comes.
pub fn host(lab: &Lab, pod: &Pod, with: &Pair) -> Result<Process> {
    let root = lab.controller().root_cert();
    let port = HBONE.to_string();
    // It ends with its standard input.
    let words =
        ["sh", "-c", "sleep 60 | exec openssl s_server \"$@\"", "sh", "-accept", &port, "-alpn", "h2"];
    let more = ["-Verify", "1", "-verify_return_error", "-CAfile", text(&root)?, "-cert", text(&with.cert)?];
    let key = ["-key", text(&with.key)?];
    let process = pod.spawn(words.iter().chain(&more).chain(&key))?;
    pod.await_listening(HBONE, Duration::from_secs(10)).with_context(|| process.failure_report())?;
    Ok(process)
}

/// SPIFFE ID of the first certificate in a text. It has that one name and no other.
pub fn identity(lab: &Lab, text: &str) -> Result<String> {
    let certificate = text
        .find(BEGIN)
        .and_then(|start| Some(&text[start..start + text[start..].find(END)? + END.len()]))
        .with_context(|| format!("no certificate in: {text}"))?;
    let words = ["openssl", "x509", "-noout", "-ext", "subjectAltName"];
    let said = lab.nodes()[0].command(words)?.input(format!("{certificate}\n")).run()?.ok()?.text();
    let names = said.lines().last().unwrap_or_default().trim();
    match names.strip_prefix("URI:") {
        Some(name) if !names.contains(',') => Ok(name.to_owned()),
        _ => bail!("names of the certificate: {said}"),
    }
}

fn run<'a>(node: &Node, words: impl Iterator<Item = &'a &'a str>) -> Result<Output> {
    node.command(words)?.run()?.ok()
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
