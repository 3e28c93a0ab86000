//! The processes of a container, as `ps` shows them. What clients usually ask for is read from `/proc`, so that a machine needs no
//! `ps`; for other options the machine's own is run, as Docker does.

mod process;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use skep_oci::Cgroups;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::tell::NOTHING;
use process::{Column, Machine, Process};

/// The processes of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Top {
    /// One title for each column.
    pub titles: Vec<String>,
    /// One row for each process.
    pub processes: Vec<Vec<String>>,
}

impl Engine {
    /// The processes of a running container; `options` are those of `ps`, none are `-ef`.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`]; [`EngineError::Invalid`] for options that cannot be understood.
    pub async fn top(&self, name: &str, options: &str) -> Result<Top> {
        let container = self.inner.table.find(name)?;
        if container.state().pid() == 0 {
            return Err(EngineError::NotRunning(container.id().to_owned()));
        }
        let (listed, options) = (container.clone(), options.to_owned());
        let top = self.inner.blocking(move |_| list(&listed, &options)).await?;
        self.inner.tell(&container, "top", NOTHING);
        Ok(top)
    }
}

fn list(container: &Container, options: &str) -> Result<Top> {
    let pids = pids(container);
    if pids.is_empty() {
        return Err(EngineError::NotRunning(container.id().to_owned()));
    }
    let words: Vec<&str> = options.split_whitespace().collect();
    let Some(columns) = columns(&words) else { return by_ps(&words, &pids) };
    let machine = Machine::look();
    let rows = pids.iter().filter_map(|pid| Process::read(*pid));
    Ok(Top {
        processes: rows.map(|it| columns.iter().map(|(column, _)| it.show(*column, &machine)).collect()).collect(),
        titles: columns.into_iter().map(|(_, title)| title.to_owned()).collect(),
    })
}

/// Everything in the container's control group, and below it.
fn pids(container: &Container) -> BTreeSet<i32> {
    let config = &container.record.config;
    let mut found = BTreeSet::new();
    if let Ok(cgroups) = Cgroups::detect() {
        for controller in cgroups.controllers() {
            if let Some(directory) = cgroups.directory(&controller, &config.cgroup_parent, &config.id) {
                collect(&directory, 0, &mut found);
            }
            if !found.is_empty() {
                return found;
            }
        }
    }
    // Without control groups the first process is all that is known.
    found.extend(Some(container.state().pid()).filter(|pid| *pid > 0));
    found
}

fn collect(directory: &Path, depth: usize, found: &mut BTreeSet<i32>) {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    // Groups that the container made itself; nobody nests them deeper.
    if depth < 16
        && let Ok(entries) = std::fs::read_dir(directory)
    {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            collect(&entry.path(), depth + 1, found);
        }
    }
}

/// The columns of the options that are known here.
fn columns(words: &[&str]) -> Option<Vec<(Column, &'static str)>> {
    use Column::*;
    let full = [
        (ShortUser, "UID"),
        (Pid, "PID"),
        (Parent, "PPID"),
        (Cpu, "C"),
        (Started, "STIME"),
        (Terminal, "TTY"),
        (Time, "TIME"),
        (Arguments, "CMD"),
    ];
    let by_user = [
        (ShortUser, "USER"),
        (Pid, "PID"),
        (CpuPercent, "%CPU"),
        (MemoryPercent, "%MEM"),
        (Virtual, "VSZ"),
        (Resident, "RSS"),
        (Terminal, "TTY"),
        (Status, "STAT"),
        (Started, "START"),
        (MinuteTime, "TIME"),
        (Arguments, "COMMAND"),
    ];
    match words {
        [] | ["-ef" | "-fe"] | ["-e", "-f"] | ["-f", "-e"] => Some(full.to_vec()),
        ["aux" | "-aux" | "axu"] => Some(by_user.to_vec()),
        ["-o" | "o" | "-eo" | "-axo" | "axo", list @ ..] if !list.is_empty() => named(&list.join(",")),
        [one] => one.strip_prefix("-eo").or_else(|| one.strip_prefix("-o")).and_then(named),
        _ => None,
    }
}

/// Columns by their names in `ps -o`.
fn named(list: &str) -> Option<Vec<(Column, &'static str)>> {
    use Column::*;
    let one = |name: &str| {
        Some(match name {
            "pid" => (Pid, "PID"),
            "ppid" => (Parent, "PPID"),
            "uid" | "euid" => (UserId, "UID"),
            "user" | "euser" | "uname" => (ShortUser, "USER"),
            "gid" | "egid" => (GroupId, "GID"),
            "args" | "command" => (Arguments, "COMMAND"),
            "cmd" => (Arguments, "CMD"),
            "comm" | "ucmd" => (Name, "COMMAND"),
            "pcpu" | "%cpu" => (CpuPercent, "%CPU"),
            "pmem" | "%mem" => (MemoryPercent, "%MEM"),
            "c" => (Cpu, "C"),
            "vsz" | "vsize" => (Virtual, "VSZ"),
            "rss" | "rssize" | "rsz" => (Resident, "RSS"),
            "tty" | "tt" => (Terminal, "TT"),
            "tname" => (Terminal, "TTY"),
            "s" | "state" => (State, "S"),
            "stat" => (Status, "STAT"),
            "stime" => (Started, "STIME"),
            "time" | "cputime" => (Time, "TIME"),
            "etime" => (Elapsed, "ELAPSED"),
            "nlwp" | "thcount" => (Threads, "NLWP"),
            "ni" | "nice" => (Nice, "NI"),
            "pgid" | "pgrp" => (Group, "PGID"),
            "sid" | "sess" => (Session, "SID"),
            _ => return None,
        })
    };
    let columns = list.split([',', ' ']).filter(|name| !name.is_empty()).map(one).collect::<Option<Vec<_>>>()?;
    (!columns.is_empty()).then_some(columns)
}

/// Runs the machine's `ps` and keeps the container's lines.
fn by_ps(words: &[&str], pids: &BTreeSet<i32>) -> Result<Top> {
    let output = Command::new("ps").args(words).stdin(Stdio::null()).output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let options = words.join(" ");
            return Err(EngineError::Invalid(format!(
                "ps options {options:?} are not understood, and this machine has no ps: use none, \"aux\" or \"-o\" with columns"
            )));
        }
        Err(source) => return Err(EngineError::Io { what: "run", path: "ps".into(), source }),
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(EngineError::Invalid(format!("ps: {}", text.trim())));
    }
    parse_ps(&String::from_utf8_lossy(&output.stdout), pids)
}

fn parse_ps(text: &str, pids: &BTreeSet<i32>) -> Result<Top> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(EngineError::Invalid("Couldn't find PID field in ps output".to_owned()));
    };
    let mut processes = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_ours = fields.get(column).and_then(|pid| pid.parse().ok()).is_some_and(|pid| pids.contains(&pid));
        if is_ours {
            // The last column takes what is left.
            let (own, rest) = fields.split_at(fields.len().min(titles.len().saturating_sub(1)));
            processes.push(own.iter().map(|field| (*field).to_owned()).chain([rest.join(" ")]).collect());
        }
    }
    Ok(Top { titles, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_options_need_no_ps() {
        let titles = |words: &[&str]| {
            columns(words).map(|columns| columns.into_iter().map(|(_, title)| title).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(titles(&[]).as_deref(), Some("UID PID PPID C STIME TTY TIME CMD"));
        assert_eq!(titles(&["-o", "pid,args"]).as_deref(), Some("PID COMMAND"));
        assert_eq!(titles(&["-opid,comm"]).as_deref(), Some("PID COMMAND"));
        assert!(titles(&["aux"]).is_some_and(|titles| titles.starts_with("USER PID %CPU")));
        assert_eq!(titles(&["-o", "pid,wchan"]), None);
        assert_eq!(titles(&["--forest"]), None);
    }

    #[test]
    fn the_output_of_ps_is_narrowed() {
        let text = "  PID LBL CMD\n    1 a  init\n   42 b  sleep 1000  x\n";
        let top = parse_ps(text, &BTreeSet::from([42])).unwrap();
        assert_eq!(top.processes, [["42", "b", "sleep 1000 x"]]);
        assert!(parse_ps("CMD\nx\n", &BTreeSet::new()).is_err());
    }

    #[test]
    fn this_process_is_shown() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let machine = Machine::look();
        let this = Process::read(pid).unwrap();
        assert_eq!(this.show(Column::Pid, &machine), pid.to_string());
        assert!(this.show(Column::Time, &machine).contains(':') && !this.show(Column::Arguments, &machine).is_empty());
        assert!(!this.show(Column::Started, &machine).is_empty() && this.show(Column::Elapsed, &machine).contains(':'));
    }
}
