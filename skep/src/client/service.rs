//! `skep service`.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::http::{Api, escaped};
use super::node::capital;
use super::{say, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a service
    Create(Box<Create>),
    /// List services
    Ls,
    /// List the tasks of services
    Ps {
        /// Names or ids
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// Change a service; its tasks are replaced step by step
    Update(Box<Update>),
    /// Return a service to what it was before its last update
    Rollback {
        /// Name or id
        service: String,
    },
    /// Change how many tasks services have
    Scale {
        /// SERVICE=REPLICAS
        #[arg(required = true)]
        scales: Vec<String>,
    },
    /// Remove services
    Rm {
        /// Names or ids
        #[arg(required = true)]
        services: Vec<String>,
    },
}

/// Flags of `service create`, named as Docker names them.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Service name
    #[arg(long, default_value = "")]
    name: String,
    /// Number of tasks
    #[arg(long, default_value_t = 1)]
    replicas: u64,
    /// Environment variable, NAME=VALUE
    #[arg(short, long)]
    env: Vec<String>,
    /// Service label, NAME=VALUE
    #[arg(short, long)]
    label: Vec<String>,
    /// Published port, PUBLISHED:TARGET[/tcp|udp]
    #[arg(short, long)]
    publish: Vec<String>,
    /// User, NAME|UID[:GROUP|GID]
    #[arg(short, long, default_value = "")]
    user: String,
    /// Working directory inside the container
    #[arg(short, long, default_value = "")]
    workdir: String,
    /// Most CPUs, as 0.5
    #[arg(long)]
    limit_cpu: Option<f64>,
    /// Most memory, as 64m
    #[arg(long)]
    limit_memory: Option<String>,
    /// When to replace a task that ended: none, on-failure or any
    #[arg(long)]
    restart_condition: Option<String>,
    /// How long to wait before that, as 500ms or 5s
    #[arg(long)]
    restart_delay: Option<String>,
    /// Image
    image: String,
    /// Arguments for the image's entrypoint
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Flags of `service update`, named as Docker names them. What is not given stays as it is.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Image
    #[arg(long)]
    image: Option<String>,
    /// Number of tasks
    #[arg(long)]
    replicas: Option<u64>,
    /// Environment variable to add or change, NAME=VALUE
    #[arg(long)]
    env_add: Vec<String>,
    /// Name of an environment variable to take away
    #[arg(long)]
    env_rm: Vec<String>,
    /// Tasks replaced at a time; 0 is all
    #[arg(long)]
    update_parallelism: Option<u64>,
    /// Pause between them, as 500ms or 5s
    #[arg(long)]
    update_delay: Option<String>,
    /// How long a new task is watched, as 500ms or 5s
    #[arg(long)]
    update_monitor: Option<String>,
    /// stop-first or start-first
    #[arg(long)]
    update_order: Option<String>,
    /// What a failure does: pause, continue or rollback
    #[arg(long)]
    update_failure_action: Option<String>,
    /// Replace the tasks also when nothing of them changed
    #[arg(long)]
    force: bool,
    /// Name or id
    service: String,
}

pub(crate) async fn run(api: &Api, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Create(create) => {
            let answer = api.post("/services/create", &spec(&create)?).await?;
            for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                eprintln!("warning: {warning}");
            }
            say(answer["ID"].as_str().unwrap_or_default());
        }
        Verb::Ls => list(api).await?,
        Verb::Ps { services } => tasks(api, &services).await?,
        Verb::Update(update) => {
            let (path, service) = found(api, &update.service).await?;
            let answer = api.post(&path, &changed(service["Spec"].clone(), &update)?).await?;
            for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                eprintln!("warning: {warning}");
            }
            say(&update.service);
        }
        Verb::Rollback { service } => {
            let (path, found) = found(api, &service).await?;
            api.post(&format!("{path}&rollback=previous"), &found["Spec"]).await?;
            say(&service);
        }
        Verb::Scale { scales } => {
            for scale in scales {
                let (name, replicas) =
                    scale.split_once('=').with_context(|| format!("{scale:?} is not SERVICE=REPLICAS"))?;
                let count: u64 =
                    replicas.parse().with_context(|| format!("{name}: invalid replicas value {replicas}"))?;
                set_replicas(api, name, count).await?;
                say(&format!("{name} scaled to {count}"));
            }
        }
        Verb::Rm { services } => {
            for service in services {
                api.delete(&format!("/services/{}", escaped(&service))).await?;
                say(&service);
            }
        }
    }
    Ok(())
}

/// A service, and where its next version is sent.
async fn found(api: &Api, name: &str) -> anyhow::Result<(String, Value)> {
    let service = api.get(&format!("/services/{}", escaped(name))).await?;
    let id = service["ID"].as_str().unwrap_or_default();
    Ok((format!("/services/{id}/update?version={}", service["Version"]["Index"]), service))
}

/// The spec with what the user wants changed.
fn changed(mut spec: Value, update: &Update) -> anyhow::Result<Value> {
    if let Some(replicas) = update.replicas {
        set_scale(&mut spec, &update.service, replicas)?;
    }
    let task = &mut spec["TaskTemplate"];
    if let Some(image) = &update.image {
        task["ContainerSpec"]["Image"] = json!(image);
    }
    if !update.env_add.is_empty() || !update.env_rm.is_empty() {
        let name = |variable: &str| variable.split_once('=').map_or(variable, |(name, _)| name).to_owned();
        let gone: Vec<_> = update.env_add.iter().chain(&update.env_rm).map(|variable| name(variable)).collect();
        let old = task["ContainerSpec"]["Env"].as_array().cloned().unwrap_or_default();
        let kept = old.iter().filter_map(Value::as_str).filter(|variable| !gone.contains(&name(variable)));
        let env: Vec<_> = kept.map(str::to_owned).chain(update.env_add.iter().cloned()).collect();
        task["ContainerSpec"]["Env"] = json!(env);
    }
    if update.force {
        task["ForceUpdate"] = json!(task["ForceUpdate"].as_u64().unwrap_or_default() + 1);
    }
    let durations = [("Delay", &update.update_delay), ("Monitor", &update.update_monitor)];
    let words = [("Order", &update.update_order), ("FailureAction", &update.update_failure_action)];
    let mut config = spec["UpdateConfig"].as_object().cloned().unwrap_or_default();
    let is_new = config.is_empty();
    for (key, text) in durations {
        if let Some(text) = text {
            config.insert(key.to_owned(), json!(nanoseconds(text)?));
        }
    }
    for (key, word) in words {
        if let Some(word) = word {
            config.insert(key.to_owned(), json!(word));
        }
    }
    if let Some(parallelism) = update.update_parallelism {
        config.insert("Parallelism".to_owned(), json!(parallelism));
    }
    if !config.is_empty() {
        if is_new {
            // Without a word about it, one at a time; in the API a missing number is 0: all at once.
            config.entry("Parallelism").or_insert(json!(1));
        }
        spec["UpdateConfig"] = Value::Object(config);
    }
    Ok(spec)
}

fn set_scale(spec: &mut Value, name: &str, replicas: u64) -> anyhow::Result<()> {
    if spec["Mode"]["Replicated"].is_null() {
        bail!("{name}: scale can only be used with replicated or replicated-job mode");
    }
    spec["Mode"]["Replicated"]["Replicas"] = json!(replicas);
    Ok(())
}

async fn set_replicas(api: &Api, name: &str, replicas: u64) -> anyhow::Result<()> {
    let (path, service) = found(api, name).await?;
    let mut spec = service["Spec"].clone();
    set_scale(&mut spec, name, replicas)?;
    api.post(&path, &spec).await?;
    Ok(())
}

fn spec(create: &Create) -> anyhow::Result<Value> {
    let ports = create.publish.iter().map(|text| port(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let labels: BTreeMap<_, _> =
        create.label.iter().map(|label| label.split_once('=').unwrap_or((label, ""))).collect();
    let mut limits = json!({});
    if let Some(cpus) = create.limit_cpu {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the daemon checks the range; a saturated value is refused there"
        )]
        let nanos = (cpus * 1e9) as i64;
        limits["NanoCPUs"] = json!(nanos);
    }
    if let Some(memory) = &create.limit_memory {
        limits["MemoryBytes"] = json!(bytes(memory)?);
    }
    let mut task = json!({
        "ContainerSpec": {
            "Image": create.image, "Args": create.args, "Env": create.env, "User": create.user, "Dir": create.workdir,
        },
        "Resources": {"Limits": limits, "Reservations": {}},
    });
    if create.restart_condition.is_some() || create.restart_delay.is_some() {
        let delay = create.restart_delay.as_deref().map(nanoseconds).transpose()?.unwrap_or(5_000_000_000);
        let condition = create.restart_condition.as_deref().unwrap_or("any");
        task["RestartPolicy"] = json!({"Condition": condition, "Delay": delay});
    }
    Ok(json!({
        "Name": create.name, "Labels": labels, "TaskTemplate": task,
        "Mode": {"Replicated": {"Replicas": create.replicas}},
        "EndpointSpec": {"Mode": "vip", "Ports": ports},
    }))
}

/// Reads `[PUBLISHED:]TARGET[/PROTOCOL]`.
fn port(text: &str) -> anyhow::Result<Value> {
    let wrong = || format!("cannot publish {text:?}: expected [PUBLISHED:]TARGET[/tcp|udp|sctp]");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (published, target) = ports.split_once(':').unwrap_or(("0", ports));
    let number = |text: &str| text.parse::<u16>().with_context(wrong);
    Ok(json!({
        "Protocol": protocol, "TargetPort": number(target)?, "PublishedPort": number(published)?, "PublishMode": "ingress",
    }))
}

/// Reads `64m`, `1g`, `512k` or a number of bytes.
fn bytes(text: &str) -> anyhow::Result<i64> {
    let lower = text.to_lowercase();
    let plain = lower.trim_end_matches('b');
    let (digits, shift) = match plain.chars().last() {
        Some('k') => (&plain[..plain.len() - 1], 10),
        Some('m') => (&plain[..plain.len() - 1], 20),
        Some('g') => (&plain[..plain.len() - 1], 30),
        _ => (plain, 0),
    };
    let number: i64 = digits.parse().with_context(|| format!("{text:?} is not an amount of memory, as 64m"))?;
    number.checked_mul(1 << shift).with_context(|| format!("{text:?} is too much memory"))
}

/// Reads `500ms`, `5s` or `2m`.
fn nanoseconds(text: &str) -> anyhow::Result<u64> {
    let wrong = || format!("{text:?} is not a duration, as 500ms, 5s or 2m");
    let (digits, unit) = if let Some(digits) = text.strip_suffix("ms") {
        (digits, 1_000_000)
    } else if let Some(digits) = text.strip_suffix('s') {
        (digits, 1_000_000_000)
    } else if let Some(digits) = text.strip_suffix('m') {
        (digits, 60_000_000_000)
    } else {
        (text, if text == "0" { 1 } else { bail!("{}", wrong()) })
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).with_context(wrong)
}

async fn list(api: &Api) -> anyhow::Result<()> {
    let services = api.get("/services?status=true").await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows: Vec<_> = services
        .as_array()
        .into_iter()
        .flatten()
        .map(|service| {
            let status = &service["ServiceStatus"];
            let ports: Vec<_> = service["Endpoint"]["Ports"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|port| format!("*:{}->{}/{}", port["PublishedPort"], port["TargetPort"], text(&port["Protocol"])))
                .collect();
            let mode = service["Spec"]["Mode"].as_object().and_then(|mode| mode.keys().next().cloned());
            vec![
                table::short(&text(&service["ID"])),
                text(&service["Spec"]["Name"]),
                mode.unwrap_or_default().to_lowercase(),
                format!("{}/{}", status["RunningTasks"], status["DesiredTasks"]),
                text(&service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]),
                ports.join(", "),
            ]
        })
        .collect();
    table::print(&["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"], &rows);
    Ok(())
}

async fn tasks(api: &Api, services: &[String]) -> anyhow::Result<()> {
    let nodes = api.get("/nodes").await?;
    let hostname = |id: &Value| {
        let node = nodes.as_array().into_iter().flatten().find(|node| &node["ID"] == id);
        node.and_then(|node| node["Description"]["Hostname"].as_str()).unwrap_or_default().to_owned()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows = Vec::new();
    for name in services {
        let service = api.get(&format!("/services/{}", escaped(name))).await?;
        let filter = escaped(&json!({"service": [service["ID"]]}).to_string());
        let answer = api.get(&format!("/tasks?filters={filter}")).await?;
        let mut tasks = answer.as_array().cloned().unwrap_or_default();
        tasks.sort_by_key(|task| (task["Slot"].as_u64(), std::cmp::Reverse(text(&task["CreatedAt"]))));
        let mut slot_before = Value::Null;
        for task in tasks {
            let is_older = task["Slot"] == slot_before;
            slot_before = task["Slot"].clone();
            let status = &task["Status"];
            rows.push(vec![
                table::short(&text(&task["ID"])),
                format!("{}{}.{}", if is_older { " \\_ " } else { "" }, text(&service["Spec"]["Name"]), task["Slot"]),
                text(&task["Spec"]["ContainerSpec"]["Image"]),
                hostname(&task["NodeID"]),
                capital(&text(&task["DesiredState"])),
                format!("{} {}", capital(&text(&status["State"])), table::ago(&text(&status["Timestamp"]))),
                text(&status["Err"]),
            ]);
        }
    }
    table::print(&["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR"], &rows);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_changes_what_is_named() {
        let update = Update {
            image: Some("b".to_owned()),
            replicas: Some(2),
            env_add: vec!["X=2".to_owned()],
            env_rm: vec!["Y".to_owned()],
            update_parallelism: None,
            update_delay: Some("1s".to_owned()),
            update_monitor: None,
            update_order: Some("start-first".to_owned()),
            update_failure_action: None,
            force: true,
            service: "web".to_owned(),
        };
        let spec = json!({
            "Name": "web", "Mode": {"Replicated": {"Replicas": 1}},
            "TaskTemplate": {"ContainerSpec": {"Image": "a", "Env": ["X=1", "Y=1", "Z=1"]}, "ForceUpdate": 1},
        });
        let wanted = json!({
            "Name": "web", "Mode": {"Replicated": {"Replicas": 2}},
            "TaskTemplate": {"ContainerSpec": {"Image": "b", "Env": ["Z=1", "X=2"]}, "ForceUpdate": 2},
            "UpdateConfig": {"Parallelism": 1, "Delay": 1_000_000_000, "Order": "start-first"},
        });
        assert_eq!(changed(spec, &update).unwrap(), wanted);
        let global = json!({"Mode": {"Global": {}}});
        assert!(changed(global, &update).is_err());
    }

    #[test]
    fn amounts_are_read_as_docker_reads_them() {
        assert_eq!(bytes("64m").unwrap(), 64 << 20);
        assert_eq!(bytes("1GB").unwrap(), 1 << 30);
        assert_eq!(bytes("17").unwrap(), 17);
        assert!(bytes("much").is_err());
        assert_eq!(nanoseconds("500ms").unwrap(), 500_000_000);
        assert_eq!(nanoseconds("2m").unwrap(), 120_000_000_000);
        assert!(nanoseconds("2").is_err());
        assert_eq!(port("8080:80/udp").unwrap()["PublishedPort"], 8080);
        assert!(port("x").is_err());
    }
}
