//! `skep node`.

use clap::Subcommand;
use serde_json::Value;

use super::http::Api;
use super::{say, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the swarm's machines
    Ls {
        /// Only ids
        #[arg(short, long)]
        quiet: bool,
    },
}

pub(crate) async fn run(api: &Api, verb: Verb) -> anyhow::Result<()> {
    let Verb::Ls { quiet } = verb;
    let nodes = api.get("/nodes").await?;
    let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if quiet {
        nodes.iter().for_each(|node| say(&text(&node["ID"])));
        return Ok(());
    }
    let own = api.get("/info").await?["Swarm"]["NodeID"].clone();
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            let manager = &node["ManagerStatus"];
            let role = match (manager["Leader"].as_bool(), manager["Reachability"].as_str()) {
                (Some(true), _) => "Leader".to_owned(),
                (_, Some(reachability)) => capital(reachability),
                _ => String::new(),
            };
            vec![
                format!("{}{}", text(&node["ID"]), if node["ID"] == own { " *" } else { "" }),
                text(&node["Description"]["Hostname"]),
                capital(&text(&node["Status"]["State"])),
                capital(&text(&node["Spec"]["Availability"])),
                role,
                text(&node["Description"]["Engine"]["EngineVersion"]),
            ]
        })
        .collect();
    table::print(&["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"], &rows);
    Ok(())
}

/// The word with a capital first letter.
pub(crate) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
