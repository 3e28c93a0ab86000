//! The image of a task, as Docker's executor has it (`executor/container/controller.go`, `adapter.go`): a name with a digest
//! that is here needs no pull; every other one is pulled, so that a tag means today's image; when that fails, the image that is
//! here does. Tasks that need the same image at the same time share one pull.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use skep_agent::Assignment;
use skep_image::{Credentials, PullOptions, PullProgress, Reference, RegistryError};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::engine::Inner;
use crate::error::{EngineError, Result};

/// How long a registry that could not be reached is not asked again when the image is here.
const UNREACHABLE_TIME: Duration = Duration::from_secs(30);
/// Registries of which that is remembered; more are asked each time.
const UNREACHABLE_MAX: usize = 100;

/// Pulls on behalf of tasks.
#[derive(Default)]
pub(crate) struct TaskPulls {
    active: Mutex<BTreeMap<(String, Credentials), Weak<SharedPull>>>,
    unreachable: Mutex<BTreeMap<String, Instant>>,
}

/// A pull that ends early when nobody waits for it.
struct SharedPull {
    done: watch::Receiver<bool>,
    _cancel: DropGuard,
}

impl Inner {
    /// Brings the image of a task, if it can be brought. That there is none is found out by whoever needs it.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`].
    pub(crate) async fn bring_image(
        self: &Arc<Self>,
        assignment: &Assignment,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let Some(name) = self.to_be_pulled(&assignment.spec.container.image) else { return Ok(()) };
        let credentials = assignment.registry_auth.as_ref().map(|auth| Credentials::from_header(&auth.0));
        let pull = self.shared_pull(name, credentials.unwrap_or_default());
        let mut done = pull.done.clone();
        tokio::select! {
            // An error means that the pull is over, too.
            _ = done.wait_for(|done| *done) => Ok(()),
            () = cancel.cancelled() => Err(EngineError::Cancelled),
        }
    }

    fn to_be_pulled(&self, image: &str) -> Option<Reference> {
        if self.config.prefer_local_images && self.images.get(image).is_some() {
            return None;
        }
        if image.parse::<skep_image::Digest>().is_ok() {
            return None;
        }
        let name = Reference::parse(image).ok()?.with_default_tag();
        let is_here = self.images.get(image).is_some();
        if is_here && (name.digest().is_some() || self.task_pulls.is_unreachable(name.domain())) {
            return None;
        }
        Some(name)
    }

    fn shared_pull(self: &Arc<Self>, name: Reference, credentials: Credentials) -> Arc<SharedPull> {
        let key = (name.to_string(), credentials.clone());
        let mut active = self.task_pulls.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.retain(|_, pull| pull.strong_count() > 0);
        if let Some(known) = active.get(&key).and_then(Weak::upgrade)
            && !*known.done.borrow()
        {
            return known;
        }
        let (sender, done) = watch::channel(false);
        let cancel = self.closing.child_token();
        let (inner, cancelled) = (self.clone(), cancel.clone());
        self.tracker.spawn(async move {
            let options = PullOptions { credentials, ..PullOptions::default() };
            let progress = PullProgress::none();
            tokio::select! {
                () = cancelled.cancelled() => {}
                result = inner.pull(&name, &options, &progress) => inner.task_pulls.remember(&name, result.err()),
            }
            sender.send_replace(true);
        });
        let pull = Arc::new(SharedPull { done, _cancel: cancel.drop_guard() });
        active.insert(key, Arc::downgrade(&pull));
        pull
    }
}

impl TaskPulls {
    fn is_unreachable(&self, domain: &str) -> bool {
        let unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        unreachable.get(domain).is_some_and(|since| since.elapsed() < UNREACHABLE_TIME)
    }

    fn remember(&self, name: &Reference, error: Option<EngineError>) {
        let mut unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        unreachable.retain(|_, since| since.elapsed() < UNREACHABLE_TIME);
        let Some(error) = error else {
            unreachable.remove(name.domain());
            return;
        };
        tracing::warn!(image = name.familiar(), error = error.full_text(), "cannot pull the image of a task");
        let is_down = matches!(
            &error,
            EngineError::Image(skep_image::Error::Registry(RegistryError::Request { unauthorized: false, .. }))
        );
        if is_down && unreachable.len() < UNREACHABLE_MAX {
            unreachable.insert(name.domain().to_owned(), Instant::now());
        }
    }
}
