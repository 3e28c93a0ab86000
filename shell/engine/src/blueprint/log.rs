//! Where a container's output goes: the log drivers json-file, local and none, with Docker's options and Docker's refusals.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep_model::Driver;
use skep_oci::{LogConfig, LogFormat};

use crate::error::{EngineError, Result};

/// Name and options to show, and what the shim is told.
type Chosen = (String, BTreeMap<String, String>, Option<LogConfig>);

/// Bytes and files of the local driver when nothing is said.
const LOCAL_SIZE: u64 = 20 << 20;
const LOCAL_FILES: u32 = 5;
/// Most files of a log; Docker has no bound.
const FILES_MAX: u32 = 1000;

/// What a log may say of its container.
pub(super) struct About<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) image: &'a str,
    pub(super) image_id: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) env: &'a [String],
}

/// Without a driver it is `json-file` without rotation, as in Docker. `path` is the log of that one.
pub(super) fn driver(driver: Option<&Driver>, path: PathBuf, about: &About<'_>) -> Result<Chosen> {
    let empty = Driver::default();
    let driver = driver.unwrap_or(&empty);
    let name = if driver.name.is_empty() { "json-file" } else { driver.name.as_str() };
    let config = match name {
        "none" => None,
        "json-file" => Some(json_file(&driver.options, path, about)?),
        "local" => Some(local(&driver.options, &path, about)?),
        name => {
            check_mode(&driver.options)?;
            return invalid(format!("logger: no log driver named '{name}' is registered"));
        }
    };
    Ok((name.to_owned(), driver.options.clone(), config))
}

type Options = BTreeMap<String, String>;

fn json_file(options: &Options, path: PathBuf, about: &About<'_>) -> Result<LogConfig> {
    check(options, |key| format!("unknown log opt '{key}' for json-file log driver"))?;
    let max_size = options.get("max-size").map(|text| size(text)).transpose().map_err(cannot)?;
    if max_size == Some(0) {
        return Err(cannot("max-size must be a positive number".to_owned()));
    }
    let max_files = options.get("max-file").map_or(Ok(1), |text| number(text)).map_err(cannot)?;
    if max_files < 1 {
        return Err(cannot("max-file cannot be less than 1".to_owned()));
    }
    let compress = options.get("compress").map_or(Ok(false), |text| boolean(text)).map_err(cannot)?;
    if compress && (max_files == 1 || max_size.is_none()) {
        let text = "compress cannot be true when max-file is less than 2 or max-size is not set";
        return Err(cannot(text.to_owned()));
    }
    let attributes = attributes(options, about)?;
    Ok(LogConfig { path, format: LogFormat::JsonFile, max_size, max_files, compress, attributes })
}

fn local(options: &Options, path: &Path, about: &About<'_>) -> Result<LogConfig> {
    check(options, |key| format!("unknown log opt '{key}' for log driver local"))?;
    let given = |key: &str, text: String| cannot(format!("invalid value for {key}: {}: {text}", options[key]));
    let max_size = options.get("max-size").map_or(Ok(LOCAL_SIZE), |text| size(text));
    let max_size = max_size.map_err(|text| given("max-size", text))?;
    let max_files = options.get("max-file").map_or(Ok(LOCAL_FILES), |text| number(text));
    let max_files = max_files.map_err(|text| given("max-file", text))?;
    let compress = options.get("compress").map_or(Ok(true), |text| boolean(text));
    let compress = compress.map_err(|text| given("compress", text))?;
    if compress && max_files <= 1 {
        return Err(cannot("compression cannot be enabled when max file count is 1".to_owned()));
    }
    let attributes = attributes(options, about)?;
    let path = path.with_file_name("local-logs").join("container.log");
    let (max_size, max_files) = (Some(max_size), max_files.max(1));
    Ok(LogConfig { path, format: LogFormat::Local, max_size, max_files, compress, attributes })
}

/// Which options there are, and those of every driver. A log here is a file: writing to it waits for nobody but the page
/// cache, so that both modes are the same, and the buffer of `non-blocking` stays empty.
fn check(options: &Options, unknown: impl Fn(&str) -> String) -> Result<()> {
    check_mode(options)?;
    for key in options.keys() {
        match key.as_str() {
            "max-size" | "max-file" | "compress" | "labels" | "env" | "tag" | "mode" | "max-buffer-size" => {}
            "labels-regex" | "env-regex" => {
                return invalid(format!(
                    "log opt '{key}' is not supported: name the {} one by one",
                    &key[..key.len() - 6]
                ));
            }
            key => return invalid(unknown(key)),
        }
    }
    Ok(())
}

fn check_mode(options: &Options) -> Result<()> {
    let mode = options.get("mode").map_or("", String::as_str);
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return invalid(format!("logger: logging mode not supported: {mode}"));
    }
    if let Some(text) = options.get("max-buffer-size") {
        if mode != "non-blocking" {
            return invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'".to_owned());
        }
        size(text).map_err(|text| EngineError::Invalid(format!("error parsing option max-buffer-size: {text}")))?;
    }
    Ok(())
}

/// What is written with every line: the labels and variables that were named, and the tag.
fn attributes(options: &Options, about: &About<'_>) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let named = |key: &str| options.get(key).map(String::as_str).unwrap_or_default().split(',').map(str::trim);
    for name in named("labels") {
        all.extend(about.labels.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    for name in named("env") {
        let value = about.env.iter().find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='));
        all.extend(value.filter(|_| !name.is_empty()).map(|value| (name.to_owned(), value.to_owned())));
    }
    if let Some(template) = options.get("tag").filter(|template| !template.is_empty()) {
        all.insert("tag".to_owned(), tag(template, about)?);
    }
    Ok(all)
}

/// Docker's tag templates: the fields, and nothing else of Go's templates.
fn tag(template: &str, about: &About<'_>) -> Result<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let Some((field, after)) = after.split_once("}}") else {
            return Err(cannot(format!("invalid log tag {template:?}: {{{{ without }}}}")));
        };
        text.push_str(match field.trim() {
            ".ID" => short(about.id),
            ".FullID" => about.id,
            ".Name" => about.name,
            ".ImageID" => short(about.image_id.strip_prefix("sha256:").unwrap_or(about.image_id)),
            ".ImageFullID" => about.image_id,
            ".ImageName" => about.image,
            ".DaemonName" => "docker",
            other => return Err(cannot(format!("invalid log tag {template:?}: {{{{{other}}}}} is not supported"))),
        });
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Bytes of a size such as `10m`, `512kb` or `1.5g`, in powers of ten (go-units `FromHumanSize`).
fn size(text: &str) -> std::result::Result<u64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').map_or(0, |index| index + 1);
    if end == 0 {
        return Err(invalid());
    }
    let (number, suffix) = (text[..end].trim(), text[end..].to_ascii_lowercase());
    let power = match suffix.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(format!("invalid suffix: '{suffix}'")),
    };
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let bytes = number * 1000_f64.powi(power);
    if !(0.0..=9.0e18).contains(&bytes) {
        return Err(invalid());
    }
    // Checked just now: neither negative nor too large.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range, and whole bytes are wanted")]
    Ok(bytes as u64)
}

fn number(text: &str) -> std::result::Result<u32, String> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Ok(0),
        Ok(number) => u32::try_from(number)
            .ok()
            .filter(|number| *number <= FILES_MAX)
            .ok_or_else(|| format!("at most {FILES_MAX} files are kept, not {text}")),
        Err(_) => Err(format!("strconv.Atoi: parsing {text:?}: invalid syntax")),
    }
}

fn boolean(text: &str) -> std::result::Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// Docker says it when the container is started.
fn cannot(text: String) -> EngineError {
    EngineError::Invalid(format!("failed to initialize logging driver: {text}"))
}

fn invalid<T>(text: String) -> Result<T> {
    Err(EngineError::Invalid(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(name: &str, options: &[(&str, &str)]) -> Result<Option<LogConfig>> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let labels = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
        let about = About {
            id: "0123456789abcdef",
            name: "web.1.x",
            image: "box:1",
            image_id: "sha256:fedcba9876543210",
            labels: &labels,
            env: &["A=1".to_owned(), "AB=2".to_owned()],
        };
        Ok(driver(Some(&Driver { name: name.to_owned(), options }), PathBuf::from("/d/x.log"), &about)?.2)
    }

    #[test]
    fn drivers_and_options() {
        let shape = |config: Option<LogConfig>| config.map(|it| (it.max_size, it.max_files, it.compress));
        assert_eq!(shape(choose("", &[]).unwrap()), Some((None, 1, false)));
        assert_eq!(shape(choose("none", &[("any", "thing")]).unwrap()), None);
        let rotated = [("max-size", "10m"), ("max-file", "3"), ("compress", "true"), ("mode", "non-blocking")];
        assert_eq!(shape(choose("json-file", &rotated).unwrap()), Some((Some(10_000_000), 3, true)));
        let local = choose("local", &[("max-buffer-size", "4m"), ("mode", "non-blocking")]).unwrap().unwrap();
        assert_eq!((local.format, local.path), (LogFormat::Local, PathBuf::from("/d/local-logs/container.log")));
        assert_eq!((local.max_size, local.max_files, local.compress), (Some(LOCAL_SIZE), 5, true));
    }

    #[test]
    fn attributes_are_filled_in() {
        let options = [("labels", "role,none"), ("env", "A,C"), ("tag", "{{.Name}}/{{ .ID }}/{{.ImageName}}/x")];
        let attributes = choose("json-file", &options).unwrap().unwrap().attributes;
        let pairs: Vec<_> = attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("role", "web"), ("tag", "web.1.x/0123456789ab/box:1/x")]);
    }

    #[test]
    fn refusals_are_dockers() {
        for (name, options, text) in [
            ("x", &[][..], "logger: no log driver named 'x' is registered"),
            ("json-file", &[("a", "b")], "unknown log opt 'a' for json-file log driver"),
            ("local", &[("a", "b")], "unknown log opt 'a' for log driver local"),
            ("local", &[("max-file", "1")], "compression cannot be enabled when max file count is 1"),
            ("json-file", &[("mode", "x")], "logger: logging mode not supported: x"),
            (
                "json-file",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            ("json-file", &[("max-size", "x")], "invalid size: 'x'"),
            ("json-file", &[("max-size", "1x")], "invalid suffix: 'x'"),
            ("json-file", &[("max-size", "-1")], "invalid size: '-1'"),
            ("json-file", &[("max-size", "99999999999999999999g")], "invalid size"),
            ("json-file", &[("max-file", "0")], "max-file cannot be less than 1"),
            ("json-file", &[("compress", "true")], "compress cannot be true when max-file is less than 2"),
            ("json-file", &[("tag", "{{.Nope}}")], "{{.Nope}} is not supported"),
            ("json-file", &[("tag", "{{.ID")], "{{ without }}"),
            ("json-file", &[("env-regex", "x")], "log opt 'env-regex' is not supported: name the env one by one"),
        ] {
            let error = choose(name, options).unwrap_err().to_string();
            assert!(error.contains(text), "{name} {options:?}: {error}");
        }
    }
}
