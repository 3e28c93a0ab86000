//! Log lines as bytes on the wire: timestamps and details in front, then a frame.

use std::fmt::Write as _;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use skep_api_types::{Timestamp, unix_time};

use crate::ApiError;
use crate::body::Params;
use crate::cluster::{LogLine, LogMessages, LogOptions, LogStream};
use crate::hijack::{Channel, frame};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineStyle {
    pub(crate) timestamps: bool,
    pub(crate) details: bool,
    pub(crate) tty: bool,
}

/// Which lines the query of a log route wants.
pub(crate) fn options(query: &Params) -> Result<LogOptions, ApiError> {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !(stdout || stderr) {
        // Docker's status: its clients know it.
        return Err(ApiError::internal("Bad parameters: you must choose at least one stream"));
    }
    Ok(LogOptions {
        stdout,
        stderr,
        follow: query.flag("follow"),
        since: unix_time("since", query.get("since"))?,
        until: unix_time("until", query.get("until"))?,
        tail: tail(query.get("tail"))?,
    })
}

/// How many of the last lines; Docker takes a negative number for all of them.
fn tail(text: Option<&str>) -> Result<Option<u64>, ApiError> {
    match text {
        None | Some("" | "all") => Ok(None),
        Some(text) if text.starts_with('-') && text.parse::<i64>().is_ok() => Ok(None),
        Some(text) => match text.parse() {
            Ok(lines) => Ok(Some(lines)),
            Err(_) => Err(ApiError::invalid("tail value must be a positive integer or \"all\"")),
        },
    }
}

/// How the query of a log route wants lines written.
pub(crate) fn style(query: &Params, tty: bool) -> LineStyle {
    LineStyle { timestamps: query.flag("timestamps"), details: query.flag("details"), tty }
}

impl LineStyle {
    fn write(self, line: &LogLine, details: &str) -> Bytes {
        let plain = !self.timestamps && !self.details;
        let text = if plain {
            line.text.clone()
        } else {
            let mut text = String::new();
            if self.timestamps {
                text.push_str(&Timestamp(line.time).fixed_width());
                text.push(' ');
            }
            if self.details {
                text.push_str(details);
                text.push(' ');
            }
            let mut text = text.into_bytes();
            text.extend_from_slice(&line.text);
            text.into()
        };
        let channel = match line.stream {
            LogStream::Stdout => Channel::Stdout,
            LogStream::Stderr => Channel::Stderr,
        };
        if self.tty { text } else { frame(channel, &text) }
    }

    /// A failure in the middle of a stream, as Docker puts it.
    fn failure(self, error: &str) -> Bytes {
        let text = format!("Error grabbing logs: {error}\n");
        if self.tty { text.into() } else { frame(Channel::System, text.as_bytes()) }
    }
}

/// Lines of one container.
pub(crate) fn container_lines(
    lines: BoxStream<'static, Result<LogLine, String>>,
    style: LineStyle,
) -> BoxStream<'static, Bytes> {
    lines
        .map(move |line| match line {
            Ok(line) => style.write(&line, ""),
            Err(error) => style.failure(&error),
        })
        .boxed()
}

/// Lines of tasks; their details say whose they are.
pub(crate) fn task_lines(lines: LogMessages, style: LineStyle) -> BoxStream<'static, Bytes> {
    lines
        .map(move |message| match message {
            Ok(message) => {
                let mut details = String::new();
                if style.details {
                    // Ids need no escaping; the keys are in the order of the alphabet.
                    let _ = write!(
                        details,
                        "com.docker.swarm.node.id={},com.docker.swarm.service.id={},com.docker.swarm.task.id={}",
                        message.node, message.service, message.task
                    );
                }
                style.write(&message.line, &details)
            }
            Err(error) => style.failure(&error),
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use skep_model::WallTime;

    use super::*;

    #[test]
    fn lines_carry_what_was_asked_for() {
        let line =
            LogLine { stream: LogStream::Stderr, time: WallTime(1_500_000_000), text: Bytes::from_static(b"x\n") };
        let style = |timestamps, details| LineStyle { timestamps, details, tty: true };
        assert_eq!(style(false, false).write(&line, "k=v"), "x\n");
        assert_eq!(style(true, true).write(&line, "k=v"), "1970-01-01T00:00:01.500000000Z k=v x\n");
        assert_eq!(
            LineStyle { tty: false, ..style(false, false) }.write(&line, "")[..],
            b"\x02\0\0\0\0\0\0\x02x\n"[..]
        );
    }

    #[test]
    fn the_tail_is_a_number_or_all() {
        for (text, lines) in [(None, None), (Some("all"), None), (Some("5"), Some(5)), (Some("-1"), None)] {
            assert_eq!(tail(text), Ok(lines));
        }
        assert!(tail(Some("x")).is_err());
    }
}
