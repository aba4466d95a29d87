//! The API server of envtest: the released `etcd` and `kube-apiserver`, with keys for service account tokens, RBAC and
//! an audit log, as the suite needs them.
//!
//! Not exercised by the project's own CI, which has no such binaries: the flags are the documented ones.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const AUDIT: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: None\n  \
                     users: [\"system:apiserver\"]\n- level: Metadata\n";

/// Makes keys, certificates, the audit policy and the administrator's kubeconfig.
pub(crate) fn prepare(directory: &Path, port: u16) -> Result<()> {
    let pki = directory.join("pki");
    std::fs::create_dir_all(&pki)?;
    std::fs::write(directory.join("audit-policy.yaml"), AUDIT)?;
    std::fs::write(
        pki.join("server.ext"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc\n",
    )?;
    std::fs::write(pki.join("admin.ext"), "extendedKeyUsage=clientAuth\n")?;
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    openssl(&pki, &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "sa.key"])?;
    let authority =
        ["req", "-x509", "-subj", "/CN=kube-ca", "-days", "30", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(&pki, &[&authority[..], &key].concat())?;
    for (name, subject) in [("server", "/CN=kube-apiserver"), ("admin", "/O=system:masters/CN=admin")] {
        let file = |end: &str| format!("{name}.{end}");
        let (csr, secret, ext, crt) = (file("csr"), file("key"), file("ext"), file("crt"));
        let request = ["req", "-subj", subject, "-keyout", &secret, "-out", &csr];
        openssl(&pki, &[&request[..], &key].concat())?;
        let sign = ["x509", "-req", "-in", &csr, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(&pki, &[&sign[..], &["-days", "30", "-extfile", &ext, "-out", &crt]].concat())?;
    }
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "kube",
        "clusters": [{"name": "kube", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "certificate-authority": pki.join("ca.crt")}}],
        "users": [{"name": "admin", "user": {
            "client-certificate": pki.join("admin.crt"), "client-key": pki.join("admin.key")}}],
        "contexts": [{"name": "kube", "context": {"cluster": "kube", "user": "admin"}}],
    });
    std::fs::write(directory.join("kubeconfig"), config.to_string())?;
    Ok(())
}

/// Starts both; etcd is the first, so that it ends last.
pub(crate) fn spawn(
    assets: &Path,
    directory: &Path,
    [port, etcd_port, peer_port]: [u16; 3],
    compaction: Option<Duration>,
) -> Result<[Child; 2]> {
    let url = |port| format!("http://127.0.0.1:{port}");
    let path = |name: &str| directory.join(name).display().to_string();
    let etcd = [
        ("data-dir", path("etcd")),
        ("listen-client-urls", url(etcd_port)),
        ("advertise-client-urls", url(etcd_port)),
        ("listen-peer-urls", url(peer_port)),
        ("initial-advertise-peer-urls", url(peer_port)),
        ("initial-cluster", format!("default={}", url(peer_port))),
        ("unsafe-no-fsync", "true".to_owned()),
    ];
    let every = compaction.unwrap_or(Duration::from_secs(300));
    let server = [
        ("etcd-servers", url(etcd_port)),
        ("etcd-compaction-interval", format!("{}ms", every.as_millis())),
        ("bind-address", "127.0.0.1".to_owned()),
        ("secure-port", port.to_string()),
        ("tls-cert-file", path("pki/server.crt")),
        ("tls-private-key-file", path("pki/server.key")),
        ("client-ca-file", path("pki/ca.crt")),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("service-account-key-file", path("pki/sa.key")),
        ("service-account-signing-key-file", path("pki/sa.key")),
        ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
        ("authorization-mode", "RBAC".to_owned()),
        // Its controller, which makes the accounts, is not there.
        ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ("allow-privileged", "true".to_owned()),
        ("audit-policy-file", path("audit-policy.yaml")),
        ("audit-log-path", path("audit.log")),
        ("audit-log-mode", "blocking".to_owned()),
    ];
    Ok([
        start(&assets.join("etcd"), directory, &etcd)?,
        start(&assets.join("kube-apiserver"), directory, &server)?,
    ])
}

fn start(program: &Path, directory: &Path, flags: &[(&str, String)]) -> Result<Child> {
    let log = File::options().create(true).append(true).open(directory.join("log"))?;
    Command::new(program)
        .args(flags.iter().map(|(name, value)| format!("--{name}={value}")))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {} (KUBEBUILDER_ASSETS names its directory)", program.display()))
}

fn openssl(directory: &Path, arguments: &[&str]) -> Result<()> {
    let output =
        Command::new("openssl").args(arguments).current_dir(directory).output().context("start openssl")?;
    if !output.status.success() {
        bail!("openssl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
