//! The built server over real loopback sockets: what clients send in parts, too slowly, too much or never at all, and
//! what signals and files on disk do to it.
//!
//! Every test starts a server of its own on free ports with a data directory of its own, and ends it. Clients are plain
//! sockets, so that every byte is under control. Nothing sleeps: a test waits for what must happen, and [`DEADLINE`] is
//! only how long a failure takes. That nothing happens is shown by something later that has happened.
//!
//! [`DEADLINE`]: harness::DEADLINE

mod harness;

// The browser of the simulator, and what its network does to datagrams: here on real sockets.
#[allow(dead_code, clippy::collapsible_match)]
#[path = "../sim/client/mod.rs"]
mod client;
#[allow(dead_code)]
#[path = "../sim/decoder.rs"]
mod decoder;
#[allow(dead_code)]
#[path = "../sim/encoder.rs"]
mod encoder;
#[allow(dead_code)]
#[path = "../sim/payload.rs"]
mod payload;
#[allow(dead_code)]
#[path = "../sim/net.rs"]
mod weather;

mod crash;
mod figures;
mod http;
mod ice_tcp;
mod lifecycle;
mod media;
mod recordings;
mod signaling;
mod stats;
mod tls;
mod tokens;
mod whip;
mod workers;
