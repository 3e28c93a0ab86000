//! One file of a log, plain or compressed. Which file it is is told by device and inode; a compressed one names those of the
//! file it was made from, and when that was written last, so that a reader of that one knows it again. An inode's number is used
//! anew, but not while the file is open.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

/// One file of a log, read from its beginning.
pub(super) struct LogFile {
    name: PathBuf,
    content: Content,
    /// `DEVICE:INODE:MODIFIED` of a compressed one's original.
    original: Option<String>,
}

enum Content {
    Plain(File),
    Compressed(Box<GzDecoder<BufReader<File>>>),
}

impl LogFile {
    /// Opens `name`, or `name.gz` when that is what became of it.
    pub(super) fn open(name: &Path) -> io::Result<Self> {
        match File::open(name) {
            Ok(file) => Ok(Self { name: name.to_owned(), content: Content::Plain(file), original: None }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let name = PathBuf::from(format!("{}.gz", name.display()));
                let decoder = GzDecoder::new(BufReader::new(File::open(&name)?));
                let comment = decoder.header().and_then(|header| header.comment());
                let original =
                    comment.and_then(|text| String::from_utf8_lossy(text).strip_prefix("skep ").map(str::to_owned));
                Ok(Self { name, content: Content::Compressed(Box::new(decoder)), original })
            }
            Err(error) => Err(error),
        }
    }

    /// The same file from its beginning again; the one meant even if it has been renamed meanwhile.
    pub(super) fn again(&self) -> io::Result<Self> {
        let content = match &self.content {
            // Through the descriptor: a position of its own.
            Content::Plain(file) => Content::Plain(reopen(file)?),
            Content::Compressed(decoder) => {
                Content::Compressed(Box::new(GzDecoder::new(BufReader::new(reopen(decoder.get_ref().get_ref())?))))
            }
        };
        Ok(Self { name: self.name.clone(), content, original: self.original.clone() })
    }

    /// Whether both have the same lines: they are the same file, or one was made from the other.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (&self.original, &other.original) {
            (Some(one), Some(other)) => one == other,
            (Some(original), None) => other.described().as_ref() == Some(original),
            (None, Some(original)) => self.described().as_ref() == Some(original),
            (None, None) => match (self.metadata(), other.metadata()) {
                (Some(one), Some(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
                _ => false,
            },
        }
    }

    /// Whether `path` is this file now.
    pub(super) fn is_at(&self, path: &Path) -> Option<bool> {
        let (own, current) = (self.metadata()?, std::fs::metadata(path).ok()?);
        Some((own.dev(), own.ino()) == (current.dev(), current.ino()))
    }

    fn metadata(&self) -> Option<Metadata> {
        match &self.content {
            Content::Plain(file) => file.metadata().ok(),
            Content::Compressed(decoder) => decoder.get_ref().get_ref().metadata().ok(),
        }
    }

    fn described(&self) -> Option<String> {
        let data = self.metadata()?;
        Some(format!("{}:{}:{}.{:09}", data.dev(), data.ino(), data.mtime(), data.mtime_nsec()))
    }

    /// The plain file, for reading at any place.
    pub(super) fn plain(&self) -> Option<&File> {
        if let Content::Plain(file) = &self.content { Some(file) } else { None }
    }

    /// Its length; `None` when only reading it tells.
    pub(super) fn length(&self) -> Option<u64> {
        self.plain()?.metadata().ok().map(|data| data.len())
    }

    /// Goes on `count` bytes from its beginning.
    pub(super) fn skip(&mut self, count: u64) -> io::Result<()> {
        match &mut self.content {
            Content::Plain(file) => file.seek(SeekFrom::Start(count)).map(drop),
            Content::Compressed(decoder) => io::copy(&mut decoder.take(count), &mut io::sink()).map(drop),
        }
    }

    /// Reads on. A compressed file that is damaged ends where the damage is.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.content {
            Content::Plain(file) => file.read(buffer),
            Content::Compressed(decoder) => match decoder.read(buffer) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    tracing::warn!(file = %self.name.display(), %error, "a compressed log is damaged: the rest of it is left out");
                    Ok(0)
                }
                other => other,
            },
        }
    }
}

fn reopen(file: &File) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
