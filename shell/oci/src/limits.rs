//! New limits for a container that runs: written into its control groups.

use std::io;
use std::path::PathBuf;

use crate::cgroup::{CgroupMode, Cgroups};
use crate::config::Resources;

/// Microseconds of the CPU quota's period, Docker's.
const CPU_PERIOD: u64 = 100_000;

/// Tells the kernel the limits of the container `id` below `parent`. Those that are not given stay; those that this machine has
/// no controller for are left out, as at the start.
///
/// # Errors
/// The text of the kernel's refusal with the file, e.g. when the container uses more memory than it may.
pub fn set_limits(parent: &str, id: &str, limits: &Resources) -> io::Result<()> {
    let cgroups = Cgroups::detect()?;
    let files = Files { cgroups: &cgroups, parent, id };
    if cgroups.mode == CgroupMode::V2 { version_2(&files, limits) } else { version_1(&files, limits) }
}

struct Files<'a> {
    cgroups: &'a Cgroups,
    parent: &'a str,
    id: &'a str,
}

impl Files<'_> {
    fn path(&self, controller: &str, file: &str) -> Option<PathBuf> {
        if !self.cgroups.has(controller) {
            return None;
        }
        let path = self.cgroups.directory(controller, self.parent, self.id)?.join(file);
        path.exists().then_some(path)
    }

    fn write(&self, controller: &str, file: &str, value: impl ToString) -> io::Result<()> {
        let Some(path) = self.path(controller, file) else { return Ok(()) };
        std::fs::write(&path, value.to_string())
            .map_err(|error| io::Error::new(error.kind(), format!("cannot set {file}: {error}")))
    }

    fn write_if<T: ToString>(&self, controller: &str, file: &str, value: Option<T>) -> io::Result<()> {
        value.map_or(Ok(()), |value| self.write(controller, file, value))
    }
}

/// Quota and period in microseconds; a quota of -1 is unlimited.
fn cpu(limits: &Resources) -> (Option<i64>, Option<u64>) {
    match limits.nano_cpus.filter(|nanos| *nanos > 0) {
        Some(nanos) => {
            let quota = i128::from(nanos) * i128::from(CPU_PERIOD) / 1_000_000_000;
            (Some(i64::try_from(quota).unwrap_or(i64::MAX).max(1000)), Some(CPU_PERIOD))
        }
        None => (limits.cpu_quota, limits.cpu_period),
    }
}

/// Memory and swap together; without a word about it as much swap again, as Docker does.
fn swap(limits: &Resources) -> Option<i64> {
    limits.memory_swap.or_else(|| limits.memory.map(|memory| memory.saturating_mul(2)))
}

fn version_1(files: &Files<'_>, limits: &Resources) -> io::Result<()> {
    let (limit, both) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
    // The sum may never be below the part: which goes first depends on whether they grow.
    if files.write_if("memory", limit, limits.memory).is_err() {
        files.write_if("memory", both, swap(limits))?;
        files.write_if("memory", limit, limits.memory)?;
    } else {
        files.write_if("memory", both, swap(limits))?;
    }
    files.write_if("memory", "memory.soft_limit_in_bytes", limits.memory_reservation)?;
    files.write_if("memory", "memory.swappiness", limits.memory_swappiness)?;
    let (quota, period) = cpu(limits);
    files.write_if("cpu", "cpu.cfs_period_us", period)?;
    files.write_if("cpu", "cpu.cfs_quota_us", quota)?;
    files.write_if("cpu", "cpu.shares", limits.cpu_shares)?;
    files.write_if("cpuset", "cpuset.cpus", limits.cpuset_cpus.as_ref())?;
    files.write_if("cpuset", "cpuset.mems", limits.cpuset_mems.as_ref())?;
    files.write_if("blkio", "blkio.weight", limits.blkio_weight)?;
    files.write_if("pids", "pids.max", limits.pids.map(unlimited))
}

fn version_2(files: &Files<'_>, limits: &Resources) -> io::Result<()> {
    files.write_if("memory", "memory.max", limits.memory)?;
    let only_swap = match (swap(limits), limits.memory) {
        (Some(-1), _) => Some("max".to_owned()),
        (Some(both), Some(memory)) => Some((both - memory).max(0).to_string()),
        _ => None,
    };
    files.write_if("memory", "memory.swap.max", only_swap)?;
    files.write_if("memory", "memory.low", limits.memory_reservation)?;
    let (quota, period) = cpu(limits);
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        files.write("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(CPU_PERIOD)))?;
    }
    // The kernel's own scale: 2..262144 becomes 1..10000.
    let weight = limits.cpu_shares.map(|shares| 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142);
    files.write_if("cpu", "cpu.weight", weight)?;
    files.write_if("cpuset", "cpuset.cpus", limits.cpuset_cpus.as_ref())?;
    files.write_if("cpuset", "cpuset.mems", limits.cpuset_mems.as_ref())?;
    files.write_if("pids", "pids.max", limits.pids.map(unlimited))
}

/// `max` for what is not limited.
fn unlimited(limit: i64) -> String {
    if limit > 0 { limit.to_string() } else { "max".to_owned() }
}
