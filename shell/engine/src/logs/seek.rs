//! Finds where to begin in a log: at its last lines, read backwards only as far as needed, or at a point in time, by halving.
//! In a compressed file there is no going back: it is read through, without keeping any of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use skep_oci::LogFormat;

use super::decoder::Decoder;
use super::file::LogFile;
use super::line::LogLine;
use super::tail::{self, Found};

const BLOCK: usize = 64 * 1024;

/// Which file (by index, oldest first) and where in it the last `lines` lines begin.
pub(super) fn last_lines(files: &[LogFile], format: LogFormat, lines: u64) -> io::Result<(usize, u64)> {
    let mut missing = lines;
    for (index, file) in files.iter().enumerate().rev() {
        let found = match (file.plain(), format) {
            (Some(plain), LogFormat::JsonFile) => tail::begin_in(plain, plain.metadata()?.len(), missing)?,
            (Some(plain), LogFormat::Local) => match backwards(plain, missing)? {
                Some(found) => found,
                None => forwards(file, format, missing)?,
            },
            (None, _) => forwards(file, format, missing)?,
        };
        match found {
            Found::At(position) => return Ok((index, position)),
            Found::Lines(found) => missing -= found,
        }
    }
    Ok((0, 0))
}

/// By the lengths behind the entries. `None` when they do not fit: somebody is writing just now, or a file is damaged.
fn backwards(file: &File, lines: u64) -> io::Result<Option<Found>> {
    let mut end = file.metadata()?.len();
    let mut seen = 0;
    while end > 0 && seen < lines {
        let mut length = [0; 4];
        if end < 8 {
            return Ok(None);
        }
        file.read_exact_at(&mut length, end - 4)?;
        let size = u64::from(u32::from_be_bytes(length)) + 8;
        let mut again = [0; 4];
        if size > end {
            return Ok(None);
        }
        file.read_exact_at(&mut again, end - size)?;
        if again != length {
            return Ok(None);
        }
        end -= size;
        seen += 1;
    }
    Ok(Some(if seen == lines { Found::At(end) } else { Found::Lines(seen) }))
}

/// By reading it twice: how many there are, then where the wanted ones begin.
fn forwards(file: &LogFile, format: LogFormat, lines: u64) -> io::Result<Found> {
    let all = walk(file, format, u64::MAX)?.0;
    if all < lines { Ok(Found::Lines(all)) } else { Ok(Found::At(walk(file, format, all - lines)?.1)) }
}

/// Entries, at most `most`, and the bytes they take.
fn walk(file: &LogFile, format: LogFormat, most: u64) -> io::Result<(u64, u64)> {
    let (mut file, mut decoder) = (file.again()?, Decoder::new(format));
    let mut buffer = vec![0; BLOCK];
    let (mut entries, mut bytes) = (0, 0);
    while entries < most {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        decoder.count(&buffer[..read], |length| {
            if entries < most {
                entries += 1;
                bytes += length as u64;
            }
        });
    }
    Ok((entries, bytes))
}

/// Which file, and where in it the lines begin that are not older than `since`, or a little before.
pub(super) fn since(files: &[LogFile], format: LogFormat, since: i64) -> io::Result<(usize, u64)> {
    for (index, file) in files.iter().enumerate().rev() {
        // What begins before it may hold it; everything older does not.
        if first_time(file, format)?.is_some_and(|first| first < since) {
            let start = match (file.plain(), format) {
                (Some(plain), LogFormat::JsonFile) => halve(plain, since)?,
                _ => 0,
            };
            return Ok((index, start));
        }
    }
    Ok((0, 0))
}

fn first_time(file: &LogFile, format: LogFormat) -> io::Result<Option<i64>> {
    let (mut file, mut decoder) = (file.again()?, Decoder::new(format));
    let mut buffer = vec![0; BLOCK];
    let mut lines = Vec::new();
    while lines.is_empty() {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        decoder.take(&buffer[..read], &mut lines);
    }
    Ok(Some(lines[0].at))
}

/// The beginning of a line; every line before it is older than `since`.
fn halve(file: &File, since: i64) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > BLOCK as u64 {
        let middle = low + (high - low) / 2;
        match line_after(file, middle)? {
            Some((end, at)) if at < since && end < high => low = end,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Of the first whole line behind `from`: where it ends, and its time.
fn line_after(file: &File, from: u64) -> io::Result<Option<(u64, i64)>> {
    let mut text = Vec::new();
    let mut buffer = vec![0; BLOCK];
    let mut position = from;
    loop {
        let read = file.read_at(&mut buffer, position)?;
        if read == 0 {
            return Ok(None);
        }
        text.extend_from_slice(&buffer[..read]);
        position += read as u64;
        let mut ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(index, _)| index);
        // The line that `from` is in the middle of is none.
        let Some(mut start) = ends.next().map(|end| end + 1) else { continue };
        for end in ends {
            if let Some(line) = LogLine::parse(&text[start..end]) {
                return Ok(Some((from + end as u64 + 1, line.at)));
            }
            start = end + 1;
        }
    }
}
