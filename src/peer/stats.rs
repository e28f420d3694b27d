//! What str0m measures of a connection, several times a second, and the rates that follow from measurements a second apart.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use str0m::media::{Mid, Rid};
use str0m::stats::{MediaEgressStats, MediaIngressStats, PeerStats};

/// The latest figures of one connection. `None`: not measured (yet).
#[derive(Debug, Default)]
pub struct Stats {
    pub rtt: Option<Duration>,
    /// Share of what was sent to the client in the last second and did not arrive, 0 to 1, before retransmission.
    pub loss_down: Option<f32>,
    /// Share of what the client sent and did not arrive here, 0 to 1, before retransmission.
    pub loss_up: Option<f32>,
    /// As [`Stats::loss_down`], of the second before the latest measurement.
    loss_present: f32,
    /// The latest round trips, the newest last; at most [`RTTS`].
    rtts: VecDeque<Duration>,
    /// When a second was full, and whether this measurement filled one.
    second: Option<Instant>,
    is_full: bool,
    /// Shares that were lost since then on the way here: sum and number.
    losses_up: (f32, f32),
    received: FxHashMap<(Mid, Option<Rid>), Received>,
    sent: FxHashMap<Mid, Sent>,
}

/// One encoding that the client sends.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Received {
    pub packets: u64,
    pub bytes: u64,
    /// Bit/s over the last interval.
    pub bitrate: u64,
    /// Interarrival jitter (RFC 3550 §6.4.1) in units of the media clock.
    pub jitter: u32,
    pub loss: Option<f32>,
    pub nacks: u64,
    pub plis: u64,
    at: Option<Instant>,
}

/// One line on which the server sends.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sent {
    pub packets: u64,
    pub bytes: u64,
    /// Bit/s over the last interval, retransmissions included.
    pub bitrate: u64,
    /// As the client reports it, in units of the media clock.
    pub jitter: Option<u32>,
    pub loss: Option<f32>,
    pub rtt: Option<Duration>,
    pub nacks: u64,
    pub plis: u64,
    at: Option<Instant>,
}

impl Stats {
    pub fn received(&self) -> impl Iterator<Item = (Mid, Option<Rid>, &Received)> {
        self.received.iter().map(|((mid, rid), figures)| (*mid, *rid, figures))
    }

    pub fn sent(&self) -> impl Iterator<Item = (Mid, &Sent)> {
        self.sent.iter().map(|(mid, figures)| (*mid, figures))
    }

    /// Bit/s that arrived at the client in the last interval. `None`: there is no feedback to tell.
    pub fn arrives(&self) -> Option<u64> {
        let sent: u64 = self.sent.values().map(|sent| sent.bitrate).sum();
        self.loss_down.map(|loss| (sent as f64 * f64::from(1.0 - loss.clamp(0.0, 1.0))) as u64)
    }

    /// Packets wait or get lost on the way to the client. `reported`: the share that the client itself says it lost; the
    /// estimator's feedback counts as lost what only comes late.
    pub fn has_queue(&self, reported: Option<f32>) -> bool {
        let grows = match (self.rtts.back(), self.rtts.iter().min()) {
            (Some(rtt), Some(least)) => *rtt > *least + QUEUE_DELAY,
            _ => true,
        };
        grows || reported.or(self.loss_down).is_none_or(|loss| loss > QUEUE_LOSS)
    }

    /// The round trip is longer than it was: there is a queue on the way, or another way.
    pub fn is_longer(&self) -> bool {
        matches!((self.rtt, self.rtts.iter().min()), (Some(rtt), Some(least)) if rtt > *least + FLOOD_DELAY)
    }

    /// As [`Stats::loss_down`], of the second before the latest measurement.
    pub fn loses(&self) -> bool {
        self.loss_present > FLOOD_LOSS
    }

    /// So much waits or gets lost that even the least is too much.
    pub fn is_starved(&self, reported: Option<f32>) -> bool {
        let waits = match (self.rtts.back(), self.rtts.iter().min()) {
            (Some(rtt), Some(least)) => *rtt > *least + STARVED_DELAY,
            _ => false,
        };
        waits || reported.or(self.loss_down).is_some_and(|loss| loss > STARVED_LOSS)
    }

    /// The first of what belongs to one measurement. `true`: a second is full, and all figures but the estimate are new.
    pub(super) fn on_peer(&mut self, stats: &PeerStats) -> bool {
        self.loss_present = stats.egress_loss_fraction.unwrap_or(0.0);
        if let Some(loss) = stats.ingress_loss_fraction {
            self.losses_up = (self.losses_up.0 + loss, self.losses_up.1 + 1.0);
        }
        let elapsed = self.second.map(|since| stats.timestamp.saturating_duration_since(since));
        self.is_full = elapsed.is_none_or(|elapsed| elapsed >= SECOND);
        if !self.is_full {
            self.rtt = stats.rtt.or(self.rtt);
            return false;
        }
        self.second = Some(stats.timestamp);
        if let Some(rtt) = stats.rtt {
            if self.rtts.len() >= RTTS {
                self.rtts.pop_front();
            }
            self.rtts.push_back(rtt);
        }
        // Without feedback in the interval the former figure stands; loss without any traffic is none.
        self.rtt = stats.rtt.or(self.rtt);
        self.loss_down = stats.egress_loss_fraction;
        let (sum, count) = std::mem::take(&mut self.losses_up);
        self.loss_up = (count > 0.0).then(|| sum / count);
        true
    }

    pub(super) fn on_ingress(&mut self, stats: &MediaIngressStats) {
        if !self.is_full {
            return;
        }
        if self.received.len() >= LINES_MAX && !self.received.contains_key(&(stats.mid, stats.rid)) {
            return;
        }
        let figures = self.received.entry((stats.mid, stats.rid)).or_default();
        figures.bitrate = rate(figures.bytes, figures.at, stats.bytes, stats.timestamp).unwrap_or(figures.bitrate);
        figures.at = Some(stats.timestamp);
        figures.packets = stats.packets;
        figures.bytes = stats.bytes;
        figures.jitter = stats.jitter;
        figures.loss = stats.loss;
        figures.nacks = stats.nacks;
        figures.plis = stats.plis + stats.firs;
        self.rtt = self.rtt.or(stats.rtt);
    }

    pub(super) fn on_egress(&mut self, stats: &MediaEgressStats) {
        if !self.is_full {
            return;
        }
        if self.sent.len() >= LINES_MAX && !self.sent.contains_key(&stats.mid) {
            return;
        }
        let figures = self.sent.entry(stats.mid).or_default();
        figures.bitrate = rate(figures.bytes, figures.at, stats.bytes, stats.timestamp).unwrap_or(figures.bitrate);
        figures.at = Some(stats.timestamp);
        figures.packets = stats.packets;
        figures.bytes = stats.bytes;
        figures.jitter = stats.remote.as_ref().map(|remote| remote.jitter).or(figures.jitter);
        figures.loss = stats.loss.or(figures.loss);
        figures.rtt = stats.rtt.or(figures.rtt);
        figures.nacks = stats.nacks;
        figures.plis = stats.plis + stats.firs;
        self.rtt = self.rtt.or(stats.rtt);
    }
}

fn rate(bytes_before: u64, before: Option<Instant>, bytes: u64, now: Instant) -> Option<u64> {
    let elapsed = now.checked_duration_since(before?)?;
    let bits = bytes.checked_sub(bytes_before)?.checked_mul(8)?;
    (!elapsed.is_zero()).then(|| (bits as f64 / elapsed.as_secs_f64()) as u64)
}

/// Rates are over so much, a little less than a second so that a measurement that comes early counts.
const SECOND: Duration = Duration::from_millis(900);
/// A round trip that is so much longer than the least of late is one in which a queue grows; jitter is less, and another route
/// is longer once, not longer and longer.
const QUEUE_DELAY: Duration = Duration::from_millis(100);
const FLOOD_DELAY: Duration = Duration::from_millis(150);
const FLOOD_LOSS: f32 = 0.02;
const RTTS: usize = 3;
/// More than a busy machine adds, less than a line adds that is full of video.
const STARVED_DELAY: Duration = Duration::from_millis(400);
/// More than a bad radio path loses by chance.
const STARVED_LOSS: f32 = 0.25;
/// Radio loses as much without any queue.
const QUEUE_LOSS: f32 = 0.05;
/// More lines than a description may have are not kept apart.
const LINES_MAX: usize = 128;
