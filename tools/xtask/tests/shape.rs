//! The shape of the code: which crate may use which (the arrows of `ARCHITECTURE.md`), module heads, and file sizes.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each crate may use of ours, beside what those use. Tools and tests may use anything.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("store", &["model"]),
    ("control", &["model", "store"]),
    ("admission", &["model", "store", "control"]),
    ("orchestrator", &["model", "store", "control"]),
    ("allocator", &["model", "store", "control"]),
    ("scheduler", &["model", "store", "control"]),
    ("dispatcher", &["model", "store", "control"]),
    ("agent", &["model"]),
    ("dataplane", &["model"]),
    ("wire", &["model", "store"]),
    ("api-types", &["model"]),
    ("trust", &["model"]),
    ("raft", &["model", "store", "wire", "trust"]),
    (
        "manager",
        &[
            "model",
            "store",
            "control",
            "admission",
            "orchestrator",
            "allocator",
            "scheduler",
            "dispatcher",
            "wire",
            "raft",
            "trust",
        ],
    ),
    ("node", &["model", "store", "control", "admission", "agent", "wire", "trust", "manager", "raft"]),
    ("oci", &[]),
    ("image", &[]),
    ("network", &["dataplane"]),
    ("engine", &["model", "agent", "dataplane", "oci", "image", "network"]),
    ("http-api", &["model", "store", "api-types", "engine", "image"]),
];

/// Folders that hold crates with rules, and those without.
const LAYERS: &[&str] = &["core", "edge", "shell"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders below the root").to_path_buf()
}

/// Our crates that a manifest names under `[dependencies]` or `[build-dependencies]`.
fn used(manifest: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(manifest).unwrap();
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && !section.contains("dev-") {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            found.extend(name.strip_prefix("skep-").map(str::to_owned));
        }
    }
    found
}

#[test]
fn crates_use_only_what_their_arrows_allow() {
    let allowed: BTreeMap<_, BTreeSet<_>> =
        ARROWS.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for layer in LAYERS {
        for entry in std::fs::read_dir(root().join(layer)).unwrap().flatten() {
            let manifest = entry.path().join("Cargo.toml");
            if !manifest.exists() {
                continue;
            }
            seen += 1;
            let name = entry.file_name().into_string().unwrap();
            let Some(allowed) = allowed.get(name.as_str()) else {
                wrong.push(format!("{layer}/{name} has no arrows in this test"));
                continue;
            };
            for other in used(&manifest) {
                if !allowed.contains(other.as_str()) {
                    wrong.push(format!("{name} -> {other}"));
                }
            }
        }
    }
    assert!(seen >= 15, "only {seen} crates were found");
    assert!(wrong.is_empty(), "arrows that ARCHITECTURE.md does not have:\n{}", wrong.join("\n"));
}

fn rust_files() -> Vec<PathBuf> {
    let mut folders: Vec<_> =
        ["core", "edge", "shell", "skep", "tools"].iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 50, "the checkout has more Rust files than {}", files.len());
    files
}

#[test]
fn every_file_says_what_it_is() {
    let headless: Vec<_> = rust_files()
        .into_iter()
        .filter(|path| !std::fs::read_to_string(path).unwrap().trim_start().starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(headless.is_empty(), "files without a `//!` paragraph:\n{}", headless.join("\n"));
}

#[test]
fn files_stay_small() {
    let large: Vec<_> = rust_files()
        .into_iter()
        .map(|path| (std::fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > 800)
        .map(|(lines, path)| format!("{lines} {}", path.display()))
        .collect();
    assert!(large.is_empty(), "files over 800 lines; split by subject:\n{}", large.join("\n"));
}
