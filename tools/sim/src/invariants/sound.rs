//! Every committed state is sound in itself. Source: the state checker of `testkit`, where each rule cites its own.

use super::Commit;

pub(super) fn check(commit: &Commit<'_>, found: &mut Vec<String>) {
    found.extend(skep_testkit::check_state(commit.after).into_iter().map(|violation| violation.to_string()));
}
