//! Configs.

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use skep_api_types::{DataCreated, DataObject, DataSpec};
use skep_model::ObjectId as _;

use super::secrets::{edit, object_version};
use crate::body::{Asked, Json, Params, empty, json, list as json_list, ok};
use crate::routes::{require_manager, snapshot};
use crate::{Api, ApiError, lookup};

const FILTERS: [&str; 3] = ["id", "name", "label"];

pub(crate) async fn list(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&FILTERS)?;
    let picture = snapshot(&api).await?;
    let configs = picture.configs().filter(|config| {
        filters.any_prefix("id", config.id.as_str())
            && filters.any_prefix("name", &config.spec.name)
            && filters.labels("label", &config.spec.labels)
    });
    Ok(json_list(configs.map(|config| DataObject::of_config(config))))
}

pub(crate) async fn inspect(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let picture = snapshot(&api).await?;
    Ok(ok(&DataObject::of_config(lookup::config(&picture, &name)?)))
}

pub(crate) async fn create(
    State(api): State<Api>,
    Asked(version): Asked,
    Json(mut spec): Json<DataSpec<'static>>,
) -> Result<Response, ApiError> {
    require_manager(&api)?;
    spec.adjust_for(version);
    let id = api.cluster.create_config(spec.into_config()).await?;
    Ok(json(StatusCode::CREATED, &DataCreated { id: id.to_string() }))
}

pub(crate) async fn update(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
    Json(spec): Json<DataSpec<'static>>,
) -> Result<Response, ApiError> {
    let version = object_version("config", &query)?;
    let picture = snapshot(&api).await?;
    let config = lookup::config(&picture, &name)?.id;
    api.cluster.update_config(config, version, edit(spec)).await?;
    Ok(empty())
}

pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let picture = snapshot(&api).await?;
    api.cluster.remove_config(lookup::config(&picture, &name)?.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
