//! `/containers/{id}/archive`: files copied out of a container and into one.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::TryStreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use skep_api_types::{PathStat, strict_boolean};
use tokio_util::io::StreamReader;

use crate::body::{Params, empty};
use crate::{Api, ApiError};

const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

fn path(query: &Params) -> Result<&str, ApiError> {
    match query.get("path") {
        None | Some("") => Err(ApiError::invalid("missing \"path\" parameter")),
        Some(path) => Ok(path),
    }
}

fn stat_header(stat: &PathStat) -> HeaderMap {
    let text = STANDARD.encode(serde_json::to_vec(stat).unwrap_or_default());
    HeaderMap::from_iter([(STAT, HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("")))])
}

pub(crate) async fn head(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let stat = api.engine.path_stat(&name, path(&query)?).await?;
    Ok((StatusCode::OK, stat_header(&stat)).into_response())
}

pub(crate) async fn get(State(api): State<Api>, Path(name): Path<String>, query: Params) -> Result<Response, ApiError> {
    let (stat, archive) = api.engine.archive(&name, path(&query)?).await?;
    let mut response = Response::new(Body::from_stream(archive));
    *response.headers_mut() = stat_header(&stat);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

pub(crate) async fn put(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let flag = |name| {
        let text = query.get(name);
        strict_boolean(text).or_else(|_| Ok::<_, ApiError>(query.flag(name)))
    };
    let (keep_kinds, to_user) = (flag("noOverwriteDirNonDir")?, flag("copyUIDGID")?);
    let path = path(&query)?;
    let body = request.into_body().into_data_stream().map_err(std::io::Error::other);
    api.engine.extract(&name, path, keep_kinds, to_user, Box::pin(StreamReader::new(body))).await?;
    Ok(empty())
}
