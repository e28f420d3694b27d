//! The content of `metadata.json`.
