//! The volumes of this machine: directories with a name that outlive containers. The only driver is `local`, with the options
//! of Docker's (`type`, `device`, `o`: something is mounted there while containers use it).
//!
//! ```text
//! <data-root>/volumes/<name>/volume.json   what it is; there is a volume exactly while its directory is there
//!                           /_data         what containers see
//!                     .new-*, .gone-*      half made, half removed: swept at the next start
//! ```
//! A volume is used by every container that names it, running or not, and cannot be removed meanwhile. Who uses what is not
//! stored: it follows from the records of containers. A volume without a name of its own is *made for* a container until that
//! is removed: if the container is not there at the next start, the volume goes, too.
//!
//! All calls block. Containers of other parts of the engine are known here by id alone.

mod copy;
mod fill;
mod options;
mod place;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{At, EngineError, Result};
use crate::layout::{Durability, write_json};
use crate::lifecycle::new_id;
use crate::record::now;

pub(crate) use fill::fill;
pub(crate) use place::is_inside;
pub use record::VolumeRecord;
pub(crate) use record::{check_driver, check_name};

/// Docker's label of volumes without a name of their own.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";
/// The only driver.
pub(crate) const LOCAL: &str = "local";
pub(crate) const DATA: &str = "_data";
const RECORD: &str = "volume.json";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";

/// What is asked of a new volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeRequest {
    /// Its name; empty makes one up.
    pub name: String,
    /// Its driver; empty is `local`.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What it is.
    pub record: VolumeRecord,
    /// Where containers find its files.
    pub mountpoint: PathBuf,
    /// How many containers use it.
    pub users: usize,
}

/// All volumes. One lock is held for what is short; each volume has a lock of its own for what is long.
#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    /// Where paths inside volumes are pinned while containers use them.
    pins: PathBuf,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<String, Row>,
    /// Which volumes a container uses.
    uses: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug)]
struct Row {
    record: VolumeRecord,
    users: BTreeSet<String>,
    /// It is being removed: nobody may begin to use it.
    leaving: bool,
    /// Containers that run with it. Held while something is mounted, unmounted or filled.
    work: Arc<Mutex<BTreeSet<String>>>,
}

impl Volumes {
    /// Reads what is there; removes what is half made or half removed.
    pub(crate) fn open(root: PathBuf, pins: PathBuf) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o711).create(&root).at("create", &root)?;
        let mut rows = BTreeMap::new();
        for entry in fs::read_dir(&root).at("read", &root)? {
            let entry = entry.at("read", &root)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                if let Err(error) = remove_all(&entry.path()) {
                    tracing::warn!(path = %entry.path().display(), error = error.full_text(), "cannot sweep a volume");
                }
                continue;
            }
            match VolumeRecord::load(&entry.path().join(RECORD)) {
                Ok(record) if record.name == name => {
                    rows.insert(name, Row::new(record));
                }
                Ok(_) => tracing::warn!(volume = name, "volume is damaged and ignored: its record names another one"),
                Err(error @ EngineError::Newer { .. }) => return Err(error),
                // Never deleted on a guess: it holds what somebody wrote.
                Err(error) => {
                    tracing::warn!(volume = name, error = error.full_text(), "volume cannot be read and is ignored");
                }
            }
        }
        Ok(Self { root, pins, table: Mutex::new(Table { rows, uses: BTreeMap::new() }) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.directory(name).join(DATA)
    }

    fn view(&self, row: &Row) -> Volume {
        let mountpoint = self.data(&row.record.name);
        Volume { record: row.record.clone(), mountpoint, users: row.users.len() }
    }

    /// All volumes by name.
    pub(crate) fn list(&self) -> Vec<Volume> {
        self.table().rows.values().map(|row| self.view(row)).collect()
    }

    pub(crate) fn get(&self, name: &str) -> Result<Volume> {
        self.table().rows.get(name).map(|row| self.view(row)).ok_or_else(|| no_such(name))
    }

    /// Makes a volume, or gives the one of this name. True when it is new.
    pub(crate) fn create(&self, request: VolumeRequest) -> Result<(Volume, bool)> {
        self.provide(request, None, false)
    }

    /// As [`Self::create`]; the container uses it from now on. With `made_for` a new volume goes when the container does.
    pub(crate) fn acquire(&self, request: VolumeRequest, container: &str, made_for: bool) -> Result<(Volume, bool)> {
        self.provide(request, Some(container), made_for)
    }

    fn provide(&self, request: VolumeRequest, user: Option<&str>, made_for: bool) -> Result<(Volume, bool)> {
        let VolumeRequest { mut name, driver, options, mut labels } = request;
        let failed = |name: &str, error: EngineError| match error {
            EngineError::Invalid(text) => EngineError::Invalid(format!("create {name}: {text}")),
            EngineError::Conflict(text) => EngineError::Conflict(format!("create {name}: {text}")),
            EngineError::NotFound(text) => EngineError::NotFound(format!("create {name}: {text}")),
            other => other,
        };
        if name.is_empty() {
            name = new_id()?;
            labels.entry(ANONYMOUS_LABEL.to_owned()).or_default();
        }
        record::check(&name, &driver, &options).map_err(|error| failed(&name, error))?;
        let mut table = self.table();
        let is_new = !table.rows.contains_key(&name);
        if is_new {
            let made_for = user.filter(|_| made_for).map(str::to_owned);
            let record = VolumeRecord::new(name.clone(), now(), options, labels, made_for);
            self.write(&record)?;
            table.rows.insert(name.clone(), Row::new(record));
        }
        let row = table.rows.get_mut(&name).expect("found or inserted above");
        if row.leaving {
            return Err(failed(&name, EngineError::Conflict("the volume is being removed".to_owned())));
        }
        row.users.extend(user.map(str::to_owned));
        let view = self.view(row);
        if let Some(user) = user {
            table.uses.entry(user.to_owned()).or_default().insert(name);
        }
        Ok((view, is_new))
    }

    /// Writes a new volume so that it is there as a whole or not at all, also after a power failure.
    fn write(&self, record: &VolumeRecord) -> Result<()> {
        let target = self.directory(&record.name);
        if target.exists() {
            let text = format!("create {}: {target:?} is there, but no volume can be read from it", record.name);
            return Err(EngineError::Conflict(text));
        }
        let staging = self.root.join(format!("{NEW}{}", new_id()?));
        let written = (|| {
            DirBuilder::new().mode(0o701).create(&staging).at("create", &staging)?;
            let data = staging.join(DATA);
            DirBuilder::new().mode(0o755).create(&data).at("create", &data)?;
            // Whatever the mask of this process is.
            set_mode(&data, 0o755)?;
            write_json(&staging.join(RECORD), record, Durability::Whole)?;
            sync(&staging)?;
            fs::rename(&staging, &target).at("create", &target)?;
            sync(&self.root)
        })();
        if written.is_err() {
            let _ = fs::remove_dir_all(&staging);
        }
        written
    }

    /// The container, read back from disk, uses this volume; it runs with it. False when there is no such volume.
    pub(crate) fn adopt(&self, name: &str, container: &str, runs: bool) -> bool {
        let mut table = self.table();
        let Table { rows, uses } = &mut *table;
        let Some(row) = rows.get_mut(name) else { return false };
        row.users.insert(container.to_owned());
        uses.entry(container.to_owned()).or_default().insert(name.to_owned());
        if runs {
            row.work.lock().unwrap_or_else(PoisonError::into_inner).insert(container.to_owned());
        }
        true
    }

    /// After every container was adopted: removes what was made for containers that are not there, and unmounts what no
    /// container runs with.
    pub(crate) fn settle(&self, is_there: impl Fn(&str) -> bool) {
        let orphan = |row: &Row| {
            row.users.is_empty() && row.record.made_for.as_ref().is_some_and(|container| !is_there(container))
        };
        let names: Vec<(String, bool)> =
            self.table().rows.iter().map(|(name, row)| (name.clone(), orphan(row))).collect();
        for (name, is_orphan) in names {
            let done = if is_orphan { self.remove(&name).map(drop) } else { self.rest(&name) };
            if let Err(error) = done {
                tracing::warn!(volume = name, error = error.full_text(), "cannot put a volume to rest");
            }
        }
        place::unpin_all_but(&self.pins, |container| self.runs(container));
    }

    fn runs(&self, container: &str) -> bool {
        let works: Vec<_> = self.table().rows.values().map(|row| row.work.clone()).collect();
        works.iter().any(|work| work.lock().unwrap_or_else(PoisonError::into_inner).contains(container))
    }

    /// Unmounts a volume that no container runs with.
    fn rest(&self, name: &str) -> Result<()> {
        let Some(work) = self.work(name, |record| record.is_mounted_on_use()) else { return Ok(()) };
        let holders = work.lock().unwrap_or_else(PoisonError::into_inner);
        if holders.is_empty() { place::unmount(&self.data(name)) } else { Ok(()) }
    }

    fn work(&self, name: &str, wanted: impl Fn(&VolumeRecord) -> bool) -> Option<Arc<Mutex<BTreeSet<String>>>> {
        self.table().rows.get(name).filter(|row| wanted(&row.record)).map(|row| row.work.clone())
    }

    /// Removes a volume that nobody uses; gives it as it was.
    pub(crate) fn remove(&self, name: &str) -> Result<Volume> {
        let (volume, work) = {
            let mut table = self.table();
            let row = table.rows.get_mut(name).ok_or_else(|| no_such(name))?;
            if !row.users.is_empty() {
                let users: Vec<&str> = row.users.iter().map(String::as_str).collect();
                let text = format!("remove {name}: volume is in use - [{}]", users.join(", "));
                return Err(EngineError::Conflict(text));
            }
            if row.leaving {
                return Err(EngineError::Conflict(format!("remove {name}: the volume is being removed already")));
            }
            row.leaving = true;
            (self.view(row), row.work.clone())
        };
        let _work = work.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = self.take_away(name);
        let mut table = self.table();
        match gone {
            Ok(gone) => {
                table.rows.remove(name);
                drop(table);
                // What is left of it is swept by the next engine at the latest.
                if let Err(error) = remove_all(&gone) {
                    tracing::warn!(volume = name, error = error.full_text(), "cannot remove the files of a volume");
                }
                Ok(volume)
            }
            Err(error) => {
                if let Some(row) = table.rows.get_mut(name) {
                    row.leaving = false;
                }
                Err(error)
            }
        }
    }

    fn take_away(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory(name);
        place::unmount(&self.data(name))?;
        refuse_mounts_below(&directory)?;
        let gone = self.root.join(format!("{GONE}{}", new_id()?));
        match fs::rename(&directory, &gone) {
            // Somebody removed it by hand.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed.at("remove", &directory)?,
        }
        sync(&self.root)?;
        Ok(gone)
    }

    /// The volumes that were made for a container are like all others from now on: they stay when it goes.
    pub(crate) fn disown(&self, container: &str) -> Result<()> {
        let mut table = self.table();
        let Table { rows, uses } = &mut *table;
        for name in uses.get(container).into_iter().flatten() {
            let Some(row) = rows.get_mut(name) else { continue };
            if row.record.made_for.as_deref() == Some(container) {
                let mut record = row.record.clone();
                record.made_for = None;
                write_json(&self.directory(name).join(RECORD), &record, Durability::Whole)?;
                row.record = record;
            }
        }
        Ok(())
    }

    /// The container is gone and uses no volume any more; those that were made for it are removed, which is told by name.
    pub(crate) fn release(&self, container: &str) -> Vec<String> {
        let mut own = Vec::new();
        {
            let mut table = self.table();
            let Table { rows, uses } = &mut *table;
            for name in uses.remove(container).unwrap_or_default() {
                let Some(row) = rows.get_mut(&name) else { continue };
                row.users.remove(container);
                if row.users.is_empty() && row.record.made_for.as_deref() == Some(container) {
                    own.push(name);
                }
            }
        }
        own.retain(|name| match self.remove(name) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(volume = name, error = error.full_text(), "cannot remove an anonymous volume");
                false
            }
        });
        own
    }

    /// A container is about to run with a volume: mounts what is mounted on use. Gives where its files are, or a path inside.
    pub(crate) fn enter(&self, name: &str, container: &str, number: usize, subpath: &str) -> Result<PathBuf> {
        let (record, work) = {
            let table = self.table();
            let row = table.rows.get(name).ok_or_else(|| no_such(name))?;
            (row.record.clone(), row.work.clone())
        };
        let mut holders = work.lock().unwrap_or_else(PoisonError::into_inner);
        let data = self.data(name);
        if record.is_mounted_on_use() && !place::is_mounted(&data)? {
            options::mount(&record.options, &data)?;
        }
        let _ = holders.insert(container.to_owned());
        if subpath.is_empty() {
            return Ok(data);
        }
        place::pin(&data, subpath, &self.pins.join(container), number)
    }

    /// A container runs no more: what is mounted for it is unmounted.
    pub(crate) fn leave(&self, container: &str) {
        place::unpin(&self.pins.join(container));
        let names = self.table().uses.get(container).cloned().unwrap_or_default();
        for name in names {
            let found = self.table().rows.get(&name).map(|row| (row.record.is_mounted_on_use(), row.work.clone()));
            let Some((is_mounted_on_use, work)) = found else { continue };
            let mut holders = work.lock().unwrap_or_else(PoisonError::into_inner);
            holders.remove(container);
            if is_mounted_on_use
                && holders.is_empty()
                && let Err(error) = place::unmount(&self.data(&name))
            {
                tracing::warn!(volume = name, error = error.full_text(), "cannot unmount a volume");
            }
        }
    }

    /// What the files of a volume take. Something that is mounted there on use is not counted.
    pub(crate) fn size(&self, name: &str) -> Result<u64> {
        let volume = self.get(name)?;
        if volume.record.is_mounted_on_use() {
            return Ok(0);
        }
        Ok(skep_image::tree_usage(&volume.mountpoint).at("measure", volume.mountpoint)?.bytes)
    }
}

impl Row {
    fn new(record: VolumeRecord) -> Self {
        Self { record, users: BTreeSet::new(), leaving: false, work: Arc::default() }
    }
}

fn no_such(name: &str) -> EngineError {
    let name: String = name.chars().take(300).collect();
    EngineError::NotFound(format!("get {name}: no such volume"))
}

/// Removes a directory of a volume, never what is mounted in it.
fn remove_all(path: &Path) -> Result<()> {
    place::unmount(&path.join(DATA))?;
    refuse_mounts_below(path)?;
    skep_image::remove_tree(path).at("remove", path)
}

fn refuse_mounts_below(path: &Path) -> Result<()> {
    match place::mounts_below(path)?.first() {
        Some(mount) => {
            Err(EngineError::Conflict(format!("cannot remove {path:?}: something is mounted on {mount:?} in it")))
        }
        None => Ok(()),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("change the mode of", path)
}

fn sync(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|file| file.sync_all()).at("write", directory)
}

#[cfg(test)]
mod tests;
