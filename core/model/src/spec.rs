//! What a user asks of a service and its tasks: the whole of Docker's `ServiceSpec`. Which parts are honoured yet is for
//! `admission` to say; the nouns are complete so that the formats need not change.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{ByteSize, ConfigId, Labels, NanoCpus, Platform, Sealed, SecretId};

/// Stop grace of a task whose spec names none (Docker's default).
pub const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// Restart delay of a service whose spec names none (Docker's default).
pub const RESTART_DELAY_DEFAULT: Duration = Duration::from_secs(5);
/// How long an update watches a new task when its configuration names no time (Docker's default).
pub const UPDATE_MONITOR_DEFAULT: Duration = Duration::from_secs(5);

/// What a service is, without its scale (which is kept beside it, see [`crate::Service::replicas`]).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServiceSpec {
    /// Unique, case-insensitive.
    pub name: String,
    /// Labels of the service object.
    pub labels: Labels,
    /// What each task is.
    pub task: TaskSpec,
    /// How tasks are spread.
    pub mode: ServiceMode,
    /// How an update rolls; `None` means Docker's defaults.
    pub update: Option<UpdateConfig>,
    /// How a rollback rolls; `None` means Docker's defaults.
    pub rollback: Option<UpdateConfig>,
    /// Ports and name resolution.
    pub endpoint: Option<EndpointSpec>,
    /// Networks given in the deprecated place of the API (before 1.25).
    pub networks: Vec<NetworkAttachmentConfig>,
}

impl ServiceSpec {
    /// Published ports of the endpoint, none without one.
    #[must_use]
    pub fn ports(&self) -> &[PortConfig] {
        self.endpoint.as_ref().map_or(&[], |endpoint| &endpoint.ports)
    }

    /// The networks of its tasks, wherever the API gave them.
    #[must_use]
    pub fn networks(&self) -> &[NetworkAttachmentConfig] {
        if self.task.networks.is_empty() { &self.networks } else { &self.task.networks }
    }

    /// True when a task made from `other` would be equal to one made from this spec.
    #[must_use]
    pub fn is_same_for_tasks(&self, other: &Self) -> bool {
        self.task == other.task && self.endpoint == other.endpoint && self.networks == other.networks
    }
}

/// How many tasks a service has and of what kind. The number of replicas is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceMode {
    /// A number of equal tasks.
    #[default]
    Replicated,
    /// One task on every node.
    Global,
    /// A number of tasks that run to completion.
    ReplicatedJob {
        /// How many at a time.
        max_concurrent: u64,
        /// How many in all.
        total_completions: u64,
    },
    /// One task on every node that runs to completion.
    GlobalJob,
}

/// How a rolling update or rollback goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateConfig {
    /// Tasks at a time; 0 is all at once.
    pub parallelism: u64,
    /// Pause between tasks.
    pub delay: Duration,
    /// What a failure does.
    pub failure_action: FailureAction,
    /// How long a new task is watched; `None` is 5 s.
    pub monitor: Option<Duration>,
    /// Part of the tasks that may fail, 0 to 1.
    pub max_failure_ratio: f32,
    /// Stop the old task first, or start the new one first.
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            failure_action: FailureAction::Pause,
            monitor: None,
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// What an update does when too many tasks fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailureAction {
    /// Stop updating and wait for a person.
    #[default]
    Pause,
    /// Go on.
    Continue,
    /// Return to the previous spec.
    Rollback,
}

/// Which of the old and the new task moves first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpdateOrder {
    /// Old stops, then new starts.
    #[default]
    StopFirst,
    /// New runs, then old stops.
    StartFirst,
}

/// What one task is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TaskSpec {
    /// The container.
    pub container: ContainerSpec,
    /// Limits and reservations.
    pub resources: ResourceRequirements,
    /// What happens when it ends; `None` is Docker's default (any, 5 s).
    pub restart: Option<RestartPolicy>,
    /// Where it may run.
    pub placement: Placement,
    /// Where its output goes; `None` is the cluster's default.
    pub log_driver: Option<Driver>,
    /// Networks it is attached to.
    pub networks: Vec<NetworkAttachmentConfig>,
    /// A counter: raising it replaces every task.
    pub force_update: u64,
}

impl TaskSpec {
    /// The restart policy with Docker's default filled in.
    #[must_use]
    pub fn restart_policy(&self) -> RestartPolicy {
        self.restart.unwrap_or_default()
    }
}

/// What happens when a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// When to replace.
    pub condition: RestartCondition,
    /// How long to wait; `None` is 5 s.
    pub delay: Option<Duration>,
    /// How often per slot; 0 is without end.
    pub max_attempts: u64,
    /// Only restarts younger than this count; `None` or zero counts all.
    pub window: Option<Duration>,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { condition: RestartCondition::Any, delay: None, max_attempts: 0, window: None }
    }
}

/// When a task that ended is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartCondition {
    /// Never.
    None,
    /// Unless it ended with exit code 0.
    OnFailure,
    /// Always.
    #[default]
    Any,
}

/// Where tasks may run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// `key==value` or `key!=value`; all must hold.
    pub constraints: Vec<String>,
    /// Labels to spread over, most important first.
    pub preferences: Vec<String>,
    /// Platforms the image exists for; empty is any.
    pub platforms: Vec<Platform>,
    /// Most tasks of the service on one node; 0 is any number.
    pub max_replicas: u64,
}

/// A named driver with its options.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Driver {
    /// Name of the driver.
    pub name: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
}

/// A network a task shall be attached to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkAttachmentConfig {
    /// Id or name of the network.
    pub target: String,
    /// Extra names of the service there.
    pub aliases: Vec<String>,
    /// Wanted addresses.
    pub addresses: Vec<String>,
    /// Options for the driver.
    pub driver_options: BTreeMap<String, String>,
}

/// Limits and reservations of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceRequirements {
    /// What the task may use at most.
    pub limits: Option<Limits>,
    /// What the task needs to be placed.
    pub reservations: Option<Resources>,
    /// Swap beside the memory limit; -1 is without limit.
    pub swap: Option<ByteSize>,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
}

/// Most that a task may use; zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Processor time.
    pub cpus: NanoCpus,
    /// Memory.
    pub memory: ByteSize,
    /// Processes and threads.
    pub pids: i64,
}

/// An amount of a node's resources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Processor time.
    pub cpus: NanoCpus,
    /// Memory.
    pub memory: ByteSize,
    /// Resources that an administrator named.
    pub generic: Vec<GenericResource>,
}

/// A resource that an administrator named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum GenericResource {
    /// One of a kind, by name.
    Named {
        /// Kind, for instance `GPU`.
        kind: String,
        /// Which one.
        value: String,
    },
    /// A number of a kind.
    Discrete {
        /// Kind, for instance `SSD`.
        kind: String,
        /// How many.
        value: i64,
    },
}

/// What a task's container is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContainerSpec {
    /// Image reference.
    pub image: String,
    /// Labels of the container.
    pub labels: Labels,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub dir: String,
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// Additional groups.
    pub groups: Vec<String>,
    /// Host name (a template).
    pub hostname: String,
    /// A terminal as stdio.
    pub tty: bool,
    /// Keep stdin open.
    pub open_stdin: bool,
    /// Root file system without writing.
    pub read_only: bool,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Signal that asks it to stop; empty is the image's, else SIGTERM.
    pub stop_signal: String,
    /// Time between that signal and SIGKILL; `None` is 10 s.
    pub stop_grace_period: Option<Duration>,
    /// Health check; `None` is the image's.
    pub healthcheck: Option<HealthConfig>,
    /// `IP name` lines for `/etc/hosts`.
    pub hosts: Vec<String>,
    /// Name resolution.
    pub dns: DnsConfig,
    /// Secrets it gets.
    pub secrets: Vec<SecretReference>,
    /// Configs it gets.
    pub configs: Vec<ConfigReference>,
    /// An init process as pid 1; `None` is the node's default.
    pub init: Option<bool>,
    /// Isolation of other platforms; `default` or empty here.
    pub isolation: String,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Capabilities added to Docker's default.
    pub capability_add: Vec<String>,
    /// Capabilities taken from Docker's default.
    pub capability_drop: Vec<String>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Adjustment of the kernel's out-of-memory choice.
    pub oom_score_adj: i64,
    /// Security options.
    pub privileges: Option<Privileges>,
    /// Registry credentials (`X-Registry-Auth`), sealed.
    pub registry_auth: Option<Sealed>,
}

impl ContainerSpec {
    /// Stop grace with Docker's default filled in.
    #[must_use]
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace_period.unwrap_or(STOP_GRACE_DEFAULT)
    }
}

/// A resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, lower case.
    pub name: String,
    /// Soft limit; -1 is without limit.
    pub soft: i64,
    /// Hard limit; -1 is without limit.
    pub hard: i64,
}

/// How names are resolved inside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsConfig {
    /// Name servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// How health is checked (Docker's `HealthConfig`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthConfig {
    /// `NONE`, `CMD …` or `CMD-SHELL …`; empty inherits the image's.
    pub test: Vec<String>,
    /// Time between checks.
    pub interval: Option<Duration>,
    /// Time a check may take.
    pub timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy; 0 inherits.
    pub retries: i64,
    /// Time in which failures do not count.
    pub start_period: Option<Duration>,
    /// Time between checks in the start period.
    pub start_interval: Option<Duration>,
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Host path or volume name.
    pub source: String,
    /// Path inside.
    pub target: String,
    /// Without writing.
    pub read_only: bool,
    /// Consistency hint of other platforms.
    pub consistency: String,
    /// Options of a bind mount.
    pub bind: Option<BindOptions>,
    /// Options of a volume.
    pub volume: Option<VolumeOptions>,
    /// Options of a tmpfs.
    pub tmpfs: Option<TmpfsOptions>,
}

/// What a mount mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A named or anonymous volume.
    #[default]
    Volume,
    /// Memory.
    Tmpfs,
    /// A named pipe of other platforms.
    NamedPipe,
    /// A cluster volume (CSI).
    Cluster,
    /// An image's file system.
    Image,
}

/// Options of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BindOptions {
    /// `rprivate`, `private`, `rshared`, `shared`, `rslave`, `slave`; empty is `rprivate`.
    pub propagation: String,
    /// Only the mount itself.
    pub non_recursive: bool,
    /// Make a missing source.
    pub create_mountpoint: bool,
    /// Read-only not for mounts below.
    pub read_only_non_recursive: bool,
    /// Fail when mounts below cannot be made read-only.
    pub read_only_force_recursive: bool,
}

/// Options of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeOptions {
    /// Do not copy the image's files into a new volume.
    pub no_copy: bool,
    /// Labels of a volume made for this mount.
    pub labels: Labels,
    /// Its driver.
    pub driver: Option<Driver>,
    /// Path inside the volume.
    pub subpath: String,
}

/// Options of a tmpfs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TmpfsOptions {
    /// Size; zero is the kernel's default.
    pub size: ByteSize,
    /// Permission bits.
    pub mode: u32,
    /// Further mount options, each one or two words.
    pub options: Vec<Vec<String>>,
}

/// Where a secret or config lies inside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileTarget {
    /// File name or absolute path.
    pub name: String,
    /// Numeric owner.
    pub uid: String,
    /// Numeric group.
    pub gid: String,
    /// Permission bits.
    pub mode: u32,
}

/// A secret that a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretReference {
    /// Which secret.
    pub secret_id: SecretId,
    /// Its name.
    pub secret_name: String,
    /// Where it lies.
    pub file: Option<FileTarget>,
}

/// A config that a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigReference {
    /// Which config.
    pub config_id: ConfigId,
    /// Its name.
    pub config_name: String,
    /// Where it lies; `None` when it is only used by the runtime.
    pub file: Option<FileTarget>,
}

/// Security options of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Privileges {
    /// Credential spec of other platforms, as `file://`, `registry://` or `config://`.
    pub credential_spec: String,
    /// SELinux options as `label=` values; empty is the node's default.
    pub selinux: Vec<String>,
    /// Seccomp: `default`, `unconfined`, or a custom profile's JSON.
    pub seccomp: SeccompMode,
    /// AppArmor switched off.
    pub apparmor_disabled: bool,
    /// No gain of privileges by set-uid programs.
    pub no_new_privileges: bool,
}

/// Which seccomp profile a container has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SeccompMode {
    /// Docker's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile of the user's, as JSON.
    Custom(Vec<u8>),
}

/// Ports and name resolution of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointSpec {
    /// How its name resolves.
    pub mode: EndpointMode,
    /// Ports it publishes.
    pub ports: Vec<PortConfig>,
}

/// How a service's name resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndpointMode {
    /// To one virtual address.
    #[default]
    Vip,
    /// To the tasks' addresses, turn by turn.
    DnsRr,
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PortConfig {
    /// A name for it.
    pub name: String,
    /// Transport.
    pub protocol: Protocol,
    /// Port inside the container.
    pub target_port: u16,
    /// Port outside; 0 lets skep choose.
    pub published_port: u16,
    /// Where it is published.
    pub mode: PublishMode,
}

/// Transport protocols a port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Docker's lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Where a port is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum PublishMode {
    /// On every node, to any task.
    #[default]
    Ingress,
    /// On the task's own node, to that task.
    Host,
}
