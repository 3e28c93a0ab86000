//! What must hold after every commit. One file for each invariant, each citing its source.

mod acknowledged;
mod attempts;
mod deleted_when_ended;
mod forward_only;
mod held_back;
mod node_once;
mod parallelism;
mod paused;
mod sound;
mod start_first;
mod starts_once;

use skep_store::{Event, State};

pub(crate) use acknowledged::History;

/// One commit.
pub(crate) struct Commit<'a> {
    /// The state it met.
    pub(crate) before: &'a State,
    /// The state it made.
    pub(crate) after: &'a State,
    /// What changed.
    pub(crate) events: &'a [Event],
}

/// Checks all of them.
pub(crate) fn check(commit: &Commit<'_>, history: &mut History, found: &mut Vec<String>) {
    acknowledged::check(commit, history, found);
    attempts::check(commit, found);
    deleted_when_ended::check(commit, found);
    forward_only::check(commit, found);
    held_back::check(commit, found);
    node_once::check(commit, found);
    parallelism::check(commit, found);
    paused::check(commit, found);
    sound::check(commit, found);
    start_first::check(commit, found);
}

pub(crate) use starts_once::check as check_starts;
