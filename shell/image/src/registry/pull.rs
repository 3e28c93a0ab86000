//! `docker pull`: a manifest, the configuration, the layers that are missing, and everything visible at once at the end. The
//! order and the words of the progress are those of moby's `distribution/pull_v2.go`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::config::Platform;
use crate::digest::{Digest, ImageId};
use crate::error::{Error, IoContext as _, Result};
use crate::layer::{self, LayerSource, Pins, describe_layer};
use crate::layout::Staging;
use crate::reference::Reference;
use crate::registry::download::{self, DOWNLOADS, Download, State};
use crate::registry::error::RegistryError;
use crate::registry::manifest::{self, Descriptor, Document, Manifest};
use crate::registry::session::Session;
use crate::registry::{Credentials, Fetched, Progress, Registries, Step, fetch_manifest, wanted};
use crate::store::{Arrival, Config};
use crate::table::ImageRow;

/// Indexes of indexes are followed so deep.
const INDEX_DEPTH_MAX: usize = 3;

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// For this platform instead of this machine's.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: Credentials,
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub id: ImageId,
    /// Digest of the manifest or list that the reference leads to.
    pub digest: Digest,
    /// The reference leads to another image than before.
    pub is_new: bool,
}

/// What is known of one layer before it is there.
struct Layer {
    descriptor: Descriptor,
    diff_id: Digest,
    /// Its own chain id last.
    chain: Vec<Digest>,
    source: Source,
}

enum Source {
    /// The store has it; a copy of the archive is kept under the temporary name.
    Known {
        blob: Digest,
        copy: PathBuf,
    },
    Coming(Arc<Download>),
}

/// A task that ends with its handle.
struct Watching(JoinHandle<Result<()>>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Registries {
    /// Pulls one image. Dropping the call ends it; what only it needed is swept.
    ///
    /// # Errors
    /// The registry cannot be reached or refuses (in Docker's words), its content is not what it says, or the disk is full.
    pub async fn pull(&self, name: &Reference, options: &PullOptions, progress: &Progress) -> Result<Pulled> {
        let name = name.clone().with_default_tag();
        let session = Arc::new(self.session(&name, "pull", &options.credentials).await?);
        let fetched = fetch_manifest(&session, &name, wanted(&name)).await.map_err(|error| error.of_pull(&name))?;
        let told = Step { id: wanted(&name), status: format!("Pulling from {}", name.path()), ..Step::default() };
        progress.line(told).await;
        let top = fetched.digest;
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let (image, document) = image_of(&session, &name, fetched, &platform).await?;
        let (id, is_new) = self.bring(&name, top, &image, document, &session, progress).await?;
        progress.status(format!("Digest: {top}")).await;
        self.warn_of_platform(id, &name, options, progress).await;
        Ok(Pulled { id, digest: top, is_new })
    }

    async fn bring(
        &self,
        name: &Reference,
        top: Digest,
        image: &Manifest,
        document: (Digest, Vec<u8>),
        session: &Arc<Session>,
        progress: &Progress,
    ) -> Result<(ImageId, bool)> {
        let names: Vec<Reference> = match name.digest() {
            Some(digest) => vec![name.with_digest(digest)],
            None => vec![name.clone(), name.with_digest(top)],
        };
        let id = ImageId(image.config.digest);
        let store = self.inner.store.clone();
        let is_new = store.get(&names[0].to_string()).is_none_or(|known| known.id != id);
        if store.adopt_names(id, &names)? {
            return Ok((id, is_new));
        }
        let raw = self.fetch_config(session, &image.config).await?;
        let staging = Arc::new(store.layout().staging()?);
        let mut work = self.layers(image, &raw, session, &staging, progress).await?;
        let mut watching: Vec<Option<Watching>> =
            work.iter().enumerate().map(|(number, layer)| watch(layer, number >= DOWNLOADS, progress)).collect();
        let config = Config::new(raw.clone())?;
        let mut pins = Pins::new(&store);
        let mut arrival = Arrival::default();
        let mut bytes_left = store.limits().max_unpacked_bytes;
        let mut archives = Vec::new();
        for (number, layer) in work.iter_mut().enumerate() {
            if let Some(Watching(handle)) = watching[number].as_mut() {
                handle.await.map_err(|error| Error::ReadStream(std::io::Error::other(error)))??;
            }
            let (blob, archive) = match &layer.source {
                Source::Known { blob, copy } => (*blob, copy.clone()),
                Source::Coming(download) => {
                    let copy = staging.path().join(format!("blob-{number}"));
                    download::keep(download, &copy)?;
                    (layer.descriptor.digest, copy)
                }
            };
            (pins, bytes_left) = self.unpack(layer, &archive, number, &staging, pins, bytes_left, progress).await?;
            archives.push(blob);
            arrival.blobs.push((blob, archive));
        }
        let write = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
            let path = staging.path().join(name);
            fs::write(&path, bytes).at("write", &path)?;
            Ok(path)
        };
        arrival.blobs.push((id.0, write("config", &raw)?));
        let is_whole = archives.iter().eq(image.layers.iter().map(|layer| &layer.digest));
        if is_whole {
            arrival.blobs.push((document.0, write("manifest", &document.1)?));
        }
        let row =
            ImageRow { layer_blobs: archives, manifest: is_whole.then_some(document.0), last_tagged: String::new() };
        arrival.images.push((id, config, row));
        arrival.names.extend(names.into_iter().map(|name| (name, id)));
        blocking(move || {
            let published = store.publish(arrival, &staging);
            drop(pins);
            published
        })
        .await?;
        Ok((id, is_new))
    }

    /// What is to be done for each layer, bottom first; the downloads begin.
    async fn layers(
        &self,
        image: &Manifest,
        raw: &[u8],
        session: &Arc<Session>,
        staging: &Staging,
        progress: &Progress,
    ) -> Result<Vec<Layer>> {
        let store = &self.inner.store;
        let config = Config::new(raw.to_vec())?;
        let diff_ids = &config.parsed.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            return Err(Error::InvalidConfig(format!(
                "the manifest has {} layers, the configuration {}",
                image.layers.len(),
                diff_ids.len()
            )));
        }
        let max = store.limits().max_layers;
        if diff_ids.len() > max {
            return Err(Error::LimitExceeded { what: "number of layers", limit: max as u64 });
        }
        let mut work: Vec<Layer> = Vec::new();
        for (number, descriptor) in image.layers.iter().enumerate() {
            let chain = config.chain[..=number].to_vec();
            let id = short(descriptor.digest);
            let copy = staging.path().join(format!("blob-{number}"));
            let source = match store.copy_archive(chain[number], &copy)? {
                Some(blob) => {
                    progress.layer(&id, "Already exists").await;
                    Source::Known { blob, copy }
                }
                None => {
                    progress.layer(&id, "Pulling fs layer").await;
                    let (digest, size) = (descriptor.digest, descriptor.size);
                    Source::Coming(self.inner.downloads.join(store, session, digest, size)?)
                }
            };
            work.push(Layer { descriptor: descriptor.clone(), diff_id: diff_ids[number], chain, source });
        }
        Ok(work)
    }

    /// Unpacks a layer, unless the store has it by now, and makes it the store's. Pins go in and come back with it.
    #[expect(clippy::too_many_arguments, reason = "the parts of one step, used once")]
    async fn unpack(
        &self,
        layer: &Layer,
        archive: &std::path::Path,
        number: usize,
        staging: &Arc<Staging>,
        mut pins: Pins,
        bytes_left: u64,
        progress: &Progress,
    ) -> Result<(Pins, u64)> {
        let Some((own, below)) = layer.chain.split_last() else { return Ok((pins, bytes_left)) };
        let lock = self.unpacking(*own);
        let _turn = lock.lock().await;
        let id = short(layer.descriptor.digest);
        let is_coming = matches!(layer.source, Source::Coming(_));
        if pins.pin(*own) {
            if is_coming {
                progress.layer(&id, "Pull complete").await;
            }
            return Ok((pins, bytes_left));
        }
        let (store, staging, archive, watcher) =
            (self.inner.store.clone(), staging.clone(), archive.to_owned(), progress.clone());
        let (own, below, diff_id, shown) = (*own, below.to_vec(), layer.diff_id, id.clone());
        let done = blocking(move || {
            let mut bytes_left = bytes_left;
            let directory = staging.path().join(format!("layer-{number}"));
            let below_paths: Vec<PathBuf> = below.iter().rev().map(|chain| store.layout().layer_diff(*chain)).collect();
            let source = LayerSource { archive: &archive, expected: Some(diff_id), limits: store.limits() };
            source.unpack(&directory, &below_paths, &mut bytes_left, &mut |step| {
                if let layer::Progress::Layer { current, total, .. } = step {
                    watcher.count(&shown, "Extracting", current, total);
                }
            })?;
            let info = describe_layer(&directory, diff_id, below.last().copied())?;
            pins.add(own, &directory, info)?;
            Ok((pins, bytes_left))
        })
        .await?;
        progress.layer(&id, "Pull complete").await;
        Ok(done)
    }

    /// As Docker does: an image for another platform than the one asked for is taken, and said.
    async fn warn_of_platform(&self, id: ImageId, name: &Reference, options: &PullOptions, progress: &Progress) {
        let Some(wanted) = &options.platform else { return };
        let Some(image) = self.inner.store.get(&id.to_string()) else { return };
        let found = image.platform();
        if found.os != wanted.os || found.architecture != wanted.architecture {
            let name = name.familiar();
            progress
                .status(format!(
                    "WARNING: image with reference {name} was found but does not match the specified platform: wanted \
                     {wanted}, actual: {found}"
                ))
                .await;
        }
    }
}

/// Follows indexes to the image for a platform; gives its manifest, with digest and bytes.
async fn image_of(
    session: &Session,
    name: &Reference,
    top: Fetched,
    platform: &Platform,
) -> Result<(Manifest, (Digest, Vec<u8>)), RegistryError> {
    let mut current = top;
    for _ in 0..=INDEX_DEPTH_MAX {
        let entries = match current.document {
            Document::Image(image) => return Ok((image, (current.digest, current.bytes))),
            Document::Index(entries) => entries,
        };
        let next = manifest::choose(&entries, platform)?.digest;
        current = fetch_manifest(session, name, next.to_string()).await.map_err(|error| error.of_pull(name))?;
    }
    Err(RegistryError::Damaged(format!("lists of images are nested deeper than {INDEX_DEPTH_MAX}")))
}

/// Tells how a download goes, and ends with it.
fn watch(layer: &Layer, is_late: bool, progress: &Progress) -> Option<Watching> {
    let Source::Coming(download) = &layer.source else { return None };
    let (mut state, progress) = (download.state.clone(), progress.clone());
    let (id, total) = (short(layer.descriptor.digest), layer.descriptor.size);
    Some(Watching(tokio::spawn(async move {
        if is_late {
            progress.layer(&id, "Waiting").await;
        }
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Waiting => {}
                State::Running(bytes) => progress.count(&id, "Downloading", bytes, total),
                State::Done => {
                    progress.layer(&id, "Verifying Checksum").await;
                    progress.layer(&id, "Download complete").await;
                    return Ok(());
                }
                State::Failed(failure) => return Err(failure.into()),
            }
            if state.changed().await.is_err() {
                return Err(RegistryError::Cut("the download ended early".to_owned()).into());
            }
        }
    })))
}

/// The twelve digits that stand for a layer.
pub(crate) fn short(digest: Digest) -> String {
    digest.hex()[..12].to_owned()
}

/// Runs what blocks where blocking is fine.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::ReadStream(std::io::Error::other(error))),
    }
}
