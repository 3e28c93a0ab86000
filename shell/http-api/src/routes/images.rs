//! Images of this machine. Names may hold slashes, so the last part of the path says what is wanted.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use skep_api_types::{ApiVersion, Filters, ImageInspect, ImageSummary, LoginResponse, Progress, Timestamp};
use tokio_util::io::StreamReader;

use crate::body::{Asked, Json, Params, list as json_list, ok};
use crate::engine::{Archive, ImageImport, ImagePrune, ImagePull, ProgressLines};
use crate::hijack::streaming;
use crate::{Api, ApiError};

const FILTERS: [&str; 6] = ["dangling", "label", "before", "since", "reference", "until"];

pub(crate) async fn list(State(api): State<Api>, Asked(version): Asked, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&FILTERS)?;
    let dangling = filters.boolean("dangling")?;
    let images = api.engine.images().await;
    let (before, since) = (limit(&api, &filters, "before").await?, limit(&api, &filters, "since").await?);
    let until = until(&filters)?;
    let shown = images.iter().filter(|image| {
        let created = Timestamp::parse(&image.created).unwrap_or_default();
        let labels = image.config.labels.clone().unwrap_or_default();
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        dangling.is_none_or(|wanted| wanted == image.repo_tags.is_empty())
            && filters.labels("label", &labels)
            && filters.any("reference", |pattern| names.clone().any(|name| matches(pattern, name)))
            && before.is_none_or(|time| created < time)
            && since.is_none_or(|time| created > time)
            && until.is_none_or(|time| created < time)
    });
    let shared = if query.flag("shared-size") { Some(api.engine.shared_sizes().await) } else { None };
    let shared: Option<BTreeMap<String, u64>> = shared.map(|sizes| sizes.into_iter().collect());
    Ok(json_list(shown.map(|image| {
        let size = shared.as_ref().and_then(|sizes| i64::try_from(*sizes.get(&image.id)?).ok());
        ImageSummary { shared_size: size.unwrap_or(-1), ..summary(image, version) }
    })))
}

async fn limit(api: &Api, filters: &Filters, key: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(name) = filters.values(key).and_then(|values| values.first()) else { return Ok(None) };
    Ok(Some(Timestamp::parse(&api.engine.image(name).await?.created).unwrap_or_default()))
}

pub(super) fn until(filters: &Filters) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = filters.values("until").and_then(|values| values.first()) else { return Ok(None) };
    match Timestamp::parse(text) {
        Some(time) => Ok(Some(time)),
        None => Ok(skep_api_types::unix_time("until", Some(text))?.map(Timestamp)),
    }
}

/// `name`, `name:tag`, with `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let bare = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(bare, _)| bare);
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), bare.as_bytes())
}

/// `*` stands for anything but a slash. Linear in the length of both but for one step back.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(b'?') if text[seen] != b'/' => (at, seen) = (at + 1, seen + 1),
            Some(byte) if *byte == text[seen] => (at, seen) = (at + 1, seen + 1),
            _ => match star {
                Some((place, from)) if text[from] != b'/' => {
                    star = Some((place, from + 1));
                    (at, seen) = (place + 1, from + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

pub(crate) fn summary(image: &ImageInspect, version: ApiVersion) -> ImageSummary {
    let created = Timestamp::parse(&image.created).unwrap_or_default();
    ImageSummary {
        containers: -1,
        created: created.0.0.div_euclid(1_000_000_000),
        id: image.id.clone(),
        labels: image.config.labels.clone(),
        parent_id: String::new(),
        repo_digests: image.repo_digests.clone(),
        repo_tags: image.repo_tags.clone(),
        shared_size: -1,
        size: image.size,
        virtual_size: (!version.is_at_least(44)).then_some(image.size),
    }
}

/// `GET /images/{name}/json`, `/history`.
pub(crate) async fn read(
    State(api): State<Api>,
    Asked(version): Asked,
    Path(rest): Path<String>,
) -> Result<Response, ApiError> {
    let (name, what) = rest.rsplit_once('/').ok_or_else(ApiError::page_not_found)?;
    match what {
        "json" => {
            let mut image = api.engine.image(name).await?;
            image.virtual_size = (!version.is_at_least(44)).then_some(image.size);
            Ok(ok(&image))
        }
        "history" => Ok(ok(&api.engine.image_history(name).await?)),
        "get" => save(&api, vec![name.to_owned()]).await,
        "attestations" => Err(ApiError::unsupported("listing the attestations of an image")),
        _ => Err(ApiError::page_not_found()),
    }
}

/// `POST /images/{name}/tag`, `/push`.
pub(crate) async fn write(
    State(api): State<Api>,
    Path(rest): Path<String>,
    query: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (name, what) = rest.rsplit_once('/').ok_or_else(ApiError::page_not_found)?;
    match what {
        "tag" => {
            let (repository, tag) = (query.get("repo").unwrap_or(""), query.get("tag").unwrap_or(""));
            api.engine.tag(name, repository, tag).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        "push" => {
            refuse_platform(&query, "pushing an image for one platform only")?;
            let tag = query.get("tag").unwrap_or("").to_owned();
            Ok(stream(api.engine.push(name.to_owned(), tag, registry_auth(&headers))).await?)
        }
        _ => Err(ApiError::page_not_found()),
    }
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    if query.get("platforms").is_some_and(|platforms| !platforms.is_empty()) {
        return Err(ApiError::unsupported("removing an image for some platforms only"));
    }
    Ok(ok(&api.engine.remove_image(&name, query.flag("force")).await?))
}

fn archive(body: Body) -> Archive {
    Box::pin(StreamReader::new(body.into_data_stream().map_err(std::io::Error::other)))
}

fn refuse_platform(query: &Params, what: &str) -> Result<(), ApiError> {
    match query.get("platform").filter(|platform| !platform.is_empty()) {
        Some(_) => Err(ApiError::unsupported(what)),
        None => Ok(()),
    }
}

/// `X-Registry-Auth`, as it came.
fn registry_auth(headers: &HeaderMap) -> String {
    headers.get("x-registry-auth").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn encoded(line: &Progress) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

/// Lines as they come. What fails before the first one is an answer of its own; what fails later is the last line.
async fn stream(mut lines: ProgressLines) -> Result<Response, ApiError> {
    let first = match lines.next().await {
        Some(Err(error)) => return Err(error.into()),
        first => first,
    };
    Ok(streamed(futures_util::stream::iter(first).chain(lines).boxed()))
}

fn streamed(lines: ProgressLines) -> Response {
    let bytes = lines.map(|line| match line {
        Ok(line) => encoded(&line),
        Err(error) => encoded(&Progress::failure(&error.text)),
    });
    streaming(HeaderValue::from_static("application/json"), bytes.boxed())
}

pub(crate) async fn load(State(api): State<Api>, query: Params, request: Request) -> Result<Response, ApiError> {
    refuse_platform(&query, "loading an image for one platform only")?;
    // As in Docker, a refused archive is a line, too: the client is still sending.
    Ok(streamed(api.engine.load(archive(request.into_body()), query.flag("quiet"))))
}

/// `GET /images/get?names=...`
pub(crate) async fn get(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    refuse_platform(&query, "saving an image for one platform only")?;
    save(&api, query.all("names").map(str::to_owned).collect()).await
}

async fn save(api: &Api, names: Vec<String>) -> Result<Response, ApiError> {
    let bytes = api.engine.save(names).await?;
    let mut response = Response::new(Body::from_stream(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

pub(crate) async fn prune(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&["dangling", "label", "label!", "until"])?;
    let texts = |key: &str| filters.values(key).into_iter().flatten().cloned().collect::<Vec<_>>();
    let prune = ImagePrune {
        all: filters.boolean("dangling")? == Some(false),
        until: until(&filters)?,
        labels: texts("label"),
        not_labels: texts("label!"),
    };
    Ok(ok(&api.engine.prune_images(prune).await?))
}

/// Pull (`fromImage`) or import (`fromSrc`).
pub(crate) async fn create(State(api): State<Api>, query: Params, request: Request) -> Result<Response, ApiError> {
    if let Some(image) = query.get("fromImage").filter(|image| !image.is_empty()) {
        let pull = ImagePull {
            image: image.to_owned(),
            tag: query.get("tag").unwrap_or("").to_owned(),
            platform: query.get("platform").unwrap_or("").to_owned(),
            auth: registry_auth(request.headers()),
        };
        return stream(api.engine.pull(pull)).await;
    }
    match query.get("fromSrc").unwrap_or("") {
        "-" => {}
        "" => return Err(ApiError::invalid("fromImage or fromSrc must be given")),
        _ => return Err(ApiError::unsupported("importing from a URL")),
    }
    let import = ImageImport {
        repository: query.get("repo").unwrap_or("").to_owned(),
        tag: query.get("tag").unwrap_or("").to_owned(),
        changes: query.all("changes").map(str::to_owned).collect(),
        message: query.get("message").unwrap_or("").to_owned(),
        platform: query.get("platform").unwrap_or("").to_owned(),
    };
    let id = api.engine.import(archive(request.into_body()), import).await?;
    let line = Progress { status: id, ..Progress::default() };
    Ok(streaming(HeaderValue::from_static("application/json"), futures_util::stream::iter([encoded(&line)]).boxed()))
}

/// What a registry knows of an image.
pub(crate) async fn distribution(
    State(api): State<Api>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let image = rest.strip_suffix("/json").ok_or_else(ApiError::page_not_found)?;
    Ok(ok(&api.engine.distribution(image, &registry_auth(&headers)).await?))
}

/// `docker login`: the client keeps what is proven here.
pub(crate) async fn log_in(State(api): State<Api>, Json(auth): Json<serde_json::Value>) -> Result<Response, ApiError> {
    let identity_token = api.engine.log_in(auth).await?;
    Ok(ok(&LoginResponse { identity_token, status: "Login Succeeded".to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_patterns() {
        for (pattern, name) in [
            ("busybox", "busybox:latest"),
            ("busy*", "busybox:1"),
            ("*:1", "busybox:1"),
            ("r.test:5/*", "r.test:5/a:2"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("busy", "busybox:latest"), ("*", "a/b:1"), ("busybox:2", "busybox:1")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
