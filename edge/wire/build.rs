//! Compiles the protocol's `.proto` files, without `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};

const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut files = Vec::new();
    for package in ["docker/swarmkit/v1", "skep/store/v1", "skep/worker/v1"] {
        files.extend(proto_files(&Path::new(ROOT).join(package))?);
    }
    let descriptors = protox::compile(&files, [ROOT])?;
    // The store embeds SwarmKit's specs by value; boxing the large ones keeps oneofs small.
    tonic_prost_build::configure()
        .btree_map(".")
        .boxed(".docker.swarmkit.v1.Assignment.item.task")
        .compile_fds(descriptors)?;
    Ok(())
}

fn proto_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    Ok(files)
}
