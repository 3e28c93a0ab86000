//! The spec of a container, between the model and SwarmKit's message, and what that message cannot carry.
//!
//! Towards a node only SwarmKit's message goes. Where the model keeps a user's own words and SwarmKit a number (mount
//! propagation and the like), an unknown word becomes the default there; the store keeps the word in a
//! [`stored::ContainerExtra`].

use skep_model::{
    BindOptions, ByteSize, ConfigReference, ContainerSpec, DnsConfig, FileTarget, HealthConfig, Mount, MountKind,
    Privileges, Sealed, SeccompMode, SecretReference, TmpfsOptions, Ulimit, VolumeOptions,
};

use crate::common::{duration, id, numbers, optional_duration};
use crate::error::{DecodeError, Result};
use crate::{stored, swarmkit};

numbers! {
    mount_kind_number, mount_kind: MountKind = swarmkit::mount::Type, "mount type" {
        Bind = Bind, Volume = Volume, Tmpfs = Tmpfs, NamedPipe = Npipe, Cluster = Cluster, Image = Image,
    }
}

const PROPAGATIONS: [&str; 6] = ["", "private", "rshared", "shared", "rslave", "slave"];
const CONSISTENCIES: [&str; 4] = ["", "consistent", "cached", "delegated"];
const ISOLATIONS: [&str; 3] = ["", "process", "hyperv"];

fn number_of(words: &[&str], word: &str) -> i32 {
    let place = words.iter().position(|known| *known == word).unwrap_or(0);
    i32::try_from(place).expect("the lists are short")
}

fn word_of(words: &[&str], number: i32, what: &'static str) -> Result<String> {
    let place = usize::try_from(number).ok();
    let word = place.and_then(|place| words.get(place)).ok_or(DecodeError::UnknownNumber { what, number })?;
    Ok((*word).to_owned())
}

/// Number 0 stands for the empty text; another word for the same must be kept apart.
fn is_kept(words: &[&str], word: &str) -> bool {
    words.contains(&word)
}

impl From<&ContainerSpec> for swarmkit::ContainerSpec {
    /// `pids_limit` and `pull_options` stay empty: the model has the one in the task's resources and the other sealed.
    fn from(spec: &ContainerSpec) -> Self {
        Self {
            image: spec.image.clone(),
            labels: spec.labels.clone(),
            command: spec.command.clone(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            dir: spec.dir.clone(),
            user: spec.user.clone(),
            mounts: spec.mounts.iter().map(Into::into).collect(),
            stop_grace_period: spec.stop_grace_period.map(duration),
            pull_options: None,
            groups: spec.groups.clone(),
            secrets: spec.secrets.iter().map(Into::into).collect(),
            tty: spec.tty,
            hostname: spec.hostname.clone(),
            dns_config: Some(swarmkit::container_spec::DnsConfig {
                nameservers: spec.dns.nameservers.clone(),
                search: spec.dns.search.clone(),
                options: spec.dns.options.clone(),
            }),
            healthcheck: spec.healthcheck.as_ref().map(Into::into),
            hosts: spec.hosts.clone(),
            open_stdin: spec.open_stdin,
            read_only: spec.read_only,
            stop_signal: spec.stop_signal.clone(),
            configs: spec.configs.iter().map(Into::into).collect(),
            privileges: spec.privileges.as_ref().map(Into::into),
            init: spec.init,
            isolation: number_of(&ISOLATIONS, &spec.isolation),
            pids_limit: 0,
            sysctls: spec.sysctls.clone(),
            capability_add: spec.capability_add.clone(),
            capability_drop: spec.capability_drop.clone(),
            ulimits: spec
                .ulimits
                .iter()
                .map(|limit| swarmkit::container_spec::Ulimit {
                    name: limit.name.clone(),
                    soft: limit.soft,
                    hard: limit.hard,
                })
                .collect(),
            oom_score_adj: spec.oom_score_adj,
        }
    }
}

impl TryFrom<swarmkit::ContainerSpec> for ContainerSpec {
    type Error = DecodeError;

    fn try_from(spec: swarmkit::ContainerSpec) -> Result<Self> {
        let dns = spec.dns_config.unwrap_or_default();
        Ok(Self {
            image: spec.image,
            labels: spec.labels,
            command: spec.command,
            args: spec.args,
            env: spec.env,
            dir: spec.dir,
            user: spec.user,
            groups: spec.groups,
            hostname: spec.hostname,
            tty: spec.tty,
            open_stdin: spec.open_stdin,
            read_only: spec.read_only,
            mounts: spec.mounts.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            stop_signal: spec.stop_signal,
            stop_grace_period: optional_duration(spec.stop_grace_period, "stop grace period")?,
            healthcheck: spec.healthcheck.map(TryInto::try_into).transpose()?,
            hosts: spec.hosts,
            dns: DnsConfig { nameservers: dns.nameservers, search: dns.search, options: dns.options },
            secrets: spec.secrets.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            configs: spec.configs.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            init: spec.init,
            isolation: word_of(&ISOLATIONS, spec.isolation, "isolation")?,
            sysctls: spec.sysctls,
            capability_add: spec.capability_add,
            capability_drop: spec.capability_drop,
            ulimits: spec
                .ulimits
                .into_iter()
                .map(|limit| Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard })
                .collect(),
            oom_score_adj: spec.oom_score_adj,
            privileges: spec.privileges.map(TryInto::try_into).transpose()?,
            registry_auth: None,
        })
    }
}

impl From<&HealthConfig> for swarmkit::HealthConfig {
    fn from(config: &HealthConfig) -> Self {
        Self {
            test: config.test.clone(),
            interval: config.interval.map(duration),
            timeout: config.timeout.map(duration),
            retries: i32::try_from(config.retries).unwrap_or(i32::MAX),
            start_period: config.start_period.map(duration),
            start_interval: config.start_interval.map(duration),
        }
    }
}

impl TryFrom<swarmkit::HealthConfig> for HealthConfig {
    type Error = DecodeError;

    fn try_from(config: swarmkit::HealthConfig) -> Result<Self> {
        Ok(Self {
            test: config.test,
            interval: optional_duration(config.interval, "health interval")?,
            timeout: optional_duration(config.timeout, "health timeout")?,
            retries: i64::from(config.retries),
            start_period: optional_duration(config.start_period, "health start period")?,
            start_interval: optional_duration(config.start_interval, "health start interval")?,
        })
    }
}

impl From<&Mount> for swarmkit::Mount {
    fn from(mount: &Mount) -> Self {
        Self {
            r#type: mount_kind_number(mount.kind),
            source: mount.source.clone(),
            target: mount.target.clone(),
            readonly: mount.read_only,
            bind_options: mount.bind.as_ref().map(|bind| swarmkit::mount::BindOptions {
                propagation: number_of(&PROPAGATIONS, &bind.propagation),
                nonrecursive: bind.non_recursive,
                createmountpoint: bind.create_mountpoint,
                readonlynonrecursive: bind.read_only_non_recursive,
                readonlyforcerecursive: bind.read_only_force_recursive,
            }),
            volume_options: mount.volume.as_ref().map(|volume| swarmkit::mount::VolumeOptions {
                nocopy: volume.no_copy,
                labels: volume.labels.clone(),
                driver_config: volume.driver.as_ref().map(Into::into),
                subpath: volume.subpath.clone(),
            }),
            tmpfs_options: mount.tmpfs.as_ref().map(|tmpfs| swarmkit::mount::TmpfsOptions {
                size_bytes: tmpfs.size.0,
                mode: tmpfs.mode,
                options: tmpfs_options_text(&tmpfs.options),
            }),
            consistency: number_of(&CONSISTENCIES, &mount.consistency),
        }
    }
}

impl TryFrom<swarmkit::Mount> for Mount {
    type Error = DecodeError;

    fn try_from(mount: swarmkit::Mount) -> Result<Self> {
        let bind = |bind: swarmkit::mount::BindOptions| {
            Ok::<_, DecodeError>(BindOptions {
                propagation: word_of(&PROPAGATIONS, bind.propagation, "mount propagation")?,
                non_recursive: bind.nonrecursive,
                create_mountpoint: bind.createmountpoint,
                read_only_non_recursive: bind.readonlynonrecursive,
                read_only_force_recursive: bind.readonlyforcerecursive,
            })
        };
        let tmpfs = |tmpfs: swarmkit::mount::TmpfsOptions| {
            let options = parse_tmpfs_options(&tmpfs.options)?;
            Ok::<_, DecodeError>(TmpfsOptions { size: ByteSize(tmpfs.size_bytes), mode: tmpfs.mode, options })
        };
        Ok(Self {
            kind: mount_kind(mount.r#type)?,
            source: mount.source,
            target: mount.target,
            read_only: mount.readonly,
            consistency: word_of(&CONSISTENCIES, mount.consistency, "mount consistency")?,
            bind: mount.bind_options.map(bind).transpose()?,
            volume: mount.volume_options.map(|volume| VolumeOptions {
                no_copy: volume.nocopy,
                labels: volume.labels,
                driver: volume.driver_config.map(Into::into),
                subpath: volume.subpath,
            }),
            tmpfs: mount.tmpfs_options.map(tmpfs).transpose()?,
        })
    }
}

/// Docker sends the list as JSON in a text field.
fn tmpfs_options_text(options: &[Vec<String>]) -> String {
    if options.is_empty() {
        return String::new();
    }
    serde_json::to_string(options).expect("lists of texts are always JSON")
}

fn parse_tmpfs_options(text: &str) -> Result<Vec<Vec<String>>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(text).map_err(|_| DecodeError::BadText { field: "tmpfs options", value: text.to_owned() })
}

impl From<&FileTarget> for swarmkit::FileTarget {
    fn from(target: &FileTarget) -> Self {
        Self { name: target.name.clone(), uid: target.uid.clone(), gid: target.gid.clone(), mode: target.mode }
    }
}

impl From<swarmkit::FileTarget> for FileTarget {
    fn from(target: swarmkit::FileTarget) -> Self {
        Self { name: target.name, uid: target.uid, gid: target.gid, mode: target.mode }
    }
}

impl From<&SecretReference> for swarmkit::SecretReference {
    fn from(reference: &SecretReference) -> Self {
        use swarmkit::secret_reference::Target;
        Self {
            secret_id: reference.secret_id.to_string(),
            secret_name: reference.secret_name.clone(),
            target: reference.file.as_ref().map(|file| Target::File(file.into())),
        }
    }
}

impl TryFrom<swarmkit::SecretReference> for SecretReference {
    type Error = DecodeError;

    fn try_from(reference: swarmkit::SecretReference) -> Result<Self> {
        use swarmkit::secret_reference::Target;
        Ok(Self {
            secret_id: id(&reference.secret_id)?,
            secret_name: reference.secret_name,
            file: reference.target.map(|Target::File(file)| file.into()),
        })
    }
}

impl From<&ConfigReference> for swarmkit::ConfigReference {
    fn from(reference: &ConfigReference) -> Self {
        use swarmkit::config_reference::Target;
        let target = match &reference.file {
            Some(file) => Target::File(file.into()),
            None => Target::Runtime(swarmkit::RuntimeTarget {}),
        };
        Self {
            config_id: reference.config_id.to_string(),
            config_name: reference.config_name.clone(),
            target: Some(target),
        }
    }
}

impl TryFrom<swarmkit::ConfigReference> for ConfigReference {
    type Error = DecodeError;

    fn try_from(reference: swarmkit::ConfigReference) -> Result<Self> {
        use swarmkit::config_reference::Target;
        let file = match reference.target {
            Some(Target::File(file)) => Some(file.into()),
            Some(Target::Runtime(_)) => None,
            None => return Err(DecodeError::UnknownKind { what: "target of a config" }),
        };
        Ok(Self { config_id: id(&reference.config_id)?, config_name: reference.config_name, file })
    }
}

impl From<&Privileges> for swarmkit::Privileges {
    fn from(privileges: &Privileges) -> Self {
        use swarmkit::privileges::app_armor_opts::AppArmorMode;
        use swarmkit::privileges::seccomp_opts::SeccompMode as Mode;
        let (mode, profile) = match &privileges.seccomp {
            SeccompMode::Default => (Mode::Default, Vec::new()),
            SeccompMode::Unconfined => (Mode::Unconfined, Vec::new()),
            SeccompMode::Custom(profile) => (Mode::Custom, profile.clone()),
        };
        Self {
            credential_spec: credential_spec(&privileges.credential_spec),
            selinux_context: selinux_context(&privileges.selinux),
            seccomp: (mode != Mode::Default).then(|| swarmkit::privileges::SeccompOpts { mode: mode.into(), profile }),
            apparmor: privileges
                .apparmor_disabled
                .then(|| swarmkit::privileges::AppArmorOpts { mode: AppArmorMode::Disabled.into() }),
            no_new_privileges: privileges.no_new_privileges,
        }
    }
}

impl TryFrom<swarmkit::Privileges> for Privileges {
    type Error = DecodeError;

    fn try_from(privileges: swarmkit::Privileges) -> Result<Self> {
        use swarmkit::privileges::app_armor_opts::AppArmorMode;
        use swarmkit::privileges::seccomp_opts::SeccompMode as Mode;
        let seccomp = privileges.seccomp.unwrap_or_default();
        let unknown = |what, number| DecodeError::UnknownNumber { what, number };
        let apparmor = privileges.apparmor.unwrap_or_default().mode;
        Ok(Self {
            credential_spec: credential_spec_text(privileges.credential_spec),
            selinux: selinux_texts(privileges.selinux_context),
            seccomp: match Mode::try_from(seccomp.mode).map_err(|_| unknown("seccomp mode", seccomp.mode))? {
                Mode::Default => SeccompMode::Default,
                Mode::Unconfined => SeccompMode::Unconfined,
                Mode::Custom => SeccompMode::Custom(seccomp.profile),
            },
            apparmor_disabled: match AppArmorMode::try_from(apparmor).map_err(|_| unknown("AppArmor mode", apparmor))? {
                AppArmorMode::Default => false,
                AppArmorMode::Disabled => true,
            },
            no_new_privileges: privileges.no_new_privileges,
        })
    }
}

fn credential_spec(text: &str) -> Option<swarmkit::privileges::CredentialSpec> {
    use swarmkit::privileges::credential_spec::Source;
    let (scheme, rest) = text.split_once("://")?;
    let source = match scheme {
        "file" => Source::File(rest.to_owned()),
        "registry" => Source::Registry(rest.to_owned()),
        "config" => Source::Config(rest.to_owned()),
        _ => return None,
    };
    Some(swarmkit::privileges::CredentialSpec { source: Some(source) })
}

fn credential_spec_text(spec: Option<swarmkit::privileges::CredentialSpec>) -> String {
    use swarmkit::privileges::credential_spec::Source;
    match spec.and_then(|spec| spec.source) {
        Some(Source::File(text)) => format!("file://{text}"),
        Some(Source::Registry(text)) => format!("registry://{text}"),
        Some(Source::Config(text)) => format!("config://{text}"),
        None => String::new(),
    }
}

fn selinux_context(options: &[String]) -> Option<swarmkit::privileges::SeLinuxContext> {
    if options.is_empty() {
        return None;
    }
    let mut context = swarmkit::privileges::SeLinuxContext::default();
    for option in options {
        match option.split_once(':') {
            Some(("user", value)) => value.clone_into(&mut context.user),
            Some(("role", value)) => value.clone_into(&mut context.role),
            Some(("type", value)) => value.clone_into(&mut context.r#type),
            Some(("level", value)) => value.clone_into(&mut context.level),
            _ if option == "disable" => context.disable = true,
            _ => {}
        }
    }
    Some(context)
}

fn selinux_texts(context: Option<swarmkit::privileges::SeLinuxContext>) -> Vec<String> {
    let Some(context) = context else { return Vec::new() };
    let parts = [("user", context.user), ("role", context.role), ("type", context.r#type), ("level", context.level)];
    let disable = context.disable.then(|| "disable".to_owned());
    let parts = parts.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!("{key}:{value}"));
    disable.into_iter().chain(parts).collect()
}

/// What SwarmKit's message of this container would lose.
pub(crate) fn extra(spec: &ContainerSpec) -> Option<stored::ContainerExtra> {
    let privileges = spec.privileges.as_ref();
    let extra = stored::ContainerExtra {
        mounts: spec.mounts.iter().enumerate().filter_map(|(place, mount)| mount_extra(place, mount)).collect(),
        isolation: (!is_kept(&ISOLATIONS, &spec.isolation)).then(|| spec.isolation.clone()),
        credential_spec: privileges
            .map(|privileges| &privileges.credential_spec)
            .filter(|text| credential_spec_text(credential_spec(text)) != **text)
            .cloned(),
        selinux: privileges
            .map(|privileges| &privileges.selinux)
            .filter(|options| selinux_texts(selinux_context(options)) != **options)
            .cloned()
            .unwrap_or_default(),
        health_retries: spec
            .healthcheck
            .as_ref()
            .map(|config| config.retries)
            .filter(|retries| i32::try_from(*retries).is_err()),
        registry_auth: spec.registry_auth.as_ref().map(|sealed| sealed.0.clone()),
    };
    (extra != stored::ContainerExtra::default()).then_some(extra)
}

fn mount_extra(place: usize, mount: &Mount) -> Option<stored::MountExtra> {
    let propagation =
        mount.bind.as_ref().map(|bind| &bind.propagation).filter(|word| !is_kept(&PROPAGATIONS, word)).cloned();
    let consistency = (!is_kept(&CONSISTENCIES, &mount.consistency)).then(|| mount.consistency.clone());
    if propagation.is_none() && consistency.is_none() {
        return None;
    }
    let mount = u32::try_from(place).expect("fewer mounts than 2^32");
    Some(stored::MountExtra { mount, propagation, consistency })
}

/// Puts back what [`extra`] kept.
pub(crate) fn add_extra(spec: &mut ContainerSpec, extra: stored::ContainerExtra) -> Result<()> {
    for kept in extra.mounts {
        let place = usize::try_from(kept.mount).unwrap_or(usize::MAX);
        let mount = spec.mounts.get_mut(place).ok_or(DecodeError::Missing { field: "mount" })?;
        if let Some(word) = kept.propagation {
            mount.bind.as_mut().ok_or(DecodeError::Missing { field: "options of a bind mount" })?.propagation = word;
        }
        if let Some(word) = kept.consistency {
            mount.consistency = word;
        }
    }
    if let Some(word) = extra.isolation {
        spec.isolation = word;
    }
    if let Some(retries) = extra.health_retries {
        spec.healthcheck.as_mut().ok_or(DecodeError::Missing { field: "health check" })?.retries = retries;
    }
    if extra.credential_spec.is_some() || !extra.selinux.is_empty() {
        let privileges = spec.privileges.as_mut().ok_or(DecodeError::Missing { field: "privileges" })?;
        if let Some(text) = extra.credential_spec {
            privileges.credential_spec = text;
        }
        if !extra.selinux.is_empty() {
            privileges.selinux = extra.selinux;
        }
    }
    spec.registry_auth = extra.registry_auth.map(Sealed);
    Ok(())
}
