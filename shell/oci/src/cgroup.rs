//! Control groups as this machine has them: where they are mounted, which controllers exist, and what the shim does
//! with the one of its container: read the OOM state, freeze, kill what is left, remove it. Limits are set by
//! libcontainer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long removal and killing are tried.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// How control groups are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupMode {
    /// Every controller in its own version 1 hierarchy.
    V1,
    /// Version 1 hierarchies, and version 2 beside them without controllers of use.
    Hybrid,
    /// One version 2 hierarchy.
    V2,
}

/// The control group hierarchies of this machine.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Which kind.
    pub mode: CgroupMode,
    hierarchies: Vec<Hierarchy>,
    /// Directory names of all version 1 hierarchies below `/sys/fs/cgroup`, named ones included.
    v1_mounts: Vec<String>,
}

#[derive(Clone, Debug)]
struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

impl Cgroups {
    /// Looks at `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// When it cannot be read, or no cgroup file system is mounted.
    pub fn detect() -> io::Result<Self> {
        let found = Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?, |mount| {
            std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
        });
        found.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no control groups are mounted: mount cgroup2 at /sys/fs/cgroup (systemd does)",
            )
        })
    }

    fn parse(mountinfo: &str, controllers_of: impl Fn(&Path) -> String) -> Option<Self> {
        let (mut v1, mut v2, mut v1_mounts) = (Vec::<Hierarchy>::new(), None, Vec::new());
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
            let Some(mount) = left.split(' ').nth(4) else { continue };
            if !mount.starts_with("/sys/fs/cgroup") {
                continue;
            }
            let mount = PathBuf::from(mount);
            match kind {
                "cgroup2" => {
                    let list = controllers_of(&mount);
                    v2 = Some(Hierarchy {
                        controllers: list.split_ascii_whitespace().map(str::to_owned).collect(),
                        mount,
                    });
                }
                "cgroup" => {
                    v1_mounts.extend(mount.file_name().map(|name| name.to_string_lossy().into_owned()));
                    let known = |option: &&str| {
                        matches!(
                            *option,
                            "cpu"
                                | "cpuacct"
                                | "cpuset"
                                | "memory"
                                | "devices"
                                | "freezer"
                                | "blkio"
                                | "pids"
                                | "hugetlb"
                                | "perf_event"
                                | "net_cls"
                                | "net_prio"
                        )
                    };
                    let controllers: Vec<_> = options.split(',').filter(known).map(str::to_owned).collect();
                    let seen = v1.iter().any(|other: &Hierarchy| other.controllers == controllers);
                    if !controllers.is_empty() && !seen {
                        v1.push(Hierarchy { controllers, mount });
                    }
                }
                _ => {}
            }
        }
        match (v1.is_empty(), v2) {
            (false, v2) => {
                let mode = if v2.is_some() { CgroupMode::Hybrid } else { CgroupMode::V1 };
                Some(Self { mode, hierarchies: v1, v1_mounts })
            }
            (true, Some(v2)) => Some(Self { mode: CgroupMode::V2, hierarchies: vec![v2], v1_mounts }),
            (true, None) => None,
        }
    }

    /// Whether a controller (`memory`, `cpu`, `pids`, …) can limit containers. `freezer` is part of version 2 itself;
    /// `devices` exists in version 1 only.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        (self.mode == CgroupMode::V2 && controller == "freezer")
            || self.hierarchies.iter().any(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }

    /// All controllers that can limit containers.
    #[must_use]
    pub fn controllers(&self) -> Vec<String> {
        self.hierarchies.iter().flat_map(|hierarchy| hierarchy.controllers.iter().cloned()).collect()
    }

    /// Directory of the container `id` below `parent` in the hierarchy of `controller`, e.g. to read statistics.
    #[must_use]
    pub fn directory(&self, controller: &str, parent: &str, id: &str) -> Option<PathBuf> {
        let hierarchy = match self.mode {
            CgroupMode::V2 => self.hierarchies.first(),
            _ => self.hierarchies.iter().find(|it| it.controllers.iter().any(|name| name == controller)),
        }?;
        Some(hierarchy.mount.join(parent.trim_matches('/')).join(id))
    }

    pub(crate) fn v1_mounts(&self) -> &[String] {
        &self.v1_mounts
    }

    /// Whether swap can be limited; the container's cgroup must exist.
    pub(crate) fn limits_swap(&self, parent: &str, id: &str) -> bool {
        let file = if self.mode == CgroupMode::V2 { "memory.swap.max" } else { "memory.memsw.limit_in_bytes" };
        self.directory("memory", parent, id).is_some_and(|directory| directory.join(file).exists())
    }

    /// The control group of one container.
    pub(crate) fn container(&self, parent: &str, id: &str) -> ContainerCgroup {
        let one = |hierarchy: &Hierarchy| Place {
            controllers: hierarchy.controllers.join(","),
            mount: hierarchy.mount.clone(),
            directory: hierarchy.mount.join(parent.trim_matches('/')).join(id),
        };
        ContainerCgroup { v2: self.mode == CgroupMode::V2, places: self.hierarchies.iter().map(one).collect() }
    }
}

/// The control group of one container, in every hierarchy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerCgroup {
    v2: bool,
    places: Vec<Place>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    controllers: String,
    mount: PathBuf,
    directory: PathBuf,
}

impl ContainerCgroup {
    fn place(&self, controller: &str) -> Option<&Path> {
        let fits = |place: &&Place| self.v2 || place.controllers.split(',').any(|name| name == controller);
        self.places.iter().find(fits).map(|place| place.directory.as_path())
    }

    /// Makes the directories, so that from now on no other shim that cleans up takes the parents for empty.
    pub(crate) fn create(&self) -> io::Result<()> {
        for place in &self.places {
            let _lock = Lock::take(&place.mount, libc::LOCK_SH)?;
            std::fs::create_dir_all(&place.directory)?;
        }
        Ok(())
    }

    /// Moves the calling process in.
    pub(crate) fn join(&self) -> io::Result<()> {
        for place in &self.places {
            enter(&place.directory)?;
        }
        Ok(())
    }

    /// Moves the calling process into a group beside the container's for a while: what it forks meanwhile is found
    /// there, or where libcontainer moves it to, even if the calling process is killed at any instant. Not the
    /// container's own group: libcontainer kills everything in that when it fails.
    pub(crate) fn visit(&self) -> io::Result<Visit> {
        let place = self.starting_place().ok_or_else(|| io::Error::other("no control group hierarchy"))?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let first = place.controllers.split(',').next().unwrap_or_default();
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let fits = if self.v2 { controllers.is_empty() } else { controllers.split(',').any(|name| name == first) };
            fits.then_some(path)
        });
        let path = path.ok_or_else(|| io::Error::other("no control group of our own"))?;
        let home = place.mount.join(path.trim_start_matches('/'));
        let directory = place.starting();
        match std::fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => enter(&directory)?,
        }
        Ok(Visit { home, directory })
    }

    fn starting_place(&self) -> Option<&Place> {
        let freezer = |place: &&Place| self.v2 || place.controllers.split(',').any(|name| name == "freezer");
        self.places.iter().find(freezer).or_else(|| self.places.first())
    }

    /// Whether the kernel killed anything in it for lack of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let Some(directory) = self.place("memory") else { return false };
        let file = directory.join(if self.v2 { "memory.events" } else { "memory.oom_control" });
        std::fs::read_to_string(file).is_ok_and(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("oom_kill "))
                .any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
        })
    }

    /// Freezes or thaws; returns once the kernel says so.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        let directory = self
            .place("freezer")
            .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "this machine has no freezer control group"))?;
        let deadline = Instant::now() + PATIENCE;
        let (file, value, check, wanted) = match (self.v2, frozen) {
            (true, true) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            (true, false) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
            (false, true) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
        };
        loop {
            // Version 1 wants to be asked again while it is still FREEZING.
            std::fs::write(directory.join(file), value)?;
            if std::fs::read_to_string(directory.join(check))?.lines().any(|line| line.trim() == wanted) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the container's processes do not freeze"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The processes in it, as pids, without the calling one.
    pub(crate) fn processes(&self) -> Vec<i32> {
        // First where a container starts: from there processes move into its own groups, never back.
        let starting = self.starting_place().map(Place::starting);
        let mut pids: Vec<i32> = starting
            .iter()
            .chain(self.places.iter().map(|place| &place.directory))
            .filter_map(|directory| std::fs::read_to_string(directory.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| u32::try_from(*pid) != Ok(std::process::id()));
        pids
    }

    /// Sends a signal to every process in it; answers how many.
    pub(crate) fn signal(&self, signal: i32) -> usize {
        let pids = self.processes();
        for pid in &pids {
            // SAFETY: kill takes two integers. The pid was just read from the container's own cgroup.
            unsafe { libc::kill(*pid, signal) };
        }
        pids.len()
    }

    /// Kills until nothing is left. `reap` is called between rounds.
    pub(crate) fn kill_rest(&self, mut reap: impl FnMut()) {
        let deadline = Instant::now() + PATIENCE;
        if self.processes().is_empty() {
            return;
        }
        let _ = self.freeze(false);
        while self.signal(libc::SIGKILL) > 0 && Instant::now() < deadline {
            reap();
            std::thread::sleep(PAUSE);
        }
    }

    /// Removes it, what was made inside it, and the parents that are empty now.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut outcome = self.starting_place().map_or(Ok(()), |place| remove_tree(&place.starting()));
        for place in &self.places {
            if let Err(error) = remove_tree(&place.directory) {
                outcome = Err(error);
                continue;
            }
            // Others hold it for an instant only; an empty parent left behind does no harm.
            let Some(_lock) = Lock::take_patiently(&place.mount) else { continue };
            let mut parent = place.directory.parent();
            while let Some(directory) = parent
                && directory != place.mount
                && directory.starts_with(&place.mount)
                && std::fs::remove_dir(directory).is_ok()
            {
                parent = directory.parent();
            }
        }
        outcome
    }

    /// Whether any of its directories exists.
    pub(crate) fn exists(&self) -> bool {
        self.places.iter().any(|place| place.directory.exists() || place.starting().exists())
    }
}

impl Place {
    fn starting(&self) -> PathBuf {
        let mut directory = self.directory.clone().into_os_string();
        directory.push(".start");
        directory.into()
    }
}

/// Moves the calling process, which has one thread, into a cgroup. On v1 by `tasks`: a thread that moves itself there needs
/// no kernel-wide lock, while every write to `cgroup.procs` may wait for all processors (`cgroup_procs_write_start` in
/// `kernel/cgroup/cgroup.c`; some 10 ms).
fn enter(directory: &Path) -> io::Result<()> {
    match std::fs::OpenOptions::new().write(true).open(directory.join("tasks")) {
        Ok(mut tasks) => io::Write::write_all(&mut tasks, b"0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::write(directory.join("cgroup.procs"), "0"),
        Err(error) => Err(error),
    }
}

/// A stay beside a container's control group; ends when dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    home: PathBuf,
    directory: PathBuf,
}

impl Drop for Visit {
    fn drop(&mut self) {
        // If it fails, the control group cannot be removed at the end, and the exit record says so.
        let _ = enter(&self.home);
        let _ = std::fs::remove_dir(&self.directory);
    }
}

/// Removes a cgroup and those below it; a dying process keeps it busy for a moment.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(entries) = std::fs::read_dir(directory) {
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove_tree(&entry.path())?;
                }
            }
        }
        match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// A lock on a directory, gone when dropped.
struct Lock(#[allow(dead_code, reason = "closing it unlocks")] File);

impl Lock {
    fn take_patiently(directory: &Path) -> Option<Self> {
        (0..50).find_map(|_| {
            let lock = Self::take(directory, libc::LOCK_EX | libc::LOCK_NB).ok();
            if lock.is_none() {
                std::thread::sleep(PAUSE);
            }
            lock
        })
    }

    fn take(directory: &Path, how: i32) -> io::Result<Self> {
        let file = File::open(directory)?;
        // SAFETY: flock on a descriptor that we own.
        if unsafe { libc::flock(file.as_raw_fd(), how) } == 0 {
            Ok(Self(file))
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_is_seen_and_uses_version_1() {
        let text = "\
30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
";
        let cgroups = Cgroups::parse(text, |_| "hugetlb".to_owned()).expect("found");
        assert_eq!(cgroups.mode, CgroupMode::Hybrid);
        assert!(cgroups.has("cpu") && cgroups.has("memory") && !cgroups.has("pids"));
        assert_eq!(
            cgroups.directory("cpuacct", "/skep", "abc"),
            Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/skep/abc"))
        );
    }

    #[test]
    fn version_2_alone() {
        let text = "30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let cgroups = Cgroups::parse(text, |_| "cpuset cpu io memory pids\n".to_owned()).expect("found");
        assert_eq!(cgroups.mode, CgroupMode::V2);
        assert!(cgroups.has("memory") && cgroups.has("freezer") && !cgroups.has("devices"));
    }

    #[test]
    fn none() {
        assert!(Cgroups::parse("30 1 0:26 / / rw - ext4 /dev/x rw\n", |_| String::new()).is_none());
    }
}
