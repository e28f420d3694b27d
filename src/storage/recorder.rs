//! The thread that records.
