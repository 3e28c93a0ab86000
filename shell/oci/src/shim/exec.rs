//! A further process in a running container, with the container's confinement: same namespaces, control group,
//! capabilities, system call filter and `no_new_privs`. The shim forks a helper that executes `shim --exec`; it enters
//! the container and forks again (a pid namespace is entered by children only); that child is the shim's own child
//! (`CLONE_PARENT`), takes on the confinement and becomes the program. Both report to the shim on a socket; by it comes the
//! terminal, too, if one is wanted: it is made inside the container.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, fork, pipe2};
use serde::{Deserialize, Serialize};

use super::confine::Confinement;
use super::executor::{Executable, execute, exit_code, find, plain};
use super::filter::Filter;
use super::hold::HoldFile;
use super::launch;
use super::server::Server;
use super::terminals::Terminal;
use super::{terminal, terminals};
use crate::cgroup::ContainerCgroup;
use crate::client::Failure;
use crate::config::ExecConfig;
use crate::process::ProcessId;
use crate::protocol::Answer;
use crate::record::RUNTIME_DIR;
use crate::rootfs::read_inside;
use crate::spec::user;

pub(super) const EXEC: &str = "--exec";
/// Where the helper finds what to do, and where it reports.
const REQUEST_FD: RawFd = 3;
const STATUS_FD: RawFd = 4;
/// Execs at once in one container.
const EXECS_MAX: usize = 256;

#[derive(Serialize, Deserialize)]
struct Request {
    exec: ExecConfig,
    init: ProcessId,
    cgroup: ContainerCgroup,
    oom_score_adj: Option<i32>,
}

/// One line on the status socket.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Pid(i32),
    /// Our end of the terminal comes with it.
    Terminal,
    Failed(Failure),
}

/// How a process ended.
#[derive(Clone, Copy)]
pub(super) struct Finished {
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
}

struct Run {
    client: (u64, u64),
    status: Option<OwnedFd>,
    /// The client's standard input and output, until the terminal is there that they belong to.
    waiting: Option<[OwnedFd; 2]>,
    terminal: Option<Terminal>,
    text: Vec<u8>,
    pid: Option<i32>,
    failed: Option<Failure>,
    finished: Option<Finished>,
    /// Whether the client knows that it runs, or why not.
    answered: bool,
    /// Whether the client knows how it ended.
    told: bool,
}

/// The execs of a container.
#[derive(Default)]
pub(super) struct Execs {
    runs: Vec<Run>,
}

impl Execs {
    pub(super) fn running(&self) -> usize {
        self.runs.iter().filter(|run| run.finished.is_none()).count()
    }

    pub(super) fn has(&self, pid: i32) -> bool {
        self.runs.iter().any(|run| run.pid == Some(pid) && run.finished.is_none())
    }

    pub(super) fn pollable(&self) -> impl Iterator<Item = (usize, RawFd)> {
        let open = |(index, run): (usize, &Run)| run.status.as_ref().map(|pipe| (index, pipe.as_raw_fd()));
        self.runs.iter().enumerate().filter_map(open)
    }

    /// Starts a helper. The answer to the client follows when it has reported.
    pub(super) fn start(
        &mut self,
        held: &HoldFile,
        config: &ExecConfig,
        stdio: [OwnedFd; 3],
        client: (u64, u64),
    ) -> Result<(), String> {
        if config.args.first().is_none_or(String::is_empty) {
            return Err("no exec command specified".to_owned());
        }
        if self.runs.len() >= EXECS_MAX {
            return Err(format!("too many execs at once in this container, at most {EXECS_MAX}"));
        }
        let request = Request {
            exec: config.clone(),
            init: held.init,
            cgroup: held.cgroup.clone(),
            oom_score_adj: held.oom_score_adj,
        };
        let cannot = |error: io::Error| format!("cannot start an exec: {error}");
        let (stdio, waiting) = if config.tty {
            let [stdin, stdout, unused] = stdio;
            let twin = || unused.try_clone().map_err(cannot);
            ([twin()?, twin()?, twin()?], Some([stdin, stdout]))
        } else {
            (stdio, None)
        };
        let status = spawn(&request, stdio).map_err(cannot)?;
        self.runs.push(Run {
            client,
            status: Some(status),
            waiting,
            terminal: None,
            text: Vec::new(),
            pid: None,
            failed: None,
            finished: None,
            answered: false,
            told: false,
        });
        Ok(())
    }

    /// Reads what a helper reports; the end of the pipe means that the program runs or never will.
    pub(super) fn read_status(&mut self, index: usize, server: &mut Server) {
        let Some(run) = self.runs.get_mut(index) else { return };
        let Some(socket) = &run.status else { return };
        let mut buffer = [0; 1024];
        let mut fds = Vec::new();
        loop {
            match terminal::receive(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok((count, more)) if count > 0 && run.text.len() < 65536 => {
                    run.text.extend_from_slice(&buffer[..count]);
                    fds.extend(more);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => {
                    run.status = None;
                    break;
                }
            }
        }
        while let Some(end) = run.text.iter().position(|byte| *byte == b'\n') {
            match serde_json::from_slice(&run.text[..end]) {
                Ok(Status::Pid(pid)) => run.pid = Some(pid),
                Ok(Status::Failed(failure)) => run.failed = Some(failure),
                Ok(Status::Terminal) => {
                    if let (Some(master), Some([stdin, stdout])) = (fds.pop(), run.waiting.take()) {
                        run.terminal = Terminal::new(master, stdin, stdout).ok();
                    }
                }
                Err(_) => {}
            }
            run.text.drain(..=end);
        }
        if run.status.is_none() && !run.answered {
            run.answered = true;
            let answer = match (&run.failed, run.pid) {
                (Some(failure), _) => Answer::ExecFailed { code: failure.exit_code, message: failure.message.clone() },
                (None, Some(pid)) => Answer::ExecStarted { pid },
                (None, None) => Answer::ExecFailed { code: 126, message: failed("the helper process ended").message },
            };
            server.answer(run.client.0, run.client.1, answer);
        }
    }

    /// A child that is not the container's first process has ended. A program's pid is on its pipe before it starts.
    pub(super) fn reaped(&mut self, pid: i32, finished: Finished, server: &mut Server) {
        for index in 0..self.runs.len() {
            self.read_status(index, server);
        }
        if let Some(run) = self.runs.iter_mut().find(|run| run.pid == Some(pid) && run.finished.is_none()) {
            run.finished = Some(finished);
            if let Some(terminal) = &mut run.terminal {
                terminal.end();
            }
        }
    }

    pub(super) fn terminals(&self) -> impl Iterator<Item = (usize, terminals::Part, RawFd, i16)> {
        let all = self.runs.iter().enumerate();
        let all = all.filter_map(|(index, run)| Some((index, run.terminal.as_ref()?)));
        all.flat_map(|(index, terminal)| terminal.pollable().map(move |(part, fd, events)| (index, part, fd, events)))
    }

    /// Something happened on a descriptor of a terminal.
    pub(super) fn terminal(&mut self, index: usize, part: terminals::Part, events: i16) {
        if let Some(terminal) = self.runs.get_mut(index).and_then(|run| run.terminal.as_mut()) {
            terminal.happened(part, events);
        }
    }

    pub(super) fn resize(&self, pid: i32, rows: u16, cols: u16) -> Result<(), String> {
        let run = self.runs.iter().find(|run| run.pid == Some(pid) && run.finished.is_none());
        match run.map(|run| &run.terminal) {
            None => Err("no such exec".to_owned()),
            Some(None) => Err("the exec has no terminal".to_owned()),
            Some(Some(terminal)) => {
                terminal.resize(rows, cols).map_err(|error| format!("cannot set the size: {error}"))
            }
        }
    }

    /// When the next terminal of an ended program is due to be closed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.runs.iter().filter_map(|run| run.terminal.as_ref()?.deadline()).min()
    }

    /// Answers for those that ended, and forgets them.
    pub(super) fn sweep(&mut self, server: &mut Server) {
        self.runs.retain_mut(|run| {
            if !run.answered {
                return true;
            }
            if run.failed.is_some() || run.pid.is_none() {
                return false;
            }
            let Some(Finished { code, signal }) = run.finished else { return true };
            if !run.told {
                run.told = true;
                server.answer(run.client.0, run.client.1, Answer::ExecExited { code, signal });
            }
            run.terminal.as_ref().is_some_and(|terminal| !terminal.is_done())
        });
    }
}

/// Forks and executes a helper with `stdio`, the request on descriptor 3 and its report on 4.
fn spawn(request: &Request, stdio: [OwnedFd; 3]) -> io::Result<OwnedFd> {
    let binary = launch::own_binary()?;
    let mut file = File::from(nix::sys::memfd::memfd_create(c"exec", nix::sys::memfd::MemFdCreateFlag::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(request)?)?;
    io::Seek::rewind(&mut file)?;
    let (status, report) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: this process has one thread; the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(status),
        ForkResult::Child => {
            let [stdin, stdout, stderr] = stdio;
            let _ = place([stdin, stdout, stderr, file.into(), report], &binary);
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(126) }
        }
    }
}

/// Puts the descriptors at 0 to 4 and executes the helper; returns only when that fails.
fn place(fds: [OwnedFd; 5], binary: &OwnedFd) -> io::Error {
    let binary = match above(binary) {
        Ok(binary) => binary,
        Err(error) => return error,
    };
    // First out of the way: a source may sit where a target goes.
    let moved: Result<Vec<OwnedFd>, io::Error> = fds.iter().map(above).collect();
    let moved = match moved {
        Ok(moved) => moved,
        Err(error) => return error,
    };
    std::mem::forget(fds);
    for (target, fd) in (0..).zip(&moved) {
        if let Err(error) = nix::unistd::dup2(fd.as_raw_fd(), target) {
            return error.into();
        }
    }
    launch::execute(&binary, &[std::ffi::OsStr::new(EXEC)])
}

fn above(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let fd = fcntl(fd.as_raw_fd(), FcntlArg::F_DUPFD_CLOEXEC(16))?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Docker's text around why an exec did not come to be.
fn failed(text: &str) -> Failure {
    Failure {
        exit_code: 126,
        message: format!("OCI runtime exec failed: exec failed: unable to start container process: {text}"),
    }
}

fn because(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| failed(&format!("{what}: {}", plain(&error)))
}

/// The helper.
pub(super) fn run() -> ExitCode {
    // SAFETY: the shim put these descriptors there for us.
    let (request, mut status) = unsafe { (File::from_raw_fd(REQUEST_FD), File::from_raw_fd(STATUS_FD)) };
    let _ = fcntl(STATUS_FD, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    let Err(failure) = enter(request, &mut status);
    report(&mut status, &Status::Failed(failure));
    ExitCode::from(126)
}

fn report(pipe: &mut File, status: &Status) {
    let mut line = serde_json::to_vec(status).unwrap_or_default();
    line.push(b'\n');
    let _ = pipe.write_all(&line);
}

/// Enters the container. In the child that becomes the program this returns only with an error; the parent exits.
fn enter(request: File, status: &mut File) -> Result<std::convert::Infallible, Failure> {
    let request: Request =
        serde_json::from_reader(io::BufReader::new(request)).map_err(|error| failed(&error.to_string()))?;
    let (mut confinement, filter) =
        Confinement::load(Path::new(RUNTIME_DIR)).map_err(because("cannot read the container's confinement"))?;
    // Processes of the container must not look into us while we are half inside.
    let _ = nix::sys::prctl::set_dumpable(false);
    if let Some(score) = request.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string()).map_err(because("cannot set oom_score_adj"))?;
    }
    confinement.set_rlimits().map_err(|error| failed(&error))?;
    if request.exec.privileged {
        confinement.lift();
    }
    request.cgroup.join().map_err(because("cannot join the control group"))?;
    set_namespaces(request.init).map_err(because("cannot enter the container"))?;

    let nix_failed = |error: nix::Error| because("cannot fork")(error.into());
    let (go, ready) = pipe2(OFlag::O_CLOEXEC).map_err(nix_failed)?;
    // SAFETY: like fork in a process with one thread. CLONE_PARENT makes the child the shim's.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    match pid {
        0 => {
            drop(ready);
            // The shim must know our pid before we can end.
            let _ = File::from(go).read(&mut [0]);
            become_program(&request.exec, confinement, filter.as_ref(), status)
        }
        pid if pid > 0 => {
            report(status, &Status::Pid(i32::try_from(pid).unwrap_or_default()));
            drop(ready);
            // SAFETY: ends this process; nothing has to be cleaned up.
            unsafe { libc::_exit(0) }
        }
        _ => Err(because("cannot fork")(io::Error::last_os_error())),
    }
}

fn set_namespaces(init: ProcessId) -> io::Result<()> {
    // SAFETY: pidfd_open takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, init.pid, 0) };
    let fd = match i32::try_from(fd) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => return Err(io::Error::last_os_error()),
    };
    if !init.is_alive() {
        return Err(io::Error::other("the container is not running"));
    }
    let all = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    // SAFETY: setns with a valid pidfd.
    if unsafe { libc::setns(fd.as_raw_fd(), all) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Inside all namespaces: takes on user, capabilities and filter, and executes.
fn become_program(
    exec: &ExecConfig,
    mut confinement: Confinement,
    filter: Option<&Filter>,
    status: &File,
) -> Result<std::convert::Infallible, Failure> {
    let _ = nix::unistd::setsid();
    if exec.tty {
        take_terminal(exec, status).map_err(because("cannot make a terminal"))?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let mut home = None;
    if !exec.user.is_empty() {
        let read = |path| read_inside(Path::new("/"), path).map_err(because("cannot look up the user"));
        let user = user::resolve(&exec.user, &[], &read("/etc/passwd")?, &read("/etc/group")?)
            .map_err(|error| failed(&error.to_string()))?;
        (confinement.uid, confinement.gid, confinement.groups) = (user.uid, user.gid, user.additional);
        home = Some(user.home);
    }
    for stream in 0..3 {
        terminal::give(stream, confinement.uid);
    }
    let env = environment(&confinement.env, exec, home);
    let cwd = Path::new(if exec.cwd.is_empty() { &confinement.cwd } else { &exec.cwd });
    let to_cwd = || std::env::set_current_dir(cwd);
    // Before the user changes, and if that was not allowed after it.
    let early = to_cwd();
    confinement.become_user().map_err(because("cannot change user"))?;
    confinement.apply(filter).map_err(|error| failed(&error.to_string()))?;
    if early.is_err() {
        to_cwd().map_err(|error| {
            failed(&format!("chdir to cwd (\"{}\") set in config.json failed: {}", cwd.display(), plain(&error)))
        })?;
    }
    let path = find(&exec.args[0], &env)
        .map_err(|failure| Failure { exit_code: failure.exit_code, ..failed(&failure.message) })?;
    let error = execute(Executable::Path(&path), &exec.args, &env);
    Err(Failure { exit_code: exit_code(&error), ..failed(&format!("exec {}: {}", path.display(), plain(&error))) })
}

/// Makes a terminal of this container, sends our end of it to the shim and takes the other.
fn take_terminal(exec: &ExecConfig, status: &File) -> io::Result<()> {
    let (master, slave) = terminal::open_pair()?;
    if let Some([rows, cols]) = exec.console_size {
        terminal::resize(&master, rows, cols)?;
    }
    let mut line = serde_json::to_vec(&Status::Terminal)?;
    line.push(b'\n');
    terminal::send(status.as_raw_fd(), &line, &master)?;
    terminal::take(&slave)
}

fn environment(own: &[String], exec: &ExecConfig, home: Option<String>) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut all: Vec<String> = own.to_vec();
    // HOME was the container's user's; another user has another.
    let home = home.map(|home| format!("HOME={home}"));
    let term = exec.tty.then(|| "TERM=xterm".to_owned());
    for variable in home.into_iter().chain(term).chain(exec.env.iter().cloned()) {
        match all.iter().position(|other| name(other) == name(&variable)) {
            Some(index) => all[index] = variable,
            None => all.push(variable),
        }
    }
    all
}
