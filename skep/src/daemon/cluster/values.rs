//! Secrets and configs of the node as the HTTP API sees them.

use async_trait::async_trait;
use skep_http_api::{ClusterError, Edit, NewSecret, Values};
use skep_model::{ConfigId, ConfigSpec, SecretId, Version};
use skep_node::Request;

use super::{NodeCluster, error};

#[async_trait]
impl Values for NodeCluster {
    async fn create_secret(&self, new: NewSecret) -> Result<SecretId, ClusterError> {
        let NewSecret { name, labels, data, templating, driver } = new;
        let new = skep_node::NewSecret { name, labels, data, templating, driver };
        self.node.create_secret(new).await.map_err(error)
    }

    async fn update_secret(&self, secret: SecretId, version: Version, edit: Edit) -> Result<(), ClusterError> {
        let Edit { name, labels, data } = edit;
        self.node.update_secret(secret, version, name, labels, data).await.map_err(error)
    }

    async fn remove_secret(&self, secret: SecretId) -> Result<(), ClusterError> {
        self.node.submit(Request::RemoveSecret(secret)).await.map_err(error).map(drop)
    }

    async fn create_config(&self, spec: ConfigSpec) -> Result<ConfigId, ClusterError> {
        self.node.create_config(spec).await.map_err(error)
    }

    async fn update_config(&self, config: ConfigId, version: Version, edit: Edit) -> Result<(), ClusterError> {
        let Edit { name, labels, data } = edit;
        let request = Request::UpdateConfig { config, version, name, labels, data };
        self.node.submit(request).await.map_err(error).map(drop)
    }

    async fn remove_config(&self, config: ConfigId) -> Result<(), ClusterError> {
        self.node.submit(Request::RemoveConfig(config)).await.map_err(error).map(drop)
    }
}
