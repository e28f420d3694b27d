//! The signaling protocol of `/video-calls/ws`: its messages as types and the rules of one connection.
//!
//! Knows the words and when they make sense, not what they do: that is for `room`, `p2p` and `peer`. Driven by `shard`.

pub mod channel;
pub mod json;
pub mod message;
pub mod session;

use std::time::Duration;

/// The bounds of one connection. Sizes in bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest message before and after join.
    pub message_before_join: usize,
    pub message_after_join: usize,
    /// Messages of any type.
    pub messages_per_second: u32,
    pub messages_burst: u32,
    pub offers_per_second: u32,
    pub offers_burst: u32,
    /// How long a connection may stay without a join.
    pub join_within: Duration,
    /// Bad messages in a row until the connection is closed.
    pub bad_messages: u32,
    /// Nesting of objects and arrays, and members of all objects together, in one message.
    pub json_depth: usize,
    pub json_members: usize,
    pub metadata: usize,
    pub sdp: usize,
    /// The m-lines that `tracks` may name.
    pub m_lines: usize,
    /// The payload of `data` and the text of `chat`.
    pub data: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_before_join: 16 * 1024,
            message_after_join: 256 * 1024,
            messages_per_second: 50,
            messages_burst: 200,
            offers_per_second: 2,
            offers_burst: 10,
            join_within: Duration::from_secs(15),
            bad_messages: 10,
            json_depth: 32,
            json_members: 256,
            metadata: 4 * 1024,
            sdp: 128 * 1024,
            m_lines: 64,
            data: 16 * 1024,
        }
    }
}
