//! What the API needs of this machine's volumes.

use std::collections::BTreeMap;

use async_trait::async_trait;
use skep_api_types::{Timestamp, Volume, VolumeCreate, VolumesPruned};
use skep_engine::VolumeRequest;
use skep_model::WallTime;

use super::{EngineError, ErrorKind};

/// Decides which unused volumes are removed.
pub type VolumeFilter = Box<dyn Fn(&Volume) -> bool + Send>;

/// One machine's volumes.
#[async_trait]
pub trait Volumes: Send + Sync + 'static {
    /// All volumes by name, with the number of their users and without their size.
    fn volumes(&self) -> Vec<Volume>;
    /// One volume, as [`Self::volumes`].
    fn volume(&self, name: &str) -> Result<Volume, EngineError>;
    /// Makes one, or gives the one of this name.
    async fn create_volume(&self, request: VolumeCreate) -> Result<Volume, EngineError>;
    /// Removes one that nobody uses; with `force` one that is not there is fine.
    async fn remove_volume(&self, name: &str, force: bool) -> Result<(), EngineError>;
    /// Removes all that nobody uses and that pass.
    async fn prune_volumes(&self, passes: VolumeFilter) -> VolumesPruned;
    /// Bytes that each volume takes. Reads all of their files.
    async fn volume_sizes(&self) -> BTreeMap<String, u64>;
}

/// True for a volume that nobody named.
pub(crate) fn is_anonymous(volume: &Volume) -> bool {
    volume.labels.as_ref().is_some_and(|labels| labels.contains_key(skep_engine::ANONYMOUS_LABEL))
}

#[async_trait]
impl Volumes for skep_engine::Engine {
    fn volumes(&self) -> Vec<Volume> {
        skep_engine::Engine::volumes(self).iter().map(shown).collect()
    }

    fn volume(&self, name: &str) -> Result<Volume, EngineError> {
        Ok(shown(&skep_engine::Engine::volume(self, name)?))
    }

    async fn create_volume(&self, request: VolumeCreate) -> Result<Volume, EngineError> {
        if request.cluster_volume_spec.is_some() {
            let text = "a volume of the cluster (CSI) is not supported by this version of skep: \
                        use a volume of the driver local";
            return Err(EngineError::new(ErrorKind::Unsupported, text));
        }
        let request = VolumeRequest {
            name: request.name,
            driver: request.driver,
            options: request.driver_opts.unwrap_or_default(),
            labels: request.labels.unwrap_or_default(),
        };
        Ok(shown(&skep_engine::Engine::create_volume(self, request).await?))
    }

    async fn remove_volume(&self, name: &str, force: bool) -> Result<(), EngineError> {
        Ok(skep_engine::Engine::remove_volume(self, name, force).await?)
    }

    async fn prune_volumes(&self, passes: VolumeFilter) -> VolumesPruned {
        let pruned = skep_engine::Engine::prune_volumes(self, move |volume| passes(&shown(volume))).await;
        VolumesPruned { volumes_deleted: pruned.names, space_reclaimed: pruned.space }
    }

    async fn volume_sizes(&self) -> BTreeMap<String, u64> {
        skep_engine::Engine::volume_sizes(self).await
    }
}

fn shown(volume: &skep_engine::Volume) -> Volume {
    let record = &volume.record;
    let created = Timestamp::parse(&record.created_at).unwrap_or_default().0.0;
    let given = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
    Volume {
        created_at: Timestamp(WallTime(created - created.rem_euclid(1_000_000_000))),
        driver: record.driver.clone(),
        labels: given(&record.labels),
        mountpoint: volume.mountpoint.display().to_string(),
        name: record.name.clone(),
        options: given(&record.options),
        scope: "local".to_owned(),
        usage_data: Some(skep_api_types::VolumeUsage {
            ref_count: i64::try_from(volume.users).unwrap_or(i64::MAX),
            size: -1,
        }),
    }
}
