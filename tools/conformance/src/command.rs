//! Running programs with a bound on their time.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Its exit code; -1 when a signal ended it, -2 when it took too long and was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The trimmed output of a program that must succeed.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    #[must_use]
    pub fn ok(self) -> String {
        assert!(self.code == 0, "{self}");
        self.stdout.trim().to_owned()
    }

    /// The error text of a program that must fail in its own words.
    ///
    /// # Panics
    /// When it succeeded or took too long.
    #[track_caller]
    #[must_use]
    pub fn fails(self) -> String {
        assert!(self.code > 0, "should have failed: {self}");
        self.stderr.trim().to_owned()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "`{command}` ended with {code}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// Runs a program; it is killed after `max`.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8], max: Duration) -> Output {
    let name = format!("{command:?}").replace('"', "");
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
    let writer = child.stdin.take().map(|mut pipe| {
        let input = input.to_vec();
        // The program may end without reading all of it.
        std::thread::spawn(move || std::io::Write::write_all(&mut pipe, &input).ok())
    });
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let end = Instant::now() + max;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                child.kill().ok();
                child.wait().ok();
                break None;
            }
        }
    };
    if let Some(writer) = writer {
        writer.join().ok();
    }
    let text = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
        let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Output { command: name, code: code(status), stdout: text(stdout), stderr: text(stderr) }
}

fn code(status: Option<ExitStatus>) -> i32 {
    status.map_or(-2, |status| status.code().unwrap_or(-1))
}

fn collect(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).ok();
        bytes
    })
}
