//! The store's memory of which images exist and what they are called: a small document, replaced as a whole with every change.
//! Layers and snapshots are not in it; their directories speak for themselves.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, ImageId};
use crate::error::{Error, IoContext, Result};
use crate::layout::Layout;

/// What is stored about an image beside its configuration blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRow {
    /// The layer archives, bottom first, as they came (compressed or not).
    pub(crate) layer_blobs: Vec<Digest>,
    /// The manifest it came with, if it came with one that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Digest>,
    /// When a name was last given, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) last_tagged: String,
}

/// The whole table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) images: BTreeMap<ImageId, ImageRow>,
    /// Canonical reference to image.
    pub(crate) references: BTreeMap<String, ImageId>,
}

impl Table {
    pub(crate) fn read(layout: &Layout) -> Result<Table> {
        let path = layout.images_file();
        match fs::read(&path) {
            Ok(bytes) => Table::parse(&bytes, &path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Table::default()),
            Err(error) => Err(error).at("read", path),
        }
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Table> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::DamagedStore { path: path.to_owned(), reason: error.to_string() })
    }

    pub(crate) fn write(&self, layout: &Layout) -> Result<()> {
        let bytes = serde_json::to_vec(self).expect("digests and strings always have a JSON form");
        layout.write_file(&layout.images_file(), &bytes)
    }

    /// All names of an image, canonical, sorted.
    pub(crate) fn names_of(&self, id: ImageId) -> Vec<String> {
        self.references.iter().filter(|(_, image)| **image == id).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_a_round_trip_and_the_stored_form_is_fixed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        assert_eq!(Table::read(&layout).unwrap(), Table::default());
        let id = ImageId(Digest::of(b""));
        let mut table = Table::default();
        table.images.insert(id, ImageRow { last_tagged: "2026-01-01T00:00:00Z".to_owned(), ..ImageRow::default() });
        table.references.insert("docker.io/library/x:latest".to_owned(), id);
        table.write(&layout).unwrap();
        assert_eq!(Table::read(&layout).unwrap(), table);
        assert_eq!(
            fs::read_to_string(layout.images_file()).unwrap(),
            format!(
                r#"{{"images":{{"{id}":{{"layer_blobs":[],"last_tagged":"2026-01-01T00:00:00Z"}}}},"references":{{"docker.io/library/x:latest":"{id}"}}}}"#
            )
        );
        fs::write(layout.images_file(), "{").unwrap();
        assert!(matches!(Table::read(&layout), Err(Error::DamagedStore { .. })));
    }
}
