//! The project's own chores: check, demo, bench.
