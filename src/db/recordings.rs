//! Recordings and their files.
