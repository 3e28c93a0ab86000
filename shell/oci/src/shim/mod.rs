//! The process that holds one container. One thread, no async runtime, as little memory as can be: after libcontainer
//! has made the container, the shim executes itself anew, so that only the small loop in [`hold`] stays.
//!
//! ```text
//!  skep shim DIR        fork (the launcher's child ends), own session, no inherited descriptors
//!   └ shim --run DIR    from a read-only view of the binary: mount namespace, rootfs, libcontainer, report
//!      └ shim --hold DIR  same pid: logs, reaping, socket, exit.json
//!         └ shim --exec   per exec: enters the container and becomes the program
//! ```

mod attached;
mod confine;
mod create;
mod exec;
mod executor;
mod filter;
mod hold;
mod init;
mod launch;
mod log;
mod log_file;
mod server;
mod sink;
mod terminal;
mod terminals;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs as shim; `args` is what follows the word `shim` on the command line. Call it first thing in `main`, while the
/// process has one thread.
#[must_use]
pub fn shim_main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    match args.as_slice() {
        [word, dir] if word == launch::RUN => create::run(PathBuf::from(dir)),
        [word, dir] if word == hold::HOLD => hold::run(PathBuf::from(dir)),
        [word] if word == exec::EXEC => exec::run(),
        [word, file] if word == log_file::COMPRESS => log_file::compress(Path::new(file)),
        [dir] if dir.as_encoded_bytes().starts_with(b"/") => launch::run(PathBuf::from(dir)),
        _ => ExitCode::from(2),
    }
}
