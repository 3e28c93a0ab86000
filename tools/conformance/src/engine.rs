//! The engine a case runs against: a skep daemon of its own, or a real engine that is already there.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use crate::archive::{ArchiveKind, busybox_archive};
use crate::client::Client;
use crate::daemon::{Daemon, Setup};

/// Names the socket of a real engine to run against.
const HOST: &str = "SKEP_TEST_HOST";
/// Names that engine's network namespace.
const NETNS: &str = "SKEP_TEST_NETNS";

const WEB_MAX: Duration = Duration::from_secs(3);

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

    /// What a web server at `address` answers to a client in the engine's network; `None` when there is no answer.
    ///
    /// # Panics
    /// When a real engine's namespace is not named.
    #[must_use]
    pub fn web_get(&self, address: &str) -> Option<String> {
        let netns = match self {
            Self::Skep(daemon) => daemon.setup().netns(),
            Self::Dockerd(_) => std::env::var(NETNS).expect("SKEP_TEST_NETNS names the real engine's namespace").into(),
        };
        let address = address.to_owned();
        // Namespaces are a thread's own.
        std::thread::spawn(move || web_get(&netns, &address).ok().flatten()).join().ok().flatten()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Self::Dockerd(client) = self {
            leave(client);
        }
    }
}

fn web_get(netns: &Path, address: &str) -> std::io::Result<Option<String>> {
    nix::sched::setns(File::open(netns)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, WEB_MAX)?;
    stream.set_read_timeout(Some(WEB_MAX))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").filter(|(head, _)| head.contains(" 200 "));
    Ok(body.map(|(_, body)| body.trim().to_owned()))
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
