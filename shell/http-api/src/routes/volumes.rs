//! Volumes of this machine. Volumes of the cluster (CSI) are refused by name.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use skep_api_types::{Filters, Volume, VolumeCreate, VolumeList};

use crate::body::{Asked, Json, Params, json, ok};
use crate::engine::is_anonymous;
use crate::{Api, ApiError};

/// Without the number of users, which only disk usage shows.
fn plain(volume: Volume) -> Volume {
    Volume { usage_data: None, ..volume }
}

pub(crate) async fn list(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.boolean("dangling")?;
    let passes = |volume: &Volume| {
        let unused = volume.usage_data.is_none_or(|usage| usage.ref_count == 0);
        dangling.is_none_or(|wanted| wanted == unused)
            && filters.any("driver", |driver| *driver == volume.driver)
            && filters.any("name", |name| volume.name.contains(name.as_str()))
            && filters.labels("label", volume.labels.as_ref().unwrap_or(&std::collections::BTreeMap::new()))
    };
    let volumes = api.engine.volumes().into_iter().filter(passes).map(plain).collect();
    Ok(ok(&VolumeList { volumes, warnings: None }))
}

pub(crate) async fn inspect(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    Ok(ok(&plain(api.engine.volume(&name)?)))
}

pub(crate) async fn create(State(api): State<Api>, Json(request): Json<VolumeCreate>) -> Result<Response, ApiError> {
    Ok(json(StatusCode::CREATED, &plain(api.engine.create_volume(request).await?)))
}

/// Only volumes of the cluster can be changed, and there are none.
pub(crate) async fn update(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    api.engine.volume(&name)?;
    Err(ApiError::unsupported("changing a volume of the cluster (CSI)"))
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    api.engine.remove_volume(&name, query.flag("force")).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Since version 1.42 only volumes that nobody named, unless `all` is among the filters.
pub(crate) async fn prune(State(api): State<Api>, Asked(version): Asked, query: Params) -> Result<Response, ApiError> {
    let mut known = vec!["label", "label!"];
    if version.is_at_least(42) {
        known.push("all");
    }
    let filters = query.filters(&known)?;
    let all = filters.boolean("all")?.unwrap_or(!version.is_at_least(42));
    let passes = move |volume: &Volume| (all || is_anonymous(volume)) && has_labels(&filters, volume);
    Ok(ok(&api.engine.prune_volumes(Box::new(passes)).await))
}

fn has_labels(filters: &Filters, volume: &Volume) -> bool {
    let labels = volume.labels.clone().unwrap_or_default();
    filters.labels("label", &labels) && (filters.values("label!").is_none() || !filters.labels("label!", &labels))
}
