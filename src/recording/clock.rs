//! One clock for all tracks.
