//! Level-triggered repair: looks at the kernel, compares with what should be, mends the difference and says so.

use crate::error::{NetworkError, Result};
use crate::link::{self, Link, Links};
use crate::network::Network;
use crate::{endpoint, namespace};
use skep_dataplane::{Endpoint, GatewayBridge, MacAddress, ruleset};
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// Makes bridge and settings right; says what was wrong. Called at the start too, when all may be missing.
pub(crate) fn ensure_bridge(network: &Network) -> Result<Vec<String>> {
    let bridge = network.bridge();
    let mut repaired = Vec::new();
    let mut links = network.links();
    let link = match links.find(&bridge.name)? {
        Some(link) if link.kind.as_deref() != Some("bridge") => return Err(NetworkError::ForeignLink(bridge.name)),
        Some(link) => link,
        None => {
            links.apply(vec![link::make_bridge(&bridge)])?;
            repaired.push(format!("bridge {} was missing", bridge.name));
            links.find(&bridge.name)?.ok_or_else(|| NetworkError::ForeignLink(bridge.name.clone()))?
        }
    };
    repaired.extend(ensure_settings(network, &bridge)?);
    repaired.extend(ensure_address(&mut links, &link, &bridge)?);
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
    let mut repaired = ensure_bridge(network)?;
    repaired.extend(ensure_endpoints(network)?);
    repaired.extend(ensure_rules(network)?);
    for what in &repaired {
        tracing::warn!("repaired the network: {what}");
    }
    Ok(repaired)
}

fn ensure_address(links: &mut Links, link: &Link, bridge: &GatewayBridge) -> Result<Vec<String>> {
    let mut repaired = Vec::new();
    let mac = MacAddress::of(bridge.gateway);
    if !link.up || link.mtu != bridge.mtu || link.mac != Some(mac) {
        let target = link::Target::Index(link.index);
        links.apply(vec![link::set_up(target, Some(bridge.mtu), Some(mac))])?;
        repaired.push(format!("bridge {} was down or changed", bridge.name));
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
fn ensure_settings(network: &Network, bridge: &GatewayBridge) -> Result<Vec<String>> {
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
        let localhost = format!("net.ipv4.conf.{name}.route_localnet");
        note(&localhost, namespace::set_sysctl(&localhost, "1")?);
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
    let bridge = network.bridge();
    let found: BTreeMap<String, Link> =
        network.links().all()?.into_iter().map(|link| (link.name.clone(), link)).collect();
    let master = found.get(&bridge.name).map(|link| link.index);
    let mut repaired = Vec::new();
    for endpoint in wanted {
        match ensure_endpoint(network, &bridge, &endpoint, found.get(&endpoint.host_link), master) {
            Ok(None) => {}
            Ok(Some(what)) => repaired.push(format!("container {} {what}", endpoint.container)),
            // One that cannot be mended must not keep the others from it.
            Err(error) if network.endpoint(&endpoint.container).is_some() => {
                tracing::warn!(container.id = endpoint.container, %error, "cannot repair the network of a container");
            }
            Err(_) => {}
        }
    }
    Ok(repaired)
}

fn ensure_endpoint(
    network: &Network,
    bridge: &GatewayBridge,
    endpoint: &Endpoint,
    host: Option<&Link>,
    master: Option<u32>,
) -> Result<Option<String>> {
    let Some(host) = host else {
        endpoint::reconnect(endpoint, bridge, &network.home, &mut network.links())?;
        return Ok(Some("had lost its link".into()));
    };
    if host.up && host.isolated && host.master == master {
        return Ok(None);
    }
    endpoint::attach(endpoint, bridge, &mut network.links())?;
    Ok(Some("was not an isolated port of the bridge".into()))
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
