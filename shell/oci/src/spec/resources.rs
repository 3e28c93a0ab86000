//! Limits in OCI form, left out where this machine has no controller for them (`HostInfo::missing` says so).

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use serde_json::{Map, Value, json};

use crate::cgroup::{CgroupMode, Cgroups};
use crate::config::{ContainerConfig, DeviceLimit, Resources, Rlimit};
use crate::host::has_sys_resource;

/// Microseconds of the CPU quota's period, Docker's.
const CPU_PERIOD: i64 = 100_000;

/// Device nodes a container may use: to make any, and to open the harmless ones (Docker's list).
const DEVICES: [(&str, Option<i64>, Option<i64>, &str); 9] = [
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", Some(1), Some(3), "rwm"),
    ("c", Some(1), Some(5), "rwm"),
    ("c", Some(1), Some(7), "rwm"),
    ("c", Some(1), Some(8), "rwm"),
    ("c", Some(1), Some(9), "rwm"),
    ("c", Some(5), Some(0), "rwm"),
    ("c", Some(136), None, "rwm"),
];

/// The text of an error is for people.
pub(super) fn resources(
    config: &ContainerConfig,
    cgroups: &Cgroups,
    more_devices: Vec<Value>,
) -> Result<Value, String> {
    let wanted = &config.resources;
    let mut all = Map::new();
    let mut devices = vec![json!({"allow": false, "access": "rwm"})];
    for (kind, major, minor, access) in DEVICES {
        let mut device = json!({"allow": true, "type": kind, "access": access});
        if let Some(major) = major {
            device["major"] = json!(major);
        }
        if let Some(minor) = minor {
            device["minor"] = json!(minor);
        }
        devices.push(device);
    }
    devices.extend(more_devices);
    all.insert("devices".to_owned(), json!(devices));
    let mut memory = json!({});
    if cgroups.has("memory")
        && let Some(limit) = wanted.memory.filter(|limit| *limit > 0)
    {
        memory["limit"] = json!(limit);
        if cgroups.limits_swap(&config.cgroup_parent, &config.id) {
            // Docker: as much swap again when nothing is said.
            memory["swap"] = json!(wanted.memory_swap.unwrap_or_else(|| limit.saturating_mul(2)));
        }
        if let Some(swappiness) = wanted.memory_swappiness {
            memory["swappiness"] = json!(swappiness);
        }
    }
    if cgroups.has("memory") {
        if let Some(reservation) = wanted.memory_reservation.filter(|limit| *limit > 0) {
            memory["reservation"] = json!(reservation);
        }
        if wanted.oom_kill_disable && cgroups.mode != CgroupMode::V2 {
            memory["disableOOMKiller"] = json!(true);
        }
    }
    if memory.as_object().is_some_and(|memory| !memory.is_empty()) {
        all.insert("memory".to_owned(), memory);
    }
    let mut cpu = Map::new();
    if cgroups.has("cpu") {
        if let Some(nanos) = wanted.nano_cpus.filter(|nanos| *nanos > 0) {
            let quota = i128::from(nanos) * i128::from(CPU_PERIOD) / 1_000_000_000;
            // The kernel takes no less than a millisecond.
            cpu.insert("quota".to_owned(), json!(i64::try_from(quota).unwrap_or(i64::MAX).max(1000)));
            cpu.insert("period".to_owned(), json!(CPU_PERIOD));
        }
        if let Some(period) = wanted.cpu_period.filter(|period| *period > 0) {
            cpu.insert("period".to_owned(), json!(period));
        }
        if let Some(quota) = wanted.cpu_quota.filter(|quota| *quota != 0) {
            cpu.insert("quota".to_owned(), json!(quota));
        }
        if let Some(shares) = wanted.cpu_shares.filter(|shares| *shares > 0) {
            cpu.insert("shares".to_owned(), json!(shares));
        }
    }
    if cgroups.has("cpuset")
        && let Some(cpus) = wanted.cpuset_cpus.as_ref().filter(|cpus| !cpus.is_empty())
    {
        cpu.insert("cpus".to_owned(), json!(cpus));
    }
    if cgroups.has("cpuset")
        && let Some(nodes) = wanted.cpuset_mems.as_ref().filter(|nodes| !nodes.is_empty())
    {
        cpu.insert("mems".to_owned(), json!(nodes));
    }
    if !cpu.is_empty() {
        all.insert("cpu".to_owned(), Value::Object(cpu));
    }
    if cgroups.has("pids")
        && let Some(limit) = wanted.pids.filter(|limit| *limit > 0)
    {
        all.insert("pids".to_owned(), json!({"limit": limit}));
    }
    if cgroups.has("blkio") || cgroups.has("io") {
        let block = block_io(wanted)?;
        if !block.is_empty() {
            all.insert("blockIO".to_owned(), Value::Object(block));
        }
    }
    Ok(Value::Object(all))
}

fn block_io(wanted: &Resources) -> Result<Map<String, Value>, String> {
    let mut all = Map::new();
    if let Some(weight) = wanted.blkio_weight.filter(|weight| *weight > 0) {
        all.insert("weight".to_owned(), json!(weight));
    }
    for (name, value, limits) in [
        ("weightDevice", "weight", &wanted.blkio_weight_device),
        ("throttleReadBpsDevice", "rate", &wanted.blkio_read_bps),
        ("throttleWriteBpsDevice", "rate", &wanted.blkio_write_bps),
        ("throttleReadIOPSDevice", "rate", &wanted.blkio_read_iops),
        ("throttleWriteIOPSDevice", "rate", &wanted.blkio_write_iops),
    ] {
        let limits: Vec<Value> = limits.iter().map(|limit| device_limit(limit, value)).collect::<Result<_, _>>()?;
        if !limits.is_empty() {
            all.insert(name.to_owned(), json!(limits));
        }
    }
    Ok(all)
}

/// A limit of one block device, with its numbers.
fn device_limit(limit: &DeviceLimit, name: &str) -> Result<Value, String> {
    let metadata = std::fs::metadata(&limit.path).map_err(|error| format!("{}: {error}", limit.path.display()))?;
    if !metadata.file_type().is_block_device() {
        return Err(format!("{} is not a block device", limit.path.display()));
    }
    let numbers = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    let mut value = json!({"major": numbers.0, "minor": numbers.1});
    value[name] = json!(limit.value);
    Ok(value)
}

/// `ulimit`s with Docker's names. The text of an error is for people.
pub(super) fn rlimits(wanted: &[Rlimit]) -> Result<Vec<Value>, String> {
    let may_raise = has_sys_resource();
    wanted.iter().map(|limit| rlimit(limit, may_raise)).collect()
}

fn rlimit(wanted: &Rlimit, may_raise: bool) -> Result<Value, String> {
    let name = wanted.name.to_ascii_uppercase();
    let resource = match name.as_str() {
        "AS" => libc::RLIMIT_AS,
        "CORE" => libc::RLIMIT_CORE,
        "CPU" => libc::RLIMIT_CPU,
        "DATA" => libc::RLIMIT_DATA,
        "FSIZE" => libc::RLIMIT_FSIZE,
        "LOCKS" => libc::RLIMIT_LOCKS,
        "MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "NICE" => libc::RLIMIT_NICE,
        "NOFILE" => libc::RLIMIT_NOFILE,
        "NPROC" => libc::RLIMIT_NPROC,
        "RSS" => libc::RLIMIT_RSS,
        "RTPRIO" => libc::RLIMIT_RTPRIO,
        "RTTIME" => libc::RLIMIT_RTTIME,
        "SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "STACK" => libc::RLIMIT_STACK,
        _ => return Err(format!("invalid ulimit type: {}", wanted.name)),
    };
    let unlimited = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let (mut soft, mut hard) = (unlimited(wanted.soft), unlimited(wanted.hard));
    if soft > hard {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {}",
            wanted.soft, wanted.hard
        ));
    }
    if !may_raise {
        let mut current = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid resource number and a place for the answer.
        if unsafe { libc::getrlimit(resource, &raw mut current) } == 0 {
            hard = hard.min(current.rlim_max);
            soft = soft.min(hard);
        }
    }
    Ok(json!({"type": format!("RLIMIT_{name}"), "soft": soft, "hard": hard}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked_and_clamped() {
        let limit = |name: &str, soft, hard| Rlimit { name: name.to_owned(), soft, hard };
        assert_eq!(
            rlimit(&limit("nofile", 10, 20), true),
            Ok(json!({"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}))
        );
        assert_eq!(rlimit(&limit("core", -1, -1), true).map(|it| it["hard"].clone()), Ok(json!(u64::MAX)));
        assert!(rlimit(&limit("nofile", 30, 20), true).is_err());
        assert_eq!(rlimit(&limit("x", 1, 1), true), Err("invalid ulimit type: x".to_owned()));
        let clamped = rlimit(&limit("nofile", 1 << 40, 1 << 40), false).expect("valid");
        assert!(clamped["hard"].as_u64().expect("number") < 1 << 40);
    }
}
