//! Only for this crate's tests: a program that is nothing but the shim.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|word| word == "shim") { skep_oci::shim_main(args) } else { ExitCode::from(2) }
}
