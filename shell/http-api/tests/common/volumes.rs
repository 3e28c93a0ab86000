//! Volumes of the fake engine: none; it remembers what it was asked.

use std::collections::BTreeMap;

use async_trait::async_trait;
use skep_api_types::{Volume, VolumeCreate, VolumesPruned};
use skep_http_api::{EngineError, ErrorKind, VolumeFilter, Volumes};

use super::FakeEngine;

pub(crate) fn a_volume(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        driver: "local".to_owned(),
        scope: "local".to_owned(),
        mountpoint: format!("/volumes/{name}/_data"),
        ..Volume::default()
    }
}

#[async_trait]
impl Volumes for FakeEngine {
    fn volumes(&self) -> Vec<Volume> {
        vec![a_volume("data")]
    }

    fn volume(&self, name: &str) -> Result<Volume, EngineError> {
        match name {
            "data" => Ok(a_volume(name)),
            _ => Err(EngineError::new(ErrorKind::NotFound, format!("get {name}: no such volume"))),
        }
    }

    async fn create_volume(&self, request: VolumeCreate) -> Result<Volume, EngineError> {
        self.did(format!("create volume {} {:?} {:?}", request.name, request.driver_opts, request.labels))?;
        Ok(a_volume(&request.name))
    }

    async fn remove_volume(&self, name: &str, force: bool) -> Result<(), EngineError> {
        self.did(format!("remove volume {name} {force}"))
    }

    async fn prune_volumes(&self, passes: VolumeFilter) -> VolumesPruned {
        let anonymous = Volume {
            labels: Some([("com.docker.volume.anonymous".to_owned(), String::new())].into()),
            ..a_volume("0123")
        };
        let passed = [a_volume("data"), anonymous].into_iter().filter(|volume| passes(volume));
        VolumesPruned { volumes_deleted: passed.map(|volume| volume.name).collect(), space_reclaimed: 1 }
    }

    async fn volume_sizes(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("data".to_owned(), 1)])
    }
}
