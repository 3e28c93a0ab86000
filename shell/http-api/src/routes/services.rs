//! Services.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode};
use skep_api_types::{
    CreateResponse, FilterError, Filters, Service, ServiceSpec, ServiceStatus, UpdateResponse, strict_boolean,
    version_index,
};
use skep_model::{self as model, DesiredState, ObjectId as _, ServiceDefinition, ServiceMode, TaskState};
use skep_store::State as Picture;

use crate::body::{Asked, Json, Params, empty, json, list as json_list, ok};
use crate::cluster::LogSelector;
use crate::hijack::{media_type, streaming};
use crate::logs::{self, task_lines};
use crate::routes::{networks, require_manager, snapshot};
use crate::{Api, ApiError, lookup};

const FILTERS: [&str; 5] = ["id", "name", "label", "mode", "runtime"];
const MODES: [&str; 4] = ["replicated", "global", "replicated-job", "global-job"];

pub(crate) async fn list(State(api): State<Api>, Asked(version): Asked, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&FILTERS)?;
    let unknown = filters.values("mode").and_then(|modes| modes.iter().find(|mode| !MODES.contains(&mode.as_str())));
    if let Some(mode) = unknown {
        return Err(FilterError::Value { key: "mode".to_owned(), value: mode.clone() }.into());
    }
    let with_status = version.is_at_least(41) && strict_boolean(query.get("status"))?;
    let picture = snapshot(&api).await?;
    let services = picture.services().filter(|service| passes(&filters, service));
    Ok(json_list(services.map(|service| {
        let mut rendered = Service::of(service);
        rendered.service_status = with_status.then(|| status(&picture, service));
        rendered
    })))
}

fn mode_name(mode: ServiceMode) -> &'static str {
    match mode {
        ServiceMode::Replicated => MODES[0],
        ServiceMode::Global => MODES[1],
        ServiceMode::ReplicatedJob { .. } => MODES[2],
        ServiceMode::GlobalJob => MODES[3],
    }
}

fn passes(filters: &Filters, service: &model::Service) -> bool {
    filters.any_prefix("id", service.id.as_str())
        && filters.any_prefix("name", &service.spec.name)
        && filters.labels("label", &service.spec.labels)
        && filters.any("mode", |mode| mode == mode_name(service.spec.mode))
        && filters.any("runtime", |runtime| runtime == "container")
}

/// Counts as `docker service ls` shows them.
fn status(picture: &Picture, service: &model::Service) -> ServiceStatus {
    let (mut wanted, mut running, mut completed) = (0, 0, 0);
    for task in picture.tasks_of_service(service.id) {
        let state = task.state();
        wanted += u64::from(task.intent.desired == DesiredState::Running);
        running += u64::from(state == TaskState::Running && task.intent.desired.wants_alive());
        completed += u64::from(state == TaskState::Complete);
    }
    let is_job = matches!(service.spec.mode, ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob);
    ServiceStatus {
        running_tasks: running,
        desired_tasks: match service.spec.mode {
            ServiceMode::Replicated => service.replicas,
            ServiceMode::ReplicatedJob { max_concurrent, .. } => max_concurrent,
            ServiceMode::Global | ServiceMode::GlobalJob => wanted,
        },
        completed_tasks: if is_job { completed } else { 0 },
    }
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let with_defaults = match query.get("insertDefaults") {
        Some(text) => strict_boolean(Some(text))
            .map_err(|error| ApiError::invalid(format!("invalid value for insertDefaults: {text}: {error}")))?,
        None => false,
    };
    let picture = snapshot(&api).await?;
    let mut service = Service::of(lookup::service(&picture, &name)?);
    if with_defaults {
        service.spec.insert_defaults();
    }
    Ok(ok(&service))
}

/// The text of `X-Registry-Auth` when it holds credentials; what cannot be read is ignored with a warning, as in Docker.
fn registry_auth(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("x-registry-auth")?.to_str().ok()?;
    let bytes = URL_SAFE.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).ok();
    let Some(fields) =
        bytes.and_then(|bytes| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes).ok())
    else {
        tracing::warn!("registry credentials of a service cannot be read and are ignored");
        return None;
    };
    let says_something = |value: &serde_json::Value| value.as_str().is_some_and(|text| !text.is_empty());
    fields.values().any(says_something).then(|| text.to_owned())
}

pub(crate) async fn create(
    State(api): State<Api>,
    Asked(version): Asked,
    headers: HeaderMap,
    Json(mut spec): Json<ServiceSpec<'static>>,
) -> Result<Response, ApiError> {
    require_manager(&api)?;
    spec.adjust_for(version);
    let mut definition = spec.into_model()?;
    networks::resolve(&api, &mut definition).await?;
    let created = api.cluster.create_service(definition, registry_auth(&headers)).await?;
    let answer = CreateResponse { id: created.id.to_string(), warnings: created.warnings };
    Ok(json(StatusCode::CREATED, &answer))
}

pub(crate) async fn update(
    State(api): State<Api>,
    Asked(asked): Asked,
    Path(name): Path<String>,
    query: Params,
    headers: HeaderMap,
    Json(mut spec): Json<ServiceSpec<'static>>,
) -> Result<Response, ApiError> {
    let version = version_index("service", query.get("version"))?;
    let picture = snapshot(&api).await?;
    let service = lookup::service(&picture, &name)?;
    // Docker looks at these after the service, and answers 500.
    let is_rollback = match query.get("rollback") {
        None | Some("" | "none") => false,
        Some("previous") => true,
        Some(other) => return Err(ApiError::internal(format!("unrecognized rollback option {other}"))),
    };
    let auth_of = match query.get("registryAuthFrom") {
        None | Some("" | "spec") => Some(&service.spec),
        // Not looked at when the request brings credentials of its own.
        Some("previous-spec") if service.previous.is_none() && registry_auth(&headers).is_none() => {
            return Err(ApiError::internal("service does not have a previous spec"));
        }
        Some("previous-spec") => service.previous.as_ref().map(|previous| &previous.spec),
        Some(_) => return Err(ApiError::internal("unsupported registryAuthFrom value")),
    };
    let warnings = if is_rollback {
        api.cluster.rollback_service(service.id, version).await?
    } else {
        spec.adjust_for(asked);
        let mut definition = with_registry_auth(spec.into_model()?, auth_of);
        networks::resolve(&api, &mut definition).await?;
        api.cluster.update_service(service.id, version, definition, registry_auth(&headers)).await?
    };
    Ok(ok(&UpdateResponse { warnings: (!warnings.is_empty()).then_some(warnings) }))
}

/// Keeps the sealed credentials that are stored already; new ones in the request replace them later.
fn with_registry_auth(
    mut definition: ServiceDefinition,
    stored: Option<&Arc<model::ServiceSpec>>,
) -> ServiceDefinition {
    let spec = Arc::make_mut(&mut definition.spec);
    spec.task.container.registry_auth = stored.and_then(|stored| stored.task.container.registry_auth.clone());
    definition
}

pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let picture = snapshot(&api).await?;
    let service = lookup::service(&picture, &name)?.id;
    api.cluster.remove_service(service).await?;
    Ok(empty())
}

pub(crate) async fn logs(
    State(api): State<Api>,
    Asked(version): Asked,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let options = logs::options(&query)?;
    let picture = snapshot(&api).await?;
    let service = lookup::service(&picture, &name)?;
    let tty = service.spec.task.container.tty;
    let selector = LogSelector { services: vec![service.id], tasks: Vec::new() };
    let lines = api.cluster.service_logs(selector, options).await?;
    Ok(streaming(media_type(version, tty), task_lines(lines, logs::style(&query, tty))))
}
