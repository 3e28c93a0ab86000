//! Pending → assigned: steps of the scheduler and the applying of its plans, on 1,000 nodes.

use divan::Bencher;
use skep_model::{DesiredState, ObjectId, RestartHistory, Slot, TaskId};
use skep_scheduler::Scheduler;
use skep_store::{AtomicGroup, Change, NewTask};
use skep_testkit::{AService, World, a_node, a_service, a_state, seat};

fn main() {
    divan::main();
}

/// 1,000 nodes in ten zones, and that many pending tasks of one service.
fn world(tasks: u64, service: AService) -> World {
    let mut world = a_state();
    for node in 0..1000 {
        world.put(a_node(&format!("n{node}")).label("zone", &format!("z{}", node % 10)).resources(1000, 1 << 50));
    }
    world.put(&service);
    let spec_version = world.state.service(service.id).expect("it was just created").spec_version;
    let id = |number: u64| {
        let mut bytes = [0; 17];
        bytes[9..].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        bytes[1..9].copy_from_slice(&number.to_be_bytes());
        TaskId::from_random(bytes)
    };
    let new = |number| NewTask {
        id: id(number),
        service_id: service.id,
        slot: Slot::Number(number),
        spec_version,
        history: RestartHistory::default(),
        desired: DesiredState::Running,
        start_at: None,
        start_after: None,
        by_update: false,
    };
    let created: Vec<AtomicGroup> = (1..=tasks).map(|n| Change::CreateTask(Box::new(new(n))).into()).collect();
    world.must_commit(created);
    let attached = world.state.tasks().map(|task| {
        Change::Attach {
            task: task.id,
            expect: task.attachment.version,
            done: true,
            ports: Vec::new(),
            networks: Vec::new(),
            virtual_ips: Vec::new(),
            reason: None,
        }
        .into()
    });
    world.must_commit(attached.collect());
    world
}

fn place_all(bencher: Bencher<'_, '_>, tasks: u64, service: AService) {
    bencher
        .with_inputs(|| {
            let mut world = world(tasks, service.clone());
            // The loop has followed the cluster: it does not meet it for the first time with these tasks.
            world.events = vec![skep_store::Event::Reset];
            (world, seat(Scheduler::default()))
        })
        .bench_local_values(|(mut world, mut seat)| {
            assert_eq!(world.settle(&mut seat), usize::try_from(tasks).expect("a count of tasks fits"));
            (world, seat)
        });
}

#[divan::bench(args = [1_000, 10_000, 100_000], sample_count = 5, sample_size = 1)]
fn one_service(bencher: Bencher<'_, '_>, tasks: u64) {
    place_all(bencher, tasks, a_service("web"));
}

#[divan::bench(args = [1_000, 10_000, 100_000], sample_count = 5, sample_size = 1)]
fn constraint_reservation_and_spread(bencher: Bencher<'_, '_>, tasks: u64) {
    let service =
        a_service("web").constraint("node.labels.zone != z3").reserve(100_000_000, 1 << 20).spread("node.labels.zone");
    place_all(bencher, tasks, service);
}
