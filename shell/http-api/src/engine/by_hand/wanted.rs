//! From the body of a creation to what the engine makes. Every field is honoured or refused by name; the texts are Docker's
//! where it has them. What the engine itself checks (names, signals, mounts) is left to it.

use std::time::Duration;

use skep_api_types::{ContainerConfig, ContainerCreate, HealthConfig, HostConfig};
use skep_engine::{Asked, More, RestartPolicy, Wanted};
use skep_model::{ContainerSpec, DnsConfig, Driver, Privileges, SeccompMode, Ulimit};

use super::host::Modes;
use super::{host, limits, networks, ports, storage};
use crate::engine::{EngineError, ErrorKind};

/// What a creation must know of the machine.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// Address that `host-gateway` stands for.
    pub(super) gateway: String,
    /// Number of processors.
    pub(super) cpus: usize,
    /// Platform that was asked for; empty is any.
    pub(super) platform: String,
}

pub(super) fn invalid<T>(text: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::new(ErrorKind::Invalid, text))
}

/// Refuses what was given and cannot be had.
pub(super) fn refuse(given: &[(bool, &str)]) -> Result<(), EngineError> {
    match given.iter().find(|(is_given, _)| *is_given) {
        Some((_, what)) => {
            let text = format!("cannot create the container with {what}: not supported by this version of skep");
            Err(EngineError::new(ErrorKind::Unsupported, text))
        }
        None => Ok(()),
    }
}

/// What the engine shall make, and what the user should know.
pub(super) fn wanted(
    name: &str,
    create: ContainerCreate,
    machine: &Machine,
) -> Result<(Wanted, Vec<String>), EngineError> {
    if create.is_empty {
        return invalid("Config cannot be empty in order to create a container");
    }
    let mut warnings = Vec::new();
    let ContainerCreate { config, host, networking, .. } = create;
    let json = |value: Result<serde_json::Value, serde_json::Error>| value.unwrap_or_default();
    let asked = Asked {
        config: json(serde_json::to_value(&config)),
        host: json(serde_json::to_value(&host)),
        networking: json(serde_json::to_value(&networking)),
    };
    check(&config)?;
    host::refuse_other_systems(&host)?;
    let modes = Modes::parse(&host, &config)?;
    let (network_mode, networks) = networks::networks(&host.network_mode, &networking.endpoints_config)?;
    let restart = RestartPolicy::parse(&host.restart_policy.name, host.restart_policy.maximum_retry_count)?;
    if host.auto_remove && restart.kind != skep_engine::RestartKind::No {
        return invalid("can't create 'AutoRemove' container with restart policy");
    }
    let resources = limits::limits(&host, machine, &mut warnings)?;
    let ports = ports::published(&host)?;
    let exposed_ports = ports::exposed(&config)?;
    let more = More {
        restart,
        auto_remove: host.auto_remove,
        asked,
        platform: machine.platform.clone(),
        domainname: config.domainname.clone(),
        no_entrypoint: config.entrypoint.as_ref().is_some_and(Vec::is_empty),
        exposed_ports,
        publish_all: host.publish_all_ports,
        shm_size: shm_size(&host)?,
        limits: Some(resources),
        cgroup_parent: modes.cgroup_parent,
        stdin_once: config.stdin_once,
        console_size: (host.console_size != (0, 0)).then_some([host.console_size.0, host.console_size.1]),
        privileged: host.privileged,
        pid: modes.pid,
        ipc: modes.ipc,
        uts: modes.uts,
        cgroupns: modes.cgroupns,
        devices: host::devices(&host)?,
        device_cgroup_rules: host.device_cgroup_rules.clone().unwrap_or_default(),
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        volumes_from: host.volumes_from.clone().unwrap_or_default(),
    };
    let log_driver = (!host.log_config.r#type.is_empty() || !host.log_config.config.is_empty())
        .then(|| Driver { name: host.log_config.r#type.clone(), options: host.log_config.config.clone() });
    let wanted = Wanted {
        name: name.strip_prefix('/').unwrap_or(name).to_owned(),
        labels: config.labels.clone(),
        log_driver,
        ports,
        more,
        networks,
        network_mode,
        spec: spec(config, host, machine)?,
        ..Wanted::default()
    };
    Ok((wanted, warnings))
}

fn check(config: &ContainerConfig) -> Result<(), EngineError> {
    if config.image.is_empty() {
        return invalid("no image specified: name the image that the container is made from");
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        let dir = &config.working_dir;
        return invalid(format!("the working directory '{dir}' is invalid, it needs to be an absolute path"));
    }
    if let Some(variable) = config.env.iter().find(|variable| variable.is_empty() || variable.starts_with('=')) {
        return invalid(format!("invalid environment variable: {variable}"));
    }
    refuse(&[
        (config.network_disabled, "NetworkDisabled (use --network none)"),
        (!config.mac_address.is_empty(), "a MAC address (--mac-address)"),
    ])
}

fn shm_size(host: &HostConfig) -> Result<Option<u64>, EngineError> {
    match u64::try_from(host.shm_size) {
        Ok(0) => Ok(None),
        Ok(size) => Ok(Some(size)),
        Err(_) => invalid("SHM size can not be less than 0"),
    }
}

fn spec(config: ContainerConfig, host: HostConfig, machine: &Machine) -> Result<ContainerSpec, EngineError> {
    let mounts = storage::mounts(&config, &host)?;
    let privileges = privileges(host.security_opt.as_deref().unwrap_or_default())?;
    let limits = host.ulimits.unwrap_or_default();
    let stop_grace_period = match config.stop_timeout.map(u64::try_from) {
        None => None,
        // A negative number waits without end.
        Some(Err(_)) => Some(Duration::from_secs(u32::MAX.into())),
        Some(Ok(seconds)) => Some(Duration::from_secs(seconds)),
    };
    Ok(ContainerSpec {
        image: config.image,
        command: config.entrypoint.unwrap_or_default(),
        args: config.cmd.unwrap_or_default(),
        env: config.env,
        dir: config.working_dir,
        user: config.user,
        groups: host.group_add.unwrap_or_default(),
        hostname: config.hostname,
        tty: config.tty,
        open_stdin: config.open_stdin,
        read_only: host.readonly_rootfs,
        mounts,
        stop_signal: config.stop_signal,
        stop_grace_period,
        healthcheck: config.healthcheck.map(health).transpose()?,
        hosts: hosts(&host.extra_hosts.unwrap_or_default(), machine)?,
        dns: DnsConfig {
            nameservers: host.dns.unwrap_or_default(),
            search: host.dns_search.unwrap_or_default(),
            options: host.dns_options.unwrap_or_default(),
        },
        init: host.init,
        isolation: host.isolation,
        sysctls: host.sysctls,
        capability_add: host.cap_add.unwrap_or_default(),
        capability_drop: host.cap_drop.unwrap_or_default(),
        ulimits: limits
            .into_iter()
            .map(|limit| Ulimit { name: limit.name.into_owned(), soft: limit.soft, hard: limit.hard })
            .collect(),
        oom_score_adj: host.oom_score_adj,
        privileges: Some(privileges),
        ..ContainerSpec::default()
    })
}

/// `name:address` becomes `address name`, as the model has it.
fn hosts(given: &[String], machine: &Machine) -> Result<Vec<String>, EngineError> {
    let line = |text: &String| {
        let (name, address) =
            text.split_once([':', '=']).filter(|(name, address)| !name.is_empty() && !address.is_empty())?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = if address == "host-gateway" { &machine.gateway } else { address };
        address.parse::<std::net::IpAddr>().ok().map(|address| format!("{address} {name}"))
    };
    let read = |text| {
        line(text).ok_or_else(|| EngineError::new(ErrorKind::Invalid, format!("bad format for add-host: {text:?}")))
    };
    given.iter().map(read).collect()
}

fn health(given: HealthConfig<'static>) -> Result<skep_model::HealthConfig, EngineError> {
    let time = |nanos: i64, what: &str| match u64::try_from(nanos) {
        Ok(0) => Ok(None),
        Ok(nanos) if nanos >= 1_000_000 => Ok(Some(Duration::from_nanos(nanos))),
        _ => invalid(format!("{what} in Healthcheck cannot be less than 1ms")),
    };
    if given.retries < 0 {
        return invalid("Retries in Healthcheck cannot be negative");
    }
    Ok(skep_model::HealthConfig {
        interval: time(given.interval, "Interval")?,
        timeout: time(given.timeout, "Timeout")?,
        start_period: time(given.start_period, "StartPeriod")?,
        start_interval: time(given.start_interval, "StartInterval")?,
        retries: given.retries,
        test: given.test.into_owned(),
    })
}

/// The words of `--security-opt`.
fn privileges(options: &[String]) -> Result<Privileges, EngineError> {
    let mut privileges = Privileges::default();
    for option in options {
        // The old form has a colon.
        let (name, value) = option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => privileges.no_new_privileges = true,
            ("no-new-privileges", "false") => privileges.no_new_privileges = false,
            ("no-new-privileges", _) => return invalid(format!("invalid --security-opt 2: {option:?}")),
            ("seccomp", "unconfined") => privileges.seccomp = SeccompMode::Unconfined,
            ("seccomp", "builtin" | "") => privileges.seccomp = SeccompMode::Default,
            ("seccomp", profile) if profile.trim_start().starts_with('{') => {
                privileges.seccomp = SeccompMode::Custom(profile.as_bytes().to_vec());
            }
            ("seccomp", _) => return invalid(format!("opening seccomp profile failed: {option:?} is no JSON")),
            ("apparmor", "unconfined") => privileges.apparmor_disabled = true,
            ("apparmor", _) => refuse(&[(true, "an AppArmor profile")])?,
            ("label", "disable") => privileges.selinux = vec!["disable".to_owned()],
            ("label", _) => refuse(&[(true, "an SELinux label")])?,
            ("credentialspec", _) => refuse(&[(true, "a credential spec")])?,
            ("writable-cgroups", "false") => {}
            ("writable-cgroups", _) => refuse(&[(true, "writable control groups")])?,
            _ => return invalid(format!("invalid --security-opt 2: {option:?}")),
        }
    }
    Ok(privileges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { gateway: "172.18.0.1".to_owned(), cpus: 2, platform: String::new() }
    }

    fn ask(body: &str) -> Result<Wanted, String> {
        let create = ContainerCreate::decode(body.as_bytes()).map_err(|error| error.to_string())?;
        wanted("web", create, &machine()).map(|(wanted, _)| wanted).map_err(|error| error.text)
    }

    #[test]
    fn a_body_becomes_what_the_engine_makes() {
        let wanted = ask(
            r#"{"Image":"box","Cmd":["a"],"Entrypoint":"b","StopTimeout":2,"Healthcheck":{"Test":["CMD","x"],"Interval":2000000000},
            "HostConfig":{"ExtraHosts":["a:192.0.2.2","gw:host-gateway","six:[::1]"],"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},
            "SecurityOpt":["no-new-privileges","seccomp=unconfined"],"ShmSize":4096}}"#,
        )
        .unwrap();
        assert_eq!((wanted.spec.command, wanted.spec.args), (vec!["b".to_owned()], vec!["a".to_owned()]));
        assert_eq!(wanted.spec.hosts, ["192.0.2.2 a", "172.18.0.1 gw", "::1 six"]);
        assert_eq!(wanted.spec.stop_grace_period, Some(Duration::from_secs(2)));
        assert_eq!(wanted.more.restart, RestartPolicy::on_failure(3));
        let privileges = wanted.spec.privileges.unwrap();
        assert!(privileges.no_new_privileges && privileges.seccomp == SeccompMode::Unconfined);
        assert_eq!(wanted.more.shm_size, Some(4096));
        assert_eq!(wanted.more.asked.host["ShmSize"], 4096);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (body, text) in [
            ("{}", "Config cannot be empty"),
            (r#"{"Image":"x","WorkingDir":"a"}"#, "needs to be an absolute path"),
            (r#"{"Image":"x","Env":["=1"]}"#, "invalid environment variable: =1"),
            (r#"{"Image":"x","HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}}"#, "'AutoRemove'"),
            (r#"{"Image":"x","HostConfig":{"RestartPolicy":{"Name":"x"}}}"#, "unknown policy 'x'"),
            (r#"{"Image":"x","HostConfig":{"ShmSize":-1}}"#, "SHM size"),
            (r#"{"Image":"x","HostConfig":{"ExtraHosts":["a"]}}"#, "bad format for add-host"),
            (r#"{"Image":"x","HostConfig":{"SecurityOpt":["bogus"]}}"#, "invalid --security-opt"),
            (r#"{"Image":"x","Healthcheck":{"Interval":1}}"#, "Interval in Healthcheck cannot be less than 1ms"),
            (r#"{"Image":"x","MacAddress":"02:00:00:00:00:01"}"#, "a MAC address"),
        ] {
            let error = ask(body).map(|_| ()).unwrap_err();
            assert!(error.contains(text), "{body}: {error}");
        }
    }
}
