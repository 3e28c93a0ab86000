//! A position in a log that may be rotated under the reader: `x` becomes `x.1`, that `x.2`, and a new `x` begins.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::line::LogLine;
use super::tail;
use crate::error::{At, Result};

/// Bytes read at a time.
const PIECE: usize = 64 * 1024;
/// Longest entry; what is longer is not one of ours and is skipped.
const ENTRY_MAX: usize = 1 << 20;
/// Most rotated files that are looked for.
const ROTATED_MAX: u32 = 1000;

pub(super) struct Cursor {
    path: PathBuf,
    /// Files still to be read, oldest first; the last one may grow.
    files: VecDeque<File>,
    /// Bytes read of the first of them.
    position: u64,
    /// An entry whose end has not been written yet.
    begun: Vec<u8>,
}

/// What one reading gave.
pub(super) struct Piece {
    pub(super) lines: Vec<LogLine>,
    /// Nothing more for now.
    pub(super) at_end: bool,
}

impl Cursor {
    /// At the beginning of a log, or of its last lines. A log that is not there yet is empty.
    pub(super) fn open(path: PathBuf, lines: Option<u64>) -> Result<Self> {
        let mut files = newer_files(&path, None)?;
        let mut start = 0;
        if let Some(lines) = lines {
            let all: Vec<File> = files.into();
            let (index, position) = tail::begin(&all, lines).at("read", &path)?;
            files = all.into_iter().skip(index).collect();
            if let Some(first) = files.front_mut() {
                start = first.seek(SeekFrom::Start(position)).at("read", &path)?;
            }
        }
        Ok(Self { path, files, position: start, begun: Vec::new() })
    }

    /// True when there may be something to read. Two system calls, no waiting.
    pub(super) fn is_behind(&self) -> bool {
        let Some(file) = self.files.front() else { return self.path.exists() };
        let Ok(known) = file.metadata() else { return true };
        let Ok(current) = std::fs::metadata(&self.path) else { return false };
        self.files.len() > 1
            || known.len() > self.position
            || (known.dev(), known.ino()) != (current.dev(), current.ino())
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
                self.take(&buffer[..read], &mut piece.lines);
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
                    self.take(&buffer[..again], &mut piece.lines);
                    return Ok((self, piece));
                }
            }
            self.files.pop_front();
            self.position = 0;
            self.begun.clear();
        }
    }

    fn take(&mut self, mut bytes: &[u8], lines: &mut Vec<LogLine>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.begun.is_empty() {
                lines.extend(LogLine::parse(line));
            } else {
                self.begun.extend_from_slice(line);
                lines.extend(LogLine::parse(&self.begun));
                self.begun.clear();
            }
            bytes = rest;
        }
        if self.begun.len() + bytes.len() <= ENTRY_MAX {
            self.begun.extend_from_slice(bytes);
        } else {
            self.begun.clear();
        }
    }
}

/// The files of a log that are newer than `known`, oldest first; without `known` all of them. Opened newest first, so that a
/// rotation meanwhile shows a file twice rather than never.
fn newer_files(path: &Path, known: Option<&File>) -> Result<VecDeque<File>> {
    let identity = |file: &File| file.metadata().map(|data| (data.dev(), data.ino())).at("read", path);
    let known = known.map(identity).transpose()?;
    let mut files = VecDeque::new();
    let mut seen = Vec::new();
    for number in 0..=ROTATED_MAX {
        let name = if number == 0 { path.to_owned() } else { PathBuf::from(format!("{}.{number}", path.display())) };
        let file = match File::open(&name) {
            Ok(file) => file,
            // The current one is missing for a moment while it is rotated, and after the container is removed.
            Err(error) if error.kind() == ErrorKind::NotFound && number == 0 && known.is_none() => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error).at("open", name),
        };
        let identity = identity(&file)?;
        if known == Some(identity) {
            break;
        }
        if !seen.contains(&identity) {
            seen.push(identity);
            files.push_front(file);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn entry(text: &str) -> String {
        format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}}\n")
    }

    fn append(path: &Path, text: &str) {
        File::options().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
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
        let (cursor, texts) = drain(Cursor::open(path.clone(), None).unwrap());
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
        assert_eq!(drain(Cursor::open(path.clone(), None).unwrap()).1, ["1", "2", "3", "4", "5", "6"]);
        assert_eq!(drain(Cursor::open(path.clone(), Some(4)).unwrap()).1, ["4", "5", "6"], "garbage counts as a line");
        assert!(drain(Cursor::open(path, Some(0)).unwrap()).1.is_empty());
    }
}
