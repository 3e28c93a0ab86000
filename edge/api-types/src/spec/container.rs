//! The container's part of a task.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_model as model;
use skep_model::ObjectId as _;

use super::{Mount, Nanos, duration, nanos};
use crate::text::{is_empty_list, is_empty_map, is_zero};
use crate::{Map, Refusal, Text, Texts};

/// What a task's container is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's ContainerSpec and documented there")]
pub struct ContainerSpec<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub image: Text<'a>,
    #[serde(skip_serializing_if = "is_empty_map")]
    pub labels: Map<'a>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub command: Texts<'a>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub args: Texts<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub hostname: Text<'a>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub env: Texts<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub dir: Text<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user: Text<'a>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub groups: Texts<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileges: Option<Privileges<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub stop_signal: Text<'a>,
    #[serde(rename = "TTY", skip_serializing_if = "is_zero")]
    pub tty: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub open_stdin: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_period: Option<Nanos>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig<'a>>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub hosts: Texts<'a>,
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretReference<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configs: Vec<ConfigReference<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub isolation: Text<'a>,
    #[serde(skip_serializing_if = "is_empty_map")]
    pub sysctls: Map<'a>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub capability_add: Texts<'a>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub capability_drop: Texts<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub oom_score_adj: i64,
}

impl<'a> ContainerSpec<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(container: &'a model::ContainerSpec) -> Self {
        Self {
            image: Cow::Borrowed(&container.image),
            labels: Cow::Borrowed(&container.labels),
            command: Cow::Borrowed(&container.command),
            args: Cow::Borrowed(&container.args),
            hostname: Cow::Borrowed(&container.hostname),
            env: Cow::Borrowed(&container.env),
            dir: Cow::Borrowed(&container.dir),
            user: Cow::Borrowed(&container.user),
            groups: Cow::Borrowed(&container.groups),
            privileges: container.privileges.as_ref().map(Privileges::of),
            init: container.init,
            stop_signal: Cow::Borrowed(&container.stop_signal),
            tty: container.tty,
            open_stdin: container.open_stdin,
            read_only: container.read_only,
            mounts: container.mounts.iter().map(Mount::of).collect(),
            stop_grace_period: container.stop_grace_period.map(nanos),
            healthcheck: container.healthcheck.as_ref().map(HealthConfig::of),
            hosts: Cow::Borrowed(&container.hosts),
            dns_config: Some(DnsConfig::of(&container.dns)),
            secrets: container.secrets.iter().map(SecretReference::of).collect(),
            configs: container.configs.iter().map(ConfigReference::of).collect(),
            isolation: Cow::Borrowed(if container.isolation.is_empty() { "default" } else { &container.isolation }),
            sysctls: Cow::Borrowed(&container.sysctls),
            capability_add: Cow::Borrowed(&container.capability_add),
            capability_drop: Cow::Borrowed(&container.capability_drop),
            ulimits: container.ulimits.iter().map(Ulimit::of).collect(),
            oom_score_adj: container.oom_score_adj,
        }
    }

    /// The model's form. Registry credentials are not in it: they come in a header.
    pub(super) fn into_model(self) -> Result<model::ContainerSpec, Refusal> {
        let ulimit =
            |limit: Ulimit<'_>| model::Ulimit { name: limit.name.into_owned(), soft: limit.soft, hard: limit.hard };
        Ok(model::ContainerSpec {
            image: self.image.into_owned(),
            labels: self.labels.into_owned(),
            command: self.command.into_owned(),
            args: self.args.into_owned(),
            env: self.env.into_owned(),
            dir: self.dir.into_owned(),
            user: self.user.into_owned(),
            groups: self.groups.into_owned(),
            hostname: self.hostname.into_owned(),
            tty: self.tty,
            open_stdin: self.open_stdin,
            read_only: self.read_only,
            mounts: self.mounts.into_iter().map(Mount::into_model).collect::<Result<_, _>>()?,
            stop_signal: self.stop_signal.into_owned(),
            stop_grace_period: self
                .stop_grace_period
                .map(|nanos| duration(nanos, "ContainerSpec: stop-grace-period cannot be negative"))
                .transpose()?,
            healthcheck: self.healthcheck.map(HealthConfig::into_model).transpose()?,
            hosts: self.hosts.into_owned(),
            dns: self.dns_config.unwrap_or_default().into_model(),
            secrets: self.secrets.into_iter().map(SecretReference::into_model).collect::<Result<_, _>>()?,
            configs: self.configs.into_iter().map(ConfigReference::into_model).collect::<Result<_, _>>()?,
            init: self.init,
            isolation: isolation(&self.isolation)?,
            sysctls: self.sysctls.into_owned(),
            capability_add: self.capability_add.into_owned(),
            capability_drop: self.capability_drop.into_owned(),
            ulimits: self.ulimits.into_iter().map(ulimit).collect(),
            oom_score_adj: self.oom_score_adj,
            privileges: self.privileges.map(Privileges::into_model).transpose()?,
            registry_auth: None,
        })
    }
}

/// Docker takes any unknown word for `default`; the two words of Windows mean something that Linux cannot do.
fn isolation(word: &str) -> Result<String, Refusal> {
    if ["process", "hyperv"].iter().any(|windows| word.eq_ignore_ascii_case(windows)) {
        Err(Refusal::Invalid(format!("invalid isolation {word:?}: linux nodes support 'default' only")))
    } else {
        Ok("default".to_owned())
    }
}

/// How health is checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's HealthConfig and documented there")]
pub struct HealthConfig<'a> {
    #[serde(skip_serializing_if = "is_empty_list")]
    pub test: Texts<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: Nanos,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: Nanos,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: Nanos,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: Nanos,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

impl<'a> HealthConfig<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(health: &'a model::HealthConfig) -> Self {
        Self {
            test: Cow::Borrowed(&health.test),
            interval: health.interval.map_or(0, nanos),
            timeout: health.timeout.map_or(0, nanos),
            start_period: health.start_period.map_or(0, nanos),
            start_interval: health.start_interval.map_or(0, nanos),
            retries: health.retries,
        }
    }

    fn into_model(self) -> Result<model::HealthConfig, Refusal> {
        let time = |nanos: Nanos, what: &str| {
            let text = format!("ContainerSpec: {what} in HealthConfig cannot be less than 1ms");
            duration(nanos, &text).map(super::given)
        };
        Ok(model::HealthConfig {
            interval: time(self.interval, "Interval")?,
            timeout: time(self.timeout, "Timeout")?,
            retries: self.retries,
            start_period: time(self.start_period, "StartPeriod")?,
            start_interval: time(self.start_interval, "StartInterval")?,
            test: self.test.into_owned(),
        })
    }
}

/// How names are resolved inside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's DNSConfig and documented there")]
pub struct DnsConfig<'a> {
    #[serde(skip_serializing_if = "is_empty_list")]
    pub nameservers: Texts<'a>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub search: Texts<'a>,
    #[serde(skip_serializing_if = "is_empty_list")]
    pub options: Texts<'a>,
}

impl<'a> DnsConfig<'a> {
    fn of(dns: &'a model::DnsConfig) -> Self {
        Self {
            nameservers: Cow::Borrowed(&dns.nameservers),
            search: Cow::Borrowed(&dns.search),
            options: Cow::Borrowed(&dns.options),
        }
    }

    fn into_model(self) -> model::DnsConfig {
        model::DnsConfig {
            nameservers: self.nameservers.into_owned(),
            search: self.search.into_owned(),
            options: self.options.into_owned(),
        }
    }
}

/// Where a secret or config lies inside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FileTarget<'a> {
    pub name: Text<'a>,
    #[serde(rename = "UID")]
    pub uid: Text<'a>,
    #[serde(rename = "GID")]
    pub gid: Text<'a>,
    pub mode: u32,
}

impl<'a> FileTarget<'a> {
    fn of(file: &'a model::FileTarget) -> Self {
        Self {
            name: Cow::Borrowed(&file.name),
            uid: Cow::Borrowed(&file.uid),
            gid: Cow::Borrowed(&file.gid),
            mode: file.mode,
        }
    }

    fn into_model(self) -> model::FileTarget {
        model::FileTarget {
            name: self.name.into_owned(),
            uid: self.uid.into_owned(),
            gid: self.gid.into_owned(),
            mode: self.mode,
        }
    }
}

/// A secret that a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SecretReference<'a> {
    pub file: Option<FileTarget<'a>>,
    #[serde(rename = "SecretID")]
    pub secret_id: Text<'a>,
    pub secret_name: Text<'a>,
}

impl<'a> SecretReference<'a> {
    fn of(secret: &'a model::SecretReference) -> Self {
        Self {
            file: secret.file.as_ref().map(FileTarget::of),
            secret_id: Cow::Borrowed(secret.secret_id.as_str()),
            secret_name: Cow::Borrowed(&secret.secret_name),
        }
    }

    fn into_model(self) -> Result<model::SecretReference, Refusal> {
        if self.secret_id.is_empty() || self.secret_name.is_empty() {
            return Err(Refusal::argument("malformed secret reference"));
        }
        Ok(model::SecretReference {
            secret_id: model::SecretId::parse(&self.secret_id)
                .map_err(|_| Refusal::Argument(format!("secret not found: {}", self.secret_name)))?,
            secret_name: self.secret_name.into_owned(),
            file: self.file.map(FileTarget::into_model),
        })
    }
}

/// A config that a container gets, as a file or for the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ConfigReference<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTarget<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<super::GlobalMode>,
    #[serde(rename = "ConfigID")]
    pub config_id: Text<'a>,
    pub config_name: Text<'a>,
}

impl<'a> ConfigReference<'a> {
    fn of(config: &'a model::ConfigReference) -> Self {
        Self {
            file: config.file.as_ref().map(FileTarget::of),
            runtime: config.file.is_none().then_some(super::GlobalMode {}),
            config_id: Cow::Borrowed(config.config_id.as_str()),
            config_name: Cow::Borrowed(&config.config_name),
        }
    }

    fn into_model(self) -> Result<model::ConfigReference, Refusal> {
        match (&self.file, &self.runtime) {
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid("invalid Config: cannot specify both File and Runtime"));
            }
            (None, None) => {
                return Err(Refusal::invalid("invalid Config: either File or Runtime should be set"));
            }
            _ => {}
        }
        if self.config_id.is_empty() || self.config_name.is_empty() {
            return Err(Refusal::argument("malformed config reference"));
        }
        Ok(model::ConfigReference {
            config_id: model::ConfigId::parse(&self.config_id)
                .map_err(|_| Refusal::Argument(format!("config not found: {}", self.config_name)))?,
            config_name: self.config_name.into_owned(),
            file: self.file.map(FileTarget::into_model),
        })
    }
}

/// A resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Ulimit<'a> {
    pub name: Text<'a>,
    pub hard: i64,
    pub soft: i64,
}

impl<'a> Ulimit<'a> {
    /// The JSON form.
    #[must_use]
    pub fn of(limit: &'a model::Ulimit) -> Self {
        Self { name: Cow::Borrowed(&limit.name), hard: limit.hard, soft: limit.soft }
    }
}

/// Security options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of Docker's Privileges and documented there")]
pub struct Privileges<'a> {
    pub credential_spec: Option<CredentialSpec<'a>>,
    #[serde(rename = "SELinuxContext")]
    pub selinux_context: Option<SeLinuxContext<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompOptions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_armor: Option<AppArmorOptions<'a>>,
    pub no_new_privileges: bool,
}

/// A credential spec of other platforms; one of the three is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct CredentialSpec<'a> {
    pub config: Text<'a>,
    pub file: Text<'a>,
    pub registry: Text<'a>,
}

/// SELinux options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SeLinuxContext<'a> {
    pub disable: bool,
    pub user: Text<'a>,
    pub role: Text<'a>,
    pub r#type: Text<'a>,
    pub level: Text<'a>,
}

/// Which seccomp profile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SeccompOptions<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub mode: Text<'a>,
    #[serde(with = "crate::text::bytes", skip_serializing_if = "no_bytes")]
    pub profile: Cow<'a, [u8]>,
}

fn no_bytes(bytes: &[u8]) -> bool {
    bytes.is_empty()
}

/// AppArmor on or off.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the name says it")]
pub struct AppArmorOptions<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub mode: Text<'a>,
}

impl<'a> Privileges<'a> {
    fn of(privileges: &'a model::Privileges) -> Self {
        let seccomp = match &privileges.seccomp {
            model::SeccompMode::Default => None,
            model::SeccompMode::Unconfined => Some(("unconfined", &[][..])),
            model::SeccompMode::Custom(profile) => Some(("custom", profile.as_slice())),
        };
        Self {
            credential_spec: CredentialSpec::of(&privileges.credential_spec),
            selinux_context: (!privileges.selinux.is_empty()).then(|| SeLinuxContext::of(&privileges.selinux)),
            seccomp: seccomp
                .map(|(mode, profile)| SeccompOptions { mode: Cow::Borrowed(mode), profile: Cow::Borrowed(profile) }),
            app_armor: privileges.apparmor_disabled.then_some(AppArmorOptions { mode: Cow::Borrowed("disabled") }),
            no_new_privileges: privileges.no_new_privileges,
        }
    }

    fn into_model(self) -> Result<model::Privileges, Refusal> {
        Ok(model::Privileges {
            credential_spec: self.credential_spec.map(CredentialSpec::into_model).transpose()?.unwrap_or_default(),
            selinux: self.selinux_context.map(SeLinuxContext::into_model).unwrap_or_default(),
            seccomp: self.seccomp.map(SeccompOptions::into_model).transpose()?.unwrap_or_default(),
            apparmor_disabled: match self.app_armor.as_ref().map_or("", |options| &options.mode) {
                "" | "default" => false,
                "disabled" => true,
                other => return Err(Refusal::Invalid(format!("unknown AppArmor mode: {other:?}"))),
            },
            no_new_privileges: self.no_new_privileges,
        })
    }
}

impl<'a> CredentialSpec<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let rest = Cow::Borrowed(rest);
        match scheme {
            "config" => Some(Self { config: rest, ..Self::default() }),
            "file" => Some(Self { file: rest, ..Self::default() }),
            "registry" => Some(Self { registry: rest, ..Self::default() }),
            _ => None,
        }
    }

    fn into_model(self) -> Result<String, Refusal> {
        let mut given = [("config", &self.config), ("file", &self.file), ("registry", &self.registry)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty());
        match (given.next(), given.next()) {
            (Some((scheme, value)), None) => Ok(format!("{scheme}://{value}")),
            (Some((first, _)), Some((second, _))) => Err(Refusal::Invalid(format!(
                "invalid CredentialSpec: cannot specify both \"{first}\" and \"{second}\" credential specs"
            ))),
            (None, _) => Err(Refusal::invalid(
                "invalid CredentialSpec: must either provide \"file\", \"registry\", or \"config\" for credential spec",
            )),
        }
    }
}

impl<'a> SeLinuxContext<'a> {
    fn of(options: &'a [String]) -> Self {
        let value = |name: &str| {
            let found = options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix(':'));
            Cow::Borrowed(found.unwrap_or_default())
        };
        Self {
            disable: options.iter().any(|option| option == "disable"),
            user: value("user"),
            role: value("role"),
            r#type: value("type"),
            level: value("level"),
        }
    }

    fn into_model(self) -> Vec<String> {
        let parts = [("user", self.user), ("role", self.role), ("type", self.r#type), ("level", self.level)];
        self.disable
            .then(|| "disable".to_owned())
            .into_iter()
            .chain(
                parts.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}:{value}")),
            )
            .collect()
    }
}

impl SeccompOptions<'_> {
    fn into_model(self) -> Result<model::SeccompMode, Refusal> {
        let mode = match &*self.mode {
            "" | "default" => model::SeccompMode::Default,
            "unconfined" => model::SeccompMode::Unconfined,
            "custom" if self.profile.is_empty() => {
                return Err(Refusal::invalid("seccomp mode \"custom\" needs a profile"));
            }
            "custom" => return Ok(model::SeccompMode::Custom(self.profile.into_owned())),
            other => return Err(Refusal::Invalid(format!("unknown seccomp mode: {other:?}"))),
        };
        if self.profile.is_empty() {
            Ok(mode)
        } else {
            Err(Refusal::invalid("a seccomp profile needs seccomp mode \"custom\""))
        }
    }
}
