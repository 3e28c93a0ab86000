//! Verifies, unpacks, keeps and collects images and layers.
