//! The engine as the node sees it: what this machine is, and the output of its tasks.

use skep_engine::{Engine, LogStream};
use skep_model::{
    ByteSize, EngineDescription, Labels, NanoCpus, NodeDescription, Platform, Plugin, Resources, TaskId, WallTime,
};
use skep_node::{DescriptionSource, LogSource, TaskLogLine, TaskLogLines, TaskLogOptions};
use tokio::sync::mpsc;

/// Lines on their way to the node; at the bound the engine's reader waits.
const LINES_MAX: usize = 64;
const CPU: i64 = 1_000_000_000;

/// This machine's engine.
#[derive(Clone)]
pub(super) struct Machine {
    engine: Engine,
    /// What does not change while the daemon runs.
    description: NodeDescription,
}

impl Machine {
    pub(super) fn new(engine: Engine) -> Self {
        let info = engine.info();
        let plugin = |kind: &str, name: &str| Plugin { kind: kind.to_owned(), name: name.to_owned() };
        let description = NodeDescription {
            hostname: info.hostname,
            platform: Platform { architecture: info.architecture, os: info.os },
            resources: Resources {
                cpus: NanoCpus(i64::try_from(info.cpus).unwrap_or(i64::MAX / CPU).saturating_mul(CPU)),
                memory: ByteSize(i64::try_from(info.memory).unwrap_or(i64::MAX)),
                generic: Vec::new(),
            },
            engine: EngineDescription {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                labels: Labels::new(),
                plugins: vec![
                    plugin("Log", "json-file"),
                    plugin("Log", "local"),
                    plugin("Network", "bridge"),
                    plugin("Volume", "local"),
                ],
            },
            tls: None,
        };
        Self { engine, description }
    }
}

impl DescriptionSource for Machine {
    fn describe(&self) -> NodeDescription {
        self.description.clone()
    }
}

impl LogSource for Machine {
    fn task_logs(&self, task: TaskId, options: TaskLogOptions) -> Result<Option<TaskLogLines>, String> {
        let wanted = skep_engine::LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            since: options.since.map(|since| since.0),
            until: None,
            tail: options.tail,
            follow: options.follow,
        };
        let Some(mut reader) = self.engine.task_logs(task, wanted).map_err(|error| error.full_text())? else {
            return Ok(None);
        };
        let (sender, receiver) = mpsc::channel(LINES_MAX);
        tokio::spawn(async move {
            while let Some(line) = reader.next().await {
                let line = line.map_err(|error| error.full_text()).map(|line| TaskLogLine {
                    time: WallTime(line.at),
                    is_stderr: line.stream == LogStream::Stderr,
                    data: line.message.into(),
                });
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        });
        Ok(Some(receiver))
    }
}
