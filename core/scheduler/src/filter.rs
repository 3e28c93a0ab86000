//! Which nodes a task may run on, and Docker's words for why not (SwarmKit `manager/scheduler/filter.go`).

use std::collections::BTreeMap;

use skep_model::{Node, Platform, Plugin, ServiceId};

use crate::needs::{Needs, normalized};
use crate::nodes::NodeInfo;

/// A filter; a node is charged to the first one, in this order, that rejects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Filter {
    Ready,
    Resource,
    Plugin,
    Constraint,
    Platform,
    HostPort,
    MaxReplicas,
}

impl Filter {
    fn explain(self, nodes: usize) -> String {
        let (one, many) = match self {
            Self::Ready => ("1 node not available for new tasks", "nodes not available for new tasks"),
            Self::Resource => ("insufficient resources on 1 node", "insufficient resources on"),
            Self::Plugin => ("missing plugin on 1 node", "missing plugin on"),
            Self::Constraint => {
                ("scheduling constraints not satisfied on 1 node", "scheduling constraints not satisfied on")
            }
            Self::Platform => ("unsupported platform on 1 node", "unsupported platform on"),
            Self::HostPort => ("host-mode port already in use on 1 node", "host-mode port already in use on"),
            Self::MaxReplicas => return "max replicas per node limit exceed".to_owned(),
        };
        match (nodes, self) {
            (1, _) => one.to_owned(),
            (_, Self::Ready) => format!("{nodes} {many}"),
            _ => format!("{many} {nodes} nodes"),
        }
    }
}

/// How many tasks of this kind a node takes now, at least one; or the filter that rejects it.
pub(crate) fn room(info: &NodeInfo, needs: &Needs, service: ServiceId) -> Result<u64, Filter> {
    let Some(node) = info.node.as_deref().filter(|node| node.takes_tasks()) else { return Err(Filter::Ready) };
    let mut room = info.room_by_resources(needs);
    let reject_if = |rejected: bool, filter| if rejected { Err(filter) } else { Ok(()) };
    reject_if(room == 0, Filter::Resource)?;
    reject_if(!has_plugins(node, needs), Filter::Plugin)?;
    let fits = needs.constraints.as_ref().is_ok_and(|all| all.iter().all(|constraint| constraint.matches(node)));
    reject_if(!fits, Filter::Constraint)?;
    reject_if(!runs_platform(node, &needs.platforms), Filter::Platform)?;
    if !needs.host_ports.is_empty() {
        reject_if(!info.has_ports_free(needs), Filter::HostPort)?;
        room = 1;
    }
    if needs.max_replicas > 0 {
        room = room.min(needs.max_replicas.saturating_sub(info.tasks_of(service)));
        reject_if(room == 0, Filter::MaxReplicas)?;
    }
    Ok(room)
}

/// The sentence for a task that no node takes: `no suitable node (…)`.
pub(crate) fn explain(rejections: impl Iterator<Item = Filter>) -> String {
    let mut counts: BTreeMap<Filter, usize> = BTreeMap::new();
    for filter in rejections {
        *counts.entry(filter).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(filter, count)| (std::cmp::Reverse(*count), *filter));
    let parts: Vec<_> = counts.into_iter().map(|(filter, count)| filter.explain(count)).collect();
    if parts.is_empty() { "no suitable node".to_owned() } else { format!("no suitable node ({})", parts.join("; ")) }
}

fn has_plugins(node: &Node, needs: &Needs) -> bool {
    let Some(description) = &node.observed.description else { return true };
    let plugins = &description.engine.plugins;
    let has = |kind: &str, name: &str| plugins.iter().any(|plugin| plugin.kind == kind && is_named(plugin, name));
    let lists_log_plugins = plugins.iter().any(|plugin| plugin.kind == "Log");
    needs.volume_drivers.iter().all(|driver| has("Volume", driver))
        && needs.log_driver.as_ref().is_none_or(|driver| !lists_log_plugins || has("Log", driver))
}

fn is_named(plugin: &Plugin, name: &str) -> bool {
    plugin.name == name || plugin.name.strip_suffix(":latest") == Some(name)
}

fn runs_platform(node: &Node, platforms: &[Platform]) -> bool {
    if platforms.is_empty() {
        return true;
    }
    let Some(description) = &node.observed.description else { return false };
    let own = normalized(&description.platform);
    let fits = |wanted: &str, has: &str| wanted.is_empty() || wanted == has;
    platforms.iter().any(|wanted| fits(&wanted.architecture, &own.architecture) && fits(&wanted.os, &own.os))
}
