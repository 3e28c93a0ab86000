//! What this machine needs for tests with real containers.

use std::path::Path;

/// Says in one line on stderr what is missing for a test with real containers; `false` when nothing is.
#[must_use]
pub fn missing() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "needs root"
    } else if !has("docker") {
        "needs the docker client"
    } else if !Path::new("/bin/busybox").exists() {
        "needs a static busybox at /bin/busybox"
    } else if !has("nft") || !has("ip") {
        "needs nft and ip"
    } else {
        return false;
    };
    eprintln!("skipped: {reason}");
    true
}

fn has(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
