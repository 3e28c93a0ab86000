//! `docker image prune` and what `docker system df` asks: which images nobody needs, and how much room they take.

use std::collections::BTreeMap;

use crate::digest::{Digest, ImageId};
use crate::error::Result;
use crate::reference::Reference;
use crate::remove::{ContainerUse, Removed};
use crate::store::{Image, ImageStore};

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What is gone, in order, with the image it belonged to.
    pub removed: Vec<(ImageId, Removed)>,
    /// Bytes of files of the layers that are gone.
    pub reclaimed: u64,
}

/// How much room the images take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImagesUsage {
    /// Bytes of the files of all layers, each counted once.
    pub layers: u64,
    /// For each image: bytes of the files of its layers, and of those that other images have, too.
    pub images: BTreeMap<ImageId, (u64, u64)>,
}

impl ImageStore {
    /// Removes images that no container uses: those without a tag, or with `all` any of them. `wanted` narrows it. What cannot
    /// be removed stays and is no failure.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn prune(
        &self,
        all: bool,
        wanted: impl Fn(&Image) -> bool,
        is_used: impl Fn(&ImageId) -> Option<ContainerUse>,
    ) -> Result<Pruned> {
        let sizes = self.layer_sizes();
        let mut pruned = Pruned::default();
        for image in self.list() {
            if (!all && !image.repo_tags.is_empty()) || !wanted(&image) || is_used(&image.id).is_some() {
                continue;
            }
            let names: Vec<&String> = image.repo_tags.iter().chain(&image.repo_digests).collect();
            let id = image.id.to_string();
            let names = if names.is_empty() { vec![&id] } else { names };
            for name in names {
                match self.remove(name, false, &is_used) {
                    Ok(removed) => pruned.removed.extend(removed.into_iter().map(|removed| (image.id, removed))),
                    // Its last name took the others along, or a container came in between.
                    Err(error) if error.class() != crate::ErrorClass::Internal => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let layers = pruned.removed.iter().filter_map(|(_, removed)| match removed {
            Removed::Deleted(text) => text.parse::<Digest>().ok(),
            Removed::Untagged(_) => None,
        });
        pruned.reclaimed = layers.filter_map(|chain| sizes.get(&chain)).sum();
        Ok(pruned)
    }

    /// How much room the images take.
    pub fn images_usage(&self) -> ImagesUsage {
        let images = self.list();
        let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
        for image in &images {
            for chain in image.chain_ids.iter() {
                *users.entry(*chain).or_default() += 1;
            }
        }
        let shared = |image: &Image| {
            let layers = image.chain_ids.iter().zip(&image.layer_sizes);
            layers.filter(|(chain, _)| users.get(*chain).is_some_and(|count| *count > 1)).map(|(_, size)| size).sum()
        };
        ImagesUsage {
            layers: self.layer_sizes().values().sum(),
            images: images.iter().map(|image| (image.id, (image.size, shared(image)))).collect(),
        }
    }

    /// All tags of a repository, as references.
    pub fn tags_of(&self, repository: &Reference) -> Vec<Reference> {
        let state = self.state();
        let names = state.table.references.keys().filter_map(|name| Reference::parse(name).ok());
        names.filter(|name| name.name() == repository.name() && name.digest().is_none()).collect()
    }

    fn layer_sizes(&self) -> BTreeMap<Digest, u64> {
        self.state().layers.iter().map(|(chain, layer)| (*chain, layer.size)).collect()
    }
}
