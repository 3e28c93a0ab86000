//! A new volume begins with what the image has at its place. The image is mounted for a moment in a mount namespace of a thread
//! of its own: nobody else sees it, and it vanishes with the thread, however that ends.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use skep_image::Snapshot;

use super::{Volumes, copy, no_such, options, place};
use crate::error::{At, EngineError, Result};

/// Where a copy is made before it becomes the volume's content.
const COPY: &str = "copy";

/// Copies what the image of a new container has at `target` into a volume that is still empty.
pub(crate) fn fill(volumes: &Volumes, name: &str, snapshot: &Snapshot, target: &str) -> Result<()> {
    if !may_have(snapshot, Path::new(target)) {
        return Ok(());
    }
    let (record, work) = {
        let table = volumes.table();
        let row = table.rows.get(name).ok_or_else(|| no_such(name))?;
        (row.record.clone(), row.work.clone())
    };
    let holders = work.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let data = volumes.data(name);
    let mounted_here = record.is_mounted_on_use() && !place::is_mounted(&data)?;
    if mounted_here {
        options::mount(&record.options, &data)?;
    }
    let in_place = record.is_mounted_on_use() || !holders.is_empty();
    let filled = is_empty(&data).at("read", &data).and_then(|empty| match empty {
        true => copy_from(snapshot, target, &volumes.directory(name), &data, in_place),
        false => Ok(()),
    });
    if mounted_here {
        place::unmount(&data)?;
    }
    filled
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(directory)?.next().is_none())
}

/// False when surely no layer has the path: then nothing need be mounted to see that.
fn may_have(snapshot: &Snapshot, target: &Path) -> bool {
    let mut below = Path::new("").to_owned();
    for part in target.components() {
        let Component::Normal(part) = part else { continue };
        below.push(part);
        let mut found = false;
        for layer in &snapshot.lower {
            if let Ok(metadata) = fs::symlink_metadata(layer.join(&below)) {
                if metadata.is_symlink() {
                    return true;
                }
                found = true;
            }
        }
        if !found {
            return false;
        }
    }
    true
}

fn copy_from(snapshot: &Snapshot, target: &str, directory: &Path, data: &Path, in_place: bool) -> Result<()> {
    let copied = std::thread::scope(|scope| {
        let copying = || -> io::Result<()> {
            let Some(source) = open_source(snapshot, target)? else { return Ok(()) };
            let done = if in_place { into(&source, data) } else { beside(&source, directory, data) };
            drop(source);
            nix::mount::umount2(&snapshot.merged, MntFlags::MNT_DETACH)?;
            done
        };
        // A thread of its own: the namespace and working directory of this one must stay what they are.
        std::thread::Builder::new()
            .name("volume-fill".to_owned())
            .spawn_scoped(scope, copying)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that copies has failed")))
    });
    copied.map_err(|error| {
        EngineError::Volume(format!(
            "cannot copy the image's files at {target} into volume {}: {error}",
            data.display()
        ))
    })
}

/// The directory in the image, if there is one.
fn open_source(snapshot: &Snapshot, target: &str) -> io::Result<Option<OwnedFd>> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    std::env::set_current_dir(&snapshot.store_root)?;
    let options = snapshot.mount_options();
    let overlay = Some("overlay");
    nix::mount::mount(overlay, &snapshot.merged, overlay, MsFlags::MS_RDONLY, Some(options.as_str()))?;
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&snapshot.merged, path, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, target, flags, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => {
            drop(root);
            nix::mount::umount2(&snapshot.merged, MntFlags::MNT_DETACH)?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Copies where containers see it already.
fn into(source: &OwnedFd, data: &Path) -> io::Result<()> {
    let target = rustix::fs::open(data, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    copy::copy_tree(source.as_fd(), target.as_fd())
}

/// Copies beside and changes places: the volume has all of it or nothing, whatever happens meanwhile.
fn beside(source: &OwnedFd, directory: &Path, data: &Path) -> io::Result<()> {
    let copy = directory.join(COPY);
    skep_image::remove_tree(&copy)?;
    DirBuilder::new().mode(0o700).create(&copy)?;
    let target = rustix::fs::open(&copy, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let done = copy::copy_tree(source.as_fd(), target.as_fd()).and_then(|()| {
        rustix::fs::syncfs(&target)?;
        fs::rename(&copy, data)
    });
    if done.is_err() {
        let _ = skep_image::remove_tree(&copy);
    }
    done
}
