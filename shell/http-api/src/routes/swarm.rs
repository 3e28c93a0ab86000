//! The cluster itself.

use std::borrow::Cow;

use axum::extract::State;
use axum::response::Response;
use skep_api_types::{InitRequest, Swarm, SwarmSpec, TlsInfo, UnlockKey, strict_boolean, version_index};
use skep_model::{ClusterSpec, ObjectId as _};

use crate::body::{Json, Params, empty, ok};
use crate::cluster::{ClusterError, InitOptions, LocalState, RotateTokens};
use crate::routes::{require_manager, snapshot};
use crate::{Api, ApiError};

pub(crate) async fn inspect(State(api): State<Api>) -> Result<Response, ApiError> {
    let state = snapshot(&api).await?;
    let cluster = state.cluster().ok_or(ClusterError::NoSwarm)?;
    let swarm = Swarm::of(cluster, tls_info(&cluster.root_ca.certificate));
    Ok(ok(&swarm.with_join_tokens(&cluster.root_ca.join_tokens)))
}

/// What the root certificate says of itself; nodes are signed by it.
pub(crate) fn tls_info(bundle: &[u8]) -> TlsInfo<'_> {
    let root = x509_parser::pem::Pem::iter_from_buffer(bundle).next().and_then(Result::ok);
    let parsed = root.as_ref().and_then(|pem| pem.parse_x509().ok());
    let (subject, key) = parsed.map_or((Vec::new(), Vec::new()), |certificate| {
        (certificate.subject().as_raw().to_vec(), certificate.public_key().raw.to_vec())
    });
    TlsInfo {
        trust_root: String::from_utf8_lossy(bundle),
        cert_issuer_subject: Cow::Owned(subject),
        cert_issuer_public_key: Cow::Owned(key),
    }
}

pub(crate) async fn init(State(api): State<Api>, Json(request): Json<InitRequest>) -> Result<Response, ApiError> {
    let status = api.cluster.status();
    match status.state {
        LocalState::Inactive => {}
        LocalState::Locked => return Err(ClusterError::Locked.into()),
        _ if request.force_new_cluster => {}
        _ => return Err(ClusterError::AlreadyInSwarm.into()),
    }
    let availability = request.availability()?;
    let mut spec = request.spec.merge_into(ClusterSpec::default())?;
    spec.auto_lock_managers |= request.auto_lock_managers;
    let options = InitOptions {
        listen_addr: if request.listen_addr.is_empty() { "0.0.0.0:2377".to_owned() } else { request.listen_addr },
        advertise_addr: request.advertise_addr,
        data_path_addr: request.data_path_addr,
        data_path_port: request.data_path_port,
        address_pools: request.default_addr_pool,
        subnet_size: request.subnet_size,
        force_new_cluster: request.force_new_cluster,
        spec,
        availability,
    };
    let node = api.cluster.init(options).await?;
    Ok(ok(&node.as_str()))
}

pub(crate) async fn join(State(api): State<Api>) -> Result<Response, ApiError> {
    match api.cluster.status().state {
        LocalState::Inactive => Err(ApiError::unsupported("joining a swarm")),
        LocalState::Locked => Err(ClusterError::Locked.into()),
        _ => Err(ClusterError::AlreadyInSwarm.into()),
    }
}

pub(crate) async fn leave(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let force = strict_boolean(query.get("force"))?;
    if api.cluster.status().state == LocalState::Inactive {
        return Err(ClusterError::NotPartOfSwarm.into());
    }
    api.cluster.leave(force).await?;
    Ok(empty())
}

pub(crate) async fn update(
    State(api): State<Api>,
    query: Params,
    Json(request): Json<SwarmSpec<'static>>,
) -> Result<Response, ApiError> {
    let version = version_index("swarm", query.get("version"))?;
    let rotate = RotateTokens {
        worker: strict_boolean(query.get("rotateWorkerToken"))?,
        manager: strict_boolean(query.get("rotateManagerToken"))?,
        unlock_key: strict_boolean(query.get("rotateManagerUnlockKey"))?,
    };
    let state = snapshot(&api).await?;
    let current = state.cluster().ok_or(ClusterError::NoSwarm)?.spec.clone();
    api.cluster.update_cluster(version, request.merge_into(current)?, rotate).await?;
    Ok(empty())
}

pub(crate) async fn unlock_key(State(api): State<Api>) -> Result<Response, ApiError> {
    require_manager(&api)?;
    Ok(ok(&UnlockKey { unlock_key: api.cluster.unlock_key().await? }))
}

pub(crate) async fn unlock(State(api): State<Api>, Json(request): Json<UnlockKey>) -> Result<Response, ApiError> {
    match api.cluster.status().state {
        LocalState::Inactive => Err(ClusterError::NotPartOfSwarm.into()),
        LocalState::Locked => {
            api.cluster.unlock(&request.unlock_key).await?;
            Ok(empty())
        }
        _ => Err(ClusterError::NotLocked.into()),
    }
}
