//! Further programs in a container.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::StatusCode;
use skep_api_types::{ExecConfig, ExecStart, IdResponse};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use crate::body::{Asked, Json, empty, json, ok};
use crate::engine::{EngineError, ErrorKind, ExecStreams};
use crate::hijack::{Channel, answer, frame, media_type, refuse_tty};
use crate::{Api, ApiError};

/// How long output is still read after the program has ended: what it left behind may hold the streams open for ever.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// Pieces of output that wait for a slow client; then reading stops, and the program blocks.
const QUEUE: usize = 8;

pub(crate) async fn create(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(config): Json<ExecConfig>,
) -> Result<Response, ApiError> {
    if config.cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    refuse_tty(config.tty)?;
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
    refuse_tty(options.tty)?;
    let streams = match api.engine.exec_start(&id).await {
        Ok(streams) => streams,
        // Docker has answered already when it learns of this, and tells it on the stream.
        Err(EngineError { kind: ErrorKind::Start, text }) if !options.detach => {
            let text = frame(Channel::Stdout, format!("{text}\r\n").as_bytes());
            return Ok(answer(request, media_type(version, false), None, stream::once(async { text }).boxed()));
        }
        Err(error) => return Err(error.into()),
    };
    if options.detach {
        return Ok(empty());
    }
    let ExecStreams { stdin, stdout, stderr, exit } = streams;
    let output = collect(stdout, stderr, exit);
    Ok(answer(request, media_type(version, false), stdin, output))
}

type Output = std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>;

/// Both outputs in frames, until both have ended and the exit code is known; a little longer than the program at most.
fn collect(
    stdout: Option<Output>,
    stderr: Option<Output>,
    exit: futures_util::future::BoxFuture<'static, i32>,
) -> BoxStream<'static, Bytes> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let (out, err) = (pump(stdout, Channel::Stdout, &sender), pump(stderr, Channel::Stderr, &sender));
        let pumps = async { tokio::join!(out, err) };
        tokio::pin!(pumps);
        let closed = sender.closed();
        tokio::pin!(exit, closed);
        tokio::select! {
            _ = &mut pumps => { exit.await; }
            _ = &mut exit => {
                // Bounded for what was left behind, not for a slow client: pumping goes on while pieces are taken.
                let _ = tokio::time::timeout(LAST_OUTPUT, &mut pumps).await;
            }
            () = &mut closed => {}
        }
    });
    stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|piece| (piece, receiver)) }).boxed()
}

async fn pump(output: Option<Output>, channel: Channel, sender: &mpsc::Sender<Bytes>) {
    let Some(output) = output else { return };
    let mut pieces = ReaderStream::with_capacity(output, 16 << 10);
    while let Some(Ok(piece)) = pieces.next().await {
        if sender.send(frame(channel, &piece)).await.is_err() {
            return;
        }
    }
}
