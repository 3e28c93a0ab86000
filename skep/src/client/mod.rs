//! The client verbs: enough of Docker's own to live without a `docker` client. They speak the Docker API to a daemon and
//! decide nothing.

mod container;
mod http;
mod image;
mod node;
mod service;
mod swarm;
mod table;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use http::Api;

/// Where the daemon is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Daemon to speak to: unix://PATH or tcp://127.0.0.1:PORT
    #[arg(short = 'H', long = "host", env = "SKEP_HOST", global = true, default_value = "unix:///run/skep/skep.sock")]
    host: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make this machine a swarm, or take it out of one
    Swarm {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: swarm::Verb,
    },
    /// Look at the swarm's machines
    Node {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: node::Verb,
    },
    /// Create, look at, scale and remove services
    Service {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: service::Verb,
    },
    /// List containers of this machine
    Ps {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        flags: container::PsFlags,
    },
    /// Load and list images of this machine
    Image {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: image::Verb,
    },
    /// Tell versions of client and daemon
    Version {
        #[command(flatten)]
        target: Target,
    },
}

/// Does what a verb says.
pub(crate) fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match verb {
            Verb::Swarm { target, verb } => swarm::run(&Api::to(&target.host)?, verb).await,
            Verb::Node { target, verb } => node::run(&Api::to(&target.host)?, verb).await,
            Verb::Service { target, verb } => service::run(&Api::to(&target.host)?, verb).await,
            Verb::Ps { target, flags } => container::ps(&Api::to(&target.host)?, &flags).await,
            Verb::Image { target, verb } => image::run(&Api::to(&target.host)?, verb).await,
            Verb::Version { target } => version(&Api::to(&target.host)?).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn version(api: &Api) -> anyhow::Result<()> {
    say(&format!("Client: skep {}", env!("CARGO_PKG_VERSION")));
    let version = api.get("/version").await?;
    let text = |key: &str| version[key].as_str().unwrap_or_default().to_owned();
    say(&format!("Server: {} (API {}, {} {})", text("Version"), text("ApiVersion"), text("Os"), text("Arch")));
    Ok(())
}

/// Writes a line for the user. A closed pipe (`skep ps | head`) ends the program quietly.
fn say(line: &str) {
    use std::io::Write;
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}
