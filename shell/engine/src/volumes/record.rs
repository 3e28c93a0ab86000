//! What is stored of a volume, and what a volume may be. The texts are Docker's.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::LOCAL;
use crate::error::{At, EngineError, Result};

/// The version of `volume.json` this release writes, and the highest it reads.
const VERSION: u32 = 1;
/// Longest name: what a file system takes.
const NAME_MAX: usize = 255;

/// A volume as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Format version.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// RFC 3339 with nanoseconds, UTC.
    pub created_at: String,
    /// Its driver: `local`.
    pub driver: String,
    /// Options of the driver.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The container with which it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_for: Option<String>,
}

impl VolumeRecord {
    pub(super) fn new(
        name: String,
        created_at: String,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
        made_for: Option<String>,
    ) -> Self {
        Self { version: VERSION, name, created_at, driver: LOCAL.to_owned(), options, labels, made_for }
    }

    pub(super) fn load(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let bytes = std::fs::read(path).at("read", path)?;
        let found: Versioned = serde_json::from_slice(&bytes).map_err(std::io::Error::from).at("understand", path)?;
        if found.version > VERSION {
            return Err(EngineError::Newer { path: path.to_owned(), found: found.version, supported: VERSION });
        }
        serde_json::from_slice(&bytes).map_err(std::io::Error::from).at("understand", path)
    }

    /// True when something is mounted on it while containers use it.
    #[must_use]
    pub fn is_mounted_on_use(&self) -> bool {
        self.options.contains_key("device")
    }
}

/// Refuses names, drivers and options that cannot be.
pub(super) fn check(name: &str, driver: &str, options: &BTreeMap<String, String>) -> Result<()> {
    check_driver(driver)?;
    check_name(name)?;
    let invalid = |text: String| Err(EngineError::Invalid(text));
    for (key, value) in options {
        match key.as_str() {
            "type" | "device" | "o" => {}
            "size" => {
                return invalid("quota size requested but no quota support".to_owned());
            }
            _ => return invalid(format!("invalid option: {key:?}")),
        }
        if value.contains('\0') {
            return invalid(format!("option {key:?} must not contain a NUL byte"));
        }
    }
    for (key, needed) in [("device", &["type"][..]), ("type", &["device"]), ("o", &["device", "type"])] {
        if !options.contains_key(key) {
            continue;
        }
        if let Some(missing) = needed.iter().find(|needed| !options.contains_key(**needed)) {
            return invalid(format!("missing required option: {missing:?}"));
        }
    }
    Ok(())
}

/// Refuses every driver but `local`.
pub(crate) fn check_driver(driver: &str) -> Result<()> {
    if matches!(driver, "" | LOCAL) {
        return Ok(());
    }
    let driver: String = driver.chars().take(100).collect();
    Err(EngineError::NotFound(format!("error looking up volume plugin {driver}: plugin {driver:?} not found")))
}

/// Refuses names that are no file names, and those that look like paths.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let invalid = |text: String| Err(EngineError::Invalid(text));
    if name.len() == 1 {
        return invalid("volume name is too short, names should be at least two alphanumeric characters".to_owned());
    }
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !plain || !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        let name: String = name.chars().take(300).collect();
        return invalid(format!(
            "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
             allowed. If you intended to pass a host directory, use absolute path"
        ));
    }
    if name.len() > NAME_MAX {
        return invalid(format!("volume name is too long, at most {NAME_MAX} characters"));
    }
    Ok(())
}
