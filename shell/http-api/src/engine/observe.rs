//! What is watched of this machine and its containers: events, usage, processes, files.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _};

use crate::events::{Happening, Happenings};

/// What can be watched of one machine.
#[async_trait]
pub trait Observe: Send + Sync + 'static {
    /// What happened on this machine and what will.
    fn happenings(&self) -> Happenings;
}

#[async_trait]
impl Observe for skep_engine::Engine {
    fn happenings(&self) -> Happenings {
        let (past, receiver) = self.events();
        let coming = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.ok().map(|event| (happening(&event), receiver))
        });
        Happenings { past: past.iter().map(|event| happening(event)).collect(), coming: coming.boxed() }
    }
}

fn happening(event: &skep_engine::Event) -> std::sync::Arc<Happening> {
    Happening {
        kind: event.kind.name(),
        action: event.action.clone(),
        id: event.id.clone(),
        attributes: BTreeMap::clone(&event.attributes),
        in_cluster: false,
        at: event.at,
    }
    .into()
}
