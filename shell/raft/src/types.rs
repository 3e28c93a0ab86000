//! The types `openraft` is used with. They stay inside this crate.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::impls::leader_id_std;
use openraft::{EntryPayload, Membership};
use skep_model::ClusterTime;

use crate::disk::codec::{Reader, Truncated, Writer};

openraft::declare_raft_types!(
    /// Standard Raft (one leader a term), random u64 ids, entries as bytes.
    pub(crate) TypeConfig:
        D = LogData,
        R = (),
        NodeId = u64,
        Node = Peer,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type LogEntry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type CommittedLeader = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;

/// A manager in the Raft group: who it is and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// The node's id, as in its certificate.
    pub node_id: String,
    /// Host and port where other managers reach it.
    pub address: String,
}

/// What a log entry carries: an encoded batch and the time it was made at.
#[derive(Debug, Clone)]
pub(crate) struct LogData {
    /// Which of this process's batches it is; 0 when it came from elsewhere or from disk. Never stored.
    pub(crate) batch: u64,
    pub(crate) time: ClusterTime,
    pub(crate) bytes: Arc<[u8]>,
}

impl std::fmt::Display for LogData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "batch of {} bytes", self.bytes.len())
    }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeader::new(term), index)
}

/// Kinds of log records on disk.
const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// The payload as (kind, bytes) for the disk.
pub(crate) fn encode_payload(payload: &EntryPayload<LogData, u64, Peer>) -> (u8, Vec<u8>) {
    match payload {
        EntryPayload::Blank => (KIND_BLANK, Vec::new()),
        EntryPayload::Normal(data) => {
            let mut out = Writer::with_capacity(8 + data.bytes.len());
            out.u64(data.time.0);
            out.raw(&data.bytes);
            (KIND_NORMAL, out.into_bytes())
        }
        EntryPayload::Membership(membership) => {
            let mut out = Writer::default();
            write_membership(&mut out, membership);
            (KIND_MEMBERSHIP, out.into_bytes())
        }
    }
}

/// The payload from the disk; `None` when the bytes make no sense.
pub(crate) fn decode_payload(kind: u8, bytes: &[u8]) -> Option<EntryPayload<LogData, u64, Peer>> {
    match kind {
        KIND_BLANK if bytes.is_empty() => Some(EntryPayload::Blank),
        KIND_NORMAL => {
            let mut input = Reader::new(bytes);
            let time = ClusterTime(input.u64().ok()?);
            Some(EntryPayload::Normal(LogData { batch: 0, time, bytes: input.rest().into() }))
        }
        KIND_MEMBERSHIP => {
            let mut input = Reader::new(bytes);
            let membership = read_membership(&mut input).ok()??;
            input.rest().is_empty().then_some(EntryPayload::Membership(membership))
        }
        _ => None,
    }
}

pub(crate) fn write_log_id(out: &mut Writer, id: Option<&LogId>) {
    match id {
        None => out.u8(0),
        Some(id) => {
            out.u8(1);
            out.u64(id.leader_id.term);
            out.u64(id.index);
        }
    }
}

pub(crate) fn read_log_id(input: &mut Reader<'_>) -> Result<Option<LogId>, Truncated> {
    match input.u8()? {
        0 => Ok(None),
        _ => {
            let (term, index) = (input.u64()?, input.u64()?);
            Ok(Some(log_id(term, index)))
        }
    }
}

pub(crate) fn write_membership(out: &mut Writer, membership: &Membership<u64, Peer>) {
    let configs = membership.get_joint_config();
    out.u32(configs.len() as u32);
    for config in configs {
        out.u32(config.len() as u32);
        config.iter().for_each(|id| out.u64(*id));
    }
    let nodes: Vec<_> = membership.nodes().collect();
    out.u32(nodes.len() as u32);
    for (id, peer) in nodes {
        out.u64(*id);
        out.text(&peer.node_id);
        out.text(&peer.address);
    }
}

/// Reads a membership; the inner `None` says that it contradicts itself.
pub(crate) fn read_membership(input: &mut Reader<'_>) -> Result<Option<Membership<u64, Peer>>, Truncated> {
    let mut configs = Vec::new();
    for _ in 0..input.u32()? {
        let count = input.u32()?;
        configs.push((0..count).map(|_| input.u64()).collect::<Result<_, _>>()?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..input.u32()? {
        let id = input.u64()?;
        nodes.insert(id, Peer { node_id: input.text()?, address: input.text()? });
    }
    Ok(Membership::new(configs, nodes).ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn payloads_survive_their_bytes() {
        let peer = |name: &str| Peer { node_id: name.into(), address: format!("{name}:2377") };
        let nodes = BTreeMap::from([(5, peer("a")), (9, peer("b"))]);
        let membership = Membership::new(vec![BTreeSet::from([5]), BTreeSet::from([5, 9])], nodes).unwrap();
        let (kind, bytes) = encode_payload(&EntryPayload::Membership(membership.clone()));
        assert!(matches!(decode_payload(kind, &bytes), Some(EntryPayload::Membership(read)) if read == membership));
        for cut in 0..bytes.len() {
            assert!(decode_payload(kind, &bytes[..cut]).is_none(), "cut at {cut}");
        }

        let data = LogData { batch: 7, time: ClusterTime(11), bytes: (*b"content").into() };
        let (kind, bytes) = encode_payload(&EntryPayload::Normal(data));
        let Some(EntryPayload::Normal(read)) = decode_payload(kind, &bytes) else { panic!("not normal") };
        assert_eq!((read.batch, read.time, &*read.bytes), (0, ClusterTime(11), b"content".as_slice()));

        let (kind, bytes) = encode_payload(&EntryPayload::Blank);
        assert!(matches!(decode_payload(kind, &bytes), Some(EntryPayload::Blank)));
        assert!(decode_payload(9, b"").is_none());
    }
}
