//! When a key frame is asked for.
