//! `docker save`: images as an archive that `docker load` reads, in the layout of today's Docker, which is an OCI layout with
//! Docker's `manifest.json` beside it. Blobs go out as they came in, so that a load gives the same ids, and the same digest to an
//! image that came with a manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::Header;

use crate::digest::{Digest, ImageId};
use crate::error::{Error, IoContext as _, Result};
use crate::layout::Staging;
use crate::reference::Reference;
use crate::store::{ImageStore, State, id_prefix};

const CONFIG_KIND: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_KIND: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST_KIND: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_KIND: &str = "application/vnd.oci.image.index.v1+json";

/// The files of an image under names that stay while they are needed.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) config: (Digest, PathBuf),
    /// Bottom first.
    pub(crate) layers: Vec<(Digest, PathBuf)>,
    pub(crate) manifest: Option<(Digest, PathBuf)>,
}

/// Images that are about to be saved: they are found, and stay until this goes.
#[derive(Debug)]
pub struct Saving {
    images: Vec<(ImageId, Vec<Reference>, Parts)>,
    _staging: Staging,
}

impl ImageStore {
    /// Finds images by reference, id or id prefix, to be written by [`Saving::write`]. A name without a tag is all its tags,
    /// as in Docker.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`].
    pub fn save(&self, names: &[String]) -> Result<Saving> {
        let staging = self.layout().staging()?;
        let mut order: Vec<ImageId> = Vec::new();
        let mut tags: BTreeMap<ImageId, BTreeSet<String>> = BTreeMap::new();
        {
            let state = self.state();
            for name in names {
                for (id, tag) in resolve(&state, name)? {
                    if !tags.contains_key(&id) {
                        order.push(id);
                    }
                    tags.entry(id).or_default().extend(tag);
                }
            }
        }
        let mut images = Vec::new();
        for id in order {
            let tags = tags.remove(&id).unwrap_or_default();
            let names = tags.iter().map(|name| Reference::parse(name)).collect::<Result<_>>()?;
            images.push((id, names, self.parts(id, staging.path())?));
        }
        Ok(Saving { images, _staging: staging })
    }

    /// The files of an image, linked into `directory`, where no removal of the image takes them away.
    pub(crate) fn parts(&self, id: ImageId, directory: &Path) -> Result<Parts> {
        let state = self.state();
        let row = state.table.images.get(&id).ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
        let link = |digest: Digest| -> Result<(Digest, PathBuf)> {
            let path = directory.join(digest.hex());
            match fs::hard_link(self.layout().blob(digest), &path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).at("link", path),
                _ => Ok((digest, path)),
            }
        };
        Ok(Parts {
            config: link(id.0)?,
            layers: row.layer_blobs.iter().map(|digest| link(*digest)).collect::<Result<_>>()?,
            manifest: row.manifest.map(link).transpose()?,
        })
    }
}

/// Which images a name stands for, each with the tag (canonical) it is saved under.
fn resolve(state: &State, name: &str) -> Result<Vec<(ImageId, Option<String>)>> {
    if let Ok(reference) = Reference::parse(name)
        && reference.tag().is_none()
        && reference.digest().is_none()
        && id_prefix(name).is_none_or(|_| {
            state.find(name).is_none()
                || state.table.references.contains_key(&reference.clone().with_default_tag().to_string())
        })
    {
        let prefix = format!("{}:", reference.name());
        let all: Vec<_> = state
            .table
            .references
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix) && !name.contains('@'))
            .map(|(name, id)| (*id, Some(name.clone())))
            .collect();
        if !all.is_empty() {
            return Ok(all);
        }
        if id_prefix(name).is_none() {
            return Err(Error::NoSuchImage(reference.familiar()));
        }
    }
    let id = state.require(name)?;
    let tag = Reference::parse(name).ok().filter(|reference| reference.tag().is_some() && reference.digest().is_none());
    let tag = tag.map(|reference| reference.to_string()).filter(|tag| state.table.references.contains_key(tag));
    Ok(vec![(id, tag)])
}

impl Saving {
    /// The images that are saved.
    pub fn ids(&self) -> Vec<ImageId> {
        self.images.iter().map(|(id, ..)| *id).collect()
    }

    /// Writes the archive. Blocks.
    ///
    /// # Errors
    /// A file cannot be read, or the writer fails.
    pub fn write(&self, out: impl Write) -> Result<()> {
        let mut archive = Archive { builder: tar::Builder::new(out), written: BTreeSet::new() };
        let (mut items, mut manifests) = (Vec::new(), Vec::new());
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (_, names, parts) in &self.images {
            let top = archive.image(parts)?;
            items.push(json!({
                "Config": blob(parts.config.0),
                "RepoTags": (!names.is_empty()).then(|| names.iter().map(Reference::familiar).collect::<Vec<_>>()),
                "Layers": parts.layers.iter().map(|(digest, _)| blob(*digest)).collect::<Vec<_>>(),
            }));
            if names.is_empty() {
                manifests.push(top.clone());
            }
            for name in names {
                let mut named = top.clone();
                named["annotations"] = json!({
                    "io.containerd.image.name": name.to_string(),
                    "org.opencontainers.image.ref.name": name.tag().unwrap_or_default(),
                });
                manifests.push(named);
                let layer = parts.layers.last().map(|(digest, _)| digest.hex()).unwrap_or_default();
                let tags = repositories.entry(name.familiar_name()).or_default();
                tags.insert(name.tag().unwrap_or_default().to_owned(), layer);
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX_KIND, "manifests": manifests });
        archive.bytes("index.json", index.to_string().as_bytes())?;
        archive.bytes("manifest.json", json!(items).to_string().as_bytes())?;
        archive.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !repositories.is_empty() {
            archive.bytes("repositories", json!(repositories).to_string().as_bytes())?;
        }
        archive.builder.finish().map_err(writing)
    }
}

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn writing(source: io::Error) -> Error {
    Error::Io { action: "write", path: "image archive".into(), source }
}

struct Archive<W: Write> {
    builder: tar::Builder<W>,
    written: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// Writes the blobs of an image; gives the descriptor of its manifest.
    fn image(&mut self, parts: &Parts) -> Result<Value> {
        let mut layers = Vec::new();
        for (digest, path) in &parts.layers {
            let size = self.file(&blob(*digest), path)?;
            layers.push(json!({ "mediaType": layer_kind(path)?, "digest": digest.to_string(), "size": size }));
        }
        let config_size = self.file(&blob(parts.config.0), &parts.config.1)?;
        let (kind, bytes) = match &parts.manifest {
            Some((_, path)) => {
                let bytes = fs::read(path).at("read", path)?;
                let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                (value["mediaType"].as_str().unwrap_or(MANIFEST_KIND).to_owned(), bytes)
            }
            None => {
                let config =
                    json!({ "mediaType": CONFIG_KIND, "digest": parts.config.0.to_string(), "size": config_size });
                let manifest =
                    json!({ "schemaVersion": 2, "mediaType": MANIFEST_KIND, "config": config, "layers": layers });
                (MANIFEST_KIND.to_owned(), manifest.to_string().into_bytes())
            }
        };
        let digest = Digest::of(&bytes);
        self.bytes(&blob(digest), &bytes)?;
        Ok(json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() }))
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<u64> {
        let file = File::open(path).at("open", path)?;
        let size = file.metadata().at("read", path)?.len();
        if self.written.insert(name.to_owned()) {
            self.builder.append_data(&mut header(size), name, file).map_err(writing)?;
        }
        Ok(size)
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.written.insert(name.to_owned()) {
            self.builder.append_data(&mut header(bytes.len() as u64), name, bytes).map_err(writing)?;
        }
        Ok(())
    }
}

/// Always the same, so that the same images give the same archive.
fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn layer_kind(path: &Path) -> Result<String> {
    let mut magic = [0; 4];
    let mut file = File::open(path).at("open", path)?;
    let read = io::Read::read(&mut file, &mut magic).at("read", path)?;
    Ok(match &magic[..read] {
        [0x1f, 0x8b, ..] => format!("{LAYER_KIND}+gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => format!("{LAYER_KIND}+zstd"),
        _ => LAYER_KIND.to_owned(),
    })
}
