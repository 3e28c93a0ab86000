//! Specs of services and their tasks, between the model and SwarmKit's messages. The container has a file of its own.

use skep_model::{
    ByteSize, EndpointMode, EndpointSpec, FailureAction, Limits, NanoCpus, NetworkAttachmentConfig, Placement,
    PortConfig, Protocol, PublishMode, ResourceRequirements, Resources, RestartCondition, RestartPolicy, ServiceMode,
    ServiceSpec, TaskSpec, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus,
};

use crate::common::{
    annotations, duration, from_duration, numbers, optional_duration, port_number, timestamp, wall_time,
};
use crate::error::{DecodeError, Result, require};
use crate::swarmkit;

numbers! {
    protocol_number, protocol: Protocol = swarmkit::port_config::Protocol, "port protocol" {
        Tcp = Tcp, Udp = Udp, Sctp = Sctp,
    }
    publish_mode_number, publish_mode: PublishMode = swarmkit::port_config::PublishMode, "publish mode" {
        Ingress = Ingress, Host = Host,
    }
    endpoint_mode_number, endpoint_mode: EndpointMode = swarmkit::endpoint_spec::ResolutionMode, "endpoint mode" {
        Vip = Vip, DnsRr = Dnsrr,
    }
    failure_action_number, failure_action: FailureAction = swarmkit::update_config::FailureAction, "failure action" {
        Pause = Pause, Continue = Continue, Rollback = Rollback,
    }
    update_order_number, update_order: UpdateOrder = swarmkit::update_config::UpdateOrder, "update order" {
        StopFirst = StopFirst, StartFirst = StartFirst,
    }
    condition_number, condition: RestartCondition = swarmkit::restart_policy::RestartCondition, "restart condition" {
        None = None, OnFailure = OnFailure, Any = Any,
    }
    update_state_number, update_state: UpdateState = swarmkit::update_status::UpdateState, "update state" {
        Updating = Updating, Paused = Paused, Completed = Completed, RollbackStarted = RollbackStarted,
        RollbackPaused = RollbackPaused, RollbackCompleted = RollbackCompleted,
    }
}

/// SwarmKit's message of a service's spec; it also holds the scale, which the model keeps beside.
#[must_use]
pub fn service_spec(spec: &ServiceSpec, replicas: u64) -> swarmkit::ServiceSpec {
    use swarmkit::service_spec::Mode;
    let mode = match spec.mode {
        ServiceMode::Replicated => Mode::Replicated(swarmkit::ReplicatedService { replicas }),
        ServiceMode::Global => Mode::Global(swarmkit::GlobalService {}),
        ServiceMode::ReplicatedJob { max_concurrent, total_completions } => {
            Mode::ReplicatedJob(swarmkit::ReplicatedJob { max_concurrent, total_completions })
        }
        ServiceMode::GlobalJob => Mode::GlobalJob(swarmkit::GlobalJob {}),
    };
    swarmkit::ServiceSpec {
        annotations: annotations(&spec.name, &spec.labels),
        task: Some((&spec.task).into()),
        update: spec.update.as_ref().map(Into::into),
        networks: spec.networks.iter().map(Into::into).collect(),
        endpoint: spec.endpoint.as_ref().map(Into::into),
        rollback: spec.rollback.as_ref().map(Into::into),
        mode: Some(mode),
    }
}

impl TryFrom<swarmkit::ServiceSpec> for ServiceSpec {
    type Error = DecodeError;

    fn try_from(spec: swarmkit::ServiceSpec) -> Result<Self> {
        use swarmkit::service_spec::Mode;
        let mode = match spec.mode {
            Some(Mode::Replicated(_)) => ServiceMode::Replicated,
            Some(Mode::Global(_)) => ServiceMode::Global,
            Some(Mode::ReplicatedJob(job)) => ServiceMode::ReplicatedJob {
                max_concurrent: job.max_concurrent,
                total_completions: job.total_completions,
            },
            Some(Mode::GlobalJob(_)) => ServiceMode::GlobalJob,
            None => return Err(DecodeError::UnknownKind { what: "service mode" }),
        };
        let annotations = spec.annotations.unwrap_or_default();
        Ok(Self {
            name: annotations.name,
            labels: annotations.labels,
            task: require(spec.task, "task spec")?.try_into()?,
            mode,
            update: spec.update.map(TryInto::try_into).transpose()?,
            rollback: spec.rollback.map(TryInto::try_into).transpose()?,
            endpoint: spec.endpoint.map(TryInto::try_into).transpose()?,
            networks: spec.networks.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<&UpdateConfig> for swarmkit::UpdateConfig {
    fn from(config: &UpdateConfig) -> Self {
        Self {
            parallelism: config.parallelism,
            delay: Some(duration(config.delay)),
            failure_action: failure_action_number(config.failure_action),
            monitor: config.monitor.map(duration),
            max_failure_ratio: config.max_failure_ratio,
            order: update_order_number(config.order),
        }
    }
}

impl TryFrom<swarmkit::UpdateConfig> for UpdateConfig {
    type Error = DecodeError;

    fn try_from(config: swarmkit::UpdateConfig) -> Result<Self> {
        Ok(Self {
            parallelism: config.parallelism,
            delay: from_duration(config.delay.unwrap_or_default(), "update delay")?,
            failure_action: failure_action(config.failure_action)?,
            monitor: optional_duration(config.monitor, "update monitor")?,
            max_failure_ratio: config.max_failure_ratio,
            order: update_order(config.order)?,
        })
    }
}

impl From<&UpdateStatus> for swarmkit::UpdateStatus {
    fn from(status: &UpdateStatus) -> Self {
        Self {
            state: update_state_number(status.state),
            started_at: status.started_at.map(timestamp),
            completed_at: status.completed_at.map(timestamp),
            message: status.message.clone(),
        }
    }
}

impl TryFrom<swarmkit::UpdateStatus> for UpdateStatus {
    type Error = DecodeError;

    fn try_from(status: swarmkit::UpdateStatus) -> Result<Self> {
        Ok(Self {
            state: update_state(status.state)?,
            started_at: status.started_at.map(wall_time).transpose()?,
            completed_at: status.completed_at.map(wall_time).transpose()?,
            message: status.message,
        })
    }
}

impl From<&EndpointSpec> for swarmkit::EndpointSpec {
    fn from(spec: &EndpointSpec) -> Self {
        Self { mode: endpoint_mode_number(spec.mode), ports: spec.ports.iter().map(Into::into).collect() }
    }
}

impl TryFrom<swarmkit::EndpointSpec> for EndpointSpec {
    type Error = DecodeError;

    fn try_from(spec: swarmkit::EndpointSpec) -> Result<Self> {
        Ok(Self { mode: endpoint_mode(spec.mode)?, ports: ports(spec.ports)? })
    }
}

impl From<&PortConfig> for swarmkit::PortConfig {
    fn from(port: &PortConfig) -> Self {
        Self {
            name: port.name.clone(),
            protocol: protocol_number(port.protocol),
            target_port: u32::from(port.target_port),
            published_port: u32::from(port.published_port),
            publish_mode: publish_mode_number(port.mode),
        }
    }
}

impl TryFrom<swarmkit::PortConfig> for PortConfig {
    type Error = DecodeError;

    fn try_from(port: swarmkit::PortConfig) -> Result<Self> {
        Ok(Self {
            name: port.name,
            protocol: protocol(port.protocol)?,
            target_port: port_number(port.target_port, "target port")?,
            published_port: port_number(port.published_port, "published port")?,
            mode: publish_mode(port.publish_mode)?,
        })
    }
}

pub(crate) fn ports(ports: Vec<swarmkit::PortConfig>) -> Result<Vec<PortConfig>> {
    ports.into_iter().map(TryInto::try_into).collect()
}

impl From<&TaskSpec> for swarmkit::TaskSpec {
    fn from(spec: &TaskSpec) -> Self {
        let mut container = swarmkit::ContainerSpec::from(&spec.container);
        container.pids_limit = spec.resources.limits.map_or(0, |limits| limits.pids);
        Self {
            resources: Some((&spec.resources).into()),
            restart: spec.restart.as_ref().map(Into::into),
            placement: Some((&spec.placement).into()),
            log_driver: spec.log_driver.as_ref().map(Into::into),
            networks: spec.networks.iter().map(Into::into).collect(),
            force_update: spec.force_update,
            resource_references: Vec::new(),
            runtime: Some(swarmkit::task_spec::Runtime::Container(container)),
        }
    }
}

impl TryFrom<swarmkit::TaskSpec> for TaskSpec {
    type Error = DecodeError;

    fn try_from(spec: swarmkit::TaskSpec) -> Result<Self> {
        let Some(swarmkit::task_spec::Runtime::Container(container)) = spec.runtime else {
            return Err(DecodeError::UnknownKind { what: "task runtime (only containers are known)" });
        };
        let mut resources = ResourceRequirements::try_from(spec.resources.unwrap_or_default())?;
        if container.pids_limit != 0 {
            resources.limits.get_or_insert_default().pids = container.pids_limit;
        }
        Ok(Self {
            container: container.try_into()?,
            resources,
            restart: spec.restart.map(TryInto::try_into).transpose()?,
            placement: spec.placement.unwrap_or_default().try_into()?,
            log_driver: spec.log_driver.map(Into::into),
            networks: spec.networks.into_iter().map(Into::into).collect(),
            force_update: spec.force_update,
        })
    }
}

impl From<&ResourceRequirements> for swarmkit::ResourceRequirements {
    fn from(requirements: &ResourceRequirements) -> Self {
        Self {
            limits: requirements.limits.map(|limits| swarmkit::Resources {
                nano_cpus: limits.cpus.0,
                memory_bytes: limits.memory.0,
                generic: Vec::new(),
            }),
            reservations: requirements.reservations.as_ref().map(Into::into),
            swap_bytes: requirements.swap.map(|swap| swap.0),
            memory_swappiness: requirements.memory_swappiness,
        }
    }
}

impl TryFrom<swarmkit::ResourceRequirements> for ResourceRequirements {
    type Error = DecodeError;

    fn try_from(requirements: swarmkit::ResourceRequirements) -> Result<Self> {
        Ok(Self {
            limits: requirements.limits.map(|limits| Limits {
                cpus: NanoCpus(limits.nano_cpus),
                memory: ByteSize(limits.memory_bytes),
                pids: 0,
            }),
            reservations: requirements.reservations.map(TryInto::try_into).transpose()?,
            swap: requirements.swap_bytes.map(ByteSize),
            memory_swappiness: requirements.memory_swappiness,
        })
    }
}

impl From<&Resources> for swarmkit::Resources {
    fn from(resources: &Resources) -> Self {
        Self {
            nano_cpus: resources.cpus.0,
            memory_bytes: resources.memory.0,
            generic: resources.generic.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<swarmkit::Resources> for Resources {
    type Error = DecodeError;

    fn try_from(resources: swarmkit::Resources) -> Result<Self> {
        Ok(Self {
            cpus: NanoCpus(resources.nano_cpus),
            memory: ByteSize(resources.memory_bytes),
            generic: resources.generic.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        })
    }
}

impl From<&RestartPolicy> for swarmkit::RestartPolicy {
    fn from(policy: &RestartPolicy) -> Self {
        Self {
            condition: condition_number(policy.condition),
            delay: policy.delay.map(duration),
            max_attempts: policy.max_attempts,
            window: policy.window.map(duration),
        }
    }
}

impl TryFrom<swarmkit::RestartPolicy> for RestartPolicy {
    type Error = DecodeError;

    fn try_from(policy: swarmkit::RestartPolicy) -> Result<Self> {
        Ok(Self {
            condition: condition(policy.condition)?,
            delay: optional_duration(policy.delay, "restart delay")?,
            max_attempts: policy.max_attempts,
            window: optional_duration(policy.window, "restart window")?,
        })
    }
}

impl From<&Placement> for swarmkit::Placement {
    fn from(placement: &Placement) -> Self {
        use swarmkit::placement_preference::Preference;
        Self {
            constraints: placement.constraints.clone(),
            preferences: placement
                .preferences
                .iter()
                .map(|spread| swarmkit::PlacementPreference {
                    preference: Some(Preference::Spread(swarmkit::SpreadOver { spread_descriptor: spread.clone() })),
                })
                .collect(),
            platforms: placement.platforms.iter().map(Into::into).collect(),
            max_replicas: placement.max_replicas,
        }
    }
}

impl TryFrom<swarmkit::Placement> for Placement {
    type Error = DecodeError;

    fn try_from(placement: swarmkit::Placement) -> Result<Self> {
        use swarmkit::placement_preference::Preference;
        Ok(Self {
            constraints: placement.constraints,
            preferences: placement
                .preferences
                .into_iter()
                .map(|preference| match preference.preference {
                    Some(Preference::Spread(spread)) => Ok(spread.spread_descriptor),
                    None => Err(DecodeError::UnknownKind { what: "placement preference" }),
                })
                .collect::<Result<_>>()?,
            platforms: placement.platforms.into_iter().map(Into::into).collect(),
            max_replicas: placement.max_replicas,
        })
    }
}

impl From<&NetworkAttachmentConfig> for swarmkit::NetworkAttachmentConfig {
    fn from(config: &NetworkAttachmentConfig) -> Self {
        Self {
            target: config.target.clone(),
            aliases: config.aliases.clone(),
            addresses: config.addresses.clone(),
            driver_attachment_opts: config.driver_options.clone(),
        }
    }
}

impl From<swarmkit::NetworkAttachmentConfig> for NetworkAttachmentConfig {
    fn from(config: swarmkit::NetworkAttachmentConfig) -> Self {
        Self {
            target: config.target,
            aliases: config.aliases,
            addresses: config.addresses,
            driver_options: config.driver_attachment_opts,
        }
    }
}
