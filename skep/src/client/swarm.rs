//! `skep swarm`.

use clap::Subcommand;
use serde_json::json;

use super::http::Api;
use super::say;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start a new swarm with this machine as its manager
    Init {
        /// Address told to other machines
        #[arg(long, default_value = "")]
        advertise_addr: String,
        /// Address to listen on for other machines
        #[arg(long, default_value = "0.0.0.0:2377")]
        listen_addr: String,
    },
    /// Leave the swarm
    Leave {
        /// Also as its last manager: everything in the swarm is lost
        #[arg(short, long)]
        force: bool,
    },
}

pub(crate) async fn run(api: &Api, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Init { advertise_addr, listen_addr } => {
            let body = json!({"ListenAddr": listen_addr, "AdvertiseAddr": advertise_addr, "Spec": {}});
            let node = api.post("/swarm/init", &body).await?;
            say(&format!("Swarm initialized: current node ({}) is now a manager.", node.as_str().unwrap_or_default()));
        }
        Verb::Leave { force } => {
            api.post(&format!("/swarm/leave?force={force}"), &json!(null)).await?;
            say("Node left the swarm.");
        }
    }
    Ok(())
}
