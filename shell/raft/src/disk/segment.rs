//! One log segment: a head, then records, appended only.
//!
//! ```text
//! record: magic "SKR1" | payload length u32 | batch start u32 | kind u8, 3 zero | term u64 | index u64 |
//!         committed index + 1, u64 | crc32 u32 of all before and the payload | payload: the entry, sealed
//! ```
//! All records of one write carry the offset where that write began (*batch start*). That is how a torn end is told from
//! damage: whatever was written after a bad record began had to wait for the bad record to be durable.

use std::path::Path;

use skep_trust::SEAL_OVERHEAD;

use super::codec::Reader;
use super::header::{FileKind, decode, encode};
use super::log_files::LogRef;
use super::{Damage, DiskError, Place};

const KIND: FileKind = FileKind { magic: b"skep-log", version: 1 };
const MAGIC: u32 = u32::from_le_bytes(*b"SKR1");
/// Bytes before a record's payload.
pub(crate) const RECORD_HEAD: usize = 44;
const CRC_AT: usize = 40;
/// No record is longer: an entry has at most 8 MiB.
const PAYLOAD_MAX: usize = 16 << 20;

/// What is known of a record without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: u8,
    pub(crate) term: u64,
    pub(crate) index: u64,
    /// The highest index known to be committed when the record was written.
    pub(crate) committed: Option<u64>,
}

/// A record to write, or one that was read.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) header: RecordHeader,
    pub(crate) content: Vec<u8>,
}

/// A record found in a segment's bytes.
pub(crate) struct Found<'a> {
    pub(crate) header: RecordHeader,
    head: &'a [u8],
    payload: &'a [u8],
    batch_start: u32,
}

impl Found<'_> {
    pub(crate) fn length(&self) -> usize {
        RECORD_HEAD + self.payload.len()
    }

    /// Opens the sealed content.
    pub(crate) fn open(&self, place: &Place, path: &Path, offset: u64) -> Result<Vec<u8>, DiskError> {
        let context = place.context("raft-log", &self.head[..CRC_AT]);
        let plain =
            place.key.open_bytes(&context, self.payload).map_err(|error| DiskError::seal(path, offset, error))?;
        Ok(plain.to_vec())
    }
}

/// The head of a segment whose first record will have index `first` and follows `prev`. A sealed nothing in it shows at
/// once whether a key is the right one.
pub(crate) fn encode_head(place: &Place, first: u64, prev: Option<LogRef>) -> Vec<u8> {
    let sealed = place.key.seal(&place.context("raft-log-head", &first.to_le_bytes()), b"");
    encode(&KIND, place, |fields| {
        fields.u64(first);
        fields.u8(u8::from(prev.is_some()));
        let prev = prev.unwrap_or(LogRef { term: 0, index: 0 });
        fields.u64(prev.term);
        fields.u64(prev.index);
        fields.bytes(sealed.as_bytes());
    })
}

/// Checks a segment's head. Returns its first index, what it follows, and where its records begin.
pub(crate) fn decode_head(place: &Place, path: &Path, bytes: &[u8]) -> Result<(u64, Option<LogRef>, usize), DiskError> {
    let (mut fields, start) = decode(&KIND, place, path, bytes)?;
    let content = |_| DiskError::damaged(path, 0, Damage::Content);
    let first = fields.u64().map_err(content)?;
    let follows = fields.u8().map_err(content)? != 0;
    let prev = LogRef { term: fields.u64().map_err(content)?, index: fields.u64().map_err(content)? };
    let sealed = fields.bytes().map_err(content)?;
    let context = place.context("raft-log-head", &first.to_le_bytes());
    place.key.open_bytes(&context, sealed).map_err(|error| DiskError::seal(path, 0, error))?;
    Ok((first, follows.then_some(prev), start))
}

/// Appends a record to `out`, which will be written at `batch_start` as one piece.
pub(crate) fn encode_record(place: &Place, batch_start: u32, record: &Record, out: &mut Vec<u8>) {
    let at = out.len();
    let header = &record.header;
    let length = u32::try_from(record.content.len() + SEAL_OVERHEAD).expect("an entry is shorter than 16 MiB");
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&batch_start.to_le_bytes());
    out.extend_from_slice(&[header.kind, 0, 0, 0]);
    out.extend_from_slice(&header.term.to_le_bytes());
    out.extend_from_slice(&header.index.to_le_bytes());
    out.extend_from_slice(&header.committed.map_or(0, |index| index + 1).to_le_bytes());
    let context = place.context("raft-log", &out[at..]);
    out.extend_from_slice(&[0; RECORD_HEAD - CRC_AT]);
    place.key.seal_into(&context, &record.content, out);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out[at..at + CRC_AT]);
    crc.update(&out[at + RECORD_HEAD..]);
    out[at + CRC_AT..at + RECORD_HEAD].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// The record at the front of `bytes`, if an undamaged one is there.
pub(crate) fn decode_record(bytes: &[u8]) -> Option<Found<'_>> {
    let mut input = Reader::new(bytes);
    if input.u32().ok()? != MAGIC {
        return None;
    }
    let length = input.u32().ok()? as usize;
    if !(SEAL_OVERHEAD..=PAYLOAD_MAX).contains(&length) {
        return None;
    }
    let batch_start = input.u32().ok()?;
    let kind = input.u32().ok()?.to_le_bytes()[0];
    let (term, index, committed) = (input.u64().ok()?, input.u64().ok()?, input.u64().ok()?);
    let crc = input.u32().ok()?;
    let payload = input.take(length).ok()?;
    let head = &bytes[..RECORD_HEAD];
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..CRC_AT]);
    hasher.update(payload);
    if hasher.finalize() != crc {
        return None;
    }
    let header = RecordHeader { kind, term, index, committed: committed.checked_sub(1) };
    Some(Found { header, head, payload, batch_start })
}

/// Whether `bytes` are torn at `offset` and not damaged: nothing after it was written by a later write. After `written`
/// there are only zeros.
pub(crate) fn is_torn(bytes: &[u8], offset: usize, written: usize) -> bool {
    let magic = MAGIC.to_le_bytes();
    let after = (offset + 1).min(written);
    let mut starts = bytes[after..written].windows(magic.len()).enumerate().filter(|(_, window)| *window == magic);
    !starts.any(|(at, _)| decode_record(&bytes[after + at..]).is_some_and(|found| found.batch_start as usize > offset))
}
