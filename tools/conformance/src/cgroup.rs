//! Which processes and directories there are below a cgroup, in every hierarchy of this machine (v1, v2 or both).

use std::fs;
use std::path::{Path, PathBuf};

/// A process below a cgroup: its id, its cgroup's path, and its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// The path of one of its cgroups below the parent.
    pub cgroup: String,
    /// Command line, or the name of a kernel thread.
    pub command: String,
}

/// Processes whose cgroup lies below `parent` (such as `/skep-test`), lowest id first. Zombies are left out.
#[must_use]
pub fn processes_below(parent: &str) -> Vec<Process> {
    let mut found: Vec<Process> = pids().into_iter().filter_map(|pid| below(pid, parent)).collect();
    found.sort_unstable_by_key(|process| process.pid);
    found
}

fn below(pid: i32, parent: &str) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let ours = |path: &&str| path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let cgroup = text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find(ours)?.to_owned();
    (!is_zombie(pid)).then(|| Process { pid, cgroup, command: command_line(pid) })
}

pub(crate) fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(crate) fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

pub(crate) fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// The directories of the cgroup `parent` and below it, in every hierarchy, deepest first.
#[must_use]
pub fn cgroup_dirs(parent: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut hierarchies = vec![root.to_owned()];
    hierarchies.extend(fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()));
    let mut found = Vec::new();
    for hierarchy in hierarchies {
        if fs::symlink_metadata(&hierarchy).is_ok_and(|metadata| metadata.is_dir()) {
            collect(&hierarchy.join(parent.trim_start_matches('/')), &mut found);
        }
    }
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect(&entry.path(), found);
    }
    found.push(dir.to_owned());
}
