//! The network a node should have, as data, and the diff between two of them.
