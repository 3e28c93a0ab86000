//! Makes the container with libcontainer, starts it, tells the launcher, and goes on as `shim --hold`.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::MsgFlags;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::dup2;

use super::confine::Confinement;
use super::executor::Program;
use super::filter::Filter;
use super::hold::{HOLD, HeldEnds, HeldStreams, HoldFile};
use super::log_file::Log;
use super::{hold, init, launch, terminal};
use crate::attachment::{AttachEnds, null, pipe_pair};
use crate::cgroup::{Cgroups, ContainerCgroup};
use crate::client::{Failure, Report};
use crate::config::{ContainerConfig, RootFs};
use crate::memory::MemoryFiles;
use crate::process::ProcessId;
use crate::protocol::MEMORY;
use crate::record::{
    CANCEL_FILE, CONFIG_FILE, EXIT_FILE, ExitRecord, LAYERS_DIR, PID_FILE, Pids, RECORD_VERSION, RUNTIME_DIR,
    SOCKET_FILE, now, write_atomically, write_durably,
};
use crate::rootfs::{mkdir_inside, mount_rootfs, own_mount_namespace};
use crate::spec::build_spec;
use crate::stage;

/// Docker's code for a container that could not be started for another reason than its program.
const NOT_STARTED: i32 = 128;

/// Where libcontainer sends the container's terminal, in the runtime directory.
const CONSOLE_SOCKET: &str = "console.sock";

/// What has been made so far, to be undone when the rest fails.
#[derive(Default)]
struct Made {
    cgroup: Option<ContainerCgroup>,
    init: Option<ProcessId>,
}

/// Runs the container in `bundle`. Standard output is the way to the launcher; on standard input come the ends of those who
/// are attached from the beginning.
pub(super) fn run(bundle: PathBuf) -> ExitCode {
    let (attached, memory) = take_handed();
    let report = match take_report() {
        Ok(report) => report,
        Err(_) => return ExitCode::FAILURE,
    };
    let mut made = Made::default();
    match start(&bundle, attached, memory, &mut made) {
        Ok((pids, hold)) => {
            tell(report, &Report { running: Some(pids), failed: None });
            go_on(&bundle, hold)
        }
        Err(failure) => {
            undo(&bundle, &made);
            let record = ExitRecord {
                version: RECORD_VERSION,
                exit_code: failure.exit_code,
                finished_at: now(),
                error: Some(failure.message.clone()),
                ..ExitRecord::default()
            };
            // Without it the daemon finds a bundle that never started, and says so.
            let _ = write_durably(&bundle, EXIT_FILE, &record);
            let _ = std::fs::remove_file(bundle.join(PID_FILE));
            tell(report, &Report { running: None, failed: Some(failure) });
            ExitCode::FAILURE
        }
    }
}

/// Everything was sent before we were started. Standard input is `/dev/null` when there is nothing.
fn take_handed() -> (Vec<AttachEnds>, Option<MemoryFiles>) {
    let (mut all, mut memory) = (Vec::new(), None);
    let mut buffer = [0; 256];
    while let Ok((count, mut fds)) = terminal::receive(0, &mut buffer, MsgFlags::MSG_DONTWAIT) {
        if &buffer[..count] == MEMORY {
            memory = fds.pop().map(MemoryFiles::from_descriptor);
            continue;
        }
        let Ok(streams) = serde_json::from_slice(&buffer[..count]) else { break };
        all.extend(AttachEnds::from_descriptors(streams, fds));
    }
    (all, memory)
}

/// Moves the launcher's pipe away from standard output, and puts `/dev/null` on the standard descriptors.
fn take_report() -> io::Result<OwnedFd> {
    let report = fcntl(1, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let report = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(report) };
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for fd in 0..3 {
        dup2(null.as_raw_fd(), fd)?;
    }
    Ok(report)
}

/// The launcher may be gone: that is no reason to stop.
fn tell(report: OwnedFd, what: &Report) {
    let _ = File::from(report).write_all(&serde_json::to_vec(what).unwrap_or_default());
}

fn start(
    bundle: &Path,
    attached: Vec<AttachEnds>,
    memory: Option<MemoryFiles>,
    made: &mut Made,
) -> Result<(Pids, HoldFile), Failure> {
    let shim = ProcessId::this().ok_or_else(|| other("cannot read /proc"))?;
    let mut pids = Pids { version: RECORD_VERSION, shim, init: None, started_at: None };
    let step = |what: &'static str| move |error: io::Error| other(&format!("{what}: {error}"));
    std::env::set_current_dir(bundle).map_err(step("cannot enter the bundle"))?;
    write_atomically(bundle, PID_FILE, &pids).map_err(step("cannot write pid.json"))?;
    refuse_when_cancelled(bundle)?;
    let mut config = ContainerConfig::load(&bundle.join(CONFIG_FILE)).map_err(|error| other(&chain(&error)))?;
    config.check().map_err(|error| other(&chain(&error)))?;

    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| other(&error.to_string()))?;
    let _ = nix::sys::prctl::set_name(c"skep-shim");
    let clones = own_mount_namespace(&config).map_err(step("cannot make the container's mounts"))?;
    stage::lay_out(bundle, clones, &mut config).map_err(step("cannot make the container's mounts"))?;
    // Until the container has bound what it gets of it.
    let _memory = memory
        .map(|memory| memory.mount(bundle))
        .transpose()
        .map_err(step("cannot mount the container's secrets and configs"))?;
    let rootfs = mount_rootfs(bundle, &config.rootfs).map_err(step("cannot mount the root file system"))?;
    if !config.cwd.is_empty() {
        mkdir_inside(&rootfs, Path::new(&config.cwd)).map_err(|error| {
            other(&format!("cannot make the working directory {}: {}", config.cwd, super::executor::plain(&error)))
        })?;
    }
    let cgroups = Cgroups::detect().map_err(step("cannot use control groups"))?;
    let cgroup = cgroups.container(&config.cgroup_parent, &config.id);
    made.cgroup = Some(cgroup.clone());
    cgroup.create().map_err(step("cannot make the control group"))?;
    if let Some(config) = &config.log {
        Log::open(config).map_err(step("failed to initialize logging driver"))?;
    }
    let mut spec = build_spec(&config, &rootfs, &cgroups).map_err(|error| other(&chain(&error)))?;
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = profile.map(|profile| Filter::of(profile, config.filter_cache.as_deref())).transpose();
    let filter = filter.map_err(|error| other(&error))?.map(Rc::new);
    let confinement = Confinement::take_from(&mut spec).ok_or_else(|| other("the container has no process"))?;
    let runtime = bundle.join(RUNTIME_DIR);
    clear(&runtime).and_then(|()| std::fs::create_dir_all(&runtime)).map_err(step("cannot make the runtime state"))?;
    spec.save(runtime.join("config.json")).map_err(|error| other(&chain(&error)))?;
    confinement.save(&runtime, filter.as_deref()).map_err(step("cannot write the confinement"))?;

    let (errors, errors_child) = pipe_pair().map_err(step("cannot make a pipe"))?;
    let uid = confinement.uid;
    let (streams, theirs) = streams(&config, &runtime).map_err(step("cannot make the container's streams"))?;
    // A program that opens `/dev/stdout` by name may do so.
    for stream in theirs.iter().flatten() {
        terminal::give(stream.as_raw_fd(), uid);
    }
    let oom_score = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
    let init = if config.init { Some(init::program().map_err(step("cannot prepare the init process"))?) } else { None };
    let program = Program {
        errors: errors_child.as_raw_fd(),
        init: init.as_ref().map(AsRawFd::as_raw_fd),
        confinement: Rc::new(confinement),
        filter,
    };
    let visit = cgroup.visit().map_err(step("cannot use the control group"))?;
    let built = create(&config, &runtime, theirs, program);
    drop((errors_child, init));
    stage::take_away(bundle);
    let mut container =
        built.map_err(|error| program_failure(&errors, true).unwrap_or_else(|| oci(&chain(error.as_ref()))))?;
    pids.init = container.pid().and_then(|pid| ProcessId::of(pid.as_raw()));
    let init = pids.init.ok_or_else(|| oci("the container's first process ended before it was started"))?;
    made.init = Some(init);
    // libcontainer sets it for itself, to be inherited.
    if let Some(score) = oom_score {
        let _ = std::fs::write("/proc/self/oom_score_adj", score.trim());
    }
    let streams = match streams {
        Ours::Console(listener) => {
            let terminal = receive_terminal(&listener).map_err(step("cannot get the container's terminal"))?;
            let _ = std::fs::remove_file(runtime.join(CONSOLE_SOCKET));
            if let Some([rows, cols]) = config.console_size {
                terminal::resize(&terminal, rows, cols).map_err(step("cannot set the size of the terminal"))?;
            }
            HeldStreams { terminal: true, stdin: None, stdout: keep(terminal)?, stderr: None }
        }
        Ours::Pipes { stdin, stdout, stderr } => HeldStreams {
            terminal: false,
            stdin: stdin.map(keep).transpose()?,
            stdout: keep(stdout)?,
            stderr: Some(keep(stderr)?),
        },
    };
    write_atomically(bundle, PID_FILE, &pids).map_err(step("cannot write pid.json"))?;
    drop(visit);
    refuse_when_cancelled(bundle)?;
    let _ = std::fs::remove_file(SOCKET_FILE);
    let listener = UnixListener::bind(SOCKET_FILE).map_err(step("cannot make the socket"))?;
    let started_at = now();
    container.start().map_err(|error| oci(&chain(&error)))?;
    if let Some(failure) = program_failure(&errors, false) {
        return Err(failure);
    }
    pids.started_at = Some(started_at.clone());
    write_atomically(bundle, PID_FILE, &pids).map_err(step("cannot write pid.json"))?;
    let merged = match &config.rootfs {
        RootFs::Overlay { merged, .. } => Some(merged.clone()),
        RootFs::Dir(_) => None,
    };
    let hold = HoldFile {
        init,
        started_at,
        log: config.log,
        merged,
        cgroup,
        oom_score_adj: config.oom_score_adj,
        streams,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        attached: attached.into_iter().map(keep_ends).collect::<Result<_, _>>()?,
        listener: keep(listener.into())?,
    };
    Ok((pids, hold))
}

/// Our ends of the container's streams.
enum Ours {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// Its terminal is made inside and comes by this socket.
    Console(UnixListener),
}

/// Ours, and what the container gets as its standard streams; nothing when it gets a terminal.
fn streams(config: &ContainerConfig, runtime: &Path) -> io::Result<(Ours, Option<[OwnedFd; 3]>)> {
    if config.tty {
        // By a short name: an address has room for 108 bytes.
        let path = Path::new(RUNTIME_DIR).join(CONSOLE_SOCKET);
        debug_assert!(runtime.ends_with(RUNTIME_DIR), "the bundle is the current directory");
        return Ok((Ours::Console(UnixListener::bind(path)?), None));
    }
    let (stdout, stdout_child) = pipe_pair()?;
    let (stderr, stderr_child) = pipe_pair()?;
    let (stdin_child, stdin) = if config.open_stdin {
        let (reader, writer) = pipe_pair()?;
        (reader, Some(writer))
    } else {
        (null()?, None)
    };
    Ok((Ours::Pipes { stdin, stdout, stderr }, Some([stdin_child, stdout_child, stderr_child])))
}

/// It was sent before the container's first process said that it is ready.
fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    listener.set_nonblocking(true)?;
    let (socket, _) = listener.accept()?;
    let (_, fds) = terminal::receive(socket.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT)?;
    fds.into_iter().next().ok_or_else(|| io::Error::other("none was sent"))
}

fn create(
    config: &ContainerConfig,
    runtime: &Path,
    streams: Option<[OwnedFd; 3]>,
    program: Program,
) -> Result<Container, Box<dyn Error>> {
    let builder = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_root_path(runtime.join("state"))?
        .with_executor(program);
    let builder = match streams {
        Some([stdin, stdout, stderr]) => builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr),
        None => builder.with_console_socket(Some(runtime.join(CONSOLE_SOCKET))),
    };
    let container = builder.validate_id()?.as_init(runtime).with_systemd(false).with_detach(true).build()?;
    Ok(container)
}

/// What the container's first process says before it becomes the program: nothing means that it did. While the
/// container is only being made it may be alive still and say nothing: then do not wait.
fn program_failure(errors: &OwnedFd, at_once: bool) -> Option<Failure> {
    if at_once {
        fcntl(errors.as_raw_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
    }
    let mut bytes = Vec::new();
    let mut file = File::from(errors.try_clone().ok()?);
    let _ = file.read_to_end(&mut bytes);
    let failure: Failure = serde_json::from_slice(&bytes).ok()?;
    Some(Failure { message: oci(&format!("error during container init: {}", failure.message)).message, ..failure })
}

/// Survives the coming execve.
fn keep(fd: OwnedFd) -> Result<i32, Failure> {
    fcntl(fd.as_raw_fd(), FcntlArg::F_SETFD(FdFlag::empty())).map_err(|error| other(&error.to_string()))?;
    Ok(std::os::fd::IntoRawFd::into_raw_fd(fd))
}

fn keep_ends(ends: AttachEnds) -> Result<HeldEnds, Failure> {
    let kept = |fd: Option<OwnedFd>| fd.map(keep).transpose();
    Ok([kept(ends.stdin)?, kept(ends.stdout)?, kept(ends.stderr)?])
}

fn go_on(bundle: &Path, hold: HoldFile) -> ExitCode {
    let written = write_atomically(&bundle.join(RUNTIME_DIR), hold::HOLD_FILE, &hold);
    if let (Ok(()), Ok(binary)) = (written, launch::own_binary()) {
        let _ = launch::execute(&binary, &[OsStr::new(HOLD), bundle.as_os_str()]);
    }
    // It costs more memory this way, but the container is held.
    hold::hold(bundle, hold)
}

fn refuse_when_cancelled(bundle: &Path) -> Result<(), Failure> {
    if bundle.join(CANCEL_FILE).exists() {
        return Err(other("the start was cancelled"));
    }
    Ok(())
}

fn undo(bundle: &Path, made: &Made) {
    let reap = || {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == nix::sys::wait::WaitStatus::StillAlive {
                break;
            }
        }
    };
    if let Some(init) = made.init {
        let _ = init.kill(libc::SIGKILL);
    }
    if let Some(cgroup) = &made.cgroup {
        cgroup.kill_rest(reap);
        reap();
        let _ = cgroup.remove();
    }
    stage::take_away(bundle);
    let _ = clear(&bundle.join(RUNTIME_DIR));
    let _ = clear(&bundle.join(LAYERS_DIR));
    let _ = std::fs::remove_file(bundle.join(SOCKET_FILE));
}

fn clear(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn other(text: &str) -> Failure {
    Failure { exit_code: NOT_STARTED, message: format!("failed to create task for container: {text}") }
}

fn oci(text: &str) -> Failure {
    other(&format!(
        "failed to create shim task: OCI runtime create failed: unable to start container process: {text}: unknown"
    ))
}

/// An error with its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
