//! `skep ps`.

use serde_json::Value;

use super::http::Api;
use super::{say, table};

#[derive(Debug, clap::Args)]
pub(crate) struct PsFlags {
    /// Also containers that have ended
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn ps(api: &Api, flags: &PsFlags) -> anyhow::Result<()> {
    let containers = api.get(if flags.all { "/containers/json?all=1" } else { "/containers/json" }).await?;
    let containers = containers.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if flags.quiet {
        containers.iter().for_each(|container| say(&table::short(&text(&container["Id"]))));
        return Ok(());
    }
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let rows: Vec<_> = containers
        .iter()
        .map(|container| {
            vec![
                table::short(&text(&container["Id"])),
                text(&container["Image"]),
                format!("{:?}", text(&container["Command"]).chars().take(20).collect::<String>()),
                table::ago_seconds(now - container["Created"].as_i64().unwrap_or(now)),
                text(&container["Status"]),
                text(&container["Names"][0]).trim_start_matches('/').to_owned(),
            ]
        })
        .collect();
    table::print(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"], &rows);
    Ok(())
}
