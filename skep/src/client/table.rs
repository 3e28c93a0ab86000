//! Columns as Docker's client prints them: padded, three blanks between.

use super::say;

/// Prints a head and rows of equal length.
pub(crate) fn print(head: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        say(padded.join("   ").trim_end());
    };
    line(head.to_vec());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}

/// How long ago a time of the API was, as `3 minutes ago`.
pub(crate) fn ago(timestamp: &str) -> String {
    let Ok(then) = time::OffsetDateTime::parse(timestamp, &time::format_description::well_known::Rfc3339) else {
        return timestamp.to_owned();
    };
    ago_seconds((time::OffsetDateTime::now_utc() - then).whole_seconds())
}

/// The same for a number of seconds.
pub(crate) fn ago_seconds(seconds: i64) -> String {
    let (count, unit) = match seconds.max(0) {
        0 => return "less than a second ago".to_owned(),
        s @ 1..=59 => (s, "second"),
        s @ 60..=3599 => (s / 60, "minute"),
        s @ 3600..=86_399 => (s / 3600, "hour"),
        s => (s / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// The first 12 characters of an id.
pub(crate) fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_do() {
        assert_eq!(ago_seconds(1), "1 second ago");
        assert_eq!(ago_seconds(125), "2 minutes ago");
        assert_eq!(ago_seconds(-5), "less than a second ago");
    }
}
