//! The daemon's settings: flags, and a JSON file with the same names. A setting given in both places is an error, as with
//! Docker's daemon, and so is a name that skep does not know.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;

/// Where a configuration file is looked for when none is named. It need not exist.
pub(crate) const CONFIG_DEFAULT: &str = "/etc/skep/daemon.json";
const DATA_ROOT_DEFAULT: &str = "/var/lib/skep";
const EXEC_ROOT_DEFAULT: &str = "/run/skep";
const CGROUP_PARENT_DEFAULT: &str = "/skep";

/// Flags of `skep daemon`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DaemonFlags {
    /// Where images, containers and the cluster state lie [default: /var/lib/skep]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_root: Option<PathBuf>,
    /// Where sockets and namespaces lie; emptied by a reboot [default: /run/skep]
    #[arg(long, value_name = "DIR")]
    pub(crate) exec_root: Option<PathBuf>,
    /// Where to listen: unix://PATH or tcp://127.0.0.1:PORT; may be given several times [default: unix://EXEC_ROOT/skep.sock]
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    pub(crate) hosts: Vec<String>,
    /// The cgroup below which containers get theirs [default: /skep]
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,
    /// A registry (HOST or HOST:PORT) that may do without TLS; may be given several times. Those on loopback always may
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    pub(crate) insecure_registries: Vec<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// A JSON file with these settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    data_root: Option<PathBuf>,
    exec_root: Option<PathBuf>,
    hosts: Option<Vec<String>>,
    cgroup_parent: Option<String>,
    insecure_registries: Option<Vec<String>>,
    log_level: Option<String>,
}

/// The daemon's settings, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) hosts: Vec<Host>,
    pub(crate) cgroup_parent: String,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) log_level: String,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    Tcp(std::net::SocketAddr),
}

impl Config {
    /// Puts flags and file together.
    pub(crate) fn load(flags: DaemonFlags) -> anyhow::Result<Self> {
        let file = match &flags.config {
            Some(path) => read(path)?,
            None if Path::new(CONFIG_DEFAULT).exists() => read(Path::new(CONFIG_DEFAULT))?,
            None => File::default(),
        };
        let hosts_flag = (!flags.hosts.is_empty()).then_some(flags.hosts);
        let data_root = choose("data-root", flags.data_root, file.data_root)?;
        let exec_root = choose("exec-root", flags.exec_root, file.exec_root)?.unwrap_or(EXEC_ROOT_DEFAULT.into());
        let hosts = choose("hosts", hosts_flag, file.hosts)?
            .unwrap_or_else(|| vec![format!("unix://{}/skep.sock", exec_root.display())]);
        let cgroup_parent = choose("cgroup-parent", flags.cgroup_parent, file.cgroup_parent)?;
        let insecure_flag = (!flags.insecure_registries.is_empty()).then_some(flags.insecure_registries);
        let insecure_registries =
            choose("insecure-registries", insecure_flag, file.insecure_registries)?.unwrap_or_default();
        let log_level = choose("log-level", flags.log_level, file.log_level)?;
        let config = Self {
            data_root: data_root.unwrap_or(DATA_ROOT_DEFAULT.into()),
            exec_root,
            hosts: hosts.iter().map(|host| parse_host(host)).collect::<anyhow::Result<_>>()?,
            cgroup_parent: cgroup_parent.unwrap_or(CGROUP_PARENT_DEFAULT.into()),
            insecure_registries,
            log_level: log_level.unwrap_or("info".into()),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        for (name, path) in [("data-root", &self.data_root), ("exec-root", &self.exec_root)] {
            if !path.is_absolute() {
                bail!("{name} must be an absolute path: {:?} is not", path.display().to_string());
            }
        }
        if self.data_root == self.exec_root {
            bail!("data-root and exec-root must differ: both are {:?}", self.data_root.display().to_string());
        }
        let parent = Path::new(&self.cgroup_parent);
        let is_plain = parent.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if !parent.is_absolute() || parent == Path::new("/") || !is_plain {
            bail!(
                "cgroup-parent must be an absolute path below the root without \"..\": {:?} is not",
                self.cgroup_parent
            );
        }
        if !["error", "warn", "info", "debug", "trace"].contains(&self.log_level.as_str()) {
            bail!("log-level must be error, warn, info, debug or trace: {:?} is not", self.log_level);
        }
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration file {name}"))?;
    serde_json::from_str(&text).with_context(|| format!("the configuration file {name} is not valid"))
}

fn choose<T>(name: &str, flag: Option<T>, file: Option<T>) -> anyhow::Result<Option<T>> {
    if flag.is_some() && file.is_some() {
        bail!("the following directives are specified both as a flag and in the configuration file: {name}");
    }
    Ok(flag.or(file))
}

/// Reads `unix://PATH` or `tcp://ADDRESS:PORT`. Without TLS whoever reaches the API is root, so TCP stays on loopback.
pub(crate) fn parse_host(text: &str) -> anyhow::Result<Host> {
    if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with('/') {
            bail!("cannot listen on {text:?}: the socket's path must be absolute, as in unix:///run/skep/skep.sock");
        }
        return Ok(Host::Unix(path.into()));
    }
    if let Some(address) = text.strip_prefix("tcp://") {
        let address: std::net::SocketAddr = address
            .replace("localhost:", "127.0.0.1:")
            .parse()
            .with_context(|| format!("cannot use {text:?}: expected tcp://ADDRESS:PORT"))?;
        if !address.ip().is_loopback() {
            bail!(
                "refusing to serve {text:?}: without TLS everybody who reaches it is root on this machine; use a loopback address or a unix socket"
            );
        }
        return Ok(Host::Tcp(address));
    }
    bail!("cannot use {text:?}: an address begins with unix:// or tcp://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> DaemonFlags {
        DaemonFlags { config: Some("/dev/null".into()), ..DaemonFlags::default() }
    }

    fn with_file(text: &str, flags: DaemonFlags) -> anyhow::Result<Config> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(DaemonFlags { config: Some(file.path().into()), ..flags })
    }

    #[test]
    fn without_settings_the_defaults_hold() {
        let config = with_file("{}", flags()).unwrap();
        assert_eq!(config.data_root, Path::new("/var/lib/skep"));
        assert_eq!(config.hosts, [Host::Unix("/run/skep/skep.sock".into())]);
    }

    #[test]
    fn file_and_flags_add_up_but_do_not_overlap() {
        let config =
            with_file(r#"{"log-level":"debug"}"#, DaemonFlags { exec_root: Some("/x".into()), ..flags() }).unwrap();
        assert_eq!((config.log_level.as_str(), &config.hosts[..]), ("debug", &[Host::Unix("/x/skep.sock".into())][..]));
        let both = with_file(r#"{"log-level":"debug"}"#, DaemonFlags { log_level: Some("info".into()), ..flags() });
        assert!(both.unwrap_err().to_string().contains("both as a flag and in the configuration file: log-level"));
    }

    #[test]
    fn wrong_settings_are_named() {
        for (text, part) in [
            (r#"{"data-rot":"/x"}"#, "not valid"),
            ("{", "not valid"),
            (r#"{"data-root":"x"}"#, "data-root must be an absolute path"),
            (r#"{"cgroup-parent":"/a/../b"}"#, "cgroup-parent"),
            (r#"{"log-level":"loud"}"#, "log-level"),
            (r#"{"hosts":["fd://"]}"#, "unix:// or tcp://"),
            (r#"{"hosts":["tcp://0.0.0.0:2375"]}"#, "refusing to serve"),
            (r#"{"hosts":["unix://x"]}"#, "absolute"),
        ] {
            let error = format!("{:#}", with_file(text, flags()).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
