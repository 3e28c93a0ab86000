//! One daemon for one data root and one exec root. The locks are the kernel's: they go with the process, however it dies,
//! and no shim inherits them (they are close-on-exec).

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A locked folder.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: Flock<File>,
}

impl FolderLock {
    /// Makes the folder if need be and locks it.
    pub(super) fn take(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let shown = folder.display();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(folder)
            .with_context(|| format!("cannot make the {name} {shown}"))?;
        let path = folder.join("skep.lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).ok();
                let whose = if pid.trim().is_empty() { String::new() } else { format!(" (pid {})", pid.trim()) };
                bail!(
                    "the {name} {shown} is in use by another skep daemon{whose}: stop it, or give this one another --{name}"
                )
            }
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_free_again_after() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(dir.path(), "data-root").unwrap();
        let error = FolderLock::take(dir.path(), "data-root").unwrap_err().to_string();
        assert!(error.contains("in use by another skep daemon") && error.contains("--data-root"), "{error}");
        drop(lock);
        FolderLock::take(dir.path(), "data-root").unwrap();
    }
}
