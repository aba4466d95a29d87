//! What is measured: three paths, eight works, and the unit in which each work's cost is told.

use std::fmt;
use std::str::FromStr;

/// Where client and server are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// On two nodes.
    CrossNode,
    /// On one node.
    SameNode,
    /// On two nodes, the server outside the mesh.
    Outside,
}

/// What the programs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// iperf3, from client to server.
    Throughput,
    /// 64 bytes there and back on open connections.
    Request,
    /// Connect, a byte there and back, close.
    Connect,
    /// HTTP/1.1 GETs with keep-alive.
    Http,
}

/// A kind with its number of streams, connections or threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// What.
    pub kind: Kind,
    /// How many at once.
    pub width: u16,
}

/// All paths, in the order of the report.
pub const PATHS: [Path; 3] = [Path::CrossNode, Path::SameNode, Path::Outside];

/// All works, in the order of the report.
pub const WORKS: [Work; 8] = [
    Work { kind: Kind::Throughput, width: 1 },
    Work { kind: Kind::Throughput, width: 8 },
    Work { kind: Kind::Request, width: 1 },
    Work { kind: Kind::Request, width: 32 },
    Work { kind: Kind::Connect, width: 1 },
    Work { kind: Kind::Connect, width: 8 },
    Work { kind: Kind::Http, width: 1 },
    Work { kind: Kind::Http, width: 32 },
];

/// Those that policies are measured by.
pub const POLICY_WORKS: [Work; 3] = [
    Work { kind: Kind::Connect, width: 1 },
    Work { kind: Kind::Connect, width: 8 },
    Work { kind: Kind::Request, width: 1 },
];

impl Kind {
    /// Unit of the CPU per unit of work: a GB is 10^9 bytes.
    pub fn cost_unit(self) -> &'static str {
        match self {
            Self::Throughput => "s/GB",
            Self::Request | Self::Http => "us/request",
            Self::Connect => "us/connection",
        }
    }

    /// CPU per unit of work, in [`Kind::cost_unit`].
    pub fn cost(self, cpu_seconds: f64, units: f64) -> f64 {
        let per_unit = cpu_seconds / units;
        if self == Self::Throughput { per_unit } else { per_unit * 1e6 }
    }
}

impl Work {
    /// Whether the two sides are compared by the median time of one exchange, not by rates: with one connection and one
    /// request outstanding the time is what an application waits for.
    pub fn compares_times(self) -> bool {
        self == Self { kind: Kind::Request, width: 1 }
    }

    /// Unit of the figures that are compared.
    pub fn figure_unit(self) -> &'static str {
        match self.kind {
            _ if self.compares_times() => "us",
            Kind::Throughput => "Gbit/s",
            Kind::Request | Kind::Http => "req/s",
            Kind::Connect => "conn/s",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CrossNode => "cross-node",
            Self::SameNode => "same-node",
            Self::Outside => "outside",
        })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Throughput => "throughput",
            Kind::Request => "rr",
            Kind::Connect => "connect",
            Kind::Http => "http",
        };
        f.pad(&format!("{kind}-{}", self.width))
    }
}

impl FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(&PATHS, text, "path")
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(&WORKS, text, "work")
    }
}

fn by_name<T: Copy + fmt::Display>(all: &[T], text: &str, what: &str) -> Result<T, String> {
    let found = all.iter().copied().find(|one| one.to_string() == text);
    found.ok_or_else(|| {
        let names: Vec<String> = all.iter().map(T::to_string).collect();
        format!("no such {what}; there are {}", names.join(", "))
    })
}
