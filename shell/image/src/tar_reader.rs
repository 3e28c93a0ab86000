//! A strict, streaming reader of tar archives: ustar, GNU long names and PAX records, each within a bound. It exists beside the
//! `tar` crate, whose header type it uses, because names and PAX records must not be able to grow in memory without limit, and
//! because an archive that ends early must be an error. Sparse files are refused: image builders do not write them.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::compression::stream_error;
use crate::error::{Error, Result};

const BLOCK: usize = 512;
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry's metadata.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link_name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The name for messages.
    pub(crate) fn shown(&self) -> String {
        crate::digest::shorten(&String::from_utf8_lossy(&self.name))
    }
}

/// Goes through an archive entry by entry. [`Read`] gives the content of the current one.
pub(crate) struct TarReader<R> {
    inner: R,
    entries: u64,
    entries_max: u64,
    remaining: u64,
    padding: u64,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(inner: R, entries_max: u64) -> Self {
        TarReader { inner, entries: 0, entries_max, remaining: 0, padding: 0, global: BTreeMap::new() }
    }

    /// The next entry; what was not read of the last one is skipped. `None` at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut local = BTreeMap::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip_content()?;
            let Some(header) = self.read_header()? else {
                if long_name.is_some() || long_link.is_some() || !local.is_empty() {
                    return Err(Error::archive("unexpected end of the archive"));
                }
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.entries_max {
                return Err(Error::LimitExceeded { what: "number of archive entries", limit: self.entries_max });
            }
            let size = header.entry_size().map_err(|_| damaged("size"))?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(until_nul(self.read_extension(size)?)),
                EntryType::GNULongLink => long_link = Some(until_nul(self.read_extension(size)?)),
                EntryType::XHeader => parse_pax(&self.read_extension(size)?, &mut local)?,
                EntryType::XGlobalHeader => {
                    let records = self.read_extension(size)?;
                    parse_pax(&records, &mut self.global)?;
                    // Repeated global headers must not add up without bound.
                    if self.global.len() > 10_000 {
                        return Err(damaged("global PAX header"));
                    }
                }
                kind => {
                    let kind = entry_kind(kind)?;
                    let mut pax = self.global.clone();
                    pax.extend(local);
                    let entry = build_entry(&header, kind, size, long_name, long_link, pax)?;
                    self.set_content(entry.size)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Reads to the end of the stream beneath; what follows the end marker is part of a layer's digest.
    pub(crate) fn drain(mut self) -> Result<R> {
        io::copy(&mut self.inner, &mut io::sink()).map_err(stream_error)?;
        Ok(self.inner)
    }

    fn set_content(&mut self, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(damaged("size"));
        }
        self.remaining = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<()> {
        let rest = self.remaining + self.padding;
        (self.remaining, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink()).map_err(stream_error)?;
        if skipped == rest { Ok(()) } else { Err(Error::archive("unexpected end of the archive")) }
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(Error::LimitExceeded {
                what: "size of a tar extension header in bytes",
                limit: EXTENSION_BYTES_MAX,
            });
        }
        self.set_content(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(stream_error)?;
        Ok(bytes)
    }

    fn read_header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut header.as_mut_bytes()[filled..]).map_err(stream_error)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(Error::archive("unexpected end of the archive")),
                read => filled += read,
            }
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let sum: u32 =
            bytes[..148].iter().chain(&bytes[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * u32::from(b' ');
        if header.cksum().ok() != Some(sum) {
            return Err(Error::archive("archive/tar: invalid tar header"));
        }
        Ok(Some(header))
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= read as u64;
        Ok(read)
    }
}

fn damaged(what: &str) -> Error {
    Error::archive(format!("archive/tar: invalid tar header ({what})"))
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

fn entry_kind(kind: EntryType) -> Result<Kind> {
    Ok(match kind {
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::HardLink,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::Fifo => Kind::Fifo,
        EntryType::GNUSparse => {
            return Err(Error::archive("sparse files are not supported: pack the archive without --sparse"));
        }
        other => return Err(Error::archive(format!("unknown entry type {:?}", char::from(other.as_byte())))),
    })
}

/// PAX records: `length key=value\n`, the length counting the whole record (POSIX.1-2017, pax, "Extended Header").
fn parse_pax(mut bytes: &[u8], into: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
    while !bytes.is_empty() && bytes[0] != 0 {
        let space = bytes.iter().take(20).position(|b| *b == b' ').ok_or_else(|| damaged("PAX record"))?;
        let length: usize = number(&bytes[..space]).ok_or_else(|| damaged("PAX record"))?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(damaged("PAX record"));
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(|| damaged("PAX record"))?;
        into.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Ok(())
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.starts_with('+') { None } else { text.parse().ok() }
}

fn build_entry(
    header: &Header,
    kind: Kind,
    size: u64,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<Entry> {
    let text = |key: &str| pax.get(key.as_bytes()).filter(|value| !value.is_empty());
    if pax.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
        return Err(Error::archive("sparse files are not supported: pack the archive without --sparse"));
    }
    let mut entry = Entry {
        name: long_name.unwrap_or_else(|| header.path_bytes().into_owned()),
        link_name: long_link
            .unwrap_or_else(|| header.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default()),
        kind,
        size,
        mode: unless_blank(&header.as_old().mode, || header.mode()).map_err(|_| damaged("mode"))? & 0o7777,
        uid: id(unless_blank(&header.as_old().uid, || header.uid()).map_err(|_| damaged("uid"))?)?,
        gid: id(unless_blank(&header.as_old().gid, || header.gid()).map_err(|_| damaged("gid"))?)?,
        mtime: (signed_mtime(header), 0),
        device: (0, 0),
        xattrs: Vec::new(),
    };
    if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
        let part =
            |number: io::Result<Option<u32>>| number.map(Option::unwrap_or_default).map_err(|_| damaged("device"));
        entry.device = (part(header.device_major())?, part(header.device_minor())?);
    }
    if let Some(name) = text("path") {
        entry.name = name.clone();
    }
    if let Some(name) = text("linkpath") {
        entry.link_name = name.clone();
    }
    if let Some(value) = text("size") {
        entry.size = number(value).ok_or_else(|| damaged("PAX size"))?;
    }
    if let Some(value) = text("uid") {
        entry.uid = id(number(value).ok_or_else(|| damaged("PAX uid"))?)?;
    }
    if let Some(value) = text("gid") {
        entry.gid = id(number(value).ok_or_else(|| damaged("PAX gid"))?)?;
    }
    if let Some(value) = text("mtime") {
        entry.mtime = pax_time(value).ok_or_else(|| damaged("PAX mtime"))?;
    }
    // A name that ends in a slash is a directory in archives older than ustar.
    if entry.kind == Kind::File
        && header.as_ustar().is_none()
        && header.as_gnu().is_none()
        && entry.name.ends_with(b"/")
    {
        entry.kind = Kind::Directory;
    }
    if entry.kind != Kind::File {
        // Only files have content; some writers leave a size in other headers, which Go's reader ignores too.
        entry.size = 0;
    }
    if entry.name.contains(&0) || entry.link_name.contains(&0) {
        return Err(damaged("name"));
    }
    for (key, value) in pax {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() || name.len() > 255 || name.contains(&0) {
                return Err(damaged("extended attribute"));
            }
            entry.xattrs.push((name.to_vec(), value));
        }
    }
    Ok(entry)
}

/// A blank field counts as zero, as in Go's reader.
fn unless_blank<T: Default>(field: &[u8], read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) { Ok(T::default()) } else { read() }
}

fn id(number: u64) -> Result<u32> {
    // The largest number means "no id" to the kernel.
    u32::try_from(number).ok().filter(|id| *id != u32::MAX).ok_or_else(|| damaged("user or group id"))
}

/// Base-256 times may be negative, which the header type reads as huge.
fn signed_mtime(header: &Header) -> i64 {
    header.mtime().map(u64::cast_signed).unwrap_or_default()
}

/// Seconds with an optional fraction, possibly negative.
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
    }

    fn entries(bytes: &[u8], entries_max: u64) -> Result<Vec<(String, Vec<u8>)>> {
        let mut reader = TarReader::new(bytes, entries_max);
        let mut out = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut content = Vec::new();
            reader.read_to_end(&mut content).map_err(stream_error)?;
            out.push((entry.shown(), content));
        }
        Ok(out)
    }

    #[test]
    fn names_short_and_long_and_contents_come_back() {
        let long = "d/".repeat(150) + "f";
        let bytes = archive(|builder| {
            file(builder, "a", b"one");
            file(builder, &long, &[7; 1000]);
        });
        assert_eq!(
            entries(&bytes, 100).unwrap(),
            [("a".to_owned(), b"one".to_vec()), (crate::digest::shorten(&long), vec![7; 1000])]
        );
    }

    #[test]
    fn every_cut_of_an_archive_is_an_error_or_a_shorter_archive_at_an_entry() {
        let bytes = archive(|builder| {
            file(builder, "a", &[1; 600]);
            file(builder, "b", &[2; 600]);
        });
        for cut in 1..3 * 2 * BLOCK {
            let result = entries(&bytes[..cut], 100);
            if cut % (3 * BLOCK) == 0 {
                assert_eq!(result.unwrap().len(), cut / (3 * BLOCK))
            } else {
                assert!(result.is_err(), "{cut}")
            }
        }
    }

    #[test]
    fn limits_and_damage_are_reported() {
        let mut bytes = archive(|builder| file(builder, "a", b"x"));
        assert!(matches!(entries(&bytes, 0), Err(Error::LimitExceeded { .. })));
        bytes[0] = b'z';
        assert!(matches!(entries(&bytes, 9), Err(Error::InvalidArchive(_))));
        let huge_name = archive(|builder| {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::GNULongName);
            header.set_size(EXTENSION_BYTES_MAX + 1);
            header.set_cksum();
            builder.append(&header, io::repeat(b'a').take(EXTENSION_BYTES_MAX + 1)).unwrap();
        });
        assert!(matches!(entries(&huge_name, 9), Err(Error::LimitExceeded { .. })));
    }

    #[test]
    fn pax_times_and_records_are_parsed() {
        assert_eq!(pax_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(pax_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(pax_time(b"x"), None);
        let mut records = BTreeMap::new();
        parse_pax(b"12 path=abc\n", &mut records).unwrap();
        assert_eq!(records[&b"path"[..]], b"abc");
        for bad in [&b"99 path=abc\n"[..], b"0 a=b\n", b"3 a\n", b"x", b"12 pathXabc\n"] {
            assert!(parse_pax(bad, &mut BTreeMap::new()).is_err());
        }
    }
}
