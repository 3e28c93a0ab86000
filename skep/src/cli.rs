//! The command line: which verb, with which flags. Words and flags are Docker's.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::client;
use crate::config::{Config, DaemonFlags};
use crate::daemon;

/// Container orchestration for small teams: Docker's Swarm mode in one binary.
#[derive(Debug, Parser)]
#[command(name = "skep", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run this machine's node: the engine and, in a swarm, agent and manager
    Daemon(DaemonFlags),
    #[command(flatten)]
    Client(client::Verb),
}

/// Reads the command line and does what it says.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    match Cli::parse().verb {
        Verb::Daemon(flags) => daemon::run(&Config::load(flags)?),
        Verb::Client(verb) => client::run(verb),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
