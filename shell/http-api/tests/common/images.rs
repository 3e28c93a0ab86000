//! The images of the fake machine, and a registry that answers what it was asked.

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _};
use serde_json::Value;
use skep_api_types::{
    DistributionInspect, ImageConfig, ImageDelete, ImageHistory, ImageInspect, ImagePlatform, Progress, PruneImages,
    RootFs,
};
use skep_http_api::{
    Archive, ArchiveBytes, EngineError, ErrorKind, ImageImport, ImagePrune, ImagePull, Images, ProgressLines,
};
use tokio::io::AsyncReadExt as _;

use super::FakeEngine;

async fn read(mut archive: Archive) -> Result<Vec<u8>, EngineError> {
    let mut bytes = Vec::new();
    let read = archive.read_to_end(&mut bytes).await;
    read.map_err(|error| EngineError::new(ErrorKind::Invalid, error.to_string()))?;
    Ok(bytes)
}

#[async_trait]
impl Images for FakeEngine {
    async fn images(&self) -> Vec<ImageInspect> {
        vec![self.image("busybox").await.unwrap()]
    }
    async fn image(&self, name: &str) -> Result<ImageInspect, EngineError> {
        if name == "nosuch" {
            return Err(EngineError::new(ErrorKind::NotFound, "No such image: nosuch:latest"));
        }
        Ok(ImageInspect {
            id: format!("sha256:{}", "cd".repeat(32)),
            repo_tags: vec!["registry.test:5000/a/busybox:1".to_owned()],
            created: "2026-01-01T00:00:00Z".to_owned(),
            config: ImageConfig {
                env: Some(vec!["A=b".to_owned()]),
                cmd: Some(vec!["sh".to_owned()]),
                ..ImageConfig::default()
            },
            root_fs: RootFs { r#type: "layers".to_owned(), layers: vec!["sha256:00".to_owned()] },
            ..ImageInspect::default()
        })
    }
    async fn image_history(&self, name: &str) -> Result<Vec<ImageHistory>, EngineError> {
        self.image(name).await?;
        Ok(vec![ImageHistory::default()])
    }
    async fn tag(&self, name: &str, repository: &str, tag: &str) -> Result<(), EngineError> {
        self.image(name).await?;
        self.did(format!("tag {name} {repository} {tag}"))
    }
    async fn remove_image(&self, name: &str, force: bool) -> Result<Vec<ImageDelete>, EngineError> {
        self.image(name).await?;
        self.did(format!("rmi {name} {force}"))?;
        Ok(vec![ImageDelete::Untagged(name.to_owned())])
    }
    async fn shared_sizes(&self) -> Vec<(String, u64)> {
        vec![(format!("sha256:{}", "cd".repeat(32)), 7)]
    }
    async fn prune_images(&self, prune: ImagePrune) -> Result<PruneImages, EngineError> {
        self.did(format!("prune {prune:?}"))?;
        Ok(PruneImages { images_deleted: Some(vec![ImageDelete::Untagged("x:1".to_owned())]), space_reclaimed: 3 })
    }
    fn load(&self, archive: Archive, is_quiet: bool) -> ProgressLines {
        let uploaded = self.uploaded.clone();
        let lines = stream::once(async move {
            *uploaded.lock().unwrap() = read(archive).await?;
            Ok(Progress { stream: format!("Loaded image: x:latest {is_quiet}\n"), ..Progress::default() })
        });
        lines.boxed()
    }
    async fn import(&self, archive: Archive, import: ImageImport) -> Result<String, EngineError> {
        *self.uploaded.lock().unwrap() = read(archive).await?;
        self.did(format!("import {import:?}"))?;
        Ok("sha256:00".to_owned())
    }
    async fn save(&self, names: Vec<String>) -> Result<ArchiveBytes, EngineError> {
        if names.iter().any(|name| name == "nosuch") {
            return Err(EngineError::new(ErrorKind::NotFound, "No such image: nosuch"));
        }
        Ok(stream::iter(names.into_iter().map(|name| Ok(name.into()))).boxed())
    }
    fn pull(&self, pull: ImagePull) -> ProgressLines {
        let said = Progress { status: format!("{pull:?}"), ..Progress::default() };
        let failed = |text: &str| Err(EngineError::new(ErrorKind::NotFound, text));
        match pull.image.as_str() {
            "nosuch" => stream::iter([failed("manifest for nosuch:latest not found: manifest unknown")]).boxed(),
            "cut" => stream::iter([Ok(said), failed("unexpected EOF")]).boxed(),
            _ => stream::iter([Ok(said)]).boxed(),
        }
    }
    fn push(&self, repository: String, tag: String, auth: String) -> ProgressLines {
        let status = format!("push {repository} {tag} {auth}");
        stream::iter([Ok(Progress { status, ..Progress::default() })]).boxed()
    }
    async fn distribution(&self, image: &str, auth: &str) -> Result<DistributionInspect, EngineError> {
        if image == "secret" {
            return Err(EngineError::new(ErrorKind::Unauthorized, "unauthorized: authentication required"));
        }
        let platform =
            ImagePlatform { architecture: "amd64".to_owned(), os: "linux".to_owned(), variant: String::new() };
        Ok(DistributionInspect::new(image.to_owned(), auth.to_owned(), 5, vec![platform]))
    }
    async fn log_in(&self, auth: Value) -> Result<String, EngineError> {
        Ok(auth["username"].as_str().unwrap_or_default().to_owned())
    }
}
