//! Kinds of objects that there are none of, yet: secrets, configs, plugins. Lists are empty and names unknown, in
//! Docker's words, so that clients which look for something everywhere go on.

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::Value;

use crate::body::{Params, ok};
use crate::routes::require_manager;
use crate::{Api, ApiError};

pub(crate) async fn secrets(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    query.filters(&["id", "name", "names", "label"])?;
    require_manager(&api)?;
    Ok(ok(&Value::Array(Vec::new())))
}

pub(crate) async fn secret(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    require_manager(&api)?;
    Err(ApiError::not_found(format!("secret {name} not found")))
}

pub(crate) async fn configs(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    query.filters(&["id", "name", "label"])?;
    require_manager(&api)?;
    Ok(ok(&Value::Array(Vec::new())))
}

pub(crate) async fn config(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    require_manager(&api)?;
    Err(ApiError::not_found(format!("config {name} not found")))
}

pub(crate) async fn plugins(query: Params) -> Result<Response, ApiError> {
    query.filters(&["capability", "enabled"])?;
    Ok(ok(&Value::Array(Vec::new())))
}

pub(crate) async fn plugin(Path(name): Path<String>) -> ApiError {
    ApiError::not_found(format!("plugin \"{name}\" not found"))
}
