//! Machines of the cluster.

use axum::extract::{Path, State};
use axum::response::Response;
use skep_api_types::{FilterError, Filters, Node, NodeSpec, Reachability, strict_boolean, version_index};
use skep_model::{self as model, ObjectId as _};

use crate::body::{Json, Params, empty, list as json_list, ok};
use crate::cluster::SwarmStatus;
use crate::routes::snapshot;
use crate::{Api, ApiError, lookup};

const FILTERS: [&str; 6] = ["id", "name", "label", "node.label", "role", "membership"];

fn reachability(status: &SwarmStatus, node: &model::Node) -> Reachability {
    let peer = status.managers.iter().find(|peer| peer.node_id == node.id);
    Reachability { leader: status.leader == Some(node.id), reachable: peer.and_then(|peer| peer.reachable) }
}

pub(crate) async fn list(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&FILTERS)?;
    check_words(&filters)?;
    let state = snapshot(&api).await?;
    let status = api.cluster.status();
    let nodes = state.nodes().filter(|node| passes(&filters, node));
    Ok(json_list(nodes.map(|node| Node::of(node, reachability(&status, node)))))
}

fn check_words(filters: &Filters) -> Result<(), FilterError> {
    for (key, known) in [("role", ["worker", "manager"]), ("membership", ["accepted", "pending"])] {
        let wrong = filters.values(key).and_then(|values| values.iter().find(|v| !known.contains(&v.as_str())));
        if let Some(value) = wrong {
            return Err(FilterError::Value { key: key.to_owned(), value: value.clone() });
        }
    }
    Ok(())
}

fn passes(filters: &Filters, node: &model::Node) -> bool {
    let about = node.observed.description.as_ref();
    let none = model::Labels::new();
    let name = if node.spec.name.is_empty() {
        about.map_or("", |about| about.hostname.as_str())
    } else {
        node.spec.name.as_str()
    };
    filters.any_prefix("id", node.id.as_str())
        && filters.any_prefix("name", name)
        && filters.labels("label", about.map_or(&none, |about| &about.engine.labels))
        && filters.labels("node.label", &node.spec.labels)
        && filters.any("role", |role| role == node.spec.role.name())
        // Whoever is in the state was accepted.
        && filters.any("membership", |membership| membership == "accepted")
}

pub(crate) async fn inspect(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let state = snapshot(&api).await?;
    let node = lookup::node(&state, &name)?;
    Ok(ok(&Node::of(node, reachability(&api.cluster.status(), node))))
}

pub(crate) async fn update(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
    Json(spec): Json<NodeSpec<'static>>,
) -> Result<Response, ApiError> {
    let version = version_index("node", query.get("version"))?;
    let state = snapshot(&api).await?;
    let spec = spec.into_model()?;
    let node = lookup::node(&state, &name)?.id;
    api.cluster.update_node(node, version, spec).await?;
    Ok(empty())
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let force = strict_boolean(query.get("force"))?;
    let state = snapshot(&api).await?;
    let node = lookup::node(&state, &name)?.id;
    api.cluster.remove_node(node, force).await?;
    Ok(empty())
}
