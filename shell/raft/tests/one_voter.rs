//! One manager alone: proposing, following, restarting, stopping.

mod support;

use std::sync::atomic::Ordering;

use skep_model::ClusterTime;
use skep_raft::{DiskError, Leadership, Next, OpenError, ProposeError, Raft, SystemClock};
use skep_trust::SealKey;
use support::{ManualClock, Numbers, Outcome, POISON, Proposal, config, create, key, leading, me, number, open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let raft = create(config(directory.path())).await;
    let id = raft.raft_id();
    let mut last = 0;
    for n in 0..100 {
        let committed = raft.propose(number(n)).await.unwrap();
        assert_eq!(committed.outcome, Outcome::Added { position: n as usize });
        assert!(committed.index > last);
        last = committed.index;
        assert_eq!(raft.state().index, last, "the own write is visible at once");
    }
    assert_eq!(raft.propose(number(99)).await.unwrap().outcome, Outcome::AlreadyThere);
    let before = raft.state();
    raft.shutdown().await;
    assert_eq!(raft.propose(number(100)).await, Err(ProposeError::Stopped));

    for _ in 0..3 {
        let raft = open(config(directory.path())).await;
        assert_eq!(raft.raft_id(), id);
        assert_eq!(raft.state().state, before.state);
        raft.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposers_share_entries_and_each_gets_its_own_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let raft = create(config(directory.path())).await;
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let raft = raft.clone();
            tokio::spawn(async move { (n, raft.propose(number(n)).await.unwrap()) })
        })
        .collect();
    let mut indexes = std::collections::BTreeSet::new();
    for task in tasks {
        let (n, committed) = task.await.unwrap();
        indexes.insert(committed.index);
        let Outcome::Added { position } = committed.outcome else { panic!("all numbers differ") };
        assert_eq!(raft.state().state.numbers[position], n);
    }
    assert!(indexes.len() < 200, "some shared an entry");
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_see_every_commit_in_order_or_a_reset() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = config(directory.path());
    settings.subscriber_buffer = 4;
    let raft = create(settings).await;
    let (start, mut subscription) = raft.subscribe();
    assert!(start.state.numbers.is_empty());
    for n in 0..3 {
        raft.propose(number(n)).await.unwrap();
    }
    let mut last = start.index;
    for n in 0..3 {
        let Next::Commit(commit) = subscription.next().await else { panic!("nothing was lost") };
        assert_eq!((commit.events.as_slice(), commit.state.numbers.len()), ([n].as_slice(), n as usize + 1));
        assert!(commit.index > last);
        last = commit.index;
    }
    assert!(subscription.try_next().is_none());

    for n in 3..20 {
        raft.propose(number(n)).await.unwrap();
    }
    let Next::Reset(current) = subscription.next().await else { panic!("13 commits do not fit a buffer of 4") };
    assert_eq!(current.state.numbers.len(), 20);
    raft.propose(number(20)).await.unwrap();
    let Next::Commit(commit) = subscription.next().await else { panic!("after a reset it goes on") };
    assert_eq!(commit.events, [20]);
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_replace_the_log_and_carry_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = config(directory.path());
    settings.snapshot_interval = 50;
    settings.log_entries_for_slow_followers = 5;
    settings.log_file_bytes = 64 << 10;
    let raft = create(settings.clone()).await;
    for n in 0..200 {
        raft.propose(Proposal { number: n, padding: 2_000 }).await.unwrap();
    }
    let before = raft.state();
    raft.shutdown().await;
    let files: Vec<String> = std::fs::read_dir(directory.path().join("raft"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files.iter().filter(|name| name.ends_with(".snap")).count(), 1, "{files:?}");
    let first = format!("log-{:020}.seg", 0);
    assert!(!files.contains(&first), "the first segment was purged: {files:?}");

    let raft = open(settings.clone()).await;
    assert_eq!(raft.state().state, before.state);
    raft.propose(number(1000)).await.unwrap();
    raft.shutdown().await;
    let raft = open(settings).await;
    assert_eq!(raft.state().state.numbers.len(), 201);
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_grows_by_bytes_is_snapshotted_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = config(directory.path());
    settings.snapshot_log_bytes = 1 << 20;
    let raft = create(settings).await;
    for n in 0..15 {
        raft.propose(Proposal { number: n, padding: 100_000 }).await.unwrap();
    }
    raft.shutdown().await;
    let mut names = std::fs::read_dir(directory.path().join("raft")).unwrap().map(|e| e.unwrap().file_name());
    assert!(names.any(|name| name.to_str().unwrap().ends_with(".snap")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_time_is_the_logs_and_never_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::default();
    let raft =
        leading(Raft::<Numbers>::create(config(directory.path()), me(), key(), clock.clone()).await.unwrap()).await;
    raft.propose(number(0)).await.unwrap();
    assert_eq!(raft.state().time, ClusterTime(0));
    clock.0.store(500, Ordering::SeqCst);
    assert_eq!(raft.cluster_time(), ClusterTime(500));
    raft.propose(number(1)).await.unwrap();
    assert_eq!((raft.state().time, raft.state().state.time), (ClusterTime(500), 500));
    raft.shutdown().await;

    // Another clock that began elsewhere: time goes on from the committed value.
    let clock = ManualClock::default();
    clock.0.store(7, Ordering::SeqCst);
    let raft =
        leading(Raft::<Numbers>::open(config(directory.path()), me(), key(), clock.clone()).await.unwrap()).await;
    assert_eq!(raft.cluster_time(), ClusterTime(500));
    clock.0.store(10, Ordering::SeqCst);
    raft.propose(number(2)).await.unwrap();
    assert_eq!(raft.state().time, ClusterTime(503));
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_and_a_huge_proposal_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = config(directory.path());
    settings.proposal_queue = 2;
    settings.batch_proposals_max = 1;
    let raft = create(settings).await;
    let huge = Proposal { number: 1, padding: 2 << 20 };
    assert!(matches!(raft.propose(huge).await, Err(ProposeError::TooLarge { limit: 1_572_864, .. })));
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            tokio::spawn({
                let raft = raft.clone();
                async move { raft.propose(number(n)).await }
            })
        })
        .collect();
    let (mut done, mut busy) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => done += 1,
            Err(ProposeError::Busy) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(done > 0 && busy > 0, "{done} done, {busy} busy");
    assert_eq!(raft.state().state.numbers.len(), done, "busy means not done");
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_the_machine_refuses_stops_this_manager() {
    let directory = tempfile::tempdir().unwrap();
    let raft = create(config(directory.path())).await;
    raft.propose(number(1)).await.unwrap();
    assert_eq!(raft.propose(number(POISON)).await, Err(ProposeError::OutcomeUnknown));
    raft.leadership().wait_for(|leads| *leads == Leadership::Stopped).await.unwrap();
    assert_eq!(raft.failure().unwrap().0, "unknown kind of change");
    assert_eq!(raft.propose(number(2)).await, Err(ProposeError::Stopped));
    assert!(raft.wait_applied(1_000_000).await.is_none());
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_an_index_ends_when_it_is_applied() {
    let directory = tempfile::tempdir().unwrap();
    let raft = create(config(directory.path())).await;
    let index = raft.propose(number(1)).await.unwrap().index;
    let waiting = tokio::spawn({
        let raft = raft.clone();
        async move { raft.wait_applied(index + 1).await.unwrap().index }
    });
    raft.propose(number(2)).await.unwrap();
    assert_eq!(waiting.await.unwrap(), index + 1);
    raft.shutdown().await;
}

fn refused(result: Result<Raft<Numbers>, OpenError>) -> DiskError {
    match result {
        Err(OpenError::Disk(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_hands_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let settings = config(directory.path());
    let again = || Raft::<Numbers>::open(settings.clone(), me(), key(), SystemClock::new());
    assert!(matches!(refused(again().await), DiskError::Missing { .. }));
    assert!(!Raft::<Numbers>::exists(&settings));
    let raft = create(settings.clone()).await;
    assert!(Raft::<Numbers>::exists(&settings));
    assert!(matches!(refused(again().await), DiskError::InUse { .. }));
    raft.propose(number(1)).await.unwrap();
    raft.shutdown().await;

    let created = Raft::<Numbers>::create(settings.clone(), me(), key(), SystemClock::new()).await;
    assert!(matches!(refused(created), DiskError::Exists { .. }));
    let other_key = Raft::<Numbers>::open(settings.clone(), me(), SealKey::generate(), SystemClock::new()).await;
    assert!(matches!(refused(other_key), DiskError::WrongKey { .. }));
    let mut other_cluster = settings.clone();
    other_cluster.cluster_id = "cluster2".into();
    let other_cluster = Raft::<Numbers>::open(other_cluster, me(), key(), SystemClock::new()).await;
    assert!(matches!(refused(other_cluster), DiskError::Foreign { .. }));
    let mut other_epoch = settings.clone();
    other_epoch.epoch = 2;
    let other_epoch = Raft::<Numbers>::open(other_epoch, me(), key(), SystemClock::new()).await;
    assert!(matches!(refused(other_epoch), DiskError::Foreign { found_epoch: 1, .. }));

    let raft = open(settings.clone()).await;
    assert_eq!(raft.state().state.numbers.len(), 1, "the refusals harmed nothing");
    raft.shutdown().await;
}
