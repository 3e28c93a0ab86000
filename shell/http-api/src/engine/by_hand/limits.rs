//! Limits of a `HostConfig`, with Docker's checks (`verifyPlatformContainerResources`).

use skep_api_types::{ContainerUpdate, HostConfig, ThrottleDevice, WeightDevice};
use skep_engine::{DeviceLimit, Resources, RestartPolicy, Update};

use super::wanted::{Machine, invalid, refuse};
use crate::engine::EngineError;

/// Docker's smallest memory limit in bytes.
const MEMORY_MIN: i64 = 6 << 20;

pub(super) fn limits(
    host: &HostConfig,
    machine: &Machine,
    warnings: &mut Vec<String>,
) -> Result<Resources, EngineError> {
    check_memory(host, warnings)?;
    check_cpu(host, machine)?;
    refuse(&[(
        host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0,
        "real-time scheduling (--cpu-rt-period, --cpu-rt-runtime)",
    )])?;
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return invalid("Range of blkio weight is from 10 to 1000");
    }
    if host.kernel_memory != 0 || host.kernel_memory_tcp != 0 {
        warnings.push("Specifying a kernel memory limit is deprecated and has no effect.".to_owned());
    }
    let given = |number: i64| (number > 0).then_some(number);
    Ok(Resources {
        memory: given(host.memory),
        memory_swap: (host.memory_swap != 0).then_some(host.memory_swap),
        memory_swappiness: host.memory_swappiness.and_then(|number| u64::try_from(number).ok()),
        nano_cpus: given(host.nano_cpus),
        cpu_shares: u64::try_from(host.cpu_shares).ok().filter(|shares| *shares > 0),
        cpu_period: u64::try_from(host.cpu_period).ok().filter(|period| *period > 0),
        cpu_quota: (host.cpu_quota != 0).then_some(host.cpu_quota),
        cpuset_cpus: (!host.cpuset_cpus.is_empty()).then(|| host.cpuset_cpus.clone()),
        cpuset_mems: (!host.cpuset_mems.is_empty()).then(|| host.cpuset_mems.clone()),
        memory_reservation: given(host.memory_reservation),
        oom_kill_disable: host.oom_kill_disable == Some(true),
        blkio_weight: (host.blkio_weight > 0).then_some(host.blkio_weight),
        blkio_weight_device: weights(host.blkio_weight_device.as_deref()),
        blkio_read_bps: rates(host.blkio_device_read_bps.as_deref()),
        blkio_write_bps: rates(host.blkio_device_write_bps.as_deref()),
        blkio_read_iops: rates(host.blkio_device_read_iops.as_deref()),
        blkio_write_iops: rates(host.blkio_device_write_iops.as_deref()),
        pids: host.pids_limit.filter(|limit| *limit > 0),
    })
}

fn weights(given: Option<&[WeightDevice]>) -> Vec<DeviceLimit> {
    let limit = |device: &WeightDevice| DeviceLimit { path: device.path.clone().into(), value: device.weight.into() };
    given.unwrap_or_default().iter().map(limit).collect()
}

fn rates(given: Option<&[ThrottleDevice]>) -> Vec<DeviceLimit> {
    let limit = |device: &ThrottleDevice| DeviceLimit { path: device.path.clone().into(), value: device.rate };
    given.unwrap_or_default().iter().map(limit).collect()
}

/// What `docker update` changes: what is given, with the same checks.
pub(super) fn update(given: ContainerUpdate, cpus: usize) -> Result<(Update, Vec<String>), EngineError> {
    let lists = [
        !given.blkio_weight_device.is_empty(),
        !given.blkio_device_read_bps.is_empty(),
        !given.blkio_device_write_bps.is_empty(),
        !given.blkio_device_read_iops.is_empty(),
        !given.blkio_device_write_iops.is_empty(),
    ];
    refuse(&[
        (lists.contains(&true), "a change of block I/O limits of single devices"),
        (!given.devices.is_empty() || !given.device_requests.is_empty(), "a change of its devices"),
        (!given.device_cgroup_rules.is_empty(), "a change of its device rules"),
        (!given.cgroup_parent.is_empty(), "a change of its cgroup parent"),
        (!given.ulimits.is_empty(), "a change of its ulimits"),
        (given.oom_kill_disable == Some(true), "a change of --oom-kill-disable"),
    ])?;
    let policy = &given.restart_policy;
    let restart = if policy.name.is_empty() && policy.maximum_retry_count == 0 {
        None
    } else {
        Some(RestartPolicy::parse(&policy.name, policy.maximum_retry_count)?)
    };
    let unlimited = given.pids_limit.is_some_and(|limit| limit <= 0);
    let host = HostConfig {
        cpu_shares: given.cpu_shares,
        memory: given.memory,
        nano_cpus: given.nano_cpus,
        blkio_weight: given.blkio_weight,
        cpu_period: given.cpu_period,
        cpu_quota: given.cpu_quota,
        cpu_realtime_period: given.cpu_realtime_period,
        cpu_realtime_runtime: given.cpu_realtime_runtime,
        cpuset_cpus: given.cpuset_cpus,
        cpuset_mems: given.cpuset_mems,
        kernel_memory: given.kernel_memory,
        kernel_memory_tcp: given.kernel_memory_tcp,
        memory_reservation: given.memory_reservation,
        memory_swappiness: given.memory_swappiness,
        pids_limit: given.pids_limit,
        // Alone it is measured against the limit that stays, by the engine.
        memory_swap: if given.memory == 0 { 0 } else { given.memory_swap },
        ..HostConfig::default()
    };
    let mut warnings = Vec::new();
    let machine = Machine { gateway: String::new(), cpus, platform: String::new() };
    let mut limits = limits(&host, &machine, &mut warnings)?;
    if given.memory_swap != 0 {
        limits.memory_swap = Some(given.memory_swap);
    }
    if unlimited {
        limits.pids = Some(-1);
    }
    Ok((Update { limits, restart }, warnings))
}

fn check_memory(host: &HostConfig, warnings: &mut Vec<String>) -> Result<(), EngineError> {
    if host.memory != 0 && host.memory < MEMORY_MIN {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    match host.memory_swap {
        0 | -1 => {}
        _ if host.memory == 0 => {
            return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
        }
        swap if swap < host.memory => {
            return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
        }
        _ => {}
    }
    if let Some(number) = host.memory_swappiness
        && !(-1..=100).contains(&number)
    {
        return invalid(format!("Invalid value: {number}, valid memory swappiness range is 0-100"));
    }
    if host.memory_reservation < 0 || (host.memory_reservation != 0 && host.memory_reservation < MEMORY_MIN) {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if host.memory != 0 && host.memory_reservation > host.memory {
        return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if host.oom_kill_disable == Some(true) && host.memory == 0 {
        let text = "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
                    running out of resources.";
        warnings.push(text.to_owned());
    }
    Ok(())
}

fn check_cpu(host: &HostConfig, machine: &Machine) -> Result<(), EngineError> {
    if host.nano_cpus != 0 && host.cpu_period != 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set.");
    }
    if host.nano_cpus != 0 && host.cpu_quota != 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set.");
    }
    let most = i64::try_from(machine.cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if host.nano_cpus != 0 && !(0..=most).contains(&host.nano_cpus) {
        let cpus = machine.cpus;
        return invalid(format!("range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"));
    }
    if host.cpu_shares < 0 {
        return invalid(format!("invalid CPU shares ({}): value must be a positive integer", host.cpu_shares));
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    for (what, list) in [("cpus", &host.cpuset_cpus), ("mems", &host.cpuset_mems)] {
        if !is_set(list) {
            return invalid(format!("Invalid value {list} for cpuset {what}"));
        }
    }
    Ok(())
}

/// `0-2,4`; empty is fine.
fn is_set(list: &str) -> bool {
    let is_number = |text: &str| text.parse::<u16>().is_ok();
    list.is_empty()
        || list.split(',').all(|part| match part.split_once('-') {
            Some((first, last)) => {
                is_number(first) && is_number(last) && first.parse::<u16>().ok() <= last.parse::<u16>().ok()
            }
            None => is_number(part),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut HostConfig)) -> Result<Resources, String> {
        let mut host = HostConfig::default();
        change(&mut host);
        let machine = Machine { gateway: String::new(), cpus: 2, platform: String::new() };
        limits(&host, &machine, &mut Vec::new()).map_err(|error| error.text)
    }

    #[test]
    fn limits_are_checked_as_docker_does() {
        let limits = check(|host| {
            (host.memory, host.memory_swap, host.nano_cpus) = (64 << 20, -1, 500_000_000);
            (host.memory_swappiness, host.pids_limit) = (Some(-1), Some(0));
            host.cpuset_cpus = "0-1,1".to_owned();
        });
        let limits = limits.unwrap();
        assert_eq!(
            (limits.memory, limits.memory_swap, limits.nano_cpus),
            (Some(64 << 20), Some(-1), Some(500_000_000))
        );
        assert_eq!((limits.memory_swappiness, limits.pids), (None, None));
        for (text, error) in [
            ("6MB", check(|host| host.memory = 1024)),
            ("always set the Memory limit", check(|host| host.memory_swap = 64 << 20)),
            ("larger than memory limit", check(|host| (host.memory, host.memory_swap) = (64 << 20, 32 << 20))),
            ("swappiness range", check(|host| host.memory_swappiness = Some(101))),
            ("as there are only 2 CPUs", check(|host| host.nano_cpus = 3_000_000_000)),
            ("CPU Period cannot both", check(|host| (host.nano_cpus, host.cpu_period) = (1, 1000))),
            ("Invalid value 2-1 for cpuset cpus", check(|host| host.cpuset_cpus = "2-1".to_owned())),
        ] {
            let error = error.unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
