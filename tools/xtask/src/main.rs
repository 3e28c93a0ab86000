//! The project's own chores: `cargo xtask setup|check|test|demo|bench`. The Makefile only calls these. It depends on next to
//! nothing, so that it runs before anything else is set up.
#![allow(clippy::print_stdout, reason = "this program speaks to the person who started it")]

mod bench;
mod check;
mod demo;
mod setup;
mod shell;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask CHORE

  setup         install what building and testing needs (Debian packages, cargo tools)
  check         what every commit needs: format, lints, dependency rules
  test          check, then every test
  demo          start a daemon in a network of its own and show skep at work
  bench [DIR]   measure skep beside a real dockerd, with the bench scripts in DIR";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["setup"] => setup::install(&setup::Need::ALL),
        ["check"] => check::check(),
        ["test"] => check::test(),
        ["demo"] => demo::run_demo(),
        ["bench"] => bench::run_in("tools/bench"),
        ["bench", dir] => bench::run_in(dir),
        _ => {
            println!("{HELP}");
            return if args == ["help"] { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
