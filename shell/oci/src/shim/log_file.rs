//! A log on disk: appended to, rotated by size, rotated files compressed by a process of their own. A log that cannot be written
//! loses lines, and says so once it can be written again; the container never waits for it to be repaired.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flate2::{Compression, GzBuilder};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::launch;
use super::log::Encoder;
use crate::config::{LogConfig, LogFormat};

pub(super) const COMPRESS: &str = "--compress";

/// A log file.
pub(super) struct Log {
    pub(super) encoder: Encoder,
    file: Option<File>,
    path: PathBuf,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    compress: bool,
    /// The process that compresses `x.1`.
    compressor: Option<Pid>,
    /// Lines lost since it could be written last.
    missing: u64,
    /// Lines lost altogether.
    pub(super) dropped: u64,
}

impl Log {
    /// Makes its directory if it is missing, and mends what a power failure cut off: nothing may be appended to half an entry.
    pub(super) fn open(config: &LogConfig) -> io::Result<Self> {
        if let Some(parent) = config.path.parent().filter(|parent| !parent.exists()) {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().mode(0o700).create(parent)?;
        }
        let (file, size) = open(&config.path)?;
        let mut log = Self::new(config, Some(file), size);
        let whole = match config.format {
            LogFormat::JsonFile => whole_lines(&config.path)?,
            LogFormat::Local => whole_messages(&config.path)?,
        };
        if let Some(file) = log.file.as_ref().filter(|_| whole < size) {
            file.set_len(whole)?;
            log.size = whole;
        }
        Ok(log)
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
            encoder: Encoder::new(config),
            file,
            path: config.path.clone(),
            size,
            max_size: config.max_size.filter(|size| *size > 0),
            max_files: config.max_files.max(1),
            compress: config.compress,
            compressor: None,
            missing: 0,
            dropped: 0,
        }
    }

    /// Appends whole entries, or counts them as lost.
    pub(super) fn write(&mut self, bytes: &[u8], lines: u64) {
        if bytes.is_empty() {
            return;
        }
        let written = if self.missing == 0 {
            self.append(bytes)
        } else {
            let mut all = Vec::new();
            let text = format!("skep: {} log lines were lost because the log could not be written\n", self.missing);
            self.encoder.note(&text, &mut all);
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

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(max) = self.max_size
            && self.size + bytes.len() as u64 > max
        {
            let room = usize::try_from(max.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let mut fits = self.encoder.whole(bytes, room);
            if fits == 0 && self.size == 0 {
                // One entry is longer than a file may be: it has one for itself.
                fits = self.encoder.first(bytes);
            }
            let (now, later) = bytes.split_at(fits);
            self.put(now)?;
            if later.is_empty() {
                return Ok(());
            }
            self.rotate()?;
            bytes = later;
        }
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
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
                    // No half entry stays behind, or readers stumble over it.
                    let length = file.metadata().map_or(self.size, |it| it.len().saturating_sub(done as u64));
                    let _ = file.set_len(length);
                    return Err(other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                }
            }
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// `x` becomes `x.1`, `x.1` becomes `x.2`, compressed or not; the last one goes.
    fn rotate(&mut self) -> io::Result<()> {
        // Still at work on the last one: the writer is faster than the compressor, and waits for it.
        if let Some(compressor) = self.compressor.take() {
            let _ = waitpid(compressor, None);
        }
        self.file = None;
        if self.max_files > 1 {
            for suffix in ["", ".gz"] {
                let _ = std::fs::remove_file(numbered(&self.path, self.max_files - 1, suffix));
                for number in (1..self.max_files - 1).rev() {
                    let to = numbered(&self.path, number + 1, suffix);
                    let _ = std::fs::rename(numbered(&self.path, number, suffix), to);
                }
            }
            let first = numbered(&self.path, 1, "");
            std::fs::rename(&self.path, &first)?;
            if self.compress {
                // If it cannot be, the file stays as it is.
                self.compressor = start_compressor(&first).ok();
            }
        } else {
            std::fs::remove_file(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }

    /// A child has ended; true when it was ours.
    pub(super) fn reaped(&mut self, pid: i32) -> bool {
        let ours = self.compressor.is_some_and(|compressor| compressor.as_raw() == pid);
        if ours {
            self.compressor = None;
        }
        ours
    }
}

fn numbered(path: &Path, number: u32, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}.{number}{suffix}", path.display()))
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// Bytes up to the last newline.
fn whole_lines(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let mut end = file.metadata()?.len();
    let mut block = vec![0; 16 * 1024];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let piece = &mut block[..usize::try_from(end - start).expect("a block")];
        file.read_exact_at(piece, start)?;
        if let Some(index) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + index as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Bytes of messages that are whole, from the beginning.
fn whole_messages(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let size_at = |at: u64| {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at).ok().map(|()| u64::from(u32::from_be_bytes(bytes)))
    };
    // Nearly always it ends well, and that is seen at its end.
    let last = length.checked_sub(4).and_then(size_at).and_then(|size| length.checked_sub(size + 8));
    if last.is_some_and(|start| size_at(start) == size_at(length - 4)) {
        return Ok(length);
    }
    let mut whole = 0;
    while let Some(size) = size_at(whole) {
        if size_at(whole + 4 + size) != Some(size) {
            break;
        }
        whole += size + 8;
    }
    Ok(whole)
}

fn start_compressor(path: &Path) -> io::Result<Pid> {
    let binary = launch::own_binary()?;
    // SAFETY: this process has one thread; the child only executes.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = launch::execute(&binary, &[OsStr::new(COMPRESS), path.as_os_str()]);
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(1) }
        }
    }
}

/// Compresses `path` to `path.gz` and removes it. Which file it was stands in the header: a reader that has it open knows
/// the compressed one for the same.
pub(super) fn compress(path: &Path) -> ExitCode {
    // SAFETY: two integers; it is nothing urgent.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    match try_compress(path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn try_compress(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut source = File::open(path)?;
    let identity = source.metadata()?;
    let temporary = PathBuf::from(format!("{}.gz.tmp", path.display()));
    let target = OpenOptions::new().create(true).write(true).truncate(true).mode(0o640).open(&temporary)?;
    let done = (|| {
        let (device, inode) = (identity.dev(), identity.ino());
        let modified = (identity.mtime(), identity.mtime_nsec());
        let header = GzBuilder::new().comment(format!("skep {device}:{inode}:{}.{:09}", modified.0, modified.1));
        let mut encoder = header.write(target, Compression::default());
        io::copy(&mut source, &mut encoder)?;
        // A machine that loses power now must not keep the empty one of the two.
        encoder.finish()?.sync_all()?;
        std::fs::rename(&temporary, PathBuf::from(format!("{}.gz", path.display())))?;
        std::fs::remove_file(path)
    })();
    if done.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: PathBuf, max_size: Option<u64>, max_files: u32) -> LogConfig {
        LogConfig { path, max_size, max_files, format: LogFormat::JsonFile, ..LogConfig::default() }
    }

    #[test]
    fn a_log_that_cannot_be_written_says_so_later() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("later/x.log");
        let mut log = Log::open_later(&config(path.clone(), None, 1));
        log.write(b"1\n2\n", 2);
        assert_eq!(log.dropped, 2);
        std::fs::create_dir(dir.path().join("later")).expect("mkdir");
        log.write(b"3\n", 1);
        let written = std::fs::read_to_string(&path).expect("read");
        let text = "skep: 2 log lines were lost because the log could not be written";
        assert!(written.contains(text) && written.ends_with("}\n3\n"), "{written}");
    }

    #[test]
    fn half_an_entry_is_cut_off() {
        let dir = tempfile::tempdir().expect("temp dir");
        for (format, whole) in
            [(LogFormat::JsonFile, &b"{}\n{}\n"[..]), (LogFormat::Local, &b"\0\0\0\x01a\0\0\0\x01"[..])]
        {
            let path = dir.path().join("logs/x");
            let config = LogConfig { format, ..config(path.clone(), None, 1) };
            drop(Log::open(&config).expect("made with its directory"));
            for length in 0..=whole.len() {
                std::fs::write(&path, [whole, &whole[..length]].concat()).expect("write");
                let log = Log::open(&config).expect("open");
                let left = std::fs::read(&path).expect("read");
                let kept = whole[..length].iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
                let kept = match format {
                    LogFormat::JsonFile => kept,
                    LogFormat::Local => length / whole.len() * whole.len(),
                };
                assert_eq!((left.len(), log.size), (whole.len() + kept, left.len() as u64), "{format:?} {length}");
            }
        }
    }

    #[test]
    fn logs_are_rotated() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("x.log");
        let mut log = Log::open(&config(path, Some(10), 3)).expect("open");
        for text in [&b"11111111\n"[..], b"22222222\n", b"33333333\n", b"44444444\n"] {
            log.write(text, 1);
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("read");
        assert_eq!((read("x.log").as_str(), read("x.log.1").as_str()), ("44444444\n", "33333333\n"));
        assert_eq!(read("x.log.2"), "22222222\n");
        assert!(!dir.path().join("x.log.3").exists());
    }

    #[test]
    fn a_compressed_file_is_whole_and_says_what_it_was() {
        use std::io::Read;
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("x.log.1");
        std::fs::write(&path, "text\n".repeat(1000)).expect("write");
        let inode = std::fs::metadata(&path).expect("metadata").ino();
        try_compress(&path).expect("compressed");
        assert!(!path.exists());
        let file = File::open(dir.path().join("x.log.1.gz")).expect("open");
        let mut decoder = flate2::read::GzDecoder::new(file);
        let mut text = String::new();
        decoder.read_to_string(&mut text).expect("read");
        assert_eq!(text, "text\n".repeat(1000));
        let comment = decoder.header().and_then(|header| header.comment()).expect("a comment");
        assert!(String::from_utf8_lossy(comment).contains(&format!(":{inode}:")));
    }
}
