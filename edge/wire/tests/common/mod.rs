//! Random values of the model for the tests, all reproducible from a number: every field is set one time or another, texts
//! and numbers at their edges included.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_model::*;
use skep_store::{AtomicGroup, Change, Entry, NewCluster, NewNode, NewTask, Parts, Precondition, Proposal, State};

/// A stream of random values.
pub struct Random {
    state: u64,
    /// Fields that came after the golden files of 0.1 are set, too.
    has_later: bool,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, has_later: true }
    }

    /// The stream that the golden files of 0.1 were made from.
    pub fn of_0_1(seed: u64) -> Self {
        Self { has_later: false, ..Self::new(seed) }
    }

    /// A field that came after the golden files of 0.1: there it is as if it was not given.
    fn later<T: Default>(&mut self, make: impl FnOnce(&mut Self) -> T) -> T {
        if self.has_later { make(self) } else { T::default() }
    }

    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    fn flag(&mut self) -> bool {
        self.number() & 1 == 1
    }

    fn pick<T: Clone>(&mut self, values: &[T]) -> T {
        let place = self.below(values.len() as u64);
        values[usize::try_from(place).unwrap()].clone()
    }

    fn u64(&mut self) -> u64 {
        let any = self.number();
        self.pick(&[0, 1, any, u64::MAX])
    }

    fn i64(&mut self) -> i64 {
        let any = self.number() as i64;
        self.pick(&[0, 1, -1, any, i64::MIN, i64::MAX])
    }

    fn text(&mut self) -> String {
        let any = format!("t{}", self.number());
        self.pick(&[String::new(), any, "ä €\n\"'".to_owned(), " ".to_owned()])
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(9)).map(|_| self.number() as u8).collect()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| make(self)).collect()
    }

    fn texts(&mut self) -> Vec<String> {
        self.list(Self::text)
    }

    fn map(&mut self) -> BTreeMap<String, String> {
        self.list(|random| (random.text(), random.text())).into_iter().collect()
    }

    pub fn id<T: ObjectId>(&mut self) -> T {
        let mut bytes = [0; 17];
        bytes.fill_with(|| self.number() as u8);
        T::from_random(bytes)
    }

    fn duration(&mut self) -> Duration {
        let any = Duration::from_nanos(self.number());
        self.pick(&[Duration::ZERO, Duration::from_nanos(1), any, Duration::from_nanos(i64::MAX as u64)])
    }

    fn wall(&mut self) -> WallTime {
        WallTime(self.i64())
    }

    fn stamp(&mut self) -> Stamp {
        Stamp { cluster: ClusterTime(self.u64()), wall: self.wall() }
    }

    fn meta(&mut self) -> Meta {
        Meta { version: Version(self.u64()), created_at: self.wall(), updated_at: self.wall() }
    }

    fn sealed(&mut self) -> Sealed {
        Sealed(self.bytes())
    }

    fn group_version(&mut self) -> GroupVersion {
        GroupVersion(self.u64())
    }

    fn driver(&mut self) -> Driver {
        Driver { name: self.text(), options: self.map() }
    }

    fn platform(&mut self) -> Platform {
        Platform { architecture: self.text(), os: self.text() }
    }

    fn generic(&mut self) -> GenericResource {
        if self.flag() {
            GenericResource::Named { kind: self.text(), value: self.text() }
        } else {
            GenericResource::Discrete { kind: self.text(), value: self.i64() }
        }
    }

    fn resources(&mut self) -> Resources {
        Resources { cpus: NanoCpus(self.i64()), memory: ByteSize(self.i64()), generic: self.list(Self::generic) }
    }

    fn port(&mut self) -> PortConfig {
        PortConfig {
            name: self.text(),
            protocol: self.pick(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
            target_port: self.number() as u16,
            published_port: self.pick(&[0, 80, u16::MAX]),
            mode: self.pick(&[PublishMode::Ingress, PublishMode::Host]),
        }
    }

    fn network(&mut self) -> NetworkAttachmentConfig {
        NetworkAttachmentConfig {
            target: self.text(),
            aliases: self.texts(),
            addresses: self.texts(),
            driver_options: self.map(),
        }
    }

    fn update_config(&mut self) -> UpdateConfig {
        UpdateConfig {
            parallelism: self.u64(),
            delay: self.duration(),
            failure_action: self.pick(&[FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback]),
            monitor: self.maybe(Self::duration),
            max_failure_ratio: self.pick(&[0.0, 0.25, 1.0]),
            order: self.pick(&[UpdateOrder::StopFirst, UpdateOrder::StartFirst]),
        }
    }

    fn health(&mut self) -> HealthConfig {
        HealthConfig {
            test: self.texts(),
            interval: self.maybe(Self::duration),
            timeout: self.maybe(Self::duration),
            retries: self.i64(),
            start_period: self.maybe(Self::duration),
            start_interval: self.maybe(Self::duration),
        }
    }

    fn mount(&mut self) -> Mount {
        Mount {
            kind: self.pick(&[
                MountKind::Bind,
                MountKind::Volume,
                MountKind::Tmpfs,
                MountKind::NamedPipe,
                MountKind::Cluster,
                MountKind::Image,
            ]),
            source: self.text(),
            target: self.text(),
            read_only: self.flag(),
            consistency: self.pick(&["", "default", "cached", "strange"]).to_owned(),
            bind: self.maybe(|random| BindOptions {
                propagation: random.pick(&["", "rprivate", "private", "slave", "strange"]).to_owned(),
                non_recursive: random.flag(),
                create_mountpoint: random.flag(),
                read_only_non_recursive: random.flag(),
                read_only_force_recursive: random.flag(),
            }),
            volume: self.maybe(|random| VolumeOptions {
                no_copy: random.flag(),
                labels: random.map(),
                driver: random.maybe(Self::driver),
                subpath: random.text(),
            }),
            tmpfs: self.maybe(|random| TmpfsOptions {
                size: ByteSize(random.i64()),
                mode: random.number() as u32,
                options: random.list(Self::texts),
            }),
        }
    }

    fn file(&mut self) -> FileTarget {
        FileTarget { name: self.text(), uid: self.text(), gid: self.text(), mode: self.number() as u32 }
    }

    fn privileges(&mut self) -> Privileges {
        let profile = self.bytes();
        Privileges {
            credential_spec: self.pick(&["", "file://a", "registry://b", "config://c", "raw", "x://y"]).to_owned(),
            selinux: self.list(|random| random.pick(&["disable", "user:u", "level:s0:c1", "strange"]).to_owned()),
            seccomp: self.pick(&[SeccompMode::Default, SeccompMode::Unconfined, SeccompMode::Custom(profile)]),
            apparmor_disabled: self.flag(),
            no_new_privileges: self.flag(),
        }
    }

    fn container(&mut self) -> ContainerSpec {
        ContainerSpec {
            image: self.text(),
            labels: self.map(),
            command: self.texts(),
            args: self.texts(),
            env: self.texts(),
            dir: self.text(),
            user: self.text(),
            groups: self.texts(),
            hostname: self.text(),
            tty: self.flag(),
            open_stdin: self.flag(),
            read_only: self.flag(),
            mounts: self.list(Self::mount),
            stop_signal: self.text(),
            stop_grace_period: self.maybe(Self::duration),
            healthcheck: self.maybe(Self::health),
            hosts: self.texts(),
            dns: DnsConfig { nameservers: self.texts(), search: self.texts(), options: self.texts() },
            secrets: self.list(|random| SecretReference {
                secret_id: random.id(),
                secret_name: random.text(),
                file: random.maybe(Self::file),
            }),
            configs: self.list(|random| ConfigReference {
                config_id: random.id(),
                config_name: random.text(),
                file: random.maybe(Self::file),
            }),
            init: self.maybe(Self::flag),
            isolation: self.pick(&["", "default", "process", "hyperv", "strange"]).to_owned(),
            sysctls: self.map(),
            capability_add: self.texts(),
            capability_drop: self.texts(),
            ulimits: self.list(|random| Ulimit { name: random.text(), soft: random.i64(), hard: random.i64() }),
            oom_score_adj: self.i64(),
            privileges: self.maybe(Self::privileges),
            registry_auth: self.maybe(Self::sealed),
        }
    }

    pub fn task_spec(&mut self) -> TaskSpec {
        TaskSpec {
            container: self.container(),
            resources: ResourceRequirements {
                limits: self.maybe(|random| Limits {
                    cpus: NanoCpus(random.i64()),
                    memory: ByteSize(random.i64()),
                    pids: random.i64(),
                }),
                reservations: self.maybe(Self::resources),
                swap: self.maybe(|random| ByteSize(random.i64())),
                memory_swappiness: self.maybe(Self::i64),
            },
            restart: self.maybe(|random| RestartPolicy {
                condition: random.pick(&[RestartCondition::None, RestartCondition::OnFailure, RestartCondition::Any]),
                delay: random.maybe(Self::duration),
                max_attempts: random.u64(),
                window: random.maybe(Self::duration),
            }),
            placement: Placement {
                constraints: self.texts(),
                preferences: self.texts(),
                platforms: self.list(Self::platform),
                max_replicas: self.u64(),
            },
            log_driver: self.maybe(Self::driver),
            networks: self.list(Self::network),
            force_update: self.u64(),
        }
    }

    pub fn service_spec(&mut self) -> ServiceSpec {
        let job = ServiceMode::ReplicatedJob { max_concurrent: self.u64(), total_completions: self.u64() };
        ServiceSpec {
            name: self.text(),
            labels: self.map(),
            task: self.task_spec(),
            mode: self.pick(&[ServiceMode::Replicated, ServiceMode::Global, job, ServiceMode::GlobalJob]),
            update: self.maybe(Self::update_config),
            rollback: self.maybe(Self::update_config),
            endpoint: self.maybe(|random| EndpointSpec {
                mode: random.pick(&[EndpointMode::Vip, EndpointMode::DnsRr]),
                ports: random.list(Self::port),
            }),
            networks: self.list(Self::network),
        }
    }

    fn definition(&mut self) -> ServiceDefinition {
        ServiceDefinition { spec: Arc::new(self.service_spec()), replicas: self.u64() }
    }

    fn cluster_spec(&mut self) -> ClusterSpec {
        ClusterSpec {
            name: self.text(),
            labels: self.map(),
            orchestration: Orchestration { task_history_retention_limit: self.i64() },
            raft: RaftConfig {
                snapshot_interval: self.u64(),
                keep_old_snapshots: self.u64(),
                log_entries_for_slow_followers: self.u64(),
                election_tick: self.number() as u32,
                heartbeat_tick: self.number() as u32,
            },
            heartbeat_period: self.duration(),
            ca: CaConfig { node_cert_expiry: self.duration(), force_rotate: self.u64() },
            log_driver: self.maybe(Self::driver),
            auto_lock_managers: self.flag(),
        }
    }

    fn root(&mut self) -> RootCa {
        RootCa {
            certificate: self.bytes(),
            key: self.sealed(),
            digest: self.text(),
            join_tokens: JoinTokens { worker: self.text(), manager: self.text() },
        }
    }

    fn certificate(&mut self) -> NodeCertificate {
        NodeCertificate { certificate: self.bytes(), csr: self.bytes(), version: self.group_version() }
    }

    fn manager(&mut self) -> ManagerAddress {
        ManagerAddress { raft_id: self.u64(), address: self.text() }
    }

    fn role(&mut self) -> NodeRole {
        self.pick(&[NodeRole::Worker, NodeRole::Manager])
    }

    fn availability(&mut self) -> Availability {
        self.pick(&[Availability::Active, Availability::Pause, Availability::Drain])
    }

    fn node_spec(&mut self) -> NodeSpec {
        NodeSpec { name: self.text(), labels: self.map(), role: self.role(), availability: self.availability() }
    }

    fn node_status(&mut self) -> NodeStatus {
        NodeStatus {
            state: self.pick(&[NodeState::Unknown, NodeState::Down, NodeState::Ready, NodeState::Disconnected]),
            message: self.text(),
            addr: self.text(),
        }
    }

    pub fn description(&mut self) -> NodeDescription {
        NodeDescription {
            hostname: self.text(),
            platform: self.platform(),
            resources: self.resources(),
            engine: EngineDescription {
                version: self.text(),
                labels: self.map(),
                plugins: self.list(|random| Plugin { kind: random.text(), name: random.text() }),
            },
            tls: self.maybe(|random| TlsInfo {
                trust_root: random.bytes(),
                issuer_subject: random.bytes(),
                issuer_public_key: random.bytes(),
            }),
        }
    }

    pub fn task_status(&mut self) -> TaskStatus {
        TaskStatus {
            state: self.pick(&TaskState::ALL),
            timestamp: self.wall(),
            applied_at: ClusterTime(self.u64()),
            message: self.text(),
            err: self.text(),
            container: self.maybe(|random| ContainerStatus {
                container_id: random.text(),
                pid: random.number() as i32,
                exit_code: random.number() as i32,
            }),
            ports: self.list(Self::port),
        }
    }

    fn update_status(&mut self) -> UpdateStatus {
        UpdateStatus {
            state: self.pick(&[
                UpdateState::Updating,
                UpdateState::Paused,
                UpdateState::Completed,
                UpdateState::RollbackStarted,
                UpdateState::RollbackPaused,
                UpdateState::RollbackCompleted,
            ]),
            started_at: self.maybe(Self::wall),
            completed_at: self.maybe(Self::wall),
            message: self.text(),
        }
    }

    fn endpoint(&mut self) -> Endpoint {
        Endpoint {
            allocated_for: self.maybe(|random| SpecVersion(random.u64())),
            ports: self.list(Self::port),
            reason: self.maybe(Self::text),
            version: self.group_version(),
            virtual_ips: Vec::new(),
        }
    }

    fn slot(&mut self) -> Slot {
        if self.flag() { Slot::Number(self.u64()) } else { Slot::Node(self.id()) }
    }

    fn history(&mut self) -> RestartHistory {
        RestartHistory { count: self.u64(), recent: self.list(|random| ClusterTime(random.u64())) }
    }

    fn desired(&mut self) -> DesiredState {
        self.pick(&[
            DesiredState::Ready,
            DesiredState::Running,
            DesiredState::Complete,
            DesiredState::Shutdown,
            DesiredState::Remove,
        ])
    }

    fn cluster_time(&mut self) -> ClusterTime {
        ClusterTime(self.u64())
    }

    pub fn precondition(&mut self) -> Precondition {
        match self.below(6) {
            0 => Precondition::ServiceRevision { service: self.id(), spec_version: SpecVersion(self.u64()) },
            1 => Precondition::ServiceReplicas { service: self.id(), replicas: self.u64() },
            2 => Precondition::ServiceExists(self.id()),
            3 => Precondition::EndpointIs(self.id(), self.group_version()),
            4 => Precondition::NodeTakesTasks(self.id()),
            _ if self.has_later && self.flag() => Precondition::TaskRuns(self.id()),
            _ => Precondition::IntentIs(self.id(), self.group_version()),
        }
    }

    /// How many kinds of change [`Self::change`] makes.
    pub const CHANGES: u64 = 21;

    pub fn change(&mut self, kind: u64) -> Change {
        match kind {
            0 => Change::CreateCluster(Box::new(NewCluster {
                id: self.id(),
                spec: self.cluster_spec(),
                root_ca: self.root(),
                address_pools: self.texts(),
                subnet_size: self.number() as u32,
                data_path_port: self.number() as u16,
            })),
            1 => Change::SetClusterSpec { expect: Version(self.u64()), spec: Box::new(self.cluster_spec()) },
            2 => Change::SetRootCa { expect: self.group_version(), root: Box::new(self.root()) },
            3 => Change::RaiseLevel(self.number() as u32),
            4 => Change::CreateNode(Box::new(NewNode {
                id: self.id(),
                role: self.role(),
                availability: self.availability(),
                certificate: self.certificate(),
                manager: self.maybe(Self::manager),
            })),
            5 => Change::SetNodeSpec { node: self.id(), expect: Version(self.u64()), spec: self.node_spec() },
            6 => Change::ObserveNode {
                node: self.id(),
                expect: self.group_version(),
                status: self.node_status(),
                description: self.maybe(|random| Box::new(random.description())),
            },
            7 => Change::CertifyNode {
                node: self.id(),
                expect: self.group_version(),
                certificate: Box::new(self.certificate()),
            },
            8 => Change::RemoveNode(self.id()),
            9 => Change::CreateService { service: self.id(), definition: self.definition() },
            10 => {
                Change::UpdateService { service: self.id(), expect: Version(self.u64()), definition: self.definition() }
            }
            11 => Change::RollbackService {
                service: self.id(),
                expect: Version(self.u64()),
                reason: self.later(|random| random.maybe(Self::text)),
            },
            12 => Change::SetEndpoint { service: self.id(), expect: self.group_version(), endpoint: self.endpoint() },
            13 => Change::SetUpdateStatus {
                service: self.id(),
                expect: self.group_version(),
                status: self.maybe(Self::update_status),
            },
            14 => Change::RemoveService(self.id()),
            15 => Change::CreateTask(Box::new(NewTask {
                id: self.id(),
                service_id: self.id(),
                slot: self.slot(),
                spec_version: SpecVersion(self.u64()),
                history: self.history(),
                desired: self.desired(),
                start_at: self.maybe(Self::cluster_time),
                start_after: self.maybe(Self::id),
                by_update: self.later(Self::flag),
            })),
            16 => Change::SetIntent {
                task: self.id(),
                expect: self.group_version(),
                desired: self.desired(),
                start_at: self.maybe(Self::cluster_time),
                start_after: self.maybe(Self::id),
            },
            17 => Change::Attach {
                task: self.id(),
                expect: self.group_version(),
                done: self.flag(),
                ports: self.list(Self::port),
                networks: Vec::new(),
                virtual_ips: Vec::new(),
                reason: self.maybe(Self::text),
            },
            18 => Change::Place {
                task: self.id(),
                expect: self.group_version(),
                node: self.maybe(Self::id),
                reason: self.maybe(Self::text),
            },
            19 => Change::ObserveTask { task: self.id(), status: Box::new(self.task_status()) },
            _ => Change::DeleteTask(self.id()),
        }
    }

    /// An entry with every kind of change and some preconditions.
    pub fn entry(&mut self) -> Entry {
        let changes = (0..Self::CHANGES).map(|kind| self.change(kind)).collect();
        let all = AtomicGroup { preconditions: self.list(Self::precondition), changes };
        Entry {
            time: self.cluster_time(),
            wall: self.wall(),
            proposals: vec![
                Proposal { change_set: vec![all, AtomicGroup::default()] },
                Proposal::default(),
                Proposal {
                    change_set: self.list(|random| {
                        let kind = random.below(Self::CHANGES);
                        AtomicGroup::of(random.change(kind)).when(random.precondition())
                    }),
                },
            ],
        }
    }

    pub fn task(&mut self, service: ServiceId, version: SpecVersion) -> Task {
        Task {
            id: self.id(),
            service_id: service,
            slot: self.slot(),
            spec_version: version,
            created: self.stamp(),
            updated: (self.u64(), self.wall()),
            history: self.history(),
            intent: Intent {
                desired: self.desired(),
                at: self.maybe(Self::stamp),
                start_at: self.maybe(Self::cluster_time),
                start_after: self.maybe(Self::id),
                version: self.group_version(),
            },
            attachment: Attachment {
                done: self.maybe(Self::stamp),
                ports: self.list(Self::port),
                reason: self.maybe(Self::text),
                version: self.group_version(),
                networks: Vec::new(),
                virtual_ips: Vec::new(),
            },
            placed: Placed {
                node: self.maybe(Self::id),
                at: self.maybe(Self::stamp),
                reason: self.maybe(Self::text),
                version: self.group_version(),
            },
            observed: self.maybe(Self::task_status),
            started: self.later(|random| random.maybe(Self::cluster_time)),
            by_update: self.later(Self::flag),
        }
    }

    fn node(&mut self) -> Node {
        Node {
            id: self.id(),
            meta: self.meta(),
            spec: self.node_spec(),
            observed: NodeObserved {
                status: self.node_status(),
                description: self.maybe(Self::description),
                since: self.stamp(),
                version: self.group_version(),
            },
            certificate: self.certificate(),
            role: self.role(),
            manager: self.maybe(Self::manager),
        }
    }

    /// The parts of a state that fit together.
    pub fn parts(&mut self) -> Parts {
        let mut parts = Parts {
            index: self.u64(),
            time: self.cluster_time(),
            wall: self.wall(),
            cluster: self.maybe(|random| Cluster {
                id: random.id(),
                meta: random.meta(),
                level: random.number() as u32,
                spec: random.cluster_spec(),
                root_ca: random.root(),
                root_version: random.group_version(),
                address_pools: random.texts(),
                subnet_size: random.number() as u32,
                data_path_port: random.number() as u16,
            }),
            nodes: self.list(Self::node),
            ..Parts::default()
        };
        for place in 0..self.below(4) {
            self.service(place, &mut parts);
        }
        parts
    }

    fn service(&mut self, place: u64, parts: &mut Parts) {
        let id: ServiceId = self.id();
        let (old, new) = (SpecVersion(place), SpecVersion(place + 1));
        let mut spec = self.service_spec();
        spec.name = format!("service-{place}");
        let current = Arc::new(spec);
        let mut spec = self.service_spec();
        spec.name.clone_from(&current.name);
        let before = Arc::new(spec);
        parts.revisions.push((id, old, before.clone()));
        parts.revisions.push((id, new, current.clone()));
        for _ in 0..self.below(3) {
            let task = self.task(id, old);
            parts.tasks.push(task);
        }
        if self.flag() {
            parts.services.push(Service {
                id,
                meta: self.meta(),
                spec: current,
                spec_version: new,
                replicas: self.u64(),
                previous: self.maybe(|random| PreviousSpec { spec: before, spec_version: old, replicas: random.u64() }),
                endpoint: self.endpoint(),
                update: self.maybe(Self::update_status),
                update_version: self.group_version(),
                update_since: self.later(Self::cluster_time),
            });
        }
    }
}

/// Everything a state holds, to compare two.
pub fn parts_of(state: &State) -> Parts {
    Parts {
        index: state.index(),
        time: state.time(),
        wall: state.wall(),
        cluster: state.cluster().map(|cluster| (**cluster).clone()),
        nodes: state.nodes().map(|node| (**node).clone()).collect(),
        revisions: state.revisions().map(|(service, version, spec)| (service, version, spec.clone())).collect(),
        services: state.services().map(|service| (**service).clone()).collect(),
        tasks: state.tasks().map(|task| (**task).clone()).collect(),
        secrets: state.secrets().map(|secret| (**secret).clone()).collect(),
        configs: state.configs().map(|config| (**config).clone()).collect(),
        networks: state.networks().map(|network| (**network).clone()).collect(),
    }
}
