//! A server process, and clients for it.

pub mod call;
pub mod caller;
pub mod client;
pub mod film;
pub mod media;
pub mod relay;
pub mod server;
pub mod ws;

pub use client::{Http, Response, Stream};
pub use film::Film;
pub use media::{MediaClient, run};
pub use server::{Server, Setup, token};
pub use ws::{Ws, frame, text};

use std::time::Duration;

/// How long anything may take on a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(15);
