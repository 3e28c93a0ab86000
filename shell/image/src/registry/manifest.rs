//! Manifests as registries give them: Docker's schema 2 and OCI's, single and by platform. Schema 1, foreign layers and things
//! that are no images are refused by name.

use serde::{Deserialize, Serialize};

use crate::config::Platform;
use crate::digest::Digest;
use crate::registry::error::RegistryError;

/// Largest manifest (what Docker's registry takes).
pub(crate) const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Most layers of an image and most entries of an index: far above any real one.
const ENTRIES_MAX: usize = 1_000;

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];

/// What a client of ours takes.
pub(crate) const ACCEPTED: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

/// Where content is, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, size: u64, digest: Digest) -> Self {
        Self { media_type: media_type.to_owned(), size, digest, platform: None, annotations: None }
    }

    fn is_attestation(&self) -> bool {
        let marked = self.annotations.as_ref().is_some_and(|all| all.contains_key("vnd.docker.reference.type"));
        marked || self.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
    }
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Image(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest. `announced` is the `Content-Type`; what the document says of itself counts more. Gives its media type, too.
///
/// # Errors
/// What it is instead, or what is wrong with it.
pub(crate) fn read(name: &str, announced: &str, bytes: &[u8]) -> Result<(String, Document), RegistryError> {
    let damaged = |why: String| RegistryError::Damaged(format!("invalid manifest of {name}: {why}"));
    let announced = announced.split(';').next().unwrap_or_default().trim();
    if SCHEMA1.contains(&announced) {
        return Err(schema1(name));
    }
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(damaged("not a JSON object".to_owned()));
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if raw.schema_version == 1 {
        return Err(schema1(name));
    }
    if raw.schema_version != 2 {
        return Err(damaged(format!("schema version {} is not supported, only 2 is", raw.schema_version)));
    }
    let kind = if raw.media_type.is_empty() { announced.to_owned() } else { raw.media_type.clone() };
    let too_many = |count: usize| count > ENTRIES_MAX;
    match (raw.config, raw.layers, raw.manifests) {
        (Some(config), layers, None) => {
            let layers = layers.unwrap_or_default();
            if too_many(layers.len()) {
                return Err(damaged(format!("more than {ENTRIES_MAX} layers")));
            }
            check_config(&config)?;
            layers.iter().try_for_each(check_layer)?;
            let kind = if kind == DOCKER_MANIFEST { DOCKER_MANIFEST } else { OCI_MANIFEST };
            let manifest = Manifest { schema_version: 2, media_type: kind.to_owned(), config, layers };
            Ok((kind.to_owned(), Document::Image(manifest)))
        }
        (None, None, Some(manifests)) => {
            if too_many(manifests.len()) {
                return Err(damaged(format!("more than {ENTRIES_MAX} entries")));
            }
            let kind = if kind == DOCKER_LIST { DOCKER_LIST } else { OCI_INDEX };
            Ok((kind.to_owned(), Document::Index(manifests)))
        }
        _ => Err(damaged(format!("media type {kind:?} is neither an image nor a list of images"))),
    }
}

fn schema1(name: &str) -> RegistryError {
    RegistryError::Unsupported(format!(
        "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. Suggest the author of \
         {name} to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2. More information at \
         https://docs.docker.com/go/deprecated-image-specs/"
    ))
}

fn check_config(config: &Descriptor) -> Result<(), RegistryError> {
    match config.media_type.as_str() {
        DOCKER_CONFIG | OCI_CONFIG | "application/octet-stream" | "" => Ok(()),
        other => {
            let class = if other == "application/vnd.docker.plugin.v1+json" { "plugin" } else { "unknown" };
            Err(RegistryError::Unsupported(format!("Encountered remote {other:?}({class}) when fetching")))
        }
    }
}

fn check_layer(layer: &Descriptor) -> Result<(), RegistryError> {
    let kind = layer.media_type.as_str();
    if kind.contains("foreign") || kind.contains("nondistributable") {
        return Err(RegistryError::Unsupported(format!(
            "layer {} is foreign (media type {kind:?}), which is not supported: its content is not in the registry",
            layer.digest
        )));
    }
    let known = kind.is_empty()
        || kind == "application/octet-stream"
        || kind.starts_with("application/vnd.docker.image.rootfs.diff.tar")
        || kind.starts_with("application/vnd.oci.image.layer.v1.tar");
    if known && !kind.contains("encrypted") {
        Ok(())
    } else {
        Err(RegistryError::Unsupported(format!(
            "layer {} has media type {kind:?}, which is not supported",
            layer.digest
        )))
    }
}

/// The entry for a platform.
///
/// # Errors
/// Docker's sentence when there is none.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, RegistryError> {
    let of = |entry: &'a Descriptor| entry.platform.as_ref().filter(|_| !entry.is_attestation());
    let fits = |entry: &&'a Descriptor| {
        of(entry).is_some_and(|found| found.os == wanted.os && found.architecture == wanted.architecture)
    };
    // The variant that is asked for, else the plainest: nobody's, then the usual one, then the first.
    let usual = match wanted.architecture.as_str() {
        "arm64" => "v8",
        "arm" => "v7",
        "amd64" => "v1",
        _ => "",
    };
    let rank = |entry: &&'a Descriptor| {
        let variant = of(entry).map_or("", |found| found.variant.as_str());
        if !wanted.variant.is_empty() {
            return match variant {
                found if found == wanted.variant => 0,
                "" if wanted.variant == usual => 1,
                _ => 9,
            };
        }
        match variant {
            "" => 0,
            found if found == usual => 1,
            _ if wanted.architecture == "amd64" => 9,
            _ => 2,
        }
    };
    let best = entries.iter().filter(fits).min_by_key(rank).filter(|entry| rank(entry) < 9);
    // An index of one image need not say its platform.
    let only = || match entries {
        [one] if one.platform.is_none() => Some(one),
        _ => None,
    };
    best.or_else(only).ok_or_else(|| {
        RegistryError::NotFound(format!("no matching manifest for {wanted} in the manifest list entries"))
    })
}

/// Reads a manifest as a pull does, and chooses among its platforms if it has several; for tests with broken ones.
///
/// # Errors
/// What is wrong with it.
pub fn check_manifest(bytes: &[u8], wanted: &Platform) -> Result<(), RegistryError> {
    match read("x", "", bytes)?.1 {
        Document::Image(_) => Ok(()),
        Document::Index(entries) => {
            platforms(&entries);
            choose(&entries, wanted).map(drop)
        }
    }
}

/// The platforms of an index, without what is no image.
pub(crate) fn platforms(entries: &[Descriptor]) -> Vec<Platform> {
    entries.iter().filter(|entry| !entry.is_attestation()).filter_map(|entry| entry.platform.clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(text: &str) -> String {
        Digest::of(text.as_bytes()).to_string()
    }

    fn read_json(kind: &str, value: &serde_json::Value) -> Result<Document, String> {
        read("x:1", kind, value.to_string().as_bytes()).map(|(_, document)| document).map_err(|error| error.to_string())
    }

    #[test]
    fn images_and_indexes_are_told_apart_and_the_rest_is_refused_by_name() {
        let config = json!({"mediaType": DOCKER_CONFIG, "size": 2, "digest": digest("c")});
        let layer = |kind: &str| json!({"mediaType": kind, "size": 3, "digest": digest("l")});
        let image = |kind: &str| json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer(kind)]});
        for kind in [
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.v1.tar",
        ] {
            assert!(matches!(read_json("", &image(kind)), Ok(Document::Image(_))), "{kind}");
        }
        for (kind, text) in [
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", "foreign"),
            ("text/plain", "not supported"),
        ] {
            assert!(read_json("", &image(kind)).unwrap_err().contains(text), "{kind}");
        }
        assert!(read_json(SCHEMA1[0], &json!({})).unwrap_err().contains("schema 1 support has been removed"));
        assert!(read_json("", &json!({"schemaVersion": 1})).unwrap_err().contains("schema 1"));
        let chart = json!({"schemaVersion": 2, "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "size": 1, "digest": digest("c")}, "layers": []});
        assert!(read_json(OCI_MANIFEST, &chart).unwrap_err().contains("helm"));
        for bad in ["[]", "", "{", "null", r#"{"schemaVersion":2}"#] {
            assert!(read("x:1", OCI_MANIFEST, bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_entry_for_the_platform_is_chosen() {
        let entry = |platform: &str, text: &str| Descriptor {
            platform: Some(Platform::parse(platform).unwrap()),
            ..Descriptor::new(OCI_MANIFEST, 1, Digest::of(text.as_bytes()))
        };
        let entries = [
            entry("unknown/unknown", "attestation"),
            entry("linux/arm64/v8", "arm64"),
            entry("linux/amd64/v3", "v3"),
            entry("linux/amd64", "amd64"),
            entry("linux/arm/v6", "v6"),
            entry("linux/arm/v7", "v7"),
        ];
        let chosen = |platform: &str| {
            let wanted = Platform::parse(platform).unwrap();
            choose(&entries, &wanted).map(|entry| entry.digest).map_err(|error| error.to_string())
        };
        for (platform, text) in [
            ("linux/amd64", "amd64"),
            ("linux/arm64", "arm64"),
            ("linux/arm64/v8", "arm64"),
            ("linux/amd64/v3", "v3"),
            ("linux/arm/v6", "v6"),
            ("linux/arm", "v7"),
        ] {
            assert_eq!(chosen(platform), Ok(Digest::of(text.as_bytes())), "{platform}");
        }
        assert_eq!(
            chosen("linux/s390x"),
            Err("no matching manifest for linux/s390x in the manifest list entries".to_owned())
        );
        assert!(chosen("linux/arm/v5").is_err());
        assert_eq!(platforms(&entries).len(), 5);
    }
}
