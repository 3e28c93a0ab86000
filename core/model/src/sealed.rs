//! Bytes that only a few places may open.

/// Secret bytes, encrypted before they were proposed: a CA key, a secret's data, a registry credential. The `trust` crate
/// seals and opens them; the state, the log and the snapshot only carry them. `Debug` shows the length alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sealed(pub Vec<u8>);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}
