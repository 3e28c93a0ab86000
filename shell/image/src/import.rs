//! `docker import`: an image of one layer from an archive of a root file system.

use std::fs::{self, File};
use std::io::Read;

use crate::archive::copy;
use crate::changes;
use crate::config::{ContainerConfig, History, ImageConfig, Platform, RootFs};
use crate::digest::{Digest, HashingReader, ImageId};
use crate::error::{Error, IoContext, Result};
use crate::layer::{LayerSource, Pins, ProgressFn, describe_layer};
use crate::reference::Reference;
use crate::store::{Arrival, Config, ImageStore, now};
use crate::table::ImageRow;

/// What an import is told beside the archive.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// The name to give (`:latest` if it has no tag).
    pub name: Option<Reference>,
    /// Dockerfile instructions for the configuration (`CMD ["sh"]`).
    pub changes: Vec<String>,
    /// A remark; `Imported from -` if empty.
    pub message: String,
    /// The platform; this machine's if none.
    pub platform: Option<Platform>,
}

impl ImageStore {
    /// Makes an image from an archive of a root file system, plain or compressed with gzip or zstd.
    ///
    /// # Errors
    /// A bad change or name; the stream fails; the archive is damaged, hostile or too large. The store is as before then.
    pub fn import(&self, reader: impl Read, import: &Import, progress: ProgressFn<'_>) -> Result<ImageId> {
        // Before the archive is read: a typo should not cost an upload.
        let config = changes::apply(ContainerConfig::default(), &import.changes)?;
        if import.name.as_ref().is_some_and(|name| name.digest().is_some()) {
            return Err(Error::InvalidReference("cannot import digest reference".to_owned()));
        }
        let staging = self.layout().staging()?;
        let archive = staging.path().join("archive");
        let mut reader = HashingReader::new(BoundedReader {
            inner: reader,
            left: self.limits().max_unpacked_bytes,
            max: self.limits().max_unpacked_bytes,
        });
        let mut file = File::create_new(&archive).at("create", &archive)?;
        copy(&mut reader, &mut file, &archive)?;
        let (blob, _) = reader.finish();

        let directory = staging.path().join("layer");
        let source = LayerSource { archive: &archive, expected: None, limits: self.limits() };
        let mut bytes_left = self.limits().max_unpacked_bytes;
        let diff_id = source.unpack(&directory, &[], &mut bytes_left, progress)?;
        let info = describe_layer(&directory, diff_id, None)?;
        let mut pins = Pins::new(self);
        pins.pin(diff_id);

        let raw = image_config(import, config, diff_id).to_bytes();
        let id = ImageId(Digest::of(&raw));
        let config_file = staging.path().join("config");
        fs::write(&config_file, &raw).at("write", &config_file)?;
        let row = ImageRow { layer_blobs: vec![blob], ..ImageRow::default() };
        let arrival = Arrival {
            blobs: vec![(blob, archive), (id.0, config_file)],
            layers: vec![(diff_id, directory, info)],
            images: vec![(id, Config::new(raw)?, row)],
            names: import.name.iter().map(|name| (name.clone().with_default_tag(), id)).collect(),
        };
        self.publish(arrival, &staging)?;
        drop(pins);
        Ok(id)
    }
}

fn image_config(import: &Import, config: ContainerConfig, diff_id: Digest) -> ImageConfig {
    let platform = import.platform.clone().unwrap_or_else(Platform::host);
    let comment = if import.message.is_empty() { "Imported from -".to_owned() } else { import.message.clone() };
    let created = now();
    ImageConfig {
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        created: created.clone(),
        comment: comment.clone(),
        config,
        history: vec![History { created, comment, ..History::default() }],
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        ..ImageConfig::default()
    }
}

/// Ends with an error, not quietly, when a stream is too long.
struct BoundedReader<R> {
    inner: R,
    left: u64,
    max: u64,
}

impl<R: Read> Read for BoundedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            std::io::Error::other(Error::LimitExceeded { what: "archive size in bytes", limit: self.max })
        })?;
        Ok(read)
    }
}
