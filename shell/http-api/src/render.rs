//! Words for people that the API makes itself: how long a container is up, its command line.

use skep_api_types::{ContainerInspect, ContainerSummary, MountPoint, Port, SummaryHostConfig, SummaryNetworks};
use skep_model::WallTime;

/// A line of `docker ps`.
pub(crate) fn summary(container: &ContainerInspect, now: WallTime) -> ContainerSummary {
    // A list does not say by which names a container is found.
    let mut networks = container.network_settings.networks.clone();
    networks.values_mut().for_each(|network| network.aliases = None);
    ContainerSummary {
        id: container.id.clone(),
        names: vec![container.name.clone()],
        image: container.config.image.clone(),
        image_id: container.image.clone(),
        command: command(&container.path, &container.args),
        created: container.created.0.0.div_euclid(1_000_000_000),
        ports: ports(container),
        size_rw: None,
        size_root_fs: None,
        labels: container.config.labels.clone(),
        state: container.state.status.clone(),
        status: status(container, now),
        host_config: SummaryHostConfig { network_mode: container.host_config.network_mode.clone() },
        network_settings: SummaryNetworks { networks },
        mounts: container.mounts.iter().map(shown).collect(),
    }
}

/// A list does not say where a volume lies.
fn shown(mount: &MountPoint) -> MountPoint {
    let source = if mount.r#type == "volume" { String::new() } else { mount.source.clone() };
    MountPoint { source, ..mount.clone() }
}

/// The program and its arguments; those with a space are quoted.
fn command(path: &str, args: &[String]) -> String {
    std::iter::once(path)
        .chain(args.iter().map(String::as_str))
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { word.to_owned() })
        .collect::<Vec<_>>()
        .join(" ")
}

fn ports(container: &ContainerInspect) -> Vec<Port> {
    let mut ports = Vec::new();
    for (name, bindings) in &container.network_settings.ports {
        let (number, kind) = name.split_once('/').unwrap_or((name, "tcp"));
        let Ok(private_port) = number.parse() else { continue };
        let port =
            |ip: &str, public_port| Port { ip: ip.to_owned(), private_port, public_port, r#type: kind.to_owned() };
        match bindings {
            Some(bindings) if !bindings.is_empty() => {
                ports.extend(bindings.iter().map(|at| port(&at.host_ip, at.host_port.parse().unwrap_or(0))));
            }
            _ => ports.push(port("", 0)),
        }
    }
    ports
}

/// `Up 3 minutes`, `Exited (0) 2 hours ago`, …
pub(crate) fn status(container: &ContainerInspect, now: WallTime) -> String {
    let state = &container.state;
    let since = |time: WallTime| human((now.0 - time.0).max(0) / 1_000_000_000);
    match state.status.as_str() {
        "running" => {
            let health = match state.health.as_ref().map(|health| health.status.as_str()) {
                Some("starting") => " (health: starting)".to_owned(),
                Some(word @ ("healthy" | "unhealthy")) => format!(" ({word})"),
                _ => String::new(),
            };
            format!("Up {}{health}", since(state.started_at.0))
        }
        "paused" => format!("Up {} (Paused)", since(state.started_at.0)),
        "restarting" => format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at.0)),
        "exited" => format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at.0)),
        "created" => "Created".to_owned(),
        "removing" => "Removal In Progress".to_owned(),
        other => other.to_owned(),
    }
}

/// A duration in words (go-units `HumanDuration`).
fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (..1, _, _) => "Less than a second".to_owned(),
        (1, _, _) => "1 second".to_owned(),
        (..60, _, _) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use skep_api_types::{ContainerState, Timestamp};

    use super::*;

    #[test]
    fn durations_in_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (180, "3 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86_400, "3 days"),
            (21 * 86_400, "3 weeks"),
            (90 * 86_400, "3 months"),
            (3 * 365 * 86_400, "3 years"),
        ] {
            assert_eq!(human(seconds), words);
        }
    }

    #[test]
    fn a_status_tells_how_it_goes() {
        let second = 1_000_000_000;
        let container = |status: &str| ContainerInspect {
            state: ContainerState {
                status: status.to_owned(),
                exit_code: 3,
                started_at: Timestamp(WallTime(10 * second)),
                finished_at: Timestamp(WallTime(20 * second)),
                ..ContainerState::default()
            },
            ..ContainerInspect::default()
        };
        let now = WallTime(30 * second);
        assert_eq!(status(&container("running"), now), "Up 20 seconds");
        assert_eq!(status(&container("exited"), now), "Exited (3) 10 seconds ago");
        assert_eq!(status(&container("created"), now), "Created");
        assert_eq!(command("sh", &["-c".to_owned(), "echo job".to_owned()]), "sh -c 'echo job'");
    }
}
