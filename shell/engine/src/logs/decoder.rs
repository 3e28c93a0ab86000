//! From the bytes of a log to its lines, in both of Docker's forms. What is no entry is left out: half of one at the end of a
//! file whose writer lost power, or something that somebody else wrote there.

use bytes::Bytes;
use skep_oci::LogFormat;

use super::line::{LogLine, LogStream, rfc3339};

/// Longest entry; what is longer is not one of ours and is skipped.
const ENTRY_MAX: usize = 1 << 20;

/// Cuts one file after the other into lines.
pub(super) struct Decoder {
    format: LogFormat,
    /// An entry whose end has not been read yet.
    begun: Vec<u8>,
    /// The rest of the file cannot be told apart any more.
    lost: bool,
}

impl Decoder {
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format, begun: Vec::new(), lost: false }
    }

    /// Another file begins.
    pub(super) fn clear(&mut self) {
        self.begun.clear();
        self.lost = false;
    }

    /// Appends the lines that `bytes` completes.
    pub(super) fn take(&mut self, bytes: &[u8], lines: &mut Vec<LogLine>) {
        self.entries(bytes, |format, entry| {
            lines.extend(match format {
                LogFormat::JsonFile => LogLine::parse(entry),
                LogFormat::Local => message(entry),
            });
        });
    }

    /// How many entries `bytes` completes; each is given with the number of bytes it takes.
    pub(super) fn count(&mut self, bytes: &[u8], mut each: impl FnMut(usize)) {
        self.entries(bytes, |format, entry| each(entry.len() + if format == LogFormat::JsonFile { 1 } else { 8 }));
    }

    /// Bytes of an entry whose end is missing.
    #[cfg(test)]
    pub(super) fn rest(&self) -> usize {
        self.begun.len()
    }

    fn entries(&mut self, bytes: &[u8], each: impl FnMut(LogFormat, &[u8])) {
        match self.format {
            LogFormat::JsonFile => self.lines(bytes, each),
            LogFormat::Local => self.messages(bytes, each),
        }
    }

    fn lines(&mut self, mut bytes: &[u8], mut each: impl FnMut(LogFormat, &[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.begun.is_empty() {
                each(self.format, line);
            } else {
                self.begun.extend_from_slice(line);
                each(self.format, &self.begun);
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

    fn messages(&mut self, bytes: &[u8], mut each: impl FnMut(LogFormat, &[u8])) {
        if self.lost {
            return;
        }
        self.begun.extend_from_slice(bytes);
        let mut done = 0;
        while let Some((length, rest)) = self.begun[done..].split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > ENTRY_MAX {
                self.lost = true;
                break;
            }
            let Some((entry, rest)) = rest.split_at_checked(length) else { break };
            let Some((again, _)) = rest.split_first_chunk::<4>() else { break };
            if u32::from_be_bytes(*again) as usize != length {
                self.lost = true;
                break;
            }
            each(self.format, entry);
            done += length + 8;
        }
        if self.lost {
            self.begun.clear();
        } else {
            self.begun.drain(..done);
        }
    }
}

/// `LogEntry` of Docker's `entry.proto`.
fn message(mut bytes: &[u8]) -> Option<LogLine> {
    let (mut stream, mut at, mut text, mut partial, mut last) = (LogStream::Stdout, 0, Vec::new(), false, false);
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Field::Bytes(b"stderr")) => stream = LogStream::Stderr,
            (2, Field::Number(number)) => at = number.cast_signed(),
            (3, Field::Bytes(line)) => text = line.to_vec(),
            (4, Field::Number(number)) => partial = number != 0,
            (5, Field::Bytes(mut metadata)) => {
                while !metadata.is_empty() {
                    if let (1, Field::Number(number)) = field(&mut metadata)? {
                        last = number != 0;
                    }
                }
            }
            (6, Field::Bytes(mut pair)) => {
                let (mut key, mut value) = (String::new(), String::new());
                while !pair.is_empty() {
                    match field(&mut pair)? {
                        (1, Field::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
                        (2, Field::Bytes(text)) => value = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
                attributes.push((key, value));
            }
            _ => {}
        }
    }
    if !partial || last {
        text.push(b'\n');
    }
    Some(LogLine { stream, time: rfc3339(at)?, at, message: Bytes::from(text), attributes })
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// One field of a protobuf message; `None` when it is none.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let key = varint(bytes)?;
    let value = match key & 7 {
        0 => Field::Number(varint(bytes)?),
        1 => Field::Number(u64::from_le_bytes(*take(bytes, 8)?.first_chunk()?)),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Field::Bytes(take(bytes, length)?)
        }
        5 => Field::Number(u64::from(u32::from_le_bytes(*take(bytes, 4)?.first_chunk()?))),
        _ => return None,
    };
    Some((key >> 3, value))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `hi` at 300 ns with an attribute, as Docker writes it.
    fn entry() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 23, 0x0a, 6];
        bytes.extend_from_slice(b"stderr");
        bytes.extend_from_slice(&[
            0x10, 0xac, 2, 0x1a, 2, b'h', b'i', 0x32, 6, 0x0a, 1, b'k', 0x12, 1, b'v', 0, 0, 0, 23,
        ]);
        bytes
    }

    #[test]
    fn a_message_is_read_from_any_pieces() {
        let bytes = [entry(), entry()].concat();
        for size in 1..bytes.len() {
            let mut decoder = Decoder::new(LogFormat::Local);
            let mut lines = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.take(piece, &mut lines);
            }
            assert_eq!((lines.len(), decoder.rest()), (2, 0), "{size}");
            assert_eq!((lines[1].at, &lines[1].message[..], lines[1].stream), (300, &b"hi\n"[..], LogStream::Stderr));
            assert_eq!(lines[1].attributes, [("k".to_owned(), "v".to_owned())]);
        }
    }

    #[test]
    fn rubbish_ends_a_file_and_nothing_else() {
        let mut decoder = Decoder::new(LogFormat::Local);
        let mut lines = Vec::new();
        decoder.take(&[entry(), vec![0xff; 100], entry()].concat(), &mut lines);
        assert_eq!(lines.len(), 1);
        decoder.clear();
        decoder.take(&entry(), &mut lines);
        assert_eq!(lines.len(), 2);
    }

    /// Every byte changed, and every length: no panic, and no more lines than were written.
    #[test]
    fn damaged_logs_do_no_harm() {
        let json =
            b"{\"log\":\"x\\n\",\"stream\":\"stdout\",\"attrs\":{\"a\":\"b\"},\"time\":\"2026-01-02T03:04:05Z\"}\n"
                .repeat(2);
        for (format, bytes) in [(LogFormat::Local, entry().repeat(2)), (LogFormat::JsonFile, json)] {
            for index in 0..bytes.len() {
                for value in 0..=255 {
                    let mut bytes = bytes.clone();
                    bytes[index] = value;
                    let mut lines = Vec::new();
                    Decoder::new(format).take(&bytes, &mut lines);
                    assert!(lines.len() <= 3);
                }
                Decoder::new(format).take(&bytes[..index], &mut Vec::new());
            }
        }
    }
}
