//! Device nodes beyond the harmless ones, and the rules of the device control group for them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::config::{ContainerConfig, Device};

/// What is no device of the machine, or another one in each container (runc's list).
const NOT_MIRRORED: [&str; 9] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"];
/// How deep directories of devices are looked into.
const DEPTH_MAX: usize = 8;

/// Nodes to be made, and rules that allow their use.
pub(super) struct Devices {
    pub(super) nodes: Vec<Value>,
    pub(super) rules: Vec<Value>,
}

/// What was asked for. The text of an error is Docker's.
pub(super) fn devices(config: &ContainerConfig) -> Result<Devices, String> {
    let mut found = Devices { nodes: Vec::new(), rules: Vec::new() };
    if config.privileged {
        mirror(Path::new("/dev"), Path::new("/dev"), "rwm", DEPTH_MAX, &mut found)?;
        // One rule for all of them.
        found.rules = vec![json!({"allow": true, "access": "rwm"})];
    }
    for Device { host, container, permissions } in &config.devices {
        let access = if permissions.is_empty() { "rwm" } else { permissions };
        if !access.chars().all(|letter| "rwm".contains(letter)) {
            return Err(format!("invalid device mode: {access}"));
        }
        if !container.starts_with("/dev") || container.components().any(|part| part.as_os_str() == "..") {
            return Err(format!("cannot make the device {}: only paths below /dev are supported", container.display()));
        }
        let gather = |error: &str| {
            format!("error gathering device information while adding custom device \"{}\": {error}", host.display())
        };
        let real = host.canonicalize().map_err(|_| gather("no such file or directory"))?;
        let before = found.nodes.len();
        mirror(&real, container, access, DEPTH_MAX, &mut found)?;
        if found.nodes.len() == before {
            return Err(gather("not a device node"));
        }
    }
    for rule in &config.device_cgroup_rules {
        found.rules.push(parse(rule).ok_or_else(|| format!("invalid device cgroup rule format: '{rule}'"))?);
    }
    // The later one of two for the same path wins.
    let mut nodes: Vec<Value> = Vec::new();
    for node in found.nodes {
        nodes.retain(|other| other["path"] != node["path"]);
        nodes.push(node);
    }
    Ok(Devices { nodes, rules: found.rules })
}

/// A node, or those in a directory.
fn mirror(host: &Path, inside: &Path, access: &str, depth: usize, found: &mut Devices) -> Result<(), String> {
    let Ok(data) = host.symlink_metadata() else { return Ok(()) };
    let kind = data.file_type();
    if kind.is_dir() && depth > 0 {
        let entries = std::fs::read_dir(host).map_err(|error| format!("cannot read {}: {error}", host.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !NOT_MIRRORED.iter().any(|skipped| name == *skipped) {
                mirror(&entry.path(), &inside.join(&name), access, depth - 1, found)?;
            }
        }
        return Ok(());
    }
    let letter = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => "c",
        (_, true) => "b",
        _ => return Ok(()),
    };
    let (major, minor) = (libc::major(data.rdev()), libc::minor(data.rdev()));
    found.nodes.push(json!({
        "path": inside, "type": letter, "major": major, "minor": minor, "fileMode": data.mode() & 0o777,
        "uid": data.uid(), "gid": data.gid(),
    }));
    found.rules.push(json!({"allow": true, "type": letter, "major": major, "minor": minor, "access": access}));
    Ok(())
}

/// `c 42:* rmw`.
fn parse(rule: &str) -> Option<Value> {
    let mut words = rule.split(' ');
    let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
    let (major, minor) = numbers.split_once(':')?;
    let fits = matches!(kind, "a" | "b" | "c")
        && (1..=3).contains(&access.len())
        && access.chars().all(|letter| "rwm".contains(letter))
        && words.next().is_none();
    let mut parsed = json!({"allow": true, "type": kind, "access": access});
    for (name, text) in [("major", major), ("minor", minor)] {
        if text != "*" {
            parsed[name] = json!(text.parse::<i64>().ok().filter(|number| *number >= 0)?);
        }
    }
    fits.then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RootFs;

    #[test]
    fn devices_and_rules() {
        let mut config = ContainerConfig::new("x", RootFs::Dir("/".into()), vec!["sh".to_owned()]);
        let device = |host: &str, container: &str, permissions: &str| Device {
            host: host.into(),
            container: container.into(),
            permissions: permissions.to_owned(),
        };
        config.devices = vec![device("/dev/null", "/dev/mine", "r"), device("/dev/zero", "/dev/mine", "")];
        config.device_cgroup_rules = vec!["c 42:* rmw".to_owned()];
        let found = devices(&config).expect("valid");
        assert_eq!((found.nodes.len(), &found.nodes[0]["minor"]), (1, &json!(5)));
        assert_eq!(found.rules[2], json!({"allow": true, "type": "c", "access": "rmw", "major": 42}));
        let refused = |change: fn(&mut ContainerConfig)| {
            let mut config = config.clone();
            change(&mut config);
            devices(&config).err()
        };
        let text = refused(|config| config.devices[0].host = "/nope".into()).expect("refused");
        assert!(text.contains("\"/nope\": no such file or directory"), "{text}");
        assert!(refused(|config| config.devices[0].host = "/etc/passwd".into()).is_some());
        assert!(refused(|config| config.devices[0].container = "/etc/x".into()).is_some());
        assert!(refused(|config| config.devices[0].permissions = "x".to_owned()).is_some());
        for rule in ["", "c", "c 1 r", "x 1:1 r", "c 1:1 rwmr", "c 1:1 x", "c -1:1 r", "c 1:1 r "] {
            assert_eq!(parse(rule), None, "{rule}");
        }
        config.privileged = true;
        assert!(devices(&config).expect("valid").nodes.iter().any(|node| node["path"] == "/dev/zero"));
    }
}
