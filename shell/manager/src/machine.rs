//! What Raft replicates here: the store's state, changed by its entries, written in the formats of `wire`.

use skep_model::{ClusterTime, WallTime};
use skep_raft::{Applied, Machine, MachineError};
use skep_store::{Entry, Event, Outcome, Proposal, State};

/// The cluster state as a replicated state machine.
#[derive(Debug)]
pub struct StoreMachine;

fn machine_error(error: skep_wire::DecodeError) -> MachineError {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    MachineError(text)
}

impl Machine for StoreMachine {
    type State = State;
    type Proposal = Proposal;
    type Entry = Entry;
    type Outcome = Outcome;
    type Event = Event;

    fn empty_state() -> State {
        State::default()
    }

    fn entry(time: ClusterTime, wall: WallTime, proposals: Vec<Proposal>) -> Entry {
        Entry { time, wall, proposals }
    }

    fn proposal_size(proposal: &Proposal) -> usize {
        skep_wire::proposal_size(proposal)
    }

    fn encode_entry(entry: &Entry) -> Vec<u8> {
        skep_wire::encode_entry(entry)
    }

    fn decode_entry(bytes: &[u8]) -> Result<Entry, MachineError> {
        skep_wire::decode_entry(bytes).map_err(machine_error)
    }

    fn apply(state: &mut State, index: u64, entry: &Entry) -> Result<Applied<Outcome, Event>, MachineError> {
        let skep_store::Applied { outcomes, events } = skep_store::apply(state, index, entry);
        Ok(Applied { outcomes, events })
    }

    fn encode_snapshot(state: &State) -> Vec<u8> {
        skep_wire::encode_snapshot(state)
    }

    fn decode_snapshot(bytes: &[u8]) -> Result<State, MachineError> {
        skep_wire::decode_snapshot(bytes).map_err(machine_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_in_the_text() {
        let error = StoreMachine::decode_entry(&[0x0f, 0xff]).unwrap_err();
        assert!(error.0.starts_with("cannot read the log entry: its bytes are damaged: "), "{}", error.0);
    }

    #[test]
    fn an_empty_state_survives_its_snapshot() {
        let state =
            StoreMachine::decode_snapshot(&StoreMachine::encode_snapshot(&StoreMachine::empty_state())).unwrap();
        assert_eq!(state.index(), 0);
    }
}
