//! Secrets and configs in the state: names, labels, and that nothing which is used goes away, whoever comes first.
#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

use skep_model::{Labels, Lineage, UpdateState, UpdateStatus, Version};
use skep_store::{Change, Rejection};
use skep_testkit::{World, a_config, a_secret, a_service, a_state, check_state, config_id, secret_id, service_id};

fn refused(world: &mut World, change: Change) -> Rejection {
    let before = format!("{:?}", world.state.services().collect::<Vec<_>>());
    let rejection = world.commit(vec![change.into()]).outcomes[0].ok().unwrap_err();
    assert_eq!(before, format!("{:?}", world.state.services().collect::<Vec<_>>()));
    rejection
}

fn world() -> World {
    a_state().with(a_secret("one")).with(a_secret("two")).with(a_config("page"))
}

#[test]
fn names_are_unique_and_only_labels_change() {
    let mut world = world();
    let spec = std::sync::Arc::new(a_secret("ONE").spec);
    let lineage = Lineage::default();
    let rejection = refused(&mut world, Change::CreateSecret { secret: secret_id("other"), spec, lineage });
    assert_eq!(rejection.to_string(), "secret ONE already exists");
    let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
    let expect = world.state.secret(secret_id("one")).unwrap().meta.version;
    let change = Change::SetSecretLabels { secret: secret_id("one"), expect, labels: labels.clone() };
    world.must_commit(vec![change.clone().into()]);
    let secret = world.state.secret_by_name("one").unwrap();
    assert_eq!((&secret.spec.labels, secret.meta.version > expect), (&labels, true));
    assert_eq!(secret.spec.data, a_secret("one").spec.data);
    assert_eq!(refused(&mut world, change), Rejection::OutOfSequence);
    let change = Change::SetConfigLabels { config: config_id("nosuch"), expect: Version(1), labels };
    assert!(matches!(refused(&mut world, change), Rejection::NotFound { kind: "config", .. }));
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn what_a_service_uses_stays_and_what_is_gone_is_not_used() {
    let mut world = world().with(a_service("web").secret("one").config("page"));
    let rejection = refused(&mut world, Change::RemoveSecret(secret_id("one")));
    assert_eq!(rejection, Rejection::Unmet("secret one is in use by service web".to_owned()));
    assert!(matches!(refused(&mut world, Change::RemoveConfig(config_id("page"))), Rejection::Unmet(_)));
    world.must_commit(vec![Change::RemoveSecret(secret_id("two")).into()]);
    let definition = a_service("api").secret("two").definition();
    let rejection = refused(&mut world, Change::CreateService { service: service_id("api"), definition });
    assert_eq!(rejection, Rejection::Unmet("secret not found: two".to_owned()));
    let expect = world.state.service(service_id("web")).unwrap().meta.version;
    let definition = a_service("web").secret("two").definition();
    refused(&mut world, Change::UpdateService { service: service_id("web"), expect, definition });
    world.must_commit(vec![Change::RemoveService(service_id("web")).into()]);
    world.must_commit(vec![
        Change::RemoveSecret(secret_id("one")).into(),
        Change::RemoveConfig(config_id("page")).into(),
    ]);
    assert_eq!(world.state.secrets().count() + world.state.configs().count(), 0);
    assert_eq!(check_state(&world.state), []);
}

#[test]
fn an_update_that_goes_on_keeps_what_it_may_return_to() {
    let mut world = world().with(a_service("web").secret("one"));
    world.update(&a_service("web").secret("two"));
    let service = world.state.service(service_id("web")).unwrap();
    let (expect, status) = (service.update_version, |state| UpdateStatus {
        state,
        started_at: None,
        completed_at: None,
        message: String::new(),
    });
    let set =
        |expect, state| Change::SetUpdateStatus { service: service_id("web"), expect, status: Some(status(state)) };
    world.must_commit(vec![set(expect, UpdateState::Updating).into()]);
    assert!(matches!(refused(&mut world, Change::RemoveSecret(secret_id("one"))), Rejection::Unmet(_)));
    let expect = world.state.service(service_id("web")).unwrap().update_version;
    world.must_commit(vec![set(expect, UpdateState::Completed).into()]);
    world.must_commit(vec![Change::RemoveSecret(secret_id("one")).into()]);
    let expect = world.state.service(service_id("web")).unwrap().meta.version;
    let rejection = refused(&mut world, Change::RollbackService { service: service_id("web"), expect, reason: None });
    assert_eq!(rejection, Rejection::Unmet("secret not found: one".to_owned()));
    assert_eq!(check_state(&world.state), []);
}
