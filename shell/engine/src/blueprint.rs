//! Turns a task's container spec and its image into the record of a container: the rules of Docker's executor
//! (`executor/container/container.go`) and of its merge of image and container configuration (`daemon/commit.go`). Pure; what
//! cannot be honoured is refused by name, so that nothing is silently left out.

mod files;
mod log;
mod more;
mod mounts;
mod signal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_agent::{Assignment, TemplateContext, container_labels, container_name, expand_container};
use skep_image::Image;
use skep_model::{ContainerSpec, Driver, NanoCpus, Platform, ResourceRequirements, SeccompMode};
use skep_oci::{ContainerConfig, Resources, Rlimit, RootFs, Seccomp};

use crate::error::{EngineError, Result};
use crate::health::HealthCheck;
use crate::record::{NetworkRecord, PortRecord, RECORD_VERSION, Record, TaskRecord};

pub(crate) use files::files;
pub use more::{More, Share};
pub(crate) use mounts::check_sources;
pub(crate) use signal::parse_signal;

/// What a blueprint is drawn for.
pub(crate) struct Site<'a> {
    /// The container's id.
    pub(crate) id: &'a str,
    /// Now, RFC 3339.
    pub(crate) now: String,
    pub(crate) hostname: &'a str,
    pub(crate) platform: &'a Platform,
    pub(crate) cgroup_parent: &'a str,
    pub(crate) log_path: PathBuf,
    /// Where volumes lie.
    pub(crate) volumes: &'a Path,
}

/// What is asked of one container, by a task or by hand.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its name; empty lets the engine find one.
    pub name: String,
    /// The task it belongs to; `None` for one made by hand.
    pub task: Option<TaskRecord>,
    /// Its own labels; the image's are added.
    pub labels: BTreeMap<String, String>,
    /// What it is. Templates in it are filled in.
    pub spec: ContainerSpec,
    /// Its limits, as a task names them.
    pub resources: ResourceRequirements,
    /// `None` is the engine's default.
    pub log_driver: Option<Driver>,
    /// Published ports; 0 lets the engine choose the number.
    pub ports: Vec<PortRecord>,
    /// What a task cannot ask for.
    pub more: More,
    /// Its networks in the order of its links; none is the machine's `bridge`.
    pub networks: Vec<NetworkRecord>,
    /// `host`, `none`, `container:NAME`, or empty for networks of its own.
    pub network_mode: String,
}

impl Wanted {
    /// What a task asks for.
    pub(crate) fn by_task(assignment: &Assignment, site: &Site<'_>) -> Result<Self> {
        let context = TemplateContext::new(assignment, site.hostname, site.platform);
        let spec = expand_container(&assignment.spec.container, &context)
            .map_err(|error| EngineError::Invalid(error.to_string()))?;
        Ok(Self {
            name: container_name(assignment),
            task: Some(TaskRecord {
                task_id: assignment.task_id.to_string(),
                service_id: assignment.service_id.map(|id| id.to_string()).unwrap_or_default(),
                service_name: assignment.service_name.clone(),
            }),
            labels: container_labels(assignment),
            spec,
            resources: assignment.spec.resources.clone(),
            log_driver: assignment.spec.log_driver.clone(),
            ports: assignment.ports.iter().map(PortRecord::from_model).collect(),
            more: More::default(),
            networks: assignment.networks.iter().map(NetworkRecord::of_task).collect(),
            network_mode: String::new(),
        })
    }
}

/// The record of such a container. Its root file system is an empty path: the snapshot comes later.
pub(crate) fn draw(wanted: Wanted, image: &Image, site: &Site<'_>) -> Result<Record> {
    let Wanted {
        name,
        task,
        labels: own_labels,
        spec,
        resources: limits,
        log_driver,
        mut ports,
        more,
        networks,
        network_mode,
    } = wanted;
    refuse_unsupported(&spec)?;
    let defaults = &image.config.config;
    let health = HealthCheck::merge(spec.healthcheck.as_ref(), defaults.healthcheck.as_ref(), &defaults.shell)?;
    if !image.runs_here {
        let platform = image.platform();
        return Err(EngineError::Invalid(format!(
            "image {:?} is for platform {}/{}, this machine is not",
            spec.image, platform.os, platform.architecture
        )));
    }
    let (entrypoint, cmd) = command(&spec, more.no_entrypoint, image);
    let args: Vec<String> = entrypoint.iter().chain(&cmd).cloned().collect();
    let stop_signal = [&spec.stop_signal, &defaults.stop_signal].into_iter().find(|name| !name.is_empty());
    let stop_signal = stop_signal.map_or("SIGTERM", String::as_str);
    parse_signal(stop_signal)?;
    let (mounts, shown_mounts) = mounts::mounts(&spec.mounts, defaults.volumes.keys(), task.is_some(), site)?;

    let mut config = ContainerConfig::new(site.id, RootFs::Dir(PathBuf::new()), args);
    site.cgroup_parent.clone_into(&mut config.cgroup_parent);
    config.read_only_rootfs = spec.read_only;
    config.env = environment(&defaults.env, &spec.env);
    config.cwd = first_given(&spec.dir, &defaults.working_dir);
    let on_host = network_mode == "host" || networks.iter().any(|network| network.driver == "host");
    config.hostname = first_given(&spec.hostname, if on_host { site.hostname } else { &site.id[..12] });
    config.user = first_given(&spec.user, &defaults.user);
    config.groups = spec.groups.clone();
    config.cap_add = spec.capability_add.clone();
    config.cap_drop = spec.capability_drop.clone();
    config.sysctls = spec.sysctls.clone();
    config.mounts = mounts;
    config.resources = resources(&limits)?;
    config.rlimits = spec
        .ulimits
        .iter()
        .map(|limit| Rlimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
        .collect();
    if spec.oom_score_adj != 0 {
        let score = i32::try_from(spec.oom_score_adj).map_err(|_| {
            EngineError::Invalid(format!(
                "invalid value {}, range for oom score adj is [-1000, 1000]",
                spec.oom_score_adj
            ))
        })?;
        config.oom_score_adj = Some(score);
    }
    if let Some(privileges) = &spec.privileges {
        config.no_new_privileges = privileges.no_new_privileges;
        config.seccomp = seccomp(&privileges.seccomp)?;
    }
    let files = files(&spec)?;
    config.tty = spec.tty;
    config.open_stdin = spec.open_stdin;
    config.init = spec.init == Some(true);
    let mut labels = defaults.labels.clone().unwrap_or_default();
    labels.extend(own_labels);
    let image_id = image.id.to_string();
    let about = log::About {
        id: site.id,
        name: &name,
        image: &spec.image,
        image_id: &image_id,
        labels: &labels,
        env: &config.env,
    };
    let (log_driver, log_options, log) = log::driver(log_driver.as_ref(), site.log_path.clone(), &about)?;
    config.log = log;
    let exposed_ports = more.exposed_ports(&defaults.exposed_ports, &mut ports)?;
    let by_hand = task.is_none().then(|| more.by_hand());
    if more.uts == Share::Host {
        site.hostname.clone_into(&mut config.hostname);
    }
    more.apply(&mut config);
    config.check().map_err(|error| EngineError::Invalid(error.to_string()))?;

    Ok(Record {
        version: RECORD_VERSION,
        id: site.id.to_owned(),
        name,
        created_at: site.now.clone(),
        task,
        image: spec.image.clone(),
        image_id,
        labels,
        entrypoint,
        cmd,
        exposed_ports,
        stop_signal: stop_signal.to_owned(),
        stop_grace_ms: u64::try_from(grace(&spec, defaults.stop_timeout).as_millis()).unwrap_or(u64::MAX),
        ports,
        hosts: spec.hosts.clone(),
        dns: [spec.dns.nameservers.clone(), spec.dns.search.clone(), spec.dns.options.clone()],
        mounts: shown_mounts,
        log_driver,
        log_options,
        health,
        config,
        by_hand,
        files,
        networks,
        network_mode,
    })
}

fn refuse_unsupported(spec: &ContainerSpec) -> Result<()> {
    let privileges = spec.privileges.clone().unwrap_or_default();
    let refused = [
        (!privileges.credential_spec.is_empty(), "a credential spec"),
        (privileges.selinux.iter().any(|option| option != "disable"), "SELinux options"),
        (!matches!(spec.isolation.as_str(), "" | "default"), "an isolation other than default"),
    ];
    match refused.into_iter().find(|(given, _)| *given) {
        Some((_, what)) => {
            Err(EngineError::Invalid(format!("cannot run the container with {what}: not supported yet")))
        }
        None => Ok(()),
    }
}

/// A command replaces the image's entrypoint and its command; arguments alone replace only the command. An empty word as the
/// command takes both away.
fn command(spec: &ContainerSpec, no_entrypoint: bool, image: &Image) -> (Vec<String>, Vec<String>) {
    let defaults = &image.config.config;
    if spec.command == [""] {
        return (Vec::new(), spec.args.clone());
    }
    if !spec.command.is_empty() {
        return (spec.command.clone(), spec.args.clone());
    }
    let entrypoint = if no_entrypoint { None } else { defaults.entrypoint.clone() }.unwrap_or_default();
    let cmd = if spec.args.is_empty() { defaults.cmd.clone().unwrap_or_default() } else { spec.args.clone() };
    (entrypoint, cmd)
}

/// The image's variables, each replaced where the container has one of its name; then the container's others. A name
/// without `=` takes the variable away.
fn environment(image: &[String], own: &[String]) -> Vec<String> {
    fn name(variable: &str) -> &str {
        variable.split_once('=').map_or(variable, |(name, _)| name)
    }
    let mut merged: Vec<String> = Vec::new();
    for variable in image.iter().chain(own) {
        match merged.iter_mut().find(|known| name(known) == name(variable)) {
            Some(known) => known.clone_from(variable),
            None => merged.push(variable.clone()),
        }
    }
    merged.retain(|variable| variable.contains('='));
    merged
}

fn first_given(own: &str, default: &str) -> String {
    if own.is_empty() { default.to_owned() } else { own.to_owned() }
}

fn grace(spec: &ContainerSpec, image_seconds: Option<i64>) -> Duration {
    let image = image_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    spec.stop_grace_period.or(image).unwrap_or_else(|| spec.stop_grace())
}

fn resources(wanted: &ResourceRequirements) -> Result<Resources> {
    let limits = wanted.limits.unwrap_or_default();
    let given = |number: i64| (number > 0).then_some(number);
    let memory = given(limits.memory.0);
    let memory_swap = match wanted.swap.map(|swap| swap.0) {
        None => None,
        Some(-1) => Some(-1),
        Some(_) if memory.is_none() => {
            return Err(EngineError::Invalid("memory swap provided, but no memory-limit was set".to_owned()));
        }
        Some(swap) => memory.map(|memory| memory.saturating_add(swap)),
    };
    let memory_swappiness = match wanted.memory_swappiness {
        None | Some(-1) => None,
        Some(number @ 0..=100) => u64::try_from(number).ok(),
        Some(number) => {
            let text = format!("invalid value: {number}, valid memory swappiness range is 0-100");
            return Err(EngineError::Invalid(text));
        }
    };
    let NanoCpus(cpus) = limits.cpus;
    Ok(Resources {
        memory,
        memory_swap,
        memory_swappiness,
        nano_cpus: given(cpus),
        pids: given(limits.pids),
        ..Resources::default()
    })
}

fn seccomp(mode: &SeccompMode) -> Result<Seccomp> {
    Ok(match mode {
        SeccompMode::Default => Seccomp::Default,
        SeccompMode::Unconfined => Seccomp::Unconfined,
        SeccompMode::Custom(profile) => Seccomp::Profile(
            String::from_utf8(profile.clone())
                .map_err(|_| EngineError::Invalid("the custom seccomp profile is not JSON text".to_owned()))?,
        ),
    })
}

#[cfg(test)]
mod tests;
