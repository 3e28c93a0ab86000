//! The service's own part: name, mode, update, ports.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skep_model as model;

use super::{Nanos, TaskSpec, duration, given, nanos};
use crate::text::is_zero;
use crate::{Map, Refusal, Text};

/// What a user asks of a service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's ServiceSpec and documented there")]
pub struct ServiceSpec<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: Text<'a>,
    pub labels: Map<'a>,
    pub task_template: TaskSpec<'a>,
    pub mode: ServiceMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_config: Option<UpdateConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_config: Option<UpdateConfig<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<super::NetworkAttachmentConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_spec: Option<EndpointSpec<'a>>,
}

impl<'a> ServiceSpec<'a> {
    /// The JSON form of a spec with its scale.
    #[must_use]
    pub fn of(spec: &'a model::ServiceSpec, replicas: u64) -> Self {
        Self {
            name: Cow::Borrowed(&spec.name),
            labels: Cow::Borrowed(&spec.labels),
            task_template: TaskSpec::of(&spec.task),
            mode: ServiceMode::of(spec.mode, replicas),
            update_config: spec.update.as_ref().map(UpdateConfig::of),
            rollback_config: spec.rollback.as_ref().map(UpdateConfig::of),
            networks: spec.networks.iter().map(super::NetworkAttachmentConfig::of).collect(),
            endpoint_spec: spec.endpoint.as_ref().map(EndpointSpec::of),
        }
    }

    /// What a create or update asks for, defaults of the engine filled in: one replica, container runtime.
    pub fn into_model(self) -> Result<model::ServiceDefinition, Refusal> {
        let (mode, replicas) = self.mode.into_model()?;
        let spec = model::ServiceSpec {
            name: self.name.into_owned(),
            labels: self.labels.into_owned(),
            task: self.task_template.into_model()?,
            mode,
            update: self.update_config.map(|config| config.into_model("update")).transpose()?,
            rollback: self.rollback_config.map(|config| config.into_model("rollback")).transpose()?,
            endpoint: self.endpoint_spec.map(EndpointSpec::into_model).transpose()?,
            networks: self.networks.into_iter().map(super::NetworkAttachmentConfig::into_model).collect(),
        };
        Ok(model::ServiceDefinition { spec: Arc::new(spec), replicas })
    }

    /// Adds what `insertDefaults=true` adds (SwarmKit `api/defaults/service.go`).
    pub fn insert_defaults(&mut self) {
        self.task_template.insert_defaults();
        for config in [&mut self.update_config, &mut self.rollback_config] {
            config.get_or_insert_with(|| UpdateConfig::of(&model::UpdateConfig::default())).insert_defaults();
        }
    }
}

/// How many tasks, and of what kind; exactly one is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's ServiceMode and documented there")]
pub struct ServiceMode {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated: Option<ReplicatedMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<GlobalMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated_job: Option<ReplicatedJobMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_job: Option<GlobalMode>,
}

/// A number of equal tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ReplicatedMode {
    /// How many; one when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u64>,
}

/// One task per node: nothing to say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GlobalMode {}

/// A number of tasks that run to completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ReplicatedJobMode {
    /// At a time; one when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u64>,
    /// In all; as many as at a time when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_completions: Option<u64>,
}

impl ServiceMode {
    fn of(mode: model::ServiceMode, replicas: u64) -> Self {
        match mode {
            model::ServiceMode::Replicated => {
                Self { replicated: Some(ReplicatedMode { replicas: Some(replicas) }), ..Self::default() }
            }
            model::ServiceMode::Global => Self { global: Some(GlobalMode {}), ..Self::default() },
            model::ServiceMode::ReplicatedJob { max_concurrent, total_completions } => Self {
                replicated_job: Some(ReplicatedJobMode {
                    max_concurrent: Some(max_concurrent),
                    total_completions: Some(total_completions),
                }),
                ..Self::default()
            },
            model::ServiceMode::GlobalJob => Self { global_job: Some(GlobalMode {}), ..Self::default() },
        }
    }

    fn into_model(self) -> Result<(model::ServiceMode, u64), Refusal> {
        match (self.replicated, self.global, self.replicated_job, self.global_job) {
            (replicated, None, None, None) => {
                Ok((model::ServiceMode::Replicated, replicated.and_then(|mode| mode.replicas).unwrap_or(1)))
            }
            (None, Some(_), None, None) => Ok((model::ServiceMode::Global, 0)),
            (None, None, Some(job), None) => {
                let max_concurrent = job.max_concurrent.unwrap_or(1);
                let total_completions = job.total_completions.unwrap_or(max_concurrent);
                Ok((model::ServiceMode::ReplicatedJob { max_concurrent, total_completions }, 0))
            }
            (None, None, None, Some(_)) => Ok((model::ServiceMode::GlobalJob, 0)),
            _ => Err(Refusal::invalid("must specify only one service mode")),
        }
    }
}

/// How an update or rollback goes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's UpdateConfig and documented there")]
pub struct UpdateConfig<'a> {
    pub parallelism: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub delay: Nanos,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub failure_action: Text<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    pub monitor: Nanos,
    #[serde(serialize_with = "ratio")]
    pub max_failure_ratio: f32,
    pub order: Text<'a>,
}

/// Go writes a whole `float32` without a fraction.
fn ratio<S: serde::Serializer>(ratio: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    if *ratio == 0.0 {
        serializer.serialize_u8(0)
    } else if (*ratio - 1.0).abs() < f32::EPSILON {
        serializer.serialize_u8(1)
    } else {
        serializer.serialize_f32(*ratio)
    }
}

impl UpdateConfig<'_> {
    fn of(config: &model::UpdateConfig) -> UpdateConfig<'static> {
        UpdateConfig {
            parallelism: config.parallelism,
            delay: nanos(config.delay),
            failure_action: Cow::Borrowed(match config.failure_action {
                model::FailureAction::Pause => "pause",
                model::FailureAction::Continue => "continue",
                model::FailureAction::Rollback => "rollback",
            }),
            monitor: config.monitor.map_or(0, nanos),
            max_failure_ratio: config.max_failure_ratio,
            order: Cow::Borrowed(match config.order {
                model::UpdateOrder::StopFirst => "stop-first",
                model::UpdateOrder::StartFirst => "start-first",
            }),
        }
    }

    fn into_model(self, what: &str) -> Result<model::UpdateConfig, Refusal> {
        Ok(model::UpdateConfig {
            parallelism: self.parallelism,
            delay: duration(self.delay, &format!("TaskSpec: {what}-delay cannot be negative"))?,
            failure_action: match &*self.failure_action {
                "" | "pause" => model::FailureAction::Pause,
                "continue" => model::FailureAction::Continue,
                "rollback" => model::FailureAction::Rollback,
                other => return Err(Refusal::Invalid(format!("unrecognized update failure action {other}"))),
            },
            monitor: given(duration(self.monitor, &format!("TaskSpec: {what}-monitor cannot be negative"))?),
            max_failure_ratio: self.max_failure_ratio,
            order: match &*self.order {
                "" | "stop-first" => model::UpdateOrder::StopFirst,
                "start-first" => model::UpdateOrder::StartFirst,
                other => return Err(Refusal::Invalid(format!("unrecognized update order {other}"))),
            },
        })
    }

    fn insert_defaults(&mut self) {
        if self.monitor == 0 {
            self.monitor = nanos(model::UPDATE_MONITOR_DEFAULT);
        }
    }
}

/// Ports and name resolution.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's EndpointSpec and documented there")]
pub struct EndpointSpec<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub mode: Text<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig<'a>>,
}

impl<'a> EndpointSpec<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(endpoint: &'a model::EndpointSpec) -> Self {
        let mode = match endpoint.mode {
            model::EndpointMode::Vip => "vip",
            model::EndpointMode::DnsRr => "dnsrr",
        };
        Self { mode: Cow::Borrowed(mode), ports: endpoint.ports.iter().map(PortConfig::of).collect() }
    }

    fn into_model(self) -> Result<model::EndpointSpec, Refusal> {
        let mode = match &*self.mode {
            "" | "vip" => model::EndpointMode::Vip,
            "dnsrr" => model::EndpointMode::DnsRr,
            other => return Err(Refusal::Invalid(format!("invalid resolution mode: {other:?}"))),
        };
        let ports = self.ports.into_iter().map(PortConfig::into_model).collect::<Result<_, _>>()?;
        Ok(model::EndpointSpec { mode, ports })
    }
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's PortConfig and documented there")]
pub struct PortConfig<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub protocol: Text<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    pub target_port: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub published_port: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub publish_mode: Text<'a>,
}

impl<'a> PortConfig<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(port: &'a model::PortConfig) -> Self {
        Self {
            name: Cow::Borrowed(&port.name),
            protocol: Cow::Borrowed(port.protocol.name()),
            target_port: port.target_port.into(),
            published_port: port.published_port.into(),
            publish_mode: Cow::Borrowed(match port.mode {
                model::PublishMode::Ingress => "ingress",
                model::PublishMode::Host => "host",
            }),
        }
    }

    fn into_model(self) -> Result<model::PortConfig, Refusal> {
        let number = |what: &str, port: u32, least: u16| match u16::try_from(port) {
            Ok(port) if port >= least => Ok(port),
            _ => Err(Refusal::Argument(format!("EndpointSpec: invalid {what} port {port}: must be {least} to 65535"))),
        };
        Ok(model::PortConfig {
            protocol: match &*self.protocol {
                "" | "tcp" => model::Protocol::Tcp,
                "udp" => model::Protocol::Udp,
                "sctp" => model::Protocol::Sctp,
                other => return Err(Refusal::Invalid(format!("invalid port protocol: {other:?}"))),
            },
            target_port: number("target", self.target_port, 1)?,
            published_port: number("published", self.published_port, 0)?,
            mode: match &*self.publish_mode {
                "" | "ingress" => model::PublishMode::Ingress,
                "host" => model::PublishMode::Host,
                other => return Err(Refusal::Invalid(format!("invalid publish mode: {other:?}"))),
            },
            name: self.name.into_owned(),
        })
    }
}
