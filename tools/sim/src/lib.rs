//! The whole control plane in one thread: the real control loops, dispatcher and agents, over an ideal log, with a virtual
//! clock and simulated containers.
//!
//! A seed makes a cluster, a workload and faults. After every commit all invariants are checked; at the end everything is
//! healed and the cluster must converge within a bounded virtual time. A failure carries a readable trace and is found again
//! by its seed.
//!
//! ```text
//!   user ─┐                        ┌─▶ orchestrator · allocator · scheduler ─┐
//!         ├─▶ log ─▶ apply ─▶ State ┤                                        ├─▶ log (later, perhaps never)
//!   nodes ┘    (one at a time)     └─▶ dispatcher ◀──▶ agents ──▶ containers ┘
//! ```

mod convergence;
mod faults;
mod invariants;
mod manager;
mod node;
mod parts;
mod sim;
mod workload;

pub use parts::parts_of;

/// What to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Everything follows from it.
    pub seed: u64,
    /// How many things users do and faults strike before everything is healed.
    pub steps: u32,
}

/// What came of a run that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Committed entries.
    pub entries: u64,
    /// Groups that were refused at commit.
    pub refused: u64,
    /// Containers that were started.
    pub starts: u64,
    /// Virtual time from healing to convergence, in milliseconds.
    pub convergence_millis: u64,
}

/// A run that broke an invariant or did not converge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Finds it again.
    pub seed: u64,
    /// What is wrong.
    pub violations: Vec<String>,
    /// The last things that happened.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {} fails:", self.seed)?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

/// Runs one seed.
///
/// # Errors
/// With what is wrong and a trace of what happened.
pub fn run(config: Config) -> Result<Summary, Failure> {
    // Writing the trace costs more than running, so a failing seed is run once more with it.
    sim::Sim::new(config, false).run().or_else(|_| sim::Sim::new(config, true).run())
}
