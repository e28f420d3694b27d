//! The lines of `manifest.jsonl`.
