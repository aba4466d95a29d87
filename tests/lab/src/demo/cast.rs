//! Who plays: the pods of the samples, each with its program.

use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};

use super::samples;
use crate::binaries;
use crate::lab::Lab;
use crate::pod::Pod;
use crate::programs::{self, Nginx, Server, nginx};

/// What the shop's web server serves, many times over.
pub(super) const ORDERS: &str = "order 4711: 3 blue teapots, paid with card 4000 1234 5678 9010\n";
/// What the server outside the mesh serves.
pub(super) const INVOICES: &str = "invoice 1047: 9 red kettles, paid with card 4000 9876 5432 1098\n";
/// What the web servers serve in no time.
const PRICE: &str = "a blue teapot is 12.50\n";
/// What the database answers.
pub(super) const STOCK: &str = "12 blue teapots are left on shelf 7; ";
/// What is in the shopping cart.
pub(super) const CART: &str = "3 blue teapots for alice; ";
/// Lines of a file that a web server serves: about 96 KiB.
pub(super) const LINES: usize = 1536;
/// How long servers take for their answers, in seconds, so that there is a conversation to look at.
pub(super) const HOLD: usize = 2;

pub(super) const WEB_PORT: u16 = 8080;
pub(super) const DB_PORT: u16 = 3306;
pub(super) const CART_PORT: u16 = 6379;

/// Pods and programs. A program ends with its handle.
#[derive(Debug)]
pub(super) struct Cast {
    pods: Vec<Arc<Pod>>,
    _servers: Vec<Server>,
}

/// Names everything that is not installed or not built, at once.
pub(super) fn check_programs() -> Result<()> {
    for program in ["mesh-agent", "mesh-controller", "meshctl", "weft-lab-peer"] {
        binaries::binary(program)?;
    }
    let wanted = ["nginx", "mariadbd", "mariadb", "redis-server", "redis-cli", "curl", "tcpdump", "nft"];
    let missing: Vec<&str> = wanted.into_iter().filter(|name| binaries::system(name).is_none()).collect();
    if !missing.is_empty() {
        bail!("not installed: {}; run `cargo xtask setup`", missing.join(", "));
    }
    Ok(())
}

impl Cast {
    /// Starts all pods and all servers, and says so.
    pub(super) fn start(lab: &Lab) -> Result<(Self, String)> {
        let pods = samples::start_pods(lab)?;
        let cast = Self { pods, _servers: Vec::new() };
        let [web, db] = [cast.pod("shop/web")?, cast.pod("shop/db")?];
        let [cart, files] = [cast.pod("shop/cart")?, cast.pod("legacy/files")?];
        let serve = |pod, file, line| serving(nginx(pod), file, line).start();
        let servers = thread::scope(|scope| {
            let starts = [
                scope.spawn(|| serve(web, "orders", ORDERS)),
                scope.spawn(|| serve(files, "invoices", INVOICES)),
                scope.spawn(|| programs::redis(cart, CART_PORT)),
                scope.spawn(|| mariadb(db)),
            ];
            let results = starts.into_iter().map(|start| start.join());
            results.map(|result| result.unwrap_or_else(|_| bail!("panicked"))).collect::<Result<Vec<_>>>()
        })?;
        let text = format!("{} pods run unmodified programs: nginx, MariaDB, Redis, curl", cast.pods.len());
        Ok((Self { _servers: servers, ..cast }, text))
    }

    /// One more, which brings its own program.
    pub(super) fn join(&mut self, pod: Arc<Pod>) {
        self.pods.push(pod);
    }

    /// A pod by `NAMESPACE/NAME`.
    pub(super) fn pod(&self, key: &str) -> Result<&Arc<Pod>> {
        let found = self.pods.iter().find(|pod| pod.key() == key);
        found.with_context(|| format!("the samples have no pod {key}"))
    }

    /// All of them.
    pub(super) fn pods(&self) -> &[Arc<Pod>] {
        &self.pods
    }

    /// Those in the mesh.
    pub(super) fn enrolled(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|pod| is_enrolled(pod))
    }
}

/// A web server with a long file that takes its time, and a short one.
pub(super) fn serving(server: Nginx, file: &str, line: &str) -> Nginx {
    // nginx sends the first second's worth at once.
    let (text, rate) = (line.repeat(LINES), line.len() * LINES / (HOLD + 1));
    server.port(WEB_PORT).file(file, text).file("price", PRICE).limit_rate(rate)
}

/// Whether the samples put it into the mesh.
pub(super) fn is_enrolled(pod: &Pod) -> bool {
    pod.namespace() == "shop"
}

/// MariaDB without tables of users, so that nothing has to be installed first: up in a fraction of a second.
fn mariadb(pod: &Pod) -> Result<Server> {
    let directory = programs::owned_directory(pod, "mariadb", "mysql")?;
    let data = programs::owned_directory(pod, "mariadb/data", "mysql")?;
    let file = |name: &str| directory.join(name).display().to_string();
    let command = pod.command([
        "mariadbd",
        "--no-defaults",
        "--user=mysql",
        "--skip-grant-tables",
        "--skip-name-resolve",
        "--bind-address=*",
        "--innodb-buffer-pool-size=8M",
        "--innodb-log-file-size=4M",
        &format!("--datadir={}", data.display()),
        &format!("--port={DB_PORT}"),
        &format!("--socket={}", file("socket")),
        &format!("--pid-file={}", file("pid")),
    ])?;
    programs::start(pod, command, DB_PORT)
}
