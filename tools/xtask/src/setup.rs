//! What a fresh machine with a Rust toolchain lacks: a few Debian packages and cargo tools. Does nothing when all is there.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::shell::{has, is_root, read, run};

/// Something that may be missing.
pub(crate) struct Need {
    what: &'static str,
    is_there: fn() -> bool,
    get: Get,
}

enum Get {
    Package(&'static str),
    Cargo(&'static str),
}

impl Need {
    /// What building and running skep needs.
    pub(crate) const RUN: [Self; 5] = [
        Self { what: "a C compiler", is_there: || has("cc"), get: Get::Package("gcc") },
        Self { what: "pkg-config", is_there: || has("pkg-config"), get: Get::Package("pkg-config") },
        Self { what: "the headers of libseccomp", is_there: has_libseccomp, get: Get::Package("libseccomp-dev") },
        Self { what: "nft", is_there: || has("nft"), get: Get::Package("nftables") },
        Self { what: "ip", is_there: || has("ip"), get: Get::Package("iproute2") },
    ];

    /// What the tests need beside that.
    const TEST: [Self; 5] = [
        Self { what: "a static busybox", is_there: has_static_busybox, get: Get::Package("busybox-static") },
        Self { what: "docker-registry", is_there: || has("docker-registry"), get: Get::Package("docker-registry") },
        Self { what: "python3", is_there: || has("python3"), get: Get::Package("python3") },
        Self { what: "cargo-nextest", is_there: || has("cargo-nextest"), get: Get::Cargo("cargo-nextest") },
        Self { what: "cargo-deny", is_there: || has("cargo-deny"), get: Get::Cargo("cargo-deny") },
    ];

    /// Everything.
    pub(crate) const ALL: [&'static [Self]; 2] = [&Self::RUN, &Self::TEST];
}

fn has_libseccomp() -> bool {
    read(Command::new("pkg-config").args(["--exists", "libseccomp"])).is_ok()
}

/// Debian's `busybox` package is linked dynamically and of no use inside a container.
fn has_static_busybox() -> bool {
    Path::new("/bin/busybox").exists()
        && read(Command::new("/bin/busybox").arg("--list")).is_ok_and(|list| list.lines().any(|applet| applet == "nc"))
        && read(Command::new("ldd").arg("/bin/busybox")).is_err()
}

/// Installs what is missing.
pub(crate) fn install(needs: &[&[Need]]) -> anyhow::Result<()> {
    let missing: Vec<&Need> = needs.iter().copied().flatten().filter(|need| !(need.is_there)()).collect();
    let packages: Vec<_> = missing.iter().filter_map(|need| need.package()).collect();
    if !packages.is_empty() {
        let names: Vec<_> = missing.iter().map(|need| need.what).collect();
        if !has("apt-get") {
            bail!(
                "this machine lacks {}: install what corresponds to Debian's {}",
                names.join(", "),
                packages.join(" ")
            );
        }
        if !is_root() {
            bail!("this machine lacks {}: run as root, or install {}", names.join(", "), packages.join(" "));
        }
        run("apt-get", &["update", "-qq"])?;
        run("apt-get", &[&["install", "-y", "-qq", "--no-install-recommends"][..], &packages].concat())?;
    }
    for need in missing {
        if let Get::Cargo(tool) = need.get {
            run("cargo", &["install", "--locked", "--quiet", tool])?;
        }
    }
    Ok(())
}

impl Need {
    fn package(&self) -> Option<&'static str> {
        match self.get {
            Get::Package(name) => Some(name),
            Get::Cargo(_) => None,
        }
    }
}
