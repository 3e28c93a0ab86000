//! The snapshot: the state up to one entry, sealed in pieces, replaced as a whole.
//!
//! ```text
//! head (sealed description of what is inside, number of pieces) | piece: length u32, sealed bytes | piece …
//! ```

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::header::{FileKind, decode, encode};
use super::{Damage, DiskError, Place};

const KIND: FileKind = FileKind { magic: b"skep-snp", version: 1 };
const PREFIX: &str = "snapshot-";
const SUFFIX: &str = ".snap";
const PIECE: usize = 1 << 20;

/// A snapshot on disk.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    /// Last index it covers.
    pub(crate) index: u64,
    path: PathBuf,
}

/// Writes a snapshot durably, then removes older ones. `about` describes it and is sealed too.
pub(crate) fn write_snapshot(
    place: &Place,
    index: u64,
    about: &[u8],
    content: &[u8],
) -> Result<SnapshotFile, DiskError> {
    let path = place.directory.join(format!("{PREFIX}{index:020}{SUFFIX}"));
    let temporary = place.directory.join(format!(".{PREFIX}{index:020}{SUFFIX}.tmp"));
    let count = content.len().div_ceil(PIECE) as u64;
    let sealed_about = place.key.seal(&about_context(place, index), about);
    let head = encode(&KIND, place, |fields| {
        fields.u64(index);
        fields.u64(count);
        fields.bytes(sealed_about.as_bytes());
    });
    let write = || -> std::io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let mut out = BufWriter::with_capacity(PIECE, file);
        out.write_all(&head)?;
        let mut sealed = Vec::new();
        for (at, piece) in content.chunks(PIECE).enumerate() {
            sealed.clear();
            place.key.seal_into(&piece_context(place, index, at as u64, count), piece, &mut sealed);
            out.write_all(&(sealed.len() as u32).to_le_bytes())?;
            out.write_all(&sealed)?;
        }
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(DiskError::io("write", &path))?;
    place.sync_directory()?;
    let written = SnapshotFile { index, path };
    remove_older(place, index)?;
    Ok(written)
}

/// The newest snapshot, if there is one; leftovers of a crash are removed.
pub(crate) fn newest_snapshot(place: &Place) -> Result<Option<SnapshotFile>, DiskError> {
    let temporary = place.numbered(&format!(".{PREFIX}"), &format!("{SUFFIX}.tmp"))?;
    for (_, path) in temporary {
        std::fs::remove_file(&path).map_err(DiskError::io("remove", &path))?;
    }
    let Some((index, path)) = place.numbered(PREFIX, SUFFIX)?.pop() else { return Ok(None) };
    remove_older(place, index)?;
    Ok(Some(SnapshotFile { index, path }))
}

impl SnapshotFile {
    /// Reads it: (description, content).
    pub(crate) fn read(&self, place: &Place) -> Result<(Vec<u8>, Vec<u8>), DiskError> {
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(DiskError::io("read", &self.path))?;
        let (mut fields, start) = decode(&KIND, place, &self.path, &bytes)?;
        let damaged = |offset: usize, damage| DiskError::damaged(&self.path, offset as u64, damage);
        let content_damage = |_| damaged(0, Damage::Content);
        let (index, count) = (fields.u64().map_err(content_damage)?, fields.u64().map_err(content_damage)?);
        if index != self.index {
            return Err(damaged(0, Damage::Content));
        }
        let sealed_about = fields.bytes().map_err(content_damage)?;
        let about = place
            .key
            .open_bytes(&about_context(place, index), sealed_about)
            .map_err(|error| DiskError::seal(&self.path, 0, error))?;
        let mut content = Vec::new();
        let mut offset = start;
        for at in 0..count {
            let short = || damaged(bytes.len(), Damage::TooShort);
            let length = bytes.get(offset..offset + 4).ok_or_else(short)?;
            let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            let sealed = bytes.get(offset + 4..offset + 4 + length).ok_or_else(short)?;
            let piece = place
                .key
                .open_bytes(&piece_context(place, index, at, count), sealed)
                .map_err(|error| DiskError::seal(&self.path, offset as u64, error))?;
            content.extend_from_slice(&piece);
            offset += 4 + length;
        }
        if offset != bytes.len() {
            return Err(damaged(offset, Damage::Content));
        }
        Ok((about.to_vec(), content))
    }

    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn remove_older(place: &Place, newest: u64) -> Result<(), DiskError> {
    for (index, path) in place.numbered(PREFIX, SUFFIX)? {
        if index < newest {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), DiskError> {
    std::fs::remove_file(path).map_err(DiskError::io("remove", path))
}

fn about_context(place: &Place, index: u64) -> Vec<u8> {
    place.context("raft-snapshot-about", &index.to_le_bytes())
}

fn piece_context(place: &Place, index: u64, at: u64, count: u64) -> Vec<u8> {
    let mut rest = Vec::with_capacity(24);
    [index, at, count].iter().for_each(|number| rest.extend_from_slice(&number.to_le_bytes()));
    place.context("raft-snapshot", &rest)
}
