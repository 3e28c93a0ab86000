//! The whole control plane, many nodes, faults, one seed, one thread.
