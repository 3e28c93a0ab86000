//! The log as a row of segments: opened and checked, appended to, cut at its end, purged at its front.
//!
//! A segment is allocated in advance, so that an append changes no size and its fdatasync writes no metadata; what follows
//! the last record is zeros. Only the log's writer thread changes it. Readers get at entries through [`Position`]s, which stay good while the file is
//! open, also when it has been purged meanwhile.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segment::{decode_head, decode_record, encode_head, encode_record, is_torn};
use super::{Damage, DiskError, Place, Record};

const PREFIX: &str = "log-";
const SUFFIX: &str = ".seg";

/// An entry's place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogRef {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// Where a record lies.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    file: Arc<File>,
    path: Arc<Path>,
    offset: u64,
    length: usize,
}

impl Position {
    /// Reads the record.
    pub(crate) fn read(&self, place: &Place) -> Result<Record, DiskError> {
        let mut bytes = vec![0; self.length];
        self.file.read_exact_at(&mut bytes, self.offset).map_err(DiskError::io("read", &self.path))?;
        let found =
            decode_record(&bytes).ok_or_else(|| DiskError::damaged(&self.path, self.offset, Damage::Checksum))?;
        Ok(Record { header: found.header, content: found.open(place, &self.path, self.offset)? })
    }
}

/// A log that was opened: its entries from first to last.
pub(crate) struct OpenedLog {
    pub(crate) files: LogFiles,
    /// Where each entry lies, in order, beginning after `purged`.
    pub(crate) positions: Vec<Position>,
    /// What precedes the first entry.
    pub(crate) purged: Option<LogRef>,
    /// The last entry, or `purged` when there is none.
    pub(crate) last: Option<LogRef>,
    /// The highest index known to be committed.
    pub(crate) committed: Option<u64>,
    /// The entries after the snapshot, opened.
    pub(crate) entries: Vec<Record>,
    /// How many bytes of a torn last write were cut off.
    pub(crate) torn_bytes: u64,
}

struct Segment {
    first: u64,
    prev: Option<LogRef>,
    path: Arc<Path>,
    file: Arc<File>,
    length: u64,
    /// Offset of each record.
    offsets: Vec<u32>,
    /// The last record's term; that of `prev` when there is no record.
    last_term: u64,
}

impl Segment {
    fn next_index(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    fn position(&self, at: usize) -> Position {
        let offset = u64::from(self.offsets[at]);
        let end = self.offsets.get(at + 1).map_or(self.length, |next| u64::from(*next));
        Position {
            file: Arc::clone(&self.file),
            path: Arc::clone(&self.path),
            offset,
            length: usize::try_from(end - offset).expect("a segment is smaller than 4 GiB"),
        }
    }
}

/// The writer's side of the log.
pub(crate) struct LogFiles {
    place: Place,
    segments: Vec<Segment>,
    /// A segment that has grown to this is followed by a new one.
    segment_bytes: u64,
    buffer: Vec<u8>,
    poisoned: bool,
}

impl LogFiles {
    /// Opens the log and checks every record. `snapshot` is the last index the snapshot covers: entries up to there may be
    /// missing, those after it are opened and returned, as they are about to be applied.
    pub(crate) fn open(place: &Place, snapshot: Option<u64>, segment_bytes: u64) -> Result<OpenedLog, DiskError> {
        let mut opened = OpenedLog {
            files: LogFiles {
                place: place.clone(),
                segments: Vec::new(),
                segment_bytes,
                buffer: Vec::new(),
                poisoned: false,
            },
            positions: Vec::new(),
            purged: None,
            last: None,
            committed: None,
            entries: Vec::new(),
            torn_bytes: 0,
        };
        let paths = place.numbered(PREFIX, SUFFIX)?;
        let count = paths.len();
        for (at, (_, path)) in paths.into_iter().enumerate() {
            opened.read_segment(path, snapshot, at + 1 == count)?;
        }
        if let Some(first) = opened.files.segments.first() {
            opened.purged = first.prev;
        }
        let segments = &opened.files.segments;
        opened.positions =
            segments.iter().flat_map(|segment| (0..segment.offsets.len()).map(|at| segment.position(at))).collect();
        Ok(opened)
    }

    /// Appends records and makes them durable with one fdatasync. Returns where they lie. After a failure for want of room
    /// ([`DiskError::is_full`]) the same records may be tried again, and nothing else may be appended before.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<Vec<Position>, DiskError> {
        let Some(first) = records.first() else { return Ok(Vec::new()) };
        self.check_poison()?;
        // Until all is durable, a failure leaves the file in a state nobody knows.
        self.poisoned = true;
        let full = self.segments.last().is_none_or(|segment| segment.length >= self.segment_bytes);
        if full {
            let prev = self.last();
            debug_assert!(prev.is_none_or(|prev| prev.index + 1 == first.header.index), "no holes in the log");
            let started = self.start_segment(first.header.index, prev);
            started.inspect_err(|error| self.poisoned = !error.is_full())?;
        }
        let segment = self.segments.last_mut().expect("there is one after start_segment");
        let start = segment.length;
        let batch_start = u32::try_from(start).expect("a segment is smaller than 4 GiB");
        self.buffer.clear();
        let (before, last_term) = (segment.offsets.len(), segment.last_term);
        for record in records {
            debug_assert_eq!(record.header.index, segment.next_index(), "no holes in the log");
            segment.offsets.push(batch_start + self.buffer.len() as u32);
            encode_record(&self.place, batch_start, record, &mut self.buffer);
            segment.last_term = record.header.term;
        }
        let written = segment.file.write_all_at(&self.buffer, start).map_err(DiskError::io("append to", &segment.path));
        // Tried again, all of it is written again, so a sync that succeeds then says that all of it is there.
        let synced = written
            .and_then(|()| segment.file.sync_data().map_err(DiskError::io("sync", &segment.path)))
            .inspect_err(|error| self.poisoned = !error.is_full());
        if let Err(error) = synced {
            segment.offsets.truncate(before);
            segment.last_term = last_term;
            return Err(error);
        }
        segment.length = start + self.buffer.len() as u64;
        self.buffer.shrink_to(1 << 20);
        self.poisoned = false;
        Ok((before..segment.offsets.len()).map(|at| segment.position(at)).collect())
    }

    /// Removes all entries after `last` (all, if `None`), from the end backward.
    pub(crate) fn truncate_after(&mut self, last: Option<LogRef>) -> Result<(), DiskError> {
        self.check_poison()?;
        self.poisoned = true;
        let keep = last.map_or(0, |last| last.index + 1);
        while let Some(segment) = self.segments.last() {
            if segment.first < keep || self.segments.len() == 1 {
                break;
            }
            std::fs::remove_file(&segment.path).map_err(DiskError::io("remove", &segment.path))?;
            self.segments.pop();
        }
        self.place.sync_directory()?;
        if let Some(segment) = self.segments.last_mut().filter(|segment| segment.next_index() > keep) {
            let at = usize::try_from(keep.saturating_sub(segment.first)).expect("fits, it is below the count");
            let length = u64::from(segment.offsets[at]);
            segment.file.set_len(length).map_err(DiskError::io("truncate", &segment.path))?;
            allocate_if_room(&segment.file, &segment.path, self.segment_bytes)?;
            segment.offsets.truncate(at);
            segment.length = length;
            segment.last_term = last.map_or(0, |last| last.term);
        }
        self.poisoned = false;
        Ok(())
    }

    /// Forgets entries up to `upto`: whole segments go. When that is beyond the last entry (a snapshot replaced the log),
    /// the log goes on after it.
    pub(crate) fn purge(&mut self, upto: LogRef) -> Result<(), DiskError> {
        self.check_poison()?;
        self.poisoned = true;
        if self.last().is_none_or(|last| last.index < upto.index) {
            let started = self.start_segment(upto.index + 1, Some(upto));
            started.inspect_err(|error| self.poisoned = !error.is_full())?;
        }
        let gone = self.segments.iter().skip(1).take_while(|next| next.first <= upto.index + 1).count();
        for segment in self.segments.drain(..gone) {
            std::fs::remove_file(&segment.path).map_err(DiskError::io("remove", &segment.path))?;
        }
        if gone > 0 {
            self.place.sync_directory()?;
        }
        self.poisoned = false;
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn end_of_last_segment(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.length)
    }

    fn last(&self) -> Option<LogRef> {
        let segment = self.segments.last()?;
        match segment.offsets.len() {
            0 => segment.prev,
            _ => Some(LogRef { term: segment.last_term, index: segment.next_index() - 1 }),
        }
    }

    fn check_poison(&self) -> Result<(), DiskError> {
        if self.poisoned { Err(DiskError::Poisoned) } else { Ok(()) }
    }

    /// Begins a segment: its head is durable under its name before a record is written.
    fn start_segment(&mut self, first: u64, prev: Option<LogRef>) -> Result<(), DiskError> {
        let path = self.place.directory.join(format!("{PREFIX}{first:020}{SUFFIX}"));
        let head = encode_head(&self.place, first, prev);
        let length = head.len() as u64;
        skep_trust::write_atomic(&path, &head, 0o600).map_err(DiskError::io("create", &path))?;
        let file = open_segment(&path)?;
        allocate(&file, &path, self.segment_bytes)?;
        // A segment of this name without records is superseded.
        self.segments.retain(|segment| segment.first != first);
        let last_term = prev.map_or(0, |prev| prev.term);
        let (path, file) = (path.into(), Arc::new(file));
        self.segments.push(Segment { first, prev, path, file, length, offsets: Vec::new(), last_term });
        Ok(())
    }
}

impl OpenedLog {
    fn read_segment(&mut self, path: PathBuf, snapshot: Option<u64>, is_last: bool) -> Result<(), DiskError> {
        let file = open_segment(&path)?;
        let bytes = std::fs::read(&path).map_err(DiskError::io("read", &path))?;
        let place = self.files.place.clone();
        let (first, prev, start) = decode_head(&place, &path, &bytes)?;
        self.check_order(&path, first, prev, snapshot)?;
        let mut segment = Segment {
            first,
            prev,
            path: path.as_path().into(),
            file: Arc::new(file),
            length: bytes.len() as u64,
            offsets: Vec::new(),
            last_term: prev.map_or(0, |prev| prev.term),
        };
        self.last = prev.or(self.last);
        let mut offset = start;
        while offset < bytes.len() {
            let Some(found) = decode_record(&bytes[offset..]) else {
                let written = bytes.len() - trailing_zeros(&bytes[offset..]);
                if written > offset {
                    if !is_last || !is_torn(&bytes, offset, written) {
                        return Err(DiskError::damaged(&path, offset as u64, Damage::Middle));
                    }
                    self.torn_bytes = (written - offset) as u64;
                    segment.file.set_len(offset as u64).map_err(DiskError::io("truncate", &path))?;
                }
                break;
            };
            let header = found.header;
            let expected = segment.next_index();
            if header.index != expected {
                let damage = Damage::Gap { expected, found: header.index };
                return Err(DiskError::damaged(&path, offset as u64, damage));
            }
            if snapshot.is_none_or(|covered| header.index > covered) {
                let content = found.open(&place, &path, offset as u64)?;
                self.entries.push(Record { header, content });
            }
            segment.offsets.push(u32::try_from(offset).expect("a segment is smaller than 4 GiB"));
            segment.last_term = header.term;
            self.last = Some(LogRef { term: header.term, index: header.index });
            self.committed = self.committed.max(header.committed);
            offset += found.length();
        }
        segment.length = offset as u64;
        if is_last && (self.torn_bytes > 0 || (bytes.len() as u64) < self.files.segment_bytes) {
            allocate_if_room(&segment.file, &path, self.files.segment_bytes)?;
        }
        self.files.segments.push(segment);
        Ok(())
    }

    /// Segments follow each other without a gap, except where a snapshot replaced everything before this one.
    fn check_order(
        &mut self,
        path: &Path,
        first: u64,
        prev: Option<LogRef>,
        snapshot: Option<u64>,
    ) -> Result<(), DiskError> {
        let gap = |expected| DiskError::damaged(path, 0, Damage::Gap { expected, found: first });
        if prev.map_or(0, |prev| prev.index + 1) != first {
            return Err(DiskError::damaged(path, 0, Damage::Content));
        }
        let covered = snapshot.map_or(0, |index| index + 1);
        if self.files.segments.is_empty() {
            return if first <= covered { Ok(()) } else { Err(gap(covered)) };
        }
        let expected = self.last.map_or(0, |last| last.index + 1);
        if expected == first && self.last == prev {
            return Ok(());
        }
        if first > expected && first <= covered {
            for segment in std::mem::take(&mut self.files.segments) {
                std::fs::remove_file(&segment.path).map_err(DiskError::io("remove", &segment.path))?;
            }
            self.entries.clear();
            return Ok(());
        }
        Err(gap(expected))
    }
}

/// How many zeros are at the end.
fn trailing_zeros(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let pieces = bytes.rchunks(ZEROS.len());
    let zero: usize = pieces.map_while(|piece| (*piece == ZEROS[..piece.len()]).then_some(piece.len())).sum();
    zero + bytes[..bytes.len() - zero].iter().rev().take_while(|byte| **byte == 0).count()
}

/// Makes room for the whole segment, and whatever was done to the file durable. Where the file system cannot allocate in
/// advance it is done without: only speed is lost.
fn allocate(file: &File, path: &Path, bytes: u64) -> Result<(), DiskError> {
    use nix::errno::Errno;
    let length = bytes.cast_signed();
    match nix::fcntl::posix_fallocate(std::os::fd::AsRawFd::as_raw_fd(file), 0, length.max(1)) {
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {}
        Err(error) => return Err(DiskError::io("allocate room for", path)(error.into())),
    }
    file.sync_all().map_err(DiskError::io("sync", path))
}

/// As [`allocate`] for a segment that is in use already: without room it is not lengthened, which costs only speed.
fn allocate_if_room(file: &File, path: &Path, bytes: u64) -> Result<(), DiskError> {
    match allocate(file, path, bytes) {
        Err(error) if error.is_full() => file.sync_all().map_err(DiskError::io("sync", path)),
        allocated => allocated,
    }
}

fn open_segment(path: &Path) -> Result<File, DiskError> {
    OpenOptions::new().read(true).write(true).mode(0o600).open(path).map_err(DiskError::io("open", path))
}
