//! What founding a swarm takes, checked before anything is written.

use std::net::IpAddr;
use std::time::Duration;

use skep_model::{Availability, ClusterSpec};

use crate::{NodeError, address};

/// UDP port of the overlay when none is given.
const DATA_PATH_PORT_DEFAULT: u16 = 4789;
/// Ports the overlay may have.
const DATA_PATH_PORTS: std::ops::RangeInclusive<u32> = 1024..=49151;
/// Pool of networks when none is given.
const ADDRESS_POOL_DEFAULT: &str = "10.0.0.0/8";
/// Prefix length of networks when none is given.
const SUBNET_SIZE_DEFAULT: u32 = 24;
/// Shortest life of a node's certificate.
const CERT_EXPIRY_MIN: Duration = Duration::from_secs(3600);

/// How to found a swarm. Addresses are as the user gave them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InitOptions {
    /// `host:port` to listen on; empty is `0.0.0.0:2377`.
    pub listen_addr: String,
    /// Address or interface, with or without a port; empty lets the node choose.
    pub advertise_addr: String,
    /// Address or interface of overlay traffic; empty is the advertised one.
    pub data_path_addr: String,
    /// Port of overlay traffic; 0 is the default.
    pub data_path_port: u32,
    /// Pools for networks in CIDR form; empty is the default.
    pub address_pools: Vec<String>,
    /// Prefix length of networks; 0 is the default.
    pub subnet_size: u32,
    /// Make a swarm of one out of what is left of one.
    pub force_new_cluster: bool,
    /// The cluster's spec, defaults filled in.
    pub spec: ClusterSpec,
    /// Whether the first node takes tasks.
    pub availability: Availability,
}

/// Options that make sense together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) listen: String,
    pub(crate) address: String,
    pub(crate) data_path_port: u16,
    pub(crate) address_pools: Vec<String>,
    pub(crate) subnet_size: u32,
    pub(crate) spec: ClusterSpec,
    pub(crate) availability: Availability,
}

impl InitOptions {
    pub(crate) fn check(self) -> Result<Plan, NodeError> {
        if self.force_new_cluster {
            return Err(NodeError::Unsupported("ForceNewCluster (--force-new-cluster)".to_owned()));
        }
        if !self.data_path_addr.is_empty() {
            return Err(NodeError::Unsupported("DataPathAddr (--data-path-addr)".to_owned()));
        }
        let spec = check_spec(self.spec)?;
        let data_path_port = match self.data_path_port {
            0 => DATA_PATH_PORT_DEFAULT,
            port if DATA_PATH_PORTS.contains(&port) => u16::try_from(port).expect("the range ends below 2^16"),
            _ => {
                return Err(NodeError::Invalid(
                    "Datapath port number must be in valid range (1024-49151) or 0 (use default port 4789)".to_owned(),
                ));
            }
        };
        let subnet_size = if self.subnet_size == 0 { SUBNET_SIZE_DEFAULT } else { self.subnet_size };
        let address_pools =
            if self.address_pools.is_empty() { vec![ADDRESS_POOL_DEFAULT.to_owned()] } else { self.address_pools };
        for pool in &address_pools {
            check_pool(pool, subnet_size)?;
        }
        let (listen, address) = address::resolve(&self.listen_addr, &self.advertise_addr)?;
        let availability = self.availability;
        Ok(Plan { listen, address, data_path_port, address_pools, subnet_size, spec, availability })
    }
}

fn check_spec(spec: ClusterSpec) -> Result<ClusterSpec, NodeError> {
    if !matches!(spec.name.as_str(), "" | "default") {
        return Err(NodeError::Invalid(format!("invalid Name {:?}: swarm spec must be named \"default\"", spec.name)));
    }
    if spec.auto_lock_managers {
        return Err(NodeError::Unsupported("EncryptionConfig.AutoLockManagers (--autolock)".to_owned()));
    }
    if spec.ca.node_cert_expiry < CERT_EXPIRY_MIN {
        return Err(NodeError::Invalid("minimum certificate expiry time is: 1h0m0s".to_owned()));
    }
    if spec.heartbeat_period.is_zero() {
        return Err(NodeError::Invalid("heartbeat time interval cannot be a negative duration".to_owned()));
    }
    if spec.raft.snapshot_interval == 0 {
        return Err(NodeError::Invalid("the snapshot interval must be at least 1 entry".to_owned()));
    }
    Ok(ClusterSpec { name: "default".to_owned(), ..spec })
}

fn check_pool(pool: &str, subnet_size: u32) -> Result<(), NodeError> {
    let bad = || NodeError::Invalid(format!("invalid CIDR address: {pool}"));
    let (address, prefix) = pool.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let prefix: u32 = prefix.parse().map_err(|_| bad())?;
    if !address.is_ipv4() {
        return Err(NodeError::Unsupported(format!("address pool {pool} (IPv6)")));
    }
    if prefix > 32 || subnet_size > 29 || subnet_size < prefix {
        return Err(NodeError::Invalid(format!(
            "address pool {pool} cannot be cut into networks of prefix length {subnet_size}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut InitOptions)) -> Result<Plan, NodeError> {
        let mut options = InitOptions { listen_addr: "127.0.0.1:2377".to_owned(), ..InitOptions::default() };
        change(&mut options);
        options.check()
    }

    #[test]
    fn defaults_are_dockers() {
        let plan = check(|_| {}).unwrap();
        assert_eq!(plan.address, "127.0.0.1:2377");
        assert_eq!((plan.data_path_port, plan.subnet_size), (4789, 24));
        assert_eq!(plan.address_pools, ["10.0.0.0/8"]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(check(|options| options.data_path_port = 80).is_err());
        assert!(check(|options| options.address_pools = vec!["10.0.0.0".to_owned()]).is_err());
        assert!(check(|options| options.address_pools = vec!["10.0.0.0/28".to_owned()]).is_err());
        assert!(check(|options| options.spec.auto_lock_managers = true).is_err());
        assert!(check(|options| options.spec.ca.node_cert_expiry = Duration::from_secs(1)).is_err());
        assert!(check(|options| options.force_new_cluster = true).is_err());
        assert!(check(|options| options.listen_addr = "no such interface".to_owned()).is_err());
    }
}
