//! Bodies: JSON in and out, with Docker's rules about content types and sizes.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skep_api_types::{ApiVersion, Filters};

use crate::ApiError;

/// Largest JSON body: two times the largest secret or config in base64, rounded up.
const JSON_MAX: usize = 4 << 20;
/// How long a client may take to send a JSON body.
const JSON_TIME: Duration = Duration::from_secs(30);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The query of a request. Of a name that is given twice the first value counts, unless all are asked for.
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean in the manner of container and image routes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        skep_api_types::boolean(self.get(name))
    }

    pub(crate) fn filters(&self, known: &[&str]) -> Result<Filters, ApiError> {
        Ok(Filters::parse(self.get("filters"), known)?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match Query::<Vec<(String, String)>>::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(error) => Err(ApiError::invalid(format!("invalid query: {error}"))),
        }
    }
}

/// The API version that the request is for.
pub(crate) struct Asked(pub(crate) ApiVersion);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(parts.extensions.get().copied().unwrap_or(ApiVersion::MAX)))
    }
}

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Ok(Self(skep_api_types::decode(&json_bytes(request).await?)?))
    }
}

/// A JSON body, not read yet.
pub(crate) async fn json_bytes(request: Request) -> Result<Bytes, ApiError> {
    let (parts, body) = request.into_parts();
    let body = read(body, JSON_MAX).await?;
    if !body.is_empty() {
        check_content_type(&parts.headers)?;
    }
    Ok(body)
}

async fn read(body: Body, max: usize) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(JSON_TIME, Limited::new(body, max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("request body is larger than {max} bytes")))
        }
        Ok(Err(error)) => Err(ApiError::invalid(format!("error reading request body: {error}"))),
        Err(_) => {
            let seconds = JSON_TIME.as_secs();
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, format!("request body did not arrive within {seconds} s")))
        }
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::invalid("unsupported Content-Type header (): must be 'application/json'"));
    };
    let given = given.to_str().unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(ApiError::invalid(format!("unsupported Content-Type header ({given}): must be 'application/json'")))
    }
}

/// An answer with a JSON body and the newline that Go's encoder adds.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
        }
        Err(error) => ApiError::internal(format!("cannot encode the answer: {error}")).into_response(),
    }
}

/// [`json`] with status 200.
pub(crate) fn ok<T: Serialize>(value: &T) -> Response {
    json(StatusCode::OK, value)
}

/// A list whose elements are written one by one, so that none is kept.
pub(crate) fn list<T: Serialize>(values: impl Iterator<Item = T>) -> Response {
    let mut body = vec![b'['];
    for value in values {
        if body.len() > 1 {
            body.push(b',');
        }
        if let Err(error) = serde_json::to_writer(&mut body, &value) {
            return ApiError::internal(format!("cannot encode the answer: {error}")).into_response();
        }
    }
    body.extend_from_slice(b"]\n");
    (StatusCode::OK, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// 200 without a body.
pub(crate) fn empty() -> Response {
    (StatusCode::OK, [(header::CONTENT_LENGTH, HeaderValue::from_static("0"))]).into_response()
}
