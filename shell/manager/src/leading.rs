//! Things that only a leader runs: begun afresh with each leadership, ended with it.

use std::time::Duration;

use skep_control::{Env, Rng};
use skep_raft::{Clock as _, Leadership, Raft, SystemClock};
use skep_store::Proposal;
use tokio::sync::watch;

use crate::StoreMachine;

/// Pause before a part that ended while this manager still leads begins again.
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// Runs `part` whenever this manager leads, until Raft stops. The part must end by itself when [`Term::ended`] resolves.
pub(crate) async fn while_leading<F, Fut>(raft: Raft<StoreMachine>, mut part: F)
where
    F: FnMut(Term) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut leadership = raft.leadership();
    let mut last_term = None;
    loop {
        let now = *leadership.borrow_and_update();
        match now {
            Leadership::Stopped => return,
            Leadership::Leading { term } => {
                if last_term == Some(term) {
                    // It ended on its own: what it proposed must be settled before it looks at the state again.
                    tokio::time::sleep(RESTART_DELAY).await;
                    if raft.propose(Proposal::default()).await.is_err() {
                        continue;
                    }
                }
                last_term = Some(term);
                part(Term { term, leadership: leadership.clone() }).await;
            }
            Leadership::Following => {
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One leadership.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    term: u64,
    leadership: watch::Receiver<Leadership>,
}

impl Term {
    /// Resolves when this manager leads no more in this term.
    pub(crate) async fn ended(&mut self) {
        let term = self.term;
        // An error means that Raft is gone.
        let _ = self.leadership.wait_for(|now| *now != Leadership::Leading { term }).await;
    }
}

/// A source of [`Env`]s: one stream of random numbers, the leader's clocks.
#[derive(Debug)]
pub(crate) struct Envs {
    rng: Rng,
    clock: SystemClock,
}

impl Envs {
    pub(crate) fn new() -> Self {
        Self { rng: Rng::seeded(u64::from_le_bytes(skep_trust::random_bytes())), clock: SystemClock::new() }
    }

    /// Time now, and fresh randomness.
    pub(crate) fn now(&mut self, raft: &Raft<StoreMachine>) -> Env {
        let rng = Rng::seeded(self.rng.number());
        Env { now: raft.cluster_time(), wall: self.clock.wall(), rng }
    }
}
