//! Networks: as they are stored, and as a task's node is told of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::{
    Cidr, GroupVersion, IpamConfig, IpamOptions, Network, NetworkAllocation, NetworkSpec, TaskNetwork, VXLAN_ID_LIST,
    VirtualIp,
};
use skep_store::NewNetwork;

use crate::common::{annotations, id, timestamp};
use crate::error::{DecodeError, Result, require};
use crate::{stored, swarmkit};

impl From<&NetworkSpec> for swarmkit::NetworkSpec {
    fn from(spec: &NetworkSpec) -> Self {
        Self {
            annotations: annotations(&spec.name, &spec.labels),
            driver_config: Some((&spec.driver).into()),
            ipv6_enabled: spec.ipv6,
            internal: spec.internal,
            ipam: spec.ipam.as_ref().map(Into::into),
            attachable: spec.attachable,
            ingress: spec.ingress,
            config_from: None,
        }
    }
}

impl From<swarmkit::NetworkSpec> for NetworkSpec {
    fn from(spec: swarmkit::NetworkSpec) -> Self {
        let annotations = spec.annotations.unwrap_or_default();
        Self {
            name: annotations.name,
            labels: annotations.labels,
            driver: spec.driver_config.unwrap_or_default().into(),
            ipv6: spec.ipv6_enabled,
            internal: spec.internal,
            attachable: spec.attachable,
            ingress: spec.ingress,
            ipam: spec.ipam.map(Into::into),
        }
    }
}

impl From<&IpamOptions> for swarmkit::IpamOptions {
    fn from(options: &IpamOptions) -> Self {
        use swarmkit::ipam_config::AddressFamily;
        let config = |config: &IpamConfig| swarmkit::IpamConfig {
            family: AddressFamily::Ipv4.into(),
            subnet: config.subnet.clone(),
            range: config.range.clone(),
            gateway: config.gateway.clone(),
            reserved: config.reserved.clone(),
        };
        Self { driver: Some((&options.driver).into()), configs: options.configs.iter().map(config).collect() }
    }
}

impl From<swarmkit::IpamOptions> for IpamOptions {
    fn from(options: swarmkit::IpamOptions) -> Self {
        let config = |config: swarmkit::IpamConfig| IpamConfig {
            subnet: config.subnet,
            range: config.range,
            gateway: config.gateway,
            reserved: config.reserved,
        };
        Self {
            driver: options.driver.unwrap_or_default().into(),
            configs: options.configs.into_iter().map(config).collect(),
        }
    }
}

impl From<&NetworkAllocation> for stored::NetworkAllocation {
    fn from(allocation: &NetworkAllocation) -> Self {
        Self {
            driver: allocation.driver.as_ref().map(Into::into),
            ipam: Some((&allocation.ipam).into()),
            reason: allocation.reason.clone(),
            version: allocation.version.0,
        }
    }
}

impl From<stored::NetworkAllocation> for NetworkAllocation {
    fn from(stored: stored::NetworkAllocation) -> Self {
        Self {
            driver: stored.driver.map(Into::into),
            ipam: stored.ipam.unwrap_or_default().into(),
            reason: stored.reason,
            version: GroupVersion(stored.version),
        }
    }
}

impl From<&Network> for stored::Network {
    fn from(network: &Network) -> Self {
        Self {
            id: network.id.to_string(),
            meta: Some(network.meta.into()),
            spec: Some((&*network.spec).into()),
            allocation: Some((&network.allocation).into()),
        }
    }
}

impl TryFrom<stored::Network> for Network {
    type Error = DecodeError;

    fn try_from(stored: stored::Network) -> Result<Self> {
        Ok(Self {
            id: id(&stored.id)?,
            meta: require(stored.meta, "meta")?.into(),
            spec: Arc::new(require(stored.spec, "network spec")?.into()),
            allocation: stored.allocation.unwrap_or_default().into(),
        })
    }
}

impl From<&NewNetwork> for stored::NewNetwork {
    fn from(new: &NewNetwork) -> Self {
        Self { id: new.id.to_string(), spec: Some((&*new.spec).into()) }
    }
}

impl TryFrom<stored::NewNetwork> for NewNetwork {
    type Error = DecodeError;

    fn try_from(stored: stored::NewNetwork) -> Result<Self> {
        Ok(Self { id: id(&stored.id)?, spec: Arc::new(require(stored.spec, "network spec")?.into()) })
    }
}

fn cidr(text: &str) -> Result<Cidr> {
    Ok(text.parse()?)
}

impl From<&TaskNetwork> for stored::TaskNetwork {
    fn from(network: &TaskNetwork) -> Self {
        Self {
            network: network.network.to_string(),
            addresses: network.addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<stored::TaskNetwork> for TaskNetwork {
    type Error = DecodeError;

    fn try_from(stored: stored::TaskNetwork) -> Result<Self> {
        let addresses = stored.addresses.iter().map(|text| cidr(text)).collect::<Result<_>>()?;
        Ok(Self { network: id(&stored.network)?, addresses })
    }
}

impl From<&VirtualIp> for stored::VirtualIp {
    fn from(ip: &VirtualIp) -> Self {
        Self { network: ip.network.to_string(), address: ip.address.to_string() }
    }
}

impl TryFrom<stored::VirtualIp> for VirtualIp {
    type Error = DecodeError;

    fn try_from(stored: stored::VirtualIp) -> Result<Self> {
        Ok(Self { network: id(&stored.network)?, address: cidr(&stored.address)? })
    }
}

impl From<&VirtualIp> for swarmkit::endpoint::VirtualIp {
    fn from(ip: &VirtualIp) -> Self {
        Self { network_id: ip.network.to_string(), addr: ip.address.to_string() }
    }
}

/// A list of one kind out of a list of another.
pub(crate) fn all<T, U: TryFrom<T, Error = DecodeError>>(list: Vec<T>) -> Result<Vec<U>> {
    list.into_iter().map(TryInto::try_into).collect()
}

/// A network of a task, as its node is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssignedNetwork {
    /// Id of the network.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its driver with the options it was given; no name when the network is removed already.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Subnets, CIDR.
    pub subnets: Vec<String>,
    /// Gateways, each of the subnet at the same place.
    pub gateways: Vec<String>,
    /// Addresses of the task, CIDR.
    pub addresses: Vec<String>,
    /// Further names of the task there.
    pub aliases: Vec<String>,
    /// No way out of the network.
    pub internal: bool,
}

impl AssignedNetwork {
    /// VXLAN network id; 0 where there is none.
    #[must_use]
    pub fn vni(&self) -> u32 {
        self.options.get(VXLAN_ID_LIST).and_then(|list| list.split(',').next()?.parse().ok()).unwrap_or(0)
    }
}

/// The message of a task's place on a network, with the whole network, as stock nodes need it. `network` is `None` when it
/// was removed while the task was being stopped.
#[must_use]
pub fn network_attachment(
    network: Option<&Network>,
    place: &TaskNetwork,
    aliases: Vec<String>,
) -> swarmkit::NetworkAttachment {
    let message = match network {
        Some(network) => network_message(network),
        None => swarmkit::Network { id: place.network.to_string(), ..swarmkit::Network::default() },
    };
    swarmkit::NetworkAttachment {
        network: Some(message),
        addresses: place.addresses.iter().map(ToString::to_string).collect(),
        aliases,
        driver_attachment_opts: BTreeMap::new(),
    }
}

fn network_message(network: &Network) -> swarmkit::Network {
    swarmkit::Network {
        id: network.id.to_string(),
        meta: Some(swarmkit::Meta {
            version: Some(swarmkit::Version { index: network.meta.version.0 }),
            created_at: Some(timestamp(network.meta.created_at)),
            updated_at: Some(timestamp(network.meta.updated_at)),
        }),
        spec: Some((&*network.spec).into()),
        driver_state: network.allocation.driver.as_ref().map(Into::into),
        ipam: Some((&network.allocation.ipam).into()),
        pending_delete: false,
        extra: None,
    }
}

impl From<swarmkit::NetworkAttachment> for AssignedNetwork {
    fn from(attachment: swarmkit::NetworkAttachment) -> Self {
        let network = attachment.network.unwrap_or_default();
        let spec = network.spec.unwrap_or_default();
        let driver = network.driver_state.unwrap_or_default();
        let configs = network.ipam.unwrap_or_default().configs;
        Self {
            id: network.id,
            name: spec.annotations.unwrap_or_default().name,
            driver: driver.name,
            options: driver.options,
            subnets: configs.iter().map(|config| config.subnet.clone()).collect(),
            gateways: configs.into_iter().map(|config| config.gateway).collect(),
            addresses: attachment.addresses,
            aliases: attachment.aliases,
            internal: spec.internal,
        }
    }
}

impl From<&AssignedNetwork> for swarmkit::NetworkAttachment {
    fn from(network: &AssignedNetwork) -> Self {
        let configs = network.subnets.iter().zip(&network.gateways);
        let configs = configs.map(|(subnet, gateway)| swarmkit::IpamConfig {
            subnet: subnet.clone(),
            gateway: gateway.clone(),
            ..swarmkit::IpamConfig::default()
        });
        Self {
            network: Some(swarmkit::Network {
                id: network.id.clone(),
                spec: Some(swarmkit::NetworkSpec {
                    annotations: annotations(&network.name, &BTreeMap::new()),
                    internal: network.internal,
                    ..swarmkit::NetworkSpec::default()
                }),
                driver_state: Some(swarmkit::Driver { name: network.driver.clone(), options: network.options.clone() }),
                ipam: Some(swarmkit::IpamOptions { driver: None, configs: configs.collect() }),
                ..swarmkit::Network::default()
            }),
            addresses: network.addresses.clone(),
            aliases: network.aliases.clone(),
            driver_attachment_opts: BTreeMap::new(),
        }
    }
}
