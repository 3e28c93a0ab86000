//! A small state machine to replicate: a list of numbers, with everything else as simple as can be.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part; tests may unwrap")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skep_model::{ClusterTime, WallTime};
use skep_raft::{Applied, Clock, Config, Leadership, Machine, MachineError, Peer, Raft, SystemClock};
use skep_trust::SealKey;

/// The list of all numbers proposed; a number that is there already is rejected.
pub struct Numbers;

/// All numbers in the order of their commits.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct List {
    pub numbers: Arc<Vec<u64>>,
    pub time: u64,
    pub last_index: u64,
}

pub struct Entry {
    pub time: u64,
    pub wall: i64,
    pub proposals: Vec<Proposal>,
}

#[derive(Clone)]
pub struct Proposal {
    pub number: u64,
    pub padding: usize,
}

/// A proposal of this number makes the machine refuse the entry.
pub const POISON: u64 = u64::MAX;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Outcome {
    Added { position: usize },
    AlreadyThere,
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, MachineError> {
    let slice = bytes.get(at..at + 8).ok_or_else(|| MachineError("too short".into()))?;
    Ok(u64::from_le_bytes(slice.try_into().unwrap()))
}

impl Machine for Numbers {
    type State = List;
    type Proposal = Proposal;
    type Entry = Entry;
    type Outcome = Outcome;
    type Event = u64;

    fn empty_state() -> List {
        List::default()
    }

    fn entry(time: ClusterTime, wall: WallTime, proposals: Vec<Proposal>) -> Entry {
        Entry { time: time.0, wall: wall.0, proposals }
    }

    fn proposal_size(proposal: &Proposal) -> usize {
        16 + proposal.padding
    }

    fn encode_entry(entry: &Entry) -> Vec<u8> {
        let mut out = entry.time.to_le_bytes().to_vec();
        out.extend(entry.wall.to_le_bytes());
        for proposal in &entry.proposals {
            out.extend(proposal.number.to_le_bytes());
            out.extend((proposal.padding as u64).to_le_bytes());
            out.resize(out.len() + proposal.padding, 0);
        }
        out
    }

    fn decode_entry(bytes: &[u8]) -> Result<Entry, MachineError> {
        let (time, wall) = (u64_at(bytes, 0)?, u64_at(bytes, 8)?.cast_signed());
        let mut proposals = Vec::new();
        let mut at = 16;
        while at < bytes.len() {
            let (number, padding) = (u64_at(bytes, at)?, u64_at(bytes, at + 8)? as usize);
            proposals.push(Proposal { number, padding });
            at += 16 + padding;
        }
        Ok(Entry { time, wall, proposals })
    }

    fn apply(state: &mut List, index: u64, entry: &Entry) -> Result<Applied<Outcome, u64>, MachineError> {
        let mut applied = Applied { outcomes: Vec::new(), events: Vec::new() };
        assert!(index > state.last_index && entry.time >= state.time, "order and time never go back");
        (state.last_index, state.time) = (index, entry.time);
        let numbers = Arc::make_mut(&mut state.numbers);
        for proposal in &entry.proposals {
            if proposal.number == POISON {
                return Err(MachineError("unknown kind of change".into()));
            }
            // Looking at the newest alone keeps long tests fast; they propose in order.
            applied.outcomes.push(if numbers.last() == Some(&proposal.number) {
                Outcome::AlreadyThere
            } else {
                numbers.push(proposal.number);
                applied.events.push(proposal.number);
                Outcome::Added { position: numbers.len() - 1 }
            });
        }
        Ok(applied)
    }

    fn encode_snapshot(state: &List) -> Vec<u8> {
        let mut out = state.time.to_le_bytes().to_vec();
        out.extend(state.last_index.to_le_bytes());
        state.numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        out
    }

    fn decode_snapshot(bytes: &[u8]) -> Result<List, MachineError> {
        let (time, last_index) = (u64_at(bytes, 0)?, u64_at(bytes, 8)?);
        let numbers = (2..bytes.len() / 8).map(|at| u64_at(bytes, at * 8)).collect::<Result<_, _>>()?;
        Ok(List { numbers: Arc::new(numbers), time, last_index })
    }
}

pub const KEY: [u8; 32] = [7; 32];

pub fn key() -> SealKey {
    SealKey::from_bytes(KEY)
}

pub fn me() -> Peer {
    Peer { node_id: "node1".into(), address: "127.0.0.1:2377".into() }
}

pub fn number(number: u64) -> Proposal {
    Proposal { number, padding: 0 }
}

pub fn config(directory: &Path) -> Config {
    Config::new(directory.join("raft"), "cluster1")
}

pub async fn create(config: Config) -> Raft<Numbers> {
    leading(Raft::create(config, me(), key(), SystemClock::new()).await.unwrap()).await
}

pub async fn open(config: Config) -> Raft<Numbers> {
    leading(Raft::open(config, me(), key(), SystemClock::new()).await.unwrap()).await
}

pub async fn leading(raft: Raft<Numbers>) -> Raft<Numbers> {
    let mut leadership = raft.leadership();
    leadership.wait_for(|leads| matches!(leads, Leadership::Leading { .. })).await.unwrap();
    raft
}

/// A clock that stands still until it is moved.
#[derive(Clone, Default)]
pub struct ManualClock(pub Arc<AtomicU64>);

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn wall(&self) -> WallTime {
        WallTime(self.0.load(Ordering::SeqCst) as i64)
    }
}
