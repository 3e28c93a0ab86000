//! The sockets the API is served on. A stale unix socket of a killed daemon is replaced; one that answers is not.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::Host;

/// A socket that listens.
pub(super) enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    /// Opens the socket of an address.
    pub(super) async fn open(host: &Host) -> anyhow::Result<Self> {
        match host {
            Host::Unix(path) => Ok(Self::Unix(open_unix(path).await?, path.clone())),
            Host::Tcp(address) => {
                let listener = TcpListener::bind(address).await;
                Ok(Self::Tcp(listener.with_context(|| format!("cannot listen on tcp://{address}"))?))
            }
        }
    }
}

async fn open_unix(path: &Path) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            bail!("cannot listen on unix://{shown}: something else than a socket lies there");
        }
        if UnixStream::connect(path).await.is_ok() {
            bail!("cannot listen on unix://{shown}: another daemon answers there; give this one another --host");
        }
        std::fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {shown}"))?;
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder of the socket {shown}"))?;
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on unix://{shown}"))?;
    // As Docker's: for root and, where there is one, the group `docker`.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name("docker") {
        nix::unistd::chown(path, None, Some(group.gid)).with_context(|| format!("cannot set the group of {shown}"))?;
    }
    Ok(listener)
}
