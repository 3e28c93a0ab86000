//! Small values that many messages hold: ids, times, numbers that stand for names.

use std::time::Duration;

use skep_model::{DesiredState, Driver, GenericResource, ObjectId, Platform, TaskState, WallTime};

use crate::error::{DecodeError, Result};
use crate::swarmkit;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

pub(crate) fn id<T: ObjectId>(text: &str) -> Result<T> {
    Ok(T::parse(text)?)
}

pub(crate) fn optional_id<T: ObjectId>(text: Option<&String>) -> Result<Option<T>> {
    text.map(|text| id(text)).transpose()
}

/// A duration as protobuf's well-known one.
#[must_use]
pub fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).expect("a second has fewer nanoseconds than an i32 holds"),
    }
}

pub(crate) fn from_duration(value: prost_types::Duration, field: &'static str) -> Result<Duration> {
    let bad = || DecodeError::OutOfRange {
        field,
        value: i128::from(value.seconds) * i128::from(NANOS_PER_SECOND) + i128::from(value.nanos),
    };
    let seconds = u64::try_from(value.seconds).map_err(|_| bad())?;
    let nanos = u32::try_from(value.nanos).map_err(|_| bad())?;
    if i64::from(nanos) >= NANOS_PER_SECOND {
        return Err(bad());
    }
    Ok(Duration::new(seconds, nanos))
}

pub(crate) fn optional_duration(value: Option<prost_types::Duration>, field: &'static str) -> Result<Option<Duration>> {
    value.map(|value| from_duration(value, field)).transpose()
}

/// A wall time as protobuf's well-known timestamp.
#[must_use]
pub fn timestamp(time: WallTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.0.div_euclid(NANOS_PER_SECOND),
        nanos: i32::try_from(time.0.rem_euclid(NANOS_PER_SECOND)).expect("a remainder of 10^9 fits an i32"),
    }
}

/// A well-known timestamp as wall time, which reaches from 1677 to 2262.
///
/// # Errors
/// When the time lies outside of that.
pub fn wall_time(time: prost_types::Timestamp) -> Result<WallTime> {
    let nanos = i128::from(time.seconds) * i128::from(NANOS_PER_SECOND) + i128::from(time.nanos);
    i64::try_from(nanos).map(WallTime).map_err(|_| DecodeError::OutOfRange { field: "timestamp", value: nanos })
}

pub(crate) fn port_number(value: u32, field: &'static str) -> Result<u16> {
    u16::try_from(value).map_err(|_| DecodeError::OutOfRange { field, value: i128::from(value) })
}

pub(crate) fn task_state(number: i32) -> Result<TaskState> {
    TaskState::from_number(number).ok_or(DecodeError::UnknownNumber { what: "task state", number })
}

pub(crate) fn desired_number(desired: DesiredState) -> i32 {
    desired.as_state() as i32
}

pub(crate) fn desired_state(number: i32) -> Result<DesiredState> {
    let state = task_state(number)?;
    DesiredState::from_state(state).ok_or(DecodeError::NotDesired(state))
}

/// Two functions between the values of a closed enumeration and their numbers on the wire.
macro_rules! numbers {
    ($($to:ident, $from:ident: $model:ty = $wire:ty, $what:literal { $($value:ident = $number:ident),* $(,)? })*) => {$(
        pub(crate) fn $to(value: $model) -> i32 {
            match value {
                $(<$model>::$value => <$wire>::$number as i32,)*
            }
        }

        pub(crate) fn $from(number: i32) -> $crate::error::Result<$model> {
            match <$wire>::try_from(number) {
                $(Ok(<$wire>::$number) => Ok(<$model>::$value),)*
                #[allow(unreachable_patterns, reason = "some wire enumerations have more values than the model")]
                _ => Err($crate::error::DecodeError::UnknownNumber { what: $what, number }),
            }
        }
    )*};
}
pub(crate) use numbers;

impl From<&Driver> for swarmkit::Driver {
    fn from(driver: &Driver) -> Self {
        Self { name: driver.name.clone(), options: driver.options.clone() }
    }
}

impl From<swarmkit::Driver> for Driver {
    fn from(driver: swarmkit::Driver) -> Self {
        Self { name: driver.name, options: driver.options }
    }
}

impl From<&Platform> for swarmkit::Platform {
    fn from(platform: &Platform) -> Self {
        Self { architecture: platform.architecture.clone(), os: platform.os.clone() }
    }
}

impl From<swarmkit::Platform> for Platform {
    fn from(platform: swarmkit::Platform) -> Self {
        Self { architecture: platform.architecture, os: platform.os }
    }
}

impl From<&GenericResource> for swarmkit::GenericResource {
    fn from(resource: &GenericResource) -> Self {
        use swarmkit::generic_resource::Resource;
        let resource = match resource {
            GenericResource::Named { kind, value } => {
                Resource::NamedResourceSpec(swarmkit::NamedGenericResource { kind: kind.clone(), value: value.clone() })
            }
            GenericResource::Discrete { kind, value } => {
                Resource::DiscreteResourceSpec(swarmkit::DiscreteGenericResource { kind: kind.clone(), value: *value })
            }
        };
        Self { resource: Some(resource) }
    }
}

impl TryFrom<swarmkit::GenericResource> for GenericResource {
    type Error = DecodeError;

    fn try_from(resource: swarmkit::GenericResource) -> Result<Self> {
        use swarmkit::generic_resource::Resource;
        match resource.resource {
            Some(Resource::NamedResourceSpec(named)) => Ok(Self::Named { kind: named.kind, value: named.value }),
            Some(Resource::DiscreteResourceSpec(discrete)) => {
                Ok(Self::Discrete { kind: discrete.kind, value: discrete.value })
            }
            None => Err(DecodeError::UnknownKind { what: "kind of generic resource" }),
        }
    }
}

pub(crate) fn annotations(name: &str, labels: &skep_model::Labels) -> Option<swarmkit::Annotations> {
    Some(swarmkit::Annotations { name: name.to_owned(), labels: labels.clone(), indices: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_keep_their_value() {
        for nanos in [0, 1, -1, i64::MIN, i64::MAX, -NANOS_PER_SECOND] {
            assert_eq!(wall_time(timestamp(WallTime(nanos))), Ok(WallTime(nanos)));
        }
        assert!(wall_time(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }).is_err());
    }

    #[test]
    fn negative_durations_are_refused() {
        assert!(from_duration(prost_types::Duration { seconds: -1, nanos: 0 }, "delay").is_err());
        assert!(from_duration(prost_types::Duration { seconds: 0, nanos: 1_000_000_000 }, "delay").is_err());
    }
}
