//! `skep-sim`: runs seeds of the simulator and prints those that fail.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use skep_sim::{Config, run};

/// Simulates the control plane under faults.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Things that happen in each run before it is healed.
    #[arg(long, default_value_t = 40)]
    steps: u32,
    /// Lines of a failing run's trace to print, counted from its end.
    #[arg(long, default_value_t = 200)]
    trace: usize,
}

fn main() -> std::io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let (mut entries, mut refused, mut starts, mut slowest) = (0, 0, 0, 0);
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.count) {
        match run(Config { seed, steps: arguments.steps }) {
            Ok(summary) => {
                entries += summary.entries;
                refused += summary.refused;
                starts += summary.starts;
                slowest = slowest.max(summary.convergence_millis);
            }
            Err(mut failure) => {
                failure.trace.drain(..failure.trace.len().saturating_sub(arguments.trace));
                write!(out, "{failure}")?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    writeln!(
        out,
        "{} runs hold: {entries} entries, {refused} groups refused, {starts} containers started, slowest convergence {} s",
        arguments.count,
        slowest / 1000
    )?;
    Ok(ExitCode::SUCCESS)
}
