//! Secrets and configs in records of the log, in snapshots and on the way to a node, with files as they were first written.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a test")]
#![allow(unreachable_pub, dead_code, missing_docs, reason = "shared between test programs")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{Random, parts_of};
use skep_model::{
    ClusterTime, Config, ConfigSpec, Driver, Labels, Lineage, Meta, Sealed, Secret, SecretSpec, Version, WallTime,
};
use skep_store::{AtomicGroup, Change, Entry, Parts, Proposal, State};
use skep_wire::{
    config, config_value, decode_entry, decode_snapshot, encode_entry, encode_snapshot, secret, secret_value,
};

fn labels() -> Labels {
    Labels::from([("a".to_owned(), "ä €".to_owned()), (String::new(), String::new())])
}

fn driver(name: &str) -> Option<Driver> {
    Some(Driver { name: name.to_owned(), options: labels() })
}

fn secret_spec(name: &str) -> SecretSpec {
    SecretSpec {
        name: name.to_owned(),
        labels: labels(),
        data: Sealed(vec![0, 255, 3]),
        templating: driver("golang"),
        driver: driver("vault"),
    }
}

fn config_spec(name: &str) -> ConfigSpec {
    ConfigSpec { name: name.to_owned(), labels: labels(), data: vec![7, 0, 255], templating: driver("golang") }
}

fn entry() -> Entry {
    let mut random = Random::new(5);
    let lineage = Lineage { family: "tls".to_owned(), generation: u64::MAX };
    let (secret, config) = (random.id(), random.id());
    let changes = vec![
        Change::CreateSecret { secret, spec: Arc::new(secret_spec("tls")), lineage },
        Change::CreateSecret { secret, spec: Arc::default(), lineage: Lineage::default() },
        Change::SetSecretLabels { secret, expect: Version(u64::MAX), labels: labels() },
        Change::RemoveSecret(secret),
        Change::CreateConfig { config, spec: Arc::new(config_spec("page")) },
        Change::CreateConfig { config, spec: Arc::default() },
        Change::SetConfigLabels { config, expect: Version(1), labels: labels() },
        Change::RemoveConfig(config),
    ];
    let group = AtomicGroup { preconditions: Vec::new(), changes };
    Entry { time: ClusterTime(9), wall: WallTime(-9), proposals: vec![Proposal { change_set: vec![group] }] }
}

fn state() -> State {
    let mut random = Random::new(6);
    let meta = |number| Meta {
        version: Version(number),
        created_at: WallTime(5),
        updated_at: WallTime(i64::try_from(number).unwrap()),
    };
    let mut parts = Parts::default();
    for (number, name) in [(1, "one"), (2, "two")] {
        let lineage = Lineage { family: name.to_owned(), generation: number };
        let spec = Arc::new(secret_spec(name));
        parts.secrets.push(Secret { id: random.id(), meta: meta(number), spec, lineage });
        parts.configs.push(Config { id: random.id(), meta: meta(number), spec: Arc::new(config_spec(name)) });
    }
    State::restore(parts).unwrap()
}

fn golden(name: &str, content: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("SKEP_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, content).unwrap();
    }
    std::fs::read(&path).unwrap()
}

#[test]
fn a_record_of_the_log_comes_back() {
    let bytes = golden("entry-secrets-0.1.bin", &encode_entry(&entry()));
    assert_eq!(decode_entry(&bytes).unwrap(), entry());
    assert_eq!(decode_entry(&encode_entry(&entry())).unwrap(), entry());
}

#[test]
fn a_snapshot_comes_back() {
    let bytes = golden("snapshot-secrets-0.1.bin", &encode_snapshot(&state()));
    for bytes in [bytes, encode_snapshot(&state())] {
        let read = decode_snapshot(&bytes).unwrap();
        assert_eq!(format!("{:?}", parts_of(&read)), format!("{:?}", parts_of(&state())));
        assert_eq!(read.secret_by_name("ONE").unwrap().lineage.generation, 1);
    }
}

#[test]
fn a_node_gets_open_values_and_shows_none() {
    let state = state();
    let sealed = state.secret_by_name("one").unwrap();
    let (id, value) = secret_value(secret(sealed, b"open".to_vec())).unwrap();
    assert_eq!(
        (id, value.name.as_str(), value.data.as_slice(), value.is_template),
        (sealed.id, "one", &b"open"[..], true)
    );
    assert!(!format!("{value:?}").contains("open"));
    let stored = state.config_by_name("two").unwrap();
    let (id, value) = config_value(config(stored)).unwrap();
    assert_eq!((id, value.data), (stored.id, stored.spec.data.clone()));
    let mut strange = secret(sealed, Vec::new());
    strange.spec.as_mut().unwrap().templating.as_mut().unwrap().name = "php".to_owned();
    assert!(secret_value(strange).unwrap_err().to_string().contains("php"));
}
