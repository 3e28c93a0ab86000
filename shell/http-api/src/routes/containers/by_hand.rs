//! Containers made by hand: created, started, restarted, paused, renamed, removed together.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use skep_api_types::{ContainerCreate, ContainerUpdate, Timestamp, unix_time};
use skep_engine::PruneFilter;
use skep_model::WallTime;

use super::grace;
use crate::body::{Json, Params, json, json_bytes, ok};
use crate::routes::system::now;
use crate::{Api, ApiError};

pub(crate) async fn create(
    State(api): State<Api>,
    query: Params,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let body = json_bytes(request).await?;
    let create = ContainerCreate::decode(&body)?;
    let (name, platform) = (query.get("name").unwrap_or(""), query.get("platform").unwrap_or(""));
    Ok(json(StatusCode::CREATED, &api.engine.create(name, platform, create).await?))
}

pub(crate) async fn start(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    if query.get("checkpoint").is_some_and(|checkpoint| !checkpoint.is_empty()) {
        return Err(ApiError::unsupported("starting a container from a checkpoint"));
    }
    api.engine.start(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn restart(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let signal = query.get("signal").filter(|signal| !signal.is_empty());
    api.engine.restart(&name, signal, grace(&query)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn pause(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    api.engine.pause(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn unpause(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    api.engine.unpause(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn rename(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    api.engine.rename(&name, query.get("name").unwrap_or("")).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn update(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(update): Json<ContainerUpdate>,
) -> Result<Response, ApiError> {
    Ok(ok(&api.engine.update(&name, update).await?))
}

pub(crate) async fn prune(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&["until", "label", "label!"])?;
    let all = |key| filters.values(key).into_iter().flatten().cloned().collect::<Vec<_>>();
    let until = match &all("until")[..] {
        [] => None,
        [one] => Some(moment(one)?.0),
        _ => return Err(ApiError::invalid("more than one until filter specified")),
    };
    let filter = PruneFilter { until, labels: all("label"), without_labels: all("label!") };
    Ok(ok(&api.engine.prune(filter).await?))
}

/// A time, or a duration such as `24h` before now.
fn moment(text: &str) -> Result<WallTime, ApiError> {
    if let Some(ago) = duration(text) {
        return Ok(WallTime(now().0.saturating_sub(ago)));
    }
    if let Some(time) = Timestamp::parse(text) {
        return Ok(time.0);
    }
    match unix_time("until", Some(text)) {
        Ok(Some(time)) => Ok(time),
        _ => Err(ApiError::invalid(format!("invalid value for \"until\": {text:?} is neither a time nor a duration"))),
    }
}

/// Nanoseconds of Go's form of durations: `1h30m`, `10s`, `1.5h`.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: f64 = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit: f64 = match &rest[..letters] {
            "h" => 3600e9,
            "m" => 60e9,
            "s" => 1e9,
            "ms" => 1e6,
            "us" | "µs" => 1e3,
            "ns" => 1.0,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    Some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_or_durations() {
        assert_eq!(duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(duration("1.5s"), Some(1_500_000_000));
        assert!(duration("5").is_none() && duration("").is_none() && duration("h").is_none());
        assert_eq!(moment("1970-01-01T00:00:01Z").unwrap(), WallTime(1_000_000_000));
        assert_eq!(moment("12").unwrap(), WallTime(12_000_000_000));
        assert!(moment("24h").unwrap() < now() && moment("yesterday").is_err());
    }
}
