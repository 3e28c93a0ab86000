//! What this machine offers to containers, and in people's words what it lacks.

use std::io;

use crate::cgroup::Cgroups;

/// What this machine offers.
#[derive(Clone, Debug)]
pub struct HostInfo {
    /// Bytes of memory.
    pub memory: u64,
    /// CPUs online.
    pub cpus: usize,
    /// Whether the kernel can filter system calls.
    pub seccomp: bool,
    /// Whether this process may exceed hard limits (`CAP_SYS_RESOURCE`).
    pub sys_resource: bool,
    /// The control groups; `None` when none are mounted.
    pub cgroups: Option<Cgroups>,
    /// Whether overlayfs is there.
    pub overlay: bool,
}

impl HostInfo {
    /// Looks at this machine.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn probe() -> io::Result<Self> {
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let memory = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0)
            * 1024;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let filesystems = std::fs::read_to_string("/proc/filesystems")?;
        Ok(Self {
            memory,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            seccomp: status.lines().any(|line| line.starts_with("Seccomp:"))
                && std::path::Path::new("/proc/sys/kernel/seccomp").exists(),
            sys_resource: has_sys_resource(),
            cgroups: Cgroups::detect().ok(),
            overlay: filesystems.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay"),
        })
    }

    /// What is missing, one sentence each.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let mut lacks = |text: &str| missing.push(text.to_owned());
        match &self.cgroups {
            None => lacks("no control groups are mounted: containers cannot be started"),
            Some(cgroups) => {
                for (controller, consequence) in [
                    ("memory", "no memory limit support"),
                    ("cpu", "no cpu cfs quota support"),
                    ("pids", "no pids limit support"),
                    ("cpuset", "no cpuset support"),
                    ("devices", "no device control group: containers cannot make device nodes (CAP_MKNOD is withheld)"),
                    ("freezer", "containers cannot be paused: no freezer control group"),
                ] {
                    if !cgroups.has(controller) {
                        lacks(consequence);
                    }
                }
            }
        }
        if !self.seccomp {
            lacks("the kernel has no seccomp: containers run without a system call filter");
        }
        if !self.sys_resource {
            lacks("no CAP_SYS_RESOURCE: ulimits above the current hard limit are lowered to it");
        }
        if !self.overlay {
            lacks("the kernel has no overlayfs (or its module is not loaded): images cannot be mounted");
        }
        missing
    }
}

/// Whether this process has `CAP_SYS_RESOURCE` in its effective set.
pub(crate) fn has_sys_resource() -> bool {
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_cpus() {
        let info = HostInfo::probe().expect("readable");
        assert!(info.memory > 0 && info.cpus > 0);
        let nothing = HostInfo { cgroups: None, seccomp: false, sys_resource: false, overlay: false, ..info };
        assert_eq!(nothing.missing().len(), 4);
    }
}
