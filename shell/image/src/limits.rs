//! The bounds an archive has to stay within. They exist because archives come from strangers: every one of them can be reached
//! only by an attack or a mistake, and each is configurable.

/// Bounds for one `load` or `import`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all layers of one call, uncompressed, and of the outer archive.
    pub max_unpacked_bytes: u64,
    /// Entries of one tar archive (outer or layer).
    pub max_entries: u64,
    /// Layers of one image. Overlayfs itself ends at 500; Docker at 127.
    pub max_layers: usize,
    /// Bytes of one JSON document.
    pub max_json_bytes: u64,
    /// Uncompressed bytes per compressed byte, looked at once more than `ratio_free_bytes` came out. Gzip itself cannot exceed 1,032.
    pub max_compression_ratio: u64,
    /// Bytes that may come out of a decompressor before its ratio counts.
    pub ratio_free_bytes: u64,
    /// Images in one archive.
    pub max_images: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_unpacked_bytes: 256 << 30,
            max_entries: 4_000_000,
            max_layers: 127,
            max_json_bytes: 8 << 20,
            max_compression_ratio: 1_100,
            ratio_free_bytes: 256 << 20,
            max_images: 1_000,
        }
    }
}
