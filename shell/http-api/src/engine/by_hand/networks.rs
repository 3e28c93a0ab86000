//! The networks of a container that is made by hand: `HostConfig.NetworkMode` and `NetworkingConfig.EndpointsConfig`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use skep_api_types::EndpointSettings;
use skep_engine::NetworkRecord;

use super::wanted::{invalid, refuse};
use crate::engine::EngineError;

/// Mode and networks: `host`, `none` and `container:NAME` have none of their own, and no network means `bridge`.
pub(super) fn networks(
    mode: &str,
    endpoints: &BTreeMap<String, EndpointSettings>,
) -> Result<(String, Vec<NetworkRecord>), EngineError> {
    for (network, endpoint) in endpoints {
        check(network, endpoint)?;
    }
    let is_default = |name: &str| matches!(name, "" | "default" | "bridge");
    if matches!(mode, "host" | "none") || mode.starts_with("container:") {
        if endpoints.keys().any(|name| name != mode && !is_default(name)) {
            return invalid(
                "container cannot be connected to a network of its own and to one of the machine or of another container",
            );
        }
        if mode == "container:" {
            return invalid("invalid container format container:<name|id>");
        }
        return Ok((mode.to_owned(), Vec::new()));
    }
    let mut records = Vec::new();
    if !is_default(mode) {
        records.push(record(mode, endpoints.get(mode)));
    } else if endpoints.keys().any(|name| !is_default(name)) {
        records.push(NetworkRecord::of_the_machine("bridge"));
    }
    for (name, endpoint) in endpoints.iter().filter(|(name, _)| *name != mode) {
        match (is_default(name), is_default(mode)) {
            (true, true) => {}
            (true, false) => records.push(NetworkRecord::of_the_machine("bridge")),
            (false, _) => records.push(record(name, Some(endpoint))),
        }
    }
    Ok((String::new(), records))
}

/// A network by what the user calls it; the engine looks it up.
fn record(name: &str, endpoint: Option<&EndpointSettings>) -> NetworkRecord {
    let address = endpoint.and_then(|endpoint| endpoint.ipam_config.as_ref()).map(|ipam| ipam.ipv4_address.clone());
    let aliases = endpoint.and_then(|endpoint| endpoint.aliases.clone());
    NetworkRecord {
        id: name.to_owned(),
        name: name.to_owned(),
        address: address.unwrap_or_default(),
        aliases: aliases.unwrap_or_default(),
        ..NetworkRecord::default()
    }
}

fn check(network: &str, endpoint: &EndpointSettings) -> Result<(), EngineError> {
    let is_default = matches!(network, "" | "default" | "bridge" | "host" | "none");
    let ipam = endpoint.ipam_config.as_ref();
    let address = ipam.map(|ipam| ipam.ipv4_address.as_str()).filter(|address| !address.is_empty());
    if is_default && endpoint.aliases.iter().flatten().next().is_some() {
        return invalid("network-scoped alias is supported only for containers in user defined networks");
    }
    if is_default && address.is_some() {
        return invalid("user specified IP address is supported on user defined networks only");
    }
    if let Some(address) = address.filter(|address| address.parse::<Ipv4Addr>().is_err()) {
        return invalid(format!("invalid IPv4 address: {address}"));
    }
    refuse(&[
        (ipam.is_some_and(|ipam| !ipam.ipv6_address.is_empty()), "an IPv6 address (--ip6)"),
        (ipam.is_some_and(|ipam| !ipam.link_local_ips.is_empty()), "link-local addresses (--link-local-ip)"),
        (endpoint.links.iter().flatten().next().is_some(), "links (--link): use a user-defined network"),
        (!endpoint.mac_address.is_empty(), "a MAC address (--mac-address)"),
        (endpoint.driver_opts.as_ref().is_some_and(|options| !options.is_empty()), "options of a network's driver"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(mode: &str, names: &[&str]) -> (String, Vec<String>) {
        let endpoints = names.iter().map(|name| ((*name).to_owned(), EndpointSettings::default())).collect();
        let (mode, records) = networks(mode, &endpoints).unwrap();
        (mode, records.into_iter().map(|record| record.name).collect())
    }

    #[test]
    fn modes_and_endpoints_become_networks() {
        let check = |mode, names: &[&str], kept: &str, networks: &[&str]| {
            let networks: Vec<String> = networks.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(ask(mode, names), (kept.to_owned(), networks));
        };
        check("default", &["default"], "", &[]);
        check("host", &["host"], "host", &[]);
        check("container:x", &[], "container:x", &[]);
        check("front", &["front", "back"], "", &["front", "back"]);
        check("bridge", &["bridge", "back"], "", &["bridge", "back"]);
    }
}
