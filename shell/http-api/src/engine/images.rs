//! What the API needs of the engine's images and of registries, and the real engine behind it.

use std::collections::VecDeque;
use std::io::Write;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use skep_api_types::{
    DistributionInspect, ImageDelete, ImageHistory, ImageInspect, ImagePlatform, Progress, ProgressDetail, PruneImages,
    PushResult, Timestamp, progress_text,
};
use skep_engine::ImageRemoval;
use skep_image::{Credentials, PullOptions, PullProgress, Reference, Step};
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use super::adapter::{blocking, image_failure};
use super::{Archive, EngineError, ErrorKind, ImageImport, inspect};

/// Steps that may wait for a slow client; counts are left out then.
const STEPS: usize = 64;
/// Pieces of an archive that may wait for a slow client.
const PIECES: usize = 8;
const PIECE_BYTES: usize = 128 << 10;

/// Progress of something that may fail late; an error is the last thing. Dropping it ends the work.
pub type ProgressLines = BoxStream<'static, Result<Progress, EngineError>>;

/// An archive on its way to a client.
pub type ArchiveBytes = BoxStream<'static, Result<Bytes, std::io::Error>>;

/// What to pull.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImagePull {
    /// Name, perhaps with tag or digest.
    pub image: String,
    /// Tag or digest given apart; empty for none.
    pub tag: String,
    /// `os/architecture[/variant]`; empty is this machine's.
    pub platform: String,
    /// `X-Registry-Auth`, as it came.
    pub auth: String,
}

/// What a prune of images is narrowed to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImagePrune {
    /// Also images with tags.
    pub all: bool,
    /// Only images that were built before.
    pub until: Option<Timestamp>,
    /// Labels they must have, and must not have; `key` or `key=value`.
    pub labels: Vec<String>,
    /// See `labels`.
    pub not_labels: Vec<String>,
}

/// Images of one machine, and registries.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// All images, newest first.
    async fn images(&self) -> Vec<ImageInspect>;
    /// One image.
    async fn image(&self, name: &str) -> Result<ImageInspect, EngineError>;
    /// How it was made, newest step first.
    async fn image_history(&self, name: &str) -> Result<Vec<ImageHistory>, EngineError>;
    /// Bytes of layers that an image has in common with others, by image id.
    async fn shared_sizes(&self) -> Vec<(String, u64)>;
    /// Gives an image another name.
    async fn tag(&self, name: &str, repository: &str, tag: &str) -> Result<(), EngineError>;
    /// Removes a name or an image.
    async fn remove_image(&self, name: &str, force: bool) -> Result<Vec<ImageDelete>, EngineError>;
    /// Removes what nobody needs.
    async fn prune_images(&self, prune: ImagePrune) -> Result<PruneImages, EngineError>;
    /// Takes in the images of an archive.
    fn load(&self, archive: Archive, is_quiet: bool) -> ProgressLines;
    /// Makes an image of a root file system; gives its id.
    async fn import(&self, archive: Archive, import: ImageImport) -> Result<String, EngineError>;
    /// Images as an archive.
    async fn save(&self, names: Vec<String>) -> Result<ArchiveBytes, EngineError>;
    /// Pulls an image, or all tags of a repository.
    fn pull(&self, pull: ImagePull) -> ProgressLines;
    /// Pushes a tag, or all tags of a repository. `auth` is `X-Registry-Auth`.
    fn push(&self, repository: String, tag: String, auth: String) -> ProgressLines;
    /// What a registry knows of an image.
    async fn distribution(&self, image: &str, auth: &str) -> Result<DistributionInspect, EngineError>;
    /// Proves the credentials in Docker's `AuthConfig` to its server; gives an identity token or an empty text.
    async fn log_in(&self, auth: serde_json::Value) -> Result<String, EngineError>;
}

#[async_trait]
impl Images for skep_engine::Engine {
    async fn images(&self) -> Vec<ImageInspect> {
        let store = skep_engine::Engine::images(self).clone();
        let images = tokio::task::spawn_blocking(move || store.list()).await.unwrap_or_default();
        images.iter().map(inspect::image).collect()
    }

    async fn image(&self, name: &str) -> Result<ImageInspect, EngineError> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || Ok(inspect::image(&skep_engine::Engine::image(&engine, &name)?))).await
    }

    async fn image_history(&self, name: &str) -> Result<Vec<ImageHistory>, EngineError> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || Ok(inspect::history(&skep_engine::Engine::image(&engine, &name)?))).await
    }

    async fn shared_sizes(&self) -> Vec<(String, u64)> {
        let store = skep_engine::Engine::images(self).clone();
        let usage = tokio::task::spawn_blocking(move || store.images_usage()).await.unwrap_or_default();
        usage.images.into_iter().map(|(id, (_, shared))| (id.to_string(), shared)).collect()
    }

    async fn tag(&self, name: &str, repository: &str, tag: &str) -> Result<(), EngineError> {
        let target = reference(repository, tag)?;
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || Ok(skep_engine::Engine::tag(&engine, &name, &target)?)).await
    }

    async fn remove_image(&self, name: &str, force: bool) -> Result<Vec<ImageDelete>, EngineError> {
        let removed = skep_engine::Engine::remove_image(self, name.to_owned(), force).await?;
        Ok(removed.into_iter().map(removal).collect())
    }

    async fn prune_images(&self, prune: ImagePrune) -> Result<PruneImages, EngineError> {
        let all = prune.all;
        let wanted = move |image: &skep_image::Image| {
            let labels = image.config.config.labels.clone().unwrap_or_default();
            let has = |wanted: &String| match wanted.split_once('=') {
                Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
                None => labels.contains_key(wanted),
            };
            let created = Timestamp::parse(&image.created).unwrap_or_default();
            prune.until.is_none_or(|until| created < until)
                && prune.labels.iter().all(has)
                && !prune.not_labels.iter().any(has)
        };
        let pruned = skep_engine::Engine::prune_images(self, all, wanted).await?;
        let removed: Vec<ImageDelete> = pruned.removed.into_iter().map(|(_, removed)| removal(removed)).collect();
        Ok(PruneImages { images_deleted: (!removed.is_empty()).then_some(removed), space_reclaimed: pruned.reclaimed })
    }

    fn load(&self, archive: Archive, is_quiet: bool) -> ProgressLines {
        let (engine, reader) = (self.clone(), SyncIoBridge::new(archive));
        let (sender, steps) = mpsc::channel(STEPS);
        let work = blocking(move || {
            let mut told = |progress| {
                if let (false, Some(line)) = (is_quiet, loading(&progress)) {
                    // The next count tells as much.
                    let _ = sender.try_send(line);
                }
            };
            let loaded = skep_engine::Engine::load(&engine, reader, &mut told)?;
            let lines = loaded.iter().flat_map(|image| image.replaced_line().into_iter().chain([image.line()]));
            Ok(lines.map(|line| Progress { stream: line + "\n", ..Progress::default() }).collect())
        });
        driven(received(steps, |line| line), Box::pin(work))
    }

    async fn import(&self, archive: Archive, import: ImageImport) -> Result<String, EngineError> {
        let import = skep_image::Import {
            name: if import.repository.is_empty() { None } else { Some(reference(&import.repository, &import.tag)?) },
            platform: platform(&import.platform)?,
            changes: import.changes,
            message: import.message,
        };
        let engine = self.clone();
        let reader = SyncIoBridge::new(archive);
        blocking(move || Ok(skep_engine::Engine::import(&engine, reader, &import)?.to_string())).await
    }

    async fn save(&self, names: Vec<String>) -> Result<ArchiveBytes, EngineError> {
        let engine = self.clone();
        let saving = blocking(move || Ok(skep_engine::Engine::save(&engine, &names)?)).await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let out = std::io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
            if let Err(error) = engine.write_saved(&saving, out) {
                // Cutting the stream is all that tells a client that has its 200 already.
                let _ = sender.blocking_send(Err(std::io::Error::other(error.full_text())));
            }
        });
        Ok(stream::unfold(pieces, |mut pieces| async { pieces.recv().await.map(|piece| (piece, pieces)) }).boxed())
    }

    fn pull(&self, pull: ImagePull) -> ProgressLines {
        let engine = self.clone();
        let (sender, steps) = mpsc::channel(STEPS);
        let work = async move { pull_all(&engine, &pull, &PullProgress::to(sender)).await };
        driven(received(steps, line), Box::pin(work))
    }

    fn push(&self, repository: String, tag: String, auth: String) -> ProgressLines {
        let engine = self.clone();
        let (sender, steps) = mpsc::channel(STEPS);
        let work = async move {
            push_all(&engine, &repository, &tag, &Credentials::from_header(&auth), &PullProgress::to(sender)).await
        };
        driven(received(steps, line), Box::pin(work))
    }

    async fn distribution(&self, image: &str, auth: &str) -> Result<DistributionInspect, EngineError> {
        let name = Reference::parse(image).map_err(image_failure)?;
        let found = skep_engine::Engine::distribution(self, &name, &Credentials::from_header(auth)).await?;
        let platforms = found.platforms.into_iter();
        Ok(DistributionInspect::new(
            found.media_type,
            found.digest.to_string(),
            found.size,
            platforms
                .map(|found| ImagePlatform { architecture: found.architecture, os: found.os, variant: found.variant })
                .collect(),
        ))
    }

    async fn log_in(&self, auth: serde_json::Value) -> Result<String, EngineError> {
        let address = auth.as_object().into_iter().flatten();
        let address = address.filter(|(key, _)| key.eq_ignore_ascii_case("serveraddress"));
        let address = address.filter_map(|(_, value)| value.as_str()).next().unwrap_or_default();
        Ok(skep_engine::Engine::log_in(self, address, &Credentials::from_json(&auth)).await?.identity_token)
    }
}

async fn pull_all(
    engine: &skep_engine::Engine,
    pull: &ImagePull,
    progress: &PullProgress,
) -> Result<Vec<Progress>, EngineError> {
    let mut name = reference(&pull.image, &pull.tag)?;
    if let (Some(digest), false) = (name.digest(), pull.tag.is_empty()) {
        name = name.with_digest(digest);
    }
    let options =
        PullOptions { platform: platform(&pull.platform)?, credentials: Credentials::from_header(&pull.auth) };
    let is_all = name.tag().is_none() && name.digest().is_none();
    let names = if is_all {
        let tags = engine.registry_tags(&name, &options.credentials).await?;
        tags.iter().map(|tag| name.with_tag(tag).map_err(image_failure)).collect::<Result<Vec<_>, _>>()?
    } else {
        vec![name.clone()]
    };
    let mut is_new = false;
    for name in &names {
        is_new |= skep_engine::Engine::pull(engine, name, &options, progress).await?.is_new;
    }
    let what = if is_new { "Downloaded newer image for" } else { "Image is up to date for" };
    Ok(vec![Progress { status: format!("Status: {what} {}", name.familiar()), ..Progress::default() }])
}

async fn push_all(
    engine: &skep_engine::Engine,
    repository: &str,
    tag: &str,
    credentials: &Credentials,
    progress: &PullProgress,
) -> Result<Vec<Progress>, EngineError> {
    let name = reference(repository, tag)?;
    progress.status(format!("The push refers to repository [{}]", name.name())).await;
    let names = if name.tag().is_some() {
        vec![name]
    } else {
        let (store, asked) = (skep_engine::Engine::images(engine).clone(), name.clone());
        let tags = blocking(move || Ok(store.tags_of(&asked))).await?;
        if tags.is_empty() {
            let text = format!("An image does not exist locally with the tag: {}", name.familiar_name());
            return Err(EngineError::new(ErrorKind::NotFound, text));
        }
        tags
    };
    for name in &names {
        skep_engine::Engine::push(engine, name, credentials, progress).await?;
    }
    Ok(Vec::new())
}

/// Lines as they come in, until nobody sends any more.
fn received<T: Send + 'static>(
    channel: mpsc::Receiver<T>,
    line: impl Fn(T) -> Progress + Send + Copy + 'static,
) -> BoxStream<'static, Progress> {
    let lines =
        stream::unfold(
            channel,
            move |mut channel| async move { channel.recv().await.map(|step| (line(step), channel)) },
        );
    lines.fuse().boxed()
}

/// What ends with the last lines.
type Work = BoxFuture<'static, Result<Vec<Progress>, EngineError>>;

/// Runs the work while its progress is read; then gives what came last.
fn driven(lines: BoxStream<'static, Progress>, work: Work) -> ProgressLines {
    let state = (lines, Some(work), VecDeque::new());
    stream::unfold(state, |(mut lines, mut work, mut last)| async move {
        loop {
            let Some(working) = work.as_mut() else {
                // The sender went with the work.
                if let Some(line) = lines.next().await {
                    return Some((Ok(line), (lines, work, last)));
                }
                return last.pop_front().map(|line| (line, (lines, work, last)));
            };
            tokio::select! {
                biased;
                Some(line) = lines.next() => return Some((Ok(line), (lines, work, last))),
                result = working => {
                    work = None;
                    match result {
                        Ok(end) => last.extend(end.into_iter().map(Ok)),
                        Err(error) => last.push_back(Err(error)),
                    }
                }
            }
        }
    })
    .boxed()
}

fn line(step: Step) -> Progress {
    let (detail, progress) = match step.bytes {
        Some((current, total)) => (Some(ProgressDetail { current, total }), progress_text(current, total)),
        None => (step.of_layer.then(ProgressDetail::default), String::new()),
    };
    Progress {
        status: step.status,
        progress_detail: detail,
        progress,
        id: step.id,
        aux: step.pushed.map(|(tag, digest, size)| PushResult { tag, digest: digest.to_string(), size }),
        ..Progress::default()
    }
}

fn loading(progress: &skep_image::Progress) -> Option<Progress> {
    let skep_image::Progress::Layer { diff_id: Some(diff_id), current, total } = progress else { return None };
    let id: String = diff_id.hex().chars().take(12).collect();
    let step =
        Step { id, status: "Loading layer".to_owned(), of_layer: true, bytes: Some((*current, *total)), pushed: None };
    Some(line(step))
}

/// A writer whose pieces go to a client.
struct Pieces(mpsc::Sender<Result<Bytes, std::io::Error>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = |_| std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the client went away");
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn removal(removal: ImageRemoval) -> ImageDelete {
    match removal {
        ImageRemoval::Untagged(name) => ImageDelete::Untagged(name),
        ImageRemoval::Deleted(id) => ImageDelete::Deleted(id),
    }
}

fn platform(text: &str) -> Result<Option<skep_image::Platform>, EngineError> {
    (!text.is_empty()).then(|| skep_image::Platform::parse(text)).transpose().map_err(image_failure)
}

/// `repository[:tag]`, the tag or digest given apart or within.
fn reference(repository: &str, tag: &str) -> Result<Reference, EngineError> {
    let name = Reference::parse(repository).map_err(image_failure)?;
    if tag.is_empty() {
        return Ok(name);
    }
    match tag.parse() {
        Ok(digest) => Ok(name.with_digest(digest)),
        Err(_) => name.with_tag(tag).map_err(image_failure),
    }
}
