//! The nft ruleset of a node, as text for `nft -f -`. One table, `ip skep`, is ours; no other table is read, flushed
//! or relied on. [`full`] replaces the table in one transaction whatever was there; [`update`] changes only the chains
//! of the ports that differ, also in one transaction.
//!
//! ```text
//! prerouting ─┐ to an address of the node        ┌ chain tcp-8080: one of its backends by turns
//! output ─────┴─────────► dispatch ──► @ports ───┤
//!                                                └ chain udp-53: its only backend
//! postrouting: the containers' outbound traffic, hairpin and localhost leave under the node's address
//! forward:     between containers, and from outside to a container, only what was published
//! guard:       nobody outside may use the 127.0.0.0/8 that route_localnet opens on the bridge
//! ```
//!
//! Clients from outside keep their address: they are never source-translated. An `accept` here ends only our own
//! chain: where another table drops what is forwarded (a host firewall), its owner has to let the bridge through.

use crate::diff::{NetworkDiff, PortChange};
use crate::network::{Bridge, NodeNetwork, PortKey, PublishedPort, Reach};
use std::fmt::Write as _;

/// Name of the table, family `ip`.
pub const TABLE: &str = "skep";

/// The transaction that makes the table be what `network` says, from whatever state, empty included.
#[must_use]
pub fn full(network: &NodeNetwork) -> String {
    let mut text = remove();
    let ports = network.published.values();
    let chains: String = ports.clone().map(port_chain).collect();
    let elements: Vec<String> = ports.map(|port| element(port.key())).collect();
    let elements =
        if elements.is_empty() { String::new() } else { format!("\n\t\telements = {{ {} }}", elements.join(", ")) };
    let base = base_chains(network);
    let map = format!("\tmap ports {{\n\t\ttype inet_proto . inet_service : verdict{elements}\n\t}}\n");
    write!(text, "table ip {TABLE} {{\n{chains}{map}{base}}}\n").expect("writing to a string cannot fail");
    text
}

/// The transaction that takes the table away, also when there is none.
#[must_use]
pub fn remove() -> String {
    format!("add table ip {TABLE}\ndelete table ip {TABLE}\n")
}

/// The transaction for the ports that differ; `None` when no rule changes. Good only on top of the ruleset of the
/// older picture with the same bridge: otherwise (also after an error) send [`full`].
#[must_use]
pub fn update(diff: &NetworkDiff) -> Option<String> {
    if diff.ports.is_empty() {
        return None;
    }
    let mut text = String::new();
    for change in &diff.ports {
        let chain = chain_name(change.key());
        let key = element_key(change.key());
        let step = match change {
            PortChange::Added(port) => {
                format!(
                    "add chain ip {TABLE} {chain}\n{}add element ip {TABLE} ports {{ {} }}\n",
                    add_rule(port),
                    element(port.key())
                )
            }
            PortChange::Replaced(port) => format!("flush chain ip {TABLE} {chain}\n{}", add_rule(port)),
            PortChange::Removed(_) => {
                format!(
                    "delete element ip {TABLE} ports {{ {key} }}\nflush chain ip {TABLE} {chain}\ndelete chain ip {TABLE} {chain}\n"
                )
            }
        };
        text.push_str(&step);
    }
    Some(text)
}

/// True when the rules that are about bridges are the same: then [`update`] is enough.
#[must_use]
pub fn is_same_base(one: &NodeNetwork, other: &NodeNetwork) -> bool {
    base_chains(one) == base_chains(other)
}

/// What does not depend on the published ports. Bridges on which the node has no address need no rule: what is on them
/// stays on them.
fn base_chains(network: &NodeNetwork) -> String {
    let bridges: Vec<&Bridge> =
        network.all_bridges().map(|(_, bridge)| bridge).filter(|bridge| bridge.has_address()).collect();
    let (mut translate, mut inner) = (String::new(), String::new());
    for Bridge { name, subnet, reach, isolated, .. } in &bridges {
        match reach {
            Reach::Outward => translate.push_str(&format!(
                "\t\toifname \"{name}\" ip saddr {{ 127.0.0.0/8, {subnet} }} masquerade\n\
                 \t\toifname != \"{name}\" ip saddr {subnet} masquerade\n"
            )),
            _ => inner.push_str(&format!(
                "\t\tiifname \"{name}\" oifname != \"{name}\" drop\n\
                 \t\toifname \"{name}\" iifname != \"{name}\" drop\n"
            )),
        }
        if !isolated {
            inner.push_str(&format!("\t\tiifname \"{name}\" oifname \"{name}\" accept\n"));
        }
    }
    let names: Vec<String> = bridges.iter().map(|bridge| format!("\"{}\"", bridge.name)).collect();
    let names = if names.len() == 1 { names.concat() } else { format!("{{ {} }}", names.join(", ")) };
    // The priority of dstnat is spelled as a number: its name is refused at the output hook.
    format!(
        r#"	chain dispatch {{
		ip protocol . th dport vmap @ports
	}}
	chain prerouting {{
		type nat hook prerouting priority -100; policy accept;
		fib daddr type local jump dispatch
	}}
	chain output {{
		type nat hook output priority -100; policy accept;
		fib daddr type local jump dispatch
	}}
	chain postrouting {{
		type nat hook postrouting priority 100; policy accept;
{translate}	}}
	chain forward {{
		type filter hook forward priority 0; policy accept;
{inner}		oifname != {names} accept
		ct state established,related accept
		ct status dnat accept
		drop
	}}
	chain guard {{
		type filter hook prerouting priority -300; policy accept;
		iifname != "lo" ip daddr 127.0.0.0/8 drop
	}}
"#
    )
}

fn port_chain(port: &PublishedPort) -> String {
    let rule = rule(port).map_or_else(String::new, |rule| format!("\t\t{rule}\n"));
    format!("\tchain {} {{\n{rule}\t}}\n", chain_name(port.key()))
}

fn add_rule(port: &PublishedPort) -> String {
    let chain = chain_name(port.key());
    rule(port).map_or_else(String::new, |rule| format!("add rule ip {TABLE} {chain} {rule}\n"))
}

/// Without a backend there is no rule: the packet goes on to the node itself, which refuses it.
fn rule(port: &PublishedPort) -> Option<String> {
    let protocol = port.protocol;
    match &port.backends[..] {
        [] => None,
        [only] => Some(format!("meta l4proto {protocol} dnat ip to {}:{}", only.address, only.target_port)),
        several => {
            let count = several.len();
            let targets: Vec<String> = several
                .iter()
                .enumerate()
                .map(|(turn, backend)| format!("{turn} : {} . {}", backend.address, backend.target_port))
                .collect();
            let targets = targets.join(", ");
            Some(format!("meta l4proto {protocol} dnat ip to numgen inc mod {count} map {{ {targets} }}"))
        }
    }
}

fn chain_name(key: PortKey) -> String {
    format!("{}-{}", key.protocol, key.port)
}

fn element_key(key: PortKey) -> String {
    format!("{} . {}", key.protocol, key.port)
}

fn element(key: PortKey) -> String {
    format!("{} : goto {}", element_key(key), chain_name(key))
}

#[cfg(test)]
mod tests;
