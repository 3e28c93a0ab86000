//! Starts, stops and cleans up one container process: namespaces, cgroups v1 and v2, mounts, seccomp, capabilities.
