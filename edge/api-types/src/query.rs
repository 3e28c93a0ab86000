//! Values in queries: booleans of two kinds, unix times, object versions.

use skep_model::{Version, WallTime};

/// A value of a query that does not mean anything. The texts are Docker's where Docker has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not a boolean, on a swarm route.
    #[error("strconv.ParseBool: parsing {0:?}: invalid syntax")]
    Boolean(String),
    /// Not a version.
    #[error("invalid {kind} version '{text}': strconv.ParseUint: parsing {text:?}: {reason}")]
    Version {
        /// `service`, `node`, `swarm`, …
        kind: &'static str,
        /// What was given.
        text: String,
        /// `invalid syntax` or `value out of range`.
        reason: &'static str,
    },
    /// Not a whole number, in Go's words.
    #[error("strconv.ParseInt: parsing {text:?}: {reason}")]
    Integer {
        /// What was given.
        text: String,
        /// `invalid syntax` or `value out of range`.
        reason: &'static str,
    },
    /// Not seconds since the epoch.
    #[error("invalid value for \"{name}\": {text:?} is not a number of seconds since 1970")]
    Time {
        /// `since` or `until`.
        name: &'static str,
        /// What was given.
        text: String,
    },
}

/// A boolean of container, image and log routes: anything is true but nothing, `0`, `no`, `false` and `none`.
#[must_use]
pub fn boolean(value: Option<&str>) -> bool {
    let value = value.unwrap_or("").trim();
    !["", "0", "no", "false", "none"].iter().any(|no| value.eq_ignore_ascii_case(no))
}

/// A boolean of swarm routes: Go's `strconv.ParseBool`, nothing is false.
pub fn strict_boolean(value: Option<&str>) -> Result<bool, QueryError> {
    match value.unwrap_or("") {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(QueryError::Boolean(other.to_owned())),
    }
}

/// The `version` of an update; missing is an error as in Docker.
pub fn version_index(kind: &'static str, value: Option<&str>) -> Result<Version, QueryError> {
    let text = value.unwrap_or("");
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(index) if digits => Ok(Version(index)),
        _ => Err(QueryError::Version {
            kind,
            text: text.to_owned(),
            reason: if digits { "value out of range" } else { "invalid syntax" },
        }),
    }
}

/// `since` and `until`: seconds, with an optional fraction; nothing and `0` are no limit.
pub fn unix_time(name: &'static str, value: Option<&str>) -> Result<Option<WallTime>, QueryError> {
    let text = value.unwrap_or("");
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let bad = || QueryError::Time { name, text: text.to_owned() };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    let nanos = seconds.checked_mul(1_000_000_000).and_then(|whole| whole.checked_add(nanos)).ok_or_else(bad)?;
    Ok(Some(WallTime(nanos)))
}

/// `since` and `until` of events: as [`unix_time`], but `0` is a time, and the text of a refusal is Go's.
pub fn event_time(value: Option<&str>) -> Result<Option<WallTime>, QueryError> {
    let Some(text) = value.filter(|text| !text.is_empty()) else { return Ok(None) };
    let bad = |text: &str, reason| QueryError::Integer { text: text.to_owned(), reason };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let number = |text: &str| {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().map_err(|_| bad(text, if plain { "value out of range" } else { "invalid syntax" }))
    };
    let seconds = number(seconds)?;
    let nanos =
        if fraction.is_empty() { 0 } else { number(&format!("{:0<9}", fraction.get(..9).unwrap_or(fraction)))? };
    Ok(Some(WallTime(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_as_docker_reads_them() {
        assert!(boolean(Some("1")) && boolean(Some("True")) && boolean(Some("x")));
        assert!(!boolean(None) && !boolean(Some("False")) && !boolean(Some("none")) && !boolean(Some(" 0 ")));
        assert_eq!(strict_boolean(Some("t")), Ok(true));
        assert_eq!(strict_boolean(None), Ok(false));
        assert_eq!(
            strict_boolean(Some("yes")).unwrap_err().to_string(),
            r#"strconv.ParseBool: parsing "yes": invalid syntax"#
        );
    }

    #[test]
    fn versions_are_decimal_numbers() {
        assert_eq!(version_index("service", Some("12")), Ok(Version(12)));
        assert_eq!(
            version_index("service", None).unwrap_err().to_string(),
            r#"invalid service version '': strconv.ParseUint: parsing "": invalid syntax"#
        );
        for bad in ["zz", "-1", "+1"] {
            assert!(version_index("node", Some(bad)).is_err(), "{bad}");
        }
        assert!(
            version_index("swarm", Some("99999999999999999999")).unwrap_err().to_string().ends_with("out of range")
        );
    }

    #[test]
    fn times_may_have_a_fraction() {
        assert_eq!(unix_time("since", Some("0")), Ok(None));
        assert_eq!(unix_time("since", Some("123.000000456")), Ok(Some(WallTime(123_000_000_456))));
        assert_eq!(unix_time("since", Some("1.5")), Ok(Some(WallTime(1_500_000_000))));
        assert!(unix_time("until", Some("abc")).is_err());
        assert!(unix_time("until", Some("9999999999999")).is_err());
        assert_eq!(event_time(Some("0")), Ok(Some(WallTime(0))));
        assert_eq!(event_time(Some("2.5")), Ok(Some(WallTime(2_500_000_000))));
        assert_eq!(
            event_time(Some("abc")).unwrap_err().to_string(),
            r#"strconv.ParseInt: parsing "abc": invalid syntax"#
        );
    }
}
