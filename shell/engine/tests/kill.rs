//! A daemon that is killed by SIGKILL at any instant leaves nothing that the next one cannot make whole or remove.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]
#![allow(dead_code, reason = "the rig is shared with other tests")]

mod rig;

use std::process::{Command, Stdio};
use std::time::Duration;

use rig::{Rig, run};
use skep_agent::{Assignment, Executor, Work};
use skep_engine::{ContainerState, Engine, EngineConfig};

const ROUNDS: u32 = 8;
const LANES: u64 = 5;
const DATA: &str = "SKEP_TEST_DATA_ROOT";
const EXEC: &str = "SKEP_TEST_EXEC_ROOT";
const CGROUP: &str = "SKEP_TEST_CGROUP_PARENT";

#[test]
fn any_instant_is_safe() {
    run(|mut rig: Rig| async move {
        for round in 0..ROUNDS {
            rig.close().await;
            let config = rig.config().clone();
            let mut daemon = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "works_until_it_is_killed"])
                .env(DATA, &config.data_root)
                .env(EXEC, &config.exec_root)
                .env(CGROUP, &config.cgroup_parent)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Not to wait for something: the instants shall differ.
            tokio::time::sleep(Duration::from_millis(120 + u64::from(round) * 53)).await;
            daemon.kill().unwrap();
            let status = daemon.wait().unwrap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "round {round}: {status}");
            rig.open().await;
            check_round(&mut rig, round).await;
        }
        rig
    });
}

/// Whatever was caught in the middle: each container has a state that fits, can be taken to its end, and leaves nothing.
async fn check_round(rig: &mut Rig, round: u32) {
    let engine = rig.engine().clone();
    let found = engine.list();
    eprintln!("round {round}: {:?}", found.iter().map(|view| view.state.status()).collect::<Vec<_>>());
    for view in found {
        let task = view.record.task_id().unwrap();
        let assignment = Assignment { task_id: task, ..rig.task("trap 'exit 0' TERM; while :; do sleep 0.02; done") };
        rig.prepare_and_start(&assignment).await;
        let state = engine.of_task(task).unwrap().state;
        assert!(
            matches!(state, ContainerState::Running { .. } | ContainerState::Exited(_)),
            "round {round}: {state:?}"
        );
        rig.succeed(&assignment, Work::Shutdown).await;
        rig.succeed(&assignment, Work::Remove).await;
    }
    assert!(engine.tasks().is_empty());
    rig.check_nothing_is_left();
}

/// The daemon of the test above.
#[test]
#[ignore = "is started by another test"]
fn works_until_it_is_killed() {
    let (Ok(data), Ok(exec), Ok(cgroup)) = (std::env::var(DATA), std::env::var(EXEC), std::env::var(CGROUP)) else {
        return;
    };
    let mut config = EngineConfig::new(data, exec);
    config.cgroup_parent = cgroup;
    config.shim_binary = env!("CARGO_BIN_EXE_skep-engine-shim").into();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = Engine::open(config).await.unwrap();
        let lanes: Vec<_> = (0..LANES).map(|lane| tokio::spawn(lives(engine.clone(), lane))).collect();
        for lane in lanes {
            lane.await.unwrap();
        }
    });
}

/// One life of a task after another.
async fn lives(engine: Engine, lane: u64) {
    for number in 0.. {
        let assignment =
            rig::assignment(1_000_000 * (lane + 1) + number, "trap 'exit 0' TERM; while :; do sleep 0.02; done");
        let shared = std::sync::Arc::new(assignment.clone());
        for work in [Work::Prepare(shared.clone()), Work::Start(shared), Work::Shutdown, Work::Remove] {
            let finished = rig::begin(&engine, assignment.task_id, work).await.unwrap();
            assert_eq!(finished.result, Ok(()));
        }
    }
}
