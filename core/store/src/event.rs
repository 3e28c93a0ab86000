//! What happened, for the control loops.

use std::sync::Arc;

use skep_model::{Cluster, Config, Network, Node, Secret, Service, Task};

/// One committed change of one object, with the object before and after (`None`: it was created, or removed).
#[derive(Debug, Clone)]
pub enum Event {
    /// Events were lost, or none were seen yet: look at everything.
    Reset,
    /// The cluster object.
    Cluster(Option<Arc<Cluster>>, Option<Arc<Cluster>>),
    /// A node.
    Node(Option<Arc<Node>>, Option<Arc<Node>>),
    /// A service.
    Service(Option<Arc<Service>>, Option<Arc<Service>>),
    /// A network.
    Network(Option<Arc<Network>>, Option<Arc<Network>>),
    /// A task.
    Task(Option<Arc<Task>>, Option<Arc<Task>>),
    /// A secret.
    Secret(Option<Arc<Secret>>, Option<Arc<Secret>>),
    /// A config.
    Config(Option<Arc<Config>>, Option<Arc<Config>>),
}
