//! The end of a run: everything is healed, and within a bounded time the cluster must be what its users asked for.

use std::collections::BTreeSet;

use skep_admission::Request;
use skep_model::constraint;
use skep_model::{
    Availability, Node, NodeId, NodeState, Platform, PublishMode, RestartCondition, Service, ServiceMode, ServiceSpec,
    Slot, Task, TaskState,
};
use skep_store::fulfils;

use crate::node::Container;
use crate::sim::{SECOND, Sim};

/// Longest virtual time from healing to convergence. The longest waits are the 60 s for an old task, a slow stop of 80 s, a
/// node's heartbeat deadlines, and registrations that are too frequent.
const LIMIT: u64 = 400 * SECOND;

impl Sim {
    pub(crate) fn converge(&mut self) {
        self.is_healing = true;
        self.say(|| "everything is healed".to_owned());
        let begin = self.now;
        let mut next_check = self.now;
        while self.violations.is_empty() {
            if self.now >= next_check {
                self.heal();
                let problems = self.problems();
                if problems.is_empty() {
                    self.summary.convergence_millis = (self.now - begin) / 1_000_000;
                    self.check_starts();
                    return;
                }
                if self.now - begin > LIMIT {
                    self.violations.extend(problems.into_iter().map(|problem| format!("not converged: {problem}")));
                    return;
                }
                next_check = self.now + SECOND;
            }
            if self.next_at().is_none() {
                self.violations.push("nothing will ever happen again".to_owned());
                return;
            }
            self.advance();
        }
    }

    fn check_starts(&mut self) {
        for machine in &self.nodes {
            crate::invariants::check_starts(&machine.starts, &mut self.violations);
        }
    }

    /// Repairs what is broken; repeated, because a request may lose against a commit.
    fn heal(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].is_cut = false;
            if self.state.node(self.nodes[node].id).is_none() {
                self.nodes[node].is_removed = true;
                continue;
            }
            self.node_starts(node);
            self.set_availability(node, Availability::Active);
        }
        let restless: Vec<_> =
            self.state.services().filter(|service| self.never_rests(service)).map(|service| service.id).collect();
        for service in restless {
            self.request(Request::RemoveService(service));
        }
    }

    /// What is not yet as it should be.
    fn problems(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for node in self.state.nodes() {
            if node.observed.status.state != NodeState::Ready || node.spec.availability != Availability::Active {
                problems.push(format!("node {} is {}", node.id, node.observed.status.state.name()));
            }
        }
        for service in self.state.services() {
            self.service_problems(service, &mut problems);
        }
        for task in self.state.tasks() {
            if !task.intent.desired.wants_alive() && !task.state().is_terminal() {
                problems.push(format!("task {} is not wanted and {}", task.id, task.state().name()));
            }
            if self.state.service(task.service_id).is_none() {
                problems.push(format!("task {} of a removed service is still there", task.id));
            }
        }
        self.container_problems(&mut problems);
        if self.leader.is_busy() {
            problems.push("a loop waits for an answer".to_owned());
        }
        if problems.is_empty() {
            problems = self.fresh_plans();
        }
        problems
    }

    fn service_problems(&self, service: &Service, problems: &mut Vec<String>) {
        if self.never_rests(service) {
            problems.push(format!("service {} never rests", service.spec.name));
            return;
        }
        let tasks: Vec<_> = self.state.tasks_of_service(service.id).collect();
        let mut filled = 0;
        let mut slots: BTreeSet<Slot> = tasks.iter().map(|task| task.slot).collect();
        if service.spec.mode == ServiceMode::Global {
            slots.retain(|slot| !matches!(slot, Slot::Node(node) if !self.is_eligible(service, *node)));
        }
        let update = service.update.as_ref().map(|update| update.state);
        for slot in slots {
            let in_slot = || tasks.iter().filter(|task| task.slot == slot);
            let live = || in_slot().filter(|task| task.intent.desired.wants_alive());
            let mut is_filled = false;
            for task in live() {
                let waits = self.may_wait(service, task);
                is_filled |= waits || task.state() == TaskState::Running;
                if !waits && task.state() != TaskState::Running {
                    problems.push(format!(
                        "task {} of service {} is {} and wanted {:?}: {:?} {:?}",
                        task.id,
                        service.spec.name,
                        task.state().name(),
                        task.intent,
                        task.attachment.reason,
                        task.placed.reason
                    ));
                }
            }
            // It may be held by its last task, whose policy forbids another.
            if is_filled || (live().next().is_none() && can_hold(service)) {
                filled += 1;
            } else {
                problems.push(format!("slot {slot} of service {} is dead", service.spec.name));
            }
            if live().count() > 1 && !live().any(|task| self.may_wait(service, task)) {
                problems.push(format!("slot {slot} of service {} has two tasks that run", service.spec.name));
            }
            let has_failed = in_slot().any(|task| task.by_update && task.spec_version == service.spec_version);
            let is_settled = update.is_none_or(|state| !state.is_running() && !state.is_paused());
            if is_settled
                && !has_failed
                && live().next().is_some()
                && !live().any(|task| self.state.is_up_to_date(task))
            {
                problems.push(format!("slot {slot} of service {} is outdated", service.spec.name));
            }
            let keeps = in_slot().any(|task| task.by_update) && live().any(|task| !self.state.is_up_to_date(task));
            if keeps || update.is_some_and(skep_model::UpdateState::is_running) {
                continue; // what it counts is kept
            }
            let limit =
                self.state.cluster().map_or(5, |cluster| cluster.spec.orchestration.task_history_retention_limit);
            let attempts = service.spec.task.restart_policy().max_attempts;
            let limit = if limit >= 0 && attempts > 0 { i64::try_from(attempts).unwrap_or(0) + 1 } else { limit };
            let count = i64::try_from(in_slot().count()).unwrap_or(0);
            if limit >= 0 && count > limit.max(1) {
                problems.push(format!("slot {slot} of service {} keeps {count} tasks", service.spec.name));
            }
        }
        let nodes = self.state.nodes().filter(|node| self.is_eligible(service, node.id)).count() as u64;
        let wanted = if service.spec.mode == ServiceMode::Global { nodes } else { service.replicas };
        if filled != wanted {
            problems.push(format!("service {} has {filled} of {wanted} tasks", service.spec.name));
        }
        let waits = tasks.iter().any(|task| task.intent.desired.wants_alive() && self.may_wait(service, task));
        if update.is_some_and(skep_model::UpdateState::is_running) && !waits {
            problems.push(format!("the update of service {} does not end", service.spec.name));
        }
    }

    /// True when a global service shall have a task on a node.
    fn is_eligible(&self, service: &Service, node: NodeId) -> bool {
        self.state.node(node).is_some_and(|node| fulfils(node, &service.spec.task.placement))
    }

    /// True when tasks of a service end again and again and are replaced for ever.
    fn never_rests(&self, service: &Service) -> bool {
        let live = self.state.tasks_of_service(service.id).filter(|task| task.intent.desired.wants_alive());
        live.map(|task| self.state.spec_of(task)).chain([&service.spec]).any(|spec| is_restless(spec))
    }

    /// True when a task waits for a good reason, and says so.
    fn may_wait(&self, service: &Service, task: &Task) -> bool {
        match task.state() {
            TaskState::New => {
                let endpoints = self.state.services().map(|other| (other.id, &other.endpoint.ports));
                let live = self.state.tasks().filter(|other| !other.state().is_terminal());
                let held: Vec<_> = endpoints
                    .chain(live.map(|other| (other.service_id, &other.attachment.ports)))
                    .filter(|(other, _)| *other != service.id)
                    .flat_map(|(_, ports)| ports)
                    .filter(|port| port.mode == PublishMode::Ingress)
                    .map(|port| (port.protocol, port.published_port))
                    .collect();
                let is_conflict = self.state.spec_of(task).ports().iter().any(|port| {
                    port.mode == PublishMode::Ingress && held.contains(&(port.protocol, port.published_port))
                });
                is_conflict && task.attachment.reason.is_some()
            }
            TaskState::Pending => {
                let is_open = |node: &Node| !matches!(task.slot, Slot::Node(own) if own != node.id);
                let mut nodes = self.state.nodes().filter(|node| is_open(node));
                task.placed.reason.is_some() && !nodes.any(|node| self.fits(service, task, node))
            }
            _ => false,
        }
    }

    /// The scheduler's filters once more, written as plainly as can be.
    fn fits(&self, service: &Service, task: &Task, node: &Node) -> bool {
        let spec = self.state.spec_of(task);
        let on_node: Vec<_> = self.state.tasks_on_node(node.id).filter(|task| task.occupies_node()).collect();
        let description = node.observed.description.clone().unwrap_or_default();
        let cpus = |task: &Task| {
            self.state.spec_of(task).task.resources.reservations.as_ref().map_or(0, |reserved| reserved.cpus.0)
        };
        let used: i64 = on_node.iter().map(|task| cpus(task)).sum();
        let has_room = cpus(task) == 0 || description.cpus().0 - used >= cpus(task);
        let constraints = &spec.task.placement.constraints;
        let is_allowed = constraints.iter().all(|text| constraint::parse(text).is_ok_and(|one| one.matches(node)));
        let host_ports = |task: &Task| -> Vec<u16> {
            let ports = self.state.spec_of(task).ports().iter();
            ports.filter(|port| port.mode == PublishMode::Host).map(|port| port.published_port).collect()
        };
        let wanted = host_ports(task);
        let has_ports = !on_node.iter().any(|task| host_ports(task).iter().any(|port| wanted.contains(port)));
        let most = spec.task.placement.max_replicas;
        let same = on_node.iter().filter(|task| task.service_id == service.id && task.intent.desired.wants_alive());
        let is_below = most == 0 || (same.count() as u64) < most;
        let platforms: &[Platform] = &spec.task.placement.platforms;
        node.takes_tasks() && has_room && is_allowed && has_ports && is_below && platforms.is_empty()
    }

    fn container_problems(&self, problems: &mut Vec<String>) {
        for machine in self.nodes.iter().filter(|machine| !machine.is_removed) {
            for (id, container) in &machine.containers {
                let task = self.state.task(*id).filter(|task| task.placed.node == Some(machine.id));
                let Some(task) = task else {
                    problems.push(format!("a container of the forgotten task {id} is left"));
                    continue;
                };
                if (*container == Container::Running) != (task.state() == TaskState::Running) {
                    problems
                        .push(format!("the container of task {id} is {container:?}, the task {}", task.state().name()));
                }
            }
        }
        for task in self.state.tasks().filter(|task| task.state() == TaskState::Running) {
            let machine = self.nodes.iter().find(|machine| task.placed.node == Some(machine.id));
            if machine.is_none_or(|machine| machine.containers.get(&task.id) != Some(&Container::Running)) {
                problems.push(format!("task {} is running without a container", task.id));
            }
        }
    }
}

/// True when tasks of a spec end again and again and are replaced for ever.
fn is_restless(spec: &ServiceSpec) -> bool {
    let policy = spec.task.restart_policy();
    let image = &spec.task.container.image;
    let ends_well = image == "exit:0";
    let is_replaced = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => !ends_well,
        RestartCondition::Any => true,
    };
    let is_bounded = policy.max_attempts > 0 && policy.window.is_none_or(|window| window.is_zero());
    !image.starts_with("serve") && is_replaced && !is_bounded
}

/// True when a slot of the service may be left without a wanted task.
fn can_hold(service: &Service) -> bool {
    let policy = service.spec.task.restart_policy();
    policy.condition != RestartCondition::Any || policy.max_attempts > 0
}
