//! What a control loop is: it looks at a snapshot and at what changed, and says what should change next.
//!
//! A loop is a plain value without threads, sockets or clocks. Time and randomness come in [`Env`]; its only output is a
//! [`Plan`]. The manager drives loops with Raft and timers, the simulator with a queue and a virtual clock. A loop may lose
//! its memory at any moment: started afresh, with [`Event::Reset`] as first event, it reaches the same place.

mod in_flight;

pub use in_flight::InFlight;

use skep_model::{ClusterTime, ObjectId, WallTime};
use skep_store::{AtomicGroup, ChangeSet, Event, State};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// A control loop.
pub trait ControlLoop {
    /// A short name for logs and metrics.
    fn name(&self) -> &'static str;

    /// Looks at a consistent snapshot and what changed since the last step; says what should change next. The first step, and
    /// any step after events were lost, gets [`Event::Reset`] and looks at everything.
    fn step(&mut self, view: &State, events: &[Event], env: &mut Env) -> Plan;
}

/// What a loop wants.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Groups to propose. One that lost at commit shows as no event; the loop finds out by itself in its next step, which
    /// the driver makes at once after a rejection, with [`Event::Reset`].
    pub changes: ChangeSet,
    /// When to step again even if nothing happens.
    pub wake_at: Option<ClusterTime>,
    /// Why, for people: goes to the log at debug level.
    pub notes: Vec<String>,
}

impl Plan {
    /// Adds a group.
    pub fn propose(&mut self, group: impl Into<AtomicGroup>) {
        self.changes.push(group.into());
    }

    /// Asks to be stepped at a time, or earlier.
    pub fn wake(&mut self, at: ClusterTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }
}

/// Time and randomness, handed in.
#[derive(Debug)]
pub struct Env {
    /// Cluster time now; never goes back on one leader.
    pub now: ClusterTime,
    /// Wall time now, for display.
    pub wall: WallTime,
    /// Randomness.
    pub rng: Rng,
}

/// A seeded stream of random numbers. It mints ids, and is not for secrets.
#[derive(Debug, Clone)]
pub struct Rng(Xoshiro256PlusPlus);

impl Rng {
    /// The stream of a seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// A fresh object id.
    pub fn id<T: ObjectId>(&mut self) -> T {
        let mut bytes = [0; 17];
        self.0.fill_bytes(&mut bytes);
        T::from_random(bytes)
    }

    /// A number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64).expect("a product's upper half fits")
    }
}
