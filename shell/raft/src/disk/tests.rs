//! The files under every kind of damage: cut at each byte, changed at each byte, missing, foreign, newer.

use std::fs;
use std::path::{Path, PathBuf};

use skep_trust::SealKey;

use super::*;

const SEGMENT: u64 = 4 << 10;

fn place(directory: &Path) -> Place {
    let key = SealKey::from_bytes([3; 32]);
    Place { directory: directory.to_owned(), cluster_id: "cluster1".into(), epoch: 1, key }
}

fn record(index: u64) -> Record {
    let header = RecordHeader { kind: 1, term: 1, index, committed: index.checked_sub(1) };
    Record { header, content: format!("entry {index}").into_bytes() }
}

fn records(indexes: impl IntoIterator<Item = u64>) -> Vec<Record> {
    indexes.into_iter().map(record).collect()
}

fn reference(index: u64) -> LogRef {
    LogRef { term: 1, index }
}

fn open(place: &Place) -> Result<OpenedLog, DiskError> {
    LogFiles::open(place, None, SEGMENT)
}

/// The indexes in an opened log; every content is checked, through both ways of reading.
fn indexes(place: &Place, opened: &OpenedLog) -> Vec<u64> {
    let from_disk: Vec<Record> = opened.positions.iter().map(|at| at.read(place).unwrap()).collect();
    for record in from_disk.iter().chain(&opened.entries) {
        assert_eq!(record.content, format!("entry {}", record.header.index).into_bytes());
    }
    from_disk.iter().map(|record| record.header.index).collect()
}

fn segments(place: &Place) -> Vec<PathBuf> {
    place.numbered("log-", ".seg").unwrap().into_iter().map(|(_, path)| path).collect()
}

/// A log of these batches, each one write. Returns the file and its length after each batch.
fn written(place: &Place, batches: &[&[u64]]) -> (PathBuf, Vec<usize>) {
    let mut files = open(place).unwrap().files;
    let mut lengths = Vec::new();
    for batch in batches {
        files.append(&records(batch.iter().copied())).unwrap();
        lengths.push(files.end_of_last_segment() as usize);
    }
    (segments(place)[0].clone(), lengths)
}

#[test]
fn a_log_survives_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    assert!(open(&place).unwrap().last.is_none());
    written(&place, &[&[0], &[1, 2], &[3]]);
    let opened = open(&place).unwrap();
    assert_eq!(indexes(&place, &opened), [0, 1, 2, 3]);
    assert_eq!((opened.purged, opened.last, opened.committed), (None, Some(reference(3)), Some(2)));
    let mut files = opened.files;
    files.append(&records([4])).unwrap();
    assert_eq!(indexes(&place, &open(&place).unwrap()), [0, 1, 2, 3, 4]);
}

#[test]
fn a_last_write_cut_at_any_byte_is_cut_off_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let (path, lengths) = written(&place, &[&[0], &[1], &[2, 3]]);
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len() as u64, SEGMENT, "allocated in advance");
    // Also when what was cut reads as zeros.
    for (cut, length) in (lengths[1]..lengths[2]).flat_map(|cut| [(cut, cut), (cut, whole.len())]) {
        let mut bytes = whole[..cut].to_vec();
        bytes.resize(length, 0);
        fs::write(&path, bytes).unwrap();
        let opened = open(&place).unwrap();
        let found = indexes(&place, &opened);
        assert!(found == [0, 1] || found == [0, 1, 2], "cut at {cut}: {found:?}");
        let next = found.len() as u64;
        let mut files = opened.files;
        files.append(&records([next])).unwrap();
        let again = open(&place).unwrap();
        assert_eq!((again.torn_bytes, again.last), (0, Some(reference(next))), "cut at {cut}");
    }
}

#[test]
fn a_last_write_whose_parts_reached_the_disk_out_of_order_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let (path, lengths) = written(&place, &[&[0], &[1, 2, 3]]);
    let mut bytes = fs::read(&path).unwrap();
    // The first record of the last write is not there, those after it are.
    bytes[lengths[0]..lengths[0] + 60].fill(0);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(indexes(&place, &open(&place).unwrap()), [0]);
}

#[test]
fn a_file_extended_with_zeros_is_as_good() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let (path, _) = written(&place, &[&[0], &[1]]);
    let mut bytes = fs::read(&path).unwrap();
    bytes.resize(bytes.len() + 4096, 0);
    fs::write(&path, &bytes).unwrap();
    let opened = open(&place).unwrap();
    assert_eq!((indexes(&place, &opened), opened.torn_bytes), (vec![0, 1], 0));
}

#[test]
fn any_changed_byte_before_the_last_write_is_an_error_that_names_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let (path, lengths) = written(&place, &[&[0], &[1, 2], &[3]]);
    let whole = fs::read(&path).unwrap();
    for at in 0..lengths[1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        match open(&place).err() {
            Some(DiskError::Damaged { path: named, offset, .. }) => {
                assert_eq!(named, path);
                assert!(offset <= at as u64, "changed at {at}, named {offset}");
            }
            other => panic!("changed at {at}: {other:?}"),
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "damage is left as it is");
    }
}

#[test]
fn a_missing_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    // Every write begins a new file.
    let mut files = LogFiles::open(&place, None, 0).unwrap().files;
    for index in 0..4 {
        files.append(&records([index])).unwrap();
    }
    let paths = segments(&place);
    assert_eq!(paths.len(), 4);
    assert_eq!(indexes(&place, &open(&place).unwrap()), [0, 1, 2, 3]);
    let content = fs::read(&paths[1]).unwrap();
    fs::remove_file(&paths[1]).unwrap();
    let gap = Damage::Gap { expected: 1, found: 2 };
    assert!(matches!(open(&place), Err(DiskError::Damaged { damage, .. }) if damage == gap));
    fs::write(&paths[1], &content).unwrap();
    fs::remove_file(&paths[0]).unwrap();
    assert!(matches!(open(&place), Err(DiskError::Damaged { damage: Damage::Gap { .. }, .. })));
    // A torn end is allowed in the last file only.
    fs::write(&paths[0], b"").unwrap();
    assert!(open(&place).is_err());
}

#[test]
fn a_record_in_another_place_does_not_open() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let (path, lengths) = written(&place, &[&[0], &[1], &[2]]);
    let bytes = fs::read(&path).unwrap();
    // Record 1 is left out: record 2 follows record 0.
    let spliced = [&bytes[..lengths[0]], &bytes[lengths[1]..lengths[2]]].concat();
    fs::write(&path, spliced).unwrap();
    let gap = Damage::Gap { expected: 1, found: 2 };
    assert!(matches!(open(&place), Err(DiskError::Damaged { damage, .. }) if damage == gap));
}

#[test]
fn the_end_can_be_cut_and_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let mut files = LogFiles::open(&place, None, 200).unwrap().files;
    for index in 0..10 {
        files.append(&records([index])).unwrap();
    }
    assert!(segments(&place).len() > 2);
    files.truncate_after(Some(reference(4))).unwrap();
    files.append(&records([5, 6])).unwrap();
    assert_eq!(indexes(&place, &open(&place).unwrap()), [0, 1, 2, 3, 4, 5, 6]);
    files.truncate_after(None).unwrap();
    assert_eq!(indexes(&place, &open(&place).unwrap()), [] as [u64; 0]);
    files.append(&records([0])).unwrap();
    assert_eq!(indexes(&place, &open(&place).unwrap()), [0]);
}

#[test]
fn the_front_can_be_purged() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let mut files = LogFiles::open(&place, None, 200).unwrap().files;
    for index in 0..10 {
        files.append(&records([index])).unwrap();
    }
    files.purge(reference(5)).unwrap();
    let opened = LogFiles::open(&place, Some(5), SEGMENT).unwrap();
    let found = indexes(&place, &opened);
    assert_eq!(found.last(), Some(&9));
    assert!(found[0] > 0 && found[0] <= 6, "whole files go: {found:?}");
    assert_eq!(opened.purged, Some(reference(found[0] - 1)));
    assert_eq!(opened.entries.len(), 4, "only what the snapshot lacks is opened");
    // Without the snapshot the front is missing.
    assert!(matches!(open(&place), Err(DiskError::Damaged { damage: Damage::Gap { .. }, .. })));
}

#[test]
fn a_log_replaced_by_a_snapshot_goes_on_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let (first, _) = written(&place, &[&[0], &[1]]);
    let before = fs::read(&first).unwrap();
    let mut files = open(&place).unwrap().files;
    files.purge(reference(99)).unwrap();
    files.append(&records([100])).unwrap();
    // As if the crash had come before the old file was removed.
    fs::write(&first, before).unwrap();
    let opened = LogFiles::open(&place, Some(99), SEGMENT).unwrap();
    assert_eq!((indexes(&place, &opened), opened.purged), (vec![100], Some(reference(99))));
    assert!(!first.exists());
}

#[test]
fn after_a_failed_write_nothing_more_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let mut files = LogFiles::open(&place, None, 0).unwrap().files;
    files.append(&records([0])).unwrap();
    let aside = directory.path().with_extension("aside");
    fs::rename(directory.path(), &aside).unwrap();
    let failed = files.append(&records([1]));
    fs::rename(&aside, directory.path()).unwrap();
    assert!(matches!(failed, Err(DiskError::Io { .. })));
    assert!(matches!(files.append(&records([1])), Err(DiskError::Poisoned)));
    assert_eq!(indexes(&place, &open(&place).unwrap()), [0]);
}

#[test]
fn other_keys_clusters_epochs_and_versions_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mine = place(directory.path());
    let (path, _) = written(&mine, &[&[0]]);
    let mut other = mine.clone();
    other.key = SealKey::from_bytes([4; 32]);
    assert!(matches!(open(&other), Err(DiskError::WrongKey { .. })));
    let mut other = mine.clone();
    other.cluster_id = "cluster2".into();
    assert!(matches!(open(&other), Err(DiskError::Foreign { .. })));
    let mut other = mine.clone();
    other.epoch = 2;
    assert!(matches!(open(&other), Err(DiskError::Foreign { found_epoch: 1, wanted_epoch: 2, .. })));

    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    let body = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let crc = crc32fast::hash(&bytes[..16 + body]);
    bytes[16 + body..20 + body].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(open(&mine), Err(DiskError::Newer { found: 2, supported: 1, .. })));
}

#[test]
fn a_vote_survives_and_every_damage_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    assert_eq!(read_vote(&place).unwrap(), None);
    let vote = StoredVote { term: 3, candidate: 77, committed: true };
    write_vote(&place, StoredVote { term: 2, ..vote }).unwrap();
    write_vote(&place, vote).unwrap();
    assert_eq!(read_vote(&place).unwrap(), Some(vote));
    let path = directory.path().join("vote");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(read_vote(&place).is_err(), "changed at {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(read_vote(&place).is_err(), "cut at {at}");
    }
}

#[test]
fn a_snapshot_survives_and_every_damage_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    assert!(newest_snapshot(&place).unwrap().is_none());
    write_snapshot(&place, 5, b"about 5", b"old").unwrap();
    let written = write_snapshot(&place, 9, b"about 9", b"new").unwrap();
    fs::write(directory.path().join(format!(".snapshot-{:020}.snap.tmp", 12)), b"half").unwrap();
    let newest = newest_snapshot(&place).unwrap().unwrap();
    assert_eq!(newest.index, 9);
    assert_eq!(newest.read(&place).unwrap(), (b"about 9".to_vec(), b"new".to_vec()));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "older ones and leftovers are gone");
    let path = written.path();
    let whole = fs::read(path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(path, &bytes).unwrap();
        assert!(newest.read(&place).is_err(), "changed at {at}");
        fs::write(path, &whole[..at]).unwrap();
        assert!(newest.read(&place).is_err(), "cut at {at}");
    }
}

#[test]
fn a_snapshot_of_many_pieces_keeps_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let content: Vec<u8> = (0..(5 << 19)).map(|at: u32| (at / 1000) as u8).collect();
    let written = write_snapshot(&place, 1, b"", &content).unwrap();
    assert!(written.read(&place).unwrap().1 == content);
    let empty = write_snapshot(&place, 2, b"", b"").unwrap();
    assert!(empty.read(&place).unwrap().1.is_empty());
}
