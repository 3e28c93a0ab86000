//! Bounded waiting for conditions. No test sleeps to synchronise: it asks until what it waits for is true, and fails loudly
//! when that takes too long.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(15);

/// Asks until there is an answer.
///
/// # Errors
/// After `max`, with `what` was waited for and the last refusal.
pub fn wait_for<T>(what: &str, max: Duration, mut ask: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let end = Instant::now() + max;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(reason) if Instant::now() > end => {
                return Err(format!("waited {} s for {what}: {reason}", max.as_secs_f32()));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Asks until it is true.
///
/// # Panics
/// When it does not become true in `max`.
#[track_caller]
pub fn wait_until(what: &str, max: Duration, mut is_true: impl FnMut() -> bool) {
    if let Err(error) = wait_for(what, max, || if is_true() { Ok(()) } else { Err("not so".to_owned()) }) {
        panic!("{error}");
    }
}
