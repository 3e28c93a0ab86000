//! The daemon's side (tokio): launches shims so that they outlive it, and talks to them. A [`ShimClient`] holds no
//! connection; every call makes its own, so calls do not wait for each other and a restarted daemon needs nothing.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::attachment::{AttachEnds, null, pipe_pair, receiver, sender};
use crate::bundle::{Bundle, Status};
use crate::config::ExecConfig;
use crate::memory::MemoryFiles;
use crate::protocol::{Answer, FRAME_MAX, Hello, MEMORY, Op, PROTOCOL_VERSION, Reply, Request, State, frame};
use crate::record::{ExitRecord, Pids, SOCKET_FILE};

/// How long a shim may take to start its container. Generous: a loaded disk is no reason to give up.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How often is looked whether the shim still lives meanwhile.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// Longest report of a shim, in bytes.
const REPORT_MAX: u64 = 64 * 1024;
/// How long a shim may take to answer what it answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Attachments that may be handed over at the start.
const ATTACH_MAX: usize = 16;

/// What a shim tells its launcher: exactly one of the two is set.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) running: Option<Pids>,
    pub(crate) failed: Option<Failure>,
}

/// Why a container did not start, with the exit code Docker gives it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) exit_code: i32,
    pub(crate) message: String,
}

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The container could not be made or its program not be executed; the text is Docker's.
    #[error("{message}")]
    Container {
        /// 127: no such program, 126: not executable, 128: anything else.
        exit_code: i32,
        /// For people; `failed to create task for container: …`.
        message: String,
    },
    /// The shim itself could not be run.
    #[error("cannot run the container's shim {binary:?}")]
    Shim {
        /// The program.
        binary: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim ended without saying anything, or took too long.
    #[error("the container's shim {what}")]
    Silent {
        /// What it did instead.
        what: &'static str,
    },
}

/// Why a call to a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers on the socket: the container has ended, or its shim is dead. [`Bundle::status`] tells.
    #[error("the container's shim in {dir:?} does not answer")]
    Unreachable {
        /// The bundle.
        dir: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("lost the connection to the container's shim")]
    Lost(#[source] io::Error),
    /// A newer shim than this daemon.
    #[error("the container's shim speaks version {0}, this release up to {PROTOCOL_VERSION}: use the newer skep")]
    Newer(u32),
    /// The shim answers something else than what was asked.
    #[error("the container's shim gave an answer that does not fit the question")]
    Unexpected,
    /// The shim refuses or failed; the text is for people.
    #[error("{0}")]
    Refused(String),
    /// The program of an exec could not be started; the text is Docker's.
    #[error("{message}")]
    ExecFailed {
        /// 127: no such program, 126: anything else.
        exit_code: i32,
        /// `OCI runtime exec failed: …`.
        message: String,
    },
}

/// Starts shims.
#[derive(Debug)]
pub struct ShimLaunch;

/// A container that has been started.
#[derive(Clone, Debug)]
pub struct Running {
    /// The shim, the container's first process, and when it started.
    pub pids: Pids,
    /// To talk to the shim.
    pub client: ShimClient,
}

impl ShimLaunch {
    /// Runs `binary shim DIR` and waits until the container runs. The shim is in a session of its own and no child
    /// of this process: it outlives it and leaves no zombie.
    ///
    /// When this future is dropped before it ends, the shim goes on: look at [`Bundle::status`] afterwards. What is in
    /// `attach` is attached before the program runs, so that it misses nothing.
    ///
    /// # Errors
    /// When the container cannot be started; then nothing of it is left but its `exit.json`.
    pub async fn spawn(binary: &Path, bundle: &Bundle, attach: Vec<AttachEnds>) -> Result<Running, StartError> {
        Self::spawn_with(binary, bundle, attach, None).await
    }

    /// As [`ShimLaunch::spawn`], with files in memory that the configuration binds from [`MemoryFiles::path`].
    ///
    /// # Errors
    /// As [`ShimLaunch::spawn`].
    pub async fn spawn_with(
        binary: &Path,
        bundle: &Bundle,
        attach: Vec<AttachEnds>,
        memory: Option<MemoryFiles>,
    ) -> Result<Running, StartError> {
        let shim = |source| StartError::Shim { binary: binary.to_owned(), source };
        let stdin = hand_over(attach, memory).map_err(shim)?;
        // The process started here only forks the shim and ends; its standard output is the report's way.
        let mut child = Command::new(binary)
            .arg("shim")
            .arg(bundle.dir())
            .env_clear()
            .current_dir("/")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(shim)?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut report = Vec::new();
        let mut stdout = stdout.take(REPORT_MAX);
        let read = {
            let reading = tokio::time::timeout(START_TIMEOUT, stdout.read_to_end(&mut report));
            tokio::pin!(reading);
            loop {
                tokio::select! {
                    read = &mut reading => break read,
                    () = tokio::time::sleep(LOOK_PERIOD) => {
                        // A half-made container may hold the report's pipe open when its shim is no more.
                        if let Ok(Status::Gone(Some(_))) = bundle.status() {
                            return Err(StartError::Silent { what: "was killed before the container ran" });
                        }
                    }
                }
            }
        };
        // Has ended long ago unless something is very wrong; tokio reaps it also when this is dropped.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, child.wait()).await;
        match read {
            Err(_) => return Err(StartError::Silent { what: "did not start the container in time" }),
            Ok(Err(source)) => return Err(shim(source)),
            Ok(Ok(_)) => {}
        }
        let report: Report =
            serde_json::from_slice(&report).map_err(|_| StartError::Silent { what: "ended without a report" })?;
        match report {
            Report { failed: Some(Failure { exit_code, message }), .. } => {
                Err(StartError::Container { exit_code, message })
            }
            Report { running: Some(pids), .. } => Ok(Running { pids, client: ShimClient { bundle: bundle.clone() } }),
            Report { .. } => Err(StartError::Silent { what: "ended without a report" }),
        }
    }
}

/// Puts descriptors into a socket that becomes the shim's standard input: one message for the files in memory, then one for
/// each attachment.
fn hand_over(attach: Vec<AttachEnds>, memory: Option<MemoryFiles>) -> io::Result<Stdio> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    if attach.is_empty() && memory.is_none() {
        return Ok(Stdio::null());
    }
    if attach.len() > ATTACH_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many attachments to one container"));
    }
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let send = |text: &[u8], fds: &[RawFd]| {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(text)], &[ControlMessage::ScmRights(fds)], flags, None)
    };
    if let Some(memory) = &memory {
        send(MEMORY, &[memory.descriptor()])?;
    }
    for ends in &attach {
        send(&serde_json::to_vec(&ends.streams())?, &ends.descriptors())?;
    }
    Ok(Stdio::from(theirs))
}

/// Talks to the shim of one bundle.
#[derive(Clone, Debug)]
pub struct ShimClient {
    bundle: Bundle,
}

impl ShimClient {
    /// Checks that the shim of `bundle` answers and speaks our language.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when it does not answer, [`ClientError::Newer`].
    pub async fn connect(bundle: &Bundle) -> Result<Self, ClientError> {
        Connection::open(bundle).await?;
        Ok(Self { bundle: bundle.clone() })
    }

    /// What the container does now.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn state(&self) -> Result<State, ClientError> {
        match self.ask(Op::State).await? {
            Answer::State(state) => Ok(state),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Waits until the container has ended and its record is on disk.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the shim dies meanwhile, [`ClientError::Unreachable`] when it is gone already: in
    /// both cases [`Bundle::status`] tells how it ended.
    pub async fn wait(&self) -> Result<ExitRecord, ClientError> {
        let mut connection = Connection::open(&self.bundle).await?;
        connection.send(Op::Wait, &[]).await?;
        match connection.receive().await? {
            Answer::Exited(record) => Ok(record),
            other => Err(unexpected(other)),
        }
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kill(&self, signal: i32) -> Result<(), ClientError> {
        self.order(Op::Kill { signal }).await
    }

    /// Sends a signal to every process of the container.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kill_all(&self, signal: i32) -> Result<(), ClientError> {
        self.order(Op::KillAll { signal }).await
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pause(&self) -> Result<(), ClientError> {
        self.order(Op::Pause).await
    }

    /// Thaws them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn resume(&self) -> Result<(), ClientError> {
        self.order(Op::Resume).await
    }

    /// Attaches to the container's streams: what it writes from now on. The ends are from [`crate::attachment`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn attach(&self, ends: AttachEnds) -> Result<(), ClientError> {
        let ask = async {
            let mut connection = Connection::open(&self.bundle).await?;
            connection.send(Op::Attach(ends.streams()), &ends.descriptors()).await?;
            connection.receive().await
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, ask).await.map_err(|_| ClientError::Lost(late()))?? {
            Answer::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Sets the size of the container's terminal.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it has none.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), ClientError> {
        self.order(Op::Resize { rows, cols }).await
    }

    /// Sets the size of the terminal of a process started by [`ShimClient::exec`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it has none.
    pub async fn resize_exec(&self, pid: i32, rows: u16, cols: u16) -> Result<(), ClientError> {
        self.order(Op::ResizeExec { pid, rows, cols }).await
    }

    /// Starts a process in the container with the container's own confinement. Without `stdin` it reads from
    /// `/dev/null`, or from a terminal on which nobody types. Its output must be read while it runs.
    ///
    /// # Errors
    /// [`ClientError::ExecFailed`] when the program cannot be started.
    pub async fn exec(&self, config: ExecConfig, stdin: bool) -> Result<Exec, ClientError> {
        let mut connection = Connection::open(&self.bundle).await?;
        let (input, writer) = if stdin {
            let (reader, writer) = pipe_pair().map_err(ClientError::Lost)?;
            (reader, Some(sender(writer).map_err(ClientError::Lost)?))
        } else {
            (null().map_err(ClientError::Lost)?, None)
        };
        let (stdout, output) = pipe_pair().map_err(ClientError::Lost)?;
        let stdout = receiver(stdout).map_err(ClientError::Lost)?;
        let (stderr, errors) = if config.tty {
            (None, null().map_err(ClientError::Lost)?)
        } else {
            let (stderr, errors) = pipe_pair().map_err(ClientError::Lost)?;
            (Some(receiver(stderr).map_err(ClientError::Lost)?), errors)
        };
        let fds: [OwnedFd; 3] = [input, output, errors];
        connection.send(Op::Exec(config), &[fds[0].as_raw_fd(), fds[1].as_raw_fd(), fds[2].as_raw_fd()]).await?;
        // Ours must be closed, or the streams never end.
        drop(fds);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, connection.receive())
            .await
            .map_err(|_| ClientError::Lost(late()))??;
        match answer {
            Answer::ExecStarted { pid } => {
                Ok(Exec { pid, stdin: writer, stdout, stderr, exit: ExecWait { connection } })
            }
            other => Err(unexpected(other)),
        }
    }

    /// Sends a signal to a process started by [`ShimClient::exec`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kill_exec(&self, pid: i32, signal: i32) -> Result<(), ClientError> {
        self.order(Op::KillExec { pid, signal }).await
    }

    async fn order(&self, op: Op) -> Result<(), ClientError> {
        match self.ask(op).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    async fn ask(&self, op: Op) -> Result<Answer, ClientError> {
        let ask = async {
            let mut connection = Connection::open(&self.bundle).await?;
            connection.send(op, &[]).await?;
            connection.receive().await
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, ask).await.map_err(|_| ClientError::Lost(late()))?? {
            Answer::Error { message } => Err(ClientError::Refused(message)),
            answer => Ok(answer),
        }
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

fn unexpected(answer: Answer) -> ClientError {
    match answer {
        Answer::Error { message } => ClientError::Refused(message),
        Answer::ExecFailed { code, message } => ClientError::ExecFailed { exit_code: code, message },
        _ => ClientError::Unexpected,
    }
}

/// A process started in a running container. Dropping it does not end the process.
#[derive(Debug)]
pub struct Exec {
    /// Its pid in the host's pid namespace.
    pub pid: i32,
    /// Its standard input, if asked for. Dropping it is the end of input.
    pub stdin: Option<pipe::Sender>,
    /// Its standard output, or its terminal.
    pub stdout: pipe::Receiver,
    /// Its standard error; `None` with a terminal.
    pub stderr: Option<pipe::Receiver>,
    /// Its end.
    pub exit: ExecWait,
}

/// Waits for the end of an exec.
#[derive(Debug)]
pub struct ExecWait {
    connection: Connection,
}

/// How an exec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecExit {
    /// Exit code, or 128 plus the signal.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl ExecWait {
    /// Waits for the end.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the shim ends first; then the container is gone and the process with it.
    pub async fn wait(mut self) -> Result<ExecExit, ClientError> {
        match self.connection.receive().await? {
            Answer::ExecExited { code, signal } => Ok(ExecExit { code, signal }),
            other => Err(unexpected(other)),
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    seq: u64,
}

impl Connection {
    async fn open(bundle: &Bundle) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable { dir: bundle.dir().to_owned(), source };
        // A socket's address holds 108 bytes, a bundle's path may be longer.
        let dir = std::fs::File::open(bundle.dir()).map_err(unreachable)?;
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_fd().as_raw_fd());
        let stream = UnixStream::connect(path).await.map_err(unreachable)?;
        let mut connection = Self { stream, seq: 0 };
        let hello: Hello = tokio::time::timeout(ANSWER_TIMEOUT, connection.read())
            .await
            .map_err(|_| unreachable(late()))?
            .map_err(unreachable)?;
        if hello.version > PROTOCOL_VERSION {
            return Err(ClientError::Newer(hello.version));
        }
        Ok(connection)
    }

    async fn send(&mut self, op: Op, fds: &[RawFd]) -> Result<(), ClientError> {
        self.seq += 1;
        let bytes = frame(&Request { seq: self.seq, op }).map_err(|error| ClientError::Refused(error.to_string()))?;
        let sent = self
            .stream
            .async_io(Interest::WRITABLE, || {
                let rights = [ControlMessage::ScmRights(fds)];
                let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None)
                    .map_err(io::Error::from)
            })
            .await
            .map_err(ClientError::Lost)?;
        self.stream.write_all(&bytes[sent..]).await.map_err(ClientError::Lost)
    }

    async fn receive(&mut self) -> Result<Answer, ClientError> {
        let reply: Reply = self.read().await.map_err(ClientError::Lost)?;
        if reply.seq == self.seq { Ok(reply.answer) } else { Err(ClientError::Unexpected) }
    }

    async fn read<T: for<'de> Deserialize<'de>>(&mut self) -> io::Result<T> {
        let length = self.stream.read_u32().await? as usize;
        if length > FRAME_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of the shim is too long"));
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}
