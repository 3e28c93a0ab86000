//! One check: runs the program in the container, reads what it prints, and gives it its time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_oci::{Exec, ExecConfig};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{HealthCheck, HealthResult};
use crate::container::Container;
use crate::engine::Inner;
use crate::error::{EngineError, Result};
use crate::record::now;

/// Most bytes of output that are kept.
const OUTPUT_MAX: usize = 4096;
/// How long the start of the program may take; it does not count as time of the check.
const START_MAX: Duration = Duration::from_secs(30);
/// How long it is waited for the end of output, or of the program, that somebody else holds up.
const REST_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Output {
    fn take(&mut self, bytes: &[u8]) {
        let room = OUTPUT_MAX - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.is_cut |= bytes.len() > room;
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        if self.is_cut { format!("{text}...") } else { text.into_owned() }
    }
}

impl Inner {
    /// Runs the check once; `None` when the container ended meanwhile.
    pub(super) async fn probe(
        self: &Arc<Self>,
        container: &Arc<Container>,
        check: &HealthCheck,
    ) -> Option<HealthResult> {
        let _turn = tokio::select! {
            biased;
            _ = container.ended() => return None,
            turn = self.healths.turns.acquire() => turn.ok()?,
        };
        let start = now();
        let run = run(container, check);
        let (exit_code, output) = tokio::select! {
            biased;
            _ = container.ended() => return None,
            ran = run => ran.unwrap_or_else(|error| {
                let error = error.full_text();
                tracing::debug!(container.id = container.id(), error, "a health check could not be run");
                (-1, error)
            }),
        };
        Some(HealthResult { start, end: now(), exit_code, output })
    }
}

async fn run(container: &Container, check: &HealthCheck) -> Result<(i32, String)> {
    let config = ExecConfig { args: check.command(), ..ExecConfig::default() };
    let start = async {
        let client = container.client().await?;
        let exec = client.exec(config, false).await?;
        Ok::<_, EngineError>((client, exec))
    };
    let started = tokio::time::timeout(START_MAX, start).await;
    let (client, exec) = started.map_err(|_| {
        let id = container.id();
        EngineError::Conflict(format!("timed out starting health check for container {id}"))
    })??;
    let Exec { pid, stdout, stderr, exit, .. } = exec;
    let output = Mutex::new(Output::default());
    let reading = async {
        tokio::join!(read(stdout, &output), async {
            if let Some(stderr) = stderr {
                read(stderr, &output).await;
            }
        })
    };
    let ending = exit.wait();
    tokio::pin!(reading, ending);
    let text = || output.lock().unwrap_or_else(PoisonError::into_inner).text();
    let mut read_all = false;
    let patience = tokio::time::sleep(check.timeout());
    tokio::pin!(patience);
    let ended = loop {
        tokio::select! {
            biased;
            _ = &mut reading, if !read_all => read_all = true,
            ended = &mut ending => break Some(ended),
            () = &mut patience => break None,
        }
    };
    match ended {
        Some(ended) => {
            let code = ended?.code;
            if !read_all {
                // What it left running in the background may hold its output open.
                let _ = tokio::time::timeout(REST_MAX, &mut reading).await;
            }
            Ok((code, text()))
        }
        None => {
            let _ = client.kill_exec(pid, nix::libc::SIGKILL).await;
            // Dying checks must not pile up.
            let _ = tokio::time::timeout(REST_MAX, &mut ending).await;
            let limit = go_duration(check.timeout());
            let text = text();
            let more = if text.is_empty() { text } else { format!(": {text}") };
            Ok((-1, format!("Health check exceeded timeout ({limit}){more}")))
        }
    }
}

async fn read(mut stream: impl AsyncRead + Unpin, output: &Mutex<Output>) {
    let mut buffer = [0; 4096];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        output.lock().unwrap_or_else(PoisonError::into_inner).take(&buffer[..read]);
    }
}

/// A duration as Go prints it, such as `1m30s`, `1.5s`, `20ms`.
fn go_duration(duration: Duration) -> String {
    let fraction = |number: f64| {
        let text = format!("{number:.9}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if duration < Duration::from_secs(1) {
        return format!("{}ms", fraction(duration.as_secs_f64() * 1000.0));
    }
    let (minutes, seconds) = (duration.as_secs() / 60, duration.as_secs_f64() % 60.0);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    match (hours, minutes) {
        (0, 0) => format!("{}s", fraction(seconds)),
        (0, minutes) => format!("{minutes}m{}s", fraction(seconds)),
        (hours, minutes) => format!("{hours}h{minutes}m{}s", fraction(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_output_look_like_docker_s() {
        for (millis, text) in [(20, "20ms"), (1000, "1s"), (1500, "1.5s"), (90_000, "1m30s"), (3_600_000, "1h0m0s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
        let mut output = Output::default();
        output.take(&[b'a'; 4000]);
        assert_eq!(output.text().len(), 4000);
        output.take(&[b'b'; 97]);
        assert_eq!((output.text().len(), output.text().ends_with("bbb...")), (4099, true));
    }
}
