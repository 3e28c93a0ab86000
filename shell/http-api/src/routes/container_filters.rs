//! The filters of `docker ps`.

use skep_api_types::{ContainerInspect, FilterError, Filters, Timestamp};

use crate::ApiError;
use crate::body::Params;

const KNOWN: [&str; 15] = [
    "ancestor",
    "before",
    "since",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "status",
    "volume",
];
const STATES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// Filters with what they refer to looked up.
pub(crate) struct ContainerFilters {
    filters: Filters,
    is_task: Option<bool>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl ContainerFilters {
    pub(crate) fn new(query: &Params, containers: &[ContainerInspect]) -> Result<Self, ApiError> {
        let filters = query.filters(&KNOWN)?;
        for (key, known) in [("status", &STATES[..]), ("health", &HEALTH[..])] {
            let wrong = filters.values(key).and_then(|values| values.iter().find(|v| !known.contains(&v.as_str())));
            if let Some(value) = wrong {
                return Err(FilterError::Value { key: key.to_owned(), value: value.clone() }.into());
            }
        }
        if let Some(value) = filters.values("exited").and_then(|all| all.iter().find(|v| v.parse::<i32>().is_err())) {
            return Err(FilterError::Value { key: "exited".to_owned(), value: value.clone() }.into());
        }
        let created = |key: &str| -> Result<Option<Timestamp>, ApiError> {
            let Some(name) = filters.values(key).and_then(|values| values.first()) else { return Ok(None) };
            let is_it = |c: &&ContainerInspect| c.id.starts_with(name.as_str()) || bare(&c.name) == name;
            let found = containers.iter().find(is_it);
            found
                .map(|container| Some(container.created))
                .ok_or_else(|| ApiError::not_found(format!("No such container: {name}")))
        };
        let (before, since) = (created("before")?, created("since")?);
        Ok(Self { is_task: filters.boolean("is-task")?, before, since, filters })
    }

    /// True when the filters themselves say which states are wanted.
    pub(crate) fn name_states(&self) -> bool {
        ["status", "exited"].iter().any(|key| self.filters.values(key).is_some())
    }

    pub(crate) fn pass(&self, container: &ContainerInspect) -> bool {
        let (filters, state) = (&self.filters, &container.state);
        let health = state.health.as_ref().map_or("none", |health| health.status.as_str());
        let is_task = container.config.labels.contains_key("com.docker.swarm.task.id");
        filters.any_prefix("id", &container.id)
            && filters.any("name", |name| container.name.contains(name.as_str()))
            && filters.labels("label", &container.config.labels)
            && filters.any("status", |status| *status == state.status)
            && filters.any("exited", |code| state.status == "exited" && code.parse() == Ok(state.exit_code))
            && filters.any("health", |word| word == health)
            && filters.any("isolation", |word| word == "default" || word.is_empty())
            && filters.any("ancestor", |image| is_of(container, image))
            && filters.any("network", |network| is_on(container, network))
            && filters.any("volume", |volume| mounts(container, volume))
            && filters.any("publish", |port| publishes(container, port))
            && filters.any("expose", |port| exposes(container, port))
            && self.is_task.is_none_or(|wanted| wanted == is_task)
            && self.before.is_none_or(|time| container.created < time)
            && self.since.is_none_or(|time| container.created > time)
    }
}

fn bare(name: &str) -> &str {
    name.trim_start_matches('/')
}

fn is_of(container: &ContainerInspect, image: &str) -> bool {
    let id = container.image.trim_start_matches("sha256:");
    let wanted = image.trim_start_matches("sha256:");
    let named = container.config.image.split('@').next().unwrap_or_default();
    named == image
        || named == format!("{image}:latest")
        || (wanted.len() >= 12 && wanted.bytes().all(|b| b.is_ascii_hexdigit()) && id.starts_with(wanted))
}

fn is_on(container: &ContainerInspect, network: &str) -> bool {
    container.network_settings.networks.iter().any(|(name, endpoint)| name == network || endpoint.network_id == network)
}

fn mounts(container: &ContainerInspect, volume: &str) -> bool {
    container.mounts.iter().any(|mount| mount.name == volume || mount.destination == volume || mount.source == volume)
}

/// `80`, `80/tcp`; a range `80-90/tcp` as well.
fn covers(wanted: &str, port: &str) -> bool {
    let split = |text: &str| {
        let (number, kind) = text.split_once('/').unwrap_or((text, "tcp"));
        (number.to_owned(), kind.to_owned())
    };
    let ((range, wanted_kind), (number, kind)) = (split(wanted), split(port));
    let (first, last) = range.split_once('-').unwrap_or((&range, &range));
    let numbers = (first.parse::<u16>(), last.parse::<u16>(), number.parse::<u16>());
    matches!(numbers, (Ok(first), Ok(last), Ok(port)) if (first..=last).contains(&port)) && wanted_kind == kind
}

fn publishes(container: &ContainerInspect, wanted: &str) -> bool {
    container.network_settings.ports.iter().any(|(inside, bindings)| {
        let kind = inside.split_once('/').map_or("tcp", |(_, kind)| kind);
        bindings.iter().flatten().any(|at| covers(wanted, &format!("{}/{kind}", at.host_port)))
    })
}

fn exposes(container: &ContainerInspect, wanted: &str) -> bool {
    let declared = container.config.exposed_ports.iter().flatten().map(|(port, _)| port);
    declared.chain(container.network_settings.ports.keys()).any(|port| covers(wanted, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_may_be_ranges() {
        assert!(covers("80", "80/tcp") && covers("80-90/udp", "85/udp"));
        assert!(!covers("80", "80/udp") && !covers("81-90", "80/tcp") && !covers("x", "80/tcp"));
    }
}
