//! Containers of this machine.

mod attach;
mod by_hand;

pub(crate) use attach::{attach, resize};
pub(crate) use by_hand::{create, pause, prune, rename, restart, start, unpause, update};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use skep_api_types::{WaitError, WaitResponse};

use crate::body::{Asked, Params, list as json_list, ok};
use crate::engine::{Ended, WaitCondition};
use crate::hijack::{media_type, streaming};
use crate::logs::{self, container_lines};
use crate::routes::container_filters::ContainerFilters;
use crate::routes::disk;
use crate::routes::system::now;
use crate::{Api, ApiError, render};

pub(crate) async fn list(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let containers = api.engine.containers();
    let filters = ContainerFilters::new(&query, &containers)?;
    let limit = match query.get("limit").filter(|text| !text.is_empty()) {
        Some(text) => {
            text.parse::<i64>().map_err(|_| ApiError::invalid(format!("invalid limit {text:?}: a number is needed")))?
        }
        None => 0,
    };
    let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
    let all = query.flag("all") || limit.is_some() || filters.name_states();
    let shown = containers.iter().filter(|container| (all || container.state.running) && filters.pass(container));
    let shown = shown.take(limit.unwrap_or(usize::MAX));
    if query.flag("size") {
        return Ok(ok(&disk::sized(&api, shown).await));
    }
    let now = now();
    Ok(json_list(shown.map(|container| render::summary(container, now))))
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let mut container = api.engine.container(&name)?;
    if query.flag("size")
        && let Some((written, all)) = api.engine.container_size(&container.id).await
    {
        (container.size_rw, container.size_root_fs) = (Some(disk::signed(written)), Some(disk::signed(all)));
    }
    Ok(ok(&container))
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    if query.flag("link") {
        return Err(ApiError::unsupported("a legacy link"));
    }
    api.engine.remove(&name, query.flag("force"), query.flag("v")).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn kill(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    api.engine.kill(&name, query.get("signal").unwrap_or("")).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn stop(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    api.engine.stop(&name, query.get("signal").filter(|signal| !signal.is_empty()), grace(&query)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Seconds between the stop signal and SIGKILL.
fn grace(query: &Params) -> Result<Option<i64>, ApiError> {
    let Some(text) = query.get("t").filter(|text| !text.is_empty()) else { return Ok(None) };
    let bad = || ApiError::invalid(format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
    text.parse().map(Some).map_err(|_| bad())
}

/// The head of the answer is sent at once: clients start the container only after they have seen it.
pub(crate) async fn wait(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let condition = match query.get("condition") {
        None | Some("" | "not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let ended = api.engine.wait(&name, condition)?;
    let body = stream::once(async move { Ok::<_, std::convert::Infallible>(wait_body(ended.await)) });
    let mut response = Response::new(Body::from_stream(body.boxed()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn wait_body(ended: Ended) -> Vec<u8> {
    let response =
        WaitResponse { status_code: ended.exit_code, error: ended.error.map(|message| WaitError { message }) };
    let mut body = serde_json::to_vec(&response).unwrap_or_default();
    body.push(b'\n');
    body
}

pub(crate) async fn logs(
    State(api): State<Api>,
    Asked(version): Asked,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let container = api.engine.container(&name)?;
    let options = logs::options(&query)?;
    let lines = api.engine.logs(&container.id, options)?;
    let tty = container.config.tty;
    Ok(streaming(media_type(version, tty), container_lines(lines, logs::style(&query, tty))))
}
