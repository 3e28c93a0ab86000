//! A daemon's users: the stock docker client and raw HTTP, on one socket.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::command::{Output, run};
use crate::http::{self, Answer};

/// How long a docker command may take.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// A socket and how to speak to who listens there.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// Configuration of the docker client: empty, so that no file of this machine's user plays a part.
    config: TempDir,
}

impl Client {
    /// A client of the daemon at a unix socket. Nothing is sent yet.
    ///
    /// # Panics
    /// When there is no room for a temporary directory.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        let config = TempDir::with_prefix("skep-test-config-").expect("a temporary directory can be made");
        Self { socket: socket.to_owned(), config }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs the docker client.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> Output {
        self.docker_with(args, b"", &[])
    }

    /// Runs the docker client with something on its standard input and in its environment.
    #[track_caller]
    pub fn docker_with(&self, args: &[&str], input: &[u8], env: &[(&str, &str)]) -> Output {
        run(self.docker_command(args).envs(env.iter().copied()), input, COMMAND_MAX)
    }

    /// The docker client, not started.
    #[must_use]
    pub fn docker_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_CONFIG", self.config.path())
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_API_VERSION");
        command
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn http(&self, method: &str, path: &str, body: Option<&[u8]>) -> io::Result<Answer> {
        http::send(&self.socket, method, path, body, COMMAND_MAX)
    }

    /// Sends a request and waits at most `max` for the answer.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn http_within(&self, method: &str, path: &str, body: Option<&[u8]>, max: Duration) -> io::Result<Answer> {
        http::send(&self.socket, method, path, body, max)
    }

    /// What a GET answers that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.http("GET", path, None).unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert!(answer.status == 200, "GET {path}: {} {}", answer.status, answer.text());
        answer.json()
    }

    /// Sends JSON.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn post(&self, path: &str, body: &Value) -> io::Result<Answer> {
        self.http("POST", path, Some(body.to_string().as_bytes()))
    }

    /// Makes the machine a swarm of one node that is ready for tasks.
    ///
    /// # Panics
    /// When it does not become one.
    #[track_caller]
    pub fn swarm_init(&self) {
        let _ = self.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]).ok();
        crate::wait_until("the node to be ready", Duration::from_secs(20), || {
            self.docker(&["node", "ls", "--format", "{{.Status}}"]).stdout.trim() == "Ready"
        });
    }

    /// The tasks of a service that the swarm wants running and that run.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn running_tasks(&self, service: &str) -> Result<Vec<Value>, String> {
        let filter = format!("%7B%22service%22%3A%5B%22{service}%22%5D%2C%22desired-state%22%3A%5B%22running%22%5D%7D");
        let answer = self.http("GET", &format!("/v1.41/tasks?filters={filter}"), None);
        let answer = answer.map_err(|error| error.to_string())?;
        let Value::Array(tasks) = answer.json() else { return Err(answer.text()) };
        Ok(tasks.into_iter().filter(|task| task["Status"]["State"] == "running").collect())
    }

    /// Waits until a service runs as many tasks as it should, and gives them.
    ///
    /// # Panics
    /// When it does not in `max`; says what `service ps` shows.
    #[track_caller]
    pub fn wait_running(&self, service: &str, count: usize, max: Duration) -> Vec<Value> {
        let what = format!("{count} running tasks of {service}");
        let found = crate::wait_for(&what, max, || {
            let tasks = self.running_tasks(service)?;
            if tasks.len() == count { Ok(tasks) } else { Err(format!("{} run", tasks.len())) }
        });
        found.unwrap_or_else(|error| {
            let list = self.docker(&["service", "ps", "--no-trunc", service]).stdout;
            panic!("{error}\n{list}")
        })
    }
}
