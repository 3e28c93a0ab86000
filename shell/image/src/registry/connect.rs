//! Connections with registries: names, TCP and TLS, each within a bounded time, and errors in Docker's words. Registries on
//! loopback, and those the configuration names, may do without TLS or with a certificate that nobody signed, as in Docker.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::registry::RegistryConfig;
use crate::registry::tls;

/// How long a name may take to be resolved.
const RESOLVE_TIME: Duration = Duration::from_secs(5);
/// How long all addresses together may take to be reached.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(15);

/// A request body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// The client that keeps connections.
pub(crate) type Http = Client<Connector, Body>;

/// A client with the rules of `config`.
pub(crate) fn client(config: Arc<RegistryConfig>) -> Http {
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIME)
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .pool_max_idle_per_host(4)
        .build(Connector { config })
}

/// Makes connections for [`Http`].
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    config: Arc<RegistryConfig>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = self.config.clone();
        Box::pin(async move { connect(&config, &uri).await })
    }
}

/// What may follow when TLS is not to be had.
pub(crate) fn may_be_plain(config: &RegistryConfig, authority: &str, addresses: &[SocketAddr]) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    config.insecure.iter().any(|name| name == authority || name == host)
        || (!addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback()))
}

async fn connect(config: &RegistryConfig, uri: &Uri) -> io::Result<Stream> {
    let is_tls = uri.scheme_str() != Some("http");
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }));
    let addresses = resolve(host, port).await?;
    let tcp = dial(&addresses).await?;
    let _ = tcp.set_nodelay(true);
    if !is_tls {
        return Ok(Stream::Plain(TokioIo::new(tcp)));
    }
    let is_checked = !may_be_plain(config, authority, &addresses);
    let tls = tls::client_config(config, authority, is_checked)?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|_| io::Error::other(format!("tls: {host:?} is not a server name")))?;
    let stream = match timeout(HANDSHAKE_TIME, TlsConnector::from(tls).connect(name, tcp)).await {
        Ok(stream) => stream.map_err(|error| io::Error::other(tls_text(&error)))?,
        Err(_) => return Err(io::Error::other("net/http: TLS handshake timeout")),
    };
    Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
}

/// The addresses of a host.
///
/// # Errors
/// In the words of Go's resolver.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let plain = host.trim_matches(['[', ']']);
    if let Ok(address) = plain.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = |why: &str| io::Error::other(format!("dial tcp: lookup {plain}: {why}"));
    let found = match timeout(RESOLVE_TIME, tokio::net::lookup_host((plain, port))).await {
        Err(_) => return Err(failed("i/o timeout")),
        Ok(Err(error)) => {
            let text = error.to_string();
            let why = text.rsplit_once(": ").map_or(text.as_str(), |(_, why)| why);
            let why = if why.contains("not known") || why.contains("No address") { "no such host" } else { why };
            return Err(failed(why));
        }
        Ok(Ok(found)) => found,
    };
    // As in Go: IPv4 first, for many machines have IPv6 names and no IPv6.
    let (mut found, rest): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
    found.extend(rest);
    if found.is_empty() { Err(failed("no such host")) } else { Ok(found) }
}

async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let first = addresses.first().map(SocketAddr::to_string).unwrap_or_default();
    let attempt = async {
        let mut refusal = None;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    refusal.get_or_insert_with(|| {
                        io::Error::new(error.kind(), format!("dial tcp {address}: connect: {}", errno_text(&error)))
                    });
                }
            }
        }
        Err(refusal.unwrap_or_else(|| io::Error::other("dial tcp: no address")))
    };
    match timeout(CONNECT_TIME, attempt).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("dial tcp {first}: i/o timeout"))),
    }
}

/// The kernel's word for an error, as Go writes it.
fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

fn tls_text(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(reason)) => {
            format!("tls: failed to verify certificate: x509: {}", certificate_text(reason))
        }
        Some(other) => format!("tls: {other}"),
        None => error.to_string(),
    }
}

fn certificate_text(error: &rustls::CertificateError) -> String {
    match error {
        rustls::CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        other => other.to_string(),
    }
}

/// A connection, plain or not.
pub(crate) enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
