//! What is replicated: the state and how an entry changes it, supplied from outside.

use skep_model::{ClusterTime, WallTime};

/// Why an entry or a snapshot could not be read or applied. It stops this manager: going on would make its state differ
/// from the others'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MachineError(pub String);

/// What one entry did.
#[derive(Debug)]
pub struct Applied<O, E> {
    /// One outcome for each proposal of the entry, in their order.
    pub outcomes: Vec<O>,
    /// What changed, for those who follow the state.
    pub events: Vec<E>,
}

/// The replicated state machine. All functions are deterministic: the same entries give the same state on every manager.
///
/// The type itself is only a name for the set of functions and is never instantiated.
pub trait Machine: Send + Sync + 'static {
    /// The whole state. Cloning it must be cheap: it is cloned for every commit.
    type State: Clone + Send + Sync + 'static;
    /// What one proposer wants changed.
    type Proposal: Send + 'static;
    /// A log entry: a time and a batch of proposals.
    type Entry: Send + 'static;
    /// What became of one proposal.
    type Outcome: Send + 'static;
    /// One thing that changed.
    type Event: Send + Sync + 'static;

    /// The state before the first entry.
    fn empty_state() -> Self::State;

    /// Makes an entry of a batch; never called with an empty one.
    fn entry(time: ClusterTime, wall: WallTime, proposals: Vec<Self::Proposal>) -> Self::Entry;

    /// About how many bytes the proposal takes in an encoded entry: batches are cut by it.
    fn proposal_size(proposal: &Self::Proposal) -> usize;

    /// The entry as bytes, with a version in them.
    fn encode_entry(entry: &Self::Entry) -> Vec<u8>;

    /// The entry from its bytes.
    fn decode_entry(bytes: &[u8]) -> Result<Self::Entry, MachineError>;

    /// Applies a committed entry. Fails only where going on would be wrong (an unknown kind of change).
    fn apply(
        state: &mut Self::State,
        index: u64,
        entry: &Self::Entry,
    ) -> Result<Applied<Self::Outcome, Self::Event>, MachineError>;

    /// The state as bytes, with a version in them.
    fn encode_snapshot(state: &Self::State) -> Vec<u8>;

    /// The state from its bytes.
    fn decode_snapshot(bytes: &[u8]) -> Result<Self::State, MachineError>;
}
