//! Test-only: the shim and nothing else, as `skep shim` is in the real binary. With `launch BINARY DIR` it is a
//! daemon that launches a shim and then waits to be killed.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(word) if word == "shim" => skep_oci::shim_main(args),
        Some(word) if word == "launch" => launch(&args.collect::<Vec<_>>()),
        _ => ExitCode::from(2),
    }
}

fn launch(args: &[OsString]) -> ExitCode {
    let [binary, dir] = args else { return ExitCode::from(2) };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let bundle = skep_oci::Bundle::new(Path::new(dir));
    match runtime.block_on(skep_oci::ShimLaunch::spawn(Path::new(binary), &bundle, Vec::new())) {
        Ok(_) => loop {
            std::thread::park();
        },
        Err(_) => ExitCode::FAILURE,
    }
}
