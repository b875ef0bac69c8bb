//! Where the admin API listens: an address, or a Unix socket for the host's own user, which is removed at the end.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::Listen;

/// A bound listener.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Listens. Must be called inside a runtime.
    pub(super) fn bind(listen: &Listen) -> Result<(Listener, Bound), Error> {
        match listen {
            Listen::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                Ok((Listener::Tcp(TcpListener::from_std(listener)?), Bound::Tcp(address)))
            }
            Listen::Unix(path) => {
                let (listener, socket) = bind_socket(path)?;
                Ok((Listener::Unix(listener), Bound::Unix(socket)))
            }
        }
    }

    pub(super) async fn accept(&self) -> Result<Stream, Error> {
        match self {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// Where it listens. A socket is removed with the value.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(SocketAddr),
    Unix(Socket),
}

impl Bound {
    pub(super) fn listen(&self) -> Listen {
        match self {
            Bound::Tcp(address) => Listen::Tcp(*address),
            Bound::Unix(socket) => Listen::Unix(socket.path.clone()),
        }
    }
}

/// The file of a socket.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Drop for Socket {
    /// Another host may have put its own socket there.
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// A host that was killed leaves its socket. It is replaced, unless a host answers there.
fn bind_socket(path: &Path) -> Result<(UnixListener, Socket), Error> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(Error::new(ErrorKind::AlreadyExists, "the file is there, and is no socket"));
            }
            match Probe::connect(path) {
                Err(stale) if stale.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(other) => return Err(other),
                Ok(_) => return Err(Error::new(ErrorKind::AddrInUse, "another host listens there")),
            }
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    let socket = Socket { path: path.to_owned(), identity: identity(path) };
    // The program creates everything for its user alone (`private.rs`), so nobody else could connect until here.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok((listener, socket))
}
