//! What holds for every request: the version in front of the path, the headers of every answer, `page not found`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, uri};
use skep_api_types::{ApiVersion, VersionError};
use tower::ServiceExt as _;

use crate::{Api, ApiError};

/// Puts version handling and common headers around the routes.
pub(crate) fn wrap(routes: Router<Api>, api: Api) -> Router {
    let headers = Arc::new(common_headers(&api.identity.version));
    let routes = routes.with_state(api);
    let handle = move |request: Request<Body>| {
        let (routes, headers) = (routes.clone(), headers.clone());
        async move {
            let mut response = answer(routes, request).await;
            for (name, value) in headers.iter() {
                response.headers_mut().insert(name.clone(), value.clone());
            }
            response
        }
    };
    Router::new().fallback(handle)
}

fn common_headers(version: &str) -> [(HeaderName, HeaderValue); 4] {
    let text = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
    [
        (HeaderName::from_static("api-version"), text(&ApiVersion::MAX.to_string())),
        (HeaderName::from_static("docker-experimental"), HeaderValue::from_static("false")),
        (HeaderName::from_static("ostype"), HeaderValue::from_static("linux")),
        (header::SERVER, text(&format!("Docker/{version} (linux)"))),
    ]
}

async fn answer(routes: Router, mut request: Request<Body>) -> Response {
    if request.method() == Method::OPTIONS {
        return StatusCode::OK.into_response();
    }
    let (version, path) = match split_version(request.uri().path()) {
        Ok(split) => split,
        Err(error) => return version_refusal(&error),
    };
    // The engine has HEAD for these alone; axum would answer it wherever there is GET.
    let has_head = path == "/_ping" || (path.starts_with("/containers/") && path.ends_with("/archive"));
    if request.method() == Method::HEAD && !has_head {
        return ApiError::page_not_found().into_response();
    }
    match replace_path(request.uri(), path) {
        Some(uri) => *request.uri_mut() = uri,
        None => return ApiError::page_not_found().into_response(),
    }
    request.extensions_mut().insert(version);
    routes.oneshot(request).await.unwrap_or_else(|never| match never {})
}

/// `/v1.41/info` is `/info` for version 1.41; `/info` is for the newest.
fn split_version(path: &str) -> Result<(ApiVersion, &str), VersionError> {
    let Some((version, _)) = path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) else {
        return Ok((ApiVersion::MAX, path));
    };
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_version {
        Ok((ApiVersion::negotiate(version)?, &path[2 + version.len()..]))
    } else {
        Ok((ApiVersion::MAX, path))
    }
}

fn replace_path(old: &Uri, path: &str) -> Option<Uri> {
    let target = match old.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri::Parts::default();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Clients older than 1.24 do not read JSON here.
fn version_refusal(error: &VersionError) -> Response {
    match error {
        VersionError::TooNew(_) => ApiError::invalid(error.to_string()).into_response(),
        VersionError::TooOld(_) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_split_off() {
        let version = |minor| ApiVersion { major: 1, minor };
        assert_eq!(split_version("/v1.41/info").unwrap(), (version(41), "/info"));
        assert_eq!(split_version("/info").unwrap(), (ApiVersion::MAX, "/info"));
        assert_eq!(split_version("/volumes/x").unwrap(), (ApiVersion::MAX, "/volumes/x"));
        assert_eq!(split_version("/version").unwrap(), (ApiVersion::MAX, "/version"));
        assert!(split_version("/v1.99/info").is_err() && split_version("/v1.5/info").is_err());
    }
}
