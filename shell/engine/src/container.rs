//! One container in memory: what it was prepared as, how it goes, and the locks that keep its operations apart.

use std::sync::{Arc, Mutex, PoisonError};

use skep_model::ContainerStatus;
use skep_oci::{Bundle, ShimClient};
use tokio::sync::watch;

use crate::layout::Directory;
use crate::record::{PortRecord, Record};
use crate::view::ContainerState;

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: Arc<Record>,
    pub(crate) directory: Directory,
    /// Changed only by who holds `operation`, and by the watcher of its end.
    state: watch::Sender<ContainerState>,
    /// Held while it is started or removed.
    pub(crate) operation: tokio::sync::Mutex<()>,
    /// Held while its endpoint is taken away.
    pub(crate) release: tokio::sync::Mutex<()>,
    /// Ports with the numbers chosen here, from its start on.
    ports: Mutex<Option<Vec<PortRecord>>>,
}

impl Container {
    pub(crate) fn new(record: Record, directory: Directory, state: ContainerState) -> Self {
        Self {
            record: Arc::new(record),
            directory,
            state: watch::Sender::new(state),
            operation: tokio::sync::Mutex::new(()),
            release: tokio::sync::Mutex::new(()),
            ports: Mutex::new(None),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::new(self.directory.bundle())
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    pub(crate) fn set_state(&self, state: ContainerState) {
        self.state.send_replace(state);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<ContainerState> {
        self.state.subscribe()
    }

    /// Waits until the state is such, and gives it.
    pub(crate) async fn reach(&self, wanted: impl FnMut(&ContainerState) -> bool) -> ContainerState {
        let mut watch = self.watch();
        let reached = watch.wait_for(wanted).await;
        reached.expect("the sender lives as long as self").clone()
    }

    /// Waits until it neither runs nor starts.
    pub(crate) async fn ended(&self) -> ContainerState {
        self.reach(|state| matches!(state, ContainerState::Exited(_) | ContainerState::Removed)).await
    }

    pub(crate) fn ports(&self) -> Vec<PortRecord> {
        let chosen = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        chosen.clone().unwrap_or_else(|| self.record.ports.clone())
    }

    pub(crate) fn set_ports(&self, ports: Vec<PortRecord>) {
        *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = Some(ports);
    }

    pub(crate) fn has_host_ports(&self) -> bool {
        self.record.ports.iter().any(|port| port.host_mode)
    }

    pub(crate) async fn client(&self) -> Result<ShimClient, skep_oci::ClientError> {
        ShimClient::connect(&self.bundle()).await
    }

    /// What the managers are told of it.
    pub(crate) fn status(&self) -> ContainerStatus {
        let state = self.state();
        ContainerStatus { container_id: self.id().to_owned(), pid: state.pid(), exit_code: state.exit_code() }
    }
}
