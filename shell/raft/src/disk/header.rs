//! The head every file begins with: what kind of file it is, in which version, whose.
//!
//! ```text
//! magic (8) | version u32 | body length u32 | body: cluster id, epoch, fields of the kind | crc32 u32 of all before
//! ```

use std::path::Path;

use super::codec::{Reader, Writer};
use super::{Damage, DiskError, Place};

/// A kind of file: its first eight bytes and the newest version this skep reads and writes.
pub(crate) struct FileKind {
    pub(crate) magic: &'static [u8; 8],
    pub(crate) version: u32,
}

const FIXED: usize = 16;
const CRC: usize = 4;
/// A head is small; anything larger is damage.
const BODY_MAX: usize = 64 << 10;

/// The head of a file of this kind, with `fields` written by the caller.
pub(crate) fn encode(kind: &FileKind, place: &Place, fields: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut body = Writer::default();
    body.text(&place.cluster_id);
    body.u64(place.epoch);
    fields(&mut body);
    let body = body.into_bytes();
    let mut out = Writer::with_capacity(FIXED + body.len() + CRC);
    out.raw(kind.magic);
    out.u32(kind.version);
    out.bytes(&body);
    let mut bytes = out.into_bytes();
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Checks the head at the front of `bytes`. Returns the kind's own fields and where the content begins.
pub(crate) fn decode<'a>(
    kind: &FileKind,
    place: &Place,
    path: &Path,
    bytes: &'a [u8],
) -> Result<(Reader<'a>, usize), DiskError> {
    let short = |_| DiskError::damaged(path, 0, Damage::TooShort);
    let mut input = Reader::new(bytes);
    if input.take(8).map_err(short)? != kind.magic {
        return Err(DiskError::damaged(path, 0, Damage::Kind));
    }
    let version = input.u32().map_err(short)?;
    let length = input.u32().map_err(short)? as usize;
    if length > BODY_MAX {
        return Err(DiskError::damaged(path, 12, Damage::Checksum));
    }
    let body = input.take(length).map_err(short)?;
    let crc = input.u32().map_err(short)?;
    if crc32fast::hash(&bytes[..FIXED + length]) != crc {
        return Err(DiskError::damaged(path, 0, Damage::Checksum));
    }
    if version != kind.version {
        return Err(DiskError::Newer { path: path.to_owned(), found: version, supported: kind.version });
    }
    let content = |_| DiskError::damaged(path, FIXED as u64, Damage::Content);
    let mut fields = Reader::new(body);
    let (found, found_epoch) = (fields.text().map_err(content)?, fields.u64().map_err(content)?);
    if found != place.cluster_id || found_epoch != place.epoch {
        return Err(DiskError::Foreign {
            path: path.to_owned(),
            found,
            found_epoch,
            wanted: place.cluster_id.clone(),
            wanted_epoch: place.epoch,
        });
    }
    Ok((fields, FIXED + length + CRC))
}
