//! The real engine behind [`Engine`](super::Engine).

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use skep_api_types::{ContainerInspect, ExecConfig, ExecInspect, ExecProcess};
use skep_engine::{EngineError as Failure, ErrorClass};
use skep_model::WallTime;

use super::{Ended, Engine, EngineError, EngineFacts, ErrorKind, ExecStreams, WaitCondition, inspect};
use crate::cluster::{LogLine, LogOptions, LogStream};

/// Docker's "wait without end".
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        let kind = match (&failure, failure.class()) {
            (Failure::Start { .. }, _) => ErrorKind::Start,
            (_, ErrorClass::NotFound) => ErrorKind::NotFound,
            (_, ErrorClass::Conflict) => ErrorKind::Conflict,
            (_, ErrorClass::Invalid) => ErrorKind::Invalid,
            (_, ErrorClass::Unauthorized) => ErrorKind::Unauthorized,
            (_, ErrorClass::Forbidden) => ErrorKind::Forbidden,
            (_, ErrorClass::NotModified) => ErrorKind::NotModified,
            (_, ErrorClass::Internal) => ErrorKind::Internal,
        };
        Self::new(kind, failure.full_text())
    }
}

pub(super) fn image_failure(error: skep_image::Error) -> EngineError {
    Failure::from(error).into()
}

/// Runs what blocks where blocking is fine.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(EngineError::new(ErrorKind::Internal, format!("a task of the engine failed: {error}"))),
    }
}

#[async_trait]
impl Engine for skep_engine::Engine {
    async fn facts(&self) -> EngineFacts {
        let engine = self.clone();
        let Ok(info) = tokio::task::spawn_blocking(move || engine.info()).await else { return EngineFacts::default() };
        let [memory_limit, cpu_limit, pids_limit] = info.limits;
        EngineFacts {
            hostname: info.hostname,
            architecture: info.architecture,
            operating_system: info.operating_system,
            kernel_version: info.kernel_version,
            cpus: info.cpus,
            memory: i64::try_from(info.memory).unwrap_or(i64::MAX),
            cgroup_version: info.cgroup_version,
            cgroup_driver: info.cgroup_driver,
            containers_running: info.running,
            containers_paused: info.paused,
            containers_stopped: info.stopped,
            backing: info.backing,
            os_version: info.os_version,
            images: info.images,
            data_root: info.data_root,
            warnings: info.warnings,
            seccomp: info.seccomp,
            memory_limit,
            cpu_limit,
            pids_limit,
        }
    }

    fn containers(&self) -> Vec<ContainerInspect> {
        self.list().iter().map(inspect::container).collect()
    }

    fn container(&self, name: &str) -> Result<ContainerInspect, EngineError> {
        Ok(inspect::container(&self.inspect(name)?))
    }

    async fn kill(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::kill(self, name, signal).await?)
    }

    async fn stop(&self, name: &str, signal: Option<&str>, grace: Option<i64>) -> Result<(), EngineError> {
        let grace = grace.map(|seconds| u64::try_from(seconds).map_or(FOREVER, Duration::from_secs));
        Ok(skep_engine::Engine::stop(self, name, signal, grace).await?)
    }

    async fn remove(&self, name: &str, force: bool, volumes: bool) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::remove(self, name, force, volumes).await?)
    }

    fn wait(&self, name: &str, condition: WaitCondition) -> Result<BoxFuture<'static, Ended>, EngineError> {
        let condition = match condition {
            WaitCondition::NotRunning => skep_engine::WaitCondition::NotRunning,
            WaitCondition::NextExit => skep_engine::WaitCondition::NextExit,
            WaitCondition::Removed => skep_engine::WaitCondition::Removed,
        };
        let ended = skep_engine::Engine::wait(self, name, condition)?;
        Ok(Box::pin(async move {
            let ended = ended.await;
            Ended { exit_code: ended.exit_code.into(), error: ended.error }
        }))
    }

    fn logs(
        &self,
        name: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, String>>, EngineError> {
        let options = skep_engine::LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            since: options.since.map(|time| time.0),
            until: options.until.map(|time| time.0),
            tail: options.tail,
            follow: options.follow,
        };
        let reader = skep_engine::Engine::logs(self, name, options)?;
        let lines = stream::unfold(reader, |mut reader| async { reader.next().await.map(|line| (line, reader)) });
        Ok(lines.map(|line| line.map(log_line).map_err(|error| error.full_text())).boxed())
    }

    fn exec_create(&self, name: &str, config: ExecConfig) -> Result<String, EngineError> {
        let options = skep_engine::ExecOptions {
            cmd: config.cmd,
            env: config.env,
            working_dir: config.working_dir,
            user: config.user,
            tty: config.tty,
            console_size: console_size(&config.console_size),
            privileged: config.privileged,
            attach_stdin: config.attach_stdin,
            attach_stdout: config.attach_stdout,
            attach_stderr: config.attach_stderr,
            detach_keys: config.detach_keys,
        };
        Ok(skep_engine::Engine::exec_create(self, name, options)?)
    }

    async fn exec_start(&self, exec: &str, size: Option<[u16; 2]>) -> Result<ExecStreams, EngineError> {
        let mut streams = skep_engine::Engine::exec_start(self, exec, size).await?;
        Ok(ExecStreams {
            stdin: streams.stdin.take().map(|stdin| Box::pin(stdin) as _),
            stdout: streams.stdout.take().map(|stdout| Box::pin(stdout) as _),
            stderr: streams.stderr.take().map(|stderr| Box::pin(stderr) as _),
            exit: Box::pin(async move { streams.wait().await }),
        })
    }

    fn exec_inspect(&self, exec: &str) -> Result<ExecInspect, EngineError> {
        let state = skep_engine::Engine::exec_inspect(self, exec)?;
        let mut words = state.options.cmd.into_iter();
        Ok(ExecInspect {
            id: state.id,
            running: state.running,
            exit_code: state.exit_code,
            process_config: ExecProcess {
                tty: state.options.tty,
                entrypoint: words.next().unwrap_or_default(),
                arguments: words.collect(),
                privileged: state.options.privileged,
                user: state.options.user,
            },
            open_stdin: state.options.attach_stdin,
            open_stderr: state.options.attach_stderr,
            open_stdout: state.options.attach_stdout,
            // Set by the engine only just before it forgets one.
            can_remove: false,
            container_id: state.container_id,
            detach_keys: state.options.detach_keys,
            pid: state.pid,
        })
    }
}

/// Rows and columns of a terminal; none when nothing sensible is given.
pub(crate) fn console_size(given: &[u64]) -> Option<[u16; 2]> {
    let &[rows, columns] = given else { return None };
    let size = [u16::try_from(rows).ok()?, u16::try_from(columns).ok()?];
    (size != [0, 0]).then_some(size)
}

fn log_line(line: skep_engine::LogLine) -> LogLine {
    let stream = match line.stream {
        skep_engine::LogStream::Stdout => LogStream::Stdout,
        skep_engine::LogStream::Stderr => LogStream::Stderr,
    };
    LogLine { stream, time: WallTime(line.at), text: line.message }
}
