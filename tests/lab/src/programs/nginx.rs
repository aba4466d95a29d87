//! nginx with a configuration made for the test.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::{Server, start, text};
use crate::pod::Pod;

/// An nginx to be started.
#[derive(Debug)]
pub struct Nginx {
    pod: Arc<Pod>,
    ports: Vec<u16>,
    access_log: bool,
    limit_rate: Option<usize>,
    files: Vec<(String, Vec<u8>)>,
}

/// nginx in a pod, serving files on all addresses of both families. `/whoami` answers with the client's address as nginx
/// sees it; PUT to `/upload/` is taken.
pub fn nginx(pod: &Arc<Pod>) -> Nginx {
    Nginx { pod: pod.clone(), ports: Vec::new(), access_log: false, limit_rate: None, files: Vec::new() }
}

impl Nginx {
    /// A port to listen on; 80 if none is named.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.ports.push(port);
        self
    }

    /// A file to serve, by its path below `/`.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.trim_start_matches('/').to_owned(), content.into()));
        self
    }

    /// Writes an access log (`Nginx::directory` has it).
    #[must_use]
    pub fn access_log(mut self) -> Self {
        self.access_log = true;
        self
    }

    /// Takes its time: no answer goes faster than this, in bytes per second.
    #[must_use]
    pub fn limit_rate(mut self, bytes: usize) -> Self {
        self.limit_rate = Some(bytes);
        self
    }

    /// Where its configuration, files (`www`) and logs are.
    pub fn directory(&self) -> Result<PathBuf> {
        self.pod.directory("nginx")
    }

    /// Starts it.
    pub fn start(mut self) -> Result<Server> {
        if self.ports.is_empty() {
            self.ports.push(80);
        }
        let directory = self.directory()?;
        for sub in ["www/upload", "temp"] {
            std::fs::create_dir_all(directory.join(sub))?;
        }
        for (path, content) in &self.files {
            let path = directory.join("www").join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(path, content)?;
        }
        let config = directory.join("nginx.conf");
        std::fs::write(&config, self.configuration(text(&directory)?))?;
        let prefix = format!("{}/", text(&directory)?);
        let command = self.pod.command(["nginx", "-p", &prefix, "-e", "stderr", "-c", text(&config)?])?;
        start(&self.pod, command, self.ports[0])
    }

    fn configuration(&self, directory: &str) -> String {
        let access = if self.access_log { format!("{directory}/access.log") } else { "off".to_owned() };
        let mut text = format!(
            "daemon off; user root; worker_processes 1; pid {directory}/pid; error_log stderr warn;\n\
             worker_rlimit_nofile 65536;\n\
             events {{ worker_connections 16384; }}\n\
             http {{\n  access_log {access};\n  default_type application/octet-stream;\n  sendfile on; tcp_nopush on;\n  \
             keepalive_requests 1000000; client_max_body_size 0;\n"
        );
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(text, "  {kind}_temp_path {directory}/temp/{kind};");
        }
        text.push_str("  server {\n");
        if let Some(bytes) = self.limit_rate {
            let _ = writeln!(text, "    limit_rate {bytes};");
        }
        for port in &self.ports {
            let _ =
                writeln!(text, "    listen 0.0.0.0:{port} backlog=4096; listen [::]:{port} backlog=4096;");
        }
        let _ = writeln!(
            text,
            "    root {directory}/www;\n    \
             location = /whoami {{ default_type text/plain; return 200 \"$remote_addr\\n\"; }}\n    \
             location /upload/ {{ dav_methods PUT; }}\n  }}\n}}"
        );
        text
    }
}
