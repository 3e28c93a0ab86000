//! What the engine knows of a container or image, as `docker inspect` shows it.

use std::collections::BTreeMap;
use std::path::Path;

use skep_api_types::{
    ContainerConfig, ContainerHealth, ContainerInspect, ContainerState, Empty, EndpointIpamConfig, EndpointSettings,
    GraphDriver, HealthCheckResult, HealthConfig, HostConfig, HostRestartPolicy, ImageConfig, ImageHistory,
    ImageInspect, ImageMetadata, LogConfig, MountPoint, NetworkSettings, PortBinding, RootFs, Timestamp, Ulimit,
};
use skep_engine::{
    ContainerView, Image, MAIN, NetworkRecord, PortRecord, Record, RootFs as RootFileSystem, predefined_id,
};

/// Docker's default for `/proc` and `/sys` in a container.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap_or_default()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn given(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// The whole of `docker container inspect`.
pub(super) fn container(view: &ContainerView) -> ContainerInspect {
    let record = &*view.record;
    let mut words = record.config.args.iter();
    let [hosts, hostname, resolv_conf] = &view.etc;
    ContainerInspect {
        id: record.id.clone(),
        created: time(&record.created_at),
        path: words.next().cloned().unwrap_or_default(),
        args: words.cloned().collect(),
        state: state(view),
        image: record.image_id.clone(),
        resolv_conf_path: path(resolv_conf),
        hostname_path: path(hostname),
        hosts_path: path(hosts),
        log_path: path(&view.log_path),
        name: format!("/{}", record.name),
        restart_count: view.restarts.into(),
        driver: "overlay2".to_owned(),
        platform: "linux".to_owned(),
        exec_ids: given(&view.exec_ids),
        host_config: host_config(view),
        graph_driver: graph_driver(record),
        mounts: record
            .mounts
            .iter()
            .map(|mount| MountPoint {
                r#type: mount.kind.clone(),
                name: mount.volume.as_ref().map(|volume| volume.name.clone()).unwrap_or_default(),
                source: mount.source.clone(),
                destination: mount.destination.clone(),
                driver: mount.volume.as_ref().map(|volume| volume.driver.clone()).unwrap_or_default(),
                mode: mount.mode.clone(),
                rw: mount.rw,
                propagation: mount.propagation.clone(),
            })
            .collect(),
        config: config(record),
        network_settings: network_settings(view),
        ..ContainerInspect::default()
    }
}

fn state(view: &ContainerView) -> ContainerState {
    let mut state = ContainerState {
        status: view.status().to_owned(),
        // As in Docker, also while it waits for its restart.
        running: view.state.is_running() || view.restarting,
        paused: view.paused,
        restarting: view.restarting,
        pid: view.state.pid(),
        exit_code: view.state.exit_code(),
        health: view.health.as_ref().map(health),
        ..ContainerState::default()
    };
    let last = view.last_run.as_ref();
    match &view.state {
        skep_engine::ContainerState::Running { started_at, .. } => {
            state.started_at = time(started_at);
            state.finished_at = last.map(|last| time(&last.finished_at)).unwrap_or_default();
        }
        skep_engine::ContainerState::Exited(exit) => {
            let started_at = if exit.started_at.is_empty() { last.map(|last| &last.started_at) } else { None };
            state.started_at = time(started_at.unwrap_or(&exit.started_at));
            // Docker knows no end of what never ran.
            let ran = !state.started_at.0.0.eq(&0);
            state.finished_at = if ran { time(&exit.finished_at) } else { Timestamp::default() };
            state.oom_killed = exit.oom_killed;
            state.error = exit.error.clone().unwrap_or_default();
        }
        _ => {}
    }
    state
}

fn health(health: &skep_engine::Health) -> ContainerHealth {
    let result = |result: &skep_engine::HealthResult| HealthCheckResult {
        start: time(&result.start),
        end: time(&result.end),
        exit_code: result.exit_code,
        output: result.output.clone(),
    };
    ContainerHealth {
        status: health.status.name().to_owned(),
        failing_streak: health.failing_streak,
        log: health.log.iter().map(result).collect(),
    }
}

fn check(check: &skep_engine::HealthCheck) -> HealthConfig<'static> {
    HealthConfig {
        test: check.test.clone().into(),
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    }
}

/// What was asked for of a container made by hand, in the words it was asked in; with what the engine made of it on top.
fn config(record: &Record) -> ContainerConfig {
    let effective = effective_config(record);
    let Some(by_hand) = &record.by_hand else { return effective };
    let asked: ContainerConfig = serde_json::from_value(by_hand.asked.config.clone()).unwrap_or_default();
    ContainerConfig {
        attach_stdin: asked.attach_stdin,
        attach_stdout: asked.attach_stdout,
        attach_stderr: asked.attach_stderr,
        open_stdin: asked.open_stdin,
        stdin_once: asked.stdin_once,
        healthcheck: effective.healthcheck.clone().or(asked.healthcheck),
        volumes: asked.volumes.filter(|volumes| !volumes.is_empty()).or(effective.volumes.clone()),
        on_build: asked.on_build,
        shell: asked.shell,
        stop_signal: if asked.stop_signal.is_empty() { effective.stop_signal.clone() } else { asked.stop_signal },
        stop_timeout: asked.stop_timeout,
        ..effective
    }
}

fn effective_config(record: &Record) -> ContainerConfig {
    let ports = record.exposed_ports.iter().cloned();
    let published = record.ports.iter().map(|port| format!("{}/{}", port.target, port.protocol));
    let ports: BTreeMap<String, Empty> = ports.chain(published).map(|port| (port, Empty {})).collect();
    ContainerConfig {
        hostname: record.config.hostname.clone(),
        domainname: record.config.domainname.clone().unwrap_or_default(),
        user: record.config.user.clone(),
        exposed_ports: (!ports.is_empty()).then_some(ports),
        tty: record.config.tty,
        env: record.config.env.clone(),
        healthcheck: record.health.as_ref().map(check),
        cmd: given(&record.cmd),
        image: record.image.clone(),
        working_dir: record.config.cwd.clone(),
        entrypoint: given(&record.entrypoint),
        labels: record.labels.clone(),
        // Docker shows it when somebody chose it.
        stop_signal: if record.stop_signal == "SIGTERM" { String::new() } else { record.stop_signal.clone() },
        stop_timeout: i64::try_from(record.stop_grace_ms.div_ceil(1000)).ok(),
        ..ContainerConfig::default()
    }
}

/// As [`config`].
fn host_config(view: &ContainerView) -> HostConfig {
    let effective = effective_host_config(view);
    let Some(by_hand) = &view.record.by_hand else { return effective };
    let asked: HostConfig = serde_json::from_value(by_hand.asked.host.clone()).unwrap_or_default();
    let word = |asked: String, default: &str| if asked.is_empty() { default.to_owned() } else { asked };
    let limits = &view.record.config.resources;
    HostConfig {
        log_config: effective.log_config,
        network_mode: word(asked.network_mode, "default"),
        restart_policy: HostRestartPolicy {
            name: by_hand.restart.kind.name().to_owned(),
            maximum_retry_count: by_hand.restart.max_retries.into(),
        },
        cgroupns_mode: word(asked.cgroupns_mode, "private"),
        ipc_mode: word(asked.ipc_mode, "private"),
        security_opt: asked.security_opt,
        shm_size: effective.shm_size,
        runtime: effective.runtime,
        cpu_shares: effective.cpu_shares,
        memory: effective.memory,
        nano_cpus: effective.nano_cpus,
        // Docker shows what it sets when nothing is said: as much swap again.
        memory_swap: limits.memory_swap.or(limits.memory.map(|memory| memory.saturating_mul(2))).unwrap_or(0),
        memory_swappiness: effective.memory_swappiness,
        memory_reservation: limits.memory_reservation.unwrap_or(0),
        cpu_period: limits.cpu_period.and_then(|period| i64::try_from(period).ok()).unwrap_or(0),
        cpu_quota: limits.cpu_quota.unwrap_or(0),
        cpuset_cpus: effective.cpuset_cpus,
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        blkio_weight: limits.blkio_weight.unwrap_or(0),
        pids_limit: limits.pids.or(asked.pids_limit),
        oom_kill_disable: Some(limits.oom_kill_disable),
        masked_paths: asked.masked_paths.or(effective.masked_paths.filter(|_| !asked.privileged)).or(Some(Vec::new())),
        readonly_paths: asked
            .readonly_paths
            .or(effective.readonly_paths.filter(|_| !asked.privileged))
            .or(Some(Vec::new())),
        port_bindings: Some(asked.port_bindings.unwrap_or_default()),
        ..asked
    }
}

fn effective_host_config(view: &ContainerView) -> HostConfig {
    let record = &*view.record;
    let (config, limits) = (&record.config, &record.config.resources);
    let [dns, dns_search, dns_options] = &record.dns;
    let bindings: BTreeMap<String, Vec<PortBinding>> =
        bindings(&record.ports).into_iter().filter_map(|(port, at)| Some((port, at?))).collect();
    HostConfig {
        log_config: LogConfig { r#type: record.log_driver.clone(), config: record.log_options.clone() },
        network_mode: network_mode(record),
        port_bindings: Some(bindings),
        restart_policy: HostRestartPolicy::default(),
        cap_add: given(&config.cap_add),
        cap_drop: given(&config.cap_drop),
        cgroupns_mode: "private".to_owned(),
        dns: given(dns),
        dns_options: given(dns_options),
        dns_search: given(dns_search),
        extra_hosts: given(&record.hosts),
        group_add: given(&config.groups),
        ipc_mode: "private".to_owned(),
        oom_score_adj: config.oom_score_adj.unwrap_or(0).into(),
        readonly_rootfs: config.read_only_rootfs,
        security_opt: config.no_new_privileges.then(|| vec!["no-new-privileges".to_owned()]),
        shm_size: i64::try_from(config.shm_size).unwrap_or(i64::MAX),
        sysctls: config.sysctls.clone(),
        runtime: "skep".to_owned(),
        isolation: "default".to_owned(),
        cpu_shares: limits.cpu_shares.and_then(|shares| i64::try_from(shares).ok()).unwrap_or(0),
        memory: limits.memory.unwrap_or(0),
        nano_cpus: limits.nano_cpus.unwrap_or(0),
        cgroup_parent: config.cgroup_parent.clone(),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        memory_swap: limits.memory_swap.unwrap_or(0),
        memory_swappiness: limits.memory_swappiness.and_then(|value| i64::try_from(value).ok()),
        pids_limit: limits.pids,
        ulimits: Some({
            let ulimit = config.rlimits.iter();
            ulimit.map(|limit| Ulimit { name: limit.name.clone().into(), hard: limit.hard, soft: limit.soft }).collect()
        }),
        oom_kill_disable: Some(false),
        init: Some(config.init),
        masked_paths: Some(owned(&MASKED)),
        readonly_paths: Some(owned(&READ_ONLY)),
        ..HostConfig::default()
    }
}

/// Ports with where they are reached; only those of host mode are bound for this container alone.
fn bindings(ports: &[PortRecord]) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    let mut all: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for port in ports {
        let entry = all.entry(format!("{}/{}", port.target, port.protocol)).or_default();
        if port.host_mode && port.published != 0 {
            let at = PortBinding { host_ip: "0.0.0.0".to_owned(), host_port: port.published.to_string() };
            entry.get_or_insert_default().push(at);
        }
    }
    all
}

fn graph_driver(record: &Record) -> GraphDriver {
    let data = match &record.config.rootfs {
        RootFileSystem::Overlay { lower, upper, work, merged } => {
            let lower = lower.iter().map(|layer| path(layer)).collect::<Vec<_>>().join(":");
            let parts =
                [("LowerDir", lower), ("MergedDir", path(merged)), ("UpperDir", path(upper)), ("WorkDir", path(work))];
            Some(parts.map(|(name, path)| (name.to_owned(), path)).into())
        }
        RootFileSystem::Dir(_) => None,
    };
    GraphDriver { data, name: "overlay2".to_owned() }
}

/// What is shown of a network that a container is on. Without an endpoint it has no addresses there.
fn endpoint_settings(view: &ContainerView, network: &NetworkRecord) -> EndpointSettings {
    let key = if network.id == predefined_id("bridge") { MAIN } else { network.id.as_str() };
    let leg = view.endpoint.as_ref().and_then(|endpoint| endpoint.legs.iter().find(|leg| leg.bridge == key));
    let is_user_defined = !["bridge", "host", "none"].contains(&network.name.as_str());
    let address = network.address.split('/').next().unwrap_or_default();
    let asked = !address.is_empty() && network.driver != "overlay";
    let mut settings = EndpointSettings {
        network_id: network.id.clone(),
        aliases: (is_user_defined && !network.aliases.is_empty()).then(|| network.aliases.clone()),
        ipam_config: (asked || network.driver == "overlay")
            .then(|| EndpointIpamConfig { ipv4_address: address.to_owned(), ..EndpointIpamConfig::default() }),
        ..EndpointSettings::default()
    };
    if let Some(leg) = leg {
        settings.endpoint_id.clone_from(&view.record.id);
        settings.gateway = leg.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
        settings.ip_address = leg.address.to_string();
        settings.ip_prefix_len = leg.prefix;
        settings.mac_address = leg.mac.to_string();
    } else if view.state.is_running() && matches!(network.driver.as_str(), "host" | "null") {
        settings.endpoint_id.clone_from(&view.record.id);
    }
    settings
}

/// A container's networks, those that go without saying included.
pub(super) fn networks(record: &Record) -> Vec<NetworkRecord> {
    match record.network_mode.as_str() {
        mode @ ("host" | "none") => vec![NetworkRecord::of_the_machine(mode)],
        "" if record.networks.is_empty() => vec![NetworkRecord::of_the_machine("bridge")],
        "" => record.networks.clone(),
        _ => Vec::new(),
    }
}

/// As `HostConfig.NetworkMode` shows it.
fn network_mode(record: &Record) -> String {
    match (record.network_mode.as_str(), record.networks.first()) {
        ("", None) => "default".to_owned(),
        ("", Some(network)) if record.task.is_some() => match network.driver.as_str() {
            "host" => "host".to_owned(),
            _ => "default".to_owned(),
        },
        ("", Some(network)) => network.name.clone(),
        (mode, _) => mode.to_owned(),
    }
}

fn network_settings(view: &ContainerView) -> NetworkSettings {
    let mut settings = NetworkSettings { ports: bindings(&view.ports), ..NetworkSettings::default() };
    if let Some(endpoint) = &view.endpoint {
        settings.sandbox_id.clone_from(&view.record.id);
        settings.sandbox_key = path(&endpoint.netns_path);
    }
    for network in networks(&view.record) {
        let endpoint = endpoint_settings(view, &network);
        if network.name == "bridge" {
            // The old places of these fields speak of the machine's own bridge alone.
            settings.gateway.clone_from(&endpoint.gateway);
            settings.ip_address.clone_from(&endpoint.ip_address);
            settings.ip_prefix_len = endpoint.ip_prefix_len;
            settings.mac_address.clone_from(&endpoint.mac_address);
            settings.endpoint_id.clone_from(&endpoint.endpoint_id);
        }
        settings.networks.insert(network.name, endpoint);
    }
    settings
}

/// The whole of `docker image inspect`.
pub(super) fn image(image: &Image) -> ImageInspect {
    let config = &image.config;
    ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        comment: config.comment.clone(),
        created: image.created.clone(),
        docker_version: config.docker_version.clone(),
        author: config.author.clone(),
        config: image_config(&config.config),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        size: image.size,
        graph_driver: GraphDriver { data: None, name: "overlay2".to_owned() },
        root_fs: RootFs {
            r#type: "layers".to_owned(),
            layers: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
        },
        metadata: ImageMetadata { last_tag_time: time(&image.last_tagged) },
        ..ImageInspect::default()
    }
}

fn image_config(config: &skep_image::ContainerConfig) -> ImageConfig {
    let set = |set: &skep_image::Set| {
        (!set.is_empty()).then(|| set.keys().map(|key| (key.clone(), Empty {})).collect::<BTreeMap<_, _>>())
    };
    ImageConfig {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: given(&config.env),
        cmd: config.cmd.clone(),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone(),
        on_build: given(&config.on_build),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        ..ImageConfig::default()
    }
}

/// The steps of an image, newest first; the newest has the image's id and names.
pub(super) fn history(image: &Image) -> Vec<ImageHistory> {
    let mut sizes = image.layer_sizes.iter();
    let mut steps: Vec<ImageHistory> = image
        .config
        .history
        .iter()
        .map(|step| ImageHistory {
            comment: step.comment.clone(),
            created: time(&step.created).0.0.div_euclid(1_000_000_000),
            created_by: step.created_by.clone(),
            id: "<missing>".to_owned(),
            size: if step.empty_layer { 0 } else { sizes.next().copied().unwrap_or(0) },
            tags: None,
        })
        .collect();
    steps.reverse();
    if let Some(newest) = steps.first_mut() {
        newest.id = image.id.to_string();
        newest.tags = given(&image.repo_tags);
    }
    steps
}
