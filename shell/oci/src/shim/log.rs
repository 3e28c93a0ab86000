//! A container's output as log entries, in the forms of Docker's drivers: json-file has one JSON object per line of output,
//! local a protobuf message between two copies of its length. A line longer than 16 KiB comes in pieces of which only the
//! last ends with a newline.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{LogConfig, LogFormat};
use crate::record::rfc3339;

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
    pub(super) fn feed(&mut self, mut bytes: &[u8], encoder: &Encoder, out: &mut Vec<u8>) -> u64 {
        let mut lines = 0;
        let time = Time::now(encoder);
        while !bytes.is_empty() {
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
                    encoder.entry(piece, self.stream, &time, out);
                } else {
                    self.rest.extend_from_slice(piece);
                    encoder.entry(&self.rest, self.stream, &time, out);
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
    pub(super) fn finish(&mut self, encoder: &Encoder, out: &mut Vec<u8>) -> u64 {
        if self.rest.is_empty() {
            return 0;
        }
        encoder.entry(&self.rest, self.stream, &Time::now(encoder), out);
        self.rest.clear();
        1
    }
}

/// When something was written, in the form of the log.
struct Time {
    nanos: i64,
    text: String,
}

impl Time {
    fn now(encoder: &Encoder) -> Self {
        let now = SystemTime::now();
        let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |it| i64::try_from(it.as_nanos()).unwrap_or(i64::MAX));
        let text = if encoder.format == LogFormat::JsonFile { rfc3339(now) } else { String::new() };
        Self { nanos, text }
    }
}

/// Writes entries in one of the forms.
pub(super) struct Encoder {
    format: LogFormat,
    /// What goes with every entry, encoded.
    attributes: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(config: &LogConfig) -> Self {
        let mut attributes = Vec::new();
        match config.format {
            LogFormat::JsonFile if config.attributes.is_empty() => {}
            LogFormat::JsonFile => {
                attributes.extend_from_slice(b"\",\"attrs\":");
                attributes.extend(serde_json::to_vec(&config.attributes).unwrap_or_default());
            }
            LogFormat::Local => {
                for (key, value) in &config.attributes {
                    let mut pair = Vec::new();
                    bytes_field(1, key.as_bytes(), &mut pair);
                    bytes_field(2, value.as_bytes(), &mut pair);
                    bytes_field(6, &pair, &mut attributes);
                }
            }
        }
        Self { format: config.format, attributes }
    }

    fn entry(&self, text: &[u8], stream: Stream, time: &Time, out: &mut Vec<u8>) {
        match self.format {
            LogFormat::JsonFile => self.json(text, stream, time, out),
            LogFormat::Local => self.message(text, stream, time, out),
        }
    }

    /// How long the first of several entries is.
    pub(super) fn first(&self, entries: &[u8]) -> usize {
        let length = match self.format {
            LogFormat::JsonFile => entries.iter().position(|byte| *byte == b'\n').map(|index| index + 1),
            LogFormat::Local => entries.first_chunk().map(|length| u32::from_be_bytes(*length) as usize + 8),
        };
        length.unwrap_or(entries.len()).min(entries.len())
    }

    /// How many bytes at most `room` are whole entries.
    pub(super) fn whole(&self, entries: &[u8], room: usize) -> usize {
        if entries.len() <= room {
            return entries.len();
        }
        if self.format == LogFormat::JsonFile {
            return entries[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
        }
        let mut whole = 0;
        while whole < entries.len() {
            let next = whole + self.first(&entries[whole..]);
            if next > room {
                break;
            }
            whole = next;
        }
        whole
    }

    /// What is said in the container's place.
    pub(super) fn note(&self, text: &str, out: &mut Vec<u8>) {
        self.entry(text.as_bytes(), Stream::Stderr, &Time::now(self), out);
    }

    /// One JSON object and a newline.
    fn json(&self, text: &[u8], stream: Stream, time: &Time, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"log\":\"");
        for chunk in text.utf8_chunks() {
            escape(chunk.valid(), out);
            if !chunk.invalid().is_empty() {
                out.extend_from_slice(b"\\ufffd");
            }
        }
        out.extend_from_slice(b"\",\"stream\":\"");
        out.extend_from_slice(stream.name().as_bytes());
        if self.attributes.is_empty() {
            out.push(b'"');
        } else {
            out.extend_from_slice(&self.attributes);
        }
        out.extend_from_slice(b",\"time\":\"");
        out.extend_from_slice(time.text.as_bytes());
        out.extend_from_slice(b"\"}\n");
    }

    /// `LogEntry` of Docker's `entry.proto`: source 1, time 2, line 3, partial 4, its metadata 5, attributes 6. The line has no
    /// newline; one that has none yet is partial.
    fn message(&self, text: &[u8], stream: Stream, time: &Time, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        bytes_field(1, stream.name().as_bytes(), out);
        varint(2 << 3, out);
        varint(time.nanos.cast_unsigned(), out);
        let line = text.strip_suffix(b"\n");
        bytes_field(3, line.unwrap_or(text), out);
        if line.is_none() {
            out.extend_from_slice(&[4 << 3, 1]);
            bytes_field(5, &[], out);
        }
        out.extend_from_slice(&self.attributes);
        let length = u32::try_from(out.len() - start - 4).expect("a line is short").to_be_bytes();
        out[start..start + 4].copy_from_slice(&length);
        out.extend_from_slice(&length);
    }
}

/// A field of a protobuf message that holds bytes.
fn bytes_field(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
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

    fn json() -> Encoder {
        Encoder::new(&LogConfig::default())
    }

    #[test]
    fn lines_are_cut_and_escaped() {
        let mut lines = Lines::new(Stream::Stdout);
        let mut out = Vec::new();
        assert_eq!(lines.feed(b"a\"\\\x01\tb\nhal", &json(), &mut out), 1);
        assert_eq!(lines.feed(b"f\xff\nend", &json(), &mut out), 1);
        assert_eq!(lines.finish(&json(), &mut out), 1);
        assert_eq!(texts(&out), ["a\"\\\u{1}\tb\n", "half\u{fffd}\n", "end"]);
        assert!(out.ends_with(b"Z\"}\n") && !out.contains(&0));
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let mut lines = Lines::new(Stream::Stderr);
        let mut out = Vec::new();
        let mut long = vec![b'x'; LINE_MAX * 2 + 5];
        long.push(b'\n');
        assert_eq!(lines.feed(&long, &json(), &mut out), 3);
        let pieces: Vec<_> = texts(&out).iter().map(|text| (text.len(), text.ends_with('\n'))).collect();
        assert_eq!(pieces, [(LINE_MAX, false), (LINE_MAX, false), (6, true)]);
    }

    #[test]
    fn attributes_stand_where_docker_puts_them() {
        let attributes = [("tag".to_owned(), "a\"b".to_owned())].into();
        let encoder = Encoder::new(&LogConfig { attributes, ..LogConfig::default() });
        let mut out = Vec::new();
        assert_eq!(Lines::new(Stream::Stdout).feed(b"x\n", &encoder, &mut out), 1);
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.starts_with(r#"{"log":"x\n","stream":"stdout","attrs":{"tag":"a\"b"},"time":""#), "{text}");
    }

    #[test]
    fn a_local_entry_is_dockers_message() {
        let attributes = [("k".to_owned(), "v".to_owned())].into();
        let encoder = Encoder::new(&LogConfig { format: LogFormat::Local, attributes, ..LogConfig::default() });
        let mut out = Vec::new();
        encoder.message(b"hi\n", Stream::Stdout, &Time { nanos: 300, text: String::new() }, &mut out);
        let mut wanted = vec![0, 0, 0, 23, 0x0a, 6];
        wanted.extend_from_slice(b"stdout");
        wanted.extend_from_slice(&[
            0x10, 0xac, 2, 0x1a, 2, b'h', b'i', 0x32, 6, 0x0a, 1, b'k', 0x12, 1, b'v', 0, 0, 0, 23,
        ]);
        assert_eq!(out, wanted);
        out.clear();
        encoder.message(b"hi", Stream::Stdout, &Time { nanos: 300, text: String::new() }, &mut out);
        assert_eq!(out[..4], [0, 0, 0, 27], "a piece says that it is one");
    }
}
