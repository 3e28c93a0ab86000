//! A container's output as Docker's json-file driver writes it: one JSON object per line of output, a line longer than
//! 16 KiB in pieces of which only the last ends with a newline. A log that cannot be written loses lines, and says so
//! once it can be written again; the container never waits for it to be repaired.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::config::LogConfig;
use crate::record::now;

/// Longest piece of a line, as in Docker.
pub(super) const LINE_MAX: usize = 16 * 1024;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts a stream into lines.
pub(super) struct Lines {
    stream: Stream,
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Appends the log lines of what was just read to `out`; answers how many.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> u64 {
        let mut lines = 0;
        let mut time = String::new();
        while !bytes.is_empty() {
            if time.is_empty() {
                time = now();
            }
            let room = LINE_MAX - self.rest.len();
            let window = &bytes[..bytes.len().min(room)];
            let (take, complete) = match window.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                // A newline right behind a full piece still belongs to it.
                None if window.len() == room && bytes.get(room) == Some(&b'\n') => (room + 1, true),
                None => (window.len(), window.len() == room),
            };
            let (piece, rest) = bytes.split_at(take);
            if complete {
                if self.rest.is_empty() {
                    entry(piece, self.stream, &time, out);
                } else {
                    self.rest.extend_from_slice(piece);
                    entry(&self.rest, self.stream, &time, out);
                    self.rest.clear();
                }
                lines += 1;
            } else {
                self.rest.extend_from_slice(piece);
            }
            bytes = rest;
        }
        lines
    }

    /// The end of the stream: what has no newline is logged without one.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> u64 {
        if self.rest.is_empty() {
            return 0;
        }
        entry(&self.rest, self.stream, &now(), out);
        self.rest.clear();
        1
    }
}

/// One JSON object and a newline.
fn entry(text: &[u8], stream: Stream, time: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"log\":\"");
    for chunk in text.utf8_chunks() {
        escape(chunk.valid(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

fn escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 | 0x7f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
}

/// A log file.
pub(super) struct Log {
    file: Option<File>,
    path: PathBuf,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    /// Lines lost since it could be written last.
    missing: u64,
    /// Lines lost altogether.
    pub(super) dropped: u64,
}

impl Log {
    pub(super) fn open(config: &LogConfig) -> io::Result<Self> {
        let (file, size) = open(&config.path)?;
        Ok(Self::new(config, Some(file), size))
    }

    /// Opened at the next write if it cannot be now.
    pub(super) fn open_later(config: &LogConfig) -> Self {
        match open(&config.path) {
            Ok((file, size)) => Self::new(config, Some(file), size),
            Err(_) => Self::new(config, None, 0),
        }
    }

    fn new(config: &LogConfig, file: Option<File>, size: u64) -> Self {
        Self {
            file,
            path: config.path.clone(),
            size,
            max_size: config.max_size.filter(|size| *size > 0),
            max_files: config.max_files.max(1),
            missing: 0,
            dropped: 0,
        }
    }

    /// Appends whole log lines, or counts them as lost.
    pub(super) fn write(&mut self, bytes: &[u8], lines: u64) {
        if bytes.is_empty() {
            return;
        }
        let written = if self.missing == 0 {
            self.append(bytes)
        } else {
            let mut all = Vec::new();
            let text = format!("skep: {} log lines were lost because the log could not be written\n", self.missing);
            entry(text.as_bytes(), Stream::Stderr, &now(), &mut all);
            all.extend_from_slice(bytes);
            self.append(&all)
        };
        match written {
            Ok(()) => self.missing = 0,
            Err(_) => {
                self.missing += lines;
                self.dropped += lines;
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.max_size.is_some_and(|max| self.size > 0 && self.size + bytes.len() as u64 > max) {
            self.rotate()?;
        }
        if self.file.is_none() {
            let (file, size) = open(&self.path)?;
            self.size = size;
            self.file = Some(file);
        }
        let file = self.file.as_mut().expect("opened above");
        let mut done = 0;
        while done < bytes.len() {
            match file.write(&bytes[done..]) {
                Ok(count) if count > 0 => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    // No half line stays behind, or readers stumble over it.
                    let length = file.metadata().map_or(self.size, |it| it.len().saturating_sub(done as u64));
                    let _ = file.set_len(length);
                    return Err(other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                }
            }
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// `x` becomes `x.1`, `x.1` becomes `x.2`; the last one goes.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        self.file = None;
        if self.max_files > 1 {
            for number in (1..self.max_files - 1).rev() {
                let _ = std::fs::rename(numbered(number), numbered(number + 1));
            }
            std::fs::rename(&self.path, numbered(1))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(out: &[u8]) -> Vec<String> {
        let lines = std::str::from_utf8(out).expect("UTF-8").lines();
        lines
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
            .map(|value| value["log"].as_str().expect("text").to_owned())
            .collect()
    }

    #[test]
    fn lines_are_cut_and_escaped() {
        let mut lines = Lines::new(Stream::Stdout);
        let mut out = Vec::new();
        assert_eq!(lines.feed(b"a\"\\\x01\tb\nhal", &mut out), 1);
        assert_eq!(lines.feed(b"f\xff\nend", &mut out), 1);
        assert_eq!(lines.finish(&mut out), 1);
        assert_eq!(texts(&out), ["a\"\\\u{1}\tb\n", "half\u{fffd}\n", "end"]);
        assert!(out.ends_with(b"Z\"}\n") && !out.contains(&0));
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let mut lines = Lines::new(Stream::Stderr);
        let mut out = Vec::new();
        let mut long = vec![b'x'; LINE_MAX * 2 + 5];
        long.push(b'\n');
        assert_eq!(lines.feed(&long, &mut out), 3);
        let pieces: Vec<_> = texts(&out).iter().map(|text| (text.len(), text.ends_with('\n'))).collect();
        assert_eq!(pieces, [(LINE_MAX, false), (LINE_MAX, false), (6, true)]);
    }

    #[test]
    fn a_log_that_cannot_be_written_says_so_later() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("later/x.log");
        let mut log = Log::open_later(&LogConfig { path: path.clone(), max_size: None, max_files: 1 });
        let mut out = Vec::new();
        let mut lines = Lines::new(Stream::Stdout);
        let count = lines.feed(b"1\n2\n", &mut out);
        log.write(&out, count);
        assert_eq!(log.dropped, 2);
        std::fs::create_dir(dir.path().join("later")).expect("mkdir");
        log.write(&out, count);
        let written = std::fs::read(&path).expect("read");
        assert_eq!(
            texts(&written),
            ["skep: 2 log lines were lost because the log could not be written\n", "1\n", "2\n"]
        );
    }

    #[test]
    fn logs_are_rotated() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("x.log");
        let mut log = Log::open(&LogConfig { path: path.clone(), max_size: Some(10), max_files: 3 }).expect("open");
        for text in [&b"11111111\n"[..], b"22222222\n", b"33333333\n", b"44444444\n"] {
            log.write(text, 1);
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("read");
        assert_eq!((read("x.log").as_str(), read("x.log.1").as_str()), ("44444444\n", "33333333\n"));
        assert_eq!(read("x.log.2"), "22222222\n");
        assert!(!dir.path().join("x.log.3").exists());
    }
}
