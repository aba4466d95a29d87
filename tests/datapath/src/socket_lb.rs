//! A socket load balancer beside the mesh: connect hooks that rewrite one Service address to one endpoint, as Cilium's do in
//! place of kube-proxy. Written by hand, in the kernel's own instructions: nothing is compiled, and no object is needed.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::libc;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_LINK_CREATE: libc::c_long = 28;
const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const INET4_CONNECT: u32 = 10;
const INET6_CONNECT: u32 = 11;
const ALLOW_MULTI: u32 = 2;

/// How its programs are attached; they are gone when this is dropped.
#[derive(Debug)]
pub enum Attached {
    /// By links, as newer load balancers do.
    Links(Vec<OwnedFd>),
    /// By `BPF_PROG_ATTACH` with `BPF_F_ALLOW_MULTI`, as older ones do: cgroup, program, kind.
    Programs(Vec<(File, OwnedFd, u32)>),
}

/// Which way to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `BPF_LINK_CREATE`.
    Link,
    /// `BPF_PROG_ATTACH`.
    Attach,
}

/// Rewrites connects below a cgroup: for each pair, from a Service's address to an endpoint of its family.
pub fn attach(cgroup: &Path, rewrites: &[(SocketAddr, SocketAddr)], by: By) -> Result<Attached> {
    let mut attached = match by {
        By::Link => Attached::Links(Vec::new()),
        By::Attach => Attached::Programs(Vec::new()),
    };
    for (from, to) in rewrites {
        let (kind, code) = match (from, to) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) => (INET4_CONNECT, rewrite(*from, *to)),
            (SocketAddr::V6(_), SocketAddr::V6(_)) => (INET6_CONNECT, rewrite(*from, *to)),
            _ => bail!("{from} and {to} are of two families"),
        };
        let program = load(&code, kind).with_context(|| format!("load what rewrites {from} to {to}"))?;
        let directory = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
        let (cgroup_fd, program_fd) = (directory.as_raw_fd() as u32, program.as_raw_fd() as u32);
        match &mut attached {
            Attached::Links(links) => {
                let link = bpf(BPF_LINK_CREATE, &[program_fd, cgroup_fd, kind, 0]).context("make a link")?;
                links.push(owned(link));
            }
            Attached::Programs(programs) => {
                bpf(BPF_PROG_ATTACH, &[cgroup_fd, program_fd, kind, ALLOW_MULTI]).context("attach")?;
                programs.push((directory, program, kind));
            }
        }
    }
    Ok(attached)
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Self::Programs(programs) = self {
            for (cgroup, program, kind) in programs {
                let detached =
                    bpf(BPF_PROG_DETACH, &[cgroup.as_raw_fd() as u32, program.as_raw_fd() as u32, *kind, 0]);
                if let Err(error) = detached {
                    eprintln!("a load balancer's hook stays: {error}");
                }
            }
        }
    }
}

/// Offsets in `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;

/// One instruction: code, destination register, source register, offset, immediate.
fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: u32) -> u64 {
    u64::from(code)
        | u64::from(dst | src << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate) << 32
}

/// If the destination is `from`, it becomes `to`; the connect passes in any case.
fn rewrite(from: SocketAddr, to: SocketAddr) -> Vec<u64> {
    let fields = |address: SocketAddr| -> Vec<(i16, u32)> {
        let octets = match address.ip() {
            std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
            std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let first = if address.is_ipv4() { USER_IP4 } else { USER_IP6 };
        let words =
            octets.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        let port = u32::from(address.port().to_be());
        (0..).map(|number| first + 4 * number).zip(words).chain([(USER_PORT, port)]).collect()
    };
    let (compared, written) = (fields(from), fields(to));
    let mut code = Vec::new();
    for (number, (offset, word)) in compared.iter().enumerate() {
        // Over the rest of the comparisons and all that is written.
        let over = 2 * (compared.len() - number - 1) + 2 * written.len();
        code.push(instruction(0x61, 2, 1, *offset, 0));
        code.push(instruction(0x56, 2, 0, over as i16, *word));
    }
    for (offset, word) in written {
        code.push(instruction(0xb4, 3, 0, 0, word));
        code.push(instruction(0x63, 1, 3, offset, 0));
    }
    code.push(instruction(0xb7, 0, 0, 0, 1));
    code.push(instruction(0x95, 0, 0, 0, 0));
    code
}

/// What is given of `union bpf_attr` to load a program.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    expected_attach: u32,
}

fn load(code: &[u64], attach: u32) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 1 << 16];
    let mut name = [0; 16];
    name[..9].copy_from_slice(b"socket_lb");
    let load = Load {
        kind: PROG_TYPE_CGROUP_SOCK_ADDR,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        kernel: 0,
        flags: 0,
        name,
        device: 0,
        expected_attach: attach,
    };
    match bpf(BPF_PROG_LOAD, &load) {
        Ok(fd) => Ok(owned(fd)),
        Err(error) => {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            Err(error).with_context(|| String::from_utf8_lossy(&log[..end]).into_owned())
        }
    }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: bpf(2) has just returned this descriptor, which nobody else knows.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the pointer is to a live value of the size that is passed; what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
