//! Declared and published ports of a container made by hand.

use skep_api_types::{ContainerConfig, HostConfig};
use skep_engine::PortRecord;

use super::wanted::{invalid, refuse};
use crate::engine::EngineError;

/// Ports that the container declares, ranges (`80-82/tcp`) taken apart.
pub(super) fn exposed(config: &ContainerConfig) -> Result<Vec<String>, EngineError> {
    let mut all = Vec::new();
    for text in config.exposed_ports.iter().flatten().map(|(port, _)| port) {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            return invalid(format!("invalid port specification: {text:?}"));
        };
        if first == 0 || first > last || !matches!(protocol, "tcp" | "udp" | "sctp") {
            return invalid(format!("invalid port specification: {text:?}"));
        }
        all.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    }
    Ok(all)
}

/// Ports that are reached from outside.
pub(super) fn published(host: &HostConfig) -> Result<Vec<PortRecord>, EngineError> {
    let mut all = Vec::new();
    for (inside, bindings) in host.port_bindings.iter().flatten() {
        let Some(port) = PortRecord::exposed(inside) else {
            return invalid(format!("invalid port specification: {inside:?}"));
        };
        if bindings.is_empty() {
            all.push(port.clone());
        }
        for binding in bindings {
            if !binding.host_ip.is_empty() && binding.host_ip.parse::<std::net::IpAddr>().is_err() {
                return invalid(format!("invalid IP address: {}", binding.host_ip));
            }
            refuse(&[
                (!matches!(binding.host_ip.as_str(), "" | "0.0.0.0" | "::"), "a port on a single address of the host"),
                (binding.host_port.contains('-'), "a range of ports on the host for one port of the container"),
            ])?;
            let published = match binding.host_port.as_str() {
                "" => 0,
                text => match text.parse() {
                    Ok(number) => number,
                    Err(_) => return invalid(format!("invalid port specification: {text:?}")),
                },
            };
            all.push(PortRecord { published, ..port.clone() });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use skep_api_types::{Empty, PortBinding};

    use super::*;

    #[test]
    fn ports_are_read() {
        let ports = ["80/tcp", "53-54/udp", "81"].map(|port| (port.to_owned(), Empty {}));
        let config = ContainerConfig { exposed_ports: Some(ports.into()), ..ContainerConfig::default() };
        assert_eq!(exposed(&config).unwrap(), ["53/udp", "54/udp", "80/tcp", "81/tcp"]);
        let at = |host_ip: &str, host_port: &str| {
            let binding = PortBinding { host_ip: host_ip.to_owned(), host_port: host_port.to_owned() };
            let bindings = [("80/tcp".to_owned(), vec![binding])];
            published(&HostConfig { port_bindings: Some(bindings.into()), ..HostConfig::default() })
        };
        assert_eq!(at("", "8080").unwrap()[0].published, 8080);
        assert_eq!(at("0.0.0.0", "").unwrap()[0].published, 0);
        assert!(at("x", "1").is_err() && at("", "70000").is_err());
    }
}
