//! The options of the `local` driver: what is mounted on a volume while containers use it, in the words of mount(8).

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use nix::mount::MsFlags;

use crate::error::{EngineError, Result};

/// Words that are flags, and whether they set or clear them.
const FLAGS: &[(&str, bool, MsFlags)] = &[
    ("defaults", true, MsFlags::empty()),
    ("ro", true, MsFlags::MS_RDONLY),
    ("rw", false, MsFlags::MS_RDONLY),
    ("suid", false, MsFlags::MS_NOSUID),
    ("nosuid", true, MsFlags::MS_NOSUID),
    ("dev", false, MsFlags::MS_NODEV),
    ("nodev", true, MsFlags::MS_NODEV),
    ("exec", false, MsFlags::MS_NOEXEC),
    ("noexec", true, MsFlags::MS_NOEXEC),
    ("sync", true, MsFlags::MS_SYNCHRONOUS),
    ("async", false, MsFlags::MS_SYNCHRONOUS),
    ("dirsync", true, MsFlags::MS_DIRSYNC),
    ("remount", true, MsFlags::MS_REMOUNT),
    ("mand", true, MsFlags::MS_MANDLOCK),
    ("nomand", false, MsFlags::MS_MANDLOCK),
    ("atime", false, MsFlags::MS_NOATIME),
    ("noatime", true, MsFlags::MS_NOATIME),
    ("diratime", false, MsFlags::MS_NODIRATIME),
    ("nodiratime", true, MsFlags::MS_NODIRATIME),
    ("relatime", true, MsFlags::MS_RELATIME),
    ("norelatime", false, MsFlags::MS_RELATIME),
    ("strictatime", true, MsFlags::MS_STRICTATIME),
    ("nostrictatime", false, MsFlags::MS_STRICTATIME),
    ("bind", true, MsFlags::MS_BIND),
    ("rbind", true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
];

/// How mounts travel; set by a call of its own.
const PROPAGATIONS: &[(&str, MsFlags)] = &[
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    flags: MsFlags,
    propagation: Option<MsFlags>,
    /// What the file system is told.
    data: String,
}

fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed { flags: MsFlags::empty(), propagation: None, data: String::new() };
    for word in text.split(',').filter(|word| !word.is_empty()) {
        if let Some((_, on, flag)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            parsed.flags.set(*flag, *on);
        } else if let Some((_, flag)) = PROPAGATIONS.iter().find(|(name, _)| *name == word) {
            parsed.propagation = Some(*flag);
        } else {
            if !parsed.data.is_empty() {
                parsed.data.push(',');
            }
            parsed.data.push_str(word);
        }
    }
    parsed
}

/// Network file systems are told an address in numbers, for the kernel resolves no names.
fn with_address(kind: &str, data: &str) -> Result<String> {
    if !matches!(kind, "nfs" | "nfs4" | "cifs") {
        return Ok(data.to_owned());
    }
    let word = |word: &str| -> Result<String> {
        let Some(host) = word.strip_prefix("addr=").filter(|host| host.parse::<IpAddr>().is_err()) else {
            return Ok(word.to_owned());
        };
        let found = (host, 0).to_socket_addrs().ok().and_then(|mut found| found.next());
        let found =
            found.ok_or_else(|| failed(format!("error resolving passed in network volume address {host:?}")))?;
        Ok(format!("addr={}", found.ip()))
    };
    let words: Vec<String> = data.split(',').map(word).collect::<Result<_>>()?;
    Ok(words.join(","))
}

fn failed(why: String) -> EngineError {
    EngineError::Volume(format!("failed to mount local volume: {why}"))
}

/// A password is no text for a log.
fn shown(data: &str) -> String {
    let hide = |word: &str| {
        let secret = word.split_once('=').filter(|(key, _)| key.eq_ignore_ascii_case("password"));
        secret.map_or_else(|| word.to_owned(), |(key, _)| format!("{key}=********"))
    };
    data.split(',').map(hide).collect::<Vec<_>>().join(",")
}

/// Mounts what the options say.
pub(super) fn mount(options: &BTreeMap<String, String>, target: &Path) -> Result<()> {
    let option = |key: &str| options.get(key).map_or("", String::as_str);
    let (kind, device) = (option("type"), option("device"));
    if device.is_empty() {
        return Err(failed("missing device in volume options".to_owned()));
    }
    let parsed = parse(option("o"));
    let data = with_address(kind, &parsed.data)?;
    let explain = |error: nix::Error| {
        let text = match shown(&data) {
            data if data.is_empty() => String::new(),
            data => format!(", data: {data}"),
        };
        let flags = parsed.flags.bits();
        let why = error.desc();
        failed(format!("mount {device}:{}, flags: {flags:#x}{text}: {}", target.display(), lower(why)))
    };
    let kind = (!kind.is_empty()).then_some(kind);
    let text = (!data.is_empty()).then_some(data.as_str());
    nix::mount::mount(Some(device), target, kind, parsed.flags, text).map_err(explain)?;
    let finish = || {
        // The kernel ignores all other flags of a bind mount.
        if parsed.flags.contains(MsFlags::MS_BIND) && parsed.flags.contains(MsFlags::MS_RDONLY) {
            let flags = parsed.flags | MsFlags::MS_REMOUNT;
            nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(explain)?;
        }
        if let Some(flags) = parsed.propagation {
            nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(explain)?;
        }
        Ok(())
    };
    finish().inspect_err(|_| {
        let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
    })
}

/// As Go prints an error of the system.
fn lower(text: &str) -> String {
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_flags_propagation_and_data() {
        let parsed = parse("size=1m,ro,nosuid,rw,uid=5,rshared,rbind");
        assert_eq!(parsed.data, "size=1m,uid=5");
        assert_eq!(parsed.flags, MsFlags::MS_NOSUID | MsFlags::MS_BIND | MsFlags::MS_REC);
        assert_eq!(parsed.propagation, Some(MsFlags::MS_SHARED | MsFlags::MS_REC));
        assert_eq!(parse(""), Parsed { flags: MsFlags::empty(), propagation: None, data: String::new() });
    }

    #[test]
    fn addresses_are_resolved_and_passwords_hidden() {
        assert_eq!(with_address("nfs", "addr=10.0.0.1,rw").unwrap(), "addr=10.0.0.1,rw");
        assert_eq!(with_address("tmpfs", "addr=no.such.host").unwrap(), "addr=no.such.host");
        assert!(with_address("nfs", "addr=localhost,soft").unwrap().ends_with(",soft"));
        assert_eq!(shown("user=a,password=b"), "user=a,password=********");
    }
}
