//! `ServiceSpec` and everything in it, in Go's order of fields and with Go's `omitempty`.
//!
//! `of` builds the JSON form of a model value (borrowed), `into_model` goes the other way and refuses what Docker refuses
//! while it converts: unknown words, missing parts, negative times. Whether a spec makes sense in a cluster is for
//! `admission`.

mod container;
mod gate;
mod mount;
mod service;
mod task;

pub use container::{
    AppArmorOptions, ConfigReference, ContainerSpec, CredentialSpec, DnsConfig, FileTarget, HealthConfig, Privileges,
    SeLinuxContext, SeccompOptions, SecretReference, Ulimit,
};
pub use mount::{BindOptions, Driver, ImageOptions, Mount, TmpfsOptions, VolumeOptions};
pub use service::{
    EndpointSpec, GlobalMode, PortConfig, ReplicatedJobMode, ReplicatedMode, ServiceMode, ServiceSpec, UpdateConfig,
};
pub use task::{
    DiscreteResource, GenericResource, Limits, NamedResource, NetworkAttachmentConfig, Placement, PlacementPreference,
    Platform, Reservations, Resources, RestartPolicy, SpreadOver, TaskSpec,
};

use std::time::Duration;

use crate::Refusal;

/// A duration as Go writes it: nanoseconds.
pub(crate) type Nanos = i64;

pub(crate) fn nanos(duration: Duration) -> Nanos {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A duration that must not be negative; `refusal` is the manager's text when it is.
pub(crate) fn duration(nanos: Nanos, refusal: &str) -> Result<Duration, Refusal> {
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| Refusal::argument(refusal))
}

/// Zero means "not given".
pub(crate) fn given(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}
