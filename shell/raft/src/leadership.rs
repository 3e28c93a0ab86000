//! Who leads, as this manager may act on it.

use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;

use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::publish::Publisher;
use crate::state_machine::StateMachine;
use crate::time::TimeKeeper;
use crate::types::TypeConfig;

/// Whether this manager may decide for the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// It may not.
    Following,
    /// It may: it was elected and has applied an entry of this term, so it has seen everything that was committed before.
    Leading {
        /// The term; no other manager leads in it.
        term: u64,
    },
    /// Raft has stopped on this manager, by order or because storage failed.
    Stopped,
}

/// The task that watches `openraft` and says who leads; also asks for a snapshot when the log has grown by many bytes.
pub(crate) struct Watcher<M: Machine> {
    pub(crate) raft: openraft::Raft<TypeConfig, StateMachine<M>>,
    pub(crate) log: LogStore,
    pub(crate) publisher: Arc<Publisher<M>>,
    pub(crate) time: Arc<TimeKeeper>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) snapshot_log_bytes: u64,
}

impl<M: Machine> Watcher<M> {
    /// Runs until raft stops.
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.metrics();
        let mut snapshot_at_bytes = self.snapshot_log_bytes;
        loop {
            let (state, term, running) = {
                let now = metrics.borrow_watched();
                (now.state, now.current_term, now.running_state.is_ok())
            };
            let leadership = match state {
                _ if !running => Leadership::Stopped,
                ServerState::Leader if self.publisher.current().term == term => Leadership::Leading { term },
                ServerState::Shutdown => Leadership::Stopped,
                _ => Leadership::Following,
            };
            self.announce(leadership);
            // A lone voter that leads has nobody to send heartbeats to and no election to lose: without ticks an idle
            // manager sleeps.
            let is_alone = self.raft.voter_ids().count() == 1;
            self.raft.runtime_config().tick(!(is_alone && matches!(leadership, Leadership::Leading { .. })));
            if leadership == Leadership::Stopped {
                return;
            }
            let appended = self.log.appended_bytes();
            if appended >= snapshot_at_bytes {
                snapshot_at_bytes = appended + self.snapshot_log_bytes;
                // A refusal means that raft stops, which the metrics say too.
                let _ = self.raft.trigger().snapshot().await;
            }
            if metrics.changed().await.is_err() {
                self.announce(Leadership::Stopped);
                return;
            }
        }
    }

    fn announce(&self, next: Leadership) {
        let before = *self.leadership.borrow();
        if before == next {
            return;
        }
        match next {
            Leadership::Leading { term } => {
                self.time.begin_leading(self.publisher.current().time);
                tracing::info!(term, "this manager leads");
            }
            Leadership::Following | Leadership::Stopped => self.time.stop_leading(),
        }
        self.leadership.send_replace(next);
    }
}
