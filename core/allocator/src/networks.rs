//! What networks are given, and what services and tasks get of them.

use skep_model::{
    Cidr, Driver, EndpointMode, Network, NetworkAllocation, NetworkId, ObjectId as _, PublishMode, Service,
    ServiceSpec, TaskNetwork, VXLAN_ID_LIST, VirtualIp,
};
use skep_store::{Change, State};

use crate::addresses::{AddressBook, addresses, virtual_addresses};

/// Why something of a network cannot be given now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lack {
    /// It is on its way.
    Wait,
    /// It is not there; for people.
    Reason(String),
}

/// What a network that has nothing yet is given: its driver, subnet and VXLAN id, or why not.
pub(crate) fn allocate(view: &State, book: &mut AddressBook, network: &Network) -> NetworkAllocation {
    let mut driver = Driver { name: network.driver().to_owned(), options: network.spec.driver.options.clone() };
    if !network.has_addresses() {
        return NetworkAllocation { driver: Some(driver), ..NetworkAllocation::default() };
    }
    let (pools, size) = view.cluster().map_or((&[][..], 0), |cluster| (&*cluster.address_pools, cluster.subnet_size));
    let given = book.choose_subnet(network, pools, size).and_then(|ipam| Ok((ipam, book.choose_vni(network)?)));
    match given {
        Ok((ipam, vni)) => {
            driver.options.insert(VXLAN_ID_LIST.to_owned(), vni.to_string());
            NetworkAllocation { driver: Some(driver), ipam, ..NetworkAllocation::default() }
        }
        Err(error) => {
            book.close(network.id);
            NetworkAllocation { reason: Some(error.to_string()), ..NetworkAllocation::default() }
        }
    }
}

/// The change that writes it down.
pub(crate) fn change(network: &Network, allocation: NetworkAllocation) -> Change {
    Change::SetNetworkAllocation {
        network: network.id,
        expect: network.allocation.version,
        allocation: Box::new(allocation),
    }
}

/// The networks of a service's tasks, that of the routing mesh first; `None` for one that is not there.
fn networks_of<'a>(
    view: &'a State,
    spec: &'a ServiceSpec,
) -> impl Iterator<Item = Result<&'a Network, &'a str>> + use<'a> {
    let publishes = spec.ports().iter().any(|port| port.mode == PublishMode::Ingress);
    let ingress = publishes.then(|| view.ingress()).flatten();
    let named = spec.networks().iter().map(|attachment| {
        let id = NetworkId::parse(&attachment.target).ok();
        id.and_then(|id| view.network(id)).map(|network| &**network).ok_or(attachment.target.as_str())
    });
    ingress.map(|network| Ok(&**network)).into_iter().chain(named)
}

/// True when tasks of this spec need more than ports.
pub(crate) fn has_networks(view: &State, spec: &ServiceSpec) -> bool {
    networks_of(view, spec).next().is_some()
}

/// True when a service of this spec has addresses of its own.
pub(crate) fn has_virtual_ips(view: &State, spec: &ServiceSpec) -> bool {
    is_vip(spec) && networks_of(view, spec).any(|network| network.is_ok_and(Network::has_addresses))
}

fn is_vip(spec: &ServiceSpec) -> bool {
    spec.endpoint.as_ref().is_none_or(|endpoint| endpoint.mode == EndpointMode::Vip)
}

fn usable<'a>(network: Result<&'a Network, &str>) -> Result<&'a Network, Lack> {
    let network = network.map_err(|target| Lack::Reason(format!("network {target} not found")))?;
    match (&network.allocation.reason, network.is_allocated()) {
        (_, true) => Ok(network),
        (None, false) => Err(Lack::Wait),
        (Some(reason), false) => {
            Err(Lack::Reason(format!("network \"{}\" has no addresses: {reason}", network.spec.name)))
        }
    }
}

fn exhausted(book: &AddressBook, network: &Network) -> Lack {
    let (subnet, held) = book.usage(network.id).map_or((String::new(), 0), |(subnet, held)| (subnet.to_string(), held));
    Lack::Reason(format!(
        "no address is left on network \"{}\": {held} of subnet {subnet} are in use",
        network.spec.name
    ))
}

fn release(book: &mut AddressBook, held: impl Iterator<Item = (NetworkId, Cidr)>) {
    for (network, address) in held {
        // Held for a moment only: nobody waits for it.
        book.release(network, address);
    }
}

/// The addresses of a service: kept where it has one, else chosen. All of them are held once more.
pub(crate) fn virtual_ips(
    view: &State,
    book: &mut AddressBook,
    service: &Service,
    before: &[VirtualIp],
) -> Result<Vec<VirtualIp>, Lack> {
    let mut given: Vec<VirtualIp> = Vec::new();
    if !is_vip(&service.spec) {
        return Ok(given);
    }
    for network in networks_of(view, &service.spec) {
        let chosen = usable(network).and_then(|network| {
            if !network.has_addresses() || given.iter().any(|ip| ip.network == network.id) {
                return Ok(None);
            }
            let kept = before.iter().find(|ip| ip.network == network.id).map(|ip| ip.address);
            let address = kept.or_else(|| book.choose(network.id)).ok_or_else(|| exhausted(book, network))?;
            Ok(Some(VirtualIp { network: network.id, address }))
        });
        match chosen {
            Ok(Some(ip)) => {
                book.hold(ip.network, ip.address);
                given.push(ip);
            }
            Ok(None) => {}
            Err(lack) => {
                release(book, virtual_addresses(&given));
                return Err(lack);
            }
        }
    }
    Ok(given)
}

/// The places of a new task on its networks. All addresses are held once.
pub(crate) fn places(view: &State, book: &mut AddressBook, spec: &ServiceSpec) -> Result<Vec<TaskNetwork>, Lack> {
    let mut given: Vec<TaskNetwork> = Vec::new();
    for network in networks_of(view, spec) {
        let chosen = usable(network).and_then(|network| {
            if !network.has_addresses() {
                return Ok(TaskNetwork { network: network.id, addresses: Vec::new() });
            }
            let address = book.choose(network.id).ok_or_else(|| exhausted(book, network))?;
            Ok(TaskNetwork { network: network.id, addresses: vec![address] })
        });
        match chosen {
            Ok(place) => {
                place.addresses.iter().for_each(|address| book.hold(place.network, *address));
                given.push(place);
            }
            Err(lack) => {
                release(book, addresses(&given));
                return Err(lack);
            }
        }
    }
    Ok(given)
}
