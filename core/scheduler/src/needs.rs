//! What the tasks of one revision ask of a node, worked out once per revision.

use std::collections::BTreeMap;

use skep_model::constraint::{self, Constraint, ConstraintError};
use skep_model::{
    Cluster, Driver, GenericResource, MountKind, Platform, Protocol, PublishMode, Resources, ServiceSpec,
};

/// What a task asks of the node that runs it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Needs {
    /// Reserved processor time in billionths.
    pub(crate) cpus: i64,
    /// Reserved memory in bytes.
    pub(crate) memory: i64,
    /// Reserved resources that an administrator named, by kind.
    pub(crate) generic: BTreeMap<String, i64>,
    /// Volume drivers beside `local`.
    pub(crate) volume_drivers: Vec<String>,
    /// The log driver, when it is not the node's own choice.
    pub(crate) log_driver: Option<String>,
    /// Conditions on the node. One that cannot be read is fulfilled by no node.
    pub(crate) constraints: Result<Vec<Constraint>, ConstraintError>,
    /// Platforms of the image, normalized; empty is any.
    pub(crate) platforms: Vec<Platform>,
    /// Ports that the task binds on its node.
    pub(crate) host_ports: Vec<(Protocol, u16)>,
    /// Most tasks of the service on one node; 0 is any number.
    pub(crate) max_replicas: u64,
    /// Labels to spread over, most important first.
    pub(crate) spread_over: Vec<String>,
}

impl Needs {
    pub(crate) fn of(spec: &ServiceSpec, cluster: Option<&Cluster>) -> Self {
        let reserved = spec.task.resources.reservations.clone().unwrap_or_default();
        let log_driver =
            spec.task.log_driver.as_ref().or_else(|| cluster.and_then(|cluster| cluster.spec.log_driver.as_ref()));
        Self {
            cpus: reserved.cpus.0.max(0),
            memory: reserved.memory.0.max(0),
            generic: generic_by_kind(&reserved),
            volume_drivers: volume_drivers(spec),
            log_driver: log_driver.map(|driver| driver.name.clone()).filter(|name| !name.is_empty() && name != "none"),
            constraints: spec.task.placement.constraints.iter().map(|text| constraint::parse(text)).collect(),
            platforms: spec.task.placement.platforms.iter().map(normalized).collect(),
            host_ports: host_ports(spec),
            max_replicas: spec.task.placement.max_replicas,
            spread_over: spec.task.placement.preferences.iter().filter(|key| is_label(key)).cloned().collect(),
        }
    }
}

/// How much of each kind there is; one named resource counts as one of its kind.
pub(crate) fn generic_by_kind(resources: &Resources) -> BTreeMap<String, i64> {
    let mut amounts = BTreeMap::new();
    for resource in &resources.generic {
        let (kind, amount) = match resource {
            GenericResource::Named { kind, .. } => (kind, 1),
            GenericResource::Discrete { kind, value } => (kind, (*value).max(0)),
        };
        let sum: &mut i64 = amounts.entry(kind.clone()).or_default();
        *sum = sum.saturating_add(amount);
    }
    amounts
}

/// Architectures by the names that Go and image indexes use.
pub(crate) fn normalized(platform: &Platform) -> Platform {
    let architecture = match platform.architecture.as_str() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { architecture: architecture.to_owned(), os: platform.os.clone() }
}

/// Only labels can be spread over; Docker ignores other keys.
fn is_label(key: &str) -> bool {
    let starts_with = |prefix: &str| {
        key.split_at_checked(prefix.len())
            .is_some_and(|(head, rest)| head.eq_ignore_ascii_case(prefix) && !rest.is_empty())
    };
    starts_with("node.labels.") || starts_with("engine.labels.")
}

fn volume_drivers(spec: &ServiceSpec) -> Vec<String> {
    let driver_of = |driver: &Driver| (!driver.name.is_empty() && driver.name != "local").then(|| driver.name.clone());
    spec.task
        .container
        .mounts
        .iter()
        .filter(|mount| mount.kind == MountKind::Volume)
        .filter_map(|mount| mount.volume.as_ref()?.driver.as_ref())
        .filter_map(driver_of)
        .collect()
}

fn host_ports(spec: &ServiceSpec) -> Vec<(Protocol, u16)> {
    spec.ports()
        .iter()
        .filter(|port| port.mode == PublishMode::Host && port.published_port != 0)
        .map(|port| (port.protocol, port.published_port))
        .collect()
}
