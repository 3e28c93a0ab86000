//! The task's part: resources, restart, placement, networks.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_model as model;

use super::{ContainerSpec, Driver, Nanos, duration, nanos};
use crate::text::{is_empty_list, is_empty_map, is_zero};
use crate::{Map, Refusal, Text, Texts};

/// What one task is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's TaskSpec and documented there")]
pub struct TaskSpec<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_spec: Option<ContainerSpec<'a>>,
    #[serde(skip_serializing)]
    pub plugin_spec: Option<serde::de::IgnoredAny>,
    #[serde(skip_serializing)]
    pub network_attachment_spec: Option<serde::de::IgnoredAny>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachmentConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<Driver<'a>>,
    pub force_update: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub runtime: Text<'a>,
}

impl<'a> TaskSpec<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(task: &'a model::TaskSpec) -> Self {
        Self {
            container_spec: Some(ContainerSpec::of(&task.container)),
            plugin_spec: None,
            network_attachment_spec: None,
            resources: Some(Resources::of(&task.resources)),
            restart_policy: task.restart.as_ref().map(RestartPolicy::of),
            placement: Some(Placement::of(&task.placement)),
            networks: task.networks.iter().map(NetworkAttachmentConfig::of).collect(),
            log_driver: task.log_driver.as_ref().map(Driver::of),
            force_update: task.force_update,
            runtime: Cow::Borrowed("container"),
        }
    }

    pub(super) fn into_model(self) -> Result<model::TaskSpec, Refusal> {
        let container = self.container_spec;
        let container = match (&*self.runtime, container) {
            ("" | "container", Some(container)) if self.plugin_spec.is_none() => container,
            ("plugin", None) if self.plugin_spec.is_some() => {
                return Err(Refusal::unsupported("a service with runtime \"plugin\""));
            }
            ("attachment", None) if self.network_attachment_spec.is_some() => {
                return Err(Refusal::invalid("invalid task spec: spec type \"attachment\" not supported"));
            }
            ("" | "container" | "plugin" | "attachment", _) => {
                return Err(Refusal::invalid("mismatched Runtime and *Spec fields"));
            }
            _ => return Err(Refusal::invalid("unsupported runtime")),
        };
        Ok(model::TaskSpec {
            container: container.into_model()?,
            resources: self.resources.unwrap_or_default().into_model()?,
            restart: self.restart_policy.map(RestartPolicy::into_model).transpose()?,
            placement: self.placement.unwrap_or_default().into_model(),
            networks: self.networks.into_iter().map(NetworkAttachmentConfig::into_model).collect(),
            log_driver: self.log_driver.map(Driver::into_model),
            force_update: self.force_update,
        })
    }

    pub(super) fn insert_defaults(&mut self) {
        if let Some(container) = &mut self.container_spec {
            container.stop_grace_period.get_or_insert(nanos(model::STOP_GRACE_DEFAULT));
        }
        let policy = self.restart_policy.get_or_insert_with(|| RestartPolicy::of(&model::RestartPolicy::default()));
        policy.delay.get_or_insert(nanos(model::RESTART_DELAY_DEFAULT));
    }
}

/// Limits and reservations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's ResourceRequirements and documented there")]
pub struct Resources<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservations: Option<Reservations<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swappiness: Option<i64>,
}

/// Most that a task may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Limit and documented there")]
pub struct Limits {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
    pub nano_cpus: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_bytes: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub pids: i64,
}

/// What a task needs, and what a node has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Resources and documented there")]
pub struct Reservations<'a> {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
    pub nano_cpus: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_bytes: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generic_resources: Vec<GenericResource<'a>>,
}

/// A resource that an administrator named; one of the two is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's GenericResource and documented there")]
pub struct GenericResource<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_resource_spec: Option<NamedResource<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discrete_resource_spec: Option<DiscreteResource<'a>>,
}

/// One of a kind, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct NamedResource<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub value: Text<'a>,
}

/// A number of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct DiscreteResource<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: Text<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    pub value: i64,
}

impl<'a> GenericResource<'a> {
    fn of(resource: &'a model::GenericResource) -> Self {
        match resource {
            model::GenericResource::Named { kind, value } => Self {
                named_resource_spec: Some(NamedResource { kind: Cow::Borrowed(kind), value: Cow::Borrowed(value) }),
                discrete_resource_spec: None,
            },
            model::GenericResource::Discrete { kind, value } => Self {
                named_resource_spec: None,
                discrete_resource_spec: Some(DiscreteResource { kind: Cow::Borrowed(kind), value: *value }),
            },
        }
    }

    fn into_model(self) -> Result<model::GenericResource, Refusal> {
        match (self.named_resource_spec, self.discrete_resource_spec) {
            (Some(named), None) => {
                Ok(model::GenericResource::Named { kind: named.kind.into_owned(), value: named.value.into_owned() })
            }
            (None, Some(discrete)) => {
                Ok(model::GenericResource::Discrete { kind: discrete.kind.into_owned(), value: discrete.value })
            }
            _ => Err(Refusal::invalid("a generic resource needs one of NamedResourceSpec and DiscreteResourceSpec")),
        }
    }
}

impl<'a> Reservations<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(resources: &'a model::Resources) -> Self {
        Self {
            nano_cpus: resources.cpus.0,
            memory_bytes: resources.memory.0,
            generic_resources: resources.generic.iter().map(GenericResource::of).collect(),
        }
    }

    fn into_model(self) -> Result<model::Resources, Refusal> {
        Ok(model::Resources {
            cpus: model::NanoCpus(self.nano_cpus),
            memory: model::ByteSize(self.memory_bytes),
            generic: self.generic_resources.into_iter().map(GenericResource::into_model).collect::<Result<_, _>>()?,
        })
    }
}

impl<'a> Resources<'a> {
    fn of(resources: &'a model::ResourceRequirements) -> Self {
        Self {
            limits: resources.limits.map(|limits| Limits {
                nano_cpus: limits.cpus.0,
                memory_bytes: limits.memory.0,
                pids: limits.pids,
            }),
            reservations: resources.reservations.as_ref().map(Reservations::of),
            swap_bytes: resources.swap.map(|swap| swap.0),
            memory_swappiness: resources.memory_swappiness,
        }
    }

    fn into_model(self) -> Result<model::ResourceRequirements, Refusal> {
        Ok(model::ResourceRequirements {
            limits: self.limits.map(|limits| model::Limits {
                cpus: model::NanoCpus(limits.nano_cpus),
                memory: model::ByteSize(limits.memory_bytes),
                pids: limits.pids,
            }),
            reservations: self.reservations.map(Reservations::into_model).transpose()?,
            swap: self.swap_bytes.map(model::ByteSize),
            memory_swappiness: self.memory_swappiness,
        })
    }
}

/// What happens when a task ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's RestartPolicy and documented there")]
pub struct RestartPolicy<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub condition: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Nanos>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Nanos>,
}

impl RestartPolicy<'_> {
    fn of(policy: &model::RestartPolicy) -> RestartPolicy<'static> {
        RestartPolicy {
            condition: Cow::Borrowed(match policy.condition {
                model::RestartCondition::None => "none",
                model::RestartCondition::OnFailure => "on-failure",
                model::RestartCondition::Any => "any",
            }),
            delay: policy.delay.map(nanos),
            max_attempts: Some(policy.max_attempts),
            window: policy.window.map(nanos),
        }
    }

    fn into_model(self) -> Result<model::RestartPolicy, Refusal> {
        let time = |nanos: Option<Nanos>, refusal| nanos.map(|nanos| duration(nanos, refusal)).transpose();
        Ok(model::RestartPolicy {
            condition: match &*self.condition {
                "none" => model::RestartCondition::None,
                "on-failure" => model::RestartCondition::OnFailure,
                "" | "any" => model::RestartCondition::Any,
                other => return Err(Refusal::Invalid(format!("invalid RestartCondition: {other:?}"))),
            },
            delay: time(self.delay, "TaskSpec: restart-delay cannot be negative")?,
            max_attempts: self.max_attempts.unwrap_or(0),
            window: time(self.window, "TaskSpec: restart-window cannot be negative")?,
        })
    }
}

/// Where tasks may run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Placement and documented there")]
pub struct Placement<'a> {
    #[serde(skip_serializing_if = "is_empty_list")]
    pub constraints: Texts<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<PlacementPreference<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_replicas: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform<'a>>,
}

/// One preference; spreading is the only kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PlacementPreference<'a> {
    /// Spread over the values of a label.
    pub spread: Option<SpreadOver<'a>>,
}

/// Spread over the values of a label.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SpreadOver<'a> {
    /// For instance `node.labels.zone`.
    pub spread_descriptor: Text<'a>,
}

/// Processor architecture and operating system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Platform<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub architecture: Text<'a>,
    #[serde(rename = "OS", skip_serializing_if = "str::is_empty")]
    pub os: Text<'a>,
}

impl<'a> Platform<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(platform: &'a model::Platform) -> Self {
        Self { architecture: Cow::Borrowed(&platform.architecture), os: Cow::Borrowed(&platform.os) }
    }
}

impl<'a> Placement<'a> {
    fn of(placement: &'a model::Placement) -> Self {
        let spread = |label: &'a String| PlacementPreference {
            spread: Some(SpreadOver { spread_descriptor: Cow::Borrowed(label) }),
        };
        Self {
            constraints: Cow::Borrowed(&placement.constraints),
            preferences: placement.preferences.iter().map(spread).collect(),
            max_replicas: placement.max_replicas,
            platforms: placement.platforms.iter().map(Platform::of).collect(),
        }
    }

    fn into_model(self) -> model::Placement {
        let platform = |platform: Platform<'_>| model::Platform {
            architecture: platform.architecture.into_owned(),
            os: platform.os.into_owned(),
        };
        model::Placement {
            constraints: self.constraints.into_owned(),
            preferences: self
                .preferences
                .into_iter()
                .filter_map(|preference| preference.spread)
                .map(|spread| spread.spread_descriptor.into_owned())
                .collect(),
            platforms: self.platforms.into_iter().map(platform).collect(),
            max_replicas: self.max_replicas,
        }
    }
}

/// A network that tasks are attached to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's NetworkAttachmentConfig and documented there")]
pub struct NetworkAttachmentConfig<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub target: Text<'a>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub aliases: Texts<'a>,
    #[serde(skip_serializing_if = "is_empty_map")]
    pub driver_opts: Map<'a>,
}

impl<'a> NetworkAttachmentConfig<'a> {
    pub(super) fn of(network: &'a model::NetworkAttachmentConfig) -> Self {
        Self {
            target: Cow::Borrowed(&network.target),
            aliases: Cow::Borrowed(&network.aliases),
            driver_opts: Cow::Borrowed(&network.driver_options),
        }
    }

    pub(super) fn into_model(self) -> model::NetworkAttachmentConfig {
        model::NetworkAttachmentConfig {
            target: self.target.into_owned(),
            aliases: self.aliases.into_owned(),
            addresses: Vec::new(),
            driver_options: self.driver_opts.into_owned(),
        }
    }
}
