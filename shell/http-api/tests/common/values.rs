//! Secrets and configs of the fake cluster: it remembers what it was asked, in words.

use async_trait::async_trait;
use skep_http_api::{ClusterError, Edit, NewSecret, Values};
use skep_model::{ConfigId, ConfigSpec, SecretId, Version};
use skep_testkit::{config_id, secret_id};

use super::{Call, FakeCluster};

impl FakeCluster {
    fn did_value(&self, what: String) -> Result<(), ClusterError> {
        self.did(Call::Value(what))
    }
}

#[async_trait]
impl Values for FakeCluster {
    async fn create_secret(&self, new: NewSecret) -> Result<SecretId, ClusterError> {
        let data = String::from_utf8_lossy(&new.data).into_owned();
        self.did_value(format!("create secret {} {data:?} {:?}", new.name, new.templating.map(|driver| driver.name)))?;
        Ok(secret_id("new"))
    }
    async fn update_secret(&self, secret: SecretId, version: Version, edit: Edit) -> Result<(), ClusterError> {
        self.did_value(format!("update secret {secret} {} {edit:?}", version.0))
    }
    async fn remove_secret(&self, secret: SecretId) -> Result<(), ClusterError> {
        self.did_value(format!("remove secret {secret}"))
    }
    async fn create_config(&self, spec: ConfigSpec) -> Result<ConfigId, ClusterError> {
        self.did_value(format!("create config {} {} bytes", spec.name, spec.data.len()))?;
        Ok(config_id("new"))
    }
    async fn update_config(&self, config: ConfigId, version: Version, edit: Edit) -> Result<(), ClusterError> {
        self.did_value(format!("update config {config} {} {edit:?}", version.0))
    }
    async fn remove_config(&self, config: ConfigId) -> Result<(), ClusterError> {
        self.did_value(format!("remove config {config}"))
    }
}
