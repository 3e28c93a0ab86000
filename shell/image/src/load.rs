//! `docker load`: archives of `docker save` (today's, which are OCI layouts too, and the older ones) and OCI image layouts. All is
//! prepared in a temporary directory and becomes visible at once at the end; a refused archive leaves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use serde::Deserialize;

use crate::archive::{StagedArchive, StagedFile};
use crate::config::Platform;
use crate::digest::{Digest, ImageId};
use crate::error::{Error, IoContext, Result};
use crate::layer::{LayerSource, Pins, Progress, ProgressFn, describe_layer};
use crate::layout::Staging;
use crate::oci::{self, FoundImage};
use crate::reference::Reference;
use crate::store::{Arrival, Config, ImageStore, LayerInfo};
use crate::table::ImageRow;

/// One line of the result of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The image.
    pub image_id: ImageId,
    /// Its name; none if the archive gave it none.
    pub name: Option<Reference>,
    /// The image that had this name before and lost it.
    pub replaced: Option<ImageId>,
    /// Whether it is for this machine's platform.
    pub runs_here: bool,
}

impl Loaded {
    /// Docker's line about it, without the line end.
    pub fn line(&self) -> String {
        match &self.name {
            Some(name) => format!("Loaded image: {}", name.familiar()),
            None => format!("Loaded image ID: {}", self.image_id),
        }
    }

    /// Docker's line about the image that lost its name, without the line end.
    pub fn replaced_line(&self) -> Option<String> {
        let (name, old) = (self.name.as_ref()?, self.replaced?);
        Some(format!(
            "The image {} already exists, renaming the old one with ID {old} to empty string",
            name.familiar()
        ))
    }
}

/// One image in `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestItem {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl ImageStore {
    /// Loads all images of an archive.
    ///
    /// # Errors
    /// The stream fails, or the archive is damaged, hostile, too large, not an image, or only for other platforms where it offers
    /// a choice. The store is as before then.
    pub fn load(&self, reader: impl Read, progress: ProgressFn<'_>) -> Result<Vec<Loaded>> {
        let staging = self.layout().staging()?;
        let files = staging.path().join("files");
        fs::create_dir(&files).at("create", &files)?;
        let archive = StagedArchive::read(reader, &files, self.limits())?;
        let found = find_images(&archive, self.limits().max_images)?;
        let mut preparation = Preparation::new(self, &staging);
        for image in &found {
            preparation.image(&archive, image, progress)?;
        }
        let loaded = preparation.results(&found);
        let Preparation { arrival, pins, .. } = preparation;
        self.publish(arrival, &staging)?;
        drop(pins);
        Ok(loaded)
    }
}

/// Which images the archive holds. `manifest.json` wins over `index.json`, as in Docker.
fn find_images(archive: &StagedArchive, images_max: usize) -> Result<Vec<FoundImage>> {
    let images = if archive.has("manifest.json") {
        let items: Vec<ManifestItem> = archive.json("manifest.json", archive.file("manifest.json")?)?;
        items.into_iter().map(|item| docker_image(archive, item)).collect::<Result<Vec<_>>>()?
    } else if archive.has("index.json") {
        oci::find_images(archive, &Platform::host())?
    } else if archive.has("repositories") {
        return Err(Error::archive(
            "saved by Docker older than 1.10, which is not supported: load and save it again with a newer Docker",
        ));
    } else {
        return Err(Error::archive(
            "it has neither manifest.json nor index.json (to make an image from a root file system, use docker import)",
        ));
    };
    if images.is_empty() {
        return Err(Error::archive("it has no image in it"));
    }
    if images.len() > images_max {
        return Err(Error::LimitExceeded { what: "number of images in the archive", limit: images_max as u64 });
    }
    Ok(images)
}

fn docker_image(archive: &StagedArchive, item: ManifestItem) -> Result<FoundImage> {
    let file = |name: &String| archive.file(name).cloned();
    let mut names = Vec::new();
    for tag in item.repo_tags.unwrap_or_default() {
        names.push(tagged_name(&tag)?);
    }
    Ok(FoundImage {
        config: archive.file(&item.config)?.clone(),
        layers: item.layers.unwrap_or_default().iter().map(file).collect::<Result<_>>()?,
        manifest: None,
        names,
    })
}

/// A name from an archive, which must have a tag and no digest.
pub(crate) fn tagged_name(text: &str) -> Result<Reference> {
    let invalid = |reason: String| Error::archive(format!("invalid tag {:?}: {reason}", crate::digest::shorten(text)));
    let name = Reference::parse(text).map_err(|error| invalid(error.to_string()))?;
    match (name.tag(), name.digest()) {
        (Some(_), None) => Ok(name),
        _ => Err(invalid("a name with a tag and without a digest is needed".to_owned())),
    }
}

/// Content on its way: what is ready so far.
struct Preparation<'a> {
    store: &'a ImageStore,
    staging: &'a Staging,
    pins: Pins,
    arrival: Arrival,
    /// Layers unpacked by this load.
    prepared: BTreeMap<Digest, PathBuf>,
    verified: BTreeSet<(PathBuf, Digest)>,
    bytes_left: u64,
}

impl<'a> Preparation<'a> {
    fn new(store: &'a ImageStore, staging: &'a Staging) -> Preparation<'a> {
        Preparation {
            store,
            staging,
            pins: Pins::new(store),
            arrival: Arrival::default(),
            prepared: BTreeMap::new(),
            verified: BTreeSet::new(),
            bytes_left: store.limits().max_unpacked_bytes,
        }
    }

    fn image(&mut self, archive: &StagedArchive, image: &FoundImage, progress: ProgressFn<'_>) -> Result<()> {
        let raw = archive.small(&image.config)?;
        let id = ImageId(Digest::of(&raw));
        let config = Config::new(raw)?;
        let diff_ids = &config.parsed.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            return Err(Error::archive(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                image.layers.len(),
                diff_ids.len()
            )));
        }
        let layers_max = self.store.limits().max_layers;
        if diff_ids.len() > layers_max {
            return Err(Error::LimitExceeded { what: "number of layers", limit: layers_max as u64 });
        }
        for (index, layer) in image.layers.iter().enumerate() {
            self.layer(layer, diff_ids[index], &config.chain[..=index], progress)?;
            self.arrival.blobs.push((layer.digest, layer.path.clone()));
        }
        self.arrival.blobs.push((id.0, image.config.path.clone()));
        if let Some(manifest) = &image.manifest {
            self.arrival.blobs.push((manifest.digest, manifest.path.clone()));
        }
        let row = ImageRow {
            layer_blobs: image.layers.iter().map(|layer| layer.digest).collect(),
            manifest: image.manifest.as_ref().map(|manifest| manifest.digest),
            last_tagged: String::new(),
        };
        self.arrival.names.extend(image.names.iter().map(|name| (name.clone(), id)));
        self.arrival.images.push((id, config, row));
        Ok(())
    }

    /// Unpacks a layer unless this load or the store has it; checks it always. `chain` ends in this layer.
    fn layer(&mut self, file: &StagedFile, diff_id: Digest, chain: &[Digest], progress: ProgressFn<'_>) -> Result<()> {
        let Some((own, below)) = chain.split_last() else { return Ok(()) };
        let source = LayerSource { archive: &file.path, expected: Some(diff_id), limits: self.store.limits() };
        if self.prepared.contains_key(own) || self.pins.pin(*own) {
            progress(Progress::LayerExists { diff_id });
            if self.verified.insert((file.path.clone(), diff_id)) {
                source.verify(&mut self.bytes_left)?;
            }
            return Ok(());
        }
        let directory = self.staging.path().join(format!("layer-{}", self.prepared.len()));
        let below_paths: Vec<PathBuf> = below.iter().rev().map(|chain| self.diff_of(*chain)).collect();
        source.unpack(&directory, &below_paths, &mut self.bytes_left, progress)?;
        self.verified.insert((file.path.clone(), diff_id));
        let info: LayerInfo = describe_layer(&directory, diff_id, below.last().copied())?;
        self.prepared.insert(*own, directory.clone());
        self.arrival.layers.push((*own, directory, info));
        Ok(())
    }

    fn diff_of(&self, chain: Digest) -> PathBuf {
        match self.prepared.get(&chain) {
            Some(directory) => directory.join("diff"),
            None => self.store.layout().layer_diff(chain),
        }
    }

    fn results(&self, found: &[FoundImage]) -> Vec<Loaded> {
        let state = self.store.state();
        let mut loaded = Vec::new();
        for (image, (id, config, _)) in found.iter().zip(&self.arrival.images) {
            let runs_here = config.parsed.platform().runs_on(&Platform::host());
            if image.names.is_empty() {
                loaded.push(Loaded { image_id: *id, name: None, replaced: None, runs_here });
            }
            for name in &image.names {
                let replaced = state.table.references.get(&name.to_string()).copied().filter(|old| old != id);
                loaded.push(Loaded { image_id: *id, name: Some(name.clone()), replaced, runs_here });
            }
        }
        loaded
    }
}
