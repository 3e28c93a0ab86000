//! `GET /system/df`: what images, containers and volumes take.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::response::Response;
use skep_api_types::{ApiVersion, ContainerInspect, ContainerSummary, DiskUsage, ImageSummary, Volume};

use crate::body::{Asked, Params, ok};
use crate::routes::{images, system};
use crate::{Api, ApiError, render};

const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

pub(crate) async fn usage(State(api): State<Api>, Asked(version): Asked, query: Params) -> Result<Response, ApiError> {
    let wanted: BTreeSet<&str> =
        if version.is_at_least(42) { query.all("type").filter(|kind| !kind.is_empty()).collect() } else { [].into() };
    if let Some(unknown) = wanted.iter().find(|kind| !TYPES.contains(*kind)) {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let wants = |kind| wanted.is_empty() || wanted.contains(kind);
    let mut usage = DiskUsage { builder_size: (!version.is_at_least(42)).then_some(0), ..DiskUsage::default() };
    let containers = api.engine.containers();
    if wants("image") {
        let (images, layers_size) = images(&api, version, &containers).await;
        (usage.images, usage.layers_size) = (Some(images), layers_size);
    }
    if wants("container") {
        usage.containers = Some(sized(&api, containers.iter()).await);
    }
    if wants("volume") {
        usage.volumes = Some(volumes(&api).await);
    }
    if wants("build-cache") && version.is_at_least(42) {
        usage.build_cache = Some(Vec::new());
    }
    Ok(ok(&usage))
}

/// Lines of `docker ps` with sizes.
pub(crate) async fn sized(api: &Api, containers: impl Iterator<Item = &ContainerInspect>) -> Vec<ContainerSummary> {
    let now = system::now();
    let mut lines = Vec::new();
    for container in containers {
        let mut line = render::summary(container, now);
        if let Some((written, all)) = api.engine.container_size(&container.id).await {
            // Nothing written is left out, as Go leaves out zeros.
            line.size_rw = (written > 0).then(|| signed(written));
            line.size_root_fs = Some(signed(all));
        }
        lines.push(line);
    }
    lines
}

pub(crate) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// All volumes with their users and bytes.
async fn volumes(api: &Api) -> Vec<Volume> {
    let sizes = api.engine.volume_sizes().await;
    let mut volumes = api.engine.volumes();
    for volume in &mut volumes {
        if let Some(usage) = &mut volume.usage_data {
            usage.size = sizes.get(&volume.name).map_or(-1, |bytes| signed(*bytes));
        }
    }
    volumes
}

/// All images with what they share and who uses them, and the bytes of all layers.
async fn images(api: &Api, version: ApiVersion, containers: &[ContainerInspect]) -> (Vec<ImageSummary>, i64) {
    let layers = api.engine.image_layers().await;
    // A layer counts once for the machine, however many images have it.
    let mut users: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (name, bytes) in layers.values().flatten() {
        let (size, count) = users.entry(name).or_default();
        (*size, *count) = (*bytes, *count + 1);
    }
    let shared = |id: &str| -> u64 {
        let own = layers.get(id).into_iter().flatten();
        own.filter(|(name, _)| users.get(name.as_str()).is_some_and(|(_, count)| *count > 1))
            .map(|(_, size)| size)
            .sum()
    };
    let summary = |image| {
        let mut summary = images::summary(image, version);
        summary.shared_size = signed(shared(&summary.id));
        summary.containers = signed(containers.iter().filter(|container| container.image == summary.id).count() as u64);
        summary
    };
    let images = api.engine.images().await.iter().map(summary).collect();
    (images, signed(users.values().map(|(size, _)| size).sum()))
}
