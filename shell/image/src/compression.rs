//! Reading streams that may be compressed. The format is recognised by its first bytes; what comes out is bounded in size and in
//! proportion to what went in, so that a small archive cannot fill the disk.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::limits::Limits;

/// Counts what is read from the compressed side.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// A plain view of a stream. Fails with an I/O error that carries an [`Error`] when a limit is reached; see [`stream_error`].
pub(crate) struct Decompressed<'a> {
    inner: Box<dyn Read + 'a>,
    compressed: bool,
    taken: Rc<Cell<u64>>,
    given: u64,
    bytes_max: u64,
    bytes_left: u64,
    ratio_max: u64,
    ratio_free: u64,
}

/// Looks at the first bytes and puts the right decoder in front. `bytes_left` is how much may come out before
/// `limits.max_unpacked_bytes` is used up.
pub(crate) fn decompress<'a, R: Read + 'a>(reader: R, limits: &Limits, bytes_left: u64) -> Result<Decompressed<'a>> {
    let taken = Rc::new(Cell::new(0));
    let mut counted = Counted { inner: reader, count: taken.clone() };
    let mut magic = Vec::new();
    (&mut counted).take(6).read_to_end(&mut magic).map_err(Error::ReadStream)?;
    let reader = BufReader::with_capacity(64 << 10, io::Cursor::new(magic.clone()).chain(counted));
    let (inner, compressed): (Box<dyn Read + 'a>, bool) = if magic.starts_with(&[0x1f, 0x8b]) {
        (Box::new(MultiGzDecoder::new(reader)), true)
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        (Box::new(zstd::stream::read::Decoder::with_buffer(reader).map_err(Error::ReadStream)?), true)
    } else if magic.starts_with(b"BZh") {
        return Err(Error::archive("compressed with bzip2, which is not supported: use gzip, zstd or a plain tar"));
    } else if magic.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return Err(Error::archive("compressed with xz, which is not supported: use gzip, zstd or a plain tar"));
    } else {
        (Box::new(reader), false)
    };
    Ok(Decompressed {
        inner,
        compressed,
        taken,
        given: 0,
        bytes_max: limits.max_unpacked_bytes,
        bytes_left,
        ratio_max: limits.max_compression_ratio,
        ratio_free: limits.ratio_free_bytes,
    })
}

/// A plain view of an archive that may be compressed, with the default bounds.
///
/// # Errors
/// A compression that is not known, or the stream cannot be read.
pub fn decompressed<'a, R: Read + 'a>(reader: R) -> Result<impl Read + 'a> {
    let limits = Limits::default();
    decompress(reader, &limits, limits.max_unpacked_bytes)
}

impl Read for Decompressed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.given += read as u64;
        if self.given > self.bytes_left {
            return Err(limit("unpacked size in bytes", self.bytes_max));
        }
        let ratio_floor = self.taken.get().saturating_mul(self.ratio_max);
        if self.compressed && self.given > self.ratio_free && self.given > ratio_floor {
            return Err(limit("compression ratio", self.ratio_max));
        }
        Ok(read)
    }
}

fn limit(what: &'static str, limit: u64) -> io::Error {
    io::Error::other(Error::LimitExceeded { what, limit })
}

/// Turns an I/O error back into what it carries; everything else is a failed or damaged stream.
pub(crate) fn stream_error(error: io::Error) -> Error {
    if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
        let inner = error.into_inner().expect("just seen to carry an error");
        return *inner.downcast::<Error>().expect("just seen to be ours");
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::archive("unexpected end of the archive"),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Error::archive(format!("damaged compression: {error}"))
        }
        _ => Error::ReadStream(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8], limits: &Limits) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(bytes, limits, limits.max_unpacked_bytes)?.read_to_end(&mut out).map_err(stream_error)?;
        Ok(out)
    }

    #[test]
    fn plain_gzip_and_zstd_are_recognised() {
        let limits = Limits::default();
        assert_eq!(read(b"plain", &limits).unwrap(), b"plain");
        assert_eq!(read(b"", &limits).unwrap(), b"");
        assert_eq!(read(&gzip(b"text"), &limits).unwrap(), b"text");
        assert_eq!(read(&[gzip(b"two "), gzip(b"members")].concat(), &limits).unwrap(), b"two members");
        assert_eq!(read(&zstd::encode_all(&b"text"[..], 0).unwrap(), &limits).unwrap(), b"text");
    }

    #[test]
    fn formats_nobody_should_send_are_refused_by_name() {
        let limits = Limits::default();
        assert!(read(b"BZh91AY", &limits).unwrap_err().to_string().contains("bzip2"));
        assert!(read(b"\xfd7zXZ\0rest", &limits).unwrap_err().to_string().contains("xz"));
    }

    #[test]
    fn bombs_are_refused() {
        let zeros = vec![0; 2 << 20];
        let size = Limits { max_unpacked_bytes: 1 << 20, ..Limits::default() };
        assert!(matches!(read(&gzip(&zeros), &size), Err(Error::LimitExceeded { what: "unpacked size in bytes", .. })));
        let ratio = Limits { ratio_free_bytes: 1 << 20, max_compression_ratio: 10, ..Limits::default() };
        assert!(matches!(read(&gzip(&zeros), &ratio), Err(Error::LimitExceeded { what: "compression ratio", .. })));
        assert_eq!(read(&zeros, &ratio).unwrap().len(), zeros.len());
    }

    #[test]
    fn damaged_and_cut_streams_are_refused() {
        let limits = Limits::default();
        let whole = gzip(&(0..200_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
        assert!(matches!(read(&whole[..whole.len() - 9], &limits), Err(Error::InvalidArchive(_))));
        let mut damaged = whole.clone();
        let end = damaged.len() - 6;
        damaged[end] ^= 0xff;
        assert!(matches!(read(&damaged, &limits), Err(Error::InvalidArchive(_))));
    }
}
