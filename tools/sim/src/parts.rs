//! A state taken apart as a snapshot holds it, so that a new leader can start from what was really stored.

use skep_store::{Parts, State};

/// The parts of a state.
#[must_use]
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
