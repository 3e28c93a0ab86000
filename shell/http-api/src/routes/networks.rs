//! Networks: those of this machine and those of the swarm, as one list.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use skep_api_types::{
    FilterError, Filters, NetworkConnect, NetworkCreate, NetworkCreated, NetworkDisconnect, NetworkPeer,
    NetworkResource, NetworksPruned,
};
use skep_model::{NetworkId, ObjectId as _, ServiceDefinition};
use skep_store::State as Picture;

use crate::body::{Json, Params, json, list as json_list, ok};
use crate::cluster::LocalState;
use crate::engine::{EndpointWish, NetworkWish};
use crate::routes::images::until;
use crate::{Api, ApiError};

const FILTERS: [&str; 7] = ["id", "name", "driver", "label", "scope", "type", "dangling"];
const PRUNE_FILTERS: [&str; 3] = ["until", "label", "label!"];
/// Networks that every machine has.
const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// All networks: the swarm's with what this machine knows of them, then the machine's own.
struct Known {
    networks: Vec<NetworkResource>,
}

impl Known {
    async fn look(api: &Api) -> Result<Self, ApiError> {
        let mut here = api.engine.networks();
        if matches!(api.cluster.status().state, LocalState::Inactive) {
            // Only what is in a swarm has it, or had it and still has containers there.
            here.retain(|network| network.name != skep_engine::GATEWAY_NETWORK || !is_unused(network));
        }
        let mut networks = Vec::new();
        if let Some(picture) = picture(api).await? {
            let address = api.cluster.status().node_addr;
            let mut swarm: Vec<_> = picture.networks().filter(|network| !network.is_predefined()).collect();
            swarm.sort_by_key(|network| (network.meta.created_at, network.id));
            for network in swarm {
                let mut resource = NetworkResource::of_swarm(network);
                if let Some(used) = here.iter().position(|used| used.id == resource.id) {
                    let used = here.swap_remove(used);
                    resource.containers = used.containers;
                    resource.labels.get_or_insert_default();
                    let name = resource.id.chars().take(12).collect();
                    resource.peers = vec![NetworkPeer { name, ip: address.clone() }];
                }
                networks.push(resource);
            }
            here.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
        }
        networks.extend(here);
        Ok(Self { networks })
    }

    /// By id, name or unambiguous id prefix.
    fn find(&self, name: &str) -> Result<&NetworkResource, ApiError> {
        let missing = || ApiError::not_found(format!("network {name} not found"));
        if name.is_empty() {
            return Err(missing());
        }
        let by = |matches: &dyn Fn(&NetworkResource) -> bool| self.networks.iter().find(|network| matches(network));
        if let Some(found) = by(&|network| network.id == name).or_else(|| by(&|network| network.name == name)) {
            return Ok(found);
        }
        let mut prefixed = self.networks.iter().filter(|network| network.id.starts_with(name));
        let first = prefixed.next().ok_or_else(missing)?;
        match prefixed.count() {
            0 => Ok(first),
            more => Err(ApiError::invalid(format!(
                "network {name} is ambiguous ({} matches found based on ID prefix)",
                more + 1
            ))),
        }
    }
}

/// The cluster's state, where this node can see it.
async fn picture(api: &Api) -> Result<Option<Picture>, ApiError> {
    if api.cluster.status().control_available { Ok(Some(api.cluster.snapshot().await?)) } else { Ok(None) }
}

fn is_swarm(network: &NetworkResource) -> bool {
    network.scope == "swarm"
}

fn is_predefined(name: &str) -> bool {
    PREDEFINED.contains(&name)
}

fn is_unused(network: &NetworkResource) -> bool {
    network.containers.as_ref().is_none_or(BTreeMap::is_empty)
}

pub(crate) async fn list(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&FILTERS)?;
    let is_type = |kind: &String| ["builtin", "custom"].contains(&kind.as_str());
    if let Some(kind) = filters.values("type").and_then(|kinds| kinds.iter().find(|kind| !is_type(kind))) {
        return Err(FilterError::Value { key: "type".to_owned(), value: kind.clone() }.into());
    }
    let dangling = filters.boolean("dangling")?;
    let known = Known::look(&api).await?;
    let networks = known.networks.into_iter().filter(|network| passes(&filters, dangling, network));
    Ok(json_list(networks.map(|network| {
        // Who is on a network is told by inspecting alone.
        let containers = network.containers.is_some_and(|_| network.scope != "swarm").then(BTreeMap::new);
        NetworkResource { containers, peers: Vec::new(), ..network }
    })))
}

fn passes(filters: &Filters, dangling: Option<bool>, network: &NetworkResource) -> bool {
    let builtin = is_predefined(&network.name);
    let kind = if builtin { "builtin" } else { "custom" };
    filters.any_prefix("id", &network.id)
        && filters.any("name", |name| network.name.contains(name.as_str()))
        && filters.any("driver", |driver| *driver == network.driver)
        && filters.any("scope", |scope| *scope == network.scope)
        && filters.any("type", |wanted| wanted == kind)
        && filters.labels("label", &network.labels.clone().unwrap_or_default())
        && dangling.is_none_or(|wanted| wanted == (!builtin && is_unused(network)))
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Params,
) -> Result<Response, ApiError> {
    let verbose = query.get("verbose").unwrap_or_default();
    if !verbose.is_empty() && !["true", "false", "1", "0", "True", "False"].contains(&verbose) {
        return Err(ApiError::invalid(format!("invalid value for verbose: {verbose}")));
    }
    let known = Known::look(&api).await?;
    let scope = query.get("scope").unwrap_or_default();
    let missing = || ApiError::not_found(format!("network {name} not found"));
    if scope == "swarm"
        && let Some(picture) = picture(&api).await?
        && let Some(own) = picture.network_by_name(&name).filter(|network| network.is_predefined())
    {
        // So the client asks before it names a node's own network for a service.
        return Ok(ok(&NetworkResource::of_swarm(own)));
    }
    match known.find(&name) {
        Ok(network) if scope.is_empty() || scope == network.scope => Ok(ok(network)),
        Ok(_) => Err(missing()),
        Err(error) => {
            // Those that stand for the nodes' own are found by their ids alone.
            let Some(id) = NetworkId::parse(&name).ok() else { return Err(error) };
            let picture = picture(&api).await?.ok_or_else(missing)?;
            Ok(ok(&NetworkResource::of_swarm(picture.network(id).ok_or_else(missing)?)))
        }
    }
}

pub(crate) async fn create(State(api): State<Api>, Json(wanted): Json<NetworkCreate>) -> Result<Response, ApiError> {
    if wanted.name.trim().is_empty() {
        return Err(ApiError::invalid("invalid name: name is empty"));
    }
    if wanted.config_only || wanted.config_from.as_ref().is_some_and(|from| !from.network.is_empty()) {
        return Err(ApiError::unsupported("a network's configuration apart (--config-only, --config-from)"));
    }
    if wanted.enable_ipv6 == Some(true) {
        return Err(ApiError::unsupported("IPv6 on a network (--ipv6)"));
    }
    if wanted.enable_ipv4 == Some(false) {
        return Err(ApiError::unsupported("a network without IPv4 (--ipv4=false)"));
    }
    if !matches!(wanted.scope.as_str(), "" | "local" | "swarm") {
        return Err(ApiError::invalid(format!("invalid scope {}: expected local or swarm", wanted.scope)));
    }
    let swarm = wanted.scope == "swarm" || wanted.driver == "overlay";
    if swarm {
        super::require_manager(&api).map_err(|error| match error.status {
            // As in Docker, on this route.
            StatusCode::SERVICE_UNAVAILABLE => ApiError::internal(error.message),
            _ => error,
        })?;
    } else {
        check_local_driver(&wanted)?;
    }
    if let Some(ipam) = &wanted.ipam {
        ipam.check().map_err(ApiError::invalid)?;
    }
    let known = Known::look(&api).await?;
    if known.networks.iter().any(|network| network.name == wanted.name) || is_predefined(&wanted.name) {
        let text = format!("network with name {} already exists", wanted.name);
        return Err(ApiError::new(StatusCode::CONFLICT, text));
    }
    let id = if swarm {
        api.cluster.create_network(wanted.into_model()).await?.to_string()
    } else {
        api.engine.create_network(local_wish(wanted)?).await?
    };
    Ok(json(StatusCode::CREATED, &NetworkCreated { id, warning: String::new() }))
}

fn check_local_driver(wanted: &NetworkCreate) -> Result<(), ApiError> {
    match wanted.driver.as_str() {
        "" | "bridge" => {}
        one @ ("host" | "null") => {
            let text = format!("only one instance of \"{one}\" network is allowed");
            return Err(ApiError::new(StatusCode::FORBIDDEN, text));
        }
        known @ ("macvlan" | "ipvlan") => return Err(ApiError::unsupported(&format!("network driver {known}"))),
        other => return Err(ApiError::not_found(format!("plugin {other:?} not found"))),
    }
    if wanted.ingress {
        return Err(ApiError::invalid("ingress network needs the overlay driver (--driver overlay)"));
    }
    Ok(())
}

fn local_wish(wanted: NetworkCreate) -> Result<NetworkWish, ApiError> {
    let ipam = wanted.ipam.unwrap_or_default();
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(ApiError::unsupported(&format!("IPAM driver {} (--ipam-driver)", ipam.driver)));
    }
    if ipam.options.is_some_and(|options| !options.is_empty()) {
        return Err(ApiError::unsupported("an option of the IPAM driver (--ipam-opt)"));
    }
    let mut subnets = ipam.config.unwrap_or_default().into_iter();
    let subnet = subnets.next().unwrap_or_default();
    if subnets.next().is_some() {
        return Err(ApiError::unsupported("more than one subnet of a network (--subnet)"));
    }
    Ok(NetworkWish {
        name: wanted.name,
        labels: wanted.labels.unwrap_or_default(),
        options: wanted.options.unwrap_or_default(),
        internal: wanted.internal,
        attachable: wanted.attachable,
        ipam: subnet,
    })
}

pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let known = Known::look(&api).await?;
    let network = known.find(&name)?;
    if is_predefined(&network.name) {
        let text = format!("{} is a pre-defined network and cannot be removed", network.name);
        return Err(ApiError::new(StatusCode::FORBIDDEN, text));
    }
    remove_network(&api, network).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn remove_network(api: &Api, network: &NetworkResource) -> Result<(), ApiError> {
    if is_swarm(network) {
        let id = NetworkId::parse(&network.id).map_err(|error| ApiError::internal(error.to_string()))?;
        api.cluster.remove_network(id).await?;
    } else {
        api.engine.remove_network(&network.id).await?;
    }
    Ok(())
}

pub(crate) async fn prune(State(api): State<Api>, query: Params) -> Result<Response, ApiError> {
    let filters = query.filters(&PRUNE_FILTERS)?;
    let until = until(&filters)?;
    let known = Known::look(&api).await?;
    let (swarm, local): (Vec<_>, Vec<_>) = known.networks.iter().partition(|network| is_swarm(network));
    let mut deleted = Vec::new();
    for network in local.into_iter().chain(swarm) {
        let labels = network.labels.clone().unwrap_or_default();
        let is_wanted = !is_predefined(&network.name)
            && !network.ingress
            && is_unused(network)
            && filters.labels("label", &labels)
            && (filters.values("label!").is_none() || !filters.labels("label!", &labels))
            && until.is_none_or(|until| network.created <= until);
        // One that is used after all stays.
        if is_wanted && remove_network(&api, network).await.is_ok() {
            deleted.push(network.name.clone());
        }
    }
    Ok(ok(&NetworksPruned { networks_deleted: (!deleted.is_empty()).then_some(deleted) }))
}

pub(crate) async fn connect(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(wanted): Json<NetworkConnect>,
) -> Result<Response, ApiError> {
    let known = Known::look(&api).await?;
    let network = known.find(&name)?;
    if is_swarm(network) {
        return Err(not_attachable(network));
    }
    let wish = endpoint_wish(wanted.endpoint_config.unwrap_or_default())?;
    api.engine.connect(&network.id, &wanted.container, wish).await?;
    Ok(crate::body::empty())
}

/// Containers made by hand cannot be attached to a network of the swarm: by its rules or, so far, by ours.
fn not_attachable(network: &NetworkResource) -> ApiError {
    if network.attachable {
        return ApiError::unsupported("attaching a container made by hand to a network of the swarm");
    }
    ApiError::internal(format!(
        "Could not attach to network {}: rpc error: code = PermissionDenied desc = network {} not manually attachable",
        network.name, network.name
    ))
}

fn endpoint_wish(settings: skep_api_types::EndpointSettings) -> Result<EndpointWish, ApiError> {
    let given = |map: &Option<BTreeMap<String, String>>| map.as_ref().is_some_and(|map| !map.is_empty());
    if given(&settings.driver_opts) {
        return Err(ApiError::unsupported("an option of the network's driver (--driver-opt)"));
    }
    if settings.links.as_ref().is_some_and(|links| !links.is_empty()) {
        return Err(ApiError::unsupported("a link between containers (--link)"));
    }
    if !settings.mac_address.is_empty() {
        return Err(ApiError::unsupported("a hardware address of an endpoint (--mac-address)"));
    }
    let address = settings.ipam_config.map(|ipam| ipam.ipv4_address).filter(|address| !address.is_empty());
    let address = address
        .map(|text| text.parse::<Ipv4Addr>().map_err(|_| ApiError::invalid(format!("invalid IPv4 address: {text}"))))
        .transpose()?;
    Ok(EndpointWish { address, aliases: settings.aliases.unwrap_or_default() })
}

pub(crate) async fn disconnect(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(wanted): Json<NetworkDisconnect>,
) -> Result<Response, ApiError> {
    let known = Known::look(&api).await?;
    let network = known.find(&name)?;
    if is_swarm(network) {
        return Err(not_attachable(network));
    }
    api.engine.disconnect(&network.id, &wanted.container, wanted.force).await?;
    Ok(crate::body::empty())
}

/// Puts ids where a service names networks, as Docker's daemon does; what is not the swarm's is refused.
pub(crate) async fn resolve(api: &Api, definition: &mut ServiceDefinition) -> Result<(), ApiError> {
    if definition.spec.task.networks.is_empty() && definition.spec.networks.is_empty() {
        return Ok(());
    }
    let known = Known::look(api).await?;
    let Some(picture) = picture(api).await? else { return Ok(()) };
    let spec = Arc::make_mut(&mut definition.spec);
    for attachment in spec.task.networks.iter_mut().chain(&mut spec.networks) {
        let stored = NetworkId::parse(&attachment.target).ok().and_then(|id| picture.network(id));
        if stored.is_some() {
            continue;
        }
        let network = known.find(&attachment.target)?;
        let of_the_node = || picture.networks().find(|own| own.is_predefined() && own.spec.name == network.name);
        attachment.target = if is_swarm(network) {
            network.id.clone()
        } else if let Some(own) = of_the_node() {
            own.id.to_string()
        } else {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                format!(
                    "The network {} cannot be used with services. Only networks scoped to the swarm can be used, such \
                     as those created with the overlay driver.",
                    network.name
                ),
            ));
        };
    }
    Ok(())
}
