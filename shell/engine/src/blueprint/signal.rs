//! Signals by name or number, as Docker takes them: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.

use nix::sys::signal::Signal;

use crate::error::{EngineError, Result};

/// First and last real-time signal that Docker knows.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal.
pub(crate) fn parse_signal(text: &str) -> Result<i32> {
    let invalid = || EngineError::Invalid(format!("invalid signal: {}", text.chars().take(80).collect::<String>()));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(RTMIN),
        (_, Some("")) => Some(RTMAX),
        (Some(more), _) => more.strip_prefix('+').and_then(|more| more.parse().ok()).map(|more: i32| RTMIN + more),
        (_, Some(less)) => less.strip_prefix('-').and_then(|less| less.parse().ok()).map(|less: i32| RTMAX - less),
        _ => None,
    };
    if let Some(number) = real_time {
        return if (RTMIN..=RTMAX).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX", 64), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "SIG", "SIGFOO", "0", "65", "-1", "RTMIN+99", "RTMIN-1", "999999999999"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
