//! What is encoded comes back as it was, and nothing else is taken.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a test")]
#![allow(unreachable_pub, dead_code, missing_docs, reason = "shared between test programs")]

mod common;

use common::{Random, parts_of};
use proptest::prelude::*;
use prost::Message;
use skep_model::{
    ClusterSpec, NodeDescription, NodeSpec, ObjectId, ServiceSpec, Slot, TaskSpec, TaskState, TaskStatus,
};
use skep_store::{Proposal, State};
use skep_wire::{
    AssignedTask, DecodeError, Sending, WorkerTask, decode_entry, decode_snapshot, decode_worker_task, encode_entry,
    encode_snapshot, encode_worker_task, proposal_size, stored, swarmkit,
};

proptest! {
    #[test]
    fn an_entry_comes_back(seed: u64) {
        let entry = Random::new(seed).entry();
        let bytes = encode_entry(&entry);
        prop_assert_eq!(decode_entry(&bytes).unwrap(), entry);
    }

    #[test]
    fn a_snapshot_comes_back(seed: u64) {
        let state = State::restore(Random::new(seed).parts()).unwrap();
        let again = decode_snapshot(&encode_snapshot(&state)).unwrap();
        prop_assert_eq!(format!("{:?}", parts_of(&again)), format!("{:?}", parts_of(&state)));
        prop_assert_eq!(encode_snapshot(&again), encode_snapshot(&state));
    }

    #[test]
    fn a_stored_spec_comes_back(seed: u64) {
        let spec = Random::new(seed).service_spec();
        prop_assert_eq!(ServiceSpec::try_from(stored::ServiceSpec::from(&spec)).unwrap(), spec);
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_but_never_panic(seed: u64, at: u16, value: u8, cut: bool) {
        let mut bytes = encode_entry(&Random::new(seed).entry());
        let at = usize::from(at) % bytes.len();
        bytes[at] = value;
        if cut {
            bytes.truncate(at);
        }
        let _ = decode_entry(&bytes);
        let _ = decode_snapshot(&bytes);
    }

    #[test]
    fn a_description_comes_back(seed: u64) {
        let description = Random::new(seed).description();
        let wire = swarmkit::NodeDescription::from(&description);
        prop_assert_eq!(NodeDescription::try_from(wire).unwrap(), description);
    }

    #[test]
    fn a_status_comes_back_without_what_managers_add(seed: u64) {
        let status = Random::new(seed).task_status();
        let wire = swarmkit::TaskStatus::from(&status);
        let expected = TaskStatus { applied_at: Default::default(), ..status };
        prop_assert_eq!(TaskStatus::try_from(wire).unwrap(), expected);
    }

    #[test]
    fn an_assigned_task_comes_back(seed: u64) {
        let mut random = Random::new(seed);
        let spec = random.service_spec();
        let (service, node) = (random.id(), random.id());
        let mut task = random.task(service, skep_model::SpecVersion(3));
        task.placed.node = Some(node);
        let wire = skep_wire::task(&task, node, &spec, Sending { registry_auth: Some("secret"), ..Sending::default() });
        let assigned = AssignedTask::try_from(wire).unwrap();
        prop_assert_eq!(assigned.task_id, task.id);
        prop_assert_eq!(assigned.service_id, Some(service));
        prop_assert_eq!(assigned.node_id, node);
        prop_assert_eq!(&assigned.service_name, &spec.name);
        prop_assert_eq!(&assigned.service_labels, &spec.labels);
        prop_assert_eq!(assigned.spec_version.0, 3);
        prop_assert_eq!(&assigned.ports, &task.attachment.ports);
        prop_assert_eq!(assigned.desired, task.intent.desired);
        prop_assert_eq!(assigned.registry_auth.as_deref(), Some("secret"));
        let slot = match task.slot {
            Slot::Number(number) if number > 0 => Slot::Number(number),
            _ => Slot::Node(node),
        };
        prop_assert_eq!(assigned.slot, slot);
        let known = task.observed.filter(|status| status.state >= TaskState::Accepted);
        prop_assert_eq!(assigned.known.map(|known| known.state), known.map(|known| known.state));
        prop_assert_eq!(with_canonical_words(&assigned.spec), with_canonical_words(&spec.task));
    }
}

proptest! {
    #[test]
    fn a_workers_memory_comes_back(seed: u64, removing: bool, withheld: bool) {
        let mut random = Random::new(seed);
        let spec = random.service_spec();
        let (service, node) = (random.id(), random.id());
        let mut task = random.task(service, skep_model::SpecVersion(3));
        task.placed.node = Some(node);
        let wire = skep_wire::task(&task, node, &spec, Sending { registry_auth: Some("secret"), ..Sending::default() });
        let assigned = AssignedTask { known: None, ..AssignedTask::try_from(wire).unwrap() };
        let status = TaskStatus { applied_at: Default::default(), ..random.task_status() };
        let memory = WorkerTask { task: assigned, status, removing, withheld };
        let bytes = encode_worker_task(&memory);
        prop_assert!(!bytes.windows(6).any(|window| window == b"secret"));
        let mut expected = memory;
        expected.task.registry_auth = None;
        prop_assert_eq!(decode_worker_task(&bytes).unwrap(), expected);
    }
}

/// Without the words that a number stands for on the wire, and what only the store keeps.
fn with_canonical_words(spec: &TaskSpec) -> TaskSpec {
    let mut spec = TaskSpec::try_from(swarmkit::TaskSpec::from(spec)).unwrap();
    spec.container.registry_auth = None;
    spec
}

#[test]
fn every_kind_of_change_is_covered() {
    let mut random = Random::new(7);
    let kinds: std::collections::BTreeSet<String> = (0..Random::CHANGES)
        .map(|kind| format!("{:?}", random.change(kind)))
        .map(|text| text.chars().take_while(|c| c.is_alphanumeric()).collect())
        .collect();
    assert_eq!(kinds.len() as u64, Random::CHANGES);
}

#[test]
fn a_newer_format_is_refused() {
    let newer = stored::Entry { version: 2, ..stored::Entry::default() }.encode_to_vec();
    let error = decode_entry(&newer).unwrap_err();
    assert!(matches!(error, DecodeError::NewerFormat { version: 2, known: 1, .. }));
    assert!(error.to_string().contains("written by a newer skep"), "{error}");
    assert!(decode_snapshot(&newer).is_err());
}

#[test]
fn an_unknown_kind_of_change_is_refused() {
    // Field 99 of a change: a kind that this build does not know.
    let change: &[u8] = &[0x9a, 0x06, 0x01, b'x'];
    let mut group = vec![0x12, u8::try_from(change.len()).unwrap()];
    group.extend_from_slice(change);
    let mut proposal = vec![0x0a, u8::try_from(group.len()).unwrap()];
    proposal.extend_from_slice(&group);
    let mut entry = vec![0x08, 0x01, 0x22, u8::try_from(proposal.len()).unwrap()];
    entry.extend_from_slice(&proposal);
    let error = decode_entry(&entry).unwrap_err();
    assert_eq!(error, DecodeError::UnknownKind { what: "kind of change" });
    assert!(error.to_string().contains("written by a newer skep"), "{error}");
}

#[test]
fn nothing_is_not_an_entry() {
    assert_eq!(decode_entry(&[]), Err(DecodeError::Missing { field: "format number" }));
    assert!(decode_snapshot(&[]).is_err());
}

#[test]
fn a_proposal_has_the_size_it_takes() {
    let mut random = Random::new(11);
    let mut entry = random.entry();
    let proposal = entry.proposals.remove(0);
    entry.proposals.clear();
    let without = encode_entry(&entry).len();
    let size = proposal_size(&proposal);
    entry.proposals.push(proposal);
    let with = encode_entry(&entry).len();
    assert!((size..=size + 6).contains(&(with - without)), "{size} and {}", with - without);
    assert_eq!(proposal_size(&Proposal::default()), 0);
}

#[test]
fn shared_specs_are_written_once() {
    let mut random = Random::new(3);
    let mut parts = random.parts();
    while parts.services.is_empty() {
        parts = random.parts();
    }
    let snapshot = encode_snapshot(&State::restore(parts.clone()).unwrap());
    let stored = stored::Snapshot::decode(snapshot.as_slice()).unwrap();
    assert_eq!(stored.specs.len(), parts.revisions.len());
}

#[test]
fn the_other_specs_come_back() {
    for seed in 0..64 {
        let mut random = Random::new(seed);
        for kind in 0..Random::CHANGES {
            match random.change(kind) {
                skep_store::Change::SetClusterSpec { spec, .. } => {
                    assert_eq!(ClusterSpec::try_from(swarmkit::ClusterSpec::from(&*spec)).unwrap(), *spec);
                }
                skep_store::Change::SetNodeSpec { spec, .. } => {
                    assert_eq!(NodeSpec::try_from(swarmkit::NodeSpec::from(&spec)).unwrap(), spec);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_bad_id_is_named() {
    let mut entry = stored::Entry { version: 1, ..stored::Entry::default() };
    let change = stored::Change { kind: Some(stored::change::Kind::DeleteTask("nope".to_owned())) };
    let group = stored::AtomicGroup { preconditions: Vec::new(), changes: vec![change] };
    entry.proposals.push(stored::Proposal { groups: vec![group] });
    let error = decode_entry(&entry.encode_to_vec()).unwrap_err();
    assert!(error.to_string().contains("invalid task id \"nope\""), "{error}");
    assert!(skep_model::TaskId::parse("nope").is_err());
}
