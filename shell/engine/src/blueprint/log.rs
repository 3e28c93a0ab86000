//! Where a container's output goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use skep_model::Driver;
use skep_oci::LogConfig;

use crate::error::{EngineError, Result};

type Chosen = (String, BTreeMap<String, String>, Option<LogConfig>);

/// Name and options to show, and what the shim is told. Without a driver it is `json-file` without rotation, as in Docker.
pub(super) fn driver(driver: Option<&Driver>, path: PathBuf) -> Result<Chosen> {
    let empty = Driver::default();
    let driver = driver.unwrap_or(&empty);
    let invalid = |text: String| Err(EngineError::Invalid(text));
    match driver.name.as_str() {
        "" | "json-file" => {}
        "none" => return Ok(("none".to_owned(), BTreeMap::new(), None)),
        name => {
            return invalid(format!("logger: no log driver named '{name}' is registered"));
        }
    }
    let mut config = LogConfig { path, max_size: None, max_files: 1 };
    for (key, value) in &driver.options {
        match key.as_str() {
            "max-size" if value == "-1" => {}
            "max-size" => match log_size(value).filter(|size| *size > 0) {
                Some(size) => config.max_size = Some(size),
                None => return invalid(format!("invalid log opt max-size {value:?}: expected a size such as 10m")),
            },
            "max-file" => match value.parse::<u32>().ok().filter(|files| (1..=1000).contains(files)) {
                Some(files) => config.max_files = files,
                None => {
                    return invalid(format!("invalid log opt max-file {value:?}: expected a number from 1 to 1000"));
                }
            },
            "mode" if value == "blocking" => {}
            key => return invalid(format!("unknown log opt '{key}' for json-file log driver")),
        }
    }
    if config.max_files > 1 && config.max_size.is_none() {
        return invalid("max-file cannot be 2 or more without max-size".to_owned());
    }
    Ok(("json-file".to_owned(), driver.options.clone(), Some(config)))
}

/// Bytes of a size such as `10m`, `512k`, `1g` or `100` (go-units `RAMInBytes`).
fn log_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let factor: u64 = match lower[digits..].trim() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    lower[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, options: &[(&str, &str)]) -> Result<Option<(Option<u64>, u32)>> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (_, _, config) = driver(Some(&Driver { name: name.to_owned(), options }), PathBuf::from("/x"))?;
        Ok(config.map(|config| (config.max_size, config.max_files)))
    }

    #[test]
    fn drivers_and_options() {
        assert_eq!(check("", &[]).unwrap(), Some((None, 1)));
        assert_eq!(check("none", &[]).unwrap(), None);
        assert_eq!(check("json-file", &[("max-size", "10m"), ("max-file", "3")]).unwrap(), Some((Some(10 << 20), 3)));
        for (name, options) in [
            ("syslog", &[][..]),
            ("json-file", &[("max-size", "x")]),
            ("json-file", &[("max-file", "3")]),
            ("json-file", &[("max-file", "0")]),
            ("json-file", &[("tag", "x")]),
            ("json-file", &[("max-size", "99999999999999999999g")]),
        ] {
            assert!(check(name, options).is_err(), "{name} {options:?}");
        }
    }
}
