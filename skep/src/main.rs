//! `skep`: the one binary. `skep daemon` runs a node, `skep shim` holds one container (the engine starts it, nobody else), and
//! the other verbs speak to a daemon as Docker's client does. This file only tells them apart.

mod cli;
mod client;
mod config;
mod daemon;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A shim must stay small: it is told apart before anything else starts.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|verb| verb == "shim") {
        return skep_oci::shim_main(args);
    }
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("skep: {error:#}");
            ExitCode::FAILURE
        }
    }
}
