//! Image archives and layers, read into a store of their own. What is refused leaves nothing; what is taken can be removed again;
//! nothing is written beside the store.

use std::path::Path;

use anyhow::{Context as _, ensure};
use skep_image::{ImageBuilder, ImageStore, Limits, Reference};
use tempfile::TempDir;

use crate::{Mutator, Target};

const BLOCK: usize = 512;

/// A store that is watched.
struct Watched {
    folder: TempDir,
    store: ImageStore,
}

impl Watched {
    fn new() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("skep-fuzz-")?;
        let limits = Limits { max_unpacked_bytes: 8 << 20, max_entries: 10_000, ..Limits::default() };
        let store = ImageStore::open_with(&folder.path().join("store"), limits)?;
        std::fs::write(folder.path().join("outside"), "untouched")?;
        Ok(Self { folder, store })
    }

    fn load(&self, archive: &[u8]) -> anyhow::Result<()> {
        let result = self.store.load(archive, &mut |_| ());
        if result.is_ok() {
            for image in self.store.list() {
                let id = image.id.to_string();
                self.store.save(std::slice::from_ref(&id))?.write(std::io::sink())?;
                self.store.remove(&id, true, |_| None).with_context(|| format!("{id} cannot be removed"))?;
            }
        }
        for name in ["tmp", "layers", "l", "blobs/sha256"] {
            let left = std::fs::read_dir(self.store.root().join(name))?.count();
            ensure!(left == 0, "{left} entries are left in {name}/ after {result:?}");
        }
        let outside = std::fs::read_to_string(self.folder.path().join("outside"))?;
        let beside = std::fs::read_dir(self.folder.path())?.count();
        ensure!(outside == "untouched" && beside == 2, "something was written beside the store");
        Ok(())
    }
}

fn sample(outside: &Path) -> anyhow::Result<Vec<u8>> {
    let outside = outside.to_string_lossy();
    let mut archive = Vec::new();
    ImageBuilder::new()
        .directory("etc", 0o755)
        .file("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644)
        .file("etc/group", b"root:x:0:\n", 0o644)
        .symlink("up", "../../../..")
        .symlink("out", &outside)
        .hard_link("etc/again", "etc/passwd")
        .layer()
        .remove("etc/group")
        .file("etc/.wh..wh..opq", b"", 0o644)
        .file("up/file", b"content", 0o4755)
        .created("2026-01-02T03:04:05Z")
        .write_archive(&mut archive, Some(&Reference::parse("x:1")?))?;
    Ok(archive)
}

/// Makes the checksums of tar headers right again, so that changes within them are looked at.
fn mend(archive: &mut [u8]) {
    for block in archive.as_chunks_mut::<BLOCK>().0 {
        if &block[257..262] != b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Whole archives.
pub(crate) struct Archives {
    watched: Watched,
    sample: Vec<u8>,
}

impl Archives {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let watched = Watched::new()?;
        let sample = sample(&watched.folder.path().join("outside"))?;
        watched.load(&sample).context("the sample itself")?;
        Ok(Self { watched, sample })
    }
}

impl Target for Archives {
    fn case(&mut self, mutator: &mut Mutator) -> anyhow::Result<()> {
        let mut archive = self.sample.clone();
        mutator.mutate(&mut archive);
        if !mutator.one_in(3) {
            mend(&mut archive);
        }
        self.watched.load(&archive)
    }
}

/// Layers in archives that are right around them.
pub(crate) struct Layers {
    watched: Watched,
    layers: Vec<Vec<u8>>,
}

impl Layers {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let watched = Watched::new()?;
        let sample = sample(&watched.folder.path().join("outside"))?;
        let mut layers = Vec::new();
        for entry in tar::Archive::new(sample.as_slice()).entries()? {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry?, &mut bytes)?;
            if bytes.get(257..262) == Some(b"ustar") {
                layers.push(bytes);
            }
        }
        ensure!(layers.len() == 2, "the sample has {} layers", layers.len());
        Ok(Self { watched, layers })
    }
}

impl Target for Layers {
    fn case(&mut self, mutator: &mut Mutator) -> anyhow::Result<()> {
        let mut layers = self.layers.clone();
        for layer in &mut layers {
            mutator.mutate(layer);
            if !mutator.one_in(4) {
                mend(layer);
            }
        }
        self.watched.load(&wrapped(&layers)?)
    }
}

/// An archive around layers, with digests that are right.
fn wrapped(layers: &[Vec<u8>]) -> anyhow::Result<Vec<u8>> {
    let digests: Vec<skep_image::Digest> = layers.iter().map(|layer| skep_image::Digest::of(layer)).collect();
    let ids: Vec<String> = digests.iter().map(ToString::to_string).collect();
    let host = skep_image::Platform::host();
    let config = serde_json::json!({
        "architecture": host.architecture, "os": host.os, "rootfs": { "type": "layers", "diff_ids": ids },
    })
    .to_string();
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
    let manifest = serde_json::json!([{ "Config": "config", "RepoTags": ["x:1"], "Layers": names }]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    let files = names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice));
    for (name, bytes) in files.chain([("config", config.as_bytes()), ("manifest.json", manifest.as_bytes())]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len())?);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes)?;
    }
    Ok(archive.into_inner()?)
}
