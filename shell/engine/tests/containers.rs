//! Real containers, as root, each test in its own network namespace, cgroup, data root and exec root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]
#![allow(dead_code, reason = "the rig is shared with other tests")]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use rig::{Rig, run};
use skep_agent::{Assignment, Change, Failure, Input, Work};
use skep_engine::{ContainerState, EngineError, ExecOptions, LogOptions, WaitCondition};
use skep_model::{ByteSize, DesiredState, Limits, Mount, MountKind, NanoCpus, TaskSpec, TaskState, TmpfsOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn a_task_runs_to_its_end_and_is_removed() {
    run(|mut rig: Rig| async move {
        let task = rig.task("echo out; echo err >&2; exit 3");
        rig.prepare_and_start(&task).await;
        let ended = rig.work(&task, Work::Wait).await;
        assert_eq!(ended.result, Ok(()));
        assert_eq!(ended.container.unwrap().exit_code, 3);
        let view = rig.engine().of_task(task.task_id).unwrap();
        assert_eq!(view.state.status(), "exited");
        assert_eq!(rig.logs(&view.record.id, LogOptions::default()).await, ["out", "err"]);
        assert_eq!(view.record.labels["com.docker.swarm.task.id"], task.task_id.to_string());
        rig.succeed(&task, Work::Remove).await;
        assert!(rig.engine().list().is_empty());
        rig.check_nothing_is_left();
        rig
    });
}

#[test]
fn environment_files_and_limits() {
    run(|mut rig: Rig| async move {
        let script = "echo $A $HOSTNAME; cat /etc/hostname; grep -c localhost /etc/hosts; id -u; pwd; \
             grep -c nameserver /etc/resolv.conf; df /scratch | tail -1 | cut -d' ' -f1; \
             cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; ulimit -n; grep Seccomp: /proc/self/status";
        let task = rig.task_with(script, |spec| {
            spec.container.env = vec!["A={{.Task.Slot}}".to_owned()];
            spec.container.hostname = "h-{{.Service.Name}}".to_owned();
            spec.container.user = "7:8".to_owned();
            spec.container.dir = "/made/here".to_owned();
            spec.container.mounts = vec![Mount {
                kind: MountKind::Tmpfs,
                target: "/scratch".to_owned(),
                tmpfs: Some(TmpfsOptions { size: ByteSize(1 << 20), ..TmpfsOptions::default() }),
                ..Mount::default()
            }];
            spec.container.ulimits = vec![skep_model::Ulimit { name: "nofile".to_owned(), soft: 100, hard: 200 }];
            spec.resources.limits = Some(Limits { memory: ByteSize(64 << 20), cpus: NanoCpus(500_000_000), pids: 50 });
        });
        rig.prepare_and_start(&task).await;
        rig.succeed(&task, Work::Wait).await;
        let id = rig.engine().of_task(task.task_id).unwrap().record.id.clone();
        let lines = rig.logs(&id, LogOptions::default()).await;
        assert_eq!(
            lines[..7],
            ["1 h-web", "h-web", "2", "7", "/made/here", "1", "tmpfs"].map(String::from),
            "{lines:?}"
        );
        assert!(lines.contains(&"100".to_owned()), "{lines:?}");
        assert!(lines.contains(&"Seccomp:\t2".to_owned()), "{lines:?}");
        rig
    });
}

#[test]
fn what_cannot_be_honoured_is_refused_and_leaves_nothing() {
    run(|mut rig: Rig| async move {
        let refused = |text: &str| Err(Failure::Fatal(text.to_owned()));
        let task = rig.task_with("true", |spec| spec.container.image = "nothing:1".to_owned());
        assert_eq!(rig.prepare(&task).await.result, refused("No such image: nothing:1"));
        let driver = skep_model::Driver { name: "x".to_owned(), ..Default::default() };
        let task = rig.task_with("true", |spec| spec.log_driver = Some(driver));
        let text = "logger: no log driver named 'x' is registered";
        assert_eq!(rig.prepare(&task).await.result, refused(text));
        let task = rig.task_with("true", |spec| spec.container.hostname = "{{.Nothing}}".to_owned());
        assert!(rig.prepare(&task).await.result.is_err());
        let task = rig.task_with("true", |spec| {
            let (target, source) = ("/v".to_owned(), "v".to_owned());
            let mount = Mount { target, source, kind: MountKind::Cluster, ..Mount::default() };
            spec.container.mounts = vec![mount];
        });
        assert!(rig.prepare(&task).await.result.is_err());
        rig.check_nothing_is_left();
        let task = rig.task_with("", |spec| spec.container.command = vec!["/not/there".to_owned()]);
        rig.prepare(&task).await;
        let started = rig.start(&task).await;
        let Err(Failure::Fatal(text)) = started.result else { panic!("it started") };
        assert!(text.starts_with("starting container failed: "), "{text}");
        assert_eq!(started.container.unwrap().exit_code, 127);
        let state = rig.engine().of_task(task.task_id).unwrap().state;
        assert_eq!(state.status(), "created");
        rig.succeed(&task, Work::Remove).await;
        let task = rig.task_with("true", |spec| {
            let (target, source) = ("/x".to_owned(), "/not/there".to_owned());
            spec.container.mounts = vec![Mount { kind: MountKind::Bind, target, source, ..Mount::default() }];
        });
        let text = "invalid mount config for type \"bind\": bind source path does not exist: /not/there";
        assert_eq!(rig.prepare(&task).await.result, refused(text));
        rig.check_nothing_is_left();
        rig
    });
}

#[test]
fn containers_outlive_the_engine() {
    run(|mut rig: Rig| async move {
        let stays = rig.task("trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done");
        let ends = rig.task("sleep 0.3; exit 4");
        let shim_dies = rig.task("sleep 1000");
        for task in [&stays, &ends, &shim_dies] {
            rig.prepare_and_start(task).await;
        }
        let pid = rig.engine().of_task(stays.task_id).unwrap().state.pid();
        let id = rig.engine().of_task(stays.task_id).unwrap().record.id.clone();
        assert_eq!(rig.engine().image_users(&rig.image), 3);
        let follow = LogOptions { follow: true, ..LogOptions::default() };
        let mut reader = rig.engine().logs(&id, follow).unwrap();
        assert_eq!(&reader.next().await.unwrap().unwrap().message[..], b"up\n");
        let victim = rig.shim_pid(&shim_dies);
        rig.close().await;
        assert!(reader.next().await.is_none(), "followers end with the engine");
        rig.kill(victim);
        rig.wait_for_exit_record(&ends).await;
        rig.half_made("half");
        rig.open().await;

        let view = rig.engine().of_task(stays.task_id).unwrap();
        assert_eq!(view.state.pid(), pid, "adopted");
        assert!(view.endpoint.is_some());
        let ended = rig.succeed(&ends, Work::Wait).await;
        assert_eq!(ended.container.unwrap().exit_code, 4);
        let lost = rig.succeed(&shim_dies, Work::Wait).await;
        assert_eq!(lost.container.unwrap().exit_code, 137);
        assert!(!rig.layout("containers/half").exists());
        let stopped = rig.succeed(&stays, Work::Shutdown).await;
        assert_eq!(stopped.container.unwrap().exit_code, 5);
        for task in [&stays, &ends, &shim_dies] {
            rig.succeed(task, Work::Remove).await;
        }
        rig.check_nothing_is_left();
        rig
    });
}

#[test]
fn the_executor_conforms() {
    rig::conforms();
}

#[test]
fn kill_stop_wait_and_remove() {
    run(|mut rig: Rig| async move {
        let task = rig.task("trap '' TERM; echo up; while :; do sleep 0.1; done");
        rig.prepare_and_start(&task).await;
        let engine = rig.engine().clone();
        let id = engine.of_task(task.task_id).unwrap().record.id.clone();
        rig.wait_for_line(&id, "up").await;
        assert!(matches!(engine.remove(&id, false, false).await, Err(EngineError::Conflict(_))));
        assert!(matches!(engine.kill(&id, "SIGNOTHING").await, Err(EngineError::Invalid(_))));
        let next = tokio::spawn(engine.wait(&id[..12], WaitCondition::NextExit).unwrap());
        let removed = tokio::spawn(engine.wait(&id, WaitCondition::Removed).unwrap());
        engine.stop(&id, None, Some(Duration::from_millis(300))).await.unwrap();
        assert_eq!(next.await.unwrap().exit_code, 137, "it ignored the stop signal");
        assert!(matches!(engine.stop(&id, None, None).await, Err(EngineError::AlreadyStopped(_))));
        assert!(matches!(engine.kill(&id, "9").await, Err(EngineError::Conflict(_))));
        assert_eq!(engine.wait(&id, WaitCondition::NotRunning).unwrap().await.exit_code, 137);
        engine.remove(&id, false, false).await.unwrap();
        assert_eq!(removed.await.unwrap().exit_code, 137);
        assert!(matches!(engine.inspect(&id), Err(EngineError::NoSuchContainer(_))));
        rig.check_nothing_is_left();
        rig
    });
}

#[test]
fn execs_have_streams_and_exit_codes() {
    run(|mut rig: Rig| async move {
        let task = rig.task("sleep 1000");
        rig.prepare_and_start(&task).await;
        let engine = rig.engine().clone();
        let name = engine.of_task(task.task_id).unwrap().record.name.clone();
        let options = |script: &str| ExecOptions {
            cmd: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            env: vec!["B=2".to_owned()],
            attach_stdin: true,
            attach_stdout: true,
            attach_stderr: true,
            ..ExecOptions::default()
        };
        let exec = engine.exec_create(&name, options("read x; echo $x$B; echo e >&2; exit 6")).unwrap();
        let mut streams = engine.exec_start(&exec, None).await.unwrap();
        assert!(engine.exec_inspect(&exec).unwrap().running);
        let mut stdin = streams.stdin.take().unwrap();
        stdin.write_all(b"in\n").await.unwrap();
        drop(stdin);
        let (mut out, mut err) = (String::new(), String::new());
        streams.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
        streams.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("in2\n", "e\n"));
        assert_eq!(streams.wait().await, 6);
        assert_eq!(engine.exec_inspect(&exec).unwrap().exit_code, Some(6));
        assert!(matches!(engine.exec_start(&exec, None).await, Err(EngineError::Conflict(_))));
        let missing = ExecOptions { cmd: vec!["nothing".to_owned()], ..ExecOptions::default() };
        let exec = engine.exec_create(&name, missing).unwrap();
        assert!(matches!(engine.exec_start(&exec, None).await, Err(EngineError::Start { exit_code: 127, .. })));
        assert_eq!(engine.exec_inspect(&exec).unwrap().exit_code, Some(127));
        let detached = engine.exec_create(&name, options("yes | head -c 1000000; exit 0")).unwrap();
        drop(engine.exec_start(&detached, None).await.unwrap());
        rig.until(|| engine.exec_inspect(&detached).unwrap().exit_code == Some(0)).await;
        rig.succeed(&task, Work::Remove).await;
        assert!(matches!(engine.exec_inspect(&exec), Err(EngineError::NoSuchExec(_))));
        rig
    });
}

#[test]
fn ports_follow_the_tasks() {
    run(|mut rig: Rig| async move {
        let serve = "while :; do echo hello | nc -l -p 80 -w 5 >/dev/null; done";
        let quick = |spec: &mut TaskSpec| spec.container.stop_grace_period = Some(Duration::ZERO);
        let mut task = rig.task_with(serve, quick);
        task.ports = vec![rig::port(80, 0, true), rig::port(80, 18080, false)];
        let prepared = rig.prepare(&task).await;
        assert_eq!(prepared.result, Ok(()));
        let started = rig.start(&task).await;
        assert_eq!(started.result, Ok(()));
        let [port] = &started.ports[..] else { panic!("{:?}", started.ports) };
        assert_ne!(port.published_port, 0);
        let port = port.published_port;
        assert_eq!(rig.read_port(port).await, "hello\n");
        rig.close().await;
        rig.open().await;
        assert_eq!(rig.read_port(port).await, "hello\n");
        assert_eq!(rig.read_port(18080).await, "hello\n");
        let view = rig.engine().of_task(task.task_id).unwrap();
        assert_eq!(view.ports[0].published, port);
        let mut rival = rig.task_with(serve, quick);
        rival.ports = vec![rig::port(80, port, true)];
        rig.prepare(&rival).await;
        let text = format!("starting container failed: Bind for 0.0.0.0:{port} failed: port is already allocated");
        assert_eq!(rig.start(&rival).await.result, Err(Failure::Fatal(text)));
        rig.succeed(&rival, Work::Remove).await;
        rig.succeed(&task, Work::Shutdown).await;
        let mut second = rig.task(serve);
        second.ports = vec![rig::port(80, port, true)];
        rig.prepare_and_start(&second).await;
        assert_eq!(rig.read_port(port).await, "hello\n", "the port is free for the next task");
        for task in [&task, &second] {
            rig.succeed(task, Work::Remove).await;
        }
        rig.check_nothing_is_left();
        rig
    });
}

#[test]
fn tails_and_times_of_logs() {
    run(|mut rig: Rig| async move {
        let task = rig.task("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; echo end >&2");
        rig.prepare_and_start(&task).await;
        rig.succeed(&task, Work::Wait).await;
        let id = rig.engine().of_task(task.task_id).unwrap().record.id.clone();
        let tail = LogOptions { tail: Some(3), ..LogOptions::default() };
        assert_eq!(rig.logs(&id, tail.clone()).await, ["2998", "2999", "end"]);
        let stderr = LogOptions { stdout: false, follow: true, ..LogOptions::default() };
        assert_eq!(rig.logs(&id, stderr).await, ["end"]);
        assert_eq!(rig.logs(&id, LogOptions::default()).await.len(), 3001);
        let mut reader = rig.engine().logs(&id, tail).unwrap();
        let line = reader.next().await.unwrap().unwrap();
        let before = LogOptions { until: Some(line.at - 1), ..LogOptions::default() };
        let since = LogOptions { since: Some(line.at), ..LogOptions::default() };
        assert_eq!(rig.logs(&id, before).await.len() + rig.logs(&id, since).await.len(), 3001);
        rig
    });
}

#[test]
fn many_start_at_once() {
    run(|mut rig: Rig| async move {
        let tasks: Vec<_> = (0..24).map(|_| rig.task("sleep 1000")).collect();
        let began = std::time::Instant::now();
        rig.all(&tasks, |task| Work::Prepare(Arc::new(task.clone()))).await;
        let prepared = began.elapsed();
        rig.all(&tasks, |task| Work::Start(Arc::new(task.clone()))).await;
        eprintln!("24 containers: prepared in {prepared:?}, running after {:?}", began.elapsed());
        let running = |view: &skep_engine::ContainerView| matches!(view.state, ContainerState::Running { .. });
        assert!(rig.engine().list().iter().all(running));
        let began = std::time::Instant::now();
        rig.all(&tasks, |_| Work::Remove).await;
        eprintln!("24 containers removed in {:?}", began.elapsed());
        rig.check_nothing_is_left();
        rig
    });
}

#[test]
fn a_reboot_ends_containers_and_keeps_prepared_ones() {
    run(|mut rig: Rig| async move {
        let (ran, prepared) = (rig.task("sleep 1000"), rig.task("exit 9"));
        rig.prepare_and_start(&ran).await;
        rig.prepare(&prepared).await;
        let victims = rig.processes(&ran);
        rig.close().await;
        victims.into_iter().for_each(|victim| rig.kill(victim));
        rig.forget_exec_root();
        rig.open().await;
        let lost = rig.succeed(&ran, Work::Wait).await;
        assert_eq!(lost.container.unwrap().exit_code, 137);
        rig.prepare_and_start(&prepared).await;
        assert_eq!(rig.succeed(&prepared, Work::Wait).await.container.unwrap().exit_code, 9);
        for task in [&ran, &prepared] {
            rig.succeed(task, Work::Remove).await;
        }
        rig.check_nothing_is_left();
        rig
    });
}

#[test]
fn what_an_interrupted_removal_left_is_swept() {
    run(|mut rig: Rig| async move {
        let (first, second) = (rig.task("exit 0"), rig.task("exit 0"));
        rig.prepare_and_start(&first).await;
        rig.succeed(&first, Work::Wait).await;
        rig.prepare(&second).await;
        let directories: Vec<_> =
            rig.engine().list().iter().map(|view| rig.layout("containers").join(&view.record.id)).collect();
        rig.close().await;
        for directory in directories {
            std::fs::remove_file(directory.join("container.json")).unwrap();
        }
        rig.open().await;
        assert!(rig.engine().list().is_empty());
        rig.check_nothing_is_left();
        rig
    });
}

#[test]
fn a_second_engine_is_refused() {
    run(|rig: Rig| async move {
        assert!(matches!(rig.open_another().await, Err(EngineError::InUse(_))));
        rig
    });
}

#[test]
fn an_agent_drives_it_through_restarts() {
    run(|mut rig: Rig| async move {
        let tasks: Vec<_> = (0..6).map(|_| rig.task("trap 'exit 0' TERM; while :; do sleep 0.05; done")).collect();
        let mut node = rig::Node::new(&rig);
        node.input(&rig, Input::Complete(tasks.clone()));
        node.until(&rig, |node| node.count(TaskState::Running) >= 2).await;
        rig.close().await;
        rig.open().await;
        node.restart(&rig);
        node.until(&rig, |node| node.count(TaskState::Running) == 6).await;
        let stopped = Assignment { desired: DesiredState::Shutdown, ..tasks[0].clone() };
        node.input(&rig, Input::Incremental(vec![Change::Update(Box::new(stopped))]));
        node.until(&rig, |node| node.count(TaskState::Shutdown) == 1).await;
        let id = rig.engine().of_task(tasks[1].task_id).unwrap().record.id.clone();
        rig.engine().kill(&id, "KILL").await.unwrap();
        node.until(&rig, |node| node.count(TaskState::Failed) == 1).await;
        assert_eq!(node.status(&tasks[1]).err, "task: non-zero exit (137)");
        node.input(&rig, Input::Complete(Vec::new()));
        node.until(&rig, |node| node.agent.is_idle()).await;
        rig.check_nothing_is_left();
        rig
    });
}

#[test]
fn closing_does_not_cut_a_grace_short() {
    run(|mut rig: Rig| async move {
        let task = rig.task("trap '' TERM; echo up; while :; do sleep 0.1; done");
        rig.prepare_and_start(&task).await;
        let id = rig.engine().of_task(task.task_id).unwrap().record.id.clone();
        rig.wait_for_line(&id, "up").await;
        let stopping = rig.begin(task.task_id, Work::Shutdown);
        rig.close().await;
        assert_eq!(stopping.await.unwrap().result, Err(Failure::Cancelled));
        rig.open().await;
        assert!(rig.engine().of_task(task.task_id).unwrap().state.is_running());
        // A removal does not wait for the grace.
        rig.succeed(&task, Work::Remove).await;
        rig.check_nothing_is_left();
        rig
    });
}
