//! Packs static programs into an image archive that `docker load` and `skep image load` take, without a registry:
//!
//! ```sh
//! cargo run -p skep-image --example pack -- hello.tar hello:1 target/debug/skep-hello
//! ```
//!
//! The first program becomes the entry point; more of them lie beside it in `/bin`. A `busybox` also gets links for its
//! applets `sh`, `sleep`, `cat`, `echo`, `id`, `ls`, `nc`, `wget`, `kill`, `true`, `false` and more, and no entry point.

use std::fs::File;
use std::path::Path;

use skep_image::{ContainerConfig, ImageBuilder, Reference};

const APPLETS: [&str; 26] = [
    "sh", "ash", "sleep", "cat", "echo", "id", "ls", "nc", "wget", "kill", "true", "false", "env", "hostname", "ip",
    "mount", "ps", "dd", "head", "tail", "grep", "httpd", "seq", "date", "yes", "touch",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [archive, name, programs @ ..] = args.as_slice() else {
        return Err("usage: pack ARCHIVE NAME PROGRAM...".into());
    };
    let name = Reference::parse(name)?.with_default_tag();
    let mut builder = ImageBuilder::new().directory("bin", 0o755).directory("etc", 0o755).directory("tmp", 0o1777);
    builder = builder
        .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", 0o644)
        .file("etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644);
    let mut entrypoint = None;
    for program in programs {
        let base = Path::new(program).file_name().ok_or("a program needs a file name")?.to_string_lossy().into_owned();
        builder = builder.file(&format!("bin/{base}"), &std::fs::read(program)?, 0o755);
        if base == "busybox" {
            builder =
                APPLETS.iter().fold(builder, |builder, applet| builder.symlink(&format!("bin/{applet}"), "busybox"));
        } else if entrypoint.is_none() {
            entrypoint = Some(vec![format!("/bin/{base}")]);
        }
    }
    let config = ContainerConfig {
        cmd: entrypoint.is_none().then(|| vec!["/bin/sh".to_owned()]),
        entrypoint,
        env: vec!["PATH=/bin".to_owned()],
        ..ContainerConfig::default()
    };
    let id = builder.config(config).write_archive(File::create(archive)?, Some(&name))?;
    eprintln!("{archive}: {name} {id}");
    Ok(())
}
