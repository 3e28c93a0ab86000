//! All routes. One file per kind of object; what Docker has and skep has not, yet, is named here and answered with 501.

mod archive;
mod configs;
mod container_filters;
mod containers;
mod disk;
mod events;
mod exec;
mod images;
mod networks;
mod nodes;
mod secrets;
mod services;
mod stored;
mod swarm;
mod system;
mod tasks;
mod volumes;
mod watch;

use axum::Router;
use axum::routing::{MethodRouter, any, delete, get, post};

use crate::cluster::{ClusterError, LocalState};
use crate::{Api, ApiError};

/// The routes, without versions.
pub(crate) fn all() -> Router<Api> {
    swarm_routes().merge(machine_routes()).fallback(nowhere).method_not_allowed_fallback(nowhere)
}

async fn nowhere() -> ApiError {
    ApiError::page_not_found()
}

/// A route of Docker's that is refused by name.
fn lacks(what: &'static str) -> MethodRouter<Api> {
    any(move || async move { ApiError::unsupported(what) })
}

fn swarm_routes() -> Router<Api> {
    Router::new()
        .route("/swarm", get(swarm::inspect))
        .route("/swarm/init", post(swarm::init))
        .route("/swarm/join", post(swarm::join))
        .route("/swarm/leave", post(swarm::leave))
        .route("/swarm/update", post(swarm::update))
        .route("/swarm/unlockkey", get(swarm::unlock_key))
        .route("/swarm/unlock", post(swarm::unlock))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", get(nodes::inspect).delete(nodes::remove))
        .route("/nodes/{id}/update", post(nodes::update))
        .route("/services", get(services::list))
        .route("/services/create", post(services::create))
        .route("/services/{id}", get(services::inspect).delete(services::remove))
        .route("/services/{id}/update", post(services::update))
        .route("/services/{id}/logs", get(services::logs))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::inspect))
        .route("/tasks/{id}/logs", get(tasks::logs))
        .route("/secrets", get(secrets::list))
        .route("/secrets/create", post(secrets::create))
        .route("/secrets/{id}", get(secrets::inspect).delete(secrets::remove))
        .route("/secrets/{id}/update", post(secrets::update))
        .route("/configs", get(configs::list))
        .route("/configs/create", post(configs::create))
        .route("/configs/{id}", get(configs::inspect).delete(configs::remove))
        .route("/configs/{id}/update", post(configs::update))
}

fn machine_routes() -> Router<Api> {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/auth", post(images::log_in))
        .route("/events", get(events::watch))
        .route("/system/df", get(disk::usage))
        .route("/build", lacks("building an image"))
        .route("/build/prune", post(system::prune_builds))
        .route("/session", lacks("building an image with BuildKit"))
        .route("/grpc", lacks("building an image with BuildKit"))
        .route("/commit", lacks("making an image of a container"))
        .route("/containers/json", get(containers::list))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/attach", post(containers::attach))
        .route("/containers/{id}/attach/ws", lacks("attaching by a web socket"))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/exec", post(exec::create))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/update", post(containers::update))
        .route("/containers/{id}/resize", post(containers::resize))
        .route("/containers/{id}/stats", get(watch::stats))
        .route("/containers/{id}/top", get(watch::top))
        .route("/containers/{id}/changes", get(watch::changes))
        .route("/containers/{id}/export", get(watch::export))
        .route("/containers/{id}/archive", get(archive::get).head(archive::head).put(archive::put))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/images/json", get(images::list))
        .route("/images/create", post(images::create))
        .route("/images/load", post(images::load))
        .route("/images/get", get(images::get))
        .route("/images/search", lacks("searching a registry"))
        .route("/images/prune", post(images::prune))
        .route("/images/{*rest}", get(images::read).post(images::write).delete(images::remove))
        .route("/distribution/{*rest}", get(images::distribution))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{id}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{id}/connect", post(networks::connect))
        .route("/networks/{id}/disconnect", post(networks::disconnect))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{*name}", get(volumes::inspect).put(volumes::update).delete(volumes::remove))
        .route("/plugins", get(stored::plugins))
        .route("/plugins/{name}/json", get(stored::plugin))
}

/// Refuses, in the engine's words, what only a manager can do.
fn require_manager(api: &Api) -> Result<(), ApiError> {
    let status = api.cluster.status();
    let refusal = match status.state {
        LocalState::Locked => ClusterError::Locked,
        LocalState::Inactive => ClusterError::NoSwarm,
        _ if status.control_available => return Ok(()),
        LocalState::Pending | LocalState::Error => ClusterError::Unavailable(
            "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster."
                .to_owned(),
        ),
        LocalState::Active => ClusterError::NotManager,
    };
    Err(refusal.into())
}

/// One consistent picture of the cluster.
async fn snapshot(api: &Api) -> Result<skep_store::State, ApiError> {
    require_manager(api)?;
    Ok(api.cluster.snapshot().await?)
}
