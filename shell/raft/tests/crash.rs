//! kill -9 at any instant: nothing that was acknowledged is lost, and order is kept.
//!
//! The test starts itself again as a child that proposes as fast as it can and prints what was acknowledged; the parent
//! kills it after a random number of lines or microseconds, opens the log and looks.

#![allow(clippy::unwrap_used, reason = "a test may unwrap, in its helpers too")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use skep_raft::{Config, Raft};
use support::{Numbers, Outcome, Proposal, create, open};

const DIRECTORY: &str = "SKEP_RAFT_CRASH_DIRECTORY";
/// How many kills, unless the environment variable asks for more.
const ROUNDS: u64 = 40;
const ROUNDS_VARIABLE: &str = "SKEP_RAFT_CRASH_ROUNDS";

fn config(directory: &Path) -> Config {
    let mut config = support::config(directory);
    // Everything that can be interrupted happens often.
    config.snapshot_interval = 15;
    config.log_entries_for_slow_followers = 3;
    config.log_file_bytes = 3000;
    config
}

/// The child; as an ordinary test it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let config = config(Path::new(&directory));
    let raft = if Raft::<Numbers>::exists(&config) { open(config).await } else { create(config).await };
    let workers: Vec<_> = (0..3)
        .map(|worker: u64| {
            let raft = raft.clone();
            tokio::spawn(async move {
                // Numbers never repeat: (how many there were at the start, worker, count).
                let base = (raft.state().index << 24) | (worker << 20);
                for n in base.. {
                    let padding = (n % 7) as usize * 40;
                    let committed = raft.propose(Proposal { number: n, padding }).await.unwrap();
                    let Outcome::Added { position } = committed.outcome else { panic!("{n} was there already") };
                    let line = format!("acknowledged {} {position} {n}\n", committed.index);
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
}

/// Kills the child also when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Acknowledged {
    index: u64,
    position: usize,
    number: u64,
}

/// Starts the child, kills it, returns what it had acknowledged.
fn run_and_kill(directory: &Path, random: u64) -> Vec<Acknowledged> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(directory.join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    let mut take = |line: String| {
        // The harness may print on the same line before the first one.
        let Some((_, rest)) = line.split_once("acknowledged ") else { return };
        let fields: Vec<u64> = rest.split(' ').filter_map(|field| field.parse().ok()).collect();
        if let [index, position, number] = fields[..] {
            acknowledged.push(Acknowledged { index, position: position as usize, number });
        }
    };
    // In every fourth round the child is killed while it starts.
    let lines_wanted = if random.is_multiple_of(4) { 0 } else { random / 4 % 60 };
    for _ in 0..lines_wanted {
        let Some(line) = lines.next() else {
            panic!("the child ended by itself: {}", std::fs::read_to_string(directory.join("stderr")).unwrap());
        };
        take(line.unwrap());
    }
    std::thread::sleep(Duration::from_micros(random / 256 % if lines_wanted == 0 { 60_000 } else { 3_000 }));
    child.0.kill().unwrap();
    // A line without its end was not printed whole.
    lines.map_while(Result::ok).for_each(&mut take);
    child.0.wait().unwrap();
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let mut before: Vec<u64> = Vec::new();
    let mut all = 0;
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let random = u64::from_le_bytes(skep_trust::random_bytes());
        let acknowledged = run_and_kill(directory.path(), random);
        all += acknowledged.len();
        if !Raft::<Numbers>::exists(&config) {
            assert!(acknowledged.is_empty());
            continue;
        }
        let raft = open(config.clone()).await;
        let now = raft.state();
        let numbers = &now.state.numbers;
        assert!(numbers.starts_with(&before), "round {round} (random {random}): what was there stays in its order");
        for Acknowledged { index, position, number } in acknowledged {
            assert!(index <= now.index, "round {round} (random {random})");
            assert_eq!(numbers.get(position), Some(&number), "round {round} (random {random})");
        }
        before = numbers.to_vec();
        raft.shutdown().await;
    }
    let mut sorted = before.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), before.len(), "nothing was applied twice");
    println!("{rounds} kills, {all} acknowledged, {} committed", before.len());
    assert!(all > 100, "only {all} acknowledged");
}
