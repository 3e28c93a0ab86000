//! Real containers from a busybox rootfs, on this machine's kernel. Needs root; says so and passes otherwise.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: a panic is the answer, output is for its reader")]

mod rig;

use std::path::Path;
use std::time::Duration;

use rig::{Fixture, SHIM, command, ended, exec, real, wait_until};
use skep_oci::{
    Cgroups, ClientError, ExecConfig, Mount, Resources, Rlimit, RootFs, ShimClient, ShimLaunch, StartError, Status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn a_container_runs_logs_and_leaves_nothing() {
    real(async {
        let fixture = Fixture::new("echo out; echo err >&2; cat /layer; touch /new; exit 7");
        let running = fixture.start().await.unwrap();
        let record = ended(&fixture.bundle(), &running).await;
        assert_eq!((record.exit_code, record.signal, record.oom_killed, &record.error), (7, None, false, &None));
        assert!(record.started_at < record.finished_at && record.finished_at.ends_with('Z'));
        let mut entries = fixture.entries();
        entries.sort();
        let wanted = [("stderr", "err\n"), ("stdout", "out\n"), ("stdout", "top")];
        assert_eq!(entries, wanted.map(|(stream, text)| (stream.to_owned(), text.to_owned())));
        assert!(fixture.dir.path().join("upper/new").exists());
        assert_eq!(fixture.bundle().status().unwrap(), Status::Exited(record));
        fixture.assert_no_leaks(&running);
    });
}

#[test]
fn signals_end_it() {
    real(async {
        let fixture = Fixture::new("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
        let running = fixture.start().await.unwrap();
        wait_until(|| fixture.output().contains("ready"));
        let (one, two) = (running.client.clone(), running.client.clone());
        let waiters = (tokio::spawn(async move { one.wait().await }), tokio::spawn(async move { two.wait().await }));
        assert_eq!(running.client.state().await.unwrap().init, running.pids.init.unwrap());
        running.client.kill(libc::SIGTERM).await.unwrap();
        assert_eq!(waiters.0.await.unwrap().unwrap().exit_code, 3);
        assert_eq!(waiters.1.await.unwrap().unwrap().exit_code, 3);
        fixture.assert_no_leaks(&running);

        let fixture = Fixture::new("sleep 1000");
        let running = fixture.start().await.unwrap();
        running.client.kill_all(libc::SIGKILL).await.unwrap();
        let record = ended(&fixture.bundle(), &running).await;
        assert_eq!((record.exit_code, record.signal), (137, Some(9)));
        assert!(matches!(
            running.client.kill(9).await,
            Err(ClientError::Unreachable { .. } | ClientError::Lost(_) | ClientError::Refused(_))
        ));
    });
}

#[test]
fn exec_has_the_containers_confinement() {
    real(async {
        let fixture = Fixture::new("grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups|Uid)' /proc/self/status; sleep 1000");
        let running = fixture.start().await.unwrap();
        let client = &running.client;
        wait_until(|| fixture.output().contains("NoNewPrivs"));
        let status = "grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups|Uid)' /proc/self/status";
        let (code, own, _) = exec(client, command(status)).await;
        assert_eq!(code, 0);
        assert_eq!(own, fixture.output());
        let names = Cgroups::detect().unwrap();
        println!("{own}");
        assert!(own.contains("Seccomp:\t2") && own.contains("CapEff:\t00000000a80425fb"), "{own}");
        for namespace in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
            let inside =
                std::fs::read_link(format!("/proc/{}/ns/{namespace}", running.pids.init.unwrap().pid)).unwrap();
            let script = format!("ls -l /proc/self/ns/{namespace}");
            assert!(exec(client, command(&script)).await.1.contains(inside.to_str().unwrap()));
        }
        // In the same control groups.
        if names.has("memory") && names.mode != skep_oci::CgroupMode::V2 {
            let procs = fixture.cgroup("memory").unwrap().join("cgroup.procs");
            let exec = client.exec(command("sleep 1000"), false).await.unwrap();
            assert!(std::fs::read_to_string(procs).unwrap().lines().any(|line| line == exec.pid.to_string()));
            client.kill_exec(exec.pid, 9).await.unwrap();
            assert_eq!(exec.exit.wait().await.unwrap().code, 137);
        }
        // Another user has no capabilities in force, and its own groups and home.
        let web = ExecConfig {
            user: "web".to_owned(),
            ..command("id; grep -E '^(CapEff|CapPrm|Seccomp:)' /proc/self/status; echo $HOME; pwd")
        };
        let (_, out, _) = exec(client, ExecConfig { cwd: "/tmp".to_owned(), ..web }).await;
        assert!(out.contains("uid=101(web) gid=102(web) groups=103(media)"), "{out}");
        assert!(out.contains("CapEff:\t0000000000000000") && out.contains("Seccomp:\t2"), "{out}");
        assert!(out.ends_with("/srv\n/tmp\n"), "{out}");
    });
}

#[test]
fn exec_streams_and_errors() {
    real(async {
        let fixture = Fixture::new("sleep 1000").with(|config| config.env.push("OWN=1".to_owned()));
        let running = fixture.start().await.unwrap();
        let client = &running.client;
        let mut cat = client.exec(command("cat; echo end >&2; exit 5"), true).await.unwrap();
        let mut stdin = cat.stdin.take().unwrap();
        stdin.write_all(b"through").await.unwrap();
        drop(stdin);
        let mut text = String::new();
        cat.stdout.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "through");
        assert_eq!(cat.exit.wait().await.unwrap().code, 5);
        let env = ExecConfig { env: vec!["MORE=2".to_owned()], ..command("echo $OWN$MORE $HOME $HOSTNAME") };
        assert_eq!(exec(client, env).await.1, "12 /root box\n");
        for (args, code, text) in [
            (
                ["nope", ""],
                127,
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH",
            ),
            (
                ["/layer", ""],
                126,
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/layer\": permission denied",
            ),
        ] {
            let config = ExecConfig { args: args.map(str::to_owned).to_vec(), ..ExecConfig::default() };
            match client.exec(config, false).await {
                Err(ClientError::ExecFailed { exit_code, message }) => {
                    assert_eq!((exit_code, message.as_str()), (code, text))
                }
                other => panic!("{other:?}"),
            }
        }
        let nobody = ExecConfig { user: "nobody".to_owned(), ..command("true") };
        let error = client.exec(nobody, false).await.unwrap_err().to_string();
        assert!(error.ends_with("unable to find user nobody: no matching entries in passwd file"), "{error}");
        // Many at once.
        let many = (0..20).map(|number| {
            let client = client.clone();
            tokio::spawn(async move { exec(&client, command(&format!("exit {number}"))).await.0 })
        });
        for (number, task) in many.enumerate().collect::<Vec<_>>() {
            assert_eq!(task.await.unwrap(), i32::try_from(number).unwrap());
        }
        assert_eq!(client.state().await.unwrap().execs, 0);
        // An exec ends with its container.
        let late = client.exec(command("sleep 1000"), false).await.unwrap();
        client.kill(9).await.unwrap();
        let _ = late.exit.wait().await;
        assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, 137);
        fixture.assert_no_leaks(&running);
    });
}

#[test]
fn users_limits_and_masks() {
    real(async {
        let script = "id; ulimit -n; cat /proc/sys/net/ipv4/ip_forward; pwd; grep Seccomp: /proc/self/status; \
            grep NoNew /proc/self/status; cat /proc/self/oom_score_adj; cat /proc/keys | head -n1; \
            echo x 2>&1 > /proc/sys/kernel/domainname; touch /sys/x /sys/fs/cgroup/memory/x 2>&1; \
            echo 99 2>/dev/null > /sys/fs/cgroup/memory/cgroup.procs || echo ro; mount -t tmpfs x /tmp || echo no mount; \
            unshare -m true || echo no unshare; grep CapEff /proc/self/status";
        let fixture = Fixture::new(script).with(|config| {
            config.user = "web:media".to_owned();
            config.groups = vec!["web".to_owned(), "4242".to_owned()];
            config.cwd = "/data/deep".to_owned();
            config.no_new_privileges = true;
            config.oom_score_adj = Some(321);
            config.sysctls.insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
            config.rlimits.push(Rlimit { name: "nofile".to_owned(), soft: 123, hard: 456 });
            config.rlimits.push(Rlimit { name: "memlock".to_owned(), soft: -1, hard: -1 });
        });
        let (record, out) = fixture.run().await;
        println!("{out}");
        assert_eq!(record.exit_code, 0);
        assert!(out.starts_with("uid=101(web) gid=103(media) groups=102(web),4242\n123\n1\n/data/deep\nSeccomp:\t2\nNoNewPrivs:\t1\n321\n"), "{out}");
        assert!(out.contains("ro\n") && out.contains("no mount\n") && out.contains("no unshare\n"));
        assert!(out.contains("CapEff:\t0000000000000000\n"));

        // Signals are as a fresh process expects them.
        let fixture = Fixture::new("")
            .with(|config| config.args = ["grep", "Sig", "/proc/self/status"].map(str::to_owned).to_vec());
        let (_, out) = fixture.run().await;
        assert!(out.contains("SigBlk:\t0000000000000000\n") && out.contains("SigIgn:\t0000000000000000\n"), "{out}");
    });
}

#[test]
fn cgroup_limits_are_set_and_an_oom_is_seen() {
    real(async {
        let fixture = Fixture::new("sleep 1000").with(|config| {
            config.resources = Resources {
                memory: Some(64 << 20),
                nano_cpus: Some(500_000_000),
                cpu_shares: Some(512),
                pids: Some(50),
                ..Resources::default()
            };
        });
        let running = fixture.start().await.unwrap();
        let cgroups = Cgroups::detect().unwrap();
        let read = |controller: &str, file: &str| {
            std::fs::read_to_string(fixture.cgroup(controller).unwrap().join(file)).unwrap().trim().to_owned()
        };
        if cgroups.mode != skep_oci::CgroupMode::V2 {
            assert_eq!(read("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
            assert_eq!(read("cpu", "cpu.cfs_quota_us"), "50000");
            assert_eq!(read("cpu", "cpu.cfs_period_us"), "100000");
            assert_eq!(read("cpu", "cpu.shares"), "512");
            assert_eq!(read("pids", "pids.max"), "50");
            assert!(!read("devices", "devices.list").contains("a *:* rwm"));
        }
        running.client.pause().await.unwrap();
        assert_eq!(running.client.state().await.unwrap().phase, skep_oci::Phase::Paused);
        running.client.resume().await.unwrap();
        running.client.pause().await.unwrap();
        running.client.kill(9).await.unwrap();
        assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, 137);
        fixture.assert_no_leaks(&running);

        let fixture = Fixture::new("exec dd if=/dev/zero of=/dev/null bs=200M").with(|config| {
            config.resources.memory = Some(16 << 20);
            config.resources.memory_swap = Some(16 << 20);
        });
        let (record, _) = fixture.run().await;
        assert_eq!((record.exit_code, record.oom_killed), (137, true));
    });
}

#[test]
fn start_errors_are_dockers() {
    real(async {
        for (args, code, text) in [
            ("nope", 127, "exec: \"nope\": executable file not found in $PATH"),
            ("/layer", 126, "exec: \"/layer\": permission denied"),
            ("/etc", 126, "exec: \"/etc\": is a directory"),
        ] {
            let fixture = Fixture::new("").with(|config| config.args = vec![args.to_owned()]);
            match fixture.start().await {
                Err(StartError::Container { exit_code, message }) => {
                    assert_eq!(exit_code, code, "{message}");
                    assert!(
                        message.starts_with("failed to create task for container: ") && message.contains(text),
                        "{message}"
                    );
                }
                other => panic!("{other:?}"),
            }
            match fixture.bundle().status().unwrap() {
                Status::Exited(record) => assert_eq!((record.exit_code, record.error.is_some()), (code, true)),
                other => panic!("{other:?}"),
            }
            assert!(fixture.cgroup("memory").is_none_or(|dir| !dir.exists()));
        }
        let fixture = Fixture::new("true").with(|config| config.user = "nobody".to_owned());
        let error = fixture.start().await.unwrap_err().to_string();
        assert!(error.contains("unable to find user nobody: no matching entries in passwd file"), "{error}");
        let missing = Mount::Bind {
            source: "/does/not/exist".into(),
            target: "/x".into(),
            read_only: false,
            propagation: skep_oci::BindPropagation::Rprivate,
            non_recursive: false,
            writable_below: false,
        };
        let fixture = Fixture::new("true").with(|config| config.mounts.push(missing));
        let error = fixture.start().await.unwrap_err().to_string();
        assert!(error.contains("invalid bind mount source, source path not found: /does/not/exist"), "{error}");
    });
}

#[test]
fn a_container_dies_with_its_shim_and_is_reported() {
    real(async {
        let fixture = Fixture::new("sleep 1000");
        let running = fixture.start().await.unwrap();
        let client = running.client.clone();
        let waiter = tokio::spawn(async move { client.wait().await });
        assert!(matches!(fixture.bundle().cleanup(), Err(skep_oci::BundleError::Running(_))));
        assert!(running.pids.shim.kill(9));
        assert!(waiter.await.unwrap().is_err());
        let init = running.pids.init.unwrap();
        wait_until(|| !init.is_alive() && !running.pids.shim.is_alive());
        assert_eq!(fixture.bundle().status().unwrap(), Status::Gone(Some(running.pids.clone())));
        let bundle = fixture.bundle();
        let record = tokio::task::spawn_blocking(move || bundle.cleanup()).await.unwrap().unwrap().unwrap();
        assert_eq!((record.exit_code, record.signal), (137, Some(9)));
        fixture.assert_no_leaks(&running);
        assert_eq!(fixture.bundle().cleanup().unwrap(), Some(record.clone()));
        assert_eq!(fixture.bundle().status().unwrap(), Status::Exited(record));
        // And again in the same bundle.
        let running = fixture.start().await.unwrap();
        running.client.kill(9).await.unwrap();
        assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, 137);
    });
}

#[test]
fn a_container_outlives_its_launcher() {
    real(async {
        let fixture = Fixture::new("sleep 1000");
        let bundle = fixture.create();
        let mut launcher = std::process::Command::new(SHIM).args(["launch", SHIM]).arg(bundle.dir()).spawn().unwrap();
        wait_until(|| matches!(bundle.status().unwrap(), Status::Alive(_)));
        launcher.kill().unwrap();
        launcher.wait().unwrap();
        let client = ShimClient::connect(&bundle).await.unwrap();
        let state = client.state().await.unwrap();
        assert!(state.init.is_alive());
        let Status::Alive(pids) = bundle.status().unwrap() else { panic!("not alive") };
        let session = std::fs::read_to_string(format!("/proc/{}/stat", pids.shim.pid)).unwrap();
        let fields: Vec<_> = session.rsplit(')').next().unwrap().split_whitespace().collect();
        assert_eq!(fields[3], pids.shim.pid.to_string(), "its own session");
        // Standard descriptors, two pipes, socket, signals, log; our own connections go as we hang up.
        let open = || std::fs::read_dir(format!("/proc/{}/fd", pids.shim.pid)).unwrap().count();
        wait_until(|| open() == 8);
        client.kill(15).await.unwrap();
        client.kill(9).await.unwrap();
        wait_until(|| matches!(bundle.status().unwrap(), Status::Exited(_)));
    });
}

#[test]
fn mounts_are_made() {
    real(async {
        let source = tempfile::tempdir().unwrap();
        std::fs::write(source.path().join("file"), "bound").unwrap();
        let bind = |target: &str, read_only| Mount::Bind {
            source: source.path().to_owned(),
            target: target.into(),
            read_only,
            propagation: skep_oci::BindPropagation::Private,
            non_recursive: false,
            writable_below: false,
        };
        let tmpfs = Mount::Tmpfs {
            target: "/scratch".into(),
            size: Some(1 << 20),
            mode: None,
            read_only: false,
            options: vec![],
        };
        let script = "cat /rw/file; touch /rw/new; touch /ro/new || echo ro; touch /scratch/x; touch /x || echo rootfs ro; \
            grep ' /scratch ' /proc/mounts; grep ' /dev/shm ' /proc/mounts; ls /dev; echo x > /dev/null; \
            mknod /scratch/sda b 8 0 && cat /scratch/sda || echo no device";
        let fixture = Fixture::new(script).with(|config| {
            config.mounts = vec![bind("/rw", false), bind("/ro", true), tmpfs];
            config.read_only_rootfs = true;
        });
        let (record, out) = fixture.run().await;
        println!("{out}");
        assert_eq!(record.exit_code, 0);
        assert!(
            out.contains("bound") && out.contains("ro\n") && out.contains("rootfs ro\n") && out.contains("size=1024k"),
            "{out}"
        );
        assert!(out.contains("size=65536k") && out.contains("no device") && out.contains("urandom\n"), "{out}");
        assert!(source.path().join("new").exists());
    });
}

#[test]
fn many_layers_fit() {
    real(async {
        let mut fixture = Fixture::new("cat /number/120");
        let RootFs::Overlay { lower, .. } = &mut fixture.config.rootfs else { panic!("overlay") };
        for number in 0..125 {
            let dir = fixture.dir.path().join(format!("layers/a-quite-long-name-as-digests-are-{number:064}"));
            std::fs::create_dir_all(dir.join("number")).unwrap();
            std::fs::write(dir.join(format!("number/{number}")), number.to_string()).unwrap();
            lower.insert(0, dir);
        }
        assert_eq!(fixture.run().await.1, "120");
    });
}

#[test]
fn many_at_once_and_the_binary_is_out_of_reach() {
    real(async {
        let one = async |number: i32| {
            let fixture = Fixture::new(&format!("exit {number}"));
            let running = fixture.start().await.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(ended(&fixture.bundle(), &running).await.exit_code, number);
            fixture.assert_no_leaks(&running);
        };
        for _ in 0..3 {
            tokio::join!(one(1), one(2), one(3), one(4), one(5), one(6), one(7), one(8));
        }
        let parent = Cgroups::detect().unwrap().directory("memory", "/", &format!("skep-test-{}", std::process::id()));
        assert!(parent.is_none_or(|dir| !dir.exists()), "the empty parent is left");
        let fixture = Fixture::new("sleep 1000");
        let running = fixture.start().await.unwrap();
        let exe = std::fs::File::open(format!("/proc/{}/exe", running.pids.shim.pid)).unwrap();
        let flags = nix::sys::statvfs::fstatvfs(&exe).unwrap().flags();
        assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    });
}

#[test]
fn output_is_never_lost_at_the_end() {
    real(async {
        let fixture = Fixture::new("yes 0123456789abcdef | head -n 50000; (sleep 1000 &); echo last");
        let (record, out) = fixture.run().await;
        assert_eq!(record.exit_code, 0);
        assert_eq!((out.lines().count(), out.ends_with("last\n")), (50001, true));
    });
}

#[test]
fn a_silent_client_blocks_nobody() {
    real(async {
        let fixture = Fixture::new("sleep 1000");
        let running = fixture.start().await.unwrap();
        let socket = fixture.bundle_dir().join("shim.sock");
        let mut silent: Vec<_> = (0..20).map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap()).collect();
        // A frame that never ends, one that is too long, one that is no JSON.
        use std::io::Write;
        silent[0].write_all(&[0, 0, 1, 0, b'{']).unwrap();
        silent[1].write_all(&[255, 255, 255, 255]).unwrap();
        silent[2].write_all(&[0, 0, 0, 1, b'x']).unwrap();
        assert_eq!(exec(&running.client, command("echo works")).await.1, "works\n");
        assert_eq!(running.client.state().await.unwrap().phase, skep_oci::Phase::Running);
    });
}

#[test]
fn a_cancelled_start_does_not_happen() {
    real(async {
        let fixture = Fixture::new("sleep 1000");
        let bundle = fixture.create();
        assert_eq!(bundle.status().unwrap(), Status::Gone(None));
        assert_eq!(bundle.cleanup().unwrap(), None);
        let error = ShimLaunch::spawn(Path::new(SHIM), &bundle, Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("the start was cancelled"), "{error}");
        let running = fixture.start().await.unwrap();
        running.client.kill(9).await.unwrap();
    });
}

#[test]
fn a_shim_killed_at_any_instant_leaves_nothing() {
    real(async {
        for instant in 0..25 {
            let fixture = Fixture::new("sleep 1000");
            let bundle = fixture.create();
            let mut launcher = std::process::Command::new(SHIM)
                .arg("shim")
                .arg(bundle.dir())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            wait_until(|| !matches!(bundle.status().unwrap(), Status::Gone(None)));
            std::thread::sleep(Duration::from_millis(instant * 2));
            launcher.wait().unwrap();
            let (Status::Starting(pids) | Status::Alive(pids)) = bundle.status().unwrap() else { panic!("not alive") };
            assert!(pids.shim.kill(9));
            wait_until(|| !pids.shim.is_alive());
            bundle.cleanup().unwrap();
            for controller in ["memory", "pids", "freezer"] {
                assert!(fixture.cgroup(controller).is_none_or(|dir| !dir.exists()), "instant {instant}");
            }
            let sleepers = std::fs::read_dir("/proc").unwrap().filter(|entry| {
                let file = entry.as_ref().unwrap().path().join("cgroup");
                std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("{}\n", fixture.config.id)))
            });
            assert_eq!(sleepers.count(), 0, "instant {instant}");
        }
    });
}
