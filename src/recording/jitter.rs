//! Puts the packets of one track back into order, and says which of them never came.
//!
//! A machine per track. It goes by [`Packet::seq_no`], which is without holes but for what is missing. A hole is waited for
//! [`WAIT`] from when it was noticed, and retransmissions fill it; then it is a loss. What comes twice or too late is dropped.
//!
//! Bounds: `PACKETS_MAX` numbers and `OCTETS_MAX` octets wait. When there would be more, the oldest hole is given up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::feed::Packet;

/// Orders the packets of one track.
#[derive(Debug)]
pub struct Jitter {
    wait: Duration,
    /// The number of the first slot: what comes out next. `None`: whatever comes first.
    next: Option<u64>,
    /// From `next` on, without end in a hole.
    slots: VecDeque<Slot>,
    octets: usize,
    /// Given up since the last packet that came out.
    skipped: u64,
    /// The numbers begin anew with the packet that comes out next.
    restarted: bool,
    /// Nothing is waited for until all is out.
    hurries: bool,
    counters: Counters,
}

/// All since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Taken, once each.
    pub packets: u64,
    /// Given up.
    pub lost: u64,
    /// Of `packets`, those that filled a hole.
    pub recovered: u64,
    /// Came twice, or after they had been given up.
    pub dropped: u64,
}

/// What happened to a packet that was put in.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived {
    /// It is the next one and nothing waits: it was not kept, and is to be used at once.
    Next,
    /// It was kept. [`Jitter::pop`] says what can be used.
    Kept,
    Dropped,
}

/// A packet in its place.
#[derive(Debug)]
pub struct Ordered {
    pub packet: Packet,
    /// So many before it are missing for good.
    pub lost_before: u64,
    /// The numbers went on somewhere else: nothing is known of what is between.
    pub restarted: bool,
}

#[derive(Debug)]
enum Slot {
    Packet(Packet),
    /// Missing, noticed then.
    Hole(Instant),
}

impl Jitter {
    /// `wait`: for a hole; usually [`WAIT`].
    pub fn new(wait: Duration) -> Self {
        Jitter {
            wait,
            next: None,
            slots: VecDeque::new(),
            octets: 0,
            skipped: 0,
            restarted: false,
            hurries: false,
            counters: Counters::default(),
        }
    }

    /// Takes a packet. Call [`pop`](Self::pop) until it is empty before the next one.
    pub fn handle_packet(&mut self, now: Instant, packet: &Packet) -> Arrived {
        let next = *self.next.get_or_insert(packet.seq_no);
        let ahead = match packet.seq_no.checked_sub(next) {
            Some(ahead) if ahead <= JUMP_MAX => ahead as usize,
            None if next - packet.seq_no <= JUMP_MAX => return self.late(),
            // The numbers go on somewhere else.
            _ => return self.restart(packet),
        };
        if ahead == 0 && self.slots.is_empty() && self.skipped == 0 && !self.restarted {
            self.next = Some(next.saturating_add(1));
            self.counters.packets += 1;
            return Arrived::Next;
        }
        self.keep(now, ahead, packet)
    }

    fn keep(&mut self, now: Instant, ahead: usize, packet: &Packet) -> Arrived {
        match self.slots.get_mut(ahead) {
            Some(Slot::Packet(_)) => return self.late(),
            Some(hole) => {
                *hole = Slot::Packet(packet.clone());
                self.counters.recovered += 1;
            }
            None => {
                while self.slots.len() < ahead {
                    self.slots.push_back(Slot::Hole(now));
                }
                self.slots.push_back(Slot::Packet(packet.clone()));
            }
        }
        self.counters.packets += 1;
        self.octets += packet.payload.len();
        Arrived::Kept
    }

    /// The next packet in order, if it is there, or if what is missing before it was waited for.
    pub fn pop(&mut self, now: Instant) -> Option<Ordered> {
        loop {
            match self.slots.front()? {
                Slot::Packet(_) => break,
                Slot::Hole(since) if now >= *since + self.wait || self.is_over() => self.give_up(),
                Slot::Hole(_) => return None,
            }
        }
        let Some(Slot::Packet(packet)) = self.slots.pop_front() else { unreachable!("it was in front") };
        self.hurries &= !self.slots.is_empty();
        self.octets -= packet.payload.len();
        self.next = Some(packet.seq_no.saturating_add(1));
        let lost_before = std::mem::take(&mut self.skipped);
        Some(Ordered { packet, lost_before, restarted: std::mem::take(&mut self.restarted) })
    }

    /// When [`pop`](Self::pop) will give up a hole.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.slots.front()? {
            Slot::Hole(since) => Some(*since + self.wait),
            Slot::Packet(_) => None,
        }
    }

    /// Waits no longer for what is missing by now: all that is there comes out.
    pub fn give_up_holes(&mut self) {
        self.hurries = !self.slots.is_empty();
    }

    /// Forgets what waits, and takes whatever comes first as the next one.
    pub fn reset(&mut self) {
        self.next = None;
        self.slots.clear();
        self.octets = 0;
        self.skipped = 0;
        self.restarted = false;
        self.hurries = false;
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Of the hole in front only; what is behind it may still come.
    fn give_up(&mut self) {
        self.slots.pop_front();
        self.next = self.next.map(|next| next.saturating_add(1));
        self.skipped += 1;
        self.counters.lost += 1;
    }

    /// What waits is behind a hole that will not be filled any more, and so are the frames it belongs to.
    fn restart(&mut self, packet: &Packet) -> Arrived {
        self.counters.lost += self.slots.len() as u64;
        self.reset();
        self.next = Some(packet.seq_no);
        self.restarted = true;
        self.octets = packet.payload.len();
        self.slots.push_back(Slot::Packet(packet.clone()));
        self.counters.packets += 1;
        Arrived::Kept
    }

    fn late(&mut self) -> Arrived {
        self.counters.dropped += 1;
        Arrived::Dropped
    }

    fn is_over(&self) -> bool {
        self.hurries || self.slots.len() > PACKETS_MAX || self.octets > OCTETS_MAX
    }
}

/// How long a missing packet is waited for: a few round trips of retransmission. More would hold back the other tracks longer,
/// and lose more of the recording with the process; less would lose packets that are still under way.
pub const WAIT: Duration = Duration::from_millis(500);
/// Numbers that wait, holes included: half a second of 40 Mbit/s.
const PACKETS_MAX: usize = 2048;
/// Octets that wait.
const OCTETS_MAX: usize = 4 * 1024 * 1024;
/// A number that is further away than this is not the consequence of loss. Not below `PACKETS_MAX`.
const JUMP_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use str0m::format::Codec;

    use super::*;

    fn packet(seq_no: u64, size: usize, arrival: Instant) -> Packet {
        Packet {
            track: 1,
            ssrc: 1,
            seq_no,
            time: 0,
            clock_rate: 90_000,
            codec: Codec::Vp8,
            red: false,
            marker: false,
            payload: Arc::from(vec![0; size]),
            arrival,
        }
    }

    /// Feeds numbers at milliseconds; what comes out is (number, lost before), a restart as a loss of `u64::MAX`.
    struct Receiver {
        start: Instant,
        jitter: Jitter,
        out: Vec<(u64, u64)>,
    }

    impl Receiver {
        fn new() -> Self {
            Receiver { start: Instant::now(), jitter: Jitter::new(WAIT), out: Vec::new() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn put(&mut self, ms: u64, seq_no: u64, size: usize) -> Arrived {
            let now = self.at(ms);
            let arrived = self.jitter.handle_packet(now, &packet(seq_no, size, now));
            match arrived {
                Arrived::Next => self.out.push((seq_no, 0)),
                Arrived::Kept | Arrived::Dropped => self.take(ms),
            }
            arrived
        }

        fn take(&mut self, ms: u64) {
            let now = self.at(ms);
            while let Some(ordered) = self.jitter.pop(now) {
                let lost = if ordered.restarted { u64::MAX } else { ordered.lost_before };
                self.out.push((ordered.packet.seq_no, lost));
            }
        }
    }

    #[test]
    fn rows() {
        // Name, (millisecond, number) in order of arrival, the time at the end, what came out.
        type Row<'a> = (&'a str, &'a [(u64, u64)], u64, &'a [(u64, u64)]);
        let rows: &[Row] = &[
            ("in order", &[(0, 7), (1, 8), (2, 9)], 2, &[(7, 0), (8, 0), (9, 0)]),
            ("out of order", &[(0, 1), (1, 3), (2, 2), (3, 4)], 3, &[(1, 0), (2, 0), (3, 0), (4, 0)]),
            ("twice", &[(0, 1), (0, 1), (1, 3), (1, 3), (2, 2), (2, 2)], 2, &[(1, 0), (2, 0), (3, 0)]),
            ("a hole is waited for", &[(0, 1), (10, 3)], 509, &[(1, 0)]),
            ("and then given up", &[(0, 1), (10, 4)], 510, &[(1, 0), (4, 2)]),
            ("each from when it was noticed", &[(0, 1), (10, 3), (100, 5)], 599, &[(1, 0), (3, 1)]),
            ("a filled hole among others", &[(0, 1), (10, 5), (20, 3), (30, 2)], 30, &[(1, 0), (2, 0), (3, 0)]),
            ("too late", &[(0, 1), (10, 3), (510, 3), (511, 2), (512, 4)], 512, &[(1, 0), (3, 1), (4, 0)]),
            (
                "far ahead",
                &[(0, 1), (1, 1_000_000), (2, 1_000_001)],
                2,
                &[(1, 0), (1_000_000, u64::MAX), (1_000_001, 0)],
            ),
            ("far back", &[(0, 1_000_000), (1, 5), (2, 6)], 2, &[(1_000_000, 0), (5, u64::MAX), (6, 0)]),
            ("the last number there is", &[(0, u64::MAX), (1, u64::MAX), (2, u64::MAX)], 2, &[(u64::MAX, 0); 3]),
        ];
        for (name, input, end, expect) in rows {
            let mut receiver = Receiver::new();
            for (ms, seq_no) in *input {
                receiver.take(*ms);
                receiver.put(*ms, *seq_no, 100);
            }
            receiver.take(*end);
            assert_eq!(receiver.out, *expect, "{name}");
        }
    }

    /// Loss, reordering, duplicates and retransmissions of a seeded network: what comes out ascends, is told apart exactly into
    /// what came in time and what did not, and nothing is held for longer than the wait.
    #[test]
    fn a_model_receiver_agrees() {
        for seed in 0..40 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let first = rng.u64(0..1 << 40);
            let mut events = Vec::new();
            for n in 0..3000u64 {
                let sent = n * 5;
                if n > 0 && rng.u8(..100) < 10 {
                    // Lost; retransmitted in time, too late, or never.
                    match rng.u8(..4) {
                        0 => {}
                        1 => events.push((sent + 1200 + rng.u64(..300), n)),
                        _ => events.push((sent + rng.u64(50..300), n)),
                    }
                    continue;
                }
                let at = if n == 0 { 0 } else { sent + rng.u64(..20) };
                events.push((at, n));
                if rng.u8(..100) < 5 {
                    events.push((at + rng.u64(1..100), n));
                }
            }
            events.sort();
            let mut receiver = Receiver::new();
            for (ms, n) in &events {
                receiver.take(*ms);
                receiver.put(*ms, first + n, 100);
                let wait = receiver.jitter.poll_timeout();
                assert!(wait.is_none_or(|wait| wait > receiver.at(*ms)), "seed {seed}");
            }
            receiver.take(30_000);
            let mut next = first;
            for (seq_no, lost_before) in &receiver.out {
                assert_eq!(next + lost_before, *seq_no, "seed {seed}");
                next = seq_no + 1;
            }
            let in_time: std::collections::HashSet<u64> =
                events.iter().filter(|(ms, n)| *ms < n * 5 + 1200).map(|(_, n)| first + n).collect();
            let out: std::collections::HashSet<u64> = receiver.out.iter().map(|(n, _)| *n).collect();
            assert_eq!(in_time.difference(&out).count(), 0, "seed {seed}");
            let counters = receiver.jitter.counters();
            assert_eq!(counters.packets, out.len() as u64, "seed {seed}");
            assert_eq!(counters.lost, next - first - out.len() as u64, "seed {seed}");
            assert_eq!(counters.packets + counters.dropped, events.len() as u64, "seed {seed}");
            assert!(counters.lost > 0 && counters.recovered > 0 && counters.dropped > 0, "seed {seed}");
        }
    }

    #[test]
    fn a_full_buffer_gives_up_its_oldest_hole() {
        for size in [10, 4000] {
            let mut receiver = Receiver::new();
            receiver.put(0, 0, size);
            for n in 2..6000 {
                receiver.put(1, n, size);
                assert!(receiver.jitter.slots.len() <= PACKETS_MAX && receiver.jitter.octets <= OCTETS_MAX);
            }
            assert_eq!(receiver.out[..3], [(0, 0), (2, 1), (3, 0)], "size {size}");
            assert_eq!(receiver.out.len(), 5999, "size {size}");
        }
    }

    #[test]
    fn holes_are_given_up_on_demand() {
        let mut receiver = Receiver::new();
        for n in [0, 2, 5] {
            receiver.put(0, n, 10);
        }
        receiver.jitter.give_up_holes();
        receiver.take(0);
        assert_eq!(receiver.out, [(0, 0), (2, 1), (5, 2)]);
        receiver.put(1, 7, 10);
        assert_eq!(receiver.out.len(), 3, "those that come later are waited for again");
        receiver.jitter.reset();
        assert_eq!(receiver.put(2, 3, 10), Arrived::Next);
    }
}
