//! What a container uses right now, read from its control group: the numbers that `docker stats` shows. Units are the
//! kernel's: bytes, and nanoseconds of processor time.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::cgroup::{CgroupMode, Cgroups};

/// What a container uses. What the machine does not count is absent or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// How many there may be; `None` is unlimited.
    pub pids_limit: Option<u64>,
    /// Bytes and operations on block devices.
    pub block_io: Vec<BlockIo>,
}

/// Processor time in nanoseconds since the container's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// All of it.
    pub total: u64,
    /// In the kernel.
    pub kernel: u64,
    /// Outside of it.
    pub user: u64,
    /// By processor; only with control groups of version 1.
    pub per_cpu: Vec<u64>,
    /// Periods in which a quota was in force.
    pub periods: u64,
    /// Periods in which it was used up.
    pub throttled_periods: u64,
    /// How long the container was held up by it.
    pub throttled_time: u64,
}

/// Memory in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// In use, caches included.
    pub usage: u64,
    /// Most that was in use; only where the kernel counts it.
    pub max_usage: Option<u64>,
    /// What may be used; `None` is unlimited.
    pub limit: Option<u64>,
    /// How often the limit was hit; only with control groups of version 1.
    pub failures: Option<u64>,
    /// The kernel's own breakdown, `memory.stat`.
    pub stats: BTreeMap<String, u64>,
}

/// One kind of operation on one block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockIo {
    /// Major number of the device.
    pub major: u64,
    /// Minor number of the device.
    pub minor: u64,
    /// `read` or `write`.
    pub operation: String,
    /// Bytes.
    pub bytes: u64,
    /// Requests.
    pub requests: u64,
}

/// What the container `id` below the control group `parent` uses.
///
/// # Errors
/// When no control groups are mounted, or the container is gone.
pub fn usage(parent: &str, id: &str) -> io::Result<Usage> {
    let cgroups = Cgroups::detect()?;
    let directory = |controller: &str| cgroups.directory(controller, parent, id);
    let mut read = if cgroups.mode == CgroupMode::V2 {
        let directory = directory("").ok_or(io::ErrorKind::NotFound)?;
        v2(&directory)?
    } else {
        v1(directory)?
    };
    // Docker's number for "no limit" is what the machine has; that is the caller's to fill in.
    read.memory.limit = read.memory.limit.filter(|limit| *limit < 1 << 62);
    Ok(read)
}

fn v2(directory: &Path) -> io::Result<Usage> {
    let cpu = flat(&std::fs::read_to_string(directory.join("cpu.stat"))?);
    let of = |name: &str| cpu.get(name).copied().unwrap_or(0);
    Ok(Usage {
        cpu: CpuUsage {
            total: of("usage_usec") * 1000,
            kernel: of("system_usec") * 1000,
            user: of("user_usec") * 1000,
            per_cpu: Vec::new(),
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled_time: of("throttled_usec") * 1000,
        },
        memory: MemoryUsage {
            usage: number(directory.join("memory.current")).unwrap_or(0),
            max_usage: number(directory.join("memory.peak")),
            limit: number(directory.join("memory.max")),
            failures: None,
            stats: text(directory.join("memory.stat")).map(|text| flat(&text)).unwrap_or_default(),
        },
        pids: number(directory.join("pids.current")),
        pids_limit: number(directory.join("pids.max")),
        block_io: text(directory.join("io.stat")).map(|text| io_stat(&text)).unwrap_or_default(),
    })
}

fn v1(directory: impl Fn(&str) -> Option<PathBuf>) -> io::Result<Usage> {
    let file = |controller: &str, name: &str| directory(controller).map(|directory| directory.join(name));
    let known =
        ["cpuacct", "memory", "pids", "cpu", "freezer"].iter().filter_map(|name| directory(name)).any(|it| it.exists());
    if !known {
        return Err(io::ErrorKind::NotFound.into());
    }
    let one = |controller: &str, name: &str| file(controller, name).and_then(number);
    let all = |controller: &str, name: &str| file(controller, name).and_then(text).unwrap_or_default();
    let times = flat(&all("cpu", "cpu.stat"));
    let of = |name: &str| times.get(name).copied().unwrap_or(0);
    let per_cpu = all("cpuacct", "cpuacct.usage_percpu");
    Ok(Usage {
        cpu: CpuUsage {
            total: one("cpuacct", "cpuacct.usage").unwrap_or(0),
            kernel: one("cpuacct", "cpuacct.usage_sys").unwrap_or(0),
            user: one("cpuacct", "cpuacct.usage_user").unwrap_or(0),
            per_cpu: per_cpu.split_ascii_whitespace().filter_map(|time| time.parse().ok()).collect(),
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled_time: of("throttled_time"),
        },
        memory: MemoryUsage {
            usage: one("memory", "memory.usage_in_bytes").unwrap_or(0),
            max_usage: one("memory", "memory.max_usage_in_bytes"),
            limit: one("memory", "memory.limit_in_bytes"),
            failures: one("memory", "memory.failcnt"),
            stats: flat(&all("memory", "memory.stat")),
        },
        pids: one("pids", "pids.current"),
        pids_limit: one("pids", "pids.max"),
        block_io: blkio(
            &all("blkio", "blkio.throttle.io_service_bytes_recursive"),
            &all("blkio", "blkio.throttle.io_serviced_recursive"),
        ),
    })
}

fn text(path: PathBuf) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// `max` is none.
fn number(path: PathBuf) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

/// Lines of a name and a number.
fn flat(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io_stat(text: &str) -> Vec<BlockIo> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        let values: BTreeMap<&str, u64> = words
            .filter_map(|word| word.split_once('='))
            .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
            .collect();
        let of = |name: &str| values.get(name).copied().unwrap_or(0);
        for (operation, bytes, requests) in [("read", of("rbytes"), of("rios")), ("write", of("wbytes"), of("wios"))] {
            all.push(BlockIo { major, minor, operation: operation.to_owned(), bytes, requests });
        }
    }
    all
}

/// `8:0 Read 1` in both texts.
fn blkio(bytes: &str, requests: &str) -> Vec<BlockIo> {
    let mut all: Vec<BlockIo> = Vec::new();
    for (text, counts_bytes) in [(bytes, true), (requests, false)] {
        for line in text.lines() {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            let &[name, operation, count] = words.as_slice() else { continue };
            let (Some((major, minor)), Ok(count)) = (device(name), count.parse::<u64>()) else { continue };
            let operation = operation.to_ascii_lowercase();
            if operation != "read" && operation != "write" {
                continue;
            }
            let same = |it: &BlockIo| (it.major, it.minor) == (major, minor) && it.operation == operation;
            let index = all.iter().position(same).unwrap_or_else(|| {
                all.push(BlockIo { major, minor, operation, bytes: 0, requests: 0 });
                all.len() - 1
            });
            if counts_bytes {
                all[index].bytes = count;
            } else {
                all[index].requests = count;
            }
        }
    }
    all
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_block_statistics_say_the_same() {
        let two = io_stat("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:1 \n");
        let one =
            blkio("8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\n8:0 Total 30\nTotal 30\n", "8:0 Read 1\n8:0 Write 2\n");
        assert_eq!(two[..2], one[..]);
        assert_eq!(two.len(), 4);
    }
}
