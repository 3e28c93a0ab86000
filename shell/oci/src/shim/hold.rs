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

use super::attached::{Attached, Part};
use super::exec::{Execs, Finished};
use super::log::{LINE_MAX, Lines, Stream};
use super::log_file::Log;
use super::server::{Asked, Server};
use super::sink::Sink;
use super::{terminal, terminals};
use crate::attachment::{AttachEnds, set_nonblocking};
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
/// How long it stays for those who read the container's last words slowly.
const LINGER_FOR_READERS: Duration = Duration::from_secs(600);
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
    pub(super) streams: HeldStreams,
    pub(super) open_stdin: bool,
    pub(super) stdin_once: bool,
    pub(super) attached: Vec<HeldEnds>,
    pub(super) listener: RawFd,
}

/// Our ends of the container's streams.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeldStreams {
    /// `stdout` is the terminal, and there is nothing else.
    pub(super) terminal: bool,
    pub(super) stdin: Option<RawFd>,
    pub(super) stdout: RawFd,
    pub(super) stderr: Option<RawFd>,
}

/// Ends of one who is attached: stdin, stdout, stderr.
pub(super) type HeldEnds = [Option<RawFd>; 3];

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

/// A descriptor that was kept open for us across execve.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    // SAFETY: it was kept open for us and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the container writes, and where its input goes, if anybody may have it.
fn take_streams(file: &HoldFile) -> io::Result<(Vec<Output>, Option<Sink>)> {
    let output = |fd: OwnedFd, stream| -> io::Result<Output> {
        set_nonblocking(&fd)?;
        Ok(Output { pipe: Some(File::from(fd)), lines: Lines::new(stream) })
    };
    let stdout = owned(file.streams.stdout)?;
    let input = match file.streams.stdin {
        Some(stdin) => Some(owned(stdin)?),
        None if file.streams.terminal && file.open_stdin => Some(stdout.try_clone()?),
        None => None,
    };
    let mut outputs = vec![output(stdout, Stream::Stdout)?];
    if let Some(stderr) = file.streams.stderr {
        outputs.push(output(owned(stderr)?, Stream::Stderr)?);
    }
    Ok((outputs, input.map(Sink::new).transpose()?))
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
    outputs: Vec<Output>,
    attached: Attached,
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
    Attached(Part),
    Exec(usize),
    Terminal(usize, terminals::Part),
    Client(u64),
}

impl Held {
    fn new(bundle: &Path, file: HoldFile) -> io::Result<Self> {
        let _ = nix::sys::prctl::set_name(c"skep-shim");
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let (mut outputs, input) = take_streams(&file)?;
        let listener = UnixListener::from(owned(file.listener)?);
        outputs.shrink_to_fit();
        let mut attached = Attached::new(input, file.stdin_once && !file.streams.terminal);
        for [stdin, stdout, stderr] in &file.attached {
            let own = |fd: &Option<RawFd>| fd.map(owned).transpose();
            let ends = AttachEnds { stdin: own(stdin)?, stdout: own(stdout)?, stderr: own(stderr)? };
            // Who cannot be attached is told so by the end of his streams.
            let _ = attached.add(ends);
        }
        Ok(Self {
            bundle: bundle.to_owned(),
            outputs,
            attached,
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
            if let Some(ended) = &self.ended {
                let late = ended.deadline <= Instant::now();
                if late || self.outputs.iter().all(|output| output.pipe.is_none()) {
                    return Ok(self.ended.take().expect("just looked"));
                }
            }
            self.turn(None)?;
        }
    }

    /// Milliseconds until something is due, at most `most`; -1 when nothing is.
    fn timeout(&self, most: Option<Duration>) -> i32 {
        let now = Instant::now();
        let due = [self.ended.as_ref().map(|ended| ended.deadline), self.attached.deadline(), self.execs.deadline()];
        let left = due.into_iter().flatten().map(|at| at.saturating_duration_since(now)).chain(most).min();
        left.map_or(-1, |left| i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1))
    }

    /// One look at everything that may have happened.
    fn turn(&mut self, most: Option<Duration>) -> io::Result<()> {
        for (source, events) in self.poll(self.timeout(most))? {
            match source {
                Source::Signals => {
                    while let Ok(Some(_)) = self.signals.read_signal() {}
                    self.reap();
                }
                Source::Listener => self.server.accept(),
                Source::Output(index) => self.read_output(index),
                Source::Attached(part) => self.attached.happened(part, events),
                Source::Exec(index) => self.execs.read_status(index, &mut self.server),
                Source::Terminal(index, part) => self.execs.terminal(index, part, events),
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
        self.attached.sweep();
        self.execs.sweep(&mut self.server);
        self.server.sweep();
        Ok(())
    }

    fn poll(&self, timeout: i32) -> io::Result<Vec<(Source, i16)>> {
        let mut sources = vec![(Source::Signals, self.signals.as_raw_fd(), libc::POLLIN)];
        sources.push((Source::Listener, self.server.listener.as_raw_fd(), libc::POLLIN));
        for (index, output) in self.outputs.iter().enumerate() {
            let pipe = output.pipe.as_ref().filter(|_| !self.attached.is_full(index));
            sources.extend(pipe.map(|pipe| (Source::Output(index), pipe.as_raw_fd(), libc::POLLIN)));
        }
        let attached = self.attached.pollable().into_iter();
        sources.extend(attached.map(|(part, fd, events)| (Source::Attached(part), fd, events)));
        sources.extend(self.execs.terminals().map(|(index, part, fd, ev)| (Source::Terminal(index, part), fd, ev)));
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
        let count = match pipe.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            // A terminal that nobody holds open any more says so by an error.
            Err(_) => 0,
        };
        if count == 0 {
            output.pipe = None;
            self.attached.end_output(index);
        } else {
            self.attached.output(index, &buffer[..count]);
        }
        let Some(log) = &mut self.log else { return };
        let mut text = Vec::new();
        let lines = match count {
            0 => output.lines.finish(&log.encoder, &mut text),
            _ => output.lines.feed(&buffer[..count], &log.encoder, &mut text),
        };
        log.write(&text, lines);
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
                self.attached.end();
                self.ended = Some(Ended { code, signal, finished_at: now(), deadline });
            } else if !self.log.as_mut().is_some_and(|log| log.reaped(pid)) {
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
                let result = match (asked.fds.try_into(), self.ended.is_some() || self.paused) {
                    (Ok(stdio), false) => self.execs.start(&self.file, &config, stdio, (number, seq)),
                    (Err(_), _) => Err("an exec needs three descriptors".to_owned()),
                    (_, true) => Err("the container is not running".to_owned()),
                };
                match result {
                    Ok(()) => return,
                    Err(message) => Answer::Error { message },
                }
            }
            _ if self.ended.is_some() => Answer::Error { message: "the container is not running".to_owned() },
            Op::Kill { signal } => done(self.kill(self.file.init.pid, signal)),
            Op::Attach(streams) => done(match AttachEnds::from_descriptors(streams, asked.fds) {
                Some(ends) => self.attached.add(ends),
                None => Err("an attachment needs a descriptor for each stream".to_owned()),
            }),
            Op::Resize { rows, cols } => done(self.resize(rows, cols)),
            Op::ResizeExec { pid, rows, cols } => done(self.execs.resize(pid, rows, cols)),
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

    fn resize(&self, rows: u16, cols: u16) -> Result<(), String> {
        match self.outputs.first().and_then(|output| output.pipe.as_ref()) {
            Some(master) if self.file.streams.terminal => {
                terminal::resize(master, rows, cols).map_err(|error| format!("cannot set the size: {error}"))
            }
            _ => Err("the container has no terminal".to_owned()),
        }
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
        if let Some(log) = &mut self.log {
            let mut text = Vec::new();
            let lines = self.outputs.iter_mut().map(|output| output.lines.finish(&log.encoder, &mut text)).sum();
            log.write(&text, lines);
        }
        let oom_killed = self.file.cgroup.oom_killed();
        let cgroup = self.file.cgroup.clone();
        cgroup.kill_rest(|| self.reap());
        self.reap();
        for index in 0..self.outputs.len() {
            self.attached.end_output(index);
        }
        self.ended = Some(Ended { deadline: Instant::now() + RECORD_PAUSE * RECORD_TRIES, ..ended });
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
                let _ = self.turn(Some(Duration::from_millis(100)));
            }
        }
        // From here on a new client finds the record instead of us; those in the queue still get their answer.
        let _ = std::fs::remove_file(self.bundle.join(SOCKET_FILE));
        let (until, at_last) = (Instant::now() + LINGER, Instant::now() + LINGER_FOR_READERS);
        loop {
            for (number, seq) in std::mem::take(&mut self.waiters) {
                self.server.answer(number, seq, Answer::Exited(record.clone()));
            }
            self.server.sweep();
            // Clients hang up when they have what they want; who reads the output gets the rest of it.
            let idle = self.server.connections.is_empty() || Instant::now() > until;
            let read = !self.attached.is_behind() || Instant::now() > at_last;
            if (idle && read) || self.turn(Some(Duration::from_millis(50))).is_err() {
                return;
            }
        }
    }
}
