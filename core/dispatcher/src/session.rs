//! One node's session, and how often a node may open one.

use std::time::Duration;

use skep_model::{ClusterTime, SessionId};

/// A node's session with this leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// The node is down when no heartbeat came by then.
    pub(crate) deadline: ClusterTime,
}

/// More registrations than this within [`WINDOW`] of each other are refused.
const REGISTRATIONS_MAX: u32 = 3;
const WINDOW: Duration = Duration::from_secs(8);

/// How often a node registered lately.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Registrations {
    last: Option<ClusterTime>,
    count: u32,
}

impl Registrations {
    /// Counts one more and says whether it is allowed.
    pub(crate) fn allow(&mut self, now: ClusterTime) -> bool {
        let is_soon = self.last.is_some_and(|last| now.since(last) < WINDOW);
        if is_soon && self.count >= REGISTRATIONS_MAX {
            return false;
        }
        self.count = if is_soon { self.count + 1 } else { 1 };
        self.last = Some(now);
        true
    }
}
