//! What users do.

use std::time::Duration;

use skep_admission::Request;
use skep_model::{
    Availability, FailureAction, NodeState, PublishMode, RestartCondition, Service, ServiceDefinition, ServiceMode,
    ServiceSpec, UpdateConfig, UpdateOrder,
};
use skep_testkit::{AService, a_service};

use crate::sim::{Sim, millis};

impl Sim {
    pub(crate) fn user_acts(&mut self) {
        match self.rng.below(100) {
            0..28 => self.create_service(),
            28..42 => self.scale_service(),
            42..50 => self.remove_service(),
            50..54 => self.label_service(),
            54..72 => self.update_service(),
            72..78 => self.roll_back_service(),
            78..92 => self.change_availability(),
            92..94 => self.label_node(),
            94..97 => self.change_history_limit(),
            _ => self.remove_node(),
        }
    }

    fn create_service(&mut self) {
        if self.state.service_count() >= 8 {
            return self.remove_service();
        }
        self.services_made += 1;
        let service = self.random_service(&format!("s{}", self.services_made));
        let replicas = if service.spec.mode == ServiceMode::Replicated { self.rng.below(7) } else { 0 };
        let definition = ServiceDefinition { replicas, ..service.definition() };
        self.request(Request::CreateService(definition));
    }

    fn one_of<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[usize::try_from(self.rng.below(N as u64)).unwrap_or(0)]
    }

    fn random_image(&mut self) -> &'static str {
        self.one_of(["serve:1", "serve:1", "serve:1", "serve:2", "exit:0", "exit:1", "missing:1"])
    }

    fn random_update_config(&mut self) -> Option<UpdateConfig> {
        let ratio = self.one_of([0.0, 0.0, 0.3, 1.0]);
        self.chance(75).then(|| UpdateConfig {
            parallelism: self.rng.below(4),
            delay: millis(self.one_of([0, 0, 500, 3000])),
            failure_action: self.one_of([FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback]),
            monitor: self.one_of([None, Some(Duration::from_secs(1)), Some(Duration::from_secs(8))]),
            max_failure_ratio: ratio,
            order: self.one_of([UpdateOrder::StopFirst, UpdateOrder::StartFirst]),
        })
    }

    /// Another version of a service's software, perhaps with other ways to roll it out.
    fn update_service(&mut self) {
        let Some(service) = self.any_service() else { return };
        let mut spec: ServiceSpec = (*service.spec).clone();
        match self.rng.below(10) {
            0..5 => self.random_image().clone_into(&mut spec.task.container.image),
            5..8 => spec.task.force_update += 1,
            8 => {
                let text = self.one_of(["node.labels.zone==a", "node.labels.zone!=a", "node.role==worker"]);
                spec.task.placement.constraints = vec![text.to_owned()];
            }
            _ => {
                let port = 8080 + u16::try_from(self.rng.below(3)).unwrap_or(0);
                spec.endpoint = a_service("x").port(port, PublishMode::Ingress).spec.endpoint;
            }
        }
        if self.chance(50) {
            spec.update = self.random_update_config();
            spec.rollback = self.random_update_config();
        }
        let replicas = if self.chance(80) { service.replicas } else { self.rng.below(8) };
        let replicas = if spec.mode == ServiceMode::Replicated { replicas } else { 0 };
        let definition = ServiceDefinition { spec: spec.into(), replicas };
        self.request(Request::UpdateService { service: service.id, version: service.meta.version, definition });
    }

    fn roll_back_service(&mut self) {
        if let Some(service) = self.any_service() {
            self.request(Request::RollbackService { service: service.id, version: service.meta.version });
        }
    }

    fn label_node(&mut self) {
        let which = self.any_node();
        let zone = self.one_of(["a", "b"]);
        let Some(node) = self.state.node(self.nodes[which].id).cloned() else { return };
        let mut spec = node.spec.clone();
        spec.labels.insert("zone".to_owned(), zone.to_owned());
        self.request(Request::UpdateNode { node: node.id, version: node.meta.version, spec });
    }

    fn random_service(&mut self, name: &str) -> AService {
        let image = self.random_image();
        let condition =
            [RestartCondition::Any, RestartCondition::Any, RestartCondition::OnFailure, RestartCondition::None]
                [usize::try_from(self.rng.below(4)).unwrap_or(0)];
        let delay = [0, 0, 500, 5000][usize::try_from(self.rng.below(4)).unwrap_or(0)];
        let mut service = a_service(name)
            .restart(condition, millis(delay))
            .spec(|spec| image.clone_into(&mut spec.task.container.image));
        service.spec.update = self.random_update_config();
        service.spec.rollback = self.random_update_config();
        if self.chance(20) {
            service = service.mode(ServiceMode::Global);
        }
        if self.chance(25) {
            let window = if self.chance(50) { 0 } else { 20_000 };
            let attempts = 1 + self.rng.below(3);
            service = service.attempts(attempts, millis(window));
        }
        if self.chance(30) {
            let number = if self.chance(50) { 0 } else { 8080 + u16::try_from(self.rng.below(3)).unwrap_or(0) };
            service = service.port(number, PublishMode::Ingress);
        }
        if self.chance(15) {
            let number = 9000 + u16::try_from(self.rng.below(2)).unwrap_or(0);
            service = service.port(number, PublishMode::Host);
        }
        if self.chance(20) {
            let text =
                ["node.labels.zone==a", "node.labels.zone!=a", "node.role==worker", "node.platform.arch==x86_64"]
                    [usize::try_from(self.rng.below(4)).unwrap_or(0)];
            service = service.constraint(text);
        }
        if self.chance(25) {
            let cpus = i64::try_from(self.between(1, 15)).unwrap_or(1) * 100_000_000;
            service = service.reserve(cpus, 0);
        }
        if self.chance(20) {
            service = service.spread("node.labels.zone");
        }
        if self.chance(15) {
            let most = 1 + self.rng.below(2);
            service = service.max_replicas(most);
        }
        service
    }

    fn any_service(&mut self) -> Option<std::sync::Arc<Service>> {
        let count = self.state.service_count() as u64;
        let at = usize::try_from(self.rng.below(count.max(1))).unwrap_or(0);
        self.state.services().nth(at).cloned()
    }

    fn scale_service(&mut self) {
        let replicas = self.rng.below(8);
        if let Some(service) = self.any_service().filter(|service| service.spec.mode == ServiceMode::Replicated) {
            let definition = ServiceDefinition { replicas, ..service.definition() };
            let request = Request::UpdateService { service: service.id, version: service.meta.version, definition };
            self.request(request);
        }
    }

    fn label_service(&mut self) {
        let value = self.rng.below(100).to_string();
        if let Some(service) = self.any_service() {
            let mut spec = (*service.spec).clone();
            spec.labels.insert("note".to_owned(), value);
            let definition = ServiceDefinition { spec: spec.into(), replicas: service.replicas };
            let request = Request::UpdateService { service: service.id, version: service.meta.version, definition };
            self.request(request);
        }
    }

    pub(crate) fn remove_service(&mut self) {
        if let Some(service) = self.any_service() {
            self.request(Request::RemoveService(service.id));
        }
    }

    fn any_node(&mut self) -> usize {
        usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap_or(0)
    }

    fn change_availability(&mut self) {
        let which = self.any_node();
        let availability = [Availability::Active, Availability::Active, Availability::Pause, Availability::Drain]
            [usize::try_from(self.rng.below(4)).unwrap_or(0)];
        self.set_availability(which, availability);
    }

    pub(crate) fn set_availability(&mut self, which: usize, availability: Availability) {
        let Some(node) = self.state.node(self.nodes[which].id).cloned() else { return };
        if node.spec.availability != availability {
            let spec = skep_model::NodeSpec { availability, ..node.spec.clone() };
            self.request(Request::UpdateNode { node: node.id, version: node.meta.version, spec });
        }
    }

    fn change_history_limit(&mut self) {
        let Some(cluster) = self.state.cluster().cloned() else { return };
        let mut spec = cluster.spec.clone();
        spec.orchestration.task_history_retention_limit = i64::try_from(self.rng.below(7)).unwrap_or(5) - 1;
        self.request(Request::UpdateCluster {
            version: cluster.meta.version,
            spec: Box::new(spec),
            new_tokens: skep_model::JoinTokens::default(),
            rotate_unlock_key: false,
        });
    }

    fn remove_node(&mut self) {
        let which = self.any_node();
        let id = self.nodes[which].id;
        let is_down = self.state.node(id).is_some_and(|node| node.observed.status.state == NodeState::Down);
        if which == 0 || !(is_down || self.chance(30)) {
            return;
        }
        self.request(Request::RemoveNode { node: id, force: true });
    }
}
