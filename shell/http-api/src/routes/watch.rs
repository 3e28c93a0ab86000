//! What a container does and has: its usage, its processes, its changed files, all its files.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, header};
use skep_api_types::Stats;

use crate::body::{Params, ok};
use crate::hijack::streaming;
use crate::{Api, ApiError};

/// How often a stream of usage tells.
const PERIOD: Duration = Duration::from_secs(1);

/// `GET /containers/{id}/stats`: once with the moment before, once alone, or every second until the container is gone.
pub(crate) async fn stats(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let has_stream = query.get("stream").is_none_or(|_| query.flag("stream"));
    let one_shot = query.flag("one-shot");
    if has_stream && one_shot {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    // By its id from now on: its name may become another's.
    let first = api.engine.stats(&name).await?;
    if !has_stream {
        let runs = first.read.0.0 != 0;
        if one_shot || !runs {
            return Ok(ok(&first));
        }
        tokio::time::sleep(PERIOD).await;
        return Ok(ok(&after(&first, api.engine.stats(&first.id).await?)));
    }
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let rest = stream::unfold((api, first.clone(), ticks), |(api, last, mut ticks)| async move {
        ticks.tick().await;
        let next = after(&last, api.engine.stats(&last.id).await.ok()?);
        Some((next.clone(), (api, next, ticks)))
    });
    let lines = stream::once(async { first }).chain(rest).map(|stats| {
        let mut line = serde_json::to_vec(&stats).unwrap_or_default();
        line.push(b'\n');
        line.into()
    });
    Ok(streaming(HeaderValue::from_static("application/json"), lines.boxed()))
}

/// A moment with what was used up to the one before.
fn after(last: &Stats, mut next: Stats) -> Stats {
    next.preread = last.read;
    next.precpu_stats = last.cpu_stats.clone();
    next
}

pub(crate) async fn top(State(api): State<Api>, Path(name): Path<String>, query: Params) -> Result<Response, ApiError> {
    Ok(ok(&api.engine.top(&name, query.get("ps_args").unwrap_or_default()).await?))
}

pub(crate) async fn changes(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let changes = api.engine.changes(&name).await?;
    // Nothing changed is `null`, as Go writes a list that was never made.
    Ok(ok(&(!changes.is_empty()).then_some(changes)))
}

pub(crate) async fn export(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let archive = api.engine.export(&name).await?;
    let mut response = Response::new(Body::from_stream(archive));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}
