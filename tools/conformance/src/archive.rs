//! Image archives for tests, made of this machine's busybox: no registry is asked.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Value, json};
use skep_image::{ContainerConfig, ImageBuilder, Reference};

const APPLETS: [&str; 26] = [
    "sh", "sleep", "cat", "echo", "id", "ls", "nc", "wget", "kill", "true", "false", "env", "hostname", "mkdir", "ps",
    "dd", "head", "tail", "grep", "httpd", "seq", "date", "touch", "test", "stat", "usleep",
];

/// The forms in which `docker load` gets images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// As `docker save` of today: an OCI layout that also has a `manifest.json`.
    Today,
    /// As `docker save` before 25: `manifest.json`, a configuration, and one folder per layer.
    Legacy,
    /// An OCI layout alone.
    OciLayout,
}

/// An archive with a busybox that has its applets in `/bin`, `/tmp`, and two users. Images of different repositories differ.
///
/// # Panics
/// When there is no busybox, or the name is none.
#[must_use]
pub fn busybox_archive(name: &str, kind: ArchiveKind) -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("a static busybox lies at /bin/busybox");
    let name = Reference::parse(name).expect("the test names a valid image").with_default_tag();
    let users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    let repository = name.path().to_owned();
    let mut builder = ImageBuilder::new()
        .created("2026-01-01T00:00:00Z")
        .directory("bin", 0o755)
        .directory("etc", 0o755)
        .directory("tmp", 0o1777)
        .file("etc/passwd", users, 0o644)
        .file("etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
        .file("etc/image", repository.as_bytes(), 0o644)
        .file("bin/busybox", &busybox, 0o755);
    for applet in APPLETS {
        builder = builder.symlink(&format!("bin/{applet}"), "busybox");
    }
    let config = ContainerConfig {
        env: vec!["PATH=/bin".to_owned()],
        cmd: Some(vec!["sh".to_owned()]),
        ..ContainerConfig::default()
    };
    let mut archive = Vec::new();
    builder.config(config).write_archive(&mut archive, Some(&name)).expect("an archive in memory can be written");
    match kind {
        ArchiveKind::Today => archive,
        ArchiveKind::OciLayout => {
            let mut files = unpack(&archive);
            files.remove("manifest.json");
            pack(&files)
        }
        ArchiveKind::Legacy => pack(&legacy(&unpack(&archive))),
    }
}

fn legacy(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).expect("the archive has a manifest");
    let path = |value: &Value| value.as_str().expect("a path in the manifest is text").to_owned();
    let entry = &manifest[0];
    let config = path(&entry["Config"]);
    let id = config.rsplit('/').next().unwrap_or_default().to_owned();
    let mut out = BTreeMap::from([(format!("{id}.json"), files[&config].clone())]);
    let mut layers = Vec::new();
    for layer in entry["Layers"].as_array().expect("a manifest lists layers") {
        let digest = path(layer).rsplit('/').next().unwrap_or_default().to_owned();
        out.insert(format!("{digest}/VERSION"), b"1.0".to_vec());
        out.insert(format!("{digest}/layer.tar"), files[&path(layer)].clone());
        layers.push(format!("{digest}/layer.tar"));
    }
    let list = json!([{ "Config": format!("{id}.json"), "RepoTags": entry["RepoTags"], "Layers": layers }]);
    out.insert("manifest.json".to_owned(), list.to_string().into_bytes());
    out
}

fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut reader = tar::Archive::new(archive);
    let entries = reader.entries().expect("the archive was just written");
    let mut files = BTreeMap::new();
    for entry in entries {
        let mut entry = entry.expect("the archive was just written");
        let path = entry.path().expect("paths are plain").to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("an archive in memory can be read");
        if entry.header().entry_type().is_file() {
            files.insert(path, content);
        }
    }
    files
}

fn pack(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, path, content.as_slice()).expect("an archive in memory can be written");
    }
    builder.into_inner().expect("an archive in memory can be written")
}
