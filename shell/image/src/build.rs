//! Images from files in memory, without a registry or a Dockerfile: for demonstrations and tests. The result is an archive as
//! `docker save` of today writes it, so that it goes through the same door as everyone else's.

use std::io::Write;

use serde_json::json;
use tar::{EntryType, Header};

use crate::config::{ContainerConfig, History, ImageConfig, Platform, RootFs};
use crate::digest::{Digest, ImageId};
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::store::{ImageStore, now};

/// Collects layers and a configuration. Starts from nothing (`scratch`), with one empty layer open.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    layers: Vec<Vec<Item>>,
    config: ContainerConfig,
    platform: Platform,
    created: Option<String>,
}

#[derive(Debug, Clone)]
struct Item {
    path: String,
    kind: ItemKind,
    mode: u32,
}

#[derive(Debug, Clone)]
enum ItemKind {
    File(Vec<u8>),
    Directory,
    Symlink(String),
    HardLink(String),
}

impl Default for ImageBuilder {
    fn default() -> ImageBuilder {
        ImageBuilder::new()
    }
}

impl ImageBuilder {
    /// Nothing yet, for this machine's platform.
    pub fn new() -> ImageBuilder {
        ImageBuilder {
            layers: vec![Vec::new()],
            config: ContainerConfig::default(),
            platform: Platform::host(),
            created: None,
        }
    }

    /// Adds a file that belongs to root. Directories on the way that are not added themselves belong to root with mode 755.
    pub fn file(self, path: &str, content: &[u8], mode: u32) -> ImageBuilder {
        self.add(path, ItemKind::File(content.to_vec()), mode)
    }

    /// Adds a directory.
    pub fn directory(self, path: &str, mode: u32) -> ImageBuilder {
        self.add(path, ItemKind::Directory, mode)
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> ImageBuilder {
        self.add(path, ItemKind::Symlink(target.to_owned()), 0o777)
    }

    /// Adds a hard link to a file of the same layer.
    pub fn hard_link(self, path: &str, target: &str) -> ImageBuilder {
        self.add(path, ItemKind::HardLink(target.to_owned()), 0o644)
    }

    /// Hides a file or directory of the layers below.
    pub fn remove(self, path: &str) -> ImageBuilder {
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(parent, name)| (parent, name));
        let whiteout = if parent.is_empty() { format!(".wh.{name}") } else { format!("{parent}/.wh.{name}") };
        self.add(&whiteout, ItemKind::File(Vec::new()), 0o600)
    }

    /// Closes the current layer and opens the next.
    pub fn layer(mut self) -> ImageBuilder {
        self.layers.push(Vec::new());
        self
    }

    /// Sets what containers do by default.
    pub fn config(mut self, config: ContainerConfig) -> ImageBuilder {
        self.config = config;
        self
    }

    /// Sets the platform.
    pub fn platform(mut self, platform: Platform) -> ImageBuilder {
        self.platform = platform;
        self
    }

    /// Sets the time of creation (RFC 3339); the same content at the same time gives the same image id everywhere.
    pub fn created(mut self, time: &str) -> ImageBuilder {
        self.created = Some(time.to_owned());
        self
    }

    /// Loads the image into a store, under a name if there is one.
    ///
    /// # Errors
    /// A path that the store refuses, or the store cannot be written.
    pub fn build(&self, store: &ImageStore, name: Option<&Reference>) -> Result<ImageId> {
        let mut archive = Vec::new();
        self.write_archive(&mut archive, name)?;
        let loaded = store.load(archive.as_slice(), &mut |_| {})?;
        loaded.first().map(|loaded| loaded.image_id).ok_or_else(|| Error::archive("it has no image in it"))
    }

    /// Writes an archive for `docker load`.
    ///
    /// # Errors
    /// A path that does not fit into an archive, or the writer fails.
    pub fn write_archive(&self, out: impl Write, name: Option<&Reference>) -> Result<ImageId> {
        let layers = self
            .layers
            .iter()
            .map(|layer| layer_archive(layer))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(writing)?;
        let created = self.created.clone().unwrap_or_else(now);
        let config = ImageConfig {
            architecture: self.platform.architecture.clone(),
            variant: self.platform.variant.clone(),
            os: self.platform.os.clone(),
            created: created.clone(),
            config: self.config.clone(),
            history: layers.iter().map(|_| History { created: created.clone(), ..History::default() }).collect(),
            rootfs: RootFs { diff_ids: layers.iter().map(|layer| Digest::of(layer)).collect(), ..RootFs::default() },
            ..ImageConfig::default()
        }
        .to_bytes();
        write_image(out, &config, &layers, name).map_err(writing)?;
        Ok(ImageId(Digest::of(&config)))
    }

    fn add(mut self, path: &str, kind: ItemKind, mode: u32) -> ImageBuilder {
        let item = Item { path: path.trim_start_matches('/').to_owned(), kind, mode };
        match self.layers.last_mut() {
            Some(layer) => layer.push(item),
            None => self.layers.push(vec![item]),
        }
        self
    }
}

/// Writes a docker archive of one layer made of `files` (path, content, mode).
///
/// # Errors
/// A bad name, a path that does not fit into an archive, or the writer fails.
pub fn write_docker_archive(
    out: impl Write,
    name: &str,
    files: &[(&str, &[u8], u32)],
    config: &ContainerConfig,
) -> Result<ImageId> {
    let name = Reference::parse(name)?.with_default_tag();
    let builder =
        files.iter().fold(ImageBuilder::new(), |builder, (path, content, mode)| builder.file(path, content, *mode));
    builder.config(config.clone()).write_archive(out, Some(&name))
}

fn writing(error: std::io::Error) -> Error {
    Error::Io { action: "write", path: "image archive".into(), source: error }
}

fn layer_archive(items: &[Item]) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for item in items {
        let mut header = header(item.mode);
        match &item.kind {
            ItemKind::File(content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, &item.path, content.as_slice())?;
            }
            ItemKind::Directory => {
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, &item.path, std::io::empty())?;
            }
            ItemKind::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                builder.append_link(&mut header, &item.path, target)?;
            }
            ItemKind::HardLink(target) => {
                header.set_entry_type(EntryType::Link);
                builder.append_link(&mut header, &item.path, target)?;
            }
        }
    }
    builder.into_inner()
}

fn header(mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn write_image(out: impl Write, config: &[u8], layers: &[Vec<u8>], name: Option<&Reference>) -> std::io::Result<()> {
    let descriptor = |kind: &str, bytes: &[u8]| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(bytes).to_string(), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let mut top = descriptor("manifest.v1+json", &manifest);
    if let Some(name) = name {
        top["annotations"] = json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag().unwrap_or_default(),
        });
    }
    let index =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [top] });
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let docker = json!([{
        "Config": blob(config),
        "RepoTags": name.map(|name| vec![name.familiar()]),
        "Layers": layers.iter().map(|layer| blob(layer)).collect::<Vec<_>>(),
    }]);

    let mut builder = tar::Builder::new(out);
    let mut written = std::collections::BTreeSet::new();
    let mut add = |path: String, bytes: &[u8]| -> std::io::Result<()> {
        // Equal layers are one blob.
        if !written.insert(path.clone()) {
            return Ok(());
        }
        let mut header = header(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes)
    };
    for bytes in layers.iter().map(Vec::as_slice).chain([config, &manifest]) {
        add(blob(bytes), bytes)?;
    }
    add("index.json".to_owned(), index.to_string().as_bytes())?;
    add("manifest.json".to_owned(), docker.to_string().as_bytes())?;
    add("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    builder.finish()
}
