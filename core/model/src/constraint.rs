//! The constraint language: `key==value` and `key!=value` over what is known of a node (SwarmKit
//! `manager/constraint/constraint.go`). Admission parses constraints to refuse bad ones, the scheduler matches them.

use std::net::IpAddr;

use crate::Node;

/// Why a constraint was refused. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither `==` nor `!=`.
    #[error("constraint expected one operator from ==, !=")]
    NoOperator,
    /// A key with other characters than `[a-z0-9-_.]`, or too short.
    #[error("key '{0}' is invalid")]
    Key(String),
    /// An empty value, or one with characters that the language does not know.
    #[error("value '{0}' is invalid")]
    Value(String),
}

/// One condition on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// What is looked at, for instance `node.labels.zone`.
    pub key: String,
    /// `==`, else `!=`.
    pub must_equal: bool,
    /// What it is compared with, without regard to case.
    pub value: String,
}

/// Reads one constraint.
///
/// # Errors
/// When it is not of the form `key==value` or `key!=value`, or uses characters that the language does not know.
pub fn parse(text: &str) -> Result<Constraint, ConstraintError> {
    let (key, value, must_equal) = if let Some((key, value)) = text.split_once("==") {
        (key, value, true)
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, value, false)
    } else {
        return Err(ConstraintError::NoOperator);
    };
    let (key, value) = (key.trim(), value.trim());
    if !is_key(key) {
        return Err(ConstraintError::Key(key.to_owned()));
    }
    if !is_value(value) {
        return Err(ConstraintError::Value(value.to_owned()));
    }
    Ok(Constraint { key: key.to_owned(), must_equal, value: value.to_owned() })
}

impl Constraint {
    /// True when the node fulfils it. A missing label is an empty text: it fails `==` and fulfils `!=`. An unknown key is
    /// never fulfilled.
    #[must_use]
    pub fn matches(&self, node: &Node) -> bool {
        let equals = |actual: &str| actual.eq_ignore_ascii_case(&self.value) == self.must_equal;
        let description = node.observed.description.as_ref();
        match self.key.to_ascii_lowercase().as_str() {
            "node.id" => equals(&node.id.to_string()),
            "node.hostname" => equals(description.map_or("", |described| &described.hostname)),
            "node.ip" => self.matches_address(&node.observed.status.addr),
            "node.role" => equals(node.role.name()),
            "node.platform.os" => equals(description.map_or("", |described| &described.platform.os)),
            "node.platform.arch" => equals(description.map_or("", |described| &described.platform.architecture)),
            _ => label_value(&self.key, node).is_some_and(equals),
        }
    }

    fn matches_address(&self, actual: &str) -> bool {
        let actual: Option<IpAddr> = actual.parse().ok().map(|ip: IpAddr| ip.to_canonical());
        if let Ok(wanted) = self.value.parse::<IpAddr>() {
            return (actual == Some(wanted.to_canonical())) == self.must_equal;
        }
        let Some((network, length)) = parse_network(&self.value) else { return false };
        actual.is_some_and(|ip| is_within(ip, network, length)) == self.must_equal
    }
}

/// The value of `node.labels.X` or `engine.labels.X` on a node, empty when it has no such label; `None` when the key is
/// neither. The prefix is matched without regard to case, the label's name is not.
#[must_use]
pub fn label_value<'a>(key: &str, node: &'a Node) -> Option<&'a str> {
    let name_after = |prefix: &str| {
        let (head, name) = key.split_at_checked(prefix.len())?;
        (head.eq_ignore_ascii_case(prefix) && !name.is_empty()).then_some(name)
    };
    if let Some(name) = name_after("node.labels.") {
        return Some(node.spec.labels.get(name).map_or("", String::as_str));
    }
    let name = name_after("engine.labels.")?;
    let labels = node.observed.description.as_ref().map(|described| &described.engine.labels);
    Some(labels.and_then(|labels| labels.get(name)).map_or("", String::as_str))
}

fn is_key(key: &str) -> bool {
    let mut characters = key.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && key.len() > 1
        && characters.all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn is_value(value: &str) -> bool {
    !value.is_empty()
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || ":-_.*()?+[]\\^$|/".contains(c))
}

fn parse_network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u32 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

fn is_within(ip: IpAddr, network: IpAddr, length: u32) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            ip.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            ip.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Availability, EngineDescription, Labels, Meta, NodeCertificate, NodeDescription, NodeId, NodeObserved,
        NodeRole, NodeSpec, NodeState, NodeStatus, Platform,
    };

    fn a_node() -> Node {
        let labels = |name: &str, value: &str| Labels::from([(name.to_owned(), value.to_owned())]);
        Node {
            id: NodeId::MIN,
            meta: Meta::default(),
            spec: NodeSpec {
                labels: labels("Zone", "East"),
                availability: Availability::Active,
                ..NodeSpec::default()
            },
            observed: NodeObserved {
                status: NodeStatus { state: NodeState::Ready, message: String::new(), addr: "10.1.2.3".to_owned() },
                description: Some(NodeDescription {
                    hostname: "host-1".to_owned(),
                    platform: Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() },
                    engine: EngineDescription { labels: labels("disk", "ssd"), ..EngineDescription::default() },
                    ..NodeDescription::default()
                }),
                ..NodeObserved::default()
            },
            certificate: NodeCertificate::default(),
            role: NodeRole::Worker,
            manager: None,
        }
    }

    fn check(text: &str, expected: bool) {
        let constraint = parse(text).unwrap();
        assert_eq!(constraint.matches(&a_node()), expected, "{text}");
    }

    #[test]
    fn known_keys_compare_without_regard_to_case() {
        check("node.hostname == HOST-1", true);
        check("node.hostname != host-1", false);
        check("NODE.ROLE==worker", true);
        check("node.platform.os==Linux", true);
        check("node.platform.arch==amd64", false);
        check(&format!("node.id=={}", NodeId::MIN), true);
    }

    #[test]
    fn a_missing_label_is_an_empty_text() {
        check("node.labels.Zone==east", true);
        check("node.labels.zone==east", false);
        check("Node.Labels.zone!=east", true);
        check("engine.labels.disk==ssd", true);
        check("engine.labels.disk!=ssd", false);
    }

    #[test]
    fn unknown_keys_never_match() {
        check("node.colour==red", false);
        check("node.colour!=red", false);
        check("node.labels!=red", false);
        check("node.labels.!=red", false);
    }

    #[test]
    fn addresses_and_networks() {
        check("node.ip==10.1.2.3", true);
        check("node.ip!=10.1.2.4", true);
        check("node.ip==10.0.0.0/8", true);
        check("node.ip!=10.0.0.0/8", false);
        check("node.ip==0.0.0.0/0", true);
        check("node.ip==2001:db8::/32", false);
        check("node.ip==nonsense", false);
        check("node.ip!=10.0.0.0/33", false);
    }

    #[test]
    fn bad_constraints_are_refused_with_dockers_texts() {
        let refusal = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(refusal("node.id"), "constraint expected one operator from ==, !=");
        assert_eq!(refusal("1node==a"), "key '1node' is invalid");
        assert_eq!(refusal("n==a"), "key 'n' is invalid");
        assert_eq!(refusal("node.id==a,b"), "value 'a,b' is invalid");
        assert_eq!(refusal("node.id== "), "value '' is invalid");
        assert_eq!(refusal("node.id===a"), "value '=a' is invalid");
    }
}
