//! The directory of one container, as a daemon sees it: writes the configuration, tells from pid and start time what
//! became of the container, and cleans up when its shim can no longer do so.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cgroup::Cgroups;
use crate::config::{ConfigError, ContainerConfig};
use crate::record::{
    CANCEL_FILE, CONFIG_FILE, EXIT_FILE, ExitRecord, LAYERS_DIR, PID_FILE, Pids, RECORD_VERSION, RUNTIME_DIR,
    SOCKET_FILE, now, read, write_durably,
};

/// How long [`Bundle::cleanup`] waits for processes to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directory of one container.
#[derive(Clone, Debug)]
pub struct Bundle {
    dir: PathBuf,
}

/// What became of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its shim is making it.
    Starting(Pids),
    /// Shim and container run.
    Alive(Pids),
    /// It has ended, or could not be started (then `error` is set), and its shim has cleaned up.
    Exited(ExitRecord),
    /// The shim is gone without a record: it was killed, the machine was restarted, or it never began (`None`).
    /// [`Bundle::cleanup`] has to follow.
    Gone(Option<Pids>),
}

/// Why a bundle cannot be handled.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read or written.
    #[error("cannot {what} {path:?}")]
    Io {
        /// Read, write, remove.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The shim still runs: stop the container first.
    #[error("container in {0:?} is still running: stop it first")]
    Running(PathBuf),
    /// Processes survive SIGKILL (uninterruptible sleep).
    #[error("processes of the container in {0:?} do not end after SIGKILL")]
    Unkillable(PathBuf),
}

impl Bundle {
    /// The bundle in `dir`, which must be absolute. Touches nothing.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Writes the configuration into `dir` (made when missing) and forgets an earlier run in it, after
    /// [`Bundle::cleanup`] when that run lost its shim.
    ///
    /// # Errors
    /// When the configuration is refused, an earlier run still runs, or the disk does not do it.
    pub fn create(dir: impl Into<PathBuf>, config: &ContainerConfig) -> Result<Self, BundleError> {
        config.check()?;
        let bundle = Self::new(dir);
        std::fs::create_dir_all(&bundle.dir).map_err(|source| bundle.io("create", "", source))?;
        match bundle.status()? {
            Status::Starting(_) | Status::Alive(_) => return Err(BundleError::Running(bundle.dir)),
            Status::Gone(Some(_)) => drop(bundle.cleanup()?),
            Status::Gone(None) | Status::Exited(_) => {}
        }
        for file in [EXIT_FILE, PID_FILE, CANCEL_FILE, SOCKET_FILE] {
            bundle.remove_file(file)?;
        }
        write_durably(&bundle.dir, CONFIG_FILE, config).map_err(|source| bundle.io("write", CONFIG_FILE, source))?;
        Ok(bundle)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration that [`Bundle::create`] wrote.
    ///
    /// # Errors
    /// When it cannot be read or is of a newer release.
    pub fn config(&self) -> Result<ContainerConfig, ConfigError> {
        ContainerConfig::load(&self.dir.join(CONFIG_FILE))
    }

    /// What became of the container. Cheap: reads two small files and `/proc`.
    ///
    /// # Errors
    /// When a record is there but cannot be read.
    pub fn status(&self) -> Result<Status, BundleError> {
        if let Some(exit) = self.exit_record()? {
            return Ok(Status::Exited(exit));
        }
        let Some(pids): Option<Pids> =
            read(&self.dir.join(PID_FILE)).map_err(|source| self.io("read", PID_FILE, source))?
        else {
            return Ok(Status::Gone(None));
        };
        if pids.shim.is_alive() {
            return Ok(match pids.started_at {
                Some(_) => Status::Alive(pids),
                None => Status::Starting(pids),
            });
        }
        // It may have written its record between the two looks.
        Ok(match self.exit_record()? {
            Some(exit) => Status::Exited(exit),
            None => Status::Gone(Some(pids)),
        })
    }

    fn exit_record(&self) -> Result<Option<ExitRecord>, BundleError> {
        read(&self.dir.join(EXIT_FILE)).map_err(|source| self.io("read", EXIT_FILE, source))
    }

    /// Ends what a dead shim left: kills the container's processes, removes its cgroups, state and socket, and writes
    /// the record that the shim could not (exit code 137). Harmless when there is nothing to do, and when called
    /// again. `None`: the container never started. Blocks for up to some seconds: call it off the async threads.
    ///
    /// # Errors
    /// [`BundleError::Running`] when the shim is alive and the container has started.
    pub fn cleanup(&self) -> Result<Option<ExitRecord>, BundleError> {
        if let Status::Alive(_) = self.status()? {
            return Err(BundleError::Running(self.dir.clone()));
        }
        // A shim that is just about to start sees this and gives up, or we see its pid.
        std::fs::write(self.dir.join(CANCEL_FILE), b"").map_err(|source| self.io("write", CANCEL_FILE, source))?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.status()? {
                Status::Alive(_) => return Err(BundleError::Running(self.dir.clone())),
                Status::Starting(pids) if Instant::now() > deadline => {
                    let _ = pids.shim.kill(libc::SIGKILL);
                }
                Status::Starting(_) => {}
                other => break other,
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let config = self.config().ok();
        let cgroup =
            config.and_then(|config| Some(Cgroups::detect().ok()?.container(&config.cgroup_parent, &config.id)));
        let mut record = match &status {
            Status::Exited(record) => Some(record.clone()),
            Status::Gone(Some(Pids { started_at: Some(started_at), .. })) => Some(ExitRecord {
                version: RECORD_VERSION,
                exit_code: 137,
                signal: Some(libc::SIGKILL),
                oom_killed: false,
                started_at: started_at.clone(),
                finished_at: now(),
                error: None,
            }),
            _ => None,
        };
        if let Status::Gone(Some(Pids { init: Some(init), .. })) = &status {
            let _ = init.kill(libc::SIGKILL);
            if let Some(cgroup) = &cgroup {
                cgroup.kill_rest(|| {});
            }
            while init.is_alive() {
                if Instant::now() > deadline {
                    return Err(BundleError::Unkillable(self.dir.clone()));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.exists()) {
            cgroup.kill_rest(|| {});
            if let (Some(record), Status::Gone(_)) = (&mut record, &status) {
                record.oom_killed = cgroup.oom_killed();
            }
            cgroup.remove().map_err(|source| self.io("remove", "cgroup", source))?;
        }
        if let (Some(record), Status::Gone(_)) = (&record, &status) {
            write_durably(&self.dir, EXIT_FILE, record).map_err(|source| self.io("write", EXIT_FILE, source))?;
        }
        crate::stage::take_away(&self.dir);
        for directory in [RUNTIME_DIR, LAYERS_DIR] {
            match std::fs::remove_dir_all(self.dir.join(directory)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(self.io("remove", directory, source));
                }
                _ => {}
            }
        }
        self.remove_file(SOCKET_FILE)?;
        self.remove_file(PID_FILE)?;
        Ok(record)
    }

    fn remove_file(&self, name: &'static str) -> Result<(), BundleError> {
        match std::fs::remove_file(self.dir.join(name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.io("remove", name, source)),
            _ => Ok(()),
        }
    }

    fn io(&self, what: &'static str, name: &str, source: io::Error) -> BundleError {
        BundleError::Io { what, path: self.dir.join(name), source }
    }
}
