//! Streams that outlive the request: frames of several streams in one, and the upgrade of a connection to them.

use std::pin::Pin;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use skep_api_types::ApiVersion;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdout = 1,
    Stderr = 2,
    /// The server's own failure.
    System = 3,
}

/// A frame: one byte for the stream, three of zero, four of length (big endian), the data.
pub(crate) fn frame(channel: Channel, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + data.len());
    frame.put_u8(channel as u8);
    frame.put_bytes(0, 3);
    frame.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    frame.put_slice(&data[..data.len().min(u32::MAX as usize)]);
    frame.freeze()
}

/// The media type of a stream; versions before 1.42 call every stream raw.
pub(crate) fn media_type(version: ApiVersion, tty: bool) -> HeaderValue {
    HeaderValue::from_static(if !tty && version.is_at_least(42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    })
}

/// A stream as the body of an answer whose head is sent at once.
pub(crate) fn streaming(media_type: HeaderValue, stream: BoxStream<'static, Bytes>) -> Response {
    let body = Body::from_stream(stream.map(Ok::<_, std::convert::Infallible>));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

/// Where a client's input goes.
pub(crate) type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Answers with a stream: on the upgraded connection when the client asks for that, else as a body. On an upgraded
/// connection what the client sends goes to `input`; when the client closes its half, the input is closed and output goes on.
pub(crate) fn answer(
    request: Request,
    media_type: HeaderValue,
    input: Option<Input>,
    output: BoxStream<'static, Bytes>,
) -> Response {
    if !wants_upgrade(request.headers()) {
        return streaming(media_type, output);
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => carry(TokioIo::new(connection), input, output).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    response
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    let is = |name, wanted: &str| {
        let value = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        value.split(',').any(|part| part.trim().eq_ignore_ascii_case(wanted))
    };
    is(header::CONNECTION, "upgrade") && is(header::UPGRADE, "tcp")
}

async fn carry(
    connection: impl AsyncRead + AsyncWrite + Send + 'static,
    input: Option<Input>,
    mut output: BoxStream<'static, Bytes>,
) {
    let (mut reader, mut writer) = tokio::io::split(connection);
    let (mut buffer, mut input) = (vec![0; 16 << 10], input);
    let feed = async {
        loop {
            match reader.read(&mut buffer).await {
                // Half-closed: the end of input, not of interest in output.
                Ok(0) => break,
                Ok(count) => {
                    let Some(sink) = &mut input else { continue };
                    if sink.write_all(&buffer[..count]).await.is_err() || sink.flush().await.is_err() {
                        // The program has closed its input; what comes is read and dropped.
                        input = None;
                    }
                }
                Err(_) => return,
            }
        }
        if let Some(mut sink) = input.take() {
            // A pipe ends when it is dropped; a failed shutdown changes nothing.
            let _ = sink.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let drain = async {
        while let Some(piece) = output.next().await {
            if writer.write_all(&piece).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    tokio::select! { () = feed => {} () = drain => {} }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_stream_and_length_in_front() {
        assert_eq!(&frame(Channel::Stderr, b"ab")[..], b"\x02\0\0\0\0\0\0\x02ab");
        assert_eq!(&frame(Channel::Stdout, b"")[..], b"\x01\0\0\0\0\0\0\0");
    }

    #[test]
    fn only_an_upgrade_to_tcp_is_one() {
        let mut headers = HeaderMap::new();
        assert!(!wants_upgrade(&headers));
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert!(!wants_upgrade(&headers));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        assert!(wants_upgrade(&headers));
    }
}
