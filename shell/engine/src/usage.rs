//! What a container uses, for `docker stats`: its control group's numbers, its interfaces', and the machine's to compare with.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use skep_oci::{HostInfo, Usage};

use crate::engine::{Engine, Inner};
use crate::error::{EngineError, Result};

/// Clock ticks per second in `/proc/stat`: the same on every architecture that skep runs on.
const TICKS: u64 = 100;
const SECOND: u64 = 1_000_000_000;

/// What a container used at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageSample {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When, nanoseconds since 1970.
    pub at: i64,
    /// Its control group's numbers; `None` when it does not run.
    pub usage: Option<Usage>,
    /// Processor time that the machine has had, nanoseconds of all processors.
    pub machine_cpu: u64,
    /// Processors.
    pub cpus: u64,
    /// Bytes of memory of the machine.
    pub machine_memory: u64,
    /// What went through its interfaces, but for the loopback; `None` when it has no network namespace of its own.
    pub interfaces: Option<BTreeMap<String, InterfaceUsage>>,
}

/// What went through one interface since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct InterfaceUsage {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

impl Engine {
    /// What a container uses now; without numbers when it does not run.
    ///
    /// # Errors
    /// [`EngineError::NoSuchContainer`].
    pub async fn usage(&self, name: &str) -> Result<UsageSample> {
        let container = self.inner.table.find(name)?;
        self.inner
            .blocking(move |_: &Inner| {
                let state = container.state();
                if state == crate::view::ContainerState::Removed {
                    return Err(EngineError::NoSuchContainer(container.name()));
                }
                let record = &container.record;
                let mut sample =
                    UsageSample { id: record.id.clone(), name: container.name(), ..UsageSample::default() };
                if state.pid() == 0 {
                    return Ok(sample);
                }
                // It may end at any moment: then there is nothing to tell.
                sample.usage = skep_oci::usage(&record.config.cgroup_parent, &record.id).ok();
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                sample.at = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
                (sample.machine_cpu, sample.cpus) = machine_cpu(&read("/proc/stat"));
                sample.machine_memory = HostInfo::probe().map_or(0, |host| host.memory);
                sample.interfaces = interfaces(state.pid());
                Ok(sample)
            })
            .await
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Processor time of the machine in nanoseconds, and how many processors it has: the first line of `/proc/stat` without the last
/// columns (guests are in the first ones), as Docker counts.
fn machine_cpu(stat: &str) -> (u64, u64) {
    let mut lines = stat.lines().take_while(|line| line.starts_with("cpu"));
    let total = lines.next().unwrap_or_default();
    let ticks: u64 = total.split_ascii_whitespace().skip(1).take(7).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    (ticks.saturating_mul(SECOND / TICKS), lines.count() as u64)
}

/// Interfaces of a process, if its network is not this one's.
fn interfaces(pid: i32) -> Option<BTreeMap<String, InterfaceUsage>> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let (own, its) = (namespace("self"), namespace(&pid.to_string()));
    (its.is_some() && own != its).then(|| parse_interfaces(&read(format!("/proc/{pid}/net/dev"))))
}

/// `/proc/net/dev`: two lines of titles, then `name: ` and sixteen numbers.
fn parse_interfaces(text: &str) -> BTreeMap<String, InterfaceUsage> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        let &[rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] =
            numbers.as_slice()
        else {
            return None;
        };
        let usage =
            InterfaceUsage { rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped };
        Some((name.trim().to_owned(), usage))
    };
    text.lines().skip(2).filter_map(line).filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_texts_are_read() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1 1 1\ncpu1 0 0 0 0\nintr 5\n";
        assert_eq!(machine_cpu(stat), (28 * 10_000_000, 2));
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 876 10 1 2 0 0 0 0 42 3 4 5 0 0 0 0\n";
        let found = parse_interfaces(dev);
        assert_eq!(found.len(), 1);
        let eth0 = found["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_dropped), (876, 2, 42, 5));
    }
}
