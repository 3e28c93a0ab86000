//! Kinds of objects that there are none of, yet: plugins. Lists are empty and names unknown, in
//! Docker's words, so that clients which look for something everywhere go on.

use axum::extract::Path;
use axum::response::Response;
use serde_json::Value;

use crate::ApiError;
use crate::body::{Params, ok};

pub(crate) async fn plugins(query: Params) -> Result<Response, ApiError> {
    query.filters(&["capability", "enabled"])?;
    Ok(ok(&Value::Array(Vec::new())))
}

pub(crate) async fn plugin(Path(name): Path<String>) -> ApiError {
    ApiError::not_found(format!("plugin \"{name}\" not found"))
}
