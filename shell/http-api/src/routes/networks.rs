//! Networks of this machine. Swarm networks are not there, yet.

use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use skep_api_types::{FilterError, NetworkResource};

use crate::body::{Params, list as json_list, ok};
use crate::{Api, ApiError};

const FILTERS: [&str; 7] = ["id", "name", "driver", "label", "scope", "type", "dangling"];

pub(crate) async fn list(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&FILTERS)?;
    if let Some(kind) = filters.values("type").and_then(|kinds| kinds.iter().find(|kind| !is_type(kind))) {
        return Err(FilterError::Value { key: "type".to_owned(), value: kind.clone() }.into());
    }
    let dangling = filters.boolean("dangling")?;
    let networks = api.engine.networks().into_iter().filter(|network| {
        filters.any_prefix("id", &network.id)
            && filters.any("name", |name| network.name.contains(name.as_str()))
            && filters.any("driver", |driver| *driver == network.driver)
            && filters.any("scope", |scope| *scope == network.scope)
            // What the engine makes by itself is built in.
            && filters.any("type", |kind| kind == "builtin")
            && filters.labels("label", &network.labels.clone().unwrap_or_default())
            && dangling != Some(true)
    });
    Ok(json_list(networks.map(|network| NetworkResource { containers: None, ..network })))
}

fn is_type(kind: &str) -> bool {
    ["builtin", "custom"].contains(&kind)
}

fn find(api: &Api, name: &str) -> Result<NetworkResource, ApiError> {
    let mut networks = api.engine.networks();
    let exact = networks.iter().position(|network| network.id == name || network.name == name);
    let prefix = || {
        let mut found = networks.iter().enumerate().filter(|(_, network)| network.id.starts_with(name));
        let first = found.next().map(|(index, _)| index);
        if found.next().is_some() { None } else { first }
    };
    match exact.or_else(|| if name.is_empty() { None } else { prefix() }) {
        Some(index) => Ok(networks.swap_remove(index)),
        None => Err(ApiError::not_found(format!("network {name} not found"))),
    }
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let network = find(&api, &name)?;
    match query.get("scope") {
        Some(scope) if !scope.is_empty() && scope != network.scope => {
            Err(ApiError::not_found(format!("network {name} not found")))
        }
        _ => Ok(ok(&network)),
    }
}

pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let network = find(&api, &name)?;
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        format!("{} is a pre-defined network and cannot be removed", network.name),
    ))
}
