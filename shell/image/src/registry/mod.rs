//! Registries: pulls, pushes, what they know of an image, logins (OCI distribution specification, with Docker's habits). The one
//! asynchronous part of this crate; it ends in the store, whose blocking calls it runs where blocking is fine.
//!
//! ```text
//! pull ─▶ session (who, where) ─▶ manifest ─▶ config ─▶ downloads (shared, 3 at a time) ─▶ layers in order ─▶ publish
//! push ─▶ session ─▶ blobs that the registry lacks ─▶ manifest
//! ```
//!
//! Why the client is our own: `docs/decisions/0006-registry-client.md`.

mod connect;
mod credentials;
mod download;
mod error;
pub(crate) mod manifest;
mod pull;
mod push;
mod session;
mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::{HeaderValue, Method, header};
use tokio::sync::mpsc;

pub use credentials::Credentials;
pub use error::RegistryError;
pub use manifest::check_manifest;
pub use pull::{PullOptions, Pulled};
pub use session::Login;

use crate::config::{ImageConfig, Platform};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::store::ImageStore;
use connect::Http;
use download::Downloads;
use manifest::{ACCEPTED, Descriptor, Document, MANIFEST_BYTES_MAX};
use session::{Ask, Session, small_body};

/// Pages of a list of tags that are read; a page has at least 100 tags.
const TAG_PAGES_MAX: usize = 1_000;
const TAG_PAGE_BYTES_MAX: usize = 4 << 20;

/// How registries are spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Registries (`host` or `host:port`) that may do without TLS or with a certificate that nobody signed. Those on loopback
    /// always may.
    pub insecure: Vec<String>,
    /// Folder with `HOST[:PORT]/*.crt`, `*.cert` and `*.key`.
    pub certificates: PathBuf,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { insecure: Vec::new(), certificates: PathBuf::from("/etc/docker/certs.d") }
    }
}

/// One line of progress, in the form in which Docker tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// The layer or tag it is about; empty for the whole.
    pub id: String,
    /// What happens.
    pub status: String,
    /// It is about a layer.
    pub of_layer: bool,
    /// Bytes done and bytes in all, if they are counted.
    pub bytes: Option<(u64, u64)>,
    /// Tag, digest and size of a manifest that was pushed.
    pub pushed: Option<(String, Digest, u64)>,
}

/// Where progress goes. Counts are left out when the reader is slow, everything else waits for it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<mpsc::Sender<Step>>);

impl Progress {
    /// To nobody.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// To a channel.
    #[must_use]
    pub fn to(sender: mpsc::Sender<Step>) -> Self {
        Self(Some(sender))
    }

    async fn line(&self, step: Step) {
        if let Some(sender) = &self.0 {
            // A reader that is gone ends the work from outside.
            let _ = sender.send(step).await;
        }
    }

    /// Tells a line about the whole.
    pub async fn status(&self, status: String) {
        self.line(Step { status, ..Step::default() }).await;
    }

    async fn layer(&self, id: &str, status: &str) {
        let step = Step { id: id.to_owned(), status: status.to_owned(), of_layer: true, ..Step::default() };
        self.line(step).await;
    }

    fn count(&self, id: &str, status: &str, current: u64, total: u64) {
        if let Some(sender) = &self.0 {
            let (id, status) = (id.to_owned(), status.to_owned());
            let step = Step { id, status, of_layer: true, bytes: Some((current, total)), ..Step::default() };
            // The next count tells as much.
            let _ = sender.try_send(step);
        }
    }
}

/// What a registry knows of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Media type of the manifest or list.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Platforms it has images for.
    pub platforms: Vec<Platform>,
}

/// Registries as one store uses them. Clones share connections and downloads.
#[derive(Clone)]
pub struct Registries {
    inner: Arc<Inner>,
}

struct Inner {
    store: ImageStore,
    config: Arc<RegistryConfig>,
    http: Http,
    downloads: Downloads,
    /// Layers that are unpacked at this moment: the second one waits for the first.
    unpacking: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// A manifest as it came.
struct Fetched {
    media_type: String,
    digest: Digest,
    bytes: Vec<u8>,
    document: Document,
}

impl Registries {
    /// For a store.
    #[must_use]
    pub fn new(store: ImageStore, config: RegistryConfig) -> Registries {
        let config = Arc::new(config);
        let http = connect::client(config.clone());
        let inner = Inner { store, config, http, downloads: Downloads::default(), unpacking: Mutex::default() };
        Registries { inner: Arc::new(inner) }
    }

    async fn session(
        &self,
        name: &Reference,
        actions: &'static str,
        credentials: &Credentials,
    ) -> Result<Session, RegistryError> {
        let (http, config) = (&self.inner.http, &self.inner.config);
        Session::open(http, config, name.domain(), name.path(), actions, credentials).await
    }

    /// What the registry knows of a reference, without pulling it (`docker service create` pins digests by it).
    ///
    /// # Errors
    /// The registry cannot be reached, or refuses; in Docker's words.
    pub async fn inspect(&self, name: &Reference, credentials: &Credentials) -> Result<Distribution> {
        let name = name.clone().with_default_tag();
        let session = self.session(&name, "pull", credentials).await?;
        let fetched = fetch_manifest(&session, &name, wanted(&name)).await?;
        let platforms = match &fetched.document {
            Document::Index(entries) => manifest::platforms(entries),
            Document::Image(image) => {
                let bytes = self.fetch_config(&session, &image.config).await?;
                vec![ImageConfig::parse(&bytes)?.platform()]
            }
        };
        let size = fetched.bytes.len() as u64;
        Ok(Distribution { media_type: fetched.media_type, digest: fetched.digest, size, platforms })
    }

    /// Proves credentials to a registry. `address` is as `docker login` sends it: a host, or the URL of Docker's index.
    ///
    /// # Errors
    /// They are wrong, or the registry cannot be reached.
    pub async fn log_in(&self, address: &str, credentials: &Credentials) -> Result<Login> {
        let host = address.trim_start_matches("https://").trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or_default();
        let host = if host.is_empty() { "docker.io" } else { host };
        if format!("{host}/x").parse::<Reference>().map(|name| name.domain().to_owned()).ok().as_deref() != Some(host)
            && host != "index.docker.io"
        {
            return Err(RegistryError::Unsupported(format!("invalid registry address \"{address}\"")).into());
        }
        let session = Session::open(&self.inner.http, &self.inner.config, host, "", "pull", credentials).await?;
        Ok(session.log_in().await?)
    }

    /// All tags of a repository.
    ///
    /// # Errors
    /// In Docker's words.
    pub async fn tags(&self, name: &Reference, credentials: &Credentials) -> Result<Vec<String>> {
        let session = self.session(name, "pull", credentials).await?;
        let mut url = session.url("tags/list");
        let mut tags = Vec::new();
        for _ in 0..TAG_PAGES_MAX {
            let answer =
                session.succeed(Method::GET, &url, Ask::default()).await.map_err(|error| error.of_pull(name))?;
            let next = answer.headers().get(header::LINK).and_then(|link| next_page(link.to_str().ok()?));
            let body = small_body(answer, TAG_PAGE_BYTES_MAX).await?;
            let page: serde_json::Value = serde_json::from_slice(&body)
                .map_err(|error| RegistryError::Damaged(format!("invalid list of tags: {error}")))?;
            let page = page.get("tags").and_then(|tags| tags.as_array()).cloned().unwrap_or_default();
            tags.extend(page.iter().filter_map(|tag| tag.as_str()).map(str::to_owned));
            match next {
                Some(next) => url = session.resolve(&next),
                None => return Ok(tags),
            }
        }
        Err(RegistryError::Damaged(format!("the list of tags has more than {TAG_PAGES_MAX} pages")).into())
    }

    /// A configuration, checked.
    async fn fetch_config(&self, session: &Session, config: &Descriptor) -> Result<Vec<u8>> {
        let max = self.inner.store.limits().max_json_bytes;
        if config.size > max {
            return Err(Error::LimitExceeded { what: "size of a JSON document in bytes", limit: max });
        }
        let url = session.url(&format!("blobs/{}", config.digest));
        let answer = session.succeed(Method::GET, &url, Ask::default()).await?;
        let bytes = small_body(answer, usize::try_from(max).unwrap_or(usize::MAX)).await?;
        let actual = Digest::of(&bytes);
        if actual != config.digest {
            return Err(crate::archive::mismatch("image config", config.digest, actual));
        }
        Ok(bytes.into())
    }

    /// The lock under which a layer is unpacked.
    fn unpacking(&self, chain: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.inner.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = all.get(&chain).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        all.insert(chain, Arc::downgrade(&lock));
        lock
    }
}

/// What of a reference names the manifest: the digest, if there is one.
fn wanted(name: &Reference) -> String {
    match (name.digest(), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    }
}

/// A manifest by tag or digest; what has a digest is checked.
async fn fetch_manifest(session: &Session, name: &Reference, wanted: String) -> Result<Fetched, RegistryError> {
    let mut ask = Ask::default();
    for kind in ACCEPTED {
        ask.headers.append(header::ACCEPT, HeaderValue::from_static(kind));
    }
    let answer = session.succeed(Method::GET, &session.url(&format!("manifests/{wanted}")), ask).await?;
    let header = |key: &str| answer.headers().get(key).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let kind = header("content-type").unwrap_or_default();
    let told = header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
    let bytes = small_body(answer, MANIFEST_BYTES_MAX).await?;
    let digest = Digest::of(&bytes);
    let expected = wanted.parse::<Digest>().ok().or(told);
    if expected.is_some_and(|expected| expected != digest) {
        let expected = expected.map(|expected| expected.to_string()).unwrap_or_default();
        return Err(RegistryError::Damaged(format!("manifest verification failed for digest {expected}")));
    }
    let (media_type, document) = manifest::read(&name.familiar(), &kind, &bytes)?;
    Ok(Fetched { media_type, digest, bytes: bytes.into(), document })
}

/// `</v2/x/tags/list?last=a&n=100>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (url, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| url.to_owned())
}
