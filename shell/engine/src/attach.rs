//! Clients at a container's streams. Who attaches to a container that does not run waits for its next run and misses nothing of
//! it; who attaches to one that runs sees what comes from then on.

use std::sync::{Arc, Weak};

use skep_oci::{AttachEnds, Attachment, ClientError, attachment};

use crate::container::Container;
use crate::engine::{Engine, Inner};
use crate::error::{At, EngineError, Result};
use crate::tell::NOTHING;
use crate::view::ContainerState;

/// Clients that may wait for the next run of one container.
const WAITING_MAX: usize = 16;

/// A client's end of a container's streams.
#[derive(Debug)]
pub struct Attached {
    /// The streams.
    pub streams: Attachment,
    /// The client is there as long as this is.
    _here: Arc<()>,
}

/// A client that waits for the next run.
#[derive(Debug)]
pub(crate) struct Waiting {
    ends: AttachEnds,
    here: Weak<()>,
}

impl Engine {
    /// Attaches a client to a container's output, and with `stdin` to its input, if it has one.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] when it is paused or about to be restarted, or too many wait for it.
    pub async fn attach(&self, name: &str, stdin: bool) -> Result<Attached> {
        let container = self.inner.table.find(name)?;
        let conflict = |why: &str| Err(EngineError::Conflict(format!("container {name} is {why}")));
        if container.is_paused() {
            return conflict("paused, unpause the container before attach");
        }
        if container.is_restarting() && !container.state().is_running() {
            return conflict("restarting, wait until the container is running");
        }
        let inner = self.inner.clone();
        self.inner.to_its_end(async move { inner.attach(&container, stdin).await }).await
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] when it does not run; when it has no terminal.
    pub async fn resize(&self, name: &str, rows: u16, cols: u16) -> Result<()> {
        let container = self.inner.table.find(name)?;
        if !container.state().is_running() {
            return Err(EngineError::NotRunning(container.id().to_owned()));
        }
        if !container.record.config.tty {
            return Err(EngineError::Conflict(format!("container {} has no terminal", container.id())));
        }
        container.client().await?.resize(rows, cols).await?;
        let size = [("height", rows.to_string()), ("width", cols.to_string())];
        self.inner.tell(&container, "resize", size);
        Ok(())
    }
}

impl Inner {
    async fn attach(self: &Arc<Self>, container: &Arc<Container>, stdin: bool) -> Result<Attached> {
        let config = &container.record.config;
        let (streams, ends) = attachment(stdin && config.open_stdin, config.tty).at("make", "a pipe")?;
        let here = Arc::new(());
        // Held, so that a run does not begin between the look and the attachment.
        let _operation = container.operation.lock().await;
        match self.started(container).await? {
            ContainerState::Running { .. } => match container.client().await {
                Ok(client) => match client.attach(ends).await {
                    Ok(()) | Err(ClientError::Unreachable { .. } | ClientError::Lost(_)) => {}
                    Err(error) => return Err(error.into()),
                },
                // It has just ended: so do the streams.
                Err(ClientError::Unreachable { .. }) => {}
                Err(error) => return Err(error.into()),
            },
            ContainerState::Removed => return Err(EngineError::NoSuchContainer(container.name())),
            ContainerState::Created | ContainerState::Starting | ContainerState::Exited(_) => {
                container.await_run(Waiting { ends, here: Arc::downgrade(&here) })?;
            }
        }
        self.tell(container, "attach", NOTHING);
        Ok(Attached { streams, _here: here })
    }
}

impl Waiting {
    /// Whether its client is still there.
    pub(crate) fn is_here(&self) -> bool {
        self.here.strong_count() > 0
    }

    pub(crate) fn into_ends(self) -> AttachEnds {
        self.ends
    }
}

/// Adds to those who wait; those that are gone are forgotten.
pub(crate) fn add(waiting: &mut Vec<Waiting>, one: Waiting) -> Result<()> {
    waiting.retain(Waiting::is_here);
    if waiting.len() >= WAITING_MAX {
        let text = format!("too many clients wait for the container to start, at most {WAITING_MAX}");
        return Err(EngineError::Conflict(text));
    }
    waiting.push(one);
    Ok(())
}
