//! Times as Go prints them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skep_model::WallTime;

const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// A time in JSON: RFC 3339 in UTC, nanoseconds with trailing zeros cut. The model's zero is Go's zero time
/// (`0001-01-01T00:00:00Z`), which clients know as "never".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(pub WallTime);

impl From<WallTime> for Timestamp {
    fn from(time: WallTime) -> Self {
        Self(time)
    }
}

impl Timestamp {
    /// Always nine digits of nanoseconds: the form in front of log lines.
    #[must_use]
    pub fn fixed_width(self) -> String {
        let (second, nanos) = (self.0.0.div_euclid(NANOS), self.0.0.rem_euclid(NANOS));
        format!("{}.{nanos:09}Z", Seconds(second))
    }

    /// Reads RFC 3339 with an optional fraction; `Z` or an offset.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "0001-01-01T00:00:00Z" {
            return Some(Self::default());
        }
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
        let at = |index: usize, c: &[u8]| text.as_bytes().get(index).is_some_and(|b| c.contains(b));
        if !(at(4, b"-") && at(7, b"-") && at(10, b"Tt ") && at(13, b":") && at(16, b":")) {
            return None;
        }
        let days = days_from_civil(number(0..4)?, number(5..7)?, number(8..10)?);
        let seconds = days * DAY + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
        let rest = text.get(19..)?;
        let (fraction, zone) = rest.split_at(rest.find(['Z', 'z', '+', '-'])?);
        let nanos = match fraction.strip_prefix('.') {
            Some(digits) if !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                format!("{digits:0<9}").parse::<i64>().ok()?
            }
            None if fraction.is_empty() => 0,
            _ => return None,
        };
        let offset = match zone {
            "Z" | "z" => 0,
            _ => {
                let (hours, minutes) = zone.get(1..)?.split_once(':')?;
                let offset = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
                if zone.starts_with('-') { -offset } else { offset }
            }
        };
        (seconds - offset).checked_mul(NANOS)?.checked_add(nanos).map(|nanos| Self(WallTime(nanos)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.0 == 0 {
            return f.write_str("0001-01-01T00:00:00Z");
        }
        let (second, nanos) = (self.0.0.div_euclid(NANOS), self.0.0.rem_euclid(NANOS));
        write!(f, "{}", Seconds(second))?;
        if nanos != 0 {
            let digits = format!("{nanos:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

struct Seconds(i64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil_from_days(days);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
    }
}

/// Days since the epoch to a date of the proleptic Gregorian calendar (Howard Hinnant's `civil_from_days`).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("invalid time {text:?}: RFC 3339 is needed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0001-01-01T00:00:00Z"),
            (1, "1970-01-01T00:00:00.000000001Z"),
            (1_795_357_793_835_209_023, "2026-11-22T14:29:53.835209023Z"),
            (1_795_357_793_520_004_600, "2026-11-22T14:29:53.5200046Z"),
            (951_782_400 * NANOS, "2000-02-29T00:00:00Z"),
            (-NANOS, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp(WallTime(nanos)).to_string(), text);
            assert_eq!(Timestamp::parse(text), Some(Timestamp(WallTime(nanos))), "{text}");
        }
        assert_eq!(Timestamp(WallTime(NANOS)).fixed_width(), "1970-01-01T00:00:01.000000000Z");
    }

    #[test]
    fn offsets_are_understood_and_other_texts_are_not() {
        assert_eq!(Timestamp::parse("1970-01-01T01:00:01+01:00"), Some(Timestamp(WallTime(NANOS))));
        for bad in ["", "x", "1970-01-01", "1970-01-01T00:00:00", "1970-01-01T00:00:00.Z", "1970-01-01T00:00:00+1"] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }
}
