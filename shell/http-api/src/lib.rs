//! Serves the Docker HTTP API on listeners that are handed in, sending each request to the machine's engine or to the
//! cluster.
//!
//! ```text
//!  listener ─▶ serve ─▶ transport (version, headers) ─▶ routes ─┬─▶ Cluster  (one snapshot of the state, or one write)
//!                                                                └─▶ Engine   (containers, images, this machine)
//! ```
//!
//! It decides nothing: it decodes, finds the object that a name means, asks, and renders in Docker's words. What it needs of
//! the two is said by the traits [`Cluster`] and [`Engine`]; `skep_engine::Engine` implements the latter here, and the
//! composition root brings the former.

mod body;
mod cluster;
mod detach;
mod engine;
mod error;
mod events;
mod hijack;
mod logs;
mod lookup;
mod output;
mod render;
mod routes;
mod serve;
mod transport;

pub use cluster::{
    Cluster, ClusterError, ClusterNetworks, Code, Created, Edit, InitOptions, LocalState, LogLine, LogMessage,
    LogMessages, LogOptions, LogSelector, LogStream, NewSecret, Peer, RotateTokens, SwarmStatus, Values,
};
pub use engine::{
    Archive, ArchiveBytes, AttachStreams, ByHand, Download, Ended, EndpointWish, Engine, EngineError, EngineFacts,
    ErrorKind, ExecStreams, ImageImport, ImagePrune, ImagePull, Images, NetworkWish, Networks, Observe, ProgressLines,
    VolumeFilter, Volumes, WaitCondition,
};
pub use error::ApiError;
pub use events::{ClusterEvents, Happening, Happenings};
pub use serve::{Listener, serve};

use std::sync::Arc;

/// What the daemon is, for `/version` and `/info`.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// Version of skep.
    pub version: String,
    /// Commit it was built from; empty when unknown.
    pub git_commit: String,
    /// When it was built, RFC 3339; empty when unknown.
    pub build_time: String,
    /// A name for this installation that stays.
    pub id: String,
}

/// Everything the routes need. Clones share it.
#[derive(Clone)]
pub struct Api {
    /// The cluster, or what there is of it.
    pub cluster: Arc<dyn Cluster>,
    /// This machine.
    pub engine: Arc<dyn Engine>,
    /// The daemon.
    pub identity: Arc<Identity>,
}

/// The whole API as a service, with and without a version in front of the path.
pub fn router(api: Api) -> axum::Router {
    transport::wrap(routes::all(), api)
}
