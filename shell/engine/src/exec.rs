//! Further programs in running containers. An exec is created, started once and looked at afterwards; ended ones are kept for
//! a while, for the client asks for the exit code only then.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use skep_oci::{ClientError, ExecConfig};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::container::Container;
use crate::engine::Inner;
use crate::error::{EngineError, Result};
use crate::lifecycle::new_id;

/// Most execs that are known at a time. At the bound the oldest that ended is forgotten; without one, creation is refused.
const EXECS_MAX: usize = 1024;
/// How long an ended exec, or one that was never started, is known (Docker's).
const KEPT: Duration = Duration::from_secs(300);

/// How long a resize waits for a start (Docker's).
const START_PATIENCE: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOptions {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// `KEY=value`, on top of the container's environment.
    pub env: Vec<String>,
    /// Working directory; empty is the container's.
    pub working_dir: String,
    /// User; empty is the container's.
    pub user: String,
    /// A terminal.
    pub tty: bool,
    /// Rows and columns of the terminal at first.
    pub console_size: Option<[u16; 2]>,
    /// All capabilities, and no filter of system calls.
    pub privileged: bool,
    /// Standard input is wanted.
    pub attach_stdin: bool,
    /// Standard output is wanted.
    pub attach_stdout: bool,
    /// Standard error is wanted.
    pub attach_stderr: bool,
    /// Keys that detach a terminal; only shown.
    pub detach_keys: String,
}

/// How an exec goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecState {
    /// Its id, 64 hex digits.
    pub id: String,
    /// Its container.
    pub container_id: String,
    /// What it runs.
    pub options: ExecOptions,
    /// It runs.
    pub running: bool,
    /// How it ended; `None` before.
    pub exit_code: Option<i32>,
    /// Process id; 0 before it runs. It stays when the process has ended.
    pub pid: i32,
}

/// The streams of a started exec.
#[derive(Debug)]
pub struct ExecStreams {
    /// Standard input, if wanted. Dropping it is the end of input.
    pub stdin: Option<pipe::Sender>,
    /// Standard output, if wanted.
    pub stdout: Option<ExecOutput>,
    /// Standard error, if wanted.
    pub stderr: Option<ExecOutput>,
    exit: watch::Receiver<Phase>,
}

impl ExecStreams {
    /// Waits for its end; gives the exit code. After this [`crate::Engine::exec_inspect`] shows it, too.
    pub async fn wait(&mut self) -> i32 {
        match self.exit.wait_for(|phase| matches!(phase, Phase::Ended(_))).await {
            Ok(phase) => {
                if let Phase::Ended(code) = *phase {
                    code
                } else {
                    0
                }
            }
            // The engine closes: nobody follows it any more.
            Err(_) => 137,
        }
    }
}

/// One output of an exec. When it is dropped the rest is read and thrown away, so that the program is not disturbed.
#[derive(Debug)]
pub struct ExecOutput(Option<pipe::Receiver>);

impl AsyncRead for ExecOutput {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.0 {
            Some(receiver) => Pin::new(receiver).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for ExecOutput {
    fn drop(&mut self) {
        if let Some(mut receiver) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let mut rest = vec![0; 8192];
                while receiver.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            });
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Created,
    Starting,
    Running(i32),
    Ended(i32),
}

#[derive(Debug)]
struct Exec {
    id: String,
    container: Arc<Container>,
    options: ExecOptions,
    phase: watch::Sender<Phase>,
    pid: AtomicI32,
    /// When it was created, or ended.
    since: Mutex<Instant>,
}

impl Exec {
    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    fn end(&self, code: i32) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.phase.send_replace(Phase::Ended(code));
    }

    /// Who runs it.
    fn user(&self) -> &str {
        let given = &self.options.user;
        if given.is_empty() { &self.container.record.config.user } else { given }
    }

    fn since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program and its arguments, as events tell them.
    fn command(&self) -> String {
        let (program, arguments) = self.options.cmd.split_first().expect("checked when it was created");
        format!("{program} {}", arguments.join(" "))
    }

    fn is_idle(&self) -> bool {
        matches!(self.phase(), Phase::Created | Phase::Ended(_))
    }
}

/// The execs that are known.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<BTreeMap<String, Arc<Exec>>>);

impl Execs {
    fn map(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Exec>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, container: &Arc<Container>, options: ExecOptions) -> Result<Arc<Exec>> {
        let invalid = |text: &str| Err(EngineError::Invalid(text.to_owned()));
        if options.cmd.first().is_none_or(String::is_empty) {
            return invalid("No exec command specified");
        }
        if !container.state().is_running() {
            return Err(EngineError::NotRunning(container.id().to_owned()));
        }
        let id = new_id()?;
        let exec = Exec {
            id: id.clone(),
            container: container.clone(),
            options,
            phase: watch::Sender::new(Phase::Created),
            pid: AtomicI32::new(0),
            since: Mutex::new(Instant::now()),
        };
        let mut map = self.map();
        map.retain(|_, exec| !exec.is_idle() || exec.since().elapsed() < KEPT);
        if map.len() >= EXECS_MAX {
            let oldest =
                map.values().filter(|exec| matches!(exec.phase(), Phase::Ended(_))).min_by_key(|exec| exec.since());
            let Some(oldest) = oldest.map(|exec| exec.id.clone()) else {
                return Err(EngineError::Conflict(format!("{EXECS_MAX} execs run on this machine: end some first")));
            };
            map.remove(&oldest);
        }
        let exec = Arc::new(exec);
        map.insert(id, exec.clone());
        Ok(exec)
    }

    /// Full id, or an unambiguous prefix.
    fn find(&self, id: &str) -> Result<Arc<Exec>> {
        let map = self.map();
        let missing = || EngineError::NoSuchExec(id.chars().take(200).collect());
        if id.is_empty() {
            return Err(missing());
        }
        let mut matches = map.range(id.to_owned()..).take_while(|(known, _)| known.starts_with(id));
        match (matches.next(), matches.next()) {
            (Some((_, exec)), None) => Ok(exec.clone()),
            (Some((known, exec)), Some(_)) if known == id => Ok(exec.clone()),
            _ => Err(missing()),
        }
    }

    pub(crate) fn inspect(&self, id: &str) -> Result<ExecState> {
        let exec = self.find(id)?;
        let phase = exec.phase();
        Ok(ExecState {
            id: exec.id.clone(),
            container_id: exec.container.id().to_owned(),
            options: ExecOptions { user: exec.user().to_owned(), ..exec.options.clone() },
            running: matches!(phase, Phase::Running(_) | Phase::Starting),
            exit_code: if let Phase::Ended(code) = phase { Some(code) } else { None },
            pid: exec.pid.load(Ordering::Relaxed),
        })
    }

    /// Ids of the execs of a container.
    pub(crate) fn of(&self, container: &str) -> Vec<String> {
        let map = self.map();
        map.values().filter(|exec| exec.container.id() == container).map(|exec| exec.id.clone()).collect()
    }

    /// The container has ended: what was never started never will be.
    pub(crate) fn forget_ended(&self, container: &str) {
        self.map().retain(|_, exec| exec.container.id() != container || exec.phase() != Phase::Created);
    }

    /// The container is removed.
    pub(crate) fn forget(&self, container: &str) {
        self.map().retain(|_, exec| exec.container.id() != container);
    }
}

impl Inner {
    pub(crate) fn exec_create(&self, container: &Arc<Container>, options: ExecOptions) -> Result<String> {
        let exec = self.execs.create(container, options)?;
        self.tell(container, format!("exec_create: {}", exec.command()), [("execID", exec.id.as_str())]);
        Ok(exec.id.clone())
    }

    pub(crate) async fn exec_start(self: &Arc<Self>, id: &str, size: Option<[u16; 2]>) -> Result<ExecStreams> {
        let exec = self.execs.find(id)?;
        let claimed = exec.phase.send_if_modified(|phase| {
            let fresh = *phase == Phase::Created;
            if fresh {
                *phase = Phase::Starting;
            }
            fresh
        });
        if !claimed {
            let how = if matches!(exec.phase(), Phase::Ended(_)) { "has already run" } else { "is already running" };
            return Err(EngineError::Conflict(format!("Error: Exec command {} {how}", exec.id)));
        }
        match self.launch(&exec, size).await {
            Ok(streams) => Ok(streams),
            Err(EngineError::Shim(ClientError::ExecFailed { exit_code, message })) => {
                exec.end(exit_code);
                Err(EngineError::Start { exit_code, message })
            }
            Err(error) => {
                exec.end(128);
                Err(error)
            }
        }
    }

    /// Sets the size of the terminal of an exec; one that is about to start is waited for.
    pub(crate) async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.execs.find(id)?;
        let mut phase = exec.phase.subscribe();
        let running = phase.wait_for(|phase| matches!(phase, Phase::Running(_) | Phase::Ended(_)));
        let running = tokio::time::timeout(START_PATIENCE, running).await;
        let Ok(Ok(Phase::Running(pid))) = running.map(|phase| phase.map(|phase| *phase)) else {
            return Err(EngineError::NoSuchExec(id.chars().take(200).collect()));
        };
        exec.container.client().await?.resize_exec(pid, rows, columns).await?;
        let (rows, columns) = (rows.to_string(), columns.to_string());
        self.tell(&exec.container, "resize", [("height", rows.as_str()), ("width", columns.as_str())]);
        Ok(())
    }

    /// Tells that a client has left an exec by its detach keys; the exec goes on.
    pub(crate) fn exec_detached(&self, id: &str) {
        if let Ok(exec) = self.execs.find(id) {
            self.tell(&exec.container, "exec_detach", [("execID", exec.id.as_str())]);
        }
    }

    async fn launch(self: &Arc<Self>, exec: &Arc<Exec>, size: Option<[u16; 2]>) -> Result<ExecStreams> {
        let options = &exec.options;
        if !exec.container.state().is_running() {
            return Err(EngineError::NotRunning(exec.container.id().to_owned()));
        }
        if exec.container.is_paused() {
            let id = exec.container.id();
            return Err(EngineError::Conflict(format!("Container {id} is paused, unpause the container before exec")));
        }
        let config = ExecConfig {
            args: options.cmd.clone(),
            env: options.env.clone(),
            cwd: options.working_dir.clone(),
            user: options.user.clone(),
            tty: options.tty,
            console_size: options.console_size.or(size),
            privileged: options.privileged,
        };
        self.tell(&exec.container, format!("exec_start: {}", exec.command()), [("execID", exec.id.as_str())]);
        let started = exec.container.client().await?.exec(config, options.attach_stdin).await?;
        exec.pid.store(started.pid, Ordering::Relaxed);
        exec.phase.send_replace(Phase::Running(started.pid));
        let (ending, inner) = (exec.clone(), self.clone());
        let exit = started.exit;
        self.tracker.spawn(async move {
            tokio::select! {
                // Lost with its container when that was killed with its shim.
                ended = exit.wait() => {
                    let code = ended.map_or(137, |exit| exit.code);
                    ending.end(code);
                    let (code, id) = (code.to_string(), ending.id.as_str());
                    inner.tell(&ending.container, "exec_die", [("execID", id), ("exitCode", &code)]);
                }
                () = inner.closing.cancelled() => {}
            }
        });
        let (stdout, stderr) = (ExecOutput(Some(started.stdout)), started.stderr.map(|it| ExecOutput(Some(it))));
        Ok(ExecStreams {
            stdin: started.stdin,
            stdout: options.attach_stdout.then_some(stdout),
            stderr: stderr.filter(|_| options.attach_stderr),
            exit: exec.phase.subscribe(),
        })
    }
}
