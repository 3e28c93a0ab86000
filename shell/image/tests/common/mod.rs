//! What the tests of this crate share: a store in a temporary directory, archives made by hand, and a look at what is left.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};

use skep_image::{ImageStore, Limits, Loaded, Result};
use tar::{EntryType, Header};

pub struct TestStore {
    pub dir: tempfile::TempDir,
    pub store: ImageStore,
}

pub fn store() -> TestStore {
    store_with(Limits::default())
}

pub fn store_with(limits: Limits) -> TestStore {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open_with(&dir.path().join("image"), limits).unwrap();
    TestStore { dir, store }
}

impl TestStore {
    pub fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>> {
        self.store.load(archive, &mut |_| {})
    }

    /// Closes the store and opens it again, as after a restart.
    pub fn reopen(self) -> TestStore {
        let TestStore { dir, store } = self;
        drop(store);
        let store = ImageStore::open(&dir.path().join("image")).unwrap();
        TestStore { dir, store }
    }

    pub fn root(&self) -> PathBuf {
        self.store.root().to_owned()
    }

    /// Everything below the root but the four fixed files, to see that nothing is left.
    pub fn contents(&self) -> Vec<String> {
        contents(self.store.root())
    }

    pub fn assert_empty(&self) {
        assert_eq!(self.contents(), Vec::<String>::new());
        assert_eq!(self.store.list().len(), 0);
        // Nor beside the store.
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 1);
    }
}

pub fn contents(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for directory in ["tmp", "layers", "l", "blobs/sha256", "snapshots"] {
        for entry in std::fs::read_dir(root.join(directory)).unwrap() {
            all.push(format!("{directory}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    all.sort();
    all
}

/// A tar archive in the making, with names that no well-meaning writer would let through.
#[derive(Default)]
pub struct Tar(Vec<u8>);

pub fn header(name: &[u8], kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header
}

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    pub fn raw(mut self, mut header: Header, content: &[u8]) -> Tar {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, content: &[u8]) -> Tar {
        self.raw(header(name.as_bytes(), EntryType::Regular, content.len() as u64), content)
    }

    pub fn dir(self, name: &str, mode: u32) -> Tar {
        let mut header = header(name.as_bytes(), EntryType::Directory, 0);
        header.set_mode(mode);
        self.raw(header, b"")
    }

    pub fn link(self, name: &str, kind: EntryType, target: &str) -> Tar {
        let mut header = header(name.as_bytes(), kind, 0);
        header.set_link_name_literal(target).unwrap();
        self.raw(header, b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.link(name, EntryType::Symlink, target)
    }

    pub fn hard_link(self, name: &str, target: &str) -> Tar {
        self.link(name, EntryType::Link, target)
    }

    pub fn device(self, name: &str, kind: EntryType, major: u32, minor: u32) -> Tar {
        let mut header = header(name.as_bytes(), kind, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(header, b"")
    }

    /// A PAX header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.raw(header(b"pax", EntryType::XHeader, bytes.len() as u64), &bytes)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn hex(bytes: &[u8]) -> String {
    skep_image::Digest::of(bytes).hex()
}

/// A configuration for layers with these uncompressed archives.
pub fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
    let architecture = skep_image::Platform::host().architecture;
    serde_json::json!({
        "architecture": architecture, "os": "linux", "created": "2026-01-02T03:04:05Z",
        "config": { "Cmd": ["/bin/sh"] }, "rootfs": { "type": "layers", "diff_ids": ids },
    })
    .to_string()
    .into_bytes()
}

/// An archive with one image made of these layer files, described by `config`.
pub fn docker_archive(config: &[u8], layers: &[&[u8]], tags: &[&str]) -> Vec<u8> {
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let manifest = serde_json::json!([{
        "Config": blob(config), "RepoTags": tags, "Layers": layers.iter().map(|layer| blob(layer)).collect::<Vec<_>>(),
    }]);
    let mut tar = Tar::new().file(&blob(config), config);
    let mut seen = std::collections::BTreeSet::new();
    for layer in layers {
        if seen.insert(hex(layer)) {
            tar = tar.file(&blob(layer), layer);
        }
    }
    tar.file("manifest.json", manifest.to_string().as_bytes()).end()
}

/// One image of one plain layer.
pub fn one_layer(layer: &[u8], tag: &str) -> Vec<u8> {
    docker_archive(&config(&[layer]), &[layer], &[tag])
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
