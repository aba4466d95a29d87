//! How addresses and errors are written in the output.

use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;

/// The error's name as in errno(3); `timeout` for a socket timeout.
pub(crate) fn errno(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            if error.raw_os_error() != Some(libc::ETIMEDOUT) =>
        {
            "timeout".to_owned()
        }
        _ => match error.raw_os_error() {
            Some(code) => format!("{:?}", Errno::from_raw(code)),
            None => error.to_string(),
        },
    }
}

/// An address, with what is mapped into IPv6 written as IPv4.
pub(crate) fn address(address: io::Result<SocketAddr>) -> serde_json::Value {
    match address {
        Ok(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).to_string().into(),
        Err(error) => errno(&error).into(),
    }
}
