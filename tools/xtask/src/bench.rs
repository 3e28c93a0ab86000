//! Measures skep beside a real `dockerd`, one after the other on the same machine.

use anyhow::bail;

use crate::shell::{has, is_root, root, run};

/// Runs the bench driver in `dir` against both engines.
pub(crate) fn run_in(dir: &str) -> anyhow::Result<()> {
    if !is_root() {
        bail!("the bench starts engines and needs root: run `sudo make bench`");
    }
    for program in ["python3", "docker", "dockerd"] {
        if !has(program) {
            bail!("the bench compares with a real engine and lacks {program} (Debian: docker.io, python3)");
        }
    }
    run("cargo", &["build", "--quiet", "--release", "--package", "skep"])?;
    let script = root().join(dir).join("side-by-side");
    if !script.exists() {
        bail!("no bench driver at {}", script.display());
    }
    run(&script.to_string_lossy(), &[])
}
