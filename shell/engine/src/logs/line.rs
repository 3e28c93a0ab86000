//! One line of a json-file log.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line, or a part of a very long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it came from.
    pub stream: LogStream,
    /// When, as it was logged: RFC 3339 with nanoseconds.
    pub time: String,
    /// The same in nanoseconds since the Unix epoch.
    pub at: i64,
    /// The line with its newline; without one, the next line of the stream continues it.
    pub message: Bytes,
    /// What the log driver was asked to write with each line (`--log-opt labels`, `env`, `tag`).
    pub attributes: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

impl LogLine {
    /// `None` for what is not an entry, such as a line that was cut by a power failure.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
        let at = OffsetDateTime::parse(&entry.time, &Rfc3339).ok()?;
        Some(Self {
            stream: if entry.stream == "stderr" { LogStream::Stderr } else { LogStream::Stdout },
            at: i64::try_from(at.unix_timestamp_nanos()).ok()?,
            time: entry.time.into_owned(),
            message: Bytes::from(entry.log.into_owned()),
            attributes: entry.attrs.into_iter().collect(),
        })
    }
}

/// Nanoseconds since the Unix epoch as they are logged.
pub(super) fn rfc3339(at: i64) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at)).ok()?;
    let ((year, month, day), (hour, minute, second, nano)) = (at.to_calendar_date(), at.to_hms_nano());
    Some(format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nano:09}Z", u8::from(month)))
}

pub(super) fn now() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// A time of the HTTP API in nanoseconds since the Unix epoch: `123`, `123.000000456` or RFC 3339. `0` and an empty text mean
/// no time.
///
/// # Errors
/// The text, when it is none of these.
pub fn parse_time(text: &str) -> Result<Option<i64>, String> {
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let bad = || {
        format!("invalid time {:?}: expected seconds since 1970 or RFC 3339", text.chars().take(60).collect::<String>())
    };
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return i64::try_from(time.unix_timestamp_nanos()).map(Some).map_err(|_| bad());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    let nanos: i64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().map_err(|_| bad())? };
    seconds.checked_mul(1_000_000_000).and_then(|whole| whole.checked_add(nanos)).map(Some).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let line = br#"{"log":"a\"b\n","stream":"stderr","time":"2026-01-02T03:04:05.000000006Z"}"#;
        let line = LogLine::parse(line).unwrap();
        assert_eq!((line.stream, &line.message[..]), (LogStream::Stderr, &b"a\"b\n"[..]));
        assert_eq!(line.at, 1_767_323_045_000_000_006);
        for bad in [&b"{\"log\":"[..], b"", b"{}", b"[]", br#"{"log":"x","time":"yesterday"}"#] {
            assert!(LogLine::parse(bad).is_none());
        }
    }

    #[test]
    fn times_of_the_api() {
        assert_eq!(parse_time("0"), Ok(None));
        assert_eq!(parse_time("12"), Ok(Some(12_000_000_000)));
        assert_eq!(parse_time("12.5"), Ok(Some(12_500_000_000)));
        assert_eq!(parse_time("12.000000456"), Ok(Some(12_000_000_456)));
        assert_eq!(parse_time("1970-01-01T00:00:01Z"), Ok(Some(1_000_000_000)));
        for bad in ["x", "1.x", "1.0000000001", "99999999999999999999", "9223372036854775807"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
