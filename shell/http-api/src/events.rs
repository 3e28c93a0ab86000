//! What happens, as `GET /events` tells it. Events of the machine come from the engine, those of the cluster are derived from
//! what is committed ([`ClusterEvents`], fed by whoever subscribes to the state). Both keep the last ones for `since`; a
//! listener that is too far behind is dropped, so that nobody ever waits for one.

mod cluster;
mod filter;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use skep_api_types::{EventActor, EventMessage};

pub use cluster::ClusterEvents;
pub(crate) use filter::EventFilter;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Docker's word for the kind of the object, such as `container` or `service`.
    pub kind: &'static str,
    /// Docker's word for it, such as `create` or `exec_start: sh`.
    pub action: String,
    /// Id or name of the object.
    pub id: String,
    /// What else is known of it.
    pub attributes: BTreeMap<String, String>,
    /// In the cluster rather than on this machine.
    pub in_cluster: bool,
    /// Nanoseconds since 1970.
    pub at: i64,
}

impl Happening {
    fn scope(&self) -> &'static str {
        if self.in_cluster { "swarm" } else { "local" }
    }

    /// As it is written.
    pub(crate) fn message(&self) -> EventMessage {
        let has_legacy = !self.in_cluster && matches!(self.kind, "container" | "image");
        let legacy = |text: &str| if has_legacy { text.to_owned() } else { String::new() };
        let image = self.attributes.get("image").filter(|_| self.kind == "container");
        EventMessage {
            status: legacy(&self.action),
            id: legacy(&self.id),
            from: legacy(image.map_or("", String::as_str)),
            r#type: self.kind.to_owned(),
            action: self.action.clone(),
            actor: EventActor { id: self.id.clone(), attributes: self.attributes.clone() },
            scope: self.scope().to_owned(),
            time: self.at.div_euclid(1_000_000_000),
            time_nano: self.at,
        }
    }
}

/// Events of one source: those it still knows, oldest first, and those to come. The stream ends when the listener was too slow.
pub struct Happenings {
    /// What happened already.
    pub past: Vec<Arc<Happening>>,
    /// What happens from now on.
    pub coming: BoxStream<'static, Arc<Happening>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_fields_are_those_of_containers_and_images() {
        let happening = |kind, in_cluster| Happening {
            kind,
            action: "create".to_owned(),
            id: "x".to_owned(),
            attributes: [("image".to_owned(), "box".to_owned())].into(),
            in_cluster,
            at: 1_500_000_000,
        };
        let container = serde_json::to_string(&happening("container", false).message()).unwrap();
        assert_eq!(
            container,
            r#"{"status":"create","id":"x","from":"box","Type":"container","Action":"create","Actor":{"ID":"x","Attributes":{"image":"box"}},"scope":"local","time":1,"timeNano":1500000000}"#
        );
        let service = serde_json::to_string(&happening("service", true).message()).unwrap();
        assert!(service.starts_with(r#"{"Type":"service""#) && service.contains(r#""scope":"swarm""#), "{service}");
    }
}
