//! What a write costs beside the fdatasync it cannot do without: `cargo bench -p skep-raft`.
//!
//! `bare_fdatasync` appends as many bytes as one proposal's record has. One client pays a whole round for each proposal;
//! eight share entries.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::io::Write as _;

use divan::Bencher;
use divan::counter::ItemsCount;
use skep_raft::Raft;
use support::{Numbers, Proposal, config, create};
use tokio::runtime::Runtime;

/// A status report in its entry has about this size.
const PADDING: usize = 200;
const EACH: u64 = 50;

fn main() {
    divan::main();
}

struct Bench {
    runtime: Runtime,
    raft: Raft<Numbers>,
    _directory: tempfile::TempDir,
}

fn start() -> Bench {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir_in(".").expect("a directory on a real disk");
    let raft = runtime.block_on(create(config(directory.path())));
    Bench { runtime, raft, _directory: directory }
}

#[divan::bench(sample_count = 2000, sample_size = 1)]
fn bare_fdatasync(bencher: Bencher<'_, '_>) {
    let directory = tempfile::tempdir_in(".").expect("a directory on a real disk");
    let mut file = File::create(directory.path().join("file")).expect("a file");
    bencher.bench_local(|| {
        file.write_all(&[7; PADDING + 121]).expect("a write");
        file.sync_data().expect("a sync");
    });
}

#[divan::bench(sample_count = 2000, sample_size = 1)]
fn one_client(bencher: Bencher<'_, '_>) {
    let bench = start();
    let mut number = 0;
    bencher.bench_local(|| {
        number += 1;
        let proposal = Proposal { number, padding: PADDING };
        bench
            .runtime
            .block_on(bench.runtime.spawn({
                let raft = bench.raft.clone();
                async move { raft.propose(proposal).await }
            }))
            .expect("the task ends")
            .expect("a lone voter commits")
    });
    bench.runtime.block_on(bench.raft.shutdown());
}

#[divan::bench(sample_count = 40, sample_size = 1, args = [1, 8, 64])]
fn clients(bencher: Bencher<'_, '_>, clients: u64) {
    let bench = start();
    let mut round = 0;
    bencher.counter(ItemsCount::new(clients * EACH)).bench_local(|| {
        round += 1;
        bench.runtime.block_on(async {
            let tasks: Vec<_> = (0..clients)
                .map(|client| {
                    let raft = bench.raft.clone();
                    tokio::spawn(async move {
                        for n in 0..EACH {
                            let number = (round << 40) | (client << 20) | n;
                            raft.propose(Proposal { number, padding: PADDING }).await.expect("a lone voter commits");
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("the task ends");
            }
        });
    });
    bench.runtime.block_on(bench.raft.shutdown());
}
