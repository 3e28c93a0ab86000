//! Mounts, and drivers with their options.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_model as model;

use crate::text::{is_empty_map, is_zero};
use crate::{Map, Refusal, Text};

/// A named driver with options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Driver<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: Text<'a>,
    #[serde(skip_serializing_if = "is_empty_map")]
    pub options: Map<'a>,
}

impl<'a> Driver<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(driver: &'a model::Driver) -> Self {
        Self { name: Cow::Borrowed(&driver.name), options: Cow::Borrowed(&driver.options) }
    }

    /// The model's form.
    #[must_use]
    pub fn into_model(self) -> model::Driver {
        model::Driver { name: self.name.into_owned(), options: self.options.into_owned() }
    }
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Mount and documented there")]
pub struct Mount<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub r#type: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub target: Text<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub consistency: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions<'a>>,
}

/// Options of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's BindOptions and documented there")]
pub struct BindOptions<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub propagation: Text<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    pub non_recursive: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub create_mountpoint: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only_non_recursive: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only_force_recursive: bool,
}

/// Options of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's VolumeOptions and documented there")]
pub struct VolumeOptions<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    pub no_copy: bool,
    #[serde(skip_serializing_if = "is_empty_map")]
    pub labels: Map<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub subpath: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<Driver<'a>>,
}

/// Options of an image mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageOptions<'a> {
    /// Path inside the image.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub subpath: Text<'a>,
}

/// Options of a tmpfs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's TmpfsOptions and documented there")]
pub struct TmpfsOptions<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    pub size_bytes: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: u32,
    #[serde(skip_serializing_if = "no_options")]
    pub options: Cow<'a, [Vec<String>]>,
}

fn no_options(options: &[Vec<String>]) -> bool {
    options.is_empty()
}

const KINDS: [(&str, model::MountKind); 6] = [
    ("bind", model::MountKind::Bind),
    ("volume", model::MountKind::Volume),
    ("tmpfs", model::MountKind::Tmpfs),
    ("npipe", model::MountKind::NamedPipe),
    ("cluster", model::MountKind::Cluster),
    ("image", model::MountKind::Image),
];
const CONSISTENCIES: [&str; 5] = ["", "default", "consistent", "cached", "delegated"];
const PROPAGATIONS: [&str; 7] = ["", "rprivate", "private", "rshared", "shared", "rslave", "slave"];

impl<'a> Mount<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(mount: &'a model::Mount) -> Self {
        let kind = KINDS.iter().find(|(_, kind)| *kind == mount.kind).map_or("", |(name, _)| name);
        Self {
            r#type: Cow::Borrowed(kind),
            source: Cow::Borrowed(&mount.source),
            target: Cow::Borrowed(&mount.target),
            read_only: mount.read_only,
            consistency: Cow::Borrowed(&mount.consistency),
            bind_options: mount.bind.as_ref().map(|bind| BindOptions {
                propagation: Cow::Borrowed(&bind.propagation),
                non_recursive: bind.non_recursive,
                create_mountpoint: bind.create_mountpoint,
                read_only_non_recursive: bind.read_only_non_recursive,
                read_only_force_recursive: bind.read_only_force_recursive,
            }),
            volume_options: mount.volume.as_ref().map(|volume| VolumeOptions {
                no_copy: volume.no_copy,
                labels: Cow::Borrowed(&volume.labels),
                subpath: Cow::Borrowed(&volume.subpath),
                driver_config: volume.driver.as_ref().map(Driver::of),
            }),
            image_options: None,
            tmpfs_options: mount.tmpfs.as_ref().map(|tmpfs| TmpfsOptions {
                size_bytes: tmpfs.size.0,
                mode: tmpfs.mode,
                options: Cow::Borrowed(&tmpfs.options),
            }),
        }
    }

    /// The model's form.
    pub fn into_model(self) -> Result<model::Mount, Refusal> {
        let Some((_, kind)) = KINDS.iter().find(|(name, _)| *name == self.r#type) else {
            return Err(Refusal::Invalid(format!("invalid MountType: {:?}", self.r#type)));
        };
        if !CONSISTENCIES.contains(&&*self.consistency) {
            return Err(Refusal::Invalid(format!("invalid MountConsistency: {:?}", self.consistency)));
        }
        if self.image_options.is_some_and(|options| !options.subpath.is_empty()) {
            return Err(Refusal::unsupported("ImageOptions.Subpath of a mount"));
        }
        Ok(model::Mount {
            kind: *kind,
            source: self.source.into_owned(),
            target: self.target.into_owned(),
            read_only: self.read_only,
            consistency: self.consistency.into_owned(),
            bind: self.bind_options.map(BindOptions::into_model).transpose()?,
            volume: self.volume_options.map(|volume| model::VolumeOptions {
                no_copy: volume.no_copy,
                labels: volume.labels.into_owned(),
                driver: volume.driver_config.map(Driver::into_model),
                subpath: volume.subpath.into_owned(),
            }),
            tmpfs: self.tmpfs_options.map(|tmpfs| model::TmpfsOptions {
                size: model::ByteSize(tmpfs.size_bytes),
                mode: tmpfs.mode,
                options: tmpfs.options.into_owned(),
            }),
        })
    }
}

impl BindOptions<'_> {
    fn into_model(self) -> Result<model::BindOptions, Refusal> {
        if !PROPAGATIONS.contains(&&*self.propagation) {
            return Err(Refusal::Invalid(format!("invalid MountPropagation: {:?}", self.propagation)));
        }
        Ok(model::BindOptions {
            propagation: self.propagation.into_owned(),
            non_recursive: self.non_recursive,
            create_mountpoint: self.create_mountpoint,
            read_only_non_recursive: self.read_only_non_recursive,
            read_only_force_recursive: self.read_only_force_recursive,
        })
    }
}
