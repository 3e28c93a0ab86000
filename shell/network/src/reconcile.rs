//! Level-triggered repair: looks at the kernel, compares with what should be, mends the difference and says so.

use crate::endpoint::Wire;
use crate::error::{NetworkError, Result};
use crate::link::{self, Link, Links};
use crate::network::Network;
use crate::wiring::wires;
use crate::{endpoint, namespace};
use skep_dataplane::{Bridge, Endpoint, MAIN, MacAddress, ruleset};
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// Makes all bridges right; says what was wrong. Called at the start too, when all may be missing.
pub(crate) fn ensure_bridges(network: &Network) -> Result<Vec<String>> {
    let bridges = network.bridges();
    let mut repaired = Vec::new();
    for (key, bridge) in bridges {
        match ensure_bridge(network, &bridge) {
            Ok(what) => repaired.extend(what),
            // One that cannot be had must not keep the others from it; it may be gone already.
            Err(error) if key != MAIN => tracing::warn!(%error, bridge = bridge.name, "cannot repair a bridge"),
            Err(error) => return Err(error),
        }
    }
    Ok(repaired)
}

/// Is the link a bridge that skep made?
pub(crate) fn is_our_bridge(link: &Link) -> bool {
    link.kind.as_deref() == Some("bridge") && link.group == link::OUR_GROUP
}

/// Makes one bridge and its settings right; says what was wrong.
pub(crate) fn ensure_bridge(network: &Network, bridge: &Bridge) -> Result<Vec<String>> {
    let mut repaired = Vec::new();
    let mut links = network.links();
    let link = match links.find(&bridge.name)? {
        Some(link) if link.kind.as_deref() != Some("bridge") => {
            return Err(NetworkError::ForeignLink(bridge.name.clone()));
        }
        Some(link) => link,
        None => {
            links.apply(vec![link::make_bridge(bridge)])?;
            repaired.push(format!("bridge {} was missing", bridge.name));
            links.find(&bridge.name)?.ok_or_else(|| NetworkError::ForeignLink(bridge.name.clone()))?
        }
    };
    repaired.extend(ensure_settings(network, bridge)?);
    repaired.extend(ensure_address(&mut links, &link, bridge)?);
    Ok(repaired)
}

/// Says at the start what cannot be helped: see [`ensure_settings`].
pub(crate) fn warn_of_bridged_calls(network: &Network) -> Result<()> {
    let calls = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    let initial = namespace::is_initial(&network.home);
    let on =
        namespace::within(&network.home, || Ok(std::fs::read_to_string(calls).is_ok_and(|now| now.trim() == "1")))?;
    if initial && on {
        tracing::warn!(
            "net.bridge.bridge-nf-call-iptables is 1 and may be needed by others: containers cannot reach the ports \
             that this node publishes by the node's address"
        );
    }
    Ok(())
}

/// See [`Network::reconcile`]. What a container does to its own end is its own business: only the node's is looked at.
pub(crate) fn reconcile(network: &Network) -> Result<Vec<String>> {
    let mut repaired = ensure_bridges(network)?;
    repaired.extend(ensure_endpoints(network)?);
    repaired.extend(ensure_rules(network)?);
    for what in &repaired {
        tracing::warn!("repaired the network: {what}");
    }
    Ok(repaired)
}

fn ensure_address(links: &mut Links, link: &Link, bridge: &Bridge) -> Result<Vec<String>> {
    let mut repaired = Vec::new();
    let mac = MacAddress::of(bridge.gateway);
    if !link.up || link.mtu != bridge.mtu || link.mac != Some(mac) {
        let target = link::Target::Index(link.index);
        links.apply(vec![link::set_up(target, Some(bridge.mtu), Some(mac))])?;
        repaired.push(format!("bridge {} was down or changed", bridge.name));
    }
    if !bridge.has_address() {
        return Ok(repaired);
    }
    let (gateway, prefix) = (bridge.gateway, bridge.subnet.prefix());
    let found = links.addresses()?;
    if !found.iter().any(|a| a.index == link.index && a.address == gateway && a.prefix == prefix) {
        links.apply(vec![link::add_address(link.index, gateway, prefix, bridge.subnet.broadcast())])?;
        repaired.push(format!("bridge {} had lost address {gateway}/{prefix}", bridge.name));
    }
    Ok(repaired)
}

/// Forwarding, localhost to published ports, and bridged frames kept out of the IP hooks: with them a container could
/// not reach a published port that leads to its own bridge. The machine's first namespace may owe that last setting to
/// others, so there it stays as it is.
fn ensure_settings(network: &Network, bridge: &Bridge) -> Result<Vec<String>> {
    let initial = namespace::is_initial(&network.home);
    let name = &bridge.name;
    namespace::within(&network.home, || {
        let mut repaired = Vec::new();
        let mut note = |setting: &str, changed: bool| {
            if changed {
                repaired.push(format!("setting {setting} had another value"));
            }
        };
        note("net.ipv4.ip_forward", namespace::set_sysctl("net.ipv4.ip_forward", "1")?);
        if bridge.has_address() {
            let localhost = format!("net.ipv4.conf.{name}.route_localnet");
            note(&localhost, namespace::set_sysctl(&localhost, "1")?);
        }
        let ipv6 = format!("net.ipv6.conf.{name}.disable_ipv6");
        note(&ipv6, namespace::set_sysctl_if_present(&ipv6, "1")?);
        if !initial {
            let calls = "net.bridge.bridge-nf-call-iptables";
            note(calls, namespace::set_sysctl_if_present(calls, "0")?);
        }
        Ok(repaired)
    })
}

fn ensure_endpoints(network: &Network) -> Result<Vec<String>> {
    let wanted: Vec<Endpoint> = {
        let picture = network.picture();
        let wanted = picture.network.endpoints.values();
        wanted.filter(|endpoint| !picture.is_busy(&endpoint.container)).cloned().collect()
    };
    let found: BTreeMap<String, Link> =
        network.links().all()?.into_iter().map(|link| (link.name.clone(), link)).collect();
    let mut repaired = Vec::new();
    for endpoint in wanted {
        let wires = wires(&network.picture().network, &endpoint);
        for wire in wires {
            let master = found.get(&wire.bridge.name).map(|link| link.index);
            match ensure_wire(network, &endpoint, &wire, found.get(&wire.leg.host_link), master) {
                Ok(None) => {}
                Ok(Some(what)) => repaired.push(format!("container {} {what}", endpoint.container)),
                // One that cannot be mended must not keep the others from it.
                Err(error) if network.endpoint(&endpoint.container).is_some() => {
                    tracing::warn!(container.id = endpoint.container, %error, "cannot repair the network of a container");
                }
                Err(_) => {}
            }
        }
    }
    Ok(repaired)
}

fn ensure_wire(
    network: &Network,
    endpoint: &Endpoint,
    wire: &Wire,
    host: Option<&Link>,
    master: Option<u32>,
) -> Result<Option<String>> {
    let Some(host) = host else {
        endpoint::connect(endpoint, wire, &network.home, &mut network.links())?;
        return Ok(Some("had lost its link".into()));
    };
    if host.up && host.isolated == wire.bridge.isolated && host.master == master {
        return Ok(None);
    }
    endpoint::attach(&endpoint.container, wire, &mut network.links())?;
    let what = if wire.bridge.isolated { "an isolated port of the bridge" } else { "a port of the bridge" };
    Ok(Some(format!("was not {what}")))
}

fn ensure_rules(network: &Network) -> Result<Option<String>> {
    let mut applied = network.applied();
    let mut verified = network.verified.lock().unwrap_or_else(PoisonError::into_inner);
    let generation = network.rule_generation();
    if applied.is_some() && generation.is_some() && *verified == generation {
        return Ok(None);
    }
    let fault = match &*applied {
        None => "were not known",
        Some(shown) => match network.nft.list(&network.home)? {
            None => "were missing",
            found if found != network.nft.expected(&ruleset::full(shown))? => "had been changed",
            _ => {
                // A change since then has another number and is looked at next time.
                *verified = generation;
                return Ok(None);
            }
        },
    };
    *applied = None;
    drop((applied, verified));
    network.flush()?;
    Ok(Some(format!("nft rules {fault}")))
}
