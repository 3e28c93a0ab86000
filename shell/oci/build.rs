//! Compiles the init process of containers (`init/main.rs`): a static program of some kilobytes that needs neither a library
//! nor a loader. It is built by the compiler directly, because cargo cannot make one program a part of another.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=init/main.rs");
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let out = PathBuf::from(variable("OUT_DIR")).join("docker-init");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "docker_init", "--crate-type", "bin", "--target"]);
    rustc.arg(variable("TARGET")).args(["-C", "panic=abort", "-C", "opt-level=s", "-C", "strip=symbols"]);
    rustc.args(["-C", "relocation-model=static", "-C", "overflow-checks=off", "-C", "debug-assertions=off"]);
    for argument in
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,noseparate-code"]
    {
        rustc.arg("-C").arg(format!("link-arg={argument}"));
    }
    let linker = variable("RUSTC_LINKER");
    if !linker.is_empty() {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let done = rustc.arg("-o").arg(&out).arg("init/main.rs").status();
    assert!(done.is_ok_and(|status| status.success()), "cannot compile init/main.rs, the init process of containers");
}
