//! WebRTC Engine: video calls in one binary. An SFU, a WebSocket signaling server with JWT and roles, a recorder, and a web
//! client.
//!
//! This page is the map of the code. What the outside world sees is in the README and in the messages of [`signal`].
//!
//! # Bird's eye
//!
//! One process. `WORKERS` threads, each pinned to a core, each running one mio loop around one [`shard`]: the machine that
//! owns every room, participant, session and media connection of that core. A few ordinary threads do what blocks
//! ([`jobs`], [`storage`], [`db`]). Threads share the configuration, metric atomics and bounded mail queues, and nothing else.
//!
//! ```text
//!   browsers ──UDP──► worker 0 ┐
//!            ──TCP──► worker 1 ┤ mail ◄──► jobs (certificates), starter (signals)
//!                      …       ├──► recorder threads ──► finisher (files of recordings)
//!                              └──► database (SQLite), readers (downloads)
//! ```
//!
//! A room lives on one worker. Worker 0 owns the directory of rooms and is asked at every join. A connection is accepted by
//! any worker (`SO_REUSEPORT`) and, when it joins a room that lives elsewhere, moves there by value: socket, TLS state and
//! buffers. From then on everything that touches the room is on one core, without a lock. Media has a UDP port per worker; on
//! the HTTP port, framed packets are told from TLS and HTTP by their first byte (ICE-TCP), and such a connection moves on until
//! it finds the worker that knows whom its first check is for.
//!
//! # Modules in reading order
//!
//! ```text
//!   main ──► cli ──► worker ──► shard ──► { signal http ws whip | room p2p auth | sfu peer quality | recording } ──► base
//!             └────► jobs db storage      arrows are imports; nothing imports against an arrow
//! ```
//!
//! - [`base`]: ids, units, bounded queue, token bucket, timer wheel
//! - [`config`]: flags, environment and TOML become one validated [`config::Config`]
//! - [`auth`]: a token becomes [`auth::Grants`], and nothing else does
//! - [`room`]: who is in a call and what each may do; commands in, events out
//! - [`p2p`]: what may be relayed between two browsers
//! - [`sfu`]: published tracks, the slots that carry them, key frames, renumbering
//! - [`peer`]: one WebRTC connection; the only module that names `str0m::Rtc`
//! - [`quality`]: how good a participant's connection is
//! - [`ice_servers`]: STUN and TURN servers for clients
//! - [`signal`]: the JSON protocol as types, and the rules of one connection
//! - [`whip`]: WHIP and WHEP: a media connection as a resource of HTTP
//! - [`ws`], [`http`], [`frames`]: bytes in, bytes out
//! - [`webm`]: WebM and Matroska files, written while they grow, read and repaired wherever they end
//! - [`recording`]: whole frames of every track on one clock, out of packets
//! - [`client`]: page and browser SDK, embedded at build
//! - [`shard`]: the wiring of all the above, still without a socket or a clock
//! - [`worker`]: the loop: sockets, clock, mail
//! - [`db`], [`storage`]: SQLite, and recordings on disk, on threads of their own
//! - [`jobs`], [`cli`]: what blocks otherwise, and what starts and stops everything
//! - [`metrics`], [`log`]: counters; one line per event
//!
//! # Invariants
//!
//! - *Machines.* Outside [`worker`], [`jobs`], [`db`], [`storage`] and [`cli`] nothing touches a socket, a clock, a file or a thread. A machine is
//!   fed (`handle_*`), asked (`poll_*`) and says when it wants to be woken. `tests/tidy.rs` watches over this.
//! - *One owner.* State is owned by value; relations are keys ([`base::ParticipantKey`], [`base::TrackId`]) into the owner's
//!   table.
//! - *Every queue has a bound* and says what happens when it is full.
//! - *Feed one datagram, drain to the end.* str0m keeps one received packet; a second one before the drain would lose it.
//! - *No library is trusted with the process.* Every step of str0m runs under `catch_unwind`; a panic ends that peer.
//! - *Media belongs to whoever passed an authenticated connectivity check.* Everything else that is not a check is dropped
//!   without an answer, and nothing is ever sent to an address that has not sent one.
//! - *A slot's outgoing sequence number is never used for two payloads*, and starts below 65536 (RFC 3711 §3.3.1).
//!
//! # One RTP packet
//!
//! [`worker::udp`] receives a batch; the clock is read once. [`shard::Shard::handle_datagram`] looks at the first byte (RFC
//! 7983) and at the address; a connectivity check is found by its user name. [`peer`] feeds str0m and drains it: answers go
//! to the shard's queue, RTP comes out with its payload in an `Arc<[u8]>`. [`sfu`] decides for each slot that carries the
//! track: drop, forward, or switch at this key frame, and returns forwards with rewritten headers over the same payload. The
//! shard writes each to the subscriber's [`peer`]. At the end of the turn every touched peer is flushed once, which encrypts,
//! and [`worker::udp`] sends everything with `sendmmsg`, runs to one destination as one segmented message.
//!
//! # One recorded packet
//!
//! The tap of a room (`shard::recording`) is one more subscriber in [`sfu`], of every track at its best layer, so the packet comes
//! there as it would to anybody else, with a numbering of its own that only loss makes holes in. With the publisher's RTP time and
//! SSRC it goes into a batch; ten times a second, or when the batch is full, that goes to a recorder thread
//! ([`storage::recorder`]). There [`recording`] puts packets into order, frames together and all tracks on one clock (sender reports
//! say how sound and picture belong together), and [`webm`] says what stands around each block. A batch's blocks are one
//! `write_vectored` of headers and of slices of the packets. `manifest.jsonl` grows beside the file; when the recording ends, or at
//! the next start after a crash, the finisher makes everything else of these two.
//!
//! No payload is copied by us between decryption and the file; exceptions are headers: those of VP9 layers that have to be hidden,
//! and VP9's descriptor after a change of encoding. str0m copies a payload once after decryption, into the `Arc` that is shared.
//!
//! # One message
//!
//! [`worker::tcp`] reads bytes, [`http`] and [`ws`] frame them, [`signal::message`] parses text to a typed request (a bad one
//! is answered there and goes no further). [`signal::session`] checks that it makes sense now. [`shard`] hands it to
//! [`room`], which checks rights and answers with events; the shard carries those to people ([`signal::message::encode`]),
//! to [`sfu`] (a slot gets a track) and to [`peer`] (an offer).
//!
//! # Negotiation
//!
//! One PeerConnection per participant, both directions, ICE-lite. *Slots*: the client offers its senders and a number of
//! recvonly lines once; the server fills them and says so with `track-subscribed`; a join costs the room no SDP. *Tracks*:
//! the server offers a line per remote track and reuses lines that became free. On glare the server gives way: its offer is
//! dropped, the client's is answered, and what was wanted is offered again from the state as it is then
//! (`shard::media::plan` compares what should be with what is, so nothing has to be queued).
//!
//! # Direct dependencies
//!
//! | crate | why |
//! | --- | --- |
//! | str0m, str0m-proto | sans-IO ICE, SRTP, RTP, SDP; pinned, since most releases change the API |
//! | dimpl | sans-IO DTLS 1.2 and 1.3 behind str0m's trait, with one cached configuration |
//! | openssl (vendored) | SRTP ciphers with contexts that live as long as the session, hashes, certificates |
//! | rustls (aws-lc-rs) | TLS for HTTP and WebSocket; its crypto is what dimpl's handshake uses as well |
//! | mio, socket2, libc | readiness, socket options, `recvmmsg`, `sendmmsg`, pinning |
//! | tungstenite | WebSocket frames, used over memory |
//! | httparse, matchit | heads of requests, routes |
//! | sdp-types | guards untrusted SDP and edits our own |
//! | serde, serde_json, toml | JSON and the configuration file |
//! | jsonwebtoken (aws-lc-rs) | tokens |
//! | rusqlite (bundled) | SQLite, for what has to survive: recordings |
//! | tracing, tracing-subscriber | the log |
//! | lexopt | flags |
//! | if-addrs | addresses of the interfaces |
//! | signal-hook | signals as bytes in a pipe |
//! | slab, rustc-hash, fastrand | tables, hashing of trusted keys, randomness that need not be secret |
//! | mimalloc | str0m allocates per sent packet, and a static binary should not hang on the C library's allocator |

// In the order of the map; the blank lines keep rustfmt from sorting them.
pub mod base;

pub mod config;

pub mod auth;

pub mod room;

pub mod p2p;

pub mod sfu;

pub mod peer;

pub mod quality;

pub mod ice_servers;

pub mod signal;

pub mod whip;

pub mod ws;

pub mod http;

pub mod frames;

pub mod webm;

pub mod recording;

pub mod client;

pub mod shard;

pub mod worker;

pub mod jobs;

pub mod db;

pub mod storage;

pub mod cli;

pub mod metrics;

pub mod log;

#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
