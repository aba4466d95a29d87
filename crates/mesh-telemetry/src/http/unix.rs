//! A unix socket's file: made so that nobody else can ever open it, replaced only when its owner is gone.
//!
//! Two processes that start at once are kept apart by a lock on the directory: without it both would find the file
//! stale, and the slower one would remove the faster one's socket. The mode is set on the socket *before* it is bound
//! (the kernel gives the file that mode), so there is no moment at which another user could connect.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::server::BindError;

const BACKLOG: i32 = 128;
/// `sun_path` has 108 bytes and ends with a zero.
const PATH_LIMIT: usize = 107;

/// The file of a socket that this process listens on. Dropped: removed, unless somebody else's stands there by now.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the admin socket's file could not be removed");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

pub(super) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(BindError::TooLong(path.into()));
    }
    let failed = |source| BindError::Unix { path: path.into(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Held until the end of this function.
    let _lock = lock(directory).map_err(|source| BindError::Directory { path: directory.into(), source })?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.into())),
        Ok(_) => {
            if is_live(path) {
                return Err(BindError::Live(path.into()));
            }
            tracing::info!(path = %path.display(), "replacing a socket file whose process is gone");
            fs::remove_file(path).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = listen(path).map_err(failed)?;
    let file = SocketFile { path: path.into(), file: identity(path).map_err(failed)? };
    Ok((listener, file))
}

fn lock(directory: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let directory = File::open(directory)?;
    directory.lock()?;
    Ok(directory)
}

/// Whether a process listens there. Only "connection refused" says that none does: a full backlog, for one, does not.
/// Non-blocking, or a full backlog would hold us here.
fn is_live(path: &Path) -> bool {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    !matches!(connect(), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}
