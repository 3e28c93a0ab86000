//! The store itself: a handle that can be cloned and shared between threads, its state, what can be asked of it, and the moment in
//! which new content becomes visible. Loading, removing and snapshots are in their own files and end here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::{ImageConfig, Platform};
use crate::digest::{Digest, ImageId, chain_ids};
use crate::error::{Error, IoContext, Result};
use crate::layout::{Layout, Staging, sync_directory};
use crate::limits::Limits;
use crate::reference::Reference;
use crate::snapshot::SnapshotRow;
use crate::table::{ImageRow, Table};

/// Images, layers and snapshots below one directory. Clones are handles to the same store; one process at a time may open it.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) limits: Limits,
    state: Mutex<State>,
}

/// What the store knows in memory; the files can be read back into the same.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) table: Table,
    pub(crate) configs: BTreeMap<ImageId, Config>,
    pub(crate) layers: BTreeMap<Digest, LayerInfo>,
    pub(crate) snapshots: BTreeMap<String, SnapshotRow>,
    /// Layers that a load in progress counts on, with how many do.
    pub(crate) pins: BTreeMap<Digest, usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) parsed: Arc<ImageConfig>,
    pub(crate) raw: Arc<[u8]>,
    /// Chain ids, bottom first.
    pub(crate) chain: Arc<[Digest]>,
}

impl Config {
    pub(crate) fn new(raw: Vec<u8>) -> Result<Config> {
        let parsed = ImageConfig::parse(&raw)?;
        let chain = chain_ids(&parsed.rootfs.diff_ids).into();
        Ok(Config { parsed: Arc::new(parsed), raw: raw.into(), chain })
    }
}

/// `layers/<chain id>/layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerInfo {
    pub(crate) diff_id: Digest,
    pub(crate) parent: Option<Digest>,
    /// Bytes of its files.
    pub(crate) size: u64,
}

/// An image with all that `docker images` and `docker image inspect` tell.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its id: the digest of its configuration.
    pub id: ImageId,
    /// Familiar names with tags, sorted.
    pub repo_tags: Vec<String>,
    /// Familiar names with digests, sorted.
    pub repo_digests: Vec<String>,
    /// When it was built, as its configuration says (RFC 3339, empty if unknown).
    pub created: String,
    /// When it was last given a name (RFC 3339, empty if never).
    pub last_tagged: String,
    /// Bytes of the files of all its layers.
    pub size: u64,
    /// The configuration, for reading.
    pub config: Arc<ImageConfig>,
    /// The configuration, byte for byte.
    pub raw_config: Arc<[u8]>,
    /// Size in bytes of each layer, bottom first, as in `config.rootfs.diff_ids`.
    pub layer_sizes: Vec<u64>,
    /// Chain ids of the layers, bottom first.
    pub chain_ids: Arc<[Digest]>,
    /// Whether it is for this machine's operating system and architecture.
    pub runs_here: bool,
}

impl Image {
    /// The platform it is for.
    pub fn platform(&self) -> Platform {
        self.config.platform()
    }

    /// [`Image::created`] in seconds since 1970; zero if unknown.
    pub fn created_unix(&self) -> i64 {
        OffsetDateTime::parse(&self.created, &Rfc3339).map_or(0, |time| time.unix_timestamp())
    }
}

/// Content that is complete and checked, about to become visible at once.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    pub(crate) blobs: Vec<(Digest, PathBuf)>,
    /// Chain id, prepared directory (holding `diff` and `layer.json`), what `layer.json` says.
    pub(crate) layers: Vec<(Digest, PathBuf, LayerInfo)>,
    pub(crate) images: Vec<(ImageId, Config, ImageRow)>,
    pub(crate) names: Vec<(Reference, ImageId)>,
}

impl ImageStore {
    /// Opens the store below `root`, making it if there is none, with the default [`Limits`].
    ///
    /// # Errors
    /// The store is of a newer release, damaged, in use by another process, or cannot be read.
    pub fn open(root: &Path) -> Result<ImageStore> {
        ImageStore::open_with(root, Limits::default())
    }

    /// [`ImageStore::open`] with other limits.
    ///
    /// # Errors
    /// As [`ImageStore::open`].
    pub fn open_with(root: &Path, limits: Limits) -> Result<ImageStore> {
        let layout = Layout::open(root)?;
        let state = read_state(&layout)?;
        let store = ImageStore { inner: Arc::new(Inner { layout, limits, state: Mutex::new(state) }) };
        // A crash between making content visible and recording it leaves content without an owner.
        store.collect(&mut store.state())?;
        Ok(store)
    }

    /// The directory of the store, without symbolic links.
    pub fn root(&self) -> &Path {
        self.inner.layout.root()
    }

    /// The limits for archives.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // State is changed in memory only after the files were, so a panic elsewhere leaves it whole.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Image> {
        let state = self.state();
        let mut images: Vec<Image> = state.table.images.keys().filter_map(|id| state.image(*id)).collect();
        images.sort_by(|a, b| b.created_unix().cmp(&a.created_unix()).then_with(|| a.id.cmp(&b.id)));
        images
    }

    /// The image with this reference, id or unambiguous id prefix. As in Docker, a name wins over a prefix.
    pub fn get(&self, name: &str) -> Option<Image> {
        let state = self.state();
        state.find(name).and_then(|id| state.image(id))
    }

    /// [`ImageStore::get`] with Docker's error.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], or [`Error::InvalidReference`] when `name` cannot be a name.
    pub fn require(&self, name: &str) -> Result<Image> {
        let state = self.state();
        let id = state.require(name)?;
        state.image(id).ok_or_else(|| Error::NoSuchImage(name.to_owned()))
    }

    /// Gives the image `source` the further name `target` (`:latest` if it has no tag). A name that another image has moves.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::InvalidReference`] when the target has a digest.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<ImageId> {
        if target.digest().is_some() {
            return Err(Error::InvalidReference("refusing to create a tag with a digest reference".to_owned()));
        }
        let mut state = self.state();
        let id = state.require(source)?;
        self.name(&mut state, &[(target.clone().with_default_tag(), id)])?;
        Ok(id)
    }

    /// Records that a registry knows this image by a digest of its manifest (`name@sha256:...`), after a pull or push.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::InvalidReference`] when the reference has no digest.
    pub fn record_digest(&self, image: ImageId, name: &Reference) -> Result<()> {
        let digest = name.digest().ok_or_else(|| Error::InvalidReference("reference has no digest".to_owned()))?;
        let mut state = self.state();
        if !state.table.images.contains_key(&image) {
            return Err(Error::NoSuchImage(image.to_string()));
        }
        self.name(&mut state, &[(name.with_digest(digest), image)])
    }

    fn name(&self, state: &mut State, names: &[(Reference, ImageId)]) -> Result<()> {
        let mut table = state.table.clone();
        add_names(&mut table, names);
        table.write(self.layout())?;
        state.table = table;
        Ok(())
    }

    /// Path of a blob (configuration, manifest or layer archive), if the store has it.
    pub fn blob_path(&self, digest: Digest) -> Option<PathBuf> {
        let path = self.layout().blob(digest);
        path.is_file().then_some(path)
    }

    /// The layer archives of an image, bottom first, as they came in.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`].
    pub fn layer_blobs(&self, image: ImageId) -> Result<Vec<Digest>> {
        let state = self.state();
        state
            .table
            .images
            .get(&image)
            .map(|row| row.layer_blobs.clone())
            .ok_or_else(|| Error::NoSuchImage(image.to_string()))
    }

    /// Makes everything in `arrival` visible: layers and blobs first, the table last, so that a crash leaves only content that
    /// nobody owns and the next open collects.
    pub(crate) fn publish(&self, arrival: Arrival, staging: &Staging) -> Result<()> {
        // One flush for many thousand small files.
        let directory = fs::File::open(staging.path()).at("open", staging.path())?;
        rustix::fs::syncfs(&directory).at("sync", staging.path())?;
        let mut state = self.state();
        let result = self.publish_locked(&mut state, arrival);
        if result.is_err()
            && let Err(error) = self.collect(&mut state)
        {
            tracing::warn!(%error, "cannot collect what a failed load left; the next start will");
        }
        result
    }

    /// Makes one prepared layer visible and pins it. Until an image owns it, it is only as durable as the file system likes:
    /// [`ImageStore::publish`] syncs before it writes the table.
    pub(crate) fn add_layer(&self, chain: Digest, prepared: &Path, info: LayerInfo) -> Result<()> {
        let mut state = self.state();
        let is_known = state.layers.contains_key(&chain);
        if !is_known {
            let path = self.layout().layer(chain);
            fs::rename(prepared, &path).at("create", path)?;
            state.layers.insert(chain, info);
            if let Err(error) = link_layer(self.layout(), chain) {
                self.collect(&mut state)?;
                return Err(error);
            }
        }
        *state.pins.entry(chain).or_default() += 1;
        Ok(())
    }

    /// If the store has this layer and an archive of it: links the archive to `copy` and gives its digest.
    pub(crate) fn copy_archive(&self, chain: Digest, copy: &Path) -> Result<Option<Digest>> {
        let state = self.state();
        if !state.layers.contains_key(&chain) {
            return Ok(None);
        }
        let blob = state.table.images.iter().find_map(|(id, row)| {
            let at = state.configs.get(id)?.chain.iter().position(|own| *own == chain)?;
            row.layer_blobs.get(at).copied()
        });
        let Some(blob) = blob else { return Ok(None) };
        match fs::hard_link(self.layout().blob(blob), copy) {
            Ok(()) => Ok(Some(blob)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("link", copy),
        }
    }

    /// Gives an image these names, if it is there; says whether it is.
    pub(crate) fn adopt_names(&self, id: ImageId, names: &[Reference]) -> Result<bool> {
        let mut state = self.state();
        if !state.table.images.contains_key(&id) {
            return Ok(false);
        }
        let is_known = |name: &Reference| state.table.references.get(&name.to_string()) == Some(&id);
        if !names.iter().all(is_known) {
            let names: Vec<_> = names.iter().map(|name| (name.clone(), id)).collect();
            self.name(&mut state, &names)?;
        }
        Ok(true)
    }

    fn publish_locked(&self, state: &mut State, arrival: Arrival) -> Result<()> {
        let layout = self.layout();
        for (chain, prepared, info) in arrival.layers {
            // Another load may have been faster.
            if state.layers.contains_key(&chain) {
                continue;
            }
            let path = layout.layer(chain);
            fs::rename(prepared, &path).at("create", path)?;
            state.layers.insert(chain, info);
            link_layer(layout, chain)?;
        }
        for (digest, staged) in arrival.blobs {
            let path = layout.blob(digest);
            if !path.exists() {
                fs::rename(staged, &path).at("create", path)?;
            }
        }
        for directory in [layout.layers(), layout.links(), layout.blobs()] {
            sync_directory(&directory)?;
        }
        let mut table = state.table.clone();
        for (id, _, row) in &arrival.images {
            match table.images.get_mut(id) {
                None => {
                    table.images.insert(*id, row.clone());
                }
                // The manifest by which a registry knows the image stays, and with it the archives that it names.
                Some(known) if known.manifest.is_none() && row.manifest.is_some() => {
                    *known = ImageRow { last_tagged: std::mem::take(&mut known.last_tagged), ..row.clone() };
                }
                Some(_) => {}
            }
        }
        add_names(&mut table, &arrival.names);
        table.write(layout)?;
        state.table = table;
        let known = arrival.images.iter().any(|(id, _, _)| state.configs.contains_key(id));
        for (id, config, _) in arrival.images {
            state.configs.insert(id, config);
        }
        // An image that was there already leaves one of the two sets of archives without an owner.
        if known && let Err(error) = self.collect(state) {
            tracing::warn!(%error, "cannot collect unused archives; the next removal will");
        }
        Ok(())
    }

    /// Removes layers and blobs that no image, snapshot or load in progress needs. Returns the chain ids, topmost first.
    pub(crate) fn collect(&self, state: &mut State) -> Result<Vec<Digest>> {
        let layout = self.layout();
        let mut removed = Vec::new();
        let used = state.used_layers();
        let mut unused: Vec<Digest> = state.layers.keys().filter(|chain| !used.contains(*chain)).copied().collect();
        unused.sort_by_key(|chain| std::cmp::Reverse(state.chain_below(*chain).len()));
        for chain in unused {
            let link = layout.links().join(Layout::link_name(chain));
            match fs::remove_file(&link) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).at("remove", link),
                _ => {}
            }
            layout.discard(&layout.layer(chain))?;
            state.layers.remove(&chain);
            removed.push(chain);
        }
        let blobs = state.used_blobs();
        for name in list_names(&layout.blobs())? {
            if Digest::from_hex(&name).is_ok_and(|digest| blobs.contains(&digest)) {
                continue;
            }
            layout.discard(&layout.blobs().join(name))?;
        }
        Ok(removed)
    }
}

impl State {
    pub(crate) fn image(&self, id: ImageId) -> Option<Image> {
        let config = self.configs.get(&id)?;
        let row = self.table.images.get(&id)?;
        let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
        for name in self.table.names_of(id) {
            let Ok(reference) = Reference::parse(&name) else { continue };
            if reference.digest().is_some() {
                repo_digests.push(reference.familiar());
            } else {
                repo_tags.push(reference.familiar());
            }
        }
        let layer_sizes: Vec<u64> =
            config.chain.iter().map(|chain| self.layers.get(chain).map_or(0, |layer| layer.size)).collect();
        Some(Image {
            id,
            repo_tags,
            repo_digests,
            created: config.parsed.created.clone(),
            last_tagged: row.last_tagged.clone(),
            size: layer_sizes.iter().sum(),
            config: config.parsed.clone(),
            raw_config: config.raw.clone(),
            layer_sizes,
            chain_ids: config.chain.clone(),
            runs_here: config.parsed.platform().runs_on(&Platform::host()),
        })
    }

    /// Looks up a reference, id or id prefix, in Docker's order.
    pub(crate) fn find(&self, name: &str) -> Option<ImageId> {
        if let Ok(id) = name.parse::<ImageId>() {
            return self.table.images.contains_key(&id).then_some(id);
        }
        if let Ok(reference) = Reference::parse(name)
            && let Some(id) = self.find_reference(&reference.with_default_tag())
        {
            return Some(id);
        }
        let prefix = id_prefix(name)?;
        let mut matches = self.table.images.keys().filter(|id| id.0.hex().starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some(id), None) => Some(*id),
            _ => None,
        }
    }

    fn find_reference(&self, reference: &Reference) -> Option<ImageId> {
        if let Some(id) = self.table.references.get(&reference.to_string()) {
            return Some(*id);
        }
        // `name:tag@digest` means the digest.
        let digest = reference.digest()?;
        self.table.references.get(&reference.with_digest(digest).to_string()).copied()
    }

    pub(crate) fn require(&self, name: &str) -> Result<ImageId> {
        if let Some(id) = self.find(name) {
            return Ok(id);
        }
        if name.parse::<ImageId>().is_ok() || (name.len() == 64 && id_prefix(name).is_some()) {
            return Err(Error::NoSuchImage(if name.contains(':') {
                name.to_owned()
            } else {
                format!("sha256:{name}")
            }));
        }
        Err(Error::NoSuchImage(Reference::parse(name)?.with_default_tag().familiar()))
    }

    /// A layer and all below it, topmost first.
    pub(crate) fn chain_below(&self, top: Digest) -> Vec<Digest> {
        let mut chain = Vec::new();
        let mut next = Some(top);
        while let Some(current) = next {
            let Some(info) = self.layers.get(&current) else { break };
            chain.push(current);
            next = info.parent;
        }
        chain
    }

    fn used_layers(&self) -> BTreeSet<Digest> {
        let mut used: BTreeSet<Digest> = BTreeSet::new();
        for id in self.table.images.keys() {
            used.extend(self.configs.get(id).iter().flat_map(|config| config.chain.iter().copied()));
        }
        let tops = self.snapshots.values().filter_map(|snapshot| snapshot.chain).chain(self.pins.keys().copied());
        for top in tops {
            used.extend(self.chain_below(top));
        }
        used
    }

    fn used_blobs(&self) -> BTreeSet<Digest> {
        let mut used: BTreeSet<Digest> = self.table.images.keys().map(|id| id.0).collect();
        for row in self.table.images.values() {
            used.extend(row.layer_blobs.iter().copied().chain(row.manifest));
        }
        used
    }
}

/// The hexadecimal digits of something that may be an id prefix.
pub(crate) fn id_prefix(name: &str) -> Option<&str> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let plain =
        !hex.is_empty() && hex.len() <= 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    plain.then_some(hex)
}

/// The time now, RFC 3339, as Docker writes it.
pub(crate) fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).expect("the years a clock can show have an RFC 3339 form")
}

fn add_names(table: &mut Table, names: &[(Reference, ImageId)]) {
    for (name, id) in names {
        table.references.insert(name.to_string(), *id);
        if let Some(row) = table.images.get_mut(id) {
            row.last_tagged = now();
        }
    }
}

fn link_layer(layout: &Layout, chain: Digest) -> Result<()> {
    let link = layout.links().join(Layout::link_name(chain));
    let target = PathBuf::from("../layers").join(chain.hex()).join("diff");
    match fs::read_link(&link) {
        Ok(found) if found == target => return Ok(()),
        Ok(_) => fs::remove_file(&link).at("remove", &link)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).at("read", link),
    }
    std::os::unix::fs::symlink(target, &link).at("create", link)
}

pub(crate) fn list_names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).at("list", directory)? {
        names.push(entry.at("list", directory)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Reads everything back. What contradicts itself is left out with a warning: an image without its parts cannot run, and loading or
/// pulling it again repairs it.
fn read_state(layout: &Layout) -> Result<State> {
    let mut state = State { table: Table::read(layout)?, layers: read_layers(layout)?, ..State::default() };
    state.snapshots = SnapshotRow::read_all(layout)?;
    let ids: Vec<ImageId> = state.table.images.keys().copied().collect();
    for id in ids {
        match read_image(layout, &state, id) {
            Ok(config) => {
                state.configs.insert(id, config);
            }
            Err(error) => {
                tracing::warn!(image.id = %id, %error, "image is damaged and forgotten: load or pull it again");
                state.table.images.remove(&id);
            }
        }
    }
    let images = &state.table.images;
    state.table.references.retain(|_, id| images.contains_key(id));
    Ok(state)
}

fn read_image(layout: &Layout, state: &State, id: ImageId) -> Result<Config> {
    let path = layout.blob(id.0);
    let raw = fs::read(&path).at("read", &path)?;
    let actual = Digest::of(&raw);
    if actual != id.0 {
        return Err(Error::DigestMismatch {
            what: format!("blob \"{}\"", path.display()),
            expected: id.to_string(),
            actual: actual.to_string(),
        });
    }
    let config = Config::new(raw)?;
    match config.chain.iter().find(|chain| !state.layers.contains_key(*chain)) {
        None => Ok(config),
        Some(missing) => {
            Err(Error::DamagedStore { path: layout.layer(*missing), reason: "layer is missing".to_owned() })
        }
    }
}

fn read_layers(layout: &Layout) -> Result<BTreeMap<Digest, LayerInfo>> {
    let mut layers = BTreeMap::new();
    for name in list_names(&layout.layers())? {
        let directory = layout.layers().join(&name);
        let info = Digest::from_hex(&name).ok().and_then(|chain| {
            let info: LayerInfo = serde_json::from_slice(&fs::read(directory.join("layer.json")).ok()?).ok()?;
            directory.join("diff").is_dir().then_some((chain, info))
        });
        match info {
            Some((chain, info)) => {
                link_layer(layout, chain)?;
                layers.insert(chain, info);
            }
            None => {
                tracing::warn!(path = %directory.display(), "layer is damaged and removed");
                layout.discard(&directory)?;
            }
        }
    }
    // Links without a layer are what a crash between two removals leaves.
    let known: BTreeSet<String> = layers.keys().map(|chain| Layout::link_name(*chain)).collect();
    for name in list_names(&layout.links())? {
        if !known.contains(&name) {
            layout.discard(&layout.links().join(name))?;
        }
    }
    Ok(layers)
}
