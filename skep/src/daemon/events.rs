//! Feeds the API's events of the cluster with what is committed, for as long as this node is a manager.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_http_api::ClusterEvents;
use skep_node::{LocalState, Next, Node};
use tokio::sync::Notify;

/// How often is looked whether the node is, or still is, a manager, when nobody says so.
const LOOK: Duration = Duration::from_secs(2);

/// Runs until it is dropped. `changed` is rung when the node founds or leaves a swarm.
pub(super) async fn feed(node: Arc<Node>, events: ClusterEvents, changed: Arc<Notify>) {
    loop {
        if let Ok((_, mut commits)) = node.subscribe() {
            loop {
                tokio::select! {
                    next = commits.next() => if let Next::Commit(commit) = next {
                        events.committed(&commit.events, now());
                    },
                    () = changed.notified() => break,
                    () = tokio::time::sleep(LOOK) => if node.status().state != LocalState::Active { break },
                }
            }
        }
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
