//! Turns services into tasks: scaling, restart, reaping.
