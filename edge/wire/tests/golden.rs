//! Files as each release wrote them, kept for ever: every later release reads them. To add those of a new release, run
//! `SKEP_WRITE_GOLDEN=1 cargo nextest run -p skep-wire golden` once, and commit the new files.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a test")]
#![allow(unreachable_pub, dead_code, missing_docs, reason = "shared between test programs")]

mod common;

use std::path::PathBuf;

use common::{Random, parts_of};
use skep_store::State;
use skep_wire::{decode_entry, decode_snapshot, encode_entry, encode_snapshot};

const SEED: u64 = 1;

fn golden(name: &str, content: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("SKEP_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, content()).unwrap();
    }
    std::fs::read(&path).unwrap()
}

fn state() -> State {
    let mut random = Random::of_0_1(SEED);
    loop {
        let parts = random.parts();
        if parts.cluster.is_some() && parts.nodes.len() > 1 && parts.services.len() > 1 && parts.tasks.len() > 2 {
            return State::restore(parts).unwrap();
        }
    }
}

#[test]
fn golden_entry_of_0_1() {
    let entry = Random::of_0_1(SEED).entry();
    let bytes = golden("entry-0.1.bin", || encode_entry(&entry));
    assert_eq!(decode_entry(&bytes).unwrap(), entry);
}

#[test]
fn golden_snapshot_of_0_1() {
    let state = state();
    let bytes = golden("snapshot-0.1.bin", || encode_snapshot(&state));
    let read = decode_snapshot(&bytes).unwrap();
    assert_eq!(format!("{:?}", parts_of(&read)), format!("{:?}", parts_of(&state)));
}
