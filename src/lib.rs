//! WebRTC Engine: video calls in one binary.

pub mod base;
