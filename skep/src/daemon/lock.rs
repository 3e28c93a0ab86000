//! One daemon for one data root and one exec root. The locks are the kernel's: they go with the process, however it dies,
//! and no shim inherits them (they are close-on-exec). A killed daemon may take a moment to die: that long the next one
//! waits.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// How long a dying daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

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
        let mut holder = String::new();
        let mut file = lock_within(PATIENCE, file, &mut holder).map_err(|error| match error {
            Errno::EWOULDBLOCK => {
                let whose = if holder.is_empty() { String::new() } else { format!(" (pid {holder})") };
                anyhow::anyhow!(
                    "the {name} {shown} is in use by another skep daemon{whose}: stop it, or give this one another --{name}"
                )
            }
            error => anyhow::Error::new(error).context(format!("cannot lock {}", path.display())),
        })?;
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

/// Takes the lock, waiting for a holder that is about to end. `holder` gets its pid as the file tells it.
fn lock_within(patience: Duration, mut file: File, holder: &mut String) -> Result<Flock<File>, Errno> {
    let deadline = Instant::now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => {
                // It had further locks, which it lets go of until it is gone.
                while !holder.is_empty() && is_alive(holder) && Instant::now() < deadline {
                    std::thread::sleep(PAUSE);
                }
                return Ok(file);
            }
            Err((mut held, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                let mut text = String::new();
                // Without a pid the error only says less.
                let _ = held.rewind().and_then(|()| held.read_to_string(&mut text));
                text.trim().clone_into(holder);
                file = held;
                std::thread::sleep(PAUSE);
            }
            Err((_, error)) => return Err(error),
        }
    }
}

/// True while a process runs; one that only waits for its parent to notice has let go of everything.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X') | None))
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

    #[test]
    fn a_holder_that_ends_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(dir.path(), "data-root").unwrap();
        // The file names a process that has ended, as a killed daemon's does.
        std::fs::write(dir.path().join("skep.lock"), "999999999\n").unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(PAUSE * 5);
            drop(lock);
        });
        FolderLock::take(dir.path(), "data-root").unwrap();
        holder.join().unwrap();
    }
}
