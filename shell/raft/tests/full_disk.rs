//! A disk without room: proposals wait, nothing acknowledged is lost, and all goes on when there is room again.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Outcome, Proposal, config, create, number, open};

/// A file system of a few hundred kB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> SmallDisk {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path());
        assert!(mount.status().unwrap().success(), "the test needs root");
        SmallDisk(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left; removing the file gives it back.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut size = 1 << 20;
        let mut written = Vec::new();
        while size > 0 {
            written.resize(written.len() + size, 0_u8);
            if std::fs::write(&path, &written).is_err() {
                written.truncate(written.len() - size);
                size /= 2;
            }
        }
        // The last write that failed left as much as there was room for.
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(self.path()).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_proposals_wait_and_loses_nothing() {
    let disk = SmallDisk::new(400 << 10);
    let settings = || {
        let mut config = config(disk.path());
        config.log_file_bytes = 16 << 10;
        config
    };
    let raft = create(settings()).await;
    raft.propose(number(0)).await.unwrap();
    let filler = disk.fill();
    assert!(std::fs::write(disk.path().join("more"), [0; 8192]).is_err(), "the disk is full");

    // Until the room taken in advance is used up, changes go through.
    let mut full = raft.disk_full();
    let mut acknowledged = vec![0];
    let waiting = loop {
        let next = acknowledged.len() as u64;
        let proposing = raft.clone();
        let padded = Proposal { number: next, padding: 1000 };
        let mut proposal = tokio::spawn(async move { proposing.propose(padded).await });
        tokio::select! {
            committed = &mut proposal => {
                let position = acknowledged.len();
                assert_eq!(committed.unwrap().unwrap().outcome, Outcome::Added { position });
                acknowledged.push(next);
            }
            _ = full.wait_for(|is_full| *is_full) => break proposal,
        }
    };
    assert!(acknowledged.len() < 100, "a file of 16 kB was full");
    assert_eq!(*raft.state().state.numbers, acknowledged, "what was acknowledged can be read");

    // Room again: what waited is carried out.
    std::fs::remove_file(&filler).unwrap();
    let committed = waiting.await.unwrap().unwrap();
    acknowledged.push(acknowledged.len() as u64);
    assert_eq!(committed.outcome, Outcome::Added { position: acknowledged.len() - 1 });
    full.wait_for(|is_full| !*is_full).await.unwrap();
    raft.shutdown().await;
    let raft = open(settings()).await;
    assert_eq!(*raft.state().state.numbers, acknowledged);

    // Stopped while it waits: it stops, and what was acknowledged is there.
    let filler = disk.fill();
    let mut full = raft.disk_full();
    while !*full.borrow_and_update() {
        let next = acknowledged.len() as u64;
        tokio::select! {
            biased;
            _ = full.wait_for(|is_full| *is_full) => break,
            committed = raft.propose(Proposal { number: next, padding: 1000 }) => {
                committed.unwrap();
                acknowledged.push(next);
            }
        }
    }
    raft.shutdown().await;
    std::fs::remove_file(&filler).unwrap();
    let raft = open(settings()).await;
    let found = raft.state().state.numbers.to_vec();
    assert_eq!(found[..acknowledged.len()], acknowledged, "nothing acknowledged is lost");
    assert!(found.len() <= acknowledged.len() + 1);
    raft.shutdown().await;
}
