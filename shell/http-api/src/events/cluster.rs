//! Events of the cluster, from the changes of the state: Docker's attributes (`daemon/events.go`), and nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, StreamExt as _};
use skep_model::{Network, Node, Service, ServiceMode};
use skep_store::Event;
use tokio::sync::broadcast;

use super::{Happening, Happenings};

/// Events that are kept for `since` (as many as Docker keeps).
const KEPT: usize = 256;
/// Events that a listener may be behind; then it is dropped.
const BEHIND: usize = 1024;

type Attributes = BTreeMap<String, String>;

/// The last events of the cluster, and everything from now on for whoever listens. Clones share it.
#[derive(Debug, Clone)]
pub struct ClusterEvents(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<VecDeque<Arc<Happening>>>,
    listeners: broadcast::Sender<Arc<Happening>>,
}

impl Default for ClusterEvents {
    fn default() -> Self {
        Self(Arc::new(Inner { kept: Mutex::default(), listeners: broadcast::Sender::new(BEHIND) }))
    }
}

impl ClusterEvents {
    /// Tells what a commit at `at` (nanoseconds since 1970) changed.
    pub fn committed(&self, changes: &[Event], at: i64) {
        for happening in changes.iter().filter_map(|change| happening(change, at)) {
            let happening = Arc::new(happening);
            let mut kept = self.kept();
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(happening.clone());
            // Nobody listens: that is no failure. Sent under the lock, so that a listener gets each event once.
            let _ = self.0.listeners.send(happening);
        }
    }

    /// What happened and what will.
    #[must_use]
    pub fn listen(&self) -> Happenings {
        let kept = self.kept();
        let coming = stream::unfold(self.0.listeners.subscribe(), |mut receiver| async {
            // Both errors end the stream: the listener was too slow, or nothing comes any more.
            receiver.recv().await.ok().map(|happening| (happening, receiver))
        });
        Happenings { past: kept.iter().cloned().collect(), coming: coming.boxed() }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Happening>>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn happening(change: &Event, at: i64) -> Option<Happening> {
    match change {
        Event::Node(old, new) => told("node", old.as_deref(), new.as_deref(), at, |node| node.id.to_string(), node),
        Event::Service(old, new) => {
            told("service", old.as_deref(), new.as_deref(), at, |service| service.id.to_string(), service)
        }
        Event::Secret(old, new) => told(
            "secret",
            old.as_deref(),
            new.as_deref(),
            at,
            |secret| secret.id.to_string(),
            |_, secret| named(&secret.spec.name),
        ),
        Event::Config(old, new) => told(
            "config",
            old.as_deref(),
            new.as_deref(),
            at,
            |config| config.id.to_string(),
            |_, config| named(&config.spec.name),
        ),
        Event::Network(old, new) => {
            let shown = old.as_ref().or(new.as_ref()).is_some_and(|network| !network.is_predefined());
            let network =
                told("network", old.as_deref(), new.as_deref(), at, |network| network.id.to_string(), network);
            network.filter(|_| shown)
        }
        Event::Reset | Event::Cluster(..) | Event::Task(..) => None,
    }
}

fn told<T: PartialEq>(
    kind: &'static str,
    old: Option<&T>,
    new: Option<&T>,
    at: i64,
    id: impl Fn(&T) -> String,
    attributes: impl Fn(Option<&T>, &T) -> Attributes,
) -> Option<Happening> {
    let (action, object, old) = match (old, new) {
        (None, Some(new)) => ("create", new, None),
        (Some(old), Some(new)) => ("update", new, Some(old)),
        (Some(old), None) => ("remove", old, None),
        (None, None) => return None,
    };
    Some(Happening {
        kind,
        action: action.to_owned(),
        id: id(object),
        attributes: attributes(old, object),
        in_cluster: true,
        at,
    })
}

/// Notes a value that changed.
fn changed(attributes: &mut Attributes, name: &str, old: &str, new: &str) {
    if old != new {
        attributes.insert(format!("{name}.old"), old.to_owned());
        attributes.insert(format!("{name}.new"), new.to_owned());
    }
}

fn named(name: &str) -> Attributes {
    Attributes::from([("name".to_owned(), name.to_owned())])
}

fn node(old: Option<&Node>, node: &Node) -> Attributes {
    let hostname = node.observed.description.as_ref().map_or("", |about| about.hostname.as_str());
    let name = if node.spec.name.is_empty() { hostname } else { &node.spec.name };
    let mut attributes = Attributes::from([("name".to_owned(), name.to_owned())]);
    if let Some(old) = old {
        changed(&mut attributes, "availability", old.spec.availability.name(), node.spec.availability.name());
        changed(&mut attributes, "role", old.role.name(), node.role.name());
        changed(&mut attributes, "state", old.observed.status.state.name(), node.observed.status.state.name());
    }
    attributes
}

fn network(_: Option<&Network>, network: &Network) -> Attributes {
    Attributes::from([("name".to_owned(), network.spec.name.clone())])
}

fn service(old: Option<&Service>, service: &Service) -> Attributes {
    let mut attributes = Attributes::from([("name".to_owned(), service.spec.name.clone())]);
    if let Some(old) = old {
        changed(&mut attributes, "image", &old.spec.task.container.image, &service.spec.task.container.image);
        if service.spec.mode == ServiceMode::Replicated && old.spec.mode == ServiceMode::Replicated {
            changed(&mut attributes, "replicas", &old.replicas.to_string(), &service.replicas.to_string());
        }
        let state = |service: &Service| service.update.as_ref().map(|update| update.state.name());
        match (state(old), state(service)) {
            (Some(old), Some(new)) => changed(&mut attributes, "updatestate", old, new),
            (None, Some(new)) => drop(attributes.insert("updatestate.new".to_owned(), new.to_owned())),
            (_, None) => {}
        }
    }
    attributes
}

#[cfg(test)]
mod tests {
    use skep_testkit::{World, a_service, a_state};

    use super::*;

    #[tokio::test]
    async fn changes_of_the_state_become_docker_s_events() {
        let events = ClusterEvents::default();
        let mut world: World = a_state();
        let service = a_service("web");
        let id = service.id;
        world.put(service);
        let before = world.state.service(id).unwrap().clone();
        let mut after = (*before).clone();
        after.replicas = 3;
        events.committed(&[Event::Service(None, Some(before.clone())), Event::Reset], 1);
        let Happenings { past, mut coming } = events.listen();
        assert_eq!((past.len(), past[0].action.as_str(), past[0].id.clone()), (1, "create", id.to_string()));
        events.committed(&[Event::Service(Some(before.clone()), Some(Arc::new(after)))], 2);
        let update = coming.next().await.unwrap();
        let wanted = [("name", "web"), ("replicas.new", "3"), ("replicas.old", "1")];
        let wanted: Attributes = wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!((update.action.as_str(), &update.attributes), ("update", &wanted));
        // A listener that is too slow is dropped, and the others do not notice.
        for _ in 0..=BEHIND {
            events.committed(&[Event::Service(Some(before.clone()), None)], 3);
        }
        assert!(coming.next().await.is_none());
        assert_eq!(events.listen().past.len(), KEPT);
    }
}
