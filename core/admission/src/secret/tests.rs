//! Requests about secrets and configs, and services that refer to them: what Docker refuses, with its texts.

use skep_control::{Env, Rng};
use skep_model::{ClusterTime, FileTarget, Privileges, Sealed, ServiceDefinition, WallTime};
use skep_testkit::{AService, World, a_config, a_secret, a_service, a_state, config_id, secret_id, service_id};

use super::*;
use crate::{Principal, Request, admit};

fn ask(world: &World, request: Request) -> Result<Admitted, Refusal> {
    let mut env = Env { now: ClusterTime(1), wall: WallTime(1), rng: Rng::seeded(1) };
    admit(&world.state, Principal::LocalSocket, request, &mut env)
}

fn text(world: &World, request: Request) -> String {
    let refusal = ask(world, request).unwrap_err();
    format!("{:?}: {}", refusal.code, refusal.text)
}

fn secret(name: &str, size: usize, change: impl FnOnce(&mut SecretSpec)) -> Request {
    let mut spec = SecretSpec { name: name.to_owned(), data: Sealed(vec![1]), ..SecretSpec::default() };
    change(&mut spec);
    Request::CreateSecret { secret: secret_id("new"), spec, size }
}

fn world() -> World {
    a_state().with(a_secret("tls")).with(a_secret("key")).with(a_config("page"))
}

fn driver(name: &str) -> Option<Driver> {
    Some(Driver { name: name.to_owned(), ..Driver::default() })
}

#[test]
fn new_objects_are_judged_as_docker_does() {
    let world = world();
    assert!(ask(&world, secret("new", 511_999, |spec| spec.templating = driver("golang"))).is_ok());
    for (request, expected) in [
        (secret("", 1, |_| {}), "InvalidArgument: name must be provided"),
        (secret("a b", 1, |_| {}), "InvalidArgument: invalid name, only 64 [a-zA-Z0-9-_.] characters allowed"),
        (secret("new", 0, |_| {}), "InvalidArgument: secret data must be larger than 0 and less than 512000 bytes"),
        (secret("new", 512_000, |_| {}), "InvalidArgument: secret data must be larger"),
        (secret("TLS", 1, |_| {}), "AlreadyExists: secret TLS already exists"),
        (secret("new", 0, |spec| spec.driver = driver("vault")), "Unimplemented: secret driver \"vault\" (--driver)"),
        (secret("new", 0, |spec| spec.driver = driver("")), "InvalidArgument: driver must have a name"),
        (
            secret("new", 1, |spec| spec.templating = driver("php")),
            "InvalidArgument: unrecognized template type \"php\"",
        ),
    ] {
        let found = text(&world, request);
        assert!(found.starts_with(expected), "{found}");
    }
    let config = |size: usize| {
        let spec = ConfigSpec { name: "new".to_owned(), data: vec![0; size], ..ConfigSpec::default() };
        ask(&world, Request::CreateConfig { config: config_id("new"), spec })
    };
    assert!(config(1_023_999).is_ok());
    assert_eq!(config(1_024_000).unwrap_err().text, "config data must be larger than 0 and less than 1024000 bytes");
}

#[test]
fn only_labels_change() {
    let world = world();
    let update = |name: &str, is_same_data| Request::UpdateSecret {
        secret: secret_id("tls"),
        version: Version(1),
        name: name.to_owned(),
        labels: Labels::new(),
        is_same_data,
    };
    assert!(ask(&world, update("tls", true)).is_ok(), "the version is judged at commit");
    for request in [update("other", true), update("tls", false)] {
        assert_eq!(text(&world, request), "InvalidArgument: only updates to Labels are allowed");
    }
    let update = |data: Option<&[u8]>| Request::UpdateConfig {
        config: config_id("page"),
        version: Version(1),
        name: "page".to_owned(),
        labels: Labels::new(),
        data: data.map(<[u8]>::to_vec),
    };
    assert!(ask(&world, update(None)).is_ok() && ask(&world, update(Some(b"page"))).is_ok());
    assert_eq!(text(&world, update(Some(b"x"))), "InvalidArgument: only updates to Labels are allowed");
}

#[test]
fn what_is_used_is_not_removed() {
    let mut world = world().with(a_service("web").secret("tls").config("page"));
    assert!(ask(&world, Request::RemoveSecret(secret_id("key"))).is_ok());
    let remove = || Request::RemoveSecret(secret_id("tls"));
    assert_eq!(text(&world, remove()), "InvalidArgument: secret 'tls' is in use by the following service: web");
    world.put(a_service("api").secret("tls"));
    let found = text(&world, remove());
    assert!(found.contains("in use by the following services: ") && found.contains(", "), "{found}");
    let found = text(&world, Request::RemoveConfig(config_id("page")));
    assert_eq!(found, "InvalidArgument: config 'page' is in use by the following service: web");
    let found = text(&world, Request::RemoveConfig(config_id("nosuch")));
    assert!(found.starts_with("NotFound: config ") && found.ends_with(" not found"), "{found}");
}

#[test]
fn references_lead_to_what_is_there_and_to_places_of_their_own() {
    let world = world();
    let create = |service: AService| {
        ask(&world, Request::CreateService(ServiceDefinition { replicas: 1, ..service.definition() }))
    };
    let edited = |change: &dyn Fn(&mut skep_model::ContainerSpec)| {
        a_service("web").secret("tls").secret("key").config("page").spec(|spec| change(&mut spec.task.container))
    };
    assert!(create(edited(&|_| {})).is_ok());
    let file = |name: &str, uid: &str| {
        Some(FileTarget { name: name.to_owned(), uid: uid.to_owned(), ..FileTarget::default() })
    };
    for (service, expected) in [
        (edited(&|it| it.secrets[0].secret_name = "other".to_owned()), "secret not found: other"),
        (a_service("web").secret("x").secret("y"), "secrets not found: x, y"),
        (a_service("web").config("x"), "config not found: x"),
        (
            edited(&|it| it.secrets[1].file = file("tls", "")),
            "secret references 'tls' and 'key' have a conflicting target: 'tls'",
        ),
        (edited(&|it| it.secrets[1].file = None), "malformed secret reference, no target provided"),
        (
            edited(&|it| it.configs[0].file = file("", "0")),
            "malformed file config reference, invalid target file name provided",
        ),
        (edited(&|it| it.secrets[0].file = file("tls", "root")), "secret reference 'tls' has an invalid UID: \"root\""),
        (edited(&|it| it.configs[0].file = None), "config \"page\" with a Runtime target"),
        (
            edited(&|it| {
                let credential_spec = "config://x".to_owned();
                it.privileges = Some(Privileges { credential_spec, ..Privileges::default() });
            }),
            "Privileges.CredentialSpec (--credential-spec) is not supported",
        ),
    ] {
        let refusal = create(service).unwrap_err();
        assert!(refusal.text.starts_with(expected), "{refusal}");
    }
    let updated = a_service("web").secret("x");
    let world = a_state().with(a_service("web"));
    let version = world.state.service(service_id("web")).unwrap().meta.version;
    let definition = updated.definition();
    let request = Request::UpdateService { service: service_id("web"), version, definition };
    assert_eq!(text(&world, request), "InvalidArgument: secret not found: x");
}
