//! Requests about networks of the swarm, and what a service may ask of them (SwarmKit `manager/controlapi/network.go`).

use std::net::Ipv4Addr;
use std::sync::Arc;

use skep_control::Env;
use skep_model::{
    Cidr, DesiredState, Network, NetworkId, NetworkSpec, ObjectId as _, PREDEFINED_LABEL, PublishMode, ServiceSpec,
    TaskState, check_service_name,
};
use skep_store::{AtomicGroup, Change, NewNetwork, Precondition, State};

use crate::{Admitted, Code, Refusal};

/// Longest and shortest subnet of an overlay network.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=30;

pub(crate) fn create(view: &State, spec: NetworkSpec, env: &mut Env) -> Result<Admitted, Refusal> {
    check_spec(&spec)?;
    if let Some(other) = view.network_by_name(&spec.name) {
        let text = format!("name conflicts with an existing object: network {} already exists", other.spec.name);
        return Err(Refusal::new(Code::AlreadyExists, text));
    }
    if spec.ingress
        && let Some(other) = view.ingress()
    {
        return Err(Refusal::new(Code::AlreadyExists, format!("ingress network ({}) is already present", other.id)));
    }
    check_overlap(view, &spec)?;
    let id: NetworkId = env.rng.id();
    let change = Change::CreateNetwork(Box::new(NewNetwork { id, spec: Arc::new(spec) }));
    Ok(Admitted { changes: vec![change.into()], network: Some(id), ..Admitted::default() })
}

fn check_spec(spec: &NetworkSpec) -> Result<(), Refusal> {
    let driver = spec.driver.name.as_str();
    if spec.ingress && !matches!(driver, "" | "overlay") {
        let text = "only overlay driver is currently supported for ingress network";
        return Err(Refusal::new(Code::Unimplemented, text));
    }
    if spec.attachable && spec.ingress {
        return Err(Refusal::invalid("ingress network cannot be attachable"));
    }
    check_service_name(&spec.name).map_err(|error| Refusal::invalid(error.to_string()))?;
    if spec.labels.contains_key(PREDEFINED_LABEL) {
        return Err(Refusal::invalid(format!(
            "label {PREDEFINED_LABEL} is for internally created predefined networks and cannot be applied by users"
        )));
    }
    if !matches!(driver, "" | "overlay") {
        return Err(Refusal::unsupported(format!("driver {driver} of a network of the swarm (--driver)")));
    }
    if spec.ipv6 {
        return Err(Refusal::unsupported("EnableIPv6 (--ipv6)"));
    }
    if spec.driver.options.contains_key("encrypted") {
        return Err(Refusal::unsupported("option encrypted of an overlay network (--opt encrypted)"));
    }
    check_mtu(spec)?;
    check_addresses(spec)
}

fn check_mtu(spec: &NetworkSpec) -> Result<(), Refusal> {
    let Some(mtu) = spec.driver.options.get("com.docker.network.driver.mtu") else { return Ok(()) };
    match mtu.parse::<u32>() {
        Ok(68..=65535) => Ok(()),
        _ => Err(Refusal::invalid(format!(
            "invalid value {mtu:?} of com.docker.network.driver.mtu: expected 68 to 65535"
        ))),
    }
}

fn check_addresses(spec: &NetworkSpec) -> Result<(), Refusal> {
    let Some(ipam) = &spec.ipam else { return Ok(()) };
    if !matches!(ipam.driver.name.as_str(), "" | "default") {
        return Err(Refusal::unsupported(format!("IPAM driver {} (--ipam-driver)", ipam.driver.name)));
    }
    let config = match ipam.configs.as_slice() {
        [] => return Ok(()),
        [config] => config,
        _ => return Err(Refusal::unsupported("more than one subnet of a network (--subnet)")),
    };
    let bad = |what: &str, text: &str| Refusal::invalid(format!("invalid {what} {text}: expected an IPv4 network"));
    let subnet: Cidr = config.subnet.parse().map_err(|_| bad("subnet", &config.subnet))?;
    if subnet != subnet.subnet() || !PREFIXES.contains(&subnet.prefix) {
        return Err(Refusal::invalid(format!(
            "invalid subnet {subnet}: expected an IPv4 network with a prefix length of 8 to 30"
        )));
    }
    if !config.range.is_empty() {
        let range: Cidr = config.range.parse().map_err(|_| bad("ip-range", &config.range))?;
        if range.prefix < subnet.prefix || !subnet.contains(range.address) {
            return Err(Refusal::invalid(format!("invalid ip-range {range}: subnet {subnet} does not contain it")));
        }
    }
    let gateway = (!config.gateway.is_empty()).then_some(&config.gateway);
    for address in gateway.into_iter().chain(config.reserved.values()) {
        if !address.parse::<Ipv4Addr>().is_ok_and(|address| subnet.contains(address)) {
            return Err(Refusal::invalid(format!(
                "invalid address {address}: parent subnet {subnet} doesn't contain this address"
            )));
        }
    }
    Ok(())
}

/// Docker takes such a network, and no task on it ever starts.
fn check_overlap(view: &State, spec: &NetworkSpec) -> Result<(), Refusal> {
    let subnets = |network: &Network| -> Vec<Cidr> {
        let given = &network.allocation.ipam.configs;
        let asked = network.spec.ipam.iter().flat_map(|ipam| &ipam.configs);
        given.iter().chain(asked).filter_map(|config| config.subnet.parse().ok()).collect()
    };
    let asked = spec.ipam.iter().flat_map(|ipam| &ipam.configs);
    for subnet in asked.filter_map(|config| config.subnet.parse::<Cidr>().ok()) {
        if view.networks().any(|other| subnets(other).iter().any(|used| used.overlaps(subnet))) {
            let text = "invalid pool request: Pool overlaps with other one on this address space";
            return Err(Refusal::new(Code::FailedPrecondition, text));
        }
    }
    Ok(())
}

pub(crate) fn remove(view: &State, id: NetworkId) -> Result<Admitted, Refusal> {
    let network = view.network(id).ok_or_else(|| Refusal::new(Code::NotFound, format!("network {id} not found")))?;
    let refuse = |text: String| Err(Refusal::new(Code::FailedPrecondition, text));
    if network.is_predefined() {
        return refuse(format!("network {} ({id}) is a swarm predefined network", network.spec.name));
    }
    match view.user_of_network(network) {
        Some(service) if network.spec.ingress => {
            return refuse(format!("ingress network cannot be removed because service {} depends on it", service.id));
        }
        Some(service) => return refuse(format!("network {id} is in use by service {}", service.id)),
        None => {}
    }
    let is_user = |task: &skep_model::Task| {
        task.intent.desired <= DesiredState::Running
            && task.state() <= TaskState::Running
            && task.attachment.networks.iter().any(|place| place.network == id)
    };
    if !network.spec.ingress
        && let Some(task) = view.tasks().find(|task| is_user(task))
    {
        return refuse(format!("network {id} is in use by task {}", task.id));
    }
    let group = AtomicGroup::of(Change::RemoveNetwork(id)).when(Precondition::NetworkUnused(id));
    Ok(Admitted { changes: vec![group], ..Admitted::default() })
}

/// What a service relies on: its networks exist, and that of the routing mesh where it publishes ports.
pub(crate) fn check(view: &State, spec: &ServiceSpec) -> Result<Vec<Precondition>, Refusal> {
    let mut needed = Vec::new();
    let publishes = spec.ports().iter().any(|port| port.mode == PublishMode::Ingress);
    for attachment in spec.networks() {
        let target = &attachment.target;
        let network = NetworkId::parse(target).ok().and_then(|id| view.network(id));
        let network = network.ok_or_else(|| Refusal::new(Code::NotFound, format!("network {target} not found")))?;
        let name = &network.spec.name;
        if network.spec.ingress {
            let text = format!("Service cannot be explicitly attached to the ingress network {name:?}");
            return Err(Refusal::invalid(text));
        }
        if !attachment.addresses.is_empty() {
            return Err(Refusal::unsupported("an address that a service asks for"));
        }
        if !attachment.driver_options.is_empty() {
            return Err(Refusal::unsupported("DriverOpts of a network (--network driver-opt=)"));
        }
        if network.is_predefined() && spec.networks().len() > 1 {
            return Err(Refusal::invalid(format!(
                "network {name:?} of the node cannot be combined with other networks"
            )));
        }
        if network.driver() == "host" && publishes {
            return Err(Refusal::invalid(
                "ports cannot be published in ingress mode with network \"host\": its containers have the node's own ports",
            ));
        }
        if needed.contains(&Precondition::NetworkExists(network.id)) {
            return Err(Refusal::invalid(format!("network {name:?} is named twice")));
        }
        needed.push(Precondition::NetworkExists(network.id));
    }
    match view.ingress() {
        Some(ingress) if publishes => needed.push(Precondition::NetworkExists(ingress.id)),
        None if publishes && view.cluster().is_some() => {
            let text = "service needs ingress network, but no ingress network is present";
            return Err(Refusal::new(Code::FailedPrecondition, text));
        }
        _ => {}
    }
    Ok(needed)
}

/// Networks in the deprecated place may stay as they are, not change.
pub(crate) fn check_moved(before: &ServiceSpec, after: &ServiceSpec) -> Result<(), Refusal> {
    if before.networks != after.networks && after.task.networks.is_empty() && !after.networks.is_empty() {
        let text = "networks must be migrated to TaskSpec before being changed";
        return Err(Refusal::new(Code::Unimplemented, text));
    }
    Ok(())
}
