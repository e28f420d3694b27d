//! Counters that workers write and anybody may read: relaxed atomics, a set per worker, nothing shared for writing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

/// All workers' counters.
#[derive(Debug)]
pub struct Metrics {
    pub workers: Vec<Arc<WorkerMetrics>>,
}

/// One worker's counters. Only that worker writes them.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    rooms: AtomicU64,
    participants: AtomicU64,
    recordings: AtomicU64,
    connections: AtomicU64,
    streams: AtomicU64,
    streams_refused: AtomicU64,
    datagrams_in: AtomicU64,
    bytes_in: AtomicU64,
    datagrams_dropped: AtomicU64,
    datagrams_out: AtomicU64,
    bytes_out: AtomicU64,
    sends_dropped: AtomicU64,
    forwarded: AtomicU64,
    panics: AtomicU64,
    moved_in: AtomicU64,
    messages_dropped: AtomicU64,
    turns: AtomicU64,
    turn_us_max: AtomicU64,
}

/// A reading of [`WorkerMetrics`], as `GET /stats` shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStats {
    pub rooms: u64,
    pub participants: u64,
    pub recordings: u64,
    pub connections: u64,
    /// Connections that carry media (ICE-TCP).
    pub media_connections: u64,
    /// Connections that began like media and were closed: for nobody here, never verified, or malformed.
    pub media_connections_refused: u64,
    pub datagrams_in: u64,
    pub bytes_in: u64,
    /// Refused before they reached a peer.
    pub datagrams_dropped: u64,
    pub datagrams_out: u64,
    pub bytes_out: u64,
    /// Given up because the socket would not take them, or their connection was gone.
    pub sends_dropped: u64,
    /// RTP packets handed to subscribers.
    pub packets_forwarded: u64,
    /// Caught panics: each one closed a peer.
    pub panics: u64,
    /// Connections that came from another worker.
    pub connections_moved_in: u64,
    /// Messages on data channels that a slow receiver had no room for.
    pub messages_dropped: u64,
    pub loop_turns: u64,
    /// The longest turn of the loop since the last reading, in microseconds.
    pub loop_max_us: u64,
}

impl Metrics {
    pub fn new(workers: usize) -> Metrics {
        Metrics { workers: (0..workers).map(|_| Arc::default()).collect() }
    }

    pub fn participants(&self) -> u64 {
        self.workers.iter().map(|w| w.participants.load(Relaxed)).sum()
    }

    pub fn recordings(&self) -> u64 {
        self.workers.iter().map(|w| w.recordings.load(Relaxed)).sum()
    }

    pub fn rooms(&self) -> u64 {
        self.workers.iter().map(|w| w.rooms.load(Relaxed)).sum()
    }

    pub fn connections(&self) -> u64 {
        self.workers.iter().map(|w| w.connections.load(Relaxed)).sum()
    }
}

impl WorkerMetrics {
    pub fn set_rooms(&self, count: usize) {
        self.rooms.store(count as u64, Relaxed);
    }

    pub fn set_participants(&self, count: usize) {
        self.participants.store(count as u64, Relaxed);
    }

    pub fn set_recordings(&self, count: usize) {
        self.recordings.store(count as u64, Relaxed);
    }

    pub fn set_connections(&self, count: usize) {
        self.connections.store(count as u64, Relaxed);
    }

    pub fn set_streams(&self, count: usize) {
        self.streams.store(count as u64, Relaxed);
    }

    pub fn refused_stream(&self) {
        add(&self.streams_refused, 1);
    }

    pub fn received(&self, bytes: usize) {
        add(&self.datagrams_in, 1);
        add(&self.bytes_in, bytes as u64);
    }

    pub fn dropped_datagram(&self) {
        add(&self.datagrams_dropped, 1);
    }

    pub fn sent(&self, datagrams: usize, bytes: usize) {
        add(&self.datagrams_out, datagrams as u64);
        add(&self.bytes_out, bytes as u64);
    }

    pub fn set_sends_dropped(&self, count: u64) {
        self.sends_dropped.store(count, Relaxed);
    }

    pub fn forwarded(&self, packets: usize) {
        add(&self.forwarded, packets as u64);
    }

    pub fn panicked(&self) {
        add(&self.panics, 1);
    }

    pub fn moved_in(&self) {
        add(&self.moved_in, 1);
    }

    pub fn dropped_message(&self) {
        add(&self.messages_dropped, 1);
    }

    pub fn turn(&self, took: Duration) {
        add(&self.turns, 1);
        let us = took.as_micros() as u64;
        if us > self.turn_us_max.load(Relaxed) {
            self.turn_us_max.store(us, Relaxed);
        }
    }

    pub fn read(&self) -> WorkerStats {
        WorkerStats {
            rooms: self.rooms.load(Relaxed),
            participants: self.participants.load(Relaxed),
            recordings: self.recordings.load(Relaxed),
            connections: self.connections.load(Relaxed),
            media_connections: self.streams.load(Relaxed),
            media_connections_refused: self.streams_refused.load(Relaxed),
            datagrams_in: self.datagrams_in.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            datagrams_dropped: self.datagrams_dropped.load(Relaxed),
            datagrams_out: self.datagrams_out.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            sends_dropped: self.sends_dropped.load(Relaxed),
            packets_forwarded: self.forwarded.load(Relaxed),
            panics: self.panics.load(Relaxed),
            connections_moved_in: self.moved_in.load(Relaxed),
            messages_dropped: self.messages_dropped.load(Relaxed),
            loop_turns: self.turns.load(Relaxed),
            loop_max_us: self.turn_us_max.swap(0, Relaxed),
        }
    }
}

/// One writer: a load and a store are cheaper than a locked addition.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed) + amount, Relaxed);
}
