//! `weft-escape`: what a program in a pod does to get around the mesh, or to be somebody else. It says in JSON how far it got.
//!
//! System calls as such a program would make them, and no knowledge of any mesh: what came of it is judged by the tests, at
//! the other end and on the wire.

mod dial;
mod hand;
mod link;
mod packet;
mod raw;
mod uring;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Ways out of a pod.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    way: Way,
}

#[derive(Debug, Subcommand)]
enum Way {
    /// Connect, say something, and print what is answered.
    Dial(dial::Dial),
    /// Open a TCP socket here and hand it to whoever comes to a unix socket.
    HandOver {
        /// The unix socket.
        #[arg(long)]
        at: PathBuf,
        /// An IPv6 socket.
        #[arg(long)]
        v6: bool,
    },
    /// Begin a connection with packets of one's own making.
    Raw {
        /// Whom they say they are from.
        #[arg(long)]
        from: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
        /// What is said once the other end has answered.
        #[arg(long, default_value = "")]
        say: String,
        /// Send frames on this interface (AF_PACKET), not datagrams of a raw socket.
        #[arg(long)]
        device: Option<String>,
        /// How long to wait for each answer.
        #[arg(long, default_value_t = 1000)]
        timeout_ms: u64,
    },
    /// Claim an address by ARP on an interface, until killed.
    Claim {
        #[arg(long)]
        address: Ipv4Addr,
        #[arg(long, default_value = "eth0")]
        device: String,
    },
    /// Send one UDP datagram.
    Datagram {
        #[arg(long)]
        from: IpAddr,
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        say: String,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().way {
        Way::Dial(dial) => dial.run(),
        Way::HandOver { at, v6 } => hand::over(&at, v6),
        Way::Raw { from, to, say, device, timeout_ms } => {
            raw::converse(from, to, &say, device.as_deref(), Duration::from_millis(timeout_ms))
        }
        Way::Claim { address, device } => link::claim(address, &device),
        Way::Datagram { from, to, say } => {
            let socket = std::net::UdpSocket::bind((from, 0))?;
            socket.send_to(say.as_bytes(), to)?;
            println!("{{}}");
            Ok(())
        }
    }
}
