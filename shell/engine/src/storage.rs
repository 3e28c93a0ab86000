//! The storage of containers: their volumes and bind mounts, from the preparation to the removal; and what the API asks of
//! volumes.
//!
//! | Moment | What happens |
//! | --- | --- |
//! | prepared | missing bind sources are refused, or made; volumes are made or found and used from now on; new ones get the image's files |
//! | starts | what is mounted on use is mounted |
//! | ended | that is unmounted |
//! | removed | the volumes are free; those that were made for it are removed with it |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_image::Snapshot;
use skep_oci::Mount;

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{At, EngineError, Result};
use crate::events::EventKind;
use crate::record::{MountRecord, Record, VolumeMount};
use crate::view::ContainerState;
use crate::volumes::{Volume, VolumeRequest, fill};

/// Volumes that were removed because nobody used them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrunedVolumes {
    /// Their names.
    pub names: Vec<String>,
    /// Bytes that they took.
    pub space: u64,
}

impl Engine {
    /// All volumes by name. Does not block.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        self.inner.volumes.list()
    }

    /// A volume.
    ///
    /// # Errors
    /// `get x: no such volume`.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        self.inner.volumes.get(name)
    }

    /// Makes a volume, or gives the one of this name, whatever its options and labels are (as Docker).
    ///
    /// # Errors
    /// With Docker's texts for names, drivers and options that cannot be.
    pub async fn create_volume(&self, request: VolumeRequest) -> Result<Volume> {
        let inner = self.inner.clone();
        self.inner.blocking(move |_| inner.create_volume(request)).await
    }

    /// Removes a volume that no container uses. With `force` one that is not there is fine.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] with Docker's text when it is used.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let name = name.to_owned();
        self.inner
            .blocking(move |inner| match inner.volumes.remove(&name) {
                Err(EngineError::NotFound(_)) if force => Ok(()),
                removed => {
                    inner.tell_volume("destroy", &removed?.record.name, []);
                    Ok(())
                }
            })
            .await
    }

    /// Removes all volumes that no container uses and that pass.
    pub async fn prune_volumes(&self, passes: impl Fn(&Volume) -> bool + Send + 'static) -> PrunedVolumes {
        let pruned = self.inner.blocking(move |inner| Ok(inner.prune_volumes(passes))).await;
        pruned.unwrap_or_default()
    }

    /// What each volume takes, in bytes. Reads all of their files.
    pub async fn volume_sizes(&self) -> BTreeMap<String, u64> {
        let sizes = self.inner.blocking(|inner| {
            let names = inner.volumes.list().into_iter().map(|volume| volume.record.name);
            Ok(names.filter_map(|name| Some((name.clone(), inner.volumes.size(&name).ok()?))).collect())
        });
        sizes.await.unwrap_or_default()
    }
}

impl Inner {
    fn create_volume(&self, request: VolumeRequest) -> Result<Volume> {
        let (volume, is_new) = self.volumes.create(request)?;
        if is_new {
            self.tell_volume("create", &volume.record.name, []);
        }
        Ok(volume)
    }

    fn prune_volumes(&self, passes: impl Fn(&Volume) -> bool) -> PrunedVolumes {
        let mut pruned = PrunedVolumes::default();
        for volume in self.volumes.list() {
            let name = volume.record.name.clone();
            if volume.users > 0 || !passes(&volume) {
                continue;
            }
            let size = self.volumes.size(&name).unwrap_or(0);
            match self.volumes.remove(&name) {
                Ok(_) => {
                    self.tell_volume("destroy", &name, []);
                    pruned.names.push(name);
                    pruned.space += size;
                }
                // Somebody uses it now, or removed it.
                Err(EngineError::Conflict(_) | EngineError::NotFound(_)) => {}
                Err(error) => tracing::warn!(volume = name, error = error.full_text(), "cannot prune a volume"),
            }
        }
        let space = pruned.space.to_string();
        self.events.publish(EventKind::Volume, "prune", "", [("reclaimed", space)]);
        pruned
    }

    fn tell_volume<const N: usize>(&self, action: &str, name: &str, more: [(&str, String); N]) {
        let attributes = more.into_iter().chain([("driver", crate::volumes::LOCAL.to_owned())]);
        self.events.publish(EventKind::Volume, action, name, attributes);
    }

    /// Makes ready what a new container mounts. What was made for it is undone by [`Self::forget_storage`].
    pub(crate) fn provide_storage(&self, record: &Record, snapshot: &Snapshot) -> Result<()> {
        for mount in &record.mounts {
            provide_source(mount)?;
        }
        for mount in &record.mounts {
            let Some(volume) = &mount.volume else { continue };
            let request = VolumeRequest {
                name: volume.name.clone(),
                driver: volume.driver.clone(),
                options: volume.options.clone(),
                labels: volume.labels.clone(),
            };
            let (_, is_new) = self.volumes.acquire(request, &record.id, volume.anonymous)?;
            if is_new {
                self.tell_volume("create", &volume.name, []);
            }
            if !volume.no_copy && volume.subpath.is_empty() {
                fill(&self.volumes, &volume.name, snapshot, &mount.destination)?;
            }
        }
        Ok(())
    }

    /// The container is gone: its volumes are free, and what was made for it is removed.
    pub(crate) fn forget_storage(&self, id: &str) {
        self.volumes.leave(id);
        for name in self.volumes.release(id) {
            self.tell_volume("destroy", &name, []);
        }
    }

    /// The container is about to run: mounts what is mounted on use, and puts into `mounts` where volumes are found.
    pub(crate) fn enter_storage(&self, record: &Record, mounts: &mut [Mount]) -> Result<()> {
        for (number, (shown, volume)) in volume_mounts(record).enumerate() {
            let entered = self.volumes.enter(&volume.name, &record.id, number, &volume.subpath);
            let found = entered.map_err(|error| match error {
                EngineError::Volume(text) => {
                    EngineError::Volume(format!("error while mounting volume '{}': {text}", shown.source))
                }
                other => other,
            })?;
            for mount in mounts.iter_mut() {
                if let Mount::Bind { source, target, .. } = mount
                    && target.as_path() == Path::new(&shown.destination)
                {
                    source.clone_from(&found);
                }
            }
            let told = [
                ("container", record.id.clone()),
                ("destination", shown.destination.clone()),
                ("propagation", String::new()),
                ("read/write", shown.rw.to_string()),
            ];
            self.tell_volume("mount", &volume.name, told);
        }
        for mount in &record.mounts {
            if mount.create_source {
                provide_source(mount)?;
            }
        }
        Ok(())
    }

    /// The container has ended, or did not start.
    pub(crate) async fn leave_storage(self: &Arc<Self>, container: &Arc<Container>) {
        if volume_mounts(&container.record).next().is_none() {
            return;
        }
        let record = container.record.clone();
        let left = self.blocking(move |inner| {
            inner.volumes.leave(&record.id);
            for (_, volume) in volume_mounts(&record) {
                inner.tell_volume("unmount", &volume.name, [("container", record.id.clone())]);
            }
            Ok(())
        });
        // Only an engine that closes does not do it; the next one will.
        let _ = left.await;
    }

    /// The volumes that were made for this container stay when it is removed.
    pub(crate) async fn keep_volumes(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if !volume_mounts(&container.record).any(|(_, volume)| volume.anonymous) {
            return Ok(());
        }
        let id = container.id().to_owned();
        self.blocking(move |inner| inner.volumes.disown(&id)).await
    }

    /// Takes over the volumes of containers that were found.
    pub(crate) fn adopt_storage(&self) {
        for container in self.table.all() {
            let runs = matches!(container.state(), ContainerState::Running { .. } | ContainerState::Starting);
            for (_, volume) in volume_mounts(&container.record) {
                if !self.volumes.adopt(&volume.name, container.id(), runs) {
                    tracing::warn!(
                        container.id = container.id(),
                        volume = volume.name,
                        "the volume of a container is lost"
                    );
                }
            }
        }
        // Also a container that cannot be read is one.
        self.volumes.settle(|id| self.layout.container(id).record().exists());
    }
}

fn volume_mounts(record: &Record) -> impl Iterator<Item = (&MountRecord, &VolumeMount)> {
    record.mounts.iter().filter_map(|mount| Some((mount, mount.volume.as_ref()?)))
}

/// A bind's source is there, or is made if that was asked for.
fn provide_source(mount: &MountRecord) -> Result<()> {
    if mount.kind != "bind" {
        return Ok(());
    }
    let source = PathBuf::from(&mount.source);
    match std::fs::metadata(&source) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && mount.create_source => {
            std::fs::create_dir_all(&source).at("create the mount source", source)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let source = &mount.source;
            let text = format!("invalid mount config for type \"bind\": bind source path does not exist: {source}");
            Err(EngineError::Invalid(text))
        }
        Err(error) => {
            let source = &mount.source;
            Err(EngineError::Invalid(format!("invalid mount config for type \"bind\": stat {source}: {error}")))
        }
        Ok(_) => Ok(()),
    }
}
