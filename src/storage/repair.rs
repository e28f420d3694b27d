//! Recordings that a crash cut off.
