//! The long part of a shim's life: a loop over the container's output, the death of children, and clients. When the
//! container's first process ends it cleans up, writes `exit.json` durably, then tells those who wait, and ends.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use super::exec::{Execs, Finished};
use super::log::{LINE_MAX, Lines, Log, Stream};
use super::server::{Asked, Server};
use crate::cgroup::ContainerCgroup;
use crate::config::LogConfig;
use crate::process::ProcessId;
use crate::protocol::{Answer, Op, Phase, State};
use crate::record::{EXIT_FILE, ExitRecord, LAYERS_DIR, RECORD_VERSION, RUNTIME_DIR, SOCKET_FILE, now, write_durably};

pub(super) const HOLD: &str = "--hold";
pub(super) const HOLD_FILE: &str = "hold.json";

/// How long output is read after the end of the container: a process that got away may hold the pipe for ever.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the shim stays to get its last answers rid.
const LINGER: Duration = Duration::from_secs(2);
/// How often and how long it is tried to write `exit.json` on a full disk.
const RECORD_PAUSE: Duration = Duration::from_secs(1);
const RECORD_TRIES: u32 = 600;
/// Clients that wait for the end at once.
const WAITERS_MAX: usize = 1024;

/// What the making part of the shim hands to the holding part.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HoldFile {
    pub(super) init: ProcessId,
    pub(super) started_at: String,
    pub(super) log: Option<LogConfig>,
    /// Overlay to be unmounted at the end.
    pub(super) merged: Option<PathBuf>,
    pub(super) cgroup: ContainerCgroup,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) stdout: RawFd,
    pub(super) stderr: RawFd,
    pub(super) listener: RawFd,
}

/// After execve: the current directory is the bundle still.
pub(super) fn run(bundle: PathBuf) -> ExitCode {
    match crate::record::read::<HoldFile>(&Path::new(RUNTIME_DIR).join(HOLD_FILE)) {
        Ok(Some(file)) => hold(&bundle, file),
        // Nobody can hold the container: it ends with us, and the daemon sees that.
        _ => ExitCode::FAILURE,
    }
}

/// Holds the container until it has ended.
pub(super) fn hold(bundle: &Path, file: HoldFile) -> ExitCode {
    let held = Held::new(bundle, file).and_then(|mut held| {
        let ended = held.until_exit()?;
        held.finish(ended);
        Ok(())
    });
    if held.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Output {
    pipe: Option<File>,
    lines: Lines,
}

struct Ended {
    code: i32,
    signal: Option<i32>,
    finished_at: String,
    deadline: Instant,
}

struct Held {
    bundle: PathBuf,
    file: HoldFile,
    outputs: [Output; 2],
    log: Option<Log>,
    server: Server,
    execs: Execs,
    waiters: Vec<(u64, u64)>,
    signals: SignalFd,
    paused: bool,
    ended: Option<Ended>,
}

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Output(usize),
    Exec(usize),
    Client(u64),
}

impl Held {
    fn new(bundle: &Path, file: HoldFile) -> io::Result<Self> {
        let _ = nix::sys::prctl::set_name(c"skep-shim");
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        for fd in [file.stdout, file.stderr, file.listener] {
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        }
        // SAFETY: these descriptors were kept open for us across execve and have no other owner.
        let (stdout, stderr, listener) = unsafe {
            (
                File::from_raw_fd(file.stdout),
                File::from_raw_fd(file.stderr),
                UnixListener::from(OwnedFd::from_raw_fd(file.listener)),
            )
        };
        let output = |pipe: File, stream| -> io::Result<Output> {
            nix::fcntl::fcntl(pipe.as_raw_fd(), nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
            Ok(Output { pipe: Some(pipe), lines: Lines::new(stream) })
        };
        Ok(Self {
            bundle: bundle.to_owned(),
            outputs: [output(stdout, Stream::Stdout)?, output(stderr, Stream::Stderr)?],
            log: file.log.as_ref().map(Log::open_later),
            server: Server::new(listener)?,
            execs: Execs::default(),
            waiters: Vec::new(),
            signals,
            paused: false,
            ended: None,
            file,
        })
    }

    fn until_exit(&mut self) -> io::Result<Ended> {
        // It may have ended before the signal was blocked.
        self.reap();
        loop {
            let timeout = match &self.ended {
                None => -1,
                Some(ended) => {
                    let left = ended.deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || self.outputs.iter().all(|output| output.pipe.is_none()) {
                        return Ok(self.ended.take().expect("just looked"));
                    }
                    i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1)
                }
            };
            self.turn(timeout)?;
        }
    }

    /// One look at everything that may have happened.
    fn turn(&mut self, timeout: i32) -> io::Result<()> {
        for (source, events) in self.poll(timeout)? {
            match source {
                Source::Signals => {
                    while let Ok(Some(_)) = self.signals.read_signal() {}
                    self.reap();
                }
                Source::Listener => self.server.accept(),
                Source::Output(index) => self.read_output(index),
                Source::Exec(index) => self.execs.read_status(index, &mut self.server),
                Source::Client(number) => {
                    if events & libc::POLLOUT != 0 {
                        self.server.write(number);
                    }
                    if events & !libc::POLLOUT != 0 {
                        for asked in self.server.read(number) {
                            self.serve(asked);
                        }
                    }
                }
            }
        }
        self.execs.sweep(&mut self.server);
        self.server.sweep();
        Ok(())
    }

    fn poll(&self, timeout: i32) -> io::Result<Vec<(Source, i16)>> {
        let mut sources = vec![(Source::Signals, self.signals.as_raw_fd(), libc::POLLIN)];
        sources.push((Source::Listener, self.server.listener.as_raw_fd(), libc::POLLIN));
        for (index, output) in self.outputs.iter().enumerate() {
            sources.extend(output.pipe.as_ref().map(|pipe| (Source::Output(index), pipe.as_raw_fd(), libc::POLLIN)));
        }
        sources.extend(self.execs.pollable().map(|(index, fd)| (Source::Exec(index), fd, libc::POLLIN)));
        for client in &self.server.connections {
            let events = libc::POLLIN | if client.wants_to_write() { libc::POLLOUT } else { 0 };
            sources.push((Source::Client(client.number), client.stream.as_raw_fd(), events));
        }
        let mut fds: Vec<_> = sources.iter().map(|&(_, fd, events)| libc::pollfd { fd, events, revents: 0 }).collect();
        // SAFETY: an array of valid descriptors with its length.
        if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) } < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(Vec::new()) } else { Err(error) };
        }
        let happened = fds.iter().zip(&sources).filter(|(fd, _)| fd.revents != 0);
        Ok(happened.map(|(fd, (source, _, _))| (*source, fd.revents)).collect())
    }

    fn read_output(&mut self, index: usize) {
        let mut buffer = [0; LINE_MAX];
        let output = &mut self.outputs[index];
        let Some(pipe) = &mut output.pipe else { return };
        let mut text = Vec::new();
        let lines = match pipe.read(&mut buffer) {
            Ok(0) => {
                output.pipe = None;
                output.lines.finish(&mut text)
            }
            Ok(count) => output.lines.feed(&buffer[..count], &mut text),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(_) => {
                output.pipe = None;
                output.lines.finish(&mut text)
            }
        };
        if let Some(log) = &mut self.log {
            log.write(&text, lines);
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, code, signal) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as i32, Some(signal as i32)),
                // A real-time signal has no name in nix: the kernel's numbers are still there.
                Err(nix::errno::Errno::EINVAL | nix::errno::Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if pid == self.file.init.pid {
                let deadline = Instant::now() + DRAIN;
                self.ended = Some(Ended { code, signal, finished_at: now(), deadline });
            } else {
                self.execs.reaped(pid, Finished { code, signal }, &mut self.server);
            }
        }
    }

    fn serve(&mut self, asked: Asked) {
        let (number, seq) = (asked.connection, asked.request.seq);
        let done = |result: Result<(), String>| match result {
            Ok(()) => Answer::Done,
            Err(message) => Answer::Error { message },
        };
        let text = |error: io::Error| error.to_string();
        let answer = match asked.request.op {
            Op::State => Answer::State(self.state()),
            Op::Wait if self.waiters.len() < WAITERS_MAX => {
                self.waiters.push((number, seq));
                return;
            }
            Op::Wait => Answer::Error { message: format!("too many wait for this container, at most {WAITERS_MAX}") },
            Op::Exec(config) => {
                let result = match (asked.stdio, self.ended.is_some() || self.paused) {
                    (Some(stdio), false) => self.execs.start(&self.file, &config, stdio, (number, seq)),
                    (None, _) => Err("an exec needs three descriptors".to_owned()),
                    (_, true) => Err("the container is not running".to_owned()),
                };
                match result {
                    Ok(()) => return,
                    Err(message) => Answer::Error { message },
                }
            }
            _ if self.ended.is_some() => Answer::Error { message: "the container is not running".to_owned() },
            Op::Kill { signal } => done(self.kill(self.file.init.pid, signal)),
            Op::KillExec { pid, signal } if self.execs.has(pid) => done(self.kill(pid, signal)),
            Op::KillExec { .. } => Answer::Error { message: "no such exec".to_owned() },
            Op::KillAll { signal } => {
                self.file.cgroup.signal(signal);
                done(self.thaw_to_die(signal))
            }
            Op::Pause => done(self.freeze(true).map_err(text)),
            Op::Resume => done(self.freeze(false).map_err(text)),
        };
        self.server.answer(number, seq, answer);
    }

    fn state(&self) -> State {
        let phase = match (&self.ended, self.paused) {
            (Some(_), _) => Phase::Exited,
            (None, true) => Phase::Paused,
            (None, false) => Phase::Running,
        };
        State {
            phase,
            init: self.file.init,
            started_at: self.file.started_at.clone(),
            execs: self.execs.running(),
            dropped_log_lines: self.log.as_ref().map_or(0, |log| log.dropped),
        }
    }

    /// To a child that has not been reaped: its pid cannot be another's.
    fn kill(&mut self, pid: i32, signal: i32) -> Result<(), String> {
        // SAFETY: kill takes two integers.
        if unsafe { libc::kill(pid, signal) } != 0 {
            return Err(format!("cannot send signal {signal}: {}", io::Error::last_os_error()));
        }
        self.thaw_to_die(signal)
    }

    /// A frozen process does not die.
    fn thaw_to_die(&mut self, signal: i32) -> Result<(), String> {
        if self.paused && signal == libc::SIGKILL {
            self.freeze(false).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn freeze(&mut self, frozen: bool) -> io::Result<()> {
        self.file.cgroup.freeze(frozen)?;
        self.paused = frozen;
        Ok(())
    }

    /// Everything that has to happen once the container's first process has ended, in this order.
    fn finish(&mut self, ended: Ended) {
        let mut text = Vec::new();
        let lines = self.outputs.iter_mut().map(|output| output.lines.finish(&mut text)).sum();
        if let Some(log) = &mut self.log {
            log.write(&text, lines);
        }
        let oom_killed = self.file.cgroup.oom_killed();
        let cgroup = self.file.cgroup.clone();
        cgroup.kill_rest(|| self.reap());
        self.reap();
        self.ended = Some(Ended { deadline: Instant::now(), ..ended });
        let removed = cgroup.remove();
        if let Some(merged) = &self.file.merged {
            let _ = nix::mount::umount2(merged, nix::mount::MntFlags::MNT_DETACH);
        }
        for dir in [RUNTIME_DIR, LAYERS_DIR] {
            let _ = std::fs::remove_dir_all(self.bundle.join(dir));
        }
        let ended = self.ended.as_ref().expect("just set");
        let record = ExitRecord {
            version: RECORD_VERSION,
            exit_code: ended.code,
            signal: ended.signal,
            oom_killed,
            started_at: self.file.started_at.clone(),
            finished_at: ended.finished_at.clone(),
            error: removed.err().map(|error| format!("cannot remove the container's control group: {error}")),
        };
        for _ in 0..RECORD_TRIES {
            if write_durably(&self.bundle, EXIT_FILE, &record).is_ok() {
                break;
            }
            let until = Instant::now() + RECORD_PAUSE;
            while Instant::now() < until {
                let _ = self.turn(100);
            }
        }
        // From here on a new client finds the record instead of us; those in the queue still get their answer.
        let _ = std::fs::remove_file(self.bundle.join(SOCKET_FILE));
        let until = Instant::now() + LINGER;
        loop {
            for (number, seq) in std::mem::take(&mut self.waiters) {
                self.server.answer(number, seq, Answer::Exited(record.clone()));
            }
            self.server.sweep();
            // Clients hang up when they have what they want.
            if self.server.connections.is_empty() || Instant::now() > until || self.turn(50).is_err() {
                return;
            }
        }
    }
}
