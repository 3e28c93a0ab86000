//! The outer archive of `docker load`: read once from a stream and set down in a temporary directory under names of our own, so
//! that the names in it, and links between them, never meet the file system. Links are resolved within the archive only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::compression::{decompress, stream_error};
use crate::digest::{Digest, HashingReader};
use crate::error::{Error, IoContext, Result};
use crate::limits::Limits;
use crate::tar_reader::{Entry, Kind, TarReader};
use crate::unpack::components;

/// Files of an outer archive are remembered by name; real ones have a few for each layer.
const OUTER_ENTRIES_MAX: u64 = 100_000;
const LINK_HOPS_MAX: usize = 8;
const BLOB_PREFIX: &str = "blobs/sha256/";

/// A file of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StagedFile {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

/// All files of the archive by their names in it.
#[derive(Debug, Default)]
pub(crate) struct StagedArchive {
    files: BTreeMap<String, StagedFile>,
    links: BTreeMap<String, String>,
    json_bytes_max: u64,
}

impl StagedArchive {
    /// Reads the whole stream into `directory`.
    pub(crate) fn read(reader: impl Read, directory: &Path, limits: &Limits) -> Result<StagedArchive> {
        let plain = decompress(reader, limits, limits.max_unpacked_bytes)?;
        let mut tar = TarReader::new(plain, limits.max_entries.min(OUTER_ENTRIES_MAX));
        let mut archive = StagedArchive { json_bytes_max: limits.max_json_bytes, ..StagedArchive::default() };
        while let Some(entry) = tar.next_entry()? {
            archive.entry(&entry, &mut tar, directory)?;
        }
        // The rest is padding; reading it lets the sender finish and shows damage in the compression.
        tar.drain()?;
        Ok(archive)
    }

    fn entry(&mut self, entry: &Entry, content: &mut impl Read, directory: &Path) -> Result<()> {
        let name = archive_name(&entry.name)?;
        match entry.kind {
            Kind::Directory => return Ok(()),
            _ if name.is_empty() => return Err(Error::archive("an entry without a name")),
            _ if self.files.contains_key(&name) || self.links.contains_key(&name) => {
                return Err(Error::archive(format!("\"{name}\" is in the archive twice")));
            }
            Kind::File => {
                let path = directory.join(self.files.len().to_string());
                let mut file = File::create_new(&path).at("create", &path)?;
                let mut content = HashingReader::new(content);
                copy(&mut content, &mut file, &path)?;
                let (digest, size) = content.finish();
                check_blob_name(&name, digest)?;
                self.files.insert(name, StagedFile { path, size, digest });
            }
            Kind::Symlink => {
                let target = link_target(&name, &entry.link_name)?;
                self.links.insert(name, target);
            }
            Kind::HardLink => {
                self.links.insert(name, archive_name(&entry.link_name)?);
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                return Err(Error::archive(format!("\"{name}\" is neither a file nor a directory nor a link")));
            }
        }
        Ok(())
    }

    /// Whether the archive has this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&StagedFile> {
        let mut name = name;
        for _ in 0..LINK_HOPS_MAX {
            if let Some(file) = self.files.get(name) {
                return Some(file);
            }
            name = self.links.get(name)?;
        }
        None
    }

    /// A file by its name; links are followed.
    pub(crate) fn file(&self, name: &str) -> Result<&StagedFile> {
        let clean = archive_name(name.as_bytes())?;
        self.find(&clean).ok_or_else(|| Error::archive(format!("\"{}\" is missing", crate::digest::shorten(&clean))))
    }

    /// The blob with this digest in an OCI layout, checked against the announced size.
    pub(crate) fn blob(&self, digest: Digest, size: Option<u64>) -> Result<&StagedFile> {
        let file = self.file(&format!("{BLOB_PREFIX}{}", digest.hex()))?;
        if file.digest != digest {
            return Err(mismatch(&format!("blob {digest}"), digest, file.digest));
        }
        match size {
            Some(size) if size != file.size => {
                Err(Error::archive(format!("blob {digest} has {} bytes, its descriptor says {size}", file.size)))
            }
            _ => Ok(file),
        }
    }

    /// The bytes of a file that must be small.
    pub(crate) fn small(&self, file: &StagedFile) -> Result<Vec<u8>> {
        if file.size > self.json_bytes_max {
            return Err(Error::LimitExceeded { what: "size of a JSON document in bytes", limit: self.json_bytes_max });
        }
        fs::read(&file.path).at("read", &file.path)
    }

    /// A small file as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, what: &str, file: &StagedFile) -> Result<T> {
        serde_json::from_slice(&self.small(file)?).map_err(|error| Error::archive(format!("{what}: {error}")))
    }
}

pub(crate) fn mismatch(what: &str, expected: Digest, actual: Digest) -> Error {
    Error::DigestMismatch { what: what.to_owned(), expected: expected.to_string(), actual: actual.to_string() }
}

/// Copies, telling a broken stream from a full disk.
pub(crate) fn copy(from: &mut impl Read, to: &mut impl io::Write, path: &Path) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(stream_error(error)),
        };
        to.write_all(&buffer[..read]).at("write", path)?;
    }
}

/// A name in the outer archive: relative, without `..`, UTF-8.
fn archive_name(name: &[u8]) -> Result<String> {
    let shown = || crate::digest::shorten(&String::from_utf8_lossy(name));
    if name.starts_with(b"/") {
        return Err(Error::archive(format!("\"{}\" is an absolute path", shown())));
    }
    let parts: Option<Vec<&str>> = components(name)?.into_iter().map(|part| part.to_str()).collect();
    Ok(parts.ok_or_else(|| Error::archive(format!("\"{}\" is not UTF-8", shown())))?.join("/"))
}

/// Where a symbolic link in the outer archive leads, which must be inside.
fn link_target(name: &str, target: &[u8]) -> Result<String> {
    let outside = || Error::archive(format!("symbolic link \"{name}\" leads outside of the archive"));
    let target = std::str::from_utf8(target).map_err(|_| outside())?;
    if target.starts_with('/') || target.is_empty() {
        return Err(outside());
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(outside)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Blobs and legacy configurations say in their names what their digest is.
fn check_blob_name(name: &str, actual: Digest) -> Result<()> {
    let announced = match name.strip_prefix(BLOB_PREFIX) {
        Some(hex) => {
            Some(Digest::from_hex(hex).map_err(|_| Error::archive(format!("\"{name}\" is not named by a digest")))?)
        }
        None => name.strip_suffix(".json").and_then(|hex| Digest::from_hex(hex).ok()),
    };
    match announced {
        Some(expected) if expected != actual => Err(mismatch(&format!("\"{name}\""), expected, actual)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_stay_inside_the_archive() {
        assert_eq!(link_target("b/layer.tar", b"../a/layer.tar").unwrap(), "a/layer.tar");
        for bad in [&b"/etc/passwd"[..], b"../../x", b"", b"../../../etc/passwd"] {
            assert!(link_target("b/layer.tar", bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_name_or_link_leads_outside(name in "[a./]{0,20}", target in "[a./]{0,20}") {
            if let Ok(clean) = archive_name(name.as_bytes()) {
                prop_assert!(!clean.starts_with('/') && clean.split('/').all(|part| part != ".." && part != "."));
                if let Ok(target) = link_target(&clean, target.as_bytes()) {
                    prop_assert!(!target.starts_with('/') && target.split('/').all(|part| part != ".." && part != "."));
                }
            }
        }
    }
}
