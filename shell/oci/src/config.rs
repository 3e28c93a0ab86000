//! What a container is to be, as plain data: the file `shim.json` in a bundle, written by the engine and read by the
//! shim. It has a version; a shim refuses a newer one instead of guessing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// The version of `shim.json` this release writes, and the highest it reads.
pub const CONFIG_VERSION: u32 = 1;

/// Docker's size of `/dev/shm` in bytes when nothing else is asked for.
const SHM_SIZE: u64 = 64 << 20;

/// Everything the shim needs to run one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Format version, see [`CONFIG_VERSION`].
    pub version: u32,
    /// The container's id; also the name of its cgroup.
    pub id: String,
    /// Cgroup below which the container's own is made, absolute from the root of each hierarchy (`/skep`).
    pub cgroup_parent: String,
    /// Where the root file system comes from.
    pub rootfs: RootFs,
    /// Mount the root file system read-only.
    #[serde(default)]
    pub read_only_rootfs: bool,
    /// Program and its arguments; must not be empty.
    pub args: Vec<String>,
    /// `KEY=value`. `PATH`, `HOSTNAME` and `HOME` are added where missing, as Docker does.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory, absolute; empty means `/`. Created when missing.
    #[serde(default)]
    pub cwd: String,
    /// Host name inside the container.
    #[serde(default)]
    pub hostname: String,
    /// NIS domain name inside the container.
    #[serde(default)]
    pub domainname: Option<String>,
    /// `uid`, `name`, `uid:gid` or `name:group`; empty means root. Looked up inside the container's rootfs.
    #[serde(default)]
    pub user: String,
    /// Additional groups, names or numbers.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Capabilities on top of Docker's default set, with or without `CAP_`; `ALL` means all.
    #[serde(default)]
    pub cap_add: Vec<String>,
    /// Capabilities taken away from Docker's default set; `ALL` means all.
    #[serde(default)]
    pub cap_drop: Vec<String>,
    /// Which system calls are allowed.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Where compiled system call filters are kept, for all containers of this machine; only root may write there.
    #[serde(default)]
    pub filter_cache: Option<PathBuf>,
    /// Forbid gaining privileges by execve.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Mounts besides the default ones.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// `ulimit`s; clamped to the current hard limit when the shim lacks `CAP_SYS_RESOURCE`.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Kernel parameters set in the container's namespaces, e.g. `net.ipv4.ip_forward`.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// OOM score adjustment, -1000 to 1000.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// The network namespace.
    #[serde(default)]
    pub network: NetworkNamespace,
    /// A terminal of its own for the first process, instead of three streams.
    #[serde(default)]
    pub tty: bool,
    /// Rows and columns of the terminal; `None` leaves them at 0, for a program to take its default.
    #[serde(default)]
    pub console_size: Option<[u16; 2]>,
    /// Standard input that attached clients can write to; otherwise it is `/dev/null`.
    #[serde(default)]
    pub open_stdin: bool,
    /// Standard input ends when the first client that was attached to it ends its own; not with a terminal.
    #[serde(default)]
    pub stdin_once: bool,
    /// A tiny init as pid 1, which passes signals on to the program and reaps zombies.
    #[serde(default)]
    pub init: bool,
    /// The process id namespace.
    #[serde(default)]
    pub pid: Namespace,
    /// The namespace of System V IPC and POSIX message queues; `/dev/shm` goes with it.
    #[serde(default)]
    pub ipc: Namespace,
    /// The namespace of host and domain name.
    #[serde(default)]
    pub uts: Namespace,
    /// The control group namespace.
    #[serde(default)]
    pub cgroupns: Namespace,
    /// All capabilities and devices of the machine, no system call filter, nothing masked or read-only.
    #[serde(default)]
    pub privileged: bool,
    /// Device nodes of the machine to be had in the container.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Further rules of the device control group, e.g. `c 42:* rmw`.
    #[serde(default)]
    pub device_cgroup_rules: Vec<String>,
    /// Paths hidden in the container; `None` is Docker's list.
    #[serde(default)]
    pub masked_paths: Option<Vec<String>>,
    /// Paths that are read-only in the container; `None` is Docker's list.
    #[serde(default)]
    pub readonly_paths: Option<Vec<String>>,
    /// Size of `/dev/shm` in bytes.
    #[serde(default = "shm_size")]
    pub shm_size: u64,
    /// Where output goes; `None` discards it.
    #[serde(default)]
    pub log: Option<LogConfig>,
}

fn shm_size() -> u64 {
    SHM_SIZE
}

impl ContainerConfig {
    /// A container with Docker's defaults that runs `args` in `rootfs`.
    #[must_use]
    pub fn new(id: impl Into<String>, rootfs: RootFs, args: Vec<String>) -> Self {
        Self {
            version: CONFIG_VERSION,
            id: id.into(),
            cgroup_parent: "/skep".to_owned(),
            rootfs,
            read_only_rootfs: false,
            args,
            env: Vec::new(),
            cwd: String::new(),
            hostname: String::new(),
            domainname: None,
            user: String::new(),
            groups: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            seccomp: Seccomp::Default,
            filter_cache: None,
            no_new_privileges: false,
            mounts: Vec::new(),
            resources: Resources::default(),
            rlimits: Vec::new(),
            sysctls: BTreeMap::new(),
            oom_score_adj: None,
            network: NetworkNamespace::Private,
            tty: false,
            console_size: None,
            open_stdin: false,
            stdin_once: false,
            init: false,
            pid: Namespace::Private,
            ipc: Namespace::Private,
            uts: Namespace::Private,
            cgroupns: Namespace::Private,
            privileged: false,
            devices: Vec::new(),
            device_cgroup_rules: Vec::new(),
            masked_paths: None,
            readonly_paths: None,
            shm_size: SHM_SIZE,
            log: None,
        }
    }

    /// Reads a `shim.json`.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON of this shape, or was written by a newer release.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let wrong = |source| ConfigError::Parse { path: path.to_owned(), source };
        let found: Versioned = serde_json::from_slice(&bytes).map_err(wrong)?;
        if found.version > CONFIG_VERSION {
            return Err(ConfigError::Newer { path: path.to_owned(), found: found.version });
        }
        serde_json::from_slice(&bytes).map_err(wrong)
    }

    /// Refuses what cannot run, before anything is made.
    ///
    /// # Errors
    /// With a sentence that names the setting.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |text: String| Err(ConfigError::Unsupported(text));
        if self.args.first().is_none_or(String::is_empty) {
            return bad("no command specified".to_owned());
        }
        if self.id.is_empty()
            || self.id.len() > 128
            || !self.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return bad(format!("invalid container id {:?}: letters, digits, \"-\" and \"_\" only", self.id));
        }
        if !self.cgroup_parent.starts_with('/') || self.cgroup_parent.split('/').any(|part| part == ".." || part == ".")
        {
            return bad(format!(
                "invalid cgroup parent {:?}: must be an absolute path without \"..\"",
                self.cgroup_parent
            ));
        }
        if !self.cwd.is_empty() && !self.cwd.starts_with('/') {
            return bad(format!("the working directory '{}' is invalid, it needs to be an absolute path", self.cwd));
        }
        let nul = |text: &String| text.contains('\0');
        if self.args.iter().any(nul) || self.env.iter().any(nul) || nul(&self.cwd) {
            return bad("arguments, environment and working directory must not contain a NUL byte".to_owned());
        }
        if let Some(score) = self.oom_score_adj
            && !(-1000..=1000).contains(&score)
        {
            return bad(format!("invalid value {score}, range for oom score adj is [-1000, 1000]"));
        }
        Ok(())
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read container configuration {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("cannot understand container configuration {path:?}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by a newer release.
    #[error(
        "container configuration {path:?} has version {found}, this release reads up to {CONFIG_VERSION}: use the newer skep"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A setting that cannot be had.
    #[error("{0}")]
    Unsupported(String),
}

/// Where a container's root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootFs {
    /// A directory, used as it is.
    Dir(PathBuf),
    /// An overlay that the shim mounts in its own mount namespace; it vanishes with the shim and the container.
    Overlay {
        /// Read-only layers, topmost first.
        lower: Vec<PathBuf>,
        /// Receives what the container writes.
        upper: PathBuf,
        /// overlayfs's work directory, on the file system of `upper`.
        work: PathBuf,
        /// Empty directory where the result is mounted.
        merged: PathBuf,
    },
}

/// Which system calls a container may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// Docker's default profile, resolved for this machine and the container's capabilities.
    #[default]
    Default,
    /// All of them.
    Unconfined,
    /// A profile in Docker's JSON form.
    Profile(String),
}

/// The network namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkNamespace {
    /// A new one with only a loopback device that is down.
    #[default]
    Private,
    /// The host's.
    Host,
    /// An existing one, e.g. `/run/netns/x`.
    Path(PathBuf),
}

/// Another namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// A new one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of a running process, e.g. of another container's first one.
    Of(ProcessId),
}

/// A device node of the machine in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path on the host: a device node, or a directory of them.
    pub host: PathBuf,
    /// Absolute path in the container, below `/dev`.
    pub container: PathBuf,
    /// `r`, `w`, `m` (make nodes) in any combination; empty is `rwm`.
    #[serde(default)]
    pub permissions: String,
}

/// How mounts below a bind mount travel between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindPropagation {
    /// Not at all, recursively (the default).
    #[default]
    Rprivate,
    /// Not at all.
    Private,
    /// From the host into the container, recursively.
    Rslave,
    /// From the host into the container.
    Slave,
    /// Both ways, recursively.
    Rshared,
    /// Both ways.
    Shared,
}

/// A mount besides the default ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Mount {
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host; must exist.
        source: PathBuf,
        /// Absolute path in the container.
        target: PathBuf,
        /// Not writable.
        #[serde(default)]
        read_only: bool,
        /// How mounts below it travel.
        #[serde(default)]
        propagation: BindPropagation,
        /// Leave out what is mounted below the source.
        #[serde(default)]
        non_recursive: bool,
        /// With `read_only`: what is mounted below the source stays writable.
        #[serde(default)]
        writable_below: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// Absolute path in the container.
        target: PathBuf,
        /// Bytes; `None` leaves it to the kernel (half of the memory).
        #[serde(default)]
        size: Option<u64>,
        /// Permission bits of its root; Docker's default is 1777 octal.
        #[serde(default)]
        mode: Option<u32>,
        /// Not writable.
        #[serde(default)]
        read_only: bool,
        /// More mount options, e.g. `noexec`, `uid=100`.
        #[serde(default)]
        options: Vec<String>,
    },
}

/// Limits; `None` means unlimited (the kernel's default).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory plus swap; -1 is unlimited. Needs `memory`.
    pub memory_swap: Option<i64>,
    /// 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<i64>,
    /// Relative weight, 1024 is normal.
    pub cpu_shares: Option<u64>,
    /// Microseconds of the period that `cpu_quota` is for; `None` is Docker's 100,000.
    pub cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// CPUs that may be used, e.g. `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used, e.g. `0-1`.
    pub cpuset_mems: Option<String>,
    /// Bytes of memory that are kept when memory is short (a soft limit).
    pub memory_reservation: Option<i64>,
    /// Processes wait instead of being killed when memory runs out; only with version 1 control groups.
    pub oom_kill_disable: bool,
    /// Relative weight of block I/O, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// The same for single devices.
    pub blkio_weight_device: Vec<DeviceLimit>,
    /// Bytes a second read from, and written to, a device.
    pub blkio_read_bps: Vec<DeviceLimit>,
    /// As `blkio_read_bps`.
    pub blkio_write_bps: Vec<DeviceLimit>,
    /// Operations a second.
    pub blkio_read_iops: Vec<DeviceLimit>,
    /// As `blkio_read_iops`.
    pub blkio_write_iops: Vec<DeviceLimit>,
    /// Number of processes and threads; -1 is unlimited.
    pub pids: Option<i64>,
}

/// A limit that holds for one block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimit {
    /// Its node on the host.
    pub path: PathBuf,
    /// The limit.
    pub value: u64,
}

/// One `ulimit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Docker's name, e.g. `nofile`.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

/// A log in one of Docker's two file formats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// The file.
    pub path: PathBuf,
    /// What is written to it.
    #[serde(default)]
    pub format: LogFormat,
    /// Bytes after which the file is rotated (`x` becomes `x.1` and so on); `None` never.
    #[serde(default)]
    pub max_size: Option<u64>,
    /// Number of files kept, the current one included; at least 1.
    #[serde(default = "one")]
    pub max_files: u32,
    /// Rotated files are compressed: `x.1` becomes `x.1.gz`.
    #[serde(default)]
    pub compress: bool,
    /// Written with every line.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// How lines are written to a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Docker's `json-file`: an object on a line.
    #[default]
    JsonFile,
    /// Docker's `local`: length, protobuf message, length.
    Local,
}

fn one() -> u32 {
    1
}

/// A process to start in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecConfig {
    /// Program and its arguments.
    pub args: Vec<String>,
    /// `KEY=value`, on top of the container's own environment.
    pub env: Vec<String>,
    /// Working directory; empty means the container's.
    pub cwd: String,
    /// As [`ContainerConfig::user`]; empty means the container's user.
    pub user: String,
    /// A terminal of its own; [`crate::Exec::stdout`] carries it.
    pub tty: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<[u16; 2]>,
    /// All capabilities and no system call filter.
    pub privileged: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 looked like must be readable for ever.
    const VERSION_1: &str = r#"{"version":1,"id":"abc","cgroup_parent":"/skep",
        "rootfs":{"overlay":{"lower":["/l"],"upper":"/u","work":"/w","merged":"/m"}},"args":["sh"],"user":"web",
        "mounts":[{"type":"bind","source":"/a","target":"/b","read_only":true},{"type":"tmpfs","target":"/t"}],
        "resources":{"memory":1},"network":{"path":"/run/netns/x"},"log":{"path":"/log"}}"#;

    #[test]
    fn version_1_is_read_and_a_newer_one_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("shim.json");
        std::fs::write(&path, VERSION_1).expect("write");
        let config = ContainerConfig::load(&path).expect("readable");
        assert_eq!((config.user.as_str(), config.mounts.len(), config.shm_size), ("web", 2, SHM_SIZE));
        assert!(config.check().is_ok());
        std::fs::write(&path, r#"{"version":2,"strange":true}"#).expect("write");
        let error = ContainerConfig::load(&path).expect_err("newer").to_string();
        assert!(error.contains("has version 2") && error.contains("use the newer skep"), "{error}");
    }

    /// A state file that a disk or a person damaged is refused or read as something else; it does no harm.
    #[test]
    fn damaged_files_do_no_harm() {
        use crate::record::{ExitRecord, Pids};
        let pids = r#"{"version":1,"shim":{"pid":1,"start_time":2},"init":null,"started_at":"x"}"#;
        for text in [VERSION_1, pids] {
            for index in 0..text.len() {
                for value in [0, b'"', b'}', b'[', b'-', b'9', b'e', 0x80, 0xff] {
                    let mut bytes = text.as_bytes().to_vec();
                    bytes[index] = value;
                    if let Ok(config) = serde_json::from_slice::<ContainerConfig>(&bytes) {
                        let _ = config.check();
                    }
                    let _ = serde_json::from_slice::<Pids>(&bytes);
                    let _ = serde_json::from_slice::<ExitRecord>(&bytes);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let config = ContainerConfig::new("abc", RootFs::Dir("/".into()), vec!["sh".to_owned()]);
        let refused = |change: fn(&mut ContainerConfig)| {
            let mut config = config.clone();
            change(&mut config);
            config.check().is_err()
        };
        assert!(config.check().is_ok());
        assert!(refused(|config| config.args.clear()));
        assert!(refused(|config| config.id = "../x".to_owned()));
        assert!(refused(|config| config.cgroup_parent = "/a/../..".to_owned()));
        assert!(refused(|config| config.cwd = "relative".to_owned()));
        assert!(refused(|config| config.oom_score_adj = Some(2000)));
    }
}
