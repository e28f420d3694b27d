//! The machine around all the others.
