//! What users do to containers one by one: create, start, stop, restart, kill, pause, rename, remove. Stopping, killing and
//! removing also work on the containers of tasks, whose agent then acts on their end; starting those is the agent's alone.

use std::sync::Arc;
use std::time::Duration;

use skep_image::{Image, Platform};
use tokio_util::sync::CancellationToken;

use crate::blueprint::{Wanted, parse_signal};
use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{EngineError, Result};
use crate::facts::Facts;
use crate::layout::{Durability, write_json};
use crate::lifecycle::new_id;
use crate::logs::parse_time;
use crate::names;
use crate::tell::NOTHING;
use crate::view::ContainerState;

/// How often another random name is tried when one is taken.
const NAMES_TRIED: usize = 6;

/// Which stopped containers are removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneFilter {
    /// Only those that were created before this, nanoseconds since 1970.
    pub until: Option<i64>,
    /// Only those with all of these labels, `name` or `name=value`.
    pub labels: Vec<String>,
    /// Only those without any of these labels.
    pub without_labels: Vec<String>,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Ids.
    pub containers: Vec<String>,
    /// Bytes that their files took.
    pub reclaimed: u64,
}

impl Engine {
    /// Makes a container; gives its id. A name is found when none is given.
    ///
    /// # Errors
    /// When the image is not there, the name is taken, or something cannot be had; the texts are Docker's.
    pub async fn create(&self, wanted: Wanted) -> Result<String> {
        if !wanted.name.is_empty() {
            names::check(&wanted.name)?;
        }
        let inner = self.inner.clone();
        self.inner
            .to_its_end(async move { inner.blocking(move |inner| inner.make_by_hand(wanted)).await })
            .await
            .map(|container| container.id().to_owned())
    }

    /// Starts a container that does not run.
    ///
    /// # Errors
    /// [`EngineError::AlreadyStarted`], [`EngineError::Start`], [`EngineError::Conflict`] for one that is paused or belongs
    /// to a task.
    pub async fn start(&self, name: &str) -> Result<()> {
        let container = self.inner.table.find(name)?;
        let inner = self.inner.clone();
        self.inner.to_its_end(async move { inner.start_by_hand(&container).await }).await
    }

    /// Stops a running container: stop signal, grace, SIGKILL. What is not given is the container's own;
    /// [`Duration::MAX`] waits without end.
    ///
    /// # Errors
    /// [`EngineError::AlreadyStopped`], [`EngineError::Unkillable`].
    pub async fn stop(&self, name: &str, signal: Option<&str>, grace: Option<Duration>) -> Result<()> {
        let signal = signal.map(parse_signal).transpose()?;
        let container = self.inner.table.find(name)?;
        if !container.state().is_running() && !container.is_restarting() {
            return Err(EngineError::AlreadyStopped(container.id().to_owned()));
        }
        let inner = self.inner.clone();
        let stop = async move {
            inner.note_stop(&container).await?;
            inner.stop(&container, signal, grace, &CancellationToken::new()).await
        };
        self.inner.to_its_end(stop).await
    }

    /// Stops a container, if it runs, and starts it.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub async fn restart(&self, name: &str, signal: Option<&str>, grace: Option<Duration>) -> Result<()> {
        let signal = signal.map(parse_signal).transpose()?;
        let container = self.inner.table.find(name)?;
        refuse_task(&container)?;
        let inner = self.inner.clone();
        let restart = async move {
            // Neither its policy nor its automatic removal may follow the end of the old run.
            container.set_restarting_by_hand(true);
            container.cancel_restart();
            let restarted = async {
                inner.stop(&container, signal, grace, &CancellationToken::new()).await?;
                inner.start_by_hand(&container).await
            };
            let restarted = restarted.await;
            container.set_restarting_by_hand(false);
            restarted?;
            inner.tell(&container, "restart", NOTHING);
            Ok(())
        };
        self.inner.to_its_end(restart).await
    }

    /// Sends a signal, by name or number, to a running container. After SIGKILL its end is waited for.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for an unknown signal, [`EngineError::Conflict`] (in Docker's words) when it does not run.
    pub async fn kill(&self, name: &str, signal: &str) -> Result<()> {
        let signal = parse_signal(if signal.is_empty() { "SIGKILL" } else { signal })?;
        let container = self.inner.table.find(name)?;
        if !container.state().is_running() {
            let why = if container.is_restarting() {
                "is restarting, wait until the container is running"
            } else {
                "is not running"
            };
            let id = container.id();
            return Err(EngineError::Conflict(format!("cannot kill container: {name}: container {id} {why}")));
        }
        let inner = self.inner.clone();
        self.inner.to_its_end(async move { inner.kill_by_hand(&container, signal).await }).await
    }

    /// Freezes every process of a running container.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] when it does not run, or is paused already.
    pub async fn pause(&self, name: &str) -> Result<()> {
        let container = self.inner.table.find(name)?;
        let inner = self.inner.clone();
        self.inner.to_its_end(async move { inner.pause(&container).await }).await
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] when it is not paused.
    pub async fn unpause(&self, name: &str) -> Result<()> {
        let container = self.inner.table.find(name)?;
        let inner = self.inner.clone();
        self.inner.to_its_end(async move { inner.unpause(&container).await }).await
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for what cannot be a name, [`EngineError::Conflict`] when it is taken.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        if name.is_empty() || new_name.is_empty() {
            return Err(EngineError::Invalid("Neither old nor new names may be empty".to_owned()));
        }
        let new_name = new_name.strip_prefix('/').unwrap_or(new_name).to_owned();
        let container = self.inner.table.find(name)?;
        if container.name() == new_name {
            let text = "Renaming a container with the same name as its current name";
            return Err(EngineError::Invalid(text.to_owned()));
        }
        names::check(&new_name)?;
        let inner = self.inner.clone();
        self.inner.to_its_end(async move { inner.rename(&container, new_name).await }).await
    }

    /// Removes a container; a running one only by force. Volumes that were made for it stay unless `volumes` says otherwise.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] with Docker's text when it runs.
    pub async fn remove(&self, name: &str, force: bool, volumes: bool) -> Result<()> {
        let container = self.inner.table.find(name)?;
        let inner = self.inner.clone();
        let remove = async move {
            // Held, so that it is not started between the look and the removal.
            let _operation = container.operation.lock().await;
            if !force {
                refuse_active(&container)?;
            }
            if !volumes {
                inner.keep_volumes(&container).await?;
            }
            inner.remove_held(&container).await
        };
        self.inner.to_its_end(remove).await
    }

    /// Removes all containers that do not run.
    ///
    /// # Errors
    /// When one cannot be removed; those before it are.
    pub async fn prune(&self, filter: PruneFilter) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for container in self.inner.table.all() {
            if !filter.passes(&container) {
                continue;
            }
            let (inner, gone) = (self.inner.clone(), container.clone());
            let remove = async move {
                let _operation = gone.operation.lock().await;
                if refuse_active(&gone).is_err() || gone.state() == ContainerState::Removed {
                    return Ok(None);
                }
                let files = gone.clone();
                let size = inner.blocking(move |_| Ok(names::size_of_files(&files))).await?;
                inner.keep_volumes(&gone).await?;
                inner.remove_held(&gone).await?;
                Ok(Some(size))
            };
            if let Some(size) = self.inner.to_its_end(remove).await? {
                pruned.containers.push(container.id().to_owned());
                pruned.reclaimed += size;
            }
        }
        let reclaimed = [("reclaimed", pruned.reclaimed.to_string())];
        self.inner.events.publish(crate::events::EventKind::Container, "prune", "", reclaimed);
        Ok(pruned)
    }
}

impl PruneFilter {
    fn passes(&self, container: &Container) -> bool {
        let labels = &container.record.labels;
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|label| label == value),
            None => labels.contains_key(wanted),
        };
        let created = parse_time(&container.record.created_at).ok().flatten().unwrap_or(i64::MAX);
        self.until.is_none_or(|until| created <= until)
            && self.labels.iter().all(has)
            && !self.without_labels.iter().any(has)
    }
}

/// A task's container is started by its agent alone, or the managers would not know of it.
fn refuse_task(container: &Container) -> Result<()> {
    match &container.record.task {
        None => Ok(()),
        Some(task) => Err(EngineError::Conflict(format!(
            "container {} belongs to task {} of service {:?}, and its managers alone start it: use docker service update \
             --force",
            container.id(),
            task.task_id,
            task.service_name
        ))),
    }
}

/// What runs, or is about to, is not removed without force.
fn refuse_active(container: &Container) -> Result<()> {
    let how = match container.state() {
        ContainerState::Running { .. } if container.is_paused() => "paused and must be unpaused first",
        ContainerState::Running { .. } | ContainerState::Starting => {
            "running: stop the container before removing or force remove"
        }
        _ if container.is_restarting() => "restarting: stop the container before removing or force remove",
        _ => return Ok(()),
    };
    Err(EngineError::Conflict(format!("cannot remove container \"/{}\": container is {how}", container.name())))
}

/// The image may be there for another platform than the one that is asked for.
fn check_platform(wanted: &Wanted, image: &Image) -> Result<()> {
    let asked = &wanted.more.platform;
    if asked.is_empty() {
        return Ok(());
    }
    let (asked, found) = (Platform::parse(asked)?, image.platform());
    let same_variant = asked.variant.is_empty() || found.variant.is_empty() || asked.variant == found.variant;
    if (&asked.os, &asked.architecture) == (&found.os, &found.architecture) && same_variant {
        return Ok(());
    }
    Err(skep_image::Error::NoSuchImage(format!(
        "image with reference {} was found but does not match the specified platform: wanted {asked}, actual: {found}",
        wanted.spec.image
    ))
    .into())
}

impl Inner {
    fn make_by_hand(&self, mut wanted: Wanted) -> Result<Arc<Container>> {
        let image = self.images.require(&wanted.spec.image)?;
        check_platform(&wanted, &image)?;
        self.settle_shares(&mut wanted)?;
        self.add_volumes_from(&mut wanted)?;
        let (given, volumes) = (!wanted.name.is_empty(), self.layout.volumes());
        for _ in 0..NAMES_TRIED {
            let id = new_id()?;
            if !given {
                wanted.name = names::invent(&id);
            }
            match self.build(wanted.clone(), &image, &self.site(&id, &volumes), &CancellationToken::new()) {
                Err(EngineError::Conflict(_)) if !given => {}
                made => return made,
            }
        }
        Err(EngineError::Conflict("cannot find a free name for the container: choose one".to_owned()))
    }

    async fn start_by_hand(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        refuse_task(container)?;
        if container.is_restarting() {
            return Err(EngineError::AlreadyStarted(container.id().to_owned()));
        }
        let _operation = container.operation.lock().await;
        match self.started(container).await? {
            ContainerState::Running { .. } if container.is_paused() => {
                return Err(EngineError::Conflict("cannot start a paused container, try unpause instead".to_owned()));
            }
            ContainerState::Running { .. } => {
                return Err(EngineError::AlreadyStarted(container.id().to_owned()));
            }
            ContainerState::Removed => return Err(EngineError::NoSuchContainer(container.name())),
            ContainerState::Created | ContainerState::Starting | ContainerState::Exited(_) => {}
        }
        container.cancel_restart();
        container.set_last_pause(None);
        let (last_run, before) = (container.last_run(), container.facts().started);
        self.change_facts(container, |facts| {
            *facts = Facts {
                started: true,
                stopped_by_hand: false,
                paused: false,
                restarts: 0,
                last_run,
                ..std::mem::take(facts)
            };
        })
        .await?;
        let started = self.launch_container(container).await;
        if started.is_err() && !before {
            // What never ran is not for its policy to mend, also not for that of the next engine.
            self.change_facts(container, |facts| facts.started = false).await?;
        }
        if started.is_err()
            && container.is_auto_removed()
            && let Err(error) = self.remove_held(container).await
        {
            tracing::warn!(container.id = container.id(), error = error.full_text(), "cannot remove a container");
        }
        started
    }

    /// The user wants it to end: no policy starts it again.
    async fn note_stop(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if container.record.by_hand.is_some() {
            self.change_facts(container, |facts| facts.stopped_by_hand = true).await?;
            container.cancel_restart();
        }
        Ok(())
    }

    async fn kill_by_hand(self: &Arc<Self>, container: &Arc<Container>, signal: i32) -> Result<()> {
        let stops = parse_signal(&container.record.stop_signal).is_ok_and(|stop| stop == signal);
        let kills = signal == nix::libc::SIGKILL;
        // Docker takes any signal for the wish to end when it is not told which one is; that restarts nothing which a mere
        // SIGHUP ended.
        if stops || kills {
            self.note_stop(container).await?;
        }
        self.tell(container, "kill", [("signal", signal.to_string())]);
        if kills {
            self.kill_hard(container).await?;
        } else {
            self.signal(container, signal).await?;
        }
        if stops && container.is_paused() {
            self.thaw(container).await;
        }
        Ok(())
    }

    async fn pause(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        let id = container.id();
        if !container.state().is_running() {
            let why = if container.is_restarting() {
                format!("Container {id} is restarting, wait until the container is running")
            } else {
                format!("container {id} is not running")
            };
            return Err(EngineError::Conflict(why));
        }
        if container.is_paused() {
            return Err(EngineError::Conflict(format!("container {id} is already paused")));
        }
        // Before, so that the next engine looks whether it happened.
        self.change_facts(container, |facts| facts.paused = true).await?;
        container.client().await?.pause().await?;
        container.set_paused(true);
        self.tell(container, "pause", NOTHING);
        Ok(())
    }

    async fn unpause(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        if !container.is_paused() {
            return Err(EngineError::Conflict(format!("Container {} is not paused", container.id())));
        }
        container.client().await?.resume().await?;
        container.set_paused(false);
        self.change_facts(container, |facts| facts.paused = false).await?;
        self.tell(container, "unpause", NOTHING);
        Ok(())
    }

    /// Lets a paused container go on so that it can end.
    pub(crate) async fn thaw(&self, container: &Container) {
        let thawed = match container.client().await {
            Ok(client) => client.resume().await,
            Err(error) => Err(error),
        };
        match thawed {
            Ok(()) => container.set_paused(false),
            Err(error) => {
                tracing::warn!(container.id = container.id(), %error, "cannot unpause a container to stop it")
            }
        }
    }

    /// Asks the shim whether the container is frozen.
    pub(crate) async fn look_for_pause(&self, container: &Container) {
        let state = match container.client().await {
            Ok(client) => client.state().await,
            Err(error) => Err(error),
        };
        match state {
            Ok(state) => container.set_paused(state.phase == skep_oci::Phase::Paused),
            // It has ended, as its watcher will tell.
            Err(error) => tracing::debug!(container.id = container.id(), %error, "cannot tell whether it is paused"),
        }
    }

    async fn rename(self: &Arc<Self>, container: &Arc<Container>, new_name: String) -> Result<()> {
        let _operation = container.operation.lock().await;
        if container.state() == ContainerState::Removed {
            return Err(EngineError::NoSuchContainer(container.name()));
        }
        let old_name = container.name();
        self.table.add_name(container, &new_name)?;
        let renamed = self.change_facts(container, |facts| facts.name = Some(new_name)).await;
        self.table.settle_name(container);
        renamed?;
        self.tell(container, "rename", [("oldName", format!("/{old_name}"))]);
        Ok(())
    }

    /// Changes what must outlast the engine: on the disk first, then in memory.
    pub(crate) async fn change_facts(
        self: &Arc<Self>,
        container: &Arc<Container>,
        change: impl FnOnce(&mut Facts),
    ) -> Result<()> {
        let _changing = container.changing.lock().await;
        let (before, mut facts) = (container.facts(), container.facts());
        change(&mut facts);
        if facts == before {
            return Ok(());
        }
        let (path, written) = (container.directory.facts(), facts.clone());
        self.blocking(move |_| write_json(&path, &written, Durability::Acknowledged)).await?;
        container.set_facts(facts);
        Ok(())
    }
}
