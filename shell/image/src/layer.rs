//! One layer from its archive to a directory ready to be published: decompressed, unpacked and hashed in a single pass, and
//! checked against the diff id that the image's configuration announces.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::compression::decompress;
use crate::digest::{Digest, HashingReader};
use crate::error::{Error, IoContext, Result};
use crate::limits::Limits;
use crate::store::{ImageStore, LayerInfo};
use crate::tar_reader::TarReader;
use crate::tree;
use crate::unpack::Unpacker;

/// How far a load or import is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A layer is being unpacked.
    Layer {
        /// Its diff id; `None` when it is only known at the end (import).
        diff_id: Option<Digest>,
        /// Bytes of its archive read so far.
        current: u64,
        /// Bytes of its archive.
        total: u64,
    },
    /// A layer is in the store already; its archive is only checked.
    LayerExists {
        /// Its diff id.
        diff_id: Digest,
    },
}

/// Told how far things are; called now and then by the thread that loads.
pub type ProgressFn<'a> = &'a mut dyn FnMut(Progress);

const PROGRESS_STEP_BYTES: u64 = 1 << 20;

/// A layer's archive, and what is known of it.
pub(crate) struct LayerSource<'a> {
    pub(crate) archive: &'a Path,
    pub(crate) expected: Option<Digest>,
    pub(crate) limits: &'a Limits,
}

impl LayerSource<'_> {
    /// Unpacks into `directory/diff`. Returns the diff id. `bytes_left` is what the whole call may still unpack.
    pub(crate) fn unpack(
        &self,
        directory: &Path,
        below: &[PathBuf],
        bytes_left: &mut u64,
        progress: ProgressFn<'_>,
    ) -> Result<Digest> {
        let diff = directory.join("diff");
        fs::create_dir_all(&diff).at("create", &diff)?;
        let unpacker = Unpacker::new(&diff, below)?;
        self.read(bytes_left, progress, |tar| unpacker.unpack(tar))
    }

    /// Only checks the archive.
    pub(crate) fn verify(&self, bytes_left: &mut u64) -> Result<Digest> {
        self.read(bytes_left, &mut |_| {}, |_| Ok(()))
    }

    fn read<'b>(
        &'b self,
        bytes_left: &mut u64,
        progress: ProgressFn<'b>,
        consume: impl FnOnce(&mut TarReader<HashingReader<crate::compression::Decompressed<'b>>>) -> Result<()>,
    ) -> Result<Digest> {
        let file = File::open(self.archive).at("open", self.archive)?;
        let total = file.metadata().at("read", self.archive)?.len();
        let watched = Watched { inner: file, diff_id: self.expected, current: 0, shown: 0, total, progress };
        let plain = HashingReader::new(decompress(watched, self.limits, *bytes_left)?);
        let mut tar = TarReader::new(plain, self.limits.max_entries);
        consume(&mut tar)?;
        let (actual, bytes) = tar.drain()?.finish();
        *bytes_left = bytes_left.saturating_sub(bytes);
        match self.expected {
            Some(expected) if expected != actual => Err(Error::DigestMismatch {
                what: "uncompressed layer".to_owned(),
                expected: expected.to_string(),
                actual: actual.to_string(),
            }),
            _ => Ok(actual),
        }
    }
}

/// Writes `layer.json` beside an unpacked `diff`.
pub(crate) fn describe_layer(directory: &Path, diff_id: Digest, parent: Option<Digest>) -> Result<LayerInfo> {
    let size = tree::usage(&directory.join("diff")).at("measure", directory)?.bytes;
    let info = LayerInfo { diff_id, parent, size };
    let path = directory.join("layer.json");
    let bytes = serde_json::to_vec(&info).expect("digests and numbers always have a JSON form");
    fs::write(&path, bytes).at("write", path)?;
    Ok(info)
}

/// Reports progress while a file is read.
struct Watched<'a> {
    inner: File,
    diff_id: Option<Digest>,
    current: u64,
    shown: u64,
    total: u64,
    progress: ProgressFn<'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.current += read as u64;
        if self.current >= self.shown + PROGRESS_STEP_BYTES || (read > 0 && self.current == self.total) {
            self.shown = self.current;
            (self.progress)(Progress::Layer { diff_id: self.diff_id, current: self.current, total: self.total });
        }
        Ok(read)
    }
}

/// Keeps layers from being collected while a load counts on them.
pub(crate) struct Pins {
    store: ImageStore,
    pinned: Vec<Digest>,
}

impl Pins {
    pub(crate) fn new(store: &ImageStore) -> Pins {
        Pins { store: store.clone(), pinned: Vec::new() }
    }

    /// Makes a prepared layer the store's, where others find it at once, and pins it.
    pub(crate) fn add(&mut self, chain: Digest, prepared: &Path, info: LayerInfo) -> Result<()> {
        self.store.add_layer(chain, prepared, info)?;
        self.pinned.push(chain);
        Ok(())
    }

    /// Pins a layer if the store has it.
    pub(crate) fn pin(&mut self, chain: Digest) -> bool {
        let mut state = self.store.state();
        let known = state.layers.contains_key(&chain);
        if known {
            *state.pins.entry(chain).or_default() += 1;
            self.pinned.push(chain);
        }
        known
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.store.state();
        let mut unowned = false;
        for chain in &self.pinned {
            if let Some(count) = state.pins.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(chain);
                    unowned = true;
                }
            }
        }
        // Its image may have been removed meanwhile.
        if unowned && let Err(error) = self.store.collect(&mut state) {
            tracing::warn!(%error, "cannot collect unused layers; the next removal will");
        }
    }
}
