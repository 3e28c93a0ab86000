//! Networks as they are asked for, listed and inspected.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skep_model as model;
use skep_model::ObjectId as _;

use crate::{EndpointSettings, ObjectVersion, Timestamp};

/// A network. `Containers` is filled in by inspecting alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Network and documented there")]
pub struct NetworkResource {
    pub name: String,
    pub id: String,
    pub created: Timestamp,
    pub scope: String,
    pub driver: String,
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    pub enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_from: NetworkReference,
    pub config_only: bool,
    pub containers: Option<BTreeMap<String, EndpointResource>>,
    pub options: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<NetworkPeer>,
}

/// Address management.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Ipam {
    pub driver: String,
    pub options: Option<BTreeMap<String, String>>,
    pub config: Option<Vec<IpamConfig>>,
}

/// One subnet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct IpamConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
    pub ip_range: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

/// The network that a configuration is taken from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the name says it")]
pub struct NetworkReference {
    pub network: String,
}

/// A container on a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct EndpointResource {
    pub name: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub mac_address: String,
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}

/// A node on an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct NetworkPeer {
    pub name: String,
    #[serde(rename = "IP")]
    pub ip: String,
}

/// What creating a network asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's NetworkCreateRequest and documented there")]
pub struct NetworkCreate {
    pub name: String,
    pub check_duplicate: Option<bool>,
    pub driver: String,
    pub scope: String,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_only: bool,
    pub config_from: Option<NetworkReference>,
    #[serde(rename = "IPAM")]
    pub ipam: Option<Ipam>,
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: Option<bool>,
    pub options: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
}

/// What creating a network answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkCreated {
    /// The new network's id.
    pub id: String,
    /// What a person should know.
    pub warning: String,
}

/// What connecting a container asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct NetworkConnect {
    pub container: String,
    pub endpoint_config: Option<EndpointSettings>,
}

/// What disconnecting a container asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct NetworkDisconnect {
    pub container: String,
    pub force: bool,
}

/// What removing all unused networks answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworksPruned {
    /// Names of those that were removed; `null` when none was.
    pub networks_deleted: Option<Vec<String>>,
}

impl Ipam {
    /// Checks subnets, ranges and addresses with the engine's texts (moby `api/types/network/ipam.go`).
    ///
    /// # Errors
    /// Everything that is wrong, a line each.
    pub fn check(&self) -> Result<(), String> {
        let mut wrong = Vec::new();
        for config in self.config.iter().flatten() {
            config.check(&mut wrong);
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("invalid network config:\n{}", wrong.join("\n"))) }
    }
}

impl IpamConfig {
    fn check(&self, wrong: &mut Vec<String>) {
        let subnet = match self.subnet.parse::<model::Cidr>() {
            Ok(subnet) => subnet,
            Err(_) if self.subnet.contains(':') => {
                return wrong.push(format!("invalid subnet {}: IPv6 is not supported yet", self.subnet));
            }
            Err(_) => return wrong.push(format!("invalid subnet {}: invalid CIDR block notation", self.subnet)),
        };
        if subnet != subnet.subnet() {
            wrong.push(format!("invalid subnet {subnet}: it should be {}", subnet.subnet()));
        }
        self.check_range(subnet, wrong);
        let gateway = (!self.gateway.is_empty()).then_some(("gateway", &self.gateway));
        let others = self.auxiliary_addresses.values().map(|address| ("auxiliary address", address));
        for (what, address) in gateway.into_iter().chain(others) {
            match address.parse() {
                Err(_) => wrong.push(format!("invalid {what} {address}: invalid address")),
                Ok(parsed) if !subnet.contains(parsed) => {
                    wrong
                        .push(format!("invalid {what} {address}: parent subnet {subnet} doesn't contain this address"));
                }
                Ok(_) => {}
            }
        }
    }

    fn check_range(&self, subnet: model::Cidr, wrong: &mut Vec<String>) {
        let text = &self.ip_range;
        if text.is_empty() {
            return;
        }
        let Ok(range) = text.parse::<model::Cidr>() else {
            return wrong.push(format!("invalid ip-range {text}: invalid CIDR block notation"));
        };
        if range != range.subnet() {
            wrong.push(format!("invalid ip-range {range}: it should be {}", range.subnet()));
        }
        if range.prefix < subnet.prefix {
            wrong.push(format!("invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"));
        } else if !subnet.contains(range.address) {
            wrong.push(format!("invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"));
        }
    }

    fn of(config: &model::IpamConfig) -> Self {
        Self {
            subnet: config.subnet.clone(),
            ip_range: config.range.clone(),
            gateway: config.gateway.clone(),
            auxiliary_addresses: config.reserved.clone(),
        }
    }
}

fn given<K: Clone + Ord, V: Clone>(map: &BTreeMap<K, V>) -> Option<BTreeMap<K, V>> {
    (!map.is_empty()).then(|| map.clone())
}

impl NetworkCreate {
    /// What is asked of the swarm.
    #[must_use]
    pub fn into_model(self) -> model::NetworkSpec {
        let ipam = self.ipam.map(|ipam| model::IpamOptions {
            driver: model::Driver { name: ipam.driver, options: ipam.options.unwrap_or_default() },
            configs: ipam
                .config
                .unwrap_or_default()
                .into_iter()
                .map(|config| model::IpamConfig {
                    subnet: config.subnet,
                    range: config.ip_range,
                    gateway: config.gateway,
                    reserved: config.auxiliary_addresses,
                })
                .collect(),
        });
        model::NetworkSpec {
            name: self.name,
            labels: self.labels.unwrap_or_default(),
            driver: model::Driver { name: self.driver, options: self.options.unwrap_or_default() },
            ipv6: self.enable_ipv6 == Some(true),
            internal: self.internal,
            attachable: self.attachable,
            ingress: self.ingress,
            ipam,
        }
    }
}

impl NetworkResource {
    /// A network of the swarm. Labels and options are `null` where there are none, as the engine shows them.
    #[must_use]
    pub fn of_swarm(network: &model::Network) -> Self {
        let (spec, given_to) = (&network.spec, &network.allocation);
        let options = given_to.driver.as_ref().map_or(&spec.driver.options, |driver| &driver.options);
        let ipam = if given_to.driver.is_some() { Some(&given_to.ipam) } else { spec.ipam.as_ref() };
        Self {
            name: spec.name.clone(),
            id: network.id.to_string(),
            created: network.meta.created_at.into(),
            scope: "swarm".to_owned(),
            driver: network.driver().to_owned(),
            enable_ipv4: Some(true),
            enable_ipv6: spec.ipv6,
            ipam: Ipam {
                driver: ipam.map(|ipam| ipam.driver.name.clone()).unwrap_or_default(),
                options: ipam.and_then(|ipam| given(&ipam.driver.options)),
                config: Some(ipam.iter().flat_map(|ipam| &ipam.configs).map(IpamConfig::of).collect()),
            },
            internal: spec.internal,
            attachable: spec.attachable,
            ingress: spec.ingress,
            options: given(options),
            labels: given(&spec.labels),
            ..Self::default()
        }
    }
}

/// A task's place on a network of the swarm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's NetworkAttachment and documented there")]
pub struct NetworkAttachment {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<SwarmNetwork>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// A network of the swarm, as tasks show it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's swarm Network and documented there")]
pub struct SwarmNetwork {
    #[serde(rename = "ID")]
    pub id: String,
    pub version: ObjectVersion,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: SwarmNetworkSpec,
    pub driver_state: SwarmDriver,
    #[serde(rename = "IPAMOptions", skip_serializing_if = "Option::is_none")]
    pub ipam_options: Option<SwarmIpam>,
}

/// What was asked of a network of the swarm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's swarm NetworkSpec and documented there")]
pub struct SwarmNetworkSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub driver_configuration: SwarmDriver,
    #[serde(rename = "IPv6Enabled", skip_serializing_if = "is_false")]
    pub ipv6_enabled: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub internal: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub attachable: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub ingress: bool,
    #[serde(rename = "IPAMOptions", skip_serializing_if = "Option::is_none")]
    pub ipam_options: Option<SwarmIpam>,
    pub scope: String,
}

/// A driver of a network of the swarm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SwarmDriver {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// Address management of a network of the swarm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SwarmIpam {
    pub driver: SwarmDriver,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<SwarmIpamConfig>,
}

/// One subnet of a network of the swarm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SwarmIpamConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subnet: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub range: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl SwarmDriver {
    fn of(driver: &model::Driver) -> Self {
        Self { name: driver.name.clone(), options: driver.options.clone() }
    }
}

impl SwarmIpam {
    fn of(ipam: &model::IpamOptions) -> Self {
        let config = |config: &model::IpamConfig| SwarmIpamConfig {
            subnet: config.subnet.clone(),
            range: config.range.clone(),
            gateway: config.gateway.clone(),
        };
        Self { driver: SwarmDriver::of(&ipam.driver), configs: ipam.configs.iter().map(config).collect() }
    }
}

impl NetworkAttachment {
    /// A task's place on a network; `None` for a network that was removed while the task was being stopped.
    #[must_use]
    pub fn of(network: Option<&model::Network>, place: &model::TaskNetwork) -> Self {
        let network = network.map_or_else(
            || SwarmNetwork { id: place.network.as_str().to_owned(), ..SwarmNetwork::default() },
            SwarmNetwork::of,
        );
        Self { network: Some(network), addresses: place.addresses.iter().map(ToString::to_string).collect() }
    }
}

impl SwarmNetwork {
    fn of(network: &model::Network) -> Self {
        let (spec, allocation) = (&network.spec, &network.allocation);
        Self {
            id: network.id.to_string(),
            version: network.meta.version.into(),
            created_at: network.meta.created_at.into(),
            updated_at: network.meta.updated_at.into(),
            spec: SwarmNetworkSpec {
                name: spec.name.clone(),
                labels: spec.labels.clone(),
                driver_configuration: SwarmDriver::of(&spec.driver),
                ipv6_enabled: spec.ipv6,
                internal: spec.internal,
                attachable: spec.attachable,
                ingress: spec.ingress,
                ipam_options: spec.ipam.as_ref().map(SwarmIpam::of),
                scope: if network.has_addresses() { "swarm" } else { "local" }.to_owned(),
            },
            driver_state: allocation.driver.as_ref().map(SwarmDriver::of).unwrap_or_default(),
            ipam_options: network.has_addresses().then(|| SwarmIpam::of(&allocation.ipam)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_addresses_are_told_in_the_engines_words() {
        let check = |config: IpamConfig| {
            Ipam { config: Some(vec![config]), ..Ipam::default() }.check().err().unwrap_or_default()
        };
        let subnet = |text: &str| IpamConfig { subnet: text.to_owned(), ..IpamConfig::default() };
        assert_eq!(check(subnet("10.1.0.0/16")), "");
        assert_eq!(check(subnet("bad")), "invalid network config:\ninvalid subnet bad: invalid CIDR block notation");
        assert!(check(subnet("10.1.2.3/16")).ends_with("invalid subnet 10.1.2.3/16: it should be 10.1.0.0/16"));
        let wrong =
            IpamConfig { ip_range: "10.2.0.0/24".to_owned(), gateway: "10.3.0.1".to_owned(), ..subnet("10.1.0.0/16") };
        assert_eq!(
            check(wrong),
            "invalid network config:\n\
             invalid ip-range 10.2.0.0/24: parent subnet 10.1.0.0/16 doesn't contain ip-range\n\
             invalid gateway 10.3.0.1: parent subnet 10.1.0.0/16 doesn't contain this address"
        );
    }
}
