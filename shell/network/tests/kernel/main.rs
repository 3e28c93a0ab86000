//! The network against the real kernel, as root. Each test is a node in a fresh network namespace with a client machine
//! in another one behind a link; nothing leaves the two, and both end with the test.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected happens, helpers included")]

mod lifecycle;
mod traffic;
mod world;
