//! What happened on this machine, as `docker events` tells it: a bounded memory of the last events, and everything from now
//! on for whoever listens. Events of the cluster are not here: the API derives them from the state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

/// Events that are kept for `--since` (as many as Docker keeps).
const KEPT: usize = 256;
/// Events that a listener may be behind; it misses the oldest ones then.
const BEHIND: usize = 1024;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are Docker's event types")]
pub enum EventKind {
    Container,
    Image,
    Volume,
    Network,
    Daemon,
}

impl EventKind {
    /// Docker's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Daemon => "daemon",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub kind: EventKind,
    /// Docker's word for it, such as `create` or `exec_start: sh`.
    pub action: String,
    /// The object: id of a container or network, name of a volume or image.
    pub id: String,
    /// What else is known of the object.
    pub attributes: BTreeMap<String, String>,
    /// When, in nanoseconds since 1970.
    pub at: i64,
}

/// The bus.
#[derive(Debug)]
pub(crate) struct Events {
    kept: Mutex<VecDeque<Arc<Event>>>,
    listeners: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::default(), listeners: broadcast::Sender::new(BEHIND) }
    }
}

impl Events {
    /// Tells that something happened, now.
    pub(crate) fn publish<K: Into<String>, V: Into<String>>(
        &self,
        kind: EventKind,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: impl IntoIterator<Item = (K, V)>,
    ) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = i64::try_from(at.as_nanos()).unwrap_or(i64::MAX);
        let attributes = attributes.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        let event = Arc::new(Event { kind, action: action.into(), id: id.into(), attributes, at });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Nobody listens: that is no failure. Sent under the lock, so that a listener gets each event once.
        let _ = self.listeners.send(event);
    }

    /// The events that are still known, oldest first, and those to come.
    pub(crate) fn listen(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.iter().cloned().collect(), self.listeners.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_gets_the_past_and_the_future_once_each() {
        let events = Events::default();
        for number in 0..KEPT + 2 {
            events.publish(EventKind::Volume, "create", number.to_string(), [("driver", "local")]);
        }
        let (past, mut coming) = events.listen();
        assert_eq!((past.len(), past[0].id.as_str()), (KEPT, "2"));
        events.publish(EventKind::Volume, "destroy", "x", [("driver", "local")]);
        let event = coming.recv().await.unwrap();
        assert_eq!((event.action.as_str(), event.attributes["driver"].as_str()), ("destroy", "local"));
    }
}
