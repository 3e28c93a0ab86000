//! Containers that share more with the machine, or with each other: namespaces, devices, privileges, mounts that travel. Needs
//! root; says so and passes otherwise.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: a panic is the answer, output is for its reader")]

mod rig;

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rig::{Fixture, command, ended, exec, real, wait_until};
use skep_oci::{BindPropagation, Device, ExecConfig, Mount, Namespace};

/// A mount of the test's own, gone when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn shared(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        mount(None::<&str>, &path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn bind(source: &Path, target: &str, propagation: BindPropagation) -> Mount {
    Mount::Bind {
        source: source.to_owned(),
        target: target.into(),
        read_only: false,
        propagation,
        non_recursive: false,
        writable_below: false,
    }
}

#[test]
fn mounts_travel_as_they_were_told_to() {
    real(async {
        let fixture = Fixture::new("sleep 1000");
        let source = Mounted::shared(fixture.dir.path().join("source"));
        let fixture = fixture.with(|config| {
            config.privileged = true;
            config.mounts = vec![
                bind(&source.0, "/private", BindPropagation::Rprivate),
                bind(&source.0, "/slave", BindPropagation::Rslave),
                bind(&source.0, "/shared", BindPropagation::Rshared),
            ];
        });
        let running = fixture.start().await.unwrap();
        let below = source.0.join("below");
        std::fs::create_dir(&below).unwrap();
        mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::write(below.join("file"), "").unwrap();
        let (_, seen, _) = exec(&running.client, command("ls /private/below /slave/below /shared/below")).await;
        assert_eq!(seen, "/private/below:\n\n/shared/below:\nfile\n\n/slave/below:\nfile\n");
        umount2(&below, MntFlags::empty()).unwrap();
        let script = "mkdir /shared/a /slave/b && mount -t tmpfs x /shared/a && mount -t tmpfs x /slave/b && \
                      touch /shared/a/from /slave/b/from";
        assert_eq!(exec(&running.client, command(script)).await, (0, String::new(), String::new()));
        assert!(source.0.join("a/from").exists() && !source.0.join("b/from").exists());
        running.client.kill(9).await.unwrap();
        ended(&fixture.bundle(), &running).await;
        drop(source);
        fixture.assert_no_leaks(&running);

        let fixture = Fixture::new("true");
        let plain = fixture.dir.path().join("plain");
        std::fs::create_dir(&plain).unwrap();
        mount(Some("tmpfs"), &plain, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let plain = Mounted(plain);
        mount(None::<&str>, &plain.0, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let fixture = fixture.with(|config| config.mounts = vec![bind(&plain.0, "/x", BindPropagation::Shared)]);
        let error = fixture.start().await.unwrap_err().to_string();
        assert!(error.ends_with("but it is not a shared mount"), "{error}");
    });
}

#[test]
fn a_privileged_container_has_everything() {
    real(async {
        let script = "grep -E '^(CapEff|Seccomp:)' /proc/self/status; ls /dev/zero /dev/loop-control 2>/dev/null | wc -l; \
                      mount -t tmpfs x /tmp && echo mounted; grep -c ' /sys ' /proc/mounts; echo 1 > /proc/sys/kernel/domainname && echo written";
        let fixture = Fixture::new(script).with(|config| config.privileged = true);
        let (record, out) = fixture.run().await;
        assert_eq!(record.exit_code, 0, "{out}");
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
        assert!(out.starts_with(&format!("{own}\nSeccomp:\t0\n")) && out.ends_with("mounted\n1\nwritten\n"), "{out}");

        let fixture = Fixture::new("sleep 1000");
        let running = fixture.start().await.unwrap();
        let status = "grep -E '^(CapEff|Seccomp:)' /proc/self/status";
        let config = ExecConfig { privileged: true, ..command(status) };
        assert_eq!(exec(&running.client, config).await.1, format!("{own}\nSeccomp:\t0\n"));
    });
}

#[test]
fn devices_and_namespaces() {
    real(async {
        let fixture = Fixture::new("echo x > /dev/mine && echo ok; echo secret > /dev/shm/file; hostname; sleep 1000")
            .with(|config| {
                config.devices = vec![Device {
                    host: "/dev/null".into(),
                    container: "/dev/mine".into(),
                    permissions: "rw".to_owned(),
                }];
            });
        let running = fixture.start().await.unwrap();
        wait_until(|| fixture.output().contains("box"));
        assert_eq!(fixture.output(), "ok\nbox\n");
        let init = running.pids.init.unwrap();
        let script = "cat /dev/shm/file; hostname; ps -o args | grep -c 'sleep 100[0]'";
        let other = Fixture::new(script).with(|config| {
            let of = Namespace::Of(init);
            (config.pid, config.ipc, config.uts) = (of.clone(), of.clone(), of);
            config.hostname = "other".to_owned();
        });
        let (record, out) = other.run().await;
        assert_eq!((record.exit_code, out.as_str()), (0, "secret\nbox\n1\n"));
        let host = Fixture::new("hostname; cat /proc/sys/kernel/hostname; echo $$; test -d /dev/shm && echo shm").with(
            |config| {
                (config.pid, config.ipc, config.uts, config.cgroupns) =
                    (Namespace::Host, Namespace::Host, Namespace::Host, Namespace::Host);
            },
        );
        let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
        let (record, out) = host.run().await;
        assert_eq!(record.exit_code, 0);
        assert!(
            out.starts_with(&format!("{name}\n{name}\n")) && !out.contains("\n1\n") && out.ends_with("shm\n"),
            "{out}"
        );
        running.client.kill(9).await.unwrap();
        ended(&fixture.bundle(), &running).await;
        let late = Fixture::new("true").with(|config| config.pid = Namespace::Of(init));
        assert!(late.start().await.unwrap_err().to_string().ends_with("it is not running"));
    });
}
