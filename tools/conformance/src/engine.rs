//! The engine a case runs against: a skep daemon of its own, or a real engine that is already there.

use std::ops::Deref;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::archive::{ArchiveKind, busybox_archive};
use crate::client::Client;
use crate::command::{Output, run};
use crate::daemon::{Daemon, Setup};

/// Names the socket of a real engine to run against.
const HOST: &str = "SKEP_TEST_HOST";
/// Names that engine's network namespace.
const NETNS: &str = "SKEP_TEST_NETNS";

/// What a case runs against. Derefs to a [`Client`].
#[derive(Debug)]
pub enum Engine {
    /// A skep daemon of its own.
    Skep(Box<Daemon>),
    /// A real engine, shared by all cases.
    Dockerd(Client),
}

impl Deref for Engine {
    type Target = Client;

    fn deref(&self) -> &Client {
        match self {
            Self::Skep(daemon) => daemon,
            Self::Dockerd(client) => client,
        }
    }
}

impl Engine {
    /// A fresh engine that is in no swarm.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn start(binary: &str) -> Self {
        let Ok(host) = std::env::var(HOST) else { return Self::Skep(Box::new(Setup::new(binary).start())) };
        let socket = host.strip_prefix("unix://").expect("SKEP_TEST_HOST is unix://PATH");
        let client = Client::new(Path::new(socket));
        leave(&client);
        Self::Dockerd(client)
    }

    /// An engine with the image `busybox:latest`, in a swarm of one node that is ready.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn with_swarm(binary: &str) -> Self {
        let engine = Self::start(binary);
        engine.load_busybox();
        engine.swarm_init();
        engine
    }

    /// Loads `busybox:latest`.
    ///
    /// # Panics
    /// When the engine refuses it.
    pub fn load_busybox(&self) {
        load_busybox(self);
    }

    /// True for a real engine: some texts and later API versions are skep's alone.
    #[must_use]
    pub fn is_dockerd(&self) -> bool {
        matches!(self, Self::Dockerd(_))
    }

    /// Runs a program in the engine's network.
    ///
    /// # Panics
    /// When a real engine's namespace is not named.
    #[track_caller]
    pub fn in_netns(&self, args: &[&str]) -> Output {
        if let Self::Skep(daemon) = self {
            return daemon.in_netns(args);
        }
        let netns = std::env::var(NETNS).expect("SKEP_TEST_NETNS names the network namespace of the real engine");
        run(Command::new("nsenter").arg(format!("--net={netns}")).arg("--").args(args), b"", Duration::from_secs(10))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Self::Dockerd(client) = self {
            leave(client);
        }
    }
}

/// Loads `busybox:latest` by the docker client.
pub(crate) fn load_busybox(client: &Client) {
    let archive = busybox_archive("busybox:latest", ArchiveKind::Today);
    let _ = client.docker_with(&["load"], &archive, &[]).ok();
}

fn leave(client: &Client) {
    client.docker(&["swarm", "leave", "--force"]);
    crate::wait_until("the containers of a former swarm to go", Duration::from_secs(30), || {
        let list = client.docker(&["ps", "-aq", "--filter", "label=com.docker.swarm.task.id"]);
        let ids: Vec<&str> = list.stdout.split_whitespace().collect();
        if !ids.is_empty() {
            client.docker(&[&["rm", "-f"], &ids[..]].concat());
        }
        ids.is_empty()
    });
}
