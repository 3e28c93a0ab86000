//! What an engine does first: it reads back what earlier engines left, tells from what is alive how each container goes, and
//! removes what was half made or half removed.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use skep_image::ImageStore;
use skep_network::{Network, NetworkConfig};
use skep_oci::Bundle;

use crate::container::Container;
use crate::engine::{EngineConfig, Inner};
use crate::error::{At, EngineError, Result};
use crate::facts::Facts;
use crate::layout::Layout;
use crate::lifecycle::{Found, state_of};
use crate::record::{PortRecord, Record};
use crate::view::ContainerState;
use crate::volumes::Volumes;

/// All parts of an engine that had to be opened with blocking calls.
pub(crate) struct Opened {
    pub(crate) config: EngineConfig,
    pub(crate) layout: Layout,
    pub(crate) lock: Flock<File>,
    pub(crate) images: ImageStore,
    pub(crate) volumes: Volumes,
    pub(crate) network: Arc<Network>,
    pub(crate) containers: Vec<Found>,
}

/// Opens everything below the engine. Blocks.
pub(crate) fn open(config: EngineConfig) -> Result<Opened> {
    let layout = Layout::create(&config.data_root, &config.exec_root)?;
    let lock = lock(&layout)?;
    let images = ImageStore::open(&layout.images())?;
    let volumes = Volumes::open(layout.volumes(), layout.volume_pins())?;
    let mut network_config = NetworkConfig::new(layout.pins(), layout.network());
    network_config.bridge_name.clone_from(&config.bridge_name);
    network_config.subnet = config.subnet;
    network_config.isolated = false;
    let network = Arc::new(Network::open(network_config)?);

    let names = layout.container_names()?;
    let (whole, half): (Vec<_>, Vec<_>) = names.into_iter().partition(|id| layout.container(id).record().exists());
    let mut containers = Vec::new();
    let mut keep: BTreeSet<String> = whole.iter().cloned().collect();
    for id in &whole {
        match read(&layout, id) {
            Ok(found) => {
                let is_kept = match found.state {
                    ContainerState::Exited(_) => false,
                    ContainerState::Created => found.record.by_hand.is_none(),
                    _ => true,
                };
                if !is_kept {
                    keep.remove(id);
                }
                containers.push(found);
            }
            Err(error @ EngineError::Newer { .. }) => return Err(error),
            // Never deleted on a guess; its network is kept, too.
            Err(error) => {
                tracing::error!(
                    container.id = id,
                    error = error.full_text(),
                    "container cannot be read and is ignored"
                );
            }
        }
    }
    for id in &half {
        sweep(&layout, &images, &network, id);
    }
    let report = network.adopt(&keep.into_iter().collect::<Vec<_>>())?;
    for id in report.lost {
        let has_lost = |found: &Found| {
            found.record.id == id && found.state.is_running() && found.record.has_own_network(&found.record.networks)
        };
        let runs = containers.iter().any(has_lost);
        if runs {
            tracing::error!(container.id = id, "a running container has lost its network");
        }
    }
    let known: BTreeSet<&String> = whole.iter().collect();
    for snapshot in images.snapshots() {
        if !known.contains(&snapshot.container_id)
            && let Err(error) = images.remove_snapshot(&snapshot.container_id)
        {
            tracing::warn!(container.id = snapshot.container_id, %error, "cannot remove a snapshot that nobody owns");
        }
    }
    Ok(Opened { config, layout, lock, images, volumes, network, containers })
}

fn lock(layout: &Layout) -> Result<Flock<File>> {
    let path = layout.lock();
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).at("open", &path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(EngineError::InUse(layout.data_root().to_owned())),
        Err((_, error)) => Err(std::io::Error::from(error)).at("lock", path),
    }
}

fn read(layout: &Layout, id: &str) -> Result<Found> {
    let directory = layout.container(id);
    let record = Record::load(&directory.record())?;
    let facts = Facts::load(&directory.facts())?;
    let state = match (state_of(&Bundle::new(directory.bundle()))?, &facts.last_run) {
        // The next run was to begin when an earlier engine ended.
        (ContainerState::Created, Some(last)) => ContainerState::Exited(last.clone()),
        (state, _) => state,
    };
    Ok(Found { record, facts, state })
}

/// Removes a container that was half made or half removed. A failure is for the next engine.
fn sweep(layout: &Layout, images: &ImageStore, network: &Network, id: &str) {
    let directory = layout.container(id);
    let swept = (|| {
        if directory.bundle().exists() {
            Bundle::new(directory.bundle()).cleanup()?;
        }
        match images.remove_snapshot(id) {
            Ok(()) | Err(skep_image::Error::NoSuchSnapshot(_)) => {}
            Err(error) => return Err(error.into()),
        }
        network.remove_endpoint(id)?;
        directory.remove()
    })();
    match swept {
        Ok(()) => tracing::info!(container.id = id, "swept a container that was half made or half removed"),
        Err(error) => {
            let error: EngineError = error;
            tracing::warn!(container.id = id, error = error.full_text(), "cannot sweep a half-made container");
        }
    }
}

impl Inner {
    /// Takes over what was found: running containers are watched and get their traffic.
    pub(crate) async fn adopt(self: &Arc<Self>, found: Vec<Found>) {
        let mut idle = Vec::new();
        for Found { record, facts, state } in found {
            let directory = self.layout.container(&record.id);
            let paused = facts.paused;
            let container = Arc::new(Container::new(record, facts, directory, state.clone()));
            if let Err(error) = self.table.insert(container.clone()) {
                tracing::error!(container.id = container.id(), %error, "container is ignored");
                continue;
            }
            if !matches!(state, ContainerState::Running { .. } | ContainerState::Starting) {
                idle.push(container);
                continue;
            }
            if paused {
                self.look_for_pause(&container).await;
            }
            self.adopt_health(&container);
            if let Some(ports) = chosen_ports(&container) {
                container.set_ports(ports);
            }
            if let Some(endpoint) = self.network.endpoint(container.id())
                && state.is_running()
            {
                self.publisher.add(container.id(), endpoint.address, &self.open_ports(&container));
            }
            self.watch(container);
        }
        let adopting = |inner: &Self| {
            inner.adopt_storage();
            Ok(())
        };
        if let Err(error) = self.blocking(adopting).await {
            tracing::error!(error = error.full_text(), "cannot take over the volumes of containers");
        }
        // What fails now is tried again with the network's next check.
        if let Err(error) = self.publisher.refresh().await {
            tracing::error!(error = error.full_text(), "cannot publish the ports of adopted containers");
        }
        self.resume_policies(&idle);
    }
}

/// Ports whose numbers an earlier engine chose.
fn chosen_ports(container: &Container) -> Option<Vec<PortRecord>> {
    let bytes = std::fs::read(container.directory.ports()).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!(container.id = container.id(), %error, "chosen ports cannot be read"))
        .ok()
}
