//! The built server over real loopback sockets: what clients send in parts, too slowly, too much or never at all, and
//! what signals and files on disk do to it.
//!
//! Every test starts a server of its own on free ports with a data directory of its own, and ends it. Clients are plain
//! sockets, so that every byte is under control. Nothing sleeps: a test waits for what must happen, and [`DEADLINE`] is
//! only how long a failure takes. That nothing happens is shown by something later that has happened.
//!
//! [`DEADLINE`]: harness::DEADLINE

mod harness;

mod http;
mod ice_tcp;
mod lifecycle;
mod media;
mod signaling;
mod stats;
mod tls;
mod tokens;
mod whip;
mod workers;
