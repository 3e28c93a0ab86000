//! Verifies, unpacks, keeps and collects images and layers: the content store of one machine.
//!
//! It answers what images there are, loads and imports archives that it does not trust, pulls from registries and pushes to them,
//! gives names and takes them away with Docker's rules, and prepares the directories of a container's file system. It mounts
//! nothing, runs nothing and knows nothing of clusters. All calls block but those of [`Registries`]; the engine, its only caller,
//! runs them where blocking is fine.
//!
//! ```text
//! registry ─▶ manifest, downloads ─┐
//! stream ─▶ archive ─▶ load / import ─▶ layer (unpack) ─▶ publish ─▶ blobs, layers, images.json ─▶ save, push
//!                                                                        │
//!                                     container ◀─ snapshot ◀────────────┘
//! ```

mod archive;
mod build;
mod changes;
mod compression;
mod config;
mod digest;
mod error;
mod import;
mod layer;
mod layout;
mod limits;
mod load;
mod oci;
mod overlay;
mod prune;
mod reference;
mod registry;
mod remove;
mod save;
mod snapshot;
mod store;
mod table;
mod tar_reader;
mod tree;
mod unpack;

pub use build::{ImageBuilder, write_docker_archive};
pub use compression::decompressed;
pub use config::{ContainerConfig, Empty, Healthcheck, History, ImageConfig, Platform, RootFs, Set};
pub use digest::{Digest, ImageId};
pub use error::{Error, ErrorClass, Result};
pub use import::Import;
pub use layer::{Progress, ProgressFn};
pub use limits::Limits;
pub use load::Loaded;
pub use overlay::probe_overlay;
pub use prune::{ImagesUsage, Pruned};
pub use reference::Reference;
pub use registry::{
    Credentials, Distribution, Login, Progress as PullProgress, PullOptions, Pulled, Registries, RegistryConfig,
    RegistryError, Step, check_manifest,
};
pub use remove::{ContainerUse, Removed};
pub use save::Saving;
pub use snapshot::Snapshot;
pub use store::{Image, ImageStore};
pub use tree::{Usage, remove as remove_tree, remove_at as remove_tree_at, usage as tree_usage};
