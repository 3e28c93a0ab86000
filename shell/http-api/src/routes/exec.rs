//! Further programs in a container.

use axum::body::Body;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::response::Response;
use futures_util::stream::{self, StreamExt as _};
use http::StatusCode;
use skep_api_types::{ExecConfig, ExecStart, IdResponse};
use tokio_util::sync::CancellationToken;

use crate::body::{Asked, Json, Params, empty, json, ok};
use crate::detach::{self, Leaving};
use crate::engine::{EngineError, ErrorKind, ExecStreams, console_size};
use crate::hijack::{Channel, Input, answer, frame, media_type};
use crate::output::collect;
use crate::{Api, ApiError};

pub(crate) async fn create(
    State(api): State<Api>,
    Asked(version): Asked,
    Path(name): Path<String>,
    Json(mut config): Json<ExecConfig>,
) -> Result<Response, ApiError> {
    if config.cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    if !config.tty || !version.is_at_least(42) {
        config.console_size.clear();
    }
    detach::parse(&config.detach_keys).map_err(ApiError::invalid)?;
    let id = api.engine.exec_create(&name, config)?;
    Ok(json(StatusCode::CREATED, &IdResponse { id }))
}

pub(crate) async fn inspect(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(ok(&api.engine.exec_inspect(&id)?))
}

pub(crate) async fn start(
    State(api): State<Api>,
    Asked(version): Asked,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    // The body is read here and the upgrade, which travels in the head, is taken later.
    let (parts, body) = request.into_parts();
    let mut read = Request::new(body);
    *read.headers_mut() = parts.headers.clone();
    let Json(options) = Json::<ExecStart>::from_request(read, &()).await?;
    let request = Request::from_parts(parts, Body::empty());
    let tty = options.tty;
    let size = if tty && version.is_at_least(42) { console_size(&options.console_size) } else { None };
    // The keys were given when it was created.
    let keys = detach::parse(&api.engine.exec_inspect(&id)?.detach_keys).map_err(ApiError::invalid)?;
    let streams = match api.engine.exec_start(&id, size).await {
        Ok(streams) => streams,
        // Docker has answered already when it learns of this, and tells it on the stream.
        Err(EngineError { kind: ErrorKind::Start, text }) if !options.detach => {
            let text = format!("{text}\r\n");
            let text = if tty { text.into() } else { frame(Channel::Stdout, text.as_bytes()) };
            return Ok(answer(request, media_type(version, tty), None, stream::once(async { text }).boxed()));
        }
        Err(error) => return Err(error.into()),
    };
    if options.detach {
        return Ok(empty());
    }
    let ExecStreams { stdin, stdout, stderr, exit } = streams;
    let output = collect(stdout, stderr, exit, tty);
    if !tty {
        return Ok(answer(request, media_type(version, tty), stdin, output));
    }
    let left = CancellationToken::new();
    let stdin = stdin.map(|stdin| Box::pin(Leaving::new(stdin, keys, left.clone())) as Input);
    let engine = api.engine.clone();
    let output = output.take_until(async move {
        left.cancelled().await;
        engine.exec_detached(&id);
    });
    Ok(answer(request, media_type(version, tty), stdin, output.boxed()))
}

/// `POST /exec/{id}/resize`.
pub(crate) async fn resize(
    State(api): State<Api>,
    Path(id): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let (rows, columns) = terminal_size(&query)?;
    api.engine.exec_resize(&id, rows, columns).await?;
    Ok(empty())
}

/// `h` and `w` of a resize.
pub(crate) fn terminal_size(query: &Params) -> Result<(u16, u16), ApiError> {
    let number = |name| {
        let text = query.get(name).unwrap_or_default();
        text.parse().map_err(|_| ApiError::invalid(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))
    };
    Ok((number("h")?, number("w")?))
}
