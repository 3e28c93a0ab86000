//! Images of this machine. Names may hold slashes, so the last part of the path says what is wanted.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt as _;
use http::{HeaderValue, StatusCode, header};
use skep_api_types::{ApiVersion, Filters, ImageInspect, ImageSummary, Progress, Timestamp};
use tokio_util::io::StreamReader;

use crate::body::{Asked, Params, list as json_list, ok};
use crate::engine::{Archive, ImageImport};
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
        dangling.is_none_or(|wanted| wanted == image.repo_tags.is_empty())
            && filters.labels("label", &labels)
            && filters.any("reference", |pattern| image.repo_tags.iter().any(|name| matches(pattern, name)))
            && before.is_none_or(|time| created < time)
            && since.is_none_or(|time| created > time)
            && until.is_none_or(|time| created < time)
    });
    Ok(json_list(shown.map(|image| summary(image, version))))
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

fn summary(image: &ImageInspect, version: ApiVersion) -> ImageSummary {
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
        "get" => Err(ApiError::unsupported("saving images")),
        "attestations" => Err(ApiError::unsupported("listing the attestations of an image")),
        _ => Err(ApiError::page_not_found()),
    }
}

/// `POST /images/{name}/tag`, `/push`.
pub(crate) async fn write(
    State(api): State<Api>,
    Path(rest): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let (name, what) = rest.rsplit_once('/').ok_or_else(ApiError::page_not_found)?;
    match what {
        "tag" => {
            let (repository, tag) = (query.get("repo").unwrap_or(""), query.get("tag").unwrap_or(""));
            api.engine.tag(name, repository, tag).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        "push" => Err(ApiError::unsupported("pushing an image to a registry")),
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

fn progress(lines: impl Iterator<Item = Progress>) -> Response {
    let mut body = Vec::new();
    for line in lines {
        body.extend(serde_json::to_vec(&line).unwrap_or_default());
        body.extend_from_slice(b"\r\n");
    }
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

pub(crate) async fn load(State(api): State<Api>, query: Params, request: Request) -> Result<Response, ApiError> {
    if query.get("platform").is_some_and(|platform| !platform.is_empty()) {
        return Err(ApiError::unsupported("loading an image for one platform only"));
    }
    let lines = api.engine.load(archive(request.into_body())).await?;
    Ok(progress(lines.into_iter().map(|line| Progress { stream: line + "\n", ..Progress::default() })))
}

/// Pull (`fromImage`) or import (`fromSrc`).
pub(crate) async fn create(State(api): State<Api>, query: Params, request: Request) -> Result<Response, ApiError> {
    if let Some(image) = query.get("fromImage").filter(|image| !image.is_empty()) {
        let tag = query.get("tag").filter(|tag| !tag.is_empty()).unwrap_or("latest");
        let separator = if tag.starts_with("sha256:") { '@' } else { ':' };
        return Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "cannot pull {image}{separator}{tag}: pulling is not supported by this version of skep: \
                 bring the image by docker load or docker import"
            ),
        ));
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
    Ok(progress(std::iter::once(Progress { status: id, ..Progress::default() })))
}

/// Clients fall back to the name as it is, with a warning of theirs.
pub(crate) async fn distribution(Path(rest): Path<String>) -> ApiError {
    match rest.strip_suffix("/json") {
        Some(_) => ApiError::unsupported("asking a registry for an image"),
        None => ApiError::page_not_found(),
    }
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
