//! A conversation with one registry about one repository: where it is, who asks, and requests with the authorization that the
//! registry wants. Redirections are followed; the authorization stays with the registry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::registry::RegistryConfig;
use crate::registry::connect::{self, Body, Http};
use crate::registry::credentials::{Challenge, Credentials};
use crate::registry::error::RegistryError;

/// How long an answer may take to begin.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long the answer to an upload may take: the registry checks what it got.
const UPLOAD_TIME: Duration = Duration::from_secs(600);
/// How long the rest of a small answer may take.
const BODY_TIME: Duration = Duration::from_secs(60);
/// Largest refusal or token.
const SMALL_MAX: usize = 256 << 10;
const REDIRECTS_MAX: usize = 6;
/// What a token lasts when the server does not say (distribution's token specification).
const TOKEN_SECONDS_MIN: u64 = 60;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("skep/", env!("CARGO_PKG_VERSION")));
const CLIENT_ID: &str = "docker";
/// The registry of names without one.
const HUB: &str = "registry-1.docker.io";

type Result<T> = std::result::Result<T, RegistryError>;

/// What a request may carry beside its URL.
#[derive(Default)]
pub(crate) struct Ask {
    pub(crate) headers: HeaderMap,
    /// Makes the body; called again when the request has to be sent again.
    pub(crate) body: Option<BodyMaker>,
    pub(crate) is_upload: bool,
}

/// See [`Ask::body`].
pub(crate) type BodyMaker = Box<dyn Fn() -> std::io::Result<Body> + Send + Sync>;

/// See the module.
pub(crate) struct Session {
    http: Http,
    /// `http://host:port` or `https://host:port`.
    base: String,
    repository: String,
    actions: &'static str,
    credentials: Credentials,
    challenge: Mutex<Option<Challenge>>,
    token: Mutex<Option<Token>>,
}

struct Token {
    text: String,
    until: Instant,
}

/// What a login gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// A token that stands for name and password; empty when the registry gives none.
    pub identity_token: String,
}

fn no_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of bytes.
pub(crate) fn bytes_body(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

impl Session {
    /// Finds out how the registry `domain` wants to be spoken to. `actions` is `pull` or `pull,push`; without a repository
    /// only a login makes sense.
    pub(crate) async fn open(
        http: &Http,
        config: &Arc<RegistryConfig>,
        domain: &str,
        repository: &str,
        actions: &'static str,
        credentials: &Credentials,
    ) -> Result<Session> {
        let host = if domain == "docker.io" || domain == "index.docker.io" { HUB } else { domain };
        let mut session = Session {
            http: http.clone(),
            base: format!("https://{host}"),
            repository: repository.to_owned(),
            actions,
            credentials: credentials.clone(),
            challenge: Mutex::default(),
            token: Mutex::default(),
        };
        let answer = match session.ping().await {
            Err(error) => {
                let authority: http::uri::Authority = host.parse().map_err(|_| error.clone())?;
                let addresses = connect::resolve(authority.host(), authority.port_u16().unwrap_or(443)).await;
                if !connect::may_be_plain(config, host, &addresses.unwrap_or_default()) {
                    return Err(error);
                }
                session.base = format!("http://{host}");
                session.ping().await?
            }
            Ok(answer) => answer,
        };
        session.learn(&answer).await;
        Ok(session)
    }

    async fn ping(&self) -> Result<Response<Incoming>> {
        let url = format!("{}/v2/", self.base);
        self.send_once(&Method::GET, &url, &Ask::default(), None).await
    }

    /// Remembers what a 401 asks for.
    async fn learn<T>(&self, answer: &Response<T>) {
        if answer.status() != StatusCode::UNAUTHORIZED {
            return;
        }
        let headers = answer.headers().get_all(header::WWW_AUTHENTICATE);
        let mut found: Vec<Challenge> =
            headers.iter().filter_map(|value| Challenge::parse(value.to_str().ok()?)).collect();
        // A registry that takes both prefers tokens.
        found.sort_by_key(|challenge| *challenge == Challenge::Basic);
        if let Some(challenge) = found.into_iter().next() {
            *self.challenge.lock().await = Some(challenge);
        }
    }

    /// The URL of something in the repository, such as `manifests/latest`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/v2/{}/{path}", self.base, self.repository)
    }

    /// An absolute URL from one that may be relative to the registry.
    pub(crate) fn resolve(&self, location: &str) -> String {
        if location.starts_with("http://") || location.starts_with("https://") {
            location.to_owned()
        } else {
            format!("{}/{}", self.base, location.trim_start_matches('/'))
        }
    }

    /// Asks; gives the answer with whatever status but 401 and redirections, which are handled.
    pub(crate) async fn send(&self, method: Method, url: &str, ask: Ask) -> Result<Response<Incoming>> {
        let mut url = url.to_owned();
        let mut authorized_again = false;
        let mut redirects = 0;
        loop {
            let is_ours = url.strip_prefix(&self.base).is_some_and(|rest| rest.starts_with('/'));
            let authorization = if is_ours { self.authorization(&method, &url).await? } else { None };
            let answer = self.send_once(&method, &url, &ask, authorization).await?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED && is_ours && !authorized_again {
                authorized_again = true;
                self.learn(&answer).await;
                *self.token.lock().await = None;
                continue;
            }
            let is_read = method == Method::GET || method == Method::HEAD;
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) && (is_read || status.as_u16() >= 307) {
                let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                let Some(location) = location else { return Ok(answer) };
                redirects += 1;
                let next = join(&url, location);
                if redirects > REDIRECTS_MAX {
                    return Err(failed(&method, &url, format!("stopped after {REDIRECTS_MAX} redirects")));
                }
                if url.starts_with("https://") && !next.starts_with("https://") {
                    return Err(failed(&method, &url, format!("refusing to follow a redirect to plain \"{next}\"")));
                }
                url = next;
                continue;
            }
            return Ok(answer);
        }
    }

    /// [`Session::send`], where only a success is one.
    pub(crate) async fn succeed(&self, method: Method, url: &str, ask: Ask) -> Result<Response<Incoming>> {
        let answer = self.send(method, url, ask).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }

    async fn send_once(
        &self,
        method: &Method,
        url: &str,
        ask: &Ask,
        authorization: Option<String>,
    ) -> Result<Response<Incoming>> {
        let uri: Uri = url.parse().map_err(|error| failed(method, url, format!("{error}")))?;
        let body = match &ask.body {
            Some(make) => make().map_err(|error| failed(method, url, error.to_string()))?,
            None => no_body(),
        };
        let mut request = Request::builder().method(method).uri(uri).header(header::USER_AGENT, AGENT);
        if let Some(headers) = request.headers_mut() {
            for (name, value) in &ask.headers {
                headers.append(name, value.clone());
            }
            if let Some(text) = authorization {
                let mut value = HeaderValue::from_str(&text).map_err(|error| failed(method, url, error.to_string()))?;
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
        }
        let request = request.body(body).map_err(|error| failed(method, url, error.to_string()))?;
        let time = if ask.is_upload { UPLOAD_TIME } else { ANSWER_TIME };
        match timeout(time, self.http.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failed(method, url, innermost(&error))),
            Err(_) => Err(failed(method, url, "net/http: timeout awaiting response headers".to_owned())),
        }
    }

    async fn authorization(&self, method: &Method, url: &str) -> Result<Option<String>> {
        if !self.credentials.registry_token.is_empty() {
            return Ok(Some(format!("Bearer {}", self.credentials.registry_token)));
        }
        let challenge = self.challenge.lock().await.clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match self.credentials.basic_header() {
                Some(header) => Ok(Some(header)),
                None => Err(unauthorized(method, url, "no basic auth credentials".to_owned())),
            },
            Some(Challenge::Bearer { realm, service, scope }) => {
                let mut token = self.token.lock().await;
                if let Some(known) = token.as_ref().filter(|token| token.until > Instant::now()) {
                    return Ok(Some(format!("Bearer {}", known.text)));
                }
                let scopes = self.scopes(&scope);
                let (fresh, _) = self
                    .fetch_token(&realm, &service, &scopes, false)
                    .await
                    .map_err(|error| of_token(method, url, error))?;
                let header = format!("Bearer {}", fresh.text);
                *token = Some(fresh);
                Ok(Some(header))
            }
        }
    }

    fn scopes(&self, asked: &str) -> Vec<String> {
        let mut scopes: Vec<String> = Vec::new();
        if !self.repository.is_empty() {
            scopes.push(format!("repository:{}:{}", self.repository, self.actions));
        }
        scopes.extend(asked.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned));
        scopes.dedup();
        scopes
    }

    /// A token, and the refresh token if one came with it (distribution's token specification; OAuth 2 for identity tokens).
    async fn fetch_token(
        &self,
        realm: &str,
        service: &str,
        scopes: &[String],
        is_login: bool,
    ) -> Result<(Token, String)> {
        if !realm.starts_with("https://") && !realm.starts_with("http://") {
            return Err(RegistryError::Damaged(format!("the registry's token server \"{realm}\" is not a URL")));
        }
        let mut fields: Vec<(&str, String)> = Vec::new();
        let answer = if self.credentials.identity_token.is_empty() {
            if !self.credentials.username.is_empty() {
                fields.push(("account", self.credentials.username.clone()));
            }
            if is_login {
                fields.extend([("client_id", CLIENT_ID.to_owned()), ("offline_token", "true".to_owned())]);
            }
            fields.extend(scopes.iter().map(|scope| ("scope", scope.clone())));
            if !service.is_empty() {
                fields.push(("service", service.to_owned()));
            }
            let separator = if realm.contains('?') { '&' } else { '?' };
            let url = format!("{realm}{separator}{}", form(&fields));
            self.send_once(&Method::GET, &url, &Ask::default(), self.credentials.basic_header()).await?
        } else {
            fields.extend([
                ("grant_type", "refresh_token".to_owned()),
                ("refresh_token", self.credentials.identity_token.clone()),
                ("service", service.to_owned()),
                ("client_id", CLIENT_ID.to_owned()),
                ("scope", scopes.join(" ")),
            ]);
            let text = Bytes::from(form(&fields));
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            let ask = Ask {
                headers: HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]),
                body: Some(Box::new(move || Ok(bytes_body(text.clone())))),
                is_upload: false,
            };
            self.send_once(&Method::POST, realm, &ask, None).await?
        };
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let body = small_body(answer, SMALL_MAX).await?;
        let value: Value = serde_json::from_slice(&body)
            .map_err(|_| RegistryError::Damaged("unable to decode token response".to_owned()))?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let token = [text("access_token"), text("token")].into_iter().find(|token| !token.is_empty());
        let token = token.ok_or_else(|| {
            RegistryError::Damaged("authorization server did not include a token in the response".to_owned())
        })?;
        let seconds = value.get("expires_in").and_then(Value::as_u64).unwrap_or(0).max(TOKEN_SECONDS_MIN);
        // Renewed a little early.
        let until = Instant::now() + Duration::from_secs(seconds.min(86_400) * 9 / 10);
        Ok((Token { text: token, until }, text("refresh_token")))
    }

    /// Proves name and password, or an identity token, to the registry.
    pub(crate) async fn log_in(&self) -> Result<Login> {
        let url = format!("{}/v2/", self.base);
        let challenge = self.challenge.lock().await.clone();
        let (authorization, identity_token) = match &challenge {
            None => (None, String::new()),
            Some(Challenge::Basic) => (self.credentials.basic_header(), String::new()),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let (token, refresh) = self
                    .fetch_token(realm, service, &self.scopes(scope), true)
                    .await
                    .map_err(|error| of_token(&Method::GET, &url, error))?;
                (Some(format!("Bearer {}", token.text)), refresh)
            }
        };
        let answer = self.send_once(&Method::GET, &url, &Ask::default(), authorization).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Login { identity_token });
        }
        let text = format!("login attempt to {url} failed with status: {status}");
        Err(if status == StatusCode::UNAUTHORIZED {
            RegistryError::Unauthorized(text)
        } else {
            RegistryError::Damaged(text)
        })
    }
}

/// An error with the request that it belongs to.
pub(crate) fn failed(method: &Method, url: &str, reason: String) -> RegistryError {
    RegistryError::Request { method: go_name(method), url: url.to_owned(), reason, unauthorized: false }
}

fn unauthorized(method: &Method, url: &str, reason: String) -> RegistryError {
    RegistryError::Request { method: go_name(method), url: url.to_owned(), reason, unauthorized: true }
}

/// As in Docker, the failure to get a token belongs to the request that needed it; a refusal is the registry's.
fn of_token(method: &Method, url: &str, error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Request { .. } => failed(method, url, error.to_string()),
        RegistryError::Refused { status: 401 | 403, .. } => unauthorized(method, url, error.to_string()),
        other => failed(method, url, other.to_string()),
    }
}

fn go_name(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "Head",
        Method::POST => "Post",
        Method::PATCH => "Patch",
        Method::PUT => "Put",
        _ => "Get",
    }
}

/// The text of the cause that says most.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut current = error;
    while let Some(next) = current.source() {
        current = next;
    }
    current.to_string()
}

/// What the registry said instead of doing it.
pub(crate) async fn refusal(answer: Response<Incoming>) -> RegistryError {
    let status = answer.status();
    let body = small_body(answer, SMALL_MAX).await.unwrap_or_default();
    RegistryError::of_body(status, &body)
}

/// The whole body of a small answer.
pub(crate) async fn small_body(answer: Response<Incoming>, max: usize) -> Result<Bytes> {
    match timeout(BODY_TIME, Limited::new(answer.into_body(), max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(RegistryError::Damaged(format!("the registry's answer is larger than {max} bytes")))
        }
        Ok(Err(error)) => Err(RegistryError::Cut(format!("the registry's answer was cut: {}", innermost(&*error)))),
        Err(_) => Err(RegistryError::Cut("the registry's answer does not arrive".to_owned())),
    }
}

/// `key=value&...` with everything escaped that could be misread.
pub(crate) fn form(fields: &[(&str, String)]) -> String {
    let pairs: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
    pairs.join("&")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Where a redirection leads.
fn join(from: &str, location: &str) -> String {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.to_owned();
    }
    let after_scheme = from.find("://").map_or(0, |at| at + 3);
    let root = from[after_scheme..].find('/').map_or(from.len(), |at| after_scheme + at);
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{}{rest}", &from[..after_scheme]);
    }
    if location.starts_with('/') {
        return format!("{}{location}", &from[..root]);
    }
    let path = from.split(['?', '#']).next().unwrap_or(from);
    let folder = path.rfind('/').filter(|at| *at >= root).map_or(root, |at| at + 1);
    format!("{}{location}", &path[..folder.min(path.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_where_they_say() {
        let from = "https://r.test:5000/v2/x/blobs/sha256:1?y=1";
        assert_eq!(join(from, "https://cdn.test/a"), "https://cdn.test/a");
        assert_eq!(join(from, "/a?b"), "https://r.test:5000/a?b");
        assert_eq!(join(from, "//cdn.test/a"), "https://cdn.test/a");
        assert_eq!(join(from, "z"), "https://r.test:5000/v2/x/blobs/z");
        assert_eq!(form(&[("scope", "repository:a/b:pull".to_owned())]), "scope=repository%3Aa%2Fb%3Apull");
    }
}
