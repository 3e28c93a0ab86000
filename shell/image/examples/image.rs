//! The store from a shell: `image make NAME BUSYBOX > ARCHIVE` writes an archive that `docker load` reads, `image load ROOT <
//! ARCHIVE` loads one into a store and lists what the store has.

use std::io::{Error, stdin, stdout};
use std::path::Path;

use skep_image::{ContainerConfig, ImageBuilder, ImageStore, Reference};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["make", name, busybox] => make(name, Path::new(busybox)),
        ["load", root] => load(Path::new(root)),
        _ => Err(Error::other("usage: image make NAME BUSYBOX > ARCHIVE, or image load ROOT < ARCHIVE").into()),
    }
}

fn make(name: &str, busybox: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let config = ContainerConfig {
        env: vec!["PATH=/bin".to_owned()],
        cmd: Some(vec!["sh".to_owned()]),
        ..ContainerConfig::default()
    };
    let mut builder = ImageBuilder::new().file("bin/busybox", &std::fs::read(busybox)?, 0o755).directory("tmp", 0o1777);
    for applet in ["sh", "ls", "cat", "echo", "sleep", "true", "false", "kill", "httpd", "nc", "wget", "ip"] {
        builder = builder.symlink(&format!("bin/{applet}"), "busybox");
    }
    builder.config(config).write_archive(stdout().lock(), Some(&Reference::parse(name)?.with_default_tag()))?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows its results")]
fn load(root: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let store = ImageStore::open(root)?;
    for loaded in store.load(stdin().lock(), &mut |_| {})? {
        println!("{}", loaded.line());
    }
    for image in store.list() {
        println!("{} {} {} bytes {:?}", image.id.short(), image.created, image.size, image.repo_tags);
    }
    Ok(())
}
