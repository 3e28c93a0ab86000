//! The OCI image layout as far as a load needs it: from `index.json` over nested indexes to the manifests of this platform
//! (OCI image spec, "Image Layout" and "Image Index").

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::archive::{StagedArchive, StagedFile};
use crate::config::Platform;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::load::tagged_name;
use crate::reference::Reference;

const INDEX_DEPTH_MAX: usize = 4;
const NAME_ANNOTATION: &str = "io.containerd.image.name";
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const ATTESTATION_ANNOTATION: &str = "vnd.docker.reference.type";

/// An image in an archive, before anything in it was looked at.
#[derive(Debug)]
pub(crate) struct FoundImage {
    pub(crate) config: StagedFile,
    /// Bottom first.
    pub(crate) layers: Vec<StagedFile>,
    pub(crate) manifest: Option<StagedFile>,
    pub(crate) names: Vec<Reference>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct LayoutFile {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Descriptor {
    fn is_index(&self) -> bool {
        self.media_type.ends_with(".image.index.v1+json") || self.media_type.ends_with(".manifest.list.v2+json")
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn is_attestation(&self) -> bool {
        self.annotation(ATTESTATION_ANNOTATION).is_some()
            || self
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown")
    }

    /// The image's full name. A bare tag in the `ref.name` annotation names no repository and is not a name.
    fn name(&self) -> Result<Option<Reference>> {
        if let Some(name) = self.annotation(NAME_ANNOTATION) {
            return tagged_name(name).map(Some);
        }
        match self.annotation(REF_ANNOTATION) {
            Some(name) if name.contains([':', '/']) => tagged_name(name).map(Some),
            _ => Ok(None),
        }
    }
}

pub(crate) fn find_images(archive: &StagedArchive, host: &Platform) -> Result<Vec<FoundImage>> {
    let layout: LayoutFile = archive.json("oci-layout", archive.file("oci-layout")?)?;
    if layout.version != "1.0.0" {
        return Err(Error::archive(format!("OCI image layout version \"{}\" is not supported", layout.version)));
    }
    let index: Index = archive.json("index.json", archive.file("index.json")?)?;
    check_schema(index.schema_version)?;
    // One image may be listed several times under several names.
    let mut found: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
    let mut order = Vec::new();
    for top in choose_top(index.manifests, host)? {
        let name = top.name()?;
        let manifest = choose(archive, top, host, 0)?;
        let names = found.entry(manifest.digest).or_insert_with(|| {
            order.push(manifest.clone());
            Vec::new()
        });
        names.extend(name);
    }
    order
        .into_iter()
        .map(|manifest| read_manifest(archive, &manifest, found.remove(&manifest.digest).unwrap_or_default()))
        .collect()
}

/// At the top, every descriptor is an image of its own, except that those of the same name for several platforms are one choice.
fn choose_top(manifests: Vec<Descriptor>, host: &Platform) -> Result<Vec<Descriptor>> {
    let fits = |manifest: &Descriptor| manifest.platform.as_ref().is_none_or(|platform| platform.runs_on(host));
    let candidates: Vec<Descriptor> = manifests.into_iter().filter(|manifest| !manifest.is_attestation()).collect();
    let mut fitting_names = Vec::new();
    for manifest in candidates.iter().filter(|manifest| fits(manifest)) {
        fitting_names.push(manifest.name()?);
    }
    let mut chosen = Vec::new();
    for manifest in candidates {
        if fits(&manifest) || !fitting_names.contains(&manifest.name()?) {
            chosen.push(manifest);
        }
    }
    Ok(chosen)
}

/// Goes down nested indexes to the manifest for this platform.
fn choose(archive: &StagedArchive, descriptor: Descriptor, host: &Platform, depth: usize) -> Result<Descriptor> {
    let file = archive.blob(descriptor.digest, Some(descriptor.size))?;
    if !descriptor.is_index() {
        return Ok(descriptor);
    }
    if depth >= INDEX_DEPTH_MAX {
        return Err(Error::archive(format!("indexes are nested deeper than {INDEX_DEPTH_MAX}")));
    }
    let index: Index = archive.json("image index", file)?;
    check_schema(index.schema_version)?;
    let candidates: Vec<Descriptor> =
        index.manifests.into_iter().filter(|manifest| !manifest.is_attestation()).collect();
    let best = candidates.iter().find(|candidate| match &candidate.platform {
        Some(platform) => platform.runs_on(host) && archive.blob(candidate.digest, None).is_ok(),
        None => candidates.len() == 1 || candidate.is_index(),
    });
    match best {
        Some(best) => choose(archive, best.clone(), host, depth + 1),
        None => Err(Error::NoMatchingPlatform {
            wanted: host.to_string(),
            available: candidates
                .iter()
                .filter_map(|candidate| candidate.platform.as_ref())
                .map(Platform::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

fn read_manifest(archive: &StagedArchive, descriptor: &Descriptor, names: Vec<Reference>) -> Result<FoundImage> {
    let file = archive.blob(descriptor.digest, Some(descriptor.size))?;
    let manifest: Manifest = archive.json("image manifest", file)?;
    check_schema(manifest.schema_version)?;
    let blob = |part: &Descriptor| archive.blob(part.digest, Some(part.size)).cloned();
    Ok(FoundImage {
        config: blob(&manifest.config)?,
        layers: manifest.layers.iter().map(blob).collect::<Result<_>>()?,
        manifest: Some(file.clone()),
        names,
    })
}

fn check_schema(version: u32) -> Result<()> {
    if version == 2 {
        Ok(())
    } else {
        Err(Error::archive(format!("schema version {version} is not supported, only 2 is")))
    }
}
