//! What every commit needs, and every test.

use std::time::Instant;

use anyhow::bail;

use crate::setup::{Need, install};
use crate::shell::{has, is_root, root, run};

/// Format, lints and the rules for dependencies.
pub(crate) fn check() -> anyhow::Result<()> {
    run("cargo", &["fmt", "--all", "--check"])?;
    run("cargo", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    run("cargo", &["deny", "--log-level", "error", "check", "licenses", "bans", "sources"])
}

/// [`check`], then every test. Needs root for the tests with real containers and networks.
pub(crate) fn test() -> anyhow::Result<()> {
    let begin = Instant::now();
    if !is_root() {
        bail!("the tests run real containers and networks and need root: run `sudo make test`");
    }
    install(&Need::ALL)?;
    check()?;
    build_hello()?;
    run("cargo", &["nextest", "run", "--workspace"])?;
    if !has("docker") {
        println!("left out: the cases that drive the docker client, because there is none on this machine");
    }
    println!("all tests passed in {} s", begin.elapsed().as_secs());
    Ok(())
}

/// Builds the static example server at [`hello_path`], apart from the dynamically linked one that `cargo build` makes.
pub(crate) fn build_hello() -> anyhow::Result<()> {
    let package = ["rustc", "--quiet", "--package", "skep-hello", "--target-dir", HELLO_TARGET];
    run("cargo", &[&package[..], &["--", "-C", "target-feature=+crt-static"]].concat())
}

const HELLO_TARGET: &str = "target/static";

/// Where the static example server is.
pub(crate) fn hello_path() -> std::path::PathBuf {
    root().join(HELLO_TARGET).join("debug/skep-hello")
}
