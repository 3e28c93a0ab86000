//! From a prepared process to the program: looks it up, says why not in the words Docker's users know, executes it.
//! Runs inside the container, as the container's user. Used for a container's first process (as libcontainer's
//! `Executor`) and for exec.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};

use super::confine::Confinement;
use super::filter::Filter;
use super::terminal;
use crate::client::Failure;

/// How Docker's init process is called; the program follows.
const INIT: [&str; 2] = ["/sbin/docker-init", "--"];

/// Executes a container's first process.
#[derive(Clone)]
pub(super) struct Program {
    /// A pipe to the shim that execve closes.
    pub(super) errors: RawFd,
    /// The init process that starts the program, if one is wanted.
    pub(super) init: Option<RawFd>,
    /// What the program is held to.
    pub(super) confinement: Rc<Confinement>,
    pub(super) filter: Option<Rc<Filter>>,
}

impl Program {
    fn fail(&self, failure: &Failure) {
        let bytes = serde_json::to_vec(failure).unwrap_or_default();
        // SAFETY: the descriptor was inherited for this; it stays open until execve or exit.
        let mut pipe = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(self.errors) });
        let _ = pipe.write_all(&bytes);
    }
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, env) = program(spec);
        let failure = match find(&args[0], &env) {
            Ok(path) => {
                let error = match self.init {
                    None => execute(Executable::Path(&path), &args, &env),
                    Some(init) => {
                        let all: Vec<String> =
                            INIT.iter().map(|&word| word.to_owned()).chain(args.iter().cloned()).collect();
                        execute(Executable::Descriptor(init), &all, &env)
                    }
                };
                Failure { exit_code: exit_code(&error), message: format!("exec {}: {}", path.display(), plain(&error)) }
            }
            Err(failure) => failure,
        };
        self.fail(&failure);
        Err(ExecutorError::Other(failure.message))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        for stream in 0..3 {
            terminal::give(stream, self.confinement.uid);
        }
        if let Err(error) = self.confinement.apply(self.filter.as_deref()) {
            self.fail(&Failure { exit_code: 128, message: error.to_string() });
            return Err(ExecutorValidationError::ArgValidationError(error.to_string()));
        }
        // From here on a container does not survive its shim: nobody could hold it.
        // SAFETY: prctl with integers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        let (args, env) = program(spec);
        find(&args[0], &env).map(drop).map_err(|failure| {
            self.fail(&failure);
            ExecutorValidationError::ArgValidationError(failure.message)
        })
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is handed to execve as it is, in its order.
        Ok(())
    }
}

fn program(spec: &Spec) -> (Vec<String>, Vec<String>) {
    let process = spec.process().as_ref();
    let args = process.and_then(|it| it.args().clone()).filter(|args| !args.is_empty());
    let env = process.and_then(|it| it.env().clone()).unwrap_or_default();
    (args.unwrap_or_else(|| vec![String::new()]), env)
}

/// Finds a program as a shell does, with the texts of Go's `exec.LookPath`.
pub(super) fn find(name: &str, env: &[String]) -> Result<PathBuf, Failure> {
    let fail = |exit_code, text: String| Err(Failure { exit_code, message: format!("exec: \"{name}\": {text}") });
    if name.contains('/') {
        return match runnable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                fail(127, format!("stat {name}: {}", plain(&error)))
            }
            Err(error) => fail(126, plain(&error)),
        };
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    let mut refused = None;
    for dir in path.split(':') {
        let candidate = if dir.is_empty() { Path::new(".").join(name) } else { Path::new(dir).join(name) };
        match runnable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => refused = Some(error),
            Err(_) => {}
        }
    }
    match refused {
        Some(error) if !name.is_empty() => fail(126, plain(&error)),
        _ => fail(127, "executable file not found in $PATH".to_owned()),
    }
}

fn runnable(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    let text = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a NUL-terminated path.
    if unsafe { libc::faccessat(libc::AT_FDCWD, text.as_ptr(), libc::X_OK, libc::AT_EACCESS) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// 127 for what is not there, 126 for what cannot be executed, as shells and Docker count.
pub(super) fn exit_code(error: &io::Error) -> i32 {
    if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
}

/// The kernel's text as Go prints it: lower case, no number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// What is executed.
#[derive(Clone, Copy)]
pub(super) enum Executable<'a> {
    Path(&'a Path),
    Descriptor(RawFd),
}

/// Becomes the program; returns only when that fails. Signals are as a fresh process expects them: the Rust runtime
/// ignores SIGPIPE, and an ignored signal stays ignored across execve.
pub(super) fn execute(what: Executable<'_>, args: &[String], env: &[String]) -> io::Error {
    let strings = |list: &[String]| list.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let (fd, path, flags) = match what {
        Executable::Path(path) => (libc::AT_FDCWD, path.as_os_str().as_bytes(), 0),
        Executable::Descriptor(fd) => (fd, &b""[..], libc::AT_EMPTY_PATH),
    };
    let (Ok(path), Ok(args), Ok(env)) = (CString::new(path), strings(args), strings(env)) else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    let pointers =
        |list: &[CString]| list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (args, env) = (pointers(&args), pointers(&env));
    reset_signals();
    match what {
        // SAFETY: NUL-terminated strings in NULL-terminated arrays; they live until the call returns.
        Executable::Path(_) => unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) },
        // SAFETY: as above, and a descriptor that is open for this.
        Executable::Descriptor(_) => unsafe {
            libc::execveat(fd, path.as_ptr(), args.as_ptr().cast(), env.as_ptr().cast(), flags)
        },
    };
    io::Error::last_os_error()
}

fn reset_signals() {
    // The kernel's own form (handler, flags, restorer, mask): libc refuses to touch the two signals it uses itself,
    // but they may have been inherited as ignored all the same.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: a zeroed kernel sigaction of full size means the default disposition; the old one is not asked
        // for. Refused for SIGKILL and SIGSTOP, which does not matter.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8_usize)
        };
    }
    // SAFETY: a zeroed set is initialised by sigemptyset before it is used.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_docker() {
        let env = ["PATH=/usr/bin:/bin".to_owned()];
        let failure = |name: &str| find(name, &env).map(drop).map_err(|it| (it.exit_code, it.message)).unwrap_err();
        assert_eq!(failure("nope"), (127, "exec: \"nope\": executable file not found in $PATH".to_owned()));
        assert_eq!(failure("/nope"), (127, "exec: \"/nope\": stat /nope: no such file or directory".to_owned()));
        assert_eq!(failure("/etc/passwd"), (126, "exec: \"/etc/passwd\": permission denied".to_owned()));
        assert_eq!(failure("/etc"), (126, "exec: \"/etc\": is a directory".to_owned()));
        assert!(find("sh", &env).is_ok());
    }
}
