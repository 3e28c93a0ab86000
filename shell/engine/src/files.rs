//! The files of a container: looked at, copied out and in, exported, compared with its image. A container that runs and one
//! that does not are seen alike: its root file system with its mounts, but without what only its processes have (`/proc`,
//! memory file systems, secrets), as Docker has it. Nothing that a container made of its file system leads out of it: every
//! path is resolved by the kernel with the container's root as the root (`openat2`, `RESOLVE_IN_ROOT`).

mod changes;
mod inside;
mod pack;
mod root;
mod unpack;

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{EngineError, Result};
use crate::tell::NOTHING;
use inside::InsidePath;
use pack::Packer;
use root::{Root, Scope};

pub use changes::{ChangeKind, FileChange};

/// Pieces of an archive that wait for a slow reader; then packing waits.
const PIECES: usize = 4;
/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// What a path in a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Its last component.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Kind and permissions, as the kernel has them.
    pub mode: u32,
    /// When it was changed, nanoseconds since 1970.
    pub modified_at: i64,
    /// Where a symbolic link leads in the end, within the container; empty for everything else.
    pub link_target: String,
}

/// A tar archive that is being made.
#[derive(Debug)]
pub struct Archive(mpsc::Receiver<io::Result<Bytes>>);

impl Archive {
    /// The next piece; an error is the last one.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.0.recv().await
    }
}

/// How an archive is unpacked into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extraction {
    /// A directory is not replaced by something else, nor the other way round.
    pub keep_kinds: bool,
    /// Everything belongs to the container's user instead of whom the archive names.
    pub to_user: bool,
}

impl Engine {
    /// What a path in a container is.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], [`EngineError::NoSuchFile`].
    pub async fn path_stat(&self, name: &str, path: &str) -> Result<PathStat> {
        let (container, missing) = (self.inner.table.find(name)?, missing(name, path));
        let path = InsidePath::parse(path);
        self.inner.in_files(&container, Scope::Mounts, move |root| root.stat(&path).map_err(missing)).await
    }

    /// A path in a container as an archive: a file alone, a directory with everything below it.
    ///
    /// # Errors
    /// As [`Self::path_stat`]; later ones are in the archive's stream.
    pub async fn archive(&self, name: &str, path: &str) -> Result<(PathStat, Archive)> {
        let (container, missing) = (self.inner.table.find(name)?, missing(name, path));
        let path = InsidePath::parse(path);
        let (sender, pieces) = mpsc::channel(PIECES);
        let (found, stat) = oneshot::channel();
        let (inner, packed) = (self.inner.clone(), container.clone());
        self.inner.tracker.spawn(async move {
            let pack = move |root: &Root| {
                let stat = match root.stat(&path) {
                    Ok(stat) => stat,
                    Err(error) => {
                        // Who does not wait any more does not want to know.
                        let _ = found.send(Err(missing(error)));
                        return Ok(());
                    }
                };
                if found.send(Ok(stat)).is_ok() {
                    finish(&sender, |out| Packer::new(out).path(root, &path));
                }
                Ok(())
            };
            if let Err(error) = inner.in_files(&packed, Scope::Mounts, pack).await {
                tracing::debug!(container.id = packed.id(), error = error.full_text(), "files were not copied");
            }
        });
        let stat = stat.await.map_err(|_| EngineError::Files(container.name()))??;
        self.inner.tell(&container, "archive-path", NOTHING);
        Ok((stat, Archive(pieces)))
    }

    /// Unpacks an archive, plain or compressed, into a directory of a container. `archive` is read on a thread that may block.
    ///
    /// # Errors
    /// [`EngineError::NoSuchFile`]; [`EngineError::Invalid`] when the path is no directory; [`EngineError::Forbidden`] where nobody may write.
    pub async fn extract(
        &self,
        name: &str,
        path: &str,
        how: Extraction,
        archive: impl Read + Send + 'static,
    ) -> Result<()> {
        let (container, missing) = (self.inner.table.find(name)?, missing(name, path));
        let path = InsidePath::parse(path);
        refuse_read_only(&container, &path)?;
        let owner = if how.to_user { Some(container.record.config.user.clone()) } else { None };
        let unpack = move |root: &Root| {
            let directory = root.directory(&path).map_err(missing)?;
            unpack::unpack(root, &directory, archive, how, owner.as_deref())
        };
        self.inner.in_files(&container, Scope::Mounts, unpack).await?;
        self.inner.tell(&container, "extract-to-dir", NOTHING);
        Ok(())
    }

    /// The root file system of a container, without what is mounted in it.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`]; later ones are in the archive's stream.
    pub fn export(&self, name: &str) -> Result<Archive> {
        let container = self.inner.table.find(name)?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let (inner, exported) = (self.inner.clone(), container.clone());
        self.inner.tracker.spawn(async move {
            let failed = sender.clone();
            let pack = move |root: &Root| {
                finish(&sender, |out| Packer::new(out).all(root));
                Ok(())
            };
            if let Err(error) = inner.in_files(&exported, Scope::Root, pack).await {
                let _ = failed.send(Err(io::Error::other(error.full_text()))).await;
            }
        });
        self.inner.tell(&container, "export", NOTHING);
        Ok(Archive(pieces))
    }

    /// What a container has changed of its image's files, by path.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`], or its files cannot be read.
    pub async fn changes(&self, name: &str) -> Result<Vec<FileChange>> {
        let container = self.inner.table.find(name)?;
        self.inner
            .blocking(move |inner| {
                let snapshot = inner.images.snapshot(container.id())?;
                changes::changes(&snapshot.upper, &snapshot.lower).map_err(|source| EngineError::Io {
                    what: "compare",
                    path: snapshot.upper,
                    source,
                })
            })
            .await
    }

    /// Bytes that a container has written, and bytes of all its files; `None` when it was just removed.
    pub async fn size(&self, id: &str) -> Option<(u64, u64)> {
        let container = self.inner.table.find(id).ok()?;
        let measure = move |inner: &Inner| {
            let written = inner.images.usage(container.id())?.bytes;
            let image = inner.images.get(&container.record.image_id).map_or(0, |image| image.size);
            Ok((written, written + image))
        };
        self.inner.blocking(measure).await.ok()
    }
}

/// Docker's text for a path that is not there; other failures are the machine's.
fn missing(container: &str, path: &str) -> impl Fn(io::Error) -> EngineError + Send + 'static {
    let (container, path) = (container.to_owned(), path.to_owned());
    move |error| match error.kind() {
        io::ErrorKind::NotFound => EngineError::NoSuchFile { path: path.clone(), container: container.clone() },
        io::ErrorKind::NotADirectory => EngineError::NoSuchFile { path: path.clone(), container: container.clone() },
        io::ErrorKind::InvalidInput => EngineError::Invalid(error.to_string()),
        _ => EngineError::Io { what: "open", path: Path::new(&path).to_owned(), source: error },
    }
}

/// Docker's texts; a mount decides for what lies on it.
fn refuse_read_only(container: &Container, path: &InsidePath) -> Result<()> {
    let absolute = path.absolute();
    let mounts = container.record.mounts.iter().filter(|mount| absolute.starts_with(&mount.destination));
    match mounts.max_by_key(|mount| Path::new(&mount.destination).components().count()) {
        Some(mount) if !mount.rw => Err(EngineError::Forbidden("mounted volume is marked read-only".to_owned())),
        None if container.record.config.read_only_rootfs => {
            Err(EngineError::Forbidden("container rootfs is marked read-only".to_owned()))
        }
        _ => Ok(()),
    }
}

/// Packs into a channel; a failure is the last piece, unless nobody reads any more.
fn finish(sender: &mpsc::Sender<io::Result<Bytes>>, pack: impl FnOnce(&mut Pieces<'_>) -> io::Result<()>) {
    let mut out = Pieces { sender, buffer: Vec::with_capacity(PIECE) };
    let packed = pack(&mut out).and_then(|()| out.flush());
    if let Err(error) = packed {
        let _ = sender.blocking_send(Err(error));
    }
}

/// A writer whose output goes away in pieces; waits when the reader does not take them.
struct Pieces<'a> {
    sender: &'a mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE)));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Inner {
    /// Looks at the files of a container on a thread of its own, for it may wait for a slow client. One that does not run
    /// stays as it is meanwhile.
    async fn in_files<T: Send + 'static>(
        self: &Arc<Self>,
        container: &Arc<Container>,
        scope: Scope,
        work: impl FnOnce(&Root) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (inner, container) = (self.clone(), container.clone());
        let whole = async move {
            let _turn = inner.transfers.acquire().await.map_err(|_| EngineError::Closing)?;
            let operation = container.operation.lock().await;
            let state = inner.started(&container).await?;
            if state == crate::view::ContainerState::Removed {
                return Err(EngineError::NoSuchContainer(container.name()));
            }
            // What runs may be stopped and removed meanwhile, what does not run must not be started.
            let _held = if state.pid() == 0 { Some(operation) } else { None };
            let (done, result) = oneshot::channel();
            let (opener, files, name) = (inner.clone(), container.clone(), container.name());
            let thread = std::thread::Builder::new().name("files".to_owned());
            let thread = thread.spawn(move || {
                let result = opener.open_files(&files, scope).and_then(|root| work(&root));
                let _ = done.send(result);
            });
            thread.map_err(|source| EngineError::Io { what: "look at", path: name.clone().into(), source })?;
            result.await.map_err(|_| EngineError::Files(name))?
        };
        self.to_its_end(whole).await
    }
}
