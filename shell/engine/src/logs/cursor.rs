//! A position in a log that may be rotated under the reader: `x` becomes `x.1`, that `x.2` or, compressed, `x.2.gz`, and a new
//! `x` begins.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use skep_oci::LogFormat;

use super::decoder::Decoder;
use super::file::LogFile;
use super::line::LogLine;
use super::seek;
use crate::error::{At, Result};

/// Bytes read at a time.
const PIECE: usize = 64 * 1024;
/// Most rotated files that are looked for.
const ROTATED_MAX: u32 = 1000;

pub(super) struct Cursor {
    path: PathBuf,
    /// Files still to be read, oldest first; the last one may grow.
    files: VecDeque<LogFile>,
    /// Bytes read of the first of them.
    position: u64,
    decoder: Decoder,
}

/// What one reading gave.
pub(super) struct Piece {
    pub(super) lines: Vec<LogLine>,
    /// Nothing more for now.
    pub(super) at_end: bool,
}

impl Cursor {
    /// At the beginning of a log, of its last lines, or at what is not older than `since`; with both, at the last lines. A log
    /// that is not there yet is empty.
    pub(super) fn open(path: PathBuf, format: LogFormat, lines: Option<u64>, since: Option<i64>) -> Result<Self> {
        let mut files = newer_files(&path, None)?;
        let mut position = 0;
        if lines.is_some() || since.is_some() {
            let mut all: Vec<LogFile> = files.into();
            let (index, start) = match (lines, since) {
                (Some(lines), _) => seek::last_lines(&all, format, lines),
                (None, Some(since)) => seek::since(&all, format, since),
                (None, None) => Ok((0, 0)),
            }
            .at("read", &path)?;
            position = start;
            files = all.drain(index..).collect();
            if let Some(first) = files.front_mut() {
                first.skip(position).at("read", &path)?;
            }
        }
        Ok(Self { path, files, position, decoder: Decoder::new(format) })
    }

    /// True when there may be something to read. Two system calls, no waiting.
    pub(super) fn is_behind(&self) -> bool {
        let Some(file) = self.files.front() else { return self.path.exists() };
        let Some(length) = file.length() else { return true };
        let Some(current) = file.is_at(&self.path) else { return false };
        self.files.len() > 1 || length > self.position || !current
    }

    /// Reads on.
    pub(super) fn read(mut self) -> Result<(Self, Piece)> {
        let mut piece = Piece { lines: Vec::new(), at_end: false };
        let mut buffer = vec![0; PIECE];
        loop {
            let Some(file) = self.files.front_mut() else {
                self.files = newer_files(&self.path, None)?;
                piece.at_end = self.files.is_empty();
                return Ok((self, piece));
            };
            let read = file.read(&mut buffer).at("read", &self.path)?;
            self.position += read as u64;
            if read > 0 {
                self.decoder.take(&buffer[..read], &mut piece.lines);
                return Ok((self, piece));
            }
            if self.files.len() == 1 {
                let newer = newer_files(&self.path, self.files.front())?;
                if newer.is_empty() {
                    piece.at_end = true;
                    return Ok((self, piece));
                }
                // Something may have been written to the old one before it was rotated: it is read to its end once more.
                self.files.extend(newer);
                let again = self.files.front_mut().expect("it has one").read(&mut buffer).at("read", &self.path)?;
                self.position += again as u64;
                if again > 0 {
                    self.decoder.take(&buffer[..again], &mut piece.lines);
                    return Ok((self, piece));
                }
            }
            self.files.pop_front();
            self.position = 0;
            self.decoder.clear();
        }
    }
}

/// The files of a log that are newer than `known`, oldest first; without `known` all of them. Opened newest first, so that a
/// rotation meanwhile shows a file twice rather than never.
fn newer_files(path: &Path, known: Option<&LogFile>) -> Result<VecDeque<LogFile>> {
    let mut files: VecDeque<LogFile> = VecDeque::new();
    for number in 0..=ROTATED_MAX {
        let name = if number == 0 { path.to_owned() } else { PathBuf::from(format!("{}.{number}", path.display())) };
        let file = match LogFile::open(&name) {
            Ok(file) => file,
            // The current one is missing for a moment while it is rotated, and after the container is removed.
            Err(error) if error.kind() == ErrorKind::NotFound && number == 0 && known.is_none() => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error).at("open", name),
        };
        if known.is_some_and(|known| known.same(&file)) {
            break;
        }
        if !files.iter().any(|other| other.same(&file)) {
            files.push_front(file);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    fn entry(text: &str) -> String {
        format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}}\n")
    }

    fn append(path: &Path, text: &str) {
        File::options().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn open(path: &Path, lines: Option<u64>) -> Cursor {
        Cursor::open(path.to_owned(), LogFormat::JsonFile, lines, None).unwrap()
    }

    fn drain(mut cursor: Cursor) -> (Cursor, Vec<String>) {
        let mut texts = Vec::new();
        loop {
            let (next, piece) = cursor.read().unwrap();
            cursor = next;
            texts.extend(piece.lines.iter().map(|line| String::from_utf8_lossy(&line.message).trim().to_owned()));
            if piece.at_end {
                return (cursor, texts);
            }
        }
    }

    #[test]
    fn follows_rotation_without_losing_or_repeating() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (cursor, texts) = drain(open(&path, None));
        assert!(texts.is_empty(), "not there yet");
        assert!(!cursor.is_behind());
        append(&path, &entry("1"));
        assert!(cursor.is_behind());
        let half = entry("2");
        append(&path, &half[..10]);
        let (cursor, texts) = drain(cursor);
        assert_eq!(texts, ["1"]);
        assert!(!cursor.is_behind(), "half a line was taken");
        append(&path, &half[10..]);
        append(&path, &entry("3"));
        let rotated = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
        std::fs::rename(&path, rotated(1)).unwrap();
        append(&path, &entry("4"));
        std::fs::rename(rotated(1), rotated(2)).unwrap();
        std::fs::rename(&path, rotated(1)).unwrap();
        append(&path, &entry("5"));
        let (cursor, texts) = drain(cursor);
        assert_eq!(texts, ["2", "3", "4", "5"]);
        append(&path, "garbage\n");
        append(&path, &entry("6"));
        assert_eq!(drain(cursor).1, ["6"]);
        assert_eq!(drain(open(&path, None)).1, ["1", "2", "3", "4", "5", "6"]);
        assert_eq!(drain(open(&path, Some(4))).1, ["4", "5", "6"], "garbage counts as a line");
        assert!(drain(open(&path, Some(0))).1.is_empty());
    }

    fn compress(path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let data = std::fs::metadata(path).unwrap();
        let target = File::create(format!("{}.gz", path.display())).unwrap();
        let original = format!("{}:{}:{}.{:09}", data.dev(), data.ino(), data.mtime(), data.mtime_nsec());
        let header = flate2::GzBuilder::new().comment(format!("skep {original}"));
        let mut encoder = header.write(target, flate2::Compression::fast());
        encoder.write_all(&std::fs::read(path).unwrap()).unwrap();
        encoder.finish().unwrap();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn compressed_files_are_read_in_order_and_known_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let rotated = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
        append(&path, &(entry("1") + &entry("2")));
        std::fs::rename(&path, rotated(1)).unwrap();
        compress(&rotated(1));
        append(&path, &entry("3"));
        let (cursor, texts) = drain(open(&path, None));
        assert_eq!(texts, ["1", "2", "3"]);
        append(&path, &entry("4"));
        std::fs::rename(format!("{}.gz", rotated(1).display()), format!("{}.gz", rotated(2).display())).unwrap();
        std::fs::rename(&path, rotated(1)).unwrap();
        compress(&rotated(1));
        append(&path, &entry("5"));
        assert_eq!(drain(cursor).1, ["4", "5"], "what was open is the file that was compressed");
        for (lines, wanted) in
            [(1, &["5"][..]), (3, &["3", "4", "5"]), (4, &["2", "3", "4", "5"]), (9, &["1", "2", "3", "4", "5"])]
        {
            assert_eq!(drain(open(&path, Some(lines))).1, wanted, "{lines}");
        }
        let gz = format!("{}.2.gz", path.display());
        let bytes = std::fs::read(&gz).unwrap();
        std::fs::write(&gz, &bytes[..bytes.len() / 2]).unwrap();
        assert!(drain(open(&path, None)).1.ends_with(&["3".to_owned(), "4".to_owned(), "5".to_owned()]));
    }

    #[test]
    fn a_point_in_time_is_found_in_a_large_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let line = |second: usize| {
            let time = format!(
                "1970-01-{:02}T{:02}:{:02}:{:02}Z",
                1 + second / 86400,
                second / 3600 % 24,
                second / 60 % 60,
                second % 60
            );
            let text = "x".repeat(second % 97);
            format!("{{\"log\":\"{second} {text}\\n\",\"stream\":\"stdout\",\"time\":\"{time}\"}}\n")
        };
        let old: String = (0..100).map(line).collect();
        append(&PathBuf::from(format!("{}.1", path.display())), &old);
        let text: String = (100..40_000).map(line).collect();
        append(&path, &text);
        for second in [1_i64, 99, 100, 101, 5_000, 20_000, 39_998, 39_999, 50_000] {
            let since = second * 1_000_000_000;
            let cursor = Cursor::open(path.clone(), LogFormat::JsonFile, None, Some(since)).unwrap();
            assert!(second < 1000 || cursor.position > 0);
            let (_, texts) = drain(cursor);
            let first = texts.first().map_or(0, |text| text.split(' ').next().unwrap().parse::<i64>().unwrap());
            // A little before it, never behind it.
            assert!(first <= second.min(39_999) && (second > 40_000 || second - first < 1000), "{second}: {first}");
        }
    }
}
