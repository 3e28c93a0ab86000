//! A running member: manager, worker and the sessions between them.

use std::sync::Arc;

use skep_manager::Manager;
use skep_model::NodeId;
use skep_raft::Leadership;
use tokio::task::AbortHandle;

use crate::error::text_of;
use crate::found::{leads, load_keys, manager_config, tls_info};
use crate::membership::{Folder, Membership};
use crate::session::{SessionConfig, keep_sessions};
use crate::worker::Worker;
use crate::{NodeConfig, NodeError};

/// A running member. Dropped, it ends as by a kill; containers do not notice.
pub(crate) struct Member {
    pub(crate) membership: Membership,
    pub(crate) manager: Manager,
    pub(crate) worker: Worker,
    sessions: AbortHandle,
}

impl Member {
    /// Starts what a membership says, from what is on disk.
    pub(crate) async fn resume(
        config: &NodeConfig,
        folder: &Folder,
        membership: Membership,
    ) -> Result<Self, NodeError> {
        let keys = load_keys(folder)?;
        let settings = manager_config(folder, config.socket(), &membership, keys);
        let manager = Manager::open(settings).await.map_err(|error| NodeError::internal(&error))?;
        if !leads(&manager).await {
            let reason = manager.failure().unwrap_or_else(|| "it does not come to lead".to_owned());
            manager.shutdown().await;
            return Err(NodeError::Internal(format!("the manager on this node does not start: {reason}")));
        }
        if manager.state().state.node(membership.node_id).is_none() {
            manager.shutdown().await;
            return Err(NodeError::Internal("the cluster's state does not know this node".to_owned()));
        }
        Self::start(config, folder, membership, manager).await
    }

    /// Starts the worker beside a manager that runs.
    pub(crate) async fn start(
        config: &NodeConfig,
        folder: &Folder,
        membership: Membership,
        manager: Manager,
    ) -> Result<Self, NodeError> {
        let started = tls_info(folder).and_then(|tls| {
            let worker = Worker::start(&folder.tasks(), config.executor.clone())
                .map_err(|error| NodeError::Internal(text_of(&error)))?;
            Ok((tls, worker))
        });
        let (tls, worker) = match started {
            Ok(parts) => parts,
            Err(error) => {
                manager.shutdown().await;
                return Err(error);
            }
        };
        let session = SessionConfig {
            node_id: membership.node_id,
            socket: config.socket(),
            describe: Arc::clone(&config.describe),
            tls: Some(tls),
            logs: Arc::clone(&config.logs),
            orders: worker.orders(),
            outbox: worker.outbox(),
            tasks: worker.tasks(),
        };
        let sessions = tokio::spawn(keep_sessions(session)).abort_handle();
        Ok(Self { membership, manager, worker, sessions })
    }

    /// Ends sessions, worker and Raft in this order; containers are left alone.
    pub(crate) async fn stop(&self) {
        self.sessions.abort();
        self.worker.stop().await;
        self.manager.shutdown().await;
    }

    /// No more assignments come from now on.
    pub(crate) fn end_sessions(&self) {
        self.sessions.abort();
    }

    /// The manager that leads, if one does.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        matches!(*self.manager.leadership().borrow(), Leadership::Leading { .. }).then_some(self.membership.node_id)
    }

    /// Why the manager runs no more, if it stopped by itself.
    pub(crate) fn failure(&self) -> Option<String> {
        let has_stopped = *self.manager.leadership().borrow() == Leadership::Stopped;
        has_stopped.then(|| self.manager.failure().unwrap_or_else(|| "raft has stopped on this manager".to_owned()))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.sessions.abort();
    }
}
