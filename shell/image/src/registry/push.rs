//! `docker push`: blobs that the registry lacks, then the manifest. An image that came with a manifest is pushed with that one,
//! so that its digest stays; for others one is made, and plain layers are compressed, as Docker does.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio_util::io::ReaderStream;

use crate::digest::{Digest, HashingReader};
use crate::error::{Error, IoContext as _, Result};
use crate::layout::Staging;
use crate::reference::Reference;
use crate::registry::error::RegistryError;
use crate::registry::manifest::{self, DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, Manifest, OCI_MANIFEST};
use crate::registry::pull::{blocking, short};
use crate::registry::session::{Ask, BodyMaker, Session, bytes_body, refusal};
use crate::registry::{Credentials, Progress, Registries, Step};
use crate::save::Parts;
use crate::store::Image;

const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Times that an upload is begun anew after a cut connection.
const ATTEMPTS: usize = 3;
/// Bytes between two reports.
const REPORT_STEP: u64 = 512 << 10;

/// A file to be pushed.
struct Blob {
    descriptor: Descriptor,
    path: PathBuf,
}

impl Registries {
    /// Pushes the image that has this name and tag; gives the digest of its manifest, which is recorded as a name of it.
    ///
    /// # Errors
    /// There is no such image, or the registry refuses (in Docker's words).
    pub async fn push(&self, name: &Reference, credentials: &Credentials, progress: &Progress) -> Result<Digest> {
        let store = self.inner.store.clone();
        let Some(image) = store.get(&name.to_string()).filter(|_| name.tag().is_some()) else {
            let shown = name.familiar();
            return Err(
                RegistryError::NotFound(format!("An image does not exist locally with the tag: {shown}")).into()
            );
        };
        let session = self.session(name, "pull,push", credentials).await?;
        let staging = Arc::new(store.layout().staging()?);
        for diff_id in &image.config.rootfs.diff_ids {
            progress.layer(&short(*diff_id), "Preparing").await;
        }
        let (parted, its_staging, its_image) = (store.clone(), staging.clone(), image.clone());
        let (config, layers, manifest) = blocking(move || prepare(&parted, &its_image, &its_staging)).await?;
        for (layer, diff_id) in layers.iter().zip(&image.config.rootfs.diff_ids) {
            let id = short(*diff_id);
            if exists(&session, &layer.descriptor).await.map_err(plainly)? {
                progress.layer(&id, "Layer already exists").await;
            } else {
                upload(&session, layer, &id, progress).await?;
                progress.layer(&id, "Pushed").await;
            }
        }
        if !exists(&session, &config.descriptor).await? {
            upload(&session, &config, "", &Progress::none()).await?;
        }
        let (kind, bytes) = manifest;
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let tag = name.tag().unwrap_or_default().to_owned();
        put_manifest(&session, &tag, &kind, bytes.into()).await?;
        let recorded = name.with_digest(digest);
        blocking(move || store.record_digest(image.id, &recorded)).await?;
        progress.status(format!("{tag}: digest: {digest} size: {size}")).await;
        let step = Step { of_layer: true, pushed: Some((tag, digest, size)), ..Step::default() };
        progress.line(step).await;
        Ok(digest)
    }
}

type Prepared = (Blob, Vec<Blob>, (String, Vec<u8>));

/// All files of an image, and its manifest with its media type. Blocks.
fn prepare(store: &crate::store::ImageStore, image: &Image, staging: &Staging) -> Result<Prepared> {
    let parts = store.parts(image.id, staging.path())?;
    let length = |path: &Path| fs::metadata(path).map(|found| found.len()).at("read", path);
    if let Some((digest, path)) = &parts.manifest {
        let bytes = fs::read(path).at("read", path)?;
        if let Ok((kind, manifest::Document::Image(manifest))) = manifest::read(&digest.to_string(), "", &bytes) {
            let files = parts.layers.iter().zip(&manifest.layers);
            let layers = files.map(|((_, path), layer)| Blob { descriptor: layer.clone(), path: path.clone() });
            let config = Blob { descriptor: manifest.config.clone(), path: parts.config.1.clone() };
            return Ok((config, layers.collect(), (kind, bytes)));
        }
    }
    let Parts { config: (config_digest, config_path), layers, .. } = parts;
    let mut files = Vec::new();
    for (number, (digest, path)) in layers.iter().enumerate() {
        files.push(match compression_of(path)? {
            Compression::Gzip => (DOCKER_LAYER, *digest, path.clone()),
            Compression::Zstd => ("zstd", *digest, path.clone()),
            Compression::None => {
                let packed = staging.path().join(format!("packed-{number}"));
                (DOCKER_LAYER, compress(path, &packed)?, packed)
            }
        });
    }
    // Docker's own format has no name for zstd.
    let is_oci = files.iter().any(|(kind, ..)| *kind == "zstd");
    let layer_kind = |kind: &str| match (is_oci, kind) {
        (false, kind) => kind.to_owned(),
        (true, "zstd") => format!("{OCI_LAYER}+zstd"),
        (true, _) => format!("{OCI_LAYER}+gzip"),
    };
    let mut blobs = Vec::new();
    for (kind, digest, path) in files {
        blobs.push(Blob { descriptor: Descriptor::new(&layer_kind(kind), length(&path)?, digest), path });
    }
    let (kind, config_kind) = if is_oci { (OCI_MANIFEST, OCI_CONFIG) } else { (DOCKER_MANIFEST, DOCKER_CONFIG) };
    let config = Descriptor::new(config_kind, length(&config_path)?, config_digest);
    let manifest = Manifest {
        schema_version: 2,
        media_type: kind.to_owned(),
        config: config.clone(),
        layers: blobs.iter().map(|blob| blob.descriptor.clone()).collect(),
    };
    let bytes = serde_json::to_vec_pretty(&manifest).expect("digests, numbers and strings always have a JSON form");
    Ok((Blob { descriptor: config, path: config_path }, blobs, (kind.to_owned(), bytes)))
}

enum Compression {
    None,
    Gzip,
    Zstd,
}

fn compression_of(path: &Path) -> Result<Compression> {
    let mut magic = Vec::new();
    File::open(path).and_then(|file| file.take(4).read_to_end(&mut magic)).at("read", path)?;
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        _ => Compression::None,
    })
}

/// Packs a file, always the same way, so that the registry knows it the next time.
fn compress(from: &Path, to: &Path) -> Result<Digest> {
    let source = File::open(from).at("open", from)?;
    let target = File::create_new(to).at("create", to)?;
    let mut encoder = flate2::write::GzEncoder::new(target, flate2::Compression::default());
    std::io::copy(&mut std::io::BufReader::with_capacity(128 << 10, source), &mut encoder).at("compress", from)?;
    encoder.finish().and_then(|mut file| file.flush()).at("write", to)?;
    let mut reader = HashingReader::new(File::open(to).at("open", to)?);
    std::io::copy(&mut reader, &mut std::io::sink()).at("read", to)?;
    Ok(reader.finish().0)
}

/// As in Docker, a push says only why it has no credentials.
fn plainly(error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Request { reason, unauthorized: true, .. } => RegistryError::Damaged(reason),
        other => other,
    }
}

async fn exists(session: &Session, blob: &Descriptor) -> Result<bool, RegistryError> {
    let url = session.url(&format!("blobs/{}", blob.digest));
    let answer = session.send(Method::HEAD, &url, Ask::default()).await?;
    match answer.status() {
        StatusCode::OK => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(refusal(answer).await),
    }
}

async fn upload(session: &Session, blob: &Blob, id: &str, progress: &Progress) -> Result<()> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match upload_once(session, blob, id, progress).await {
            Err(error) if attempt < ATTEMPTS && error.is_passing() => {
                tracing::debug!(digest = %blob.descriptor.digest, %error, "upload is begun anew");
            }
            result => return result.map_err(Error::Registry),
        }
    }
}

async fn upload_once(session: &Session, blob: &Blob, id: &str, progress: &Progress) -> Result<(), RegistryError> {
    let url = session.url("blobs/uploads/");
    let begun = session.succeed(Method::POST, &url, Ask::default()).await?;
    let location = begun.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location
        .map(|location| session.resolve(location))
        .ok_or_else(|| RegistryError::Damaged("the registry does not say where an upload goes".to_owned()))?;
    drop(begun);
    let separator = if location.contains('?') { '&' } else { '?' };
    let target =
        format!("{location}{separator}{}", super::session::form(&[("digest", blob.descriptor.digest.to_string())]));
    let headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(blob.descriptor.size)),
    ]);
    let body = file_body(blob.path.clone(), blob.descriptor.size, id.to_owned(), progress.clone());
    session.succeed(Method::PUT, &target, Ask { headers, body: Some(body), is_upload: true }).await.map(drop)
}

/// A file as a body, read while it is sent.
fn file_body(path: PathBuf, total: u64, id: String, progress: Progress) -> BodyMaker {
    Box::new(move || {
        let file = tokio::fs::File::from_std(File::open(&path)?);
        let (id, progress) = (id.clone(), progress.clone());
        let (mut sent, mut shown) = (0, 0);
        let stream = ReaderStream::with_capacity(file, 128 << 10).map(move |piece: std::io::Result<Bytes>| {
            let piece = piece?;
            sent += piece.len() as u64;
            if sent >= shown + REPORT_STEP || sent == total {
                shown = sent;
                progress.count(&id, "Pushing", sent, total);
            }
            Ok(Frame::data(piece))
        });
        Ok(StreamBody::new(stream).boxed_unsync())
    })
}

async fn put_manifest(session: &Session, tag: &str, kind: &str, bytes: Bytes) -> Result<()> {
    let kind = HeaderValue::from_str(kind).map_err(|error| RegistryError::Damaged(error.to_string()))?;
    let ask = Ask {
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]),
        body: Some(Box::new(move || Ok(bytes_body(bytes.clone())))),
        is_upload: true,
    };
    session.succeed(Method::PUT, &session.url(&format!("manifests/{tag}")), ask).await?;
    Ok(())
}
