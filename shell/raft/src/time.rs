//! Cluster time: nanoseconds that never go back, agreed by the log.
//!
//! A leader counts on from the last committed value by its own monotonic clock; the time a cluster had no leader does not
//! count. The clock is handed in, so that tests own it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use skep_model::{ClusterTime, WallTime};

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
    /// The wall clock, for display.
    fn wall(&self) -> WallTime;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// The clocks, counting from now.
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> WallTime {
        let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
        };
        WallTime(nanos)
    }
}

/// The leader's cluster time: set when it begins to lead, cleared when it stops.
pub(crate) struct TimeKeeper {
    clock: Box<dyn Clock>,
    /// (monotonic clock, cluster time) when this manager began to lead.
    base: Mutex<Option<(Duration, ClusterTime)>>,
}

impl TimeKeeper {
    pub(crate) fn new(clock: Box<dyn Clock>) -> TimeKeeper {
        TimeKeeper { clock, base: Mutex::new(None) }
    }

    pub(crate) fn begin_leading(&self, committed: ClusterTime) {
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = Some((self.clock.monotonic(), committed));
    }

    pub(crate) fn stop_leading(&self) {
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The time now: at least `committed`, and that alone when another manager leads.
    pub(crate) fn now(&self, committed: ClusterTime) -> ClusterTime {
        match *self.base.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((since, base)) => base.after(self.clock.monotonic().saturating_sub(since)).max(committed),
            None => committed,
        }
    }

    pub(crate) fn wall(&self) -> WallTime {
        self.clock.wall()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Manual(Arc<AtomicU64>);

    impl Clock for Manual {
        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::SeqCst))
        }
        fn wall(&self) -> WallTime {
            WallTime(0)
        }
    }

    #[test]
    fn time_counts_only_while_leading_and_never_goes_back() {
        let clock = Arc::new(AtomicU64::new(1_000));
        let keeper = TimeKeeper::new(Box::new(Manual(clock.clone())));
        assert_eq!(keeper.now(ClusterTime(7)), ClusterTime(7));
        keeper.begin_leading(ClusterTime(7));
        clock.store(1_100, Ordering::SeqCst);
        assert_eq!(keeper.now(ClusterTime(7)), ClusterTime(107));
        assert_eq!(keeper.now(ClusterTime(500)), ClusterTime(500));
        keeper.stop_leading();
        clock.store(9_000, Ordering::SeqCst);
        assert_eq!(keeper.now(ClusterTime(107)), ClusterTime(107));
        keeper.begin_leading(ClusterTime(107));
        assert_eq!(keeper.now(ClusterTime(107)), ClusterTime(107));
    }
}
