//! The order in which blocks are written.
