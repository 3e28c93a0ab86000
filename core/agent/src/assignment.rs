//! What a node is told to run. The `node` crate builds it from wire messages; it is self-contained, so that the agent and
//! the executor need to know nothing else of the cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use skep_model::{
    ConfigId, DesiredState, Labels, NodeId, PortConfig, SecretId, ServiceId, Slot, SpecVersion, TaskId, TaskSpec,
    TaskStatus,
};

/// One task that this node shall run, with all that is needed to do so.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The task.
    pub task_id: TaskId,
    /// A name given to the task itself; empty as a rule, then it is made of service, slot and id (see
    /// [`crate::container_name`]).
    pub task_name: String,
    /// Labels given to the task itself; empty as a rule.
    pub task_labels: Labels,
    /// Its service; `None` for a task that belongs to none.
    pub service_id: Option<ServiceId>,
    /// Name of the service.
    pub service_name: String,
    /// Labels of the service object (for templates).
    pub service_labels: Labels,
    /// Which place of the service it fills.
    pub slot: Slot,
    /// This node.
    pub node_id: NodeId,
    /// The revision of the service's spec.
    pub spec_version: SpecVersion,
    /// Container, resources, log driver. Templates in it are not expanded yet.
    pub spec: Arc<TaskSpec>,
    /// Published ports with the numbers the managers chose; a host-mode port may still be 0: the node chooses.
    pub ports: Vec<PortConfig>,
    /// What is wanted of the task.
    pub desired: DesiredState,
    /// What the managers believe of it, from earlier reports. It counts only when the node has no memory of the task.
    pub known: Option<TaskStatus>,
    /// Values of the secrets that the spec refers to. Never stored on the node.
    pub secrets: BTreeMap<SecretId, Arc<Payload>>,
    /// Values of the configs that the spec refers to.
    pub configs: BTreeMap<ConfigId, Arc<Payload>>,
    /// Credentials for the registry of the image, as in `X-Registry-Auth` (base64url JSON). Never stored on the node.
    pub registry_auth: Option<Arc<Credential>>,
    /// The networks it is attached to, the one with the default route first; empty is the node's own bridge.
    pub networks: Vec<AttachedNetwork>,
}

impl Assignment {
    /// True when it carries values that are never stored.
    #[must_use]
    pub fn has_values(&self) -> bool {
        !self.secrets.is_empty() || !self.configs.is_empty() || self.registry_auth.is_some()
    }

    /// Drops the values: nobody needs them any more.
    pub fn forget_values(&mut self) {
        self.secrets.clear();
        self.configs.clear();
        self.registry_auth = None;
    }
}

/// The value of a secret or config on its way into a container.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// Name of the object.
    pub name: String,
    /// Its data.
    pub data: Vec<u8>,
    /// The data is a template that is filled in for each task (`Templating.Name` is `golang`).
    pub is_template: bool,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({:?}, {} bytes)", self.name, self.data.len())
    }
}

/// A credential; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(pub String);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// One network of a task, with what the managers gave it there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachedNetwork {
    /// Id of the network.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its driver: `overlay`, or for a network of the node itself `bridge`, `host` or `null`.
    pub driver: String,
    /// Subnets, CIDR; empty for networks of the node itself.
    pub subnets: Vec<String>,
    /// Gateways, each of the subnet at the same place.
    pub gateways: Vec<String>,
    /// Addresses of the task, with the prefix length of their subnet.
    pub addresses: Vec<String>,
    /// Further names of the task there.
    pub aliases: Vec<String>,
    /// VXLAN network id; 0 where there is none.
    pub vni: u32,
    /// Options of the driver, such as `com.docker.network.driver.mtu`.
    pub options: BTreeMap<String, String>,
    /// No way out of the network.
    pub internal: bool,
}

/// One change to the set of assignments.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new task, or a new desired state of a known one.
    Update(Box<Assignment>),
    /// The task's record is deleted: stop it, delete everything of it.
    Remove(TaskId),
}
