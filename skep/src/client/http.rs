//! Requests to a daemon over its socket.

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::{Host, parse_host};

/// Longest answer that is read.
const ANSWER_MAX: usize = 256 << 20;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A daemon's API.
pub(crate) struct Api {
    host: Host,
    name: String,
}

impl Api {
    /// Names the daemon; nothing is sent yet.
    pub(crate) fn to(host: &str) -> anyhow::Result<Self> {
        Ok(Self { host: parse_host(host)?, name: host.to_owned() })
    }

    /// GET, with the answer as JSON.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, None).await
    }

    /// POST of JSON, with the answer as JSON (null when it is empty).
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.json(Method::POST, path, Some(body)).await
    }

    /// DELETE.
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::DELETE, path, None).await
    }

    async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let content = body.map(|_| "application/json");
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed();
        let answer = self.send(method, path, content, body).await?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).with_context(|| format!("the daemon at {} did not answer in JSON", self.name))
    }

    /// Sends a body of any length and gives the answer's bytes; an error answer becomes an error with the daemon's text.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        content: Option<&str>,
        body: Body,
    ) -> anyhow::Result<Bytes> {
        let advice = || format!("cannot connect to the skep daemon at {}: is it running?", self.name);
        match &self.host {
            Host::Unix(socket) => {
                let stream = tokio::net::UnixStream::connect(socket).await.with_context(advice)?;
                self.exchange(stream, method, path, content, body).await
            }
            Host::Tcp(address) => {
                let stream = tokio::net::TcpStream::connect(address).await.with_context(advice)?;
                self.exchange(stream, method, path, content, body).await
            }
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
        content: Option<&str>,
        body: Body,
    ) -> anyhow::Result<Bytes> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("Host", "skep");
        if let Some(content) = content {
            request = request.header("Content-Type", content);
        }
        let answer = sender.send_request(request.body(body)?).await?;
        let status = answer.status();
        let bytes = http_body_util::Limited::new(answer.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the answer of the daemon broke off: {error}"))?
            .to_bytes();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(bytes);
        }
        let message = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|error| error["message"].as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
        bail!("error response from daemon: {message}")
    }
}

/// Escapes a text for use in a path or query.
pub(crate) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
