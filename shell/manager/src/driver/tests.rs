//! The driver over a real log, with loops made for the test.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use skep_control::Plan;
use skep_model::{NodeId, NodeRole, ObjectId as _, TaskId};
use skep_raft::{Leadership, Peer, SystemClock};
use skep_store::{AtomicGroup, Change, NewNode, Precondition};

use super::*;
use crate::leading::while_leading;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_large_plan_is_cut_in_order() {
    let task = |number: u16| {
        let mut bytes = [0; 17];
        bytes[1..3].copy_from_slice(&number.to_be_bytes());
        TaskId::from_random(bytes)
    };
    let changes: ChangeSet = (0..1000).map(|number| Change::DeleteTask(task(number)).into()).collect();
    let cut = proposals(changes.clone());
    assert_eq!(cut.len(), 4);
    assert!(cut.iter().all(|proposal| proposal.change_set.len() <= GROUPS_MAX));
    let joined: ChangeSet = cut.into_iter().flat_map(|proposal| proposal.change_set).collect();
    assert_eq!(joined, changes);
    assert!(proposals(ChangeSet::new()).is_empty());
}

/// What a loop saw in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    is_reset: bool,
    nodes: usize,
    index: u64,
}

type Decide = Box<dyn FnMut(&Seen, ClusterTime) -> Plan + Send>;

/// A loop that tells what it sees and plans what the test says.
struct Scripted {
    seen: Sender<Seen>,
    decide: Decide,
}

impl ControlLoop for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn step(&mut self, view: &State, events: &[Event], env: &mut Env) -> Plan {
        let seen = Seen {
            is_reset: events.iter().any(|event| matches!(event, Event::Reset)),
            nodes: view.nodes().count(),
            index: view.index(),
        };
        let plan = (self.decide)(&seen, env.now);
        // The test may have seen enough.
        let _ = self.seen.send(seen);
        plan
    }
}

fn node(number: u16) -> AtomicGroup {
    let mut id = [0; 17];
    id[1..3].copy_from_slice(&number.to_be_bytes());
    let new = NewNode {
        id: NodeId::from_random(id),
        role: NodeRole::Worker,
        availability: Default::default(),
        certificate: Default::default(),
        manager: None,
    };
    Change::CreateNode(Box::new(new)).into()
}

async fn lead(directory: &std::path::Path) -> Raft<StoreMachine> {
    let config = skep_raft::Config::new(directory, "test");
    let peer = Peer { node_id: "a".to_owned(), address: "b".to_owned() };
    let key = skep_trust::SealKey::generate();
    let raft = Raft::create(config, peer, key, SystemClock::new()).await.unwrap();
    let mut leadership = raft.leadership();
    leadership.wait_for(|now| matches!(now, Leadership::Leading { .. })).await.unwrap();
    drop(leadership);
    raft
}

/// Runs one scripted loop until it has seen what is waited for.
fn script(
    mut is_enough: impl FnMut(&[Seen]) -> bool,
    mut decide: impl FnMut(usize, &Seen, ClusterTime) -> Plan + Send + 'static,
) -> Vec<Seen> {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (sender, receiver): (_, Receiver<Seen>) = channel();
    let raft = runtime.block_on(lead(directory.path()));
    let mut count = 0;
    let decide: Decide = Box::new(move |seen, now| {
        count += 1;
        decide(count, seen, now)
    });
    let mut control: Option<Loop> = Some(Box::new(Scripted { seen: sender, decide }));
    let driven = raft.clone();
    runtime.spawn(while_leading(raft.clone(), move |term| {
        drive(driven.clone(), control.take().into_iter().collect(), term)
    }));
    let mut seen = Vec::new();
    while !is_enough(&seen) {
        seen.push(receiver.recv_timeout(PATIENCE).unwrap());
    }
    runtime.block_on(raft.shutdown());
    runtime.shutdown_timeout(PATIENCE);
    seen
}

fn plan(groups: Vec<AtomicGroup>) -> Plan {
    Plan { changes: groups, ..Plan::default() }
}

#[test]
fn what_is_committed_is_seen_at_once() {
    let seen = script(
        |seen| seen.len() == 3,
        |step, _, _| match step {
            1 => plan(vec![node(1)]),
            2 => plan(vec![node(2)]),
            _ => Plan::default(),
        },
    );
    assert_eq!(seen.iter().map(|seen| seen.is_reset).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(seen.iter().map(|seen| seen.nodes).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_refused_group_leads_to_a_fresh_look_at_everything_that_was_proposed() {
    let nobody = Precondition::NodeTakesTasks(NodeId::from_random([99; 17]));
    // 601 groups make several proposals; one in the first is refused.
    let is_fresh = |seen: &[Seen]| seen.iter().skip(1).any(|seen| seen.is_reset);
    let seen = script(is_fresh, move |step, _, _| {
        if step > 1 {
            return Plan::default();
        }
        let mut groups: Vec<_> = (0..600).map(node).collect();
        groups.insert(0, node(1000).when(nobody.clone()));
        plan(groups)
    });
    assert_eq!(seen.last().map(|seen| seen.nodes), Some(600));
}

#[test]
fn the_clock_wakes_a_loop() {
    let seen = script(
        |seen| seen.len() == 3,
        |_, _, now| {
            let mut plan = Plan::default();
            plan.wake(now.after(Duration::from_millis(5)));
            plan
        },
    );
    assert_eq!(seen.iter().map(|seen| seen.is_reset).collect::<Vec<_>>(), [true, false, false]);
}
