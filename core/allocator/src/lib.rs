//! Gives tasks and services the things that must be unique: published ports.
