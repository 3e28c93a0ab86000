//! Requests about services.

use std::sync::Arc;
use std::time::Duration;

use skep_control::Env;
use skep_model::{
    ByteSize, NanoCpus, Service, ServiceDefinition, ServiceId, ServiceMode, ServiceSpec, UpdateConfig, Version,
    check_service_name, constraint,
};
use skep_store::{AtomicGroup, Change, State};

use crate::image_name::is_image_reference;
use crate::{Admitted, Code, Refusal, mounts, names, networks, ports, references, unsupported};

/// Least processor time that can be asked for, in billionths of a CPU.
const CPU_MIN: i64 = 1_000_000;
/// Least memory that can be asked for.
const MEMORY_MIN: i64 = 4 * 1024 * 1024;
/// Least time of a health check's periods.
const HEALTH_TIME_MIN: Duration = Duration::from_millis(1);

pub(crate) fn create(view: &State, definition: ServiceDefinition, env: &mut Env) -> Result<Admitted, Refusal> {
    let mut definition = definition;
    if definition.spec.name.is_empty() {
        Arc::make_mut(&mut definition.spec).name = names::random_name(view, env);
    }
    let spec = &definition.spec;
    check_spec(spec)?;
    if let Some(other) = view.service_by_name(&spec.name) {
        return Err(Refusal::new(
            Code::AlreadyExists,
            format!("name conflicts with an existing object: service {} already exists", other.spec.name),
        ));
    }
    check_ports(view, None, spec)?;
    references::check_existence(view, spec)?;
    let preconditions = networks::check(view, spec)?;
    let service = env.rng.id();
    let changes = vec![AtomicGroup { preconditions, changes: vec![Change::CreateService { service, definition }] }];
    Ok(Admitted { changes, service: Some(service), ..Admitted::default() })
}

pub(crate) fn update(
    view: &State,
    service: ServiceId,
    version: Version,
    definition: ServiceDefinition,
) -> Result<Admitted, Refusal> {
    let stored = find(view, service)?;
    let spec = &definition.spec;
    check_spec(spec)?;
    if !stored.spec.name.eq_ignore_ascii_case(&spec.name) {
        return Err(Refusal::new(Code::Unimplemented, "renaming services is not supported"));
    }
    if std::mem::discriminant::<ServiceMode>(&stored.spec.mode) != std::mem::discriminant(&spec.mode) {
        return Err(Refusal::new(Code::Unimplemented, "service mode change is not allowed"));
    }
    check_ports(view, Some(service), spec)?;
    references::check_existence(view, spec)?;
    networks::check_moved(&stored.spec, spec)?;
    let preconditions = networks::check(view, spec)?;
    let change = Change::UpdateService { service, expect: version, definition };
    let changes = vec![AtomicGroup { preconditions, changes: vec![change] }];
    Ok(Admitted { changes, ..Admitted::default() })
}

pub(crate) fn rollback(view: &State, service: ServiceId, version: Version) -> Result<Admitted, Refusal> {
    let stored = find(view, service)?;
    let Some(previous) = &stored.previous else {
        let text = format!("service {} does not have a previous spec", stored.id);
        return Err(Refusal::new(Code::FailedPrecondition, text));
    };
    let definition = ServiceDefinition { spec: previous.spec.clone(), replicas: previous.replicas };
    update(view, service, version, definition)?;
    let change = Change::RollbackService { service, expect: version, reason: None };
    Ok(Admitted { changes: vec![change.into()], ..Admitted::default() })
}

pub(crate) fn remove(view: &State, service: ServiceId) -> Result<Admitted, Refusal> {
    find(view, service)?;
    Ok(Admitted { changes: vec![Change::RemoveService(service).into()], ..Admitted::default() })
}

fn find(view: &State, service: ServiceId) -> Result<&Arc<Service>, Refusal> {
    view.service(service).ok_or_else(|| Refusal::new(Code::NotFound, format!("service {service} not found")))
}

fn check_ports(view: &State, own: Option<ServiceId>, spec: &ServiceSpec) -> Result<(), Refusal> {
    spec.endpoint.as_ref().map_or(Ok(()), |endpoint| ports::check(view, own, endpoint))
}

/// What a spec must satisfy whatever the state is, in the order SwarmKit checks it.
fn check_spec(spec: &ServiceSpec) -> Result<(), Refusal> {
    check_service_name(&spec.name).map_err(|error| Refusal::invalid(error.to_string()))?;
    let task = &spec.task;
    if let Some(limits) = &task.resources.limits {
        check_amounts(limits.cpus, limits.memory)?;
        if limits.pids < 0 {
            return Err(Refusal::invalid("invalid pids limit: must not be negative"));
        }
    }
    if let Some(reservations) = &task.resources.reservations {
        check_amounts(reservations.cpus, reservations.memory)?;
    }
    for expression in &task.placement.constraints {
        constraint::parse(expression).map_err(|error| Refusal::invalid(error.to_string()))?;
    }
    check_update(spec.update.as_ref())?;
    check_update(spec.rollback.as_ref())?;
    references::check(&spec.task.container)?;
    check_container(spec)?;
    unsupported::check(spec)
}

/// A number of CPUs as Go prints it: below 0.0001 with an exponent of two digits.
fn shown(NanoCpus(nano): NanoCpus) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown to a person, as Docker shows it")]
    let cpus = nano as f64 / 1e9;
    if cpus.abs() >= 1e-4 { cpus.to_string() } else { format!("{cpus:e}").replace("e-", "e-0") }
}

fn check_amounts(cpus: NanoCpus, memory: ByteSize) -> Result<(), Refusal> {
    if cpus.0 != 0 && cpus.0 < CPU_MIN {
        return Err(Refusal::invalid(format!("invalid cpu value {}: Must be at least 0.001", shown(cpus))));
    }
    if memory.0 != 0 && memory.0 < MEMORY_MIN {
        return Err(Refusal::invalid(format!("invalid memory value {}: Must be at least 4MiB", memory.0)));
    }
    Ok(())
}

fn check_update(config: Option<&UpdateConfig>) -> Result<(), Refusal> {
    if config.is_some_and(|config| !(0.0..=1.0).contains(&config.max_failure_ratio)) {
        return Err(Refusal::invalid("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"));
    }
    Ok(())
}

fn check_container(spec: &ServiceSpec) -> Result<(), Refusal> {
    let container = &spec.task.container;
    if container.image.is_empty() {
        return Err(Refusal::invalid("ContainerSpec: image reference must be provided"));
    }
    if !is_image_reference(&container.image) {
        return Err(Refusal::invalid(format!("ContainerSpec: {:?} is not a valid repository/tag", container.image)));
    }
    mounts::check(&container.mounts)?;
    if let Some(health) = &container.healthcheck {
        let times = [
            ("interval", health.interval),
            ("timeout", health.timeout),
            ("start period", health.start_period),
            ("start interval", health.start_interval),
        ];
        for (name, time) in times {
            if time.is_some_and(|time| !time.is_zero() && time < HEALTH_TIME_MIN) {
                return Err(Refusal::invalid(format!("ContainerSpec: health check {name} cannot be less than 1ms")));
            }
        }
        if health.retries < 0 {
            return Err(Refusal::invalid("ContainerSpec: health check retries cannot be negative"));
        }
    }
    Ok(())
}
