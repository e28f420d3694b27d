//! WebRTC Engine: video calls in one binary.

pub mod base;

pub mod config;

pub mod auth;

pub mod room;

pub mod p2p;

pub mod sfu;

pub mod peer;

pub mod ice_servers;

pub mod signal;

pub mod ws;

pub mod http;

pub mod client;

pub mod shard;

pub mod worker;

pub mod jobs;

pub mod cli;

pub mod metrics;

pub mod log;

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
