//! Requests, one by one: what Docker refuses with its text, what skep cannot do yet by its name, and what goes through.

use std::sync::Arc;

use skep_control::{Env, Rng};
use skep_model::{
    ClusterTime, EndpointMode, EndpointSpec, Limits, Mount, MountKind, NanoCpus, PortConfig, PublishMode,
    ServiceDefinition, ServiceId, ServiceMode, ServiceSpec, UpdateConfig, Version, WallTime,
};
use skep_store::{Entry, Proposal, State, apply};

use crate::{Admitted, Code, Principal, Refusal, Request, admit};

fn env() -> Env {
    Env { now: ClusterTime(1), wall: WallTime(1), rng: Rng::seeded(1) }
}

fn web() -> ServiceSpec {
    let mut spec = ServiceSpec { name: "web".into(), ..ServiceSpec::default() };
    spec.task.container.image = "busybox:latest".into();
    spec
}

fn definition(spec: ServiceSpec) -> ServiceDefinition {
    ServiceDefinition { spec: Arc::new(spec), replicas: 1 }
}

fn ask(view: &State, request: Request) -> Result<Admitted, Refusal> {
    admit(view, Principal::LocalSocket, request, &mut env())
}

fn create(view: &State, change: impl FnOnce(&mut ServiceSpec)) -> Result<Admitted, Refusal> {
    let mut spec = web();
    change(&mut spec);
    ask(view, Request::CreateService(definition(spec)))
}

/// A state with the service `web`.
fn with_web(change: impl FnOnce(&mut ServiceSpec)) -> (State, ServiceId) {
    let mut state = State::default();
    let admitted = create(&state, change).unwrap();
    commit(&mut state, &admitted);
    (state, admitted.service.unwrap())
}

fn commit(state: &mut State, admitted: &Admitted) {
    let proposals = vec![Proposal { change_set: admitted.changes.clone() }];
    let index = state.index() + 1;
    let applied = apply(state, index, &Entry { time: ClusterTime(1), wall: WallTime(1), proposals });
    applied.outcomes[0].ok().unwrap();
}

fn check_refused(change: impl FnOnce(&mut ServiceSpec), code: Code, part: &str) {
    let refusal = create(&State::default(), change).unwrap_err();
    assert!(refusal.code == code && refusal.text.contains(part), "{refusal:?} lacks {part:?}");
}

fn published(port: u16, mode: PublishMode) -> Option<EndpointSpec> {
    let port = PortConfig { target_port: 80, published_port: port, mode, ..PortConfig::default() };
    Some(EndpointSpec { ports: vec![port], ..EndpointSpec::default() })
}

#[test]
fn a_plain_service_is_created_and_an_unnamed_one_gets_a_name() {
    let (mut state, id) = with_web(|_| {});
    assert_eq!(state.service(id).unwrap().spec.name, "web");
    let admitted = create(&state, |spec| spec.name.clear()).unwrap();
    commit(&mut state, &admitted);
    assert!(state.service(admitted.service.unwrap()).unwrap().spec.name.contains('_'));
}

#[test]
fn docker_refusals_keep_docker_texts() {
    let invalid = Code::InvalidArgument;
    check_refused(|spec| spec.name = "a.b".into(), invalid, "name must be valid as a DNS name component");
    check_refused(|spec| spec.name = "a".repeat(64), invalid, "name must be 63 characters or fewer");
    let image = |text: &'static str| move |spec: &mut ServiceSpec| spec.task.container.image = text.into();
    check_refused(image(""), invalid, "ContainerSpec: image reference must be provided");
    check_refused(image("A B"), invalid, "ContainerSpec: \"A B\" is not a valid repository/tag");
    check_refused(
        |spec| spec.task.resources.limits = Some(Limits { cpus: NanoCpus(1), ..Limits::default() }),
        invalid,
        "invalid cpu value 1e-09: Must be at least 0.001",
    );
    check_refused(
        |spec| spec.update = Some(UpdateConfig { max_failure_ratio: 2.0, ..UpdateConfig::default() }),
        invalid,
        "update-maxfailureratio cannot be less than 0 or bigger than 1",
    );
    check_refused(|spec| spec.task.placement.constraints = vec!["x=1".into()], invalid, "expected one operator");
    check_refused(
        |spec| {
            spec.endpoint = published(80, PublishMode::Ingress);
            spec.endpoint.as_mut().unwrap().mode = EndpointMode::DnsRr;
        },
        invalid,
        "can't be used with dnsrr mode",
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let not_yet = Code::Unimplemented;
    check_refused(|spec| spec.mode = ServiceMode::GlobalJob, not_yet, "service mode global-job");
    let npipe = |spec: &mut ServiceSpec| {
        let mount = Mount { kind: MountKind::NamedPipe, target: "/p".into(), ..Mount::default() };
        spec.task.container.mounts = vec![mount];
    };
    check_refused(npipe, not_yet, "npipe");
    check_refused(|spec| spec.task.container.isolation = "hyperv".into(), not_yet, "--isolation");
}

#[test]
fn names_and_ports_conflict_with_other_services() {
    let (state, id) = with_web(|spec| spec.endpoint = published(8080, PublishMode::Ingress));
    let refusal = create(&state, |spec| spec.name = "WEB".into()).unwrap_err();
    assert_eq!(refusal.code, Code::AlreadyExists);
    assert_eq!(refusal.text, "name conflicts with an existing object: service web already exists");
    let refusal = create(&state, |spec| {
        spec.name = "api".into();
        spec.endpoint = published(8080, PublishMode::Host);
    })
    .unwrap_err();
    assert_eq!(refusal.text, format!("port '8080' is already in use by service 'web' ({id}) as an ingress port"));
    let hosts = with_web(|spec| spec.endpoint = published(8080, PublishMode::Host)).0;
    let both = create(&hosts, |spec| {
        spec.name = "api".into();
        spec.endpoint = published(8080, PublishMode::Host);
    });
    assert!(both.is_ok(), "two host-mode ports: the scheduler keeps them apart");
}

#[test]
fn an_update_changes_all_but_name_and_mode() {
    let (mut state, id) = with_web(|_| {});
    let version = state.service(id).unwrap().meta.version;
    let mut spec = web();
    spec.labels.insert("a".into(), "b".into());
    let definition = ServiceDefinition { spec: Arc::new(spec.clone()), replicas: 7 };
    let admitted = ask(&state, Request::UpdateService { service: id, version, definition }).unwrap();
    commit(&mut state, &admitted);
    let service = state.service(id).unwrap();
    assert_eq!((service.replicas, service.spec_version.0), (7, 1), "scaling makes no new revision");
    spec.task.container.image = "other".into();
    let update = |spec: &ServiceSpec, version| Request::UpdateService {
        service: id,
        version: Version(version),
        definition: self::definition(spec.clone()),
    };
    let admitted = ask(&state, update(&spec, 2)).unwrap();
    commit(&mut state, &admitted);
    assert_eq!(state.service(id).unwrap().spec_version.0, 3);
    spec.mode = ServiceMode::Global;
    let refusal = ask(&state, update(&spec, 3)).unwrap_err();
    assert_eq!((refusal.code, &*refusal.text), (Code::Unimplemented, "service mode change is not allowed"));
    spec.mode = ServiceMode::Replicated;
    spec.name = "other".into();
    let refusal = ask(&state, update(&spec, 3)).unwrap_err();
    assert_eq!((refusal.code, &*refusal.text), (Code::Unimplemented, "renaming services is not supported"));
    let admitted = ask(&state, Request::RollbackService { service: id, version: Version(3) }).unwrap();
    commit(&mut state, &admitted);
    let service = state.service(id).unwrap();
    assert_eq!((service.replicas, service.spec_version.0), (7, 1));
}

#[test]
fn a_missing_service_is_not_found() {
    let (mut state, id) = with_web(|_| {});
    let admitted = ask(&state, Request::RemoveService(id)).unwrap();
    commit(&mut state, &admitted);
    assert_eq!(ask(&state, Request::RemoveService(id)).unwrap_err().code, Code::NotFound);
}
