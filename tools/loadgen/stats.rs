//! Counting: distributions, what of a publisher's packets reached a subscriber, and the averages of a run.

use std::time::Duration;

/// A distribution of durations with a relative error under 1/32, whatever the range.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Indexed by [`bucket`].
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, value: Duration) {
        self.record_ns(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn record_ns(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    /// The greatest value, exactly. Zero when there is none.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The value that a share `quantile` (0 to 1) of all values does not exceed. Zero when there is none.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = ((self.total as f64 * quantile).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return Duration::from_nanos(upper_bound(index).min(self.max));
            }
        }
        Duration::ZERO
    }
}

/// Values of the same power of two share 32 buckets of equal width.
const SUB_BITS: u32 = 5;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

fn bucket(value: u64) -> usize {
    let exponent = (64 - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    ((exponent as usize) << SUB_BITS) + (value >> exponent) as usize
}

/// The greatest value that falls into a bucket.
fn upper_bound(index: usize) -> u64 {
    let sub = 1usize << SUB_BITS;
    if index < 2 * sub {
        return index as u64;
    }
    let exponent = (index >> SUB_BITS) as u32 - 1;
    let mantissa = (index & (sub - 1) | sub) as u64;
    (mantissa << exponent) + ((1u64 << exponent) - 1)
}

/// The span of send times that is measured, CLOCK_MONOTONIC nanoseconds. A packet belongs to it by its stamp, so that
/// sender and receiver agree without talking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start_ns: u64,
    pub end_ns: u64,
}

impl Window {
    pub fn contains(&self, sent_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&sent_ns)
    }
}

/// How a packet that arrived relates to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    InOrder,
    /// After one with a greater counter.
    Reordered,
    Duplicate,
}

/// The packets of one kind of one publisher, as one subscriber gets them.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// Greatest counter seen, plus one; 0 before the first packet.
    next: u64,
    /// Bit `n` of the ring: counter `n` modulo its length was seen, within the ring's length behind `next`.
    seen: Option<Box<[u64; RING_WORDS]>>,
    /// What is in the measured window.
    pub received: u64,
    pub duplicates: u64,
    pub reordered: u64,
    /// The part of the window in which the subscriber has this track continuously.
    segment: Option<Segment>,
    /// Packets of closed segments: those that should have come.
    closed_expected: u64,
    /// Packets, measured or not.
    pub total: u64,
}

/// Counters from the first to the last packet.
#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
    last: u64,
}

impl Flow {
    /// Notes the packet `counter`; `measured` when its stamp is in the window.
    pub fn on_packet(&mut self, counter: u64, measured: bool) -> Arrival {
        let arrival = self.note(counter);
        self.total += 1;
        if !measured {
            return arrival;
        }
        if arrival == Arrival::Duplicate {
            self.duplicates += 1;
            return arrival;
        }
        self.received += 1;
        if arrival == Arrival::Reordered {
            self.reordered += 1;
        }
        match &mut self.segment {
            Some(segment) => {
                segment.first = segment.first.min(counter);
                segment.last = segment.last.max(counter);
            }
            None => self.segment = Some(Segment { first: counter, last: counter }),
        }
        arrival
    }

    /// The server says that the track is no longer carried: what is sent from here on is not missed.
    pub fn on_unsubscribed(&mut self) {
        self.closed_expected += self.segment.take().map_or(0, |s| s.last - s.first + 1);
    }

    /// Packets that the subscriber should have had, judged by the counters it saw while it had the track.
    pub fn expected_by_counters(&self) -> u64 {
        // A straggler of a segment that was closed opens another of its own; hence never less than what came.
        (self.closed_expected + self.segment.map_or(0, |s| s.last - s.first + 1)).max(self.received)
    }

    fn note(&mut self, counter: u64) -> Arrival {
        const LEN: u64 = RING_WORDS as u64 * 64;
        let seen = self.seen.get_or_insert_with(|| Box::new([0; RING_WORDS]));
        let (word, bit) = ((counter % LEN / 64) as usize, 1u64 << (counter % 64));
        if counter >= self.next {
            // Clear what lies between: those bits belong to counters one ring earlier.
            for skipped in self.next.max((counter + 1).saturating_sub(LEN))..=counter {
                seen[(skipped % LEN / 64) as usize] &= !(1 << (skipped % 64));
            }
            seen[word] |= bit;
            self.next = counter + 1;
            return Arrival::InOrder;
        }
        if self.next - counter > LEN || seen[word] & bit != 0 {
            // What is older than the ring cannot be told apart; that late it is a duplicate as good as any.
            return Arrival::Duplicate;
        }
        seen[word] |= bit;
        Arrival::Reordered
    }
}

/// 2048 packets: 9 s of video at 1.5 Mbit/s, longer than any retransmission takes.
const RING_WORDS: usize = 32;

/// Packets of one kind in the window, over all pairs of a publisher and a subscriber.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    /// By the publishers.
    pub sent: u64,
    pub expected: u64,
    pub received: u64,
    pub duplicates: u64,
    pub reordered: u64,
    /// Pairs that should exist, and those of them over which something came.
    pub pairs_wanted: u64,
    pub pairs_carried: u64,
    /// Pairs over which everything was due and nothing came.
    pub pairs_missing: u64,
}

impl Delivery {
    /// Adds one pair. With `all` every packet of the publisher (`sent`) is due; without, fewer lines than publishers
    /// exist, and only what was sent while the subscriber had the track counts.
    pub fn add_pair(&mut self, flow: &Flow, sent: u64, all: bool) {
        self.pairs_wanted += 1;
        self.pairs_carried += u64::from(flow.received > 0);
        self.pairs_missing += u64::from(all && sent > 0 && flow.received == 0);
        self.received += flow.received;
        self.duplicates += flow.duplicates;
        self.reordered += flow.reordered;
        self.expected += if all { sent.max(flow.received) } else { flow.expected_by_counters() };
    }

    pub fn lost(&self) -> u64 {
        self.expected - self.received
    }

    pub fn loss_percent(&self) -> f64 {
        if self.expected == 0 { 0.0 } else { self.lost() as f64 * 100.0 / self.expected as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_in_order() {
        let mut values: Vec<u64> =
            (0..64).flat_map(|e| [0, 1, 7, 31].map(|x| (1u64 << e).saturating_add(x << e >> 5))).collect();
        values.extend([0, 1, 31, 32, 33, 63, 64, 65, u64::MAX]);
        values.sort_unstable();
        for pair in values.windows(2) {
            assert!(bucket(pair[0]) <= bucket(pair[1]), "{pair:?}");
        }
        for value in values {
            let bound = upper_bound(bucket(value));
            assert!(bucket(value) < BUCKETS);
            assert!(bound >= value && bound - value <= value / 32, "{value} is put at {bound}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.max()), (Duration::ZERO, Duration::ZERO));
        let mut other = Histogram::default();
        for micros in 1..=1000u64 {
            let half = if micros % 2 == 0 { &mut histogram } else { &mut other };
            half.record(Duration::from_micros(micros));
        }
        histogram.merge(&other);
        assert_eq!(histogram.count(), 1000);
        assert_eq!(histogram.max(), Duration::from_micros(1000));
        for (quantile, micros) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let found = histogram.quantile(quantile).as_secs_f64() * 1e6;
            assert!(found >= micros && found <= micros * 1.032, "{quantile}: {found}");
        }
    }

    #[test]
    fn a_window_holds_its_start_but_not_its_end() {
        let window = Window { start_ns: 10, end_ns: 20 };
        for (sent_ns, inside) in [(9, false), (10, true), (19, true), (20, false)] {
            assert_eq!(window.contains(sent_ns), inside);
        }
    }

    #[test]
    fn arrivals_are_told_apart() {
        use Arrival::*;
        let mut flow = Flow::default();
        for (counter, arrival) in
            [(5, InOrder), (5, Duplicate), (7, InOrder), (6, Reordered), (6, Duplicate), (8, InOrder), (3, Reordered)]
        {
            assert_eq!(flow.on_packet(counter, true), arrival, "packet {counter}");
        }
        assert_eq!((flow.received, flow.duplicates, flow.reordered), (5, 2, 2));
        assert_eq!(flow.expected_by_counters(), 6, "3 to 8");
    }

    #[test]
    fn the_ring_forgets_nothing_within_its_length() {
        let mut flow = Flow::default();
        for counter in (0..10_000).filter(|n| n % 10 != 3) {
            assert_eq!(flow.on_packet(counter, true), Arrival::InOrder);
        }
        assert_eq!(flow.on_packet(9993, true), Arrival::Reordered);
        assert_eq!(flow.on_packet(9993, true), Arrival::Duplicate);
        assert_eq!(flow.on_packet(8003, true), Arrival::Reordered);
        assert_eq!(flow.on_packet(8004, true), Arrival::Duplicate);
        assert_eq!(flow.on_packet(13, true), Arrival::Duplicate, "older than the ring");
        // A jump over more than the ring leaves no bit behind.
        assert_eq!(flow.on_packet(1_000_000, true), Arrival::InOrder);
        assert_eq!(flow.on_packet(999_999, true), Arrival::Reordered);
    }

    #[test]
    fn only_the_window_is_counted() {
        let mut flow = Flow::default();
        for counter in 0..30 {
            flow.on_packet(counter, (10..20).contains(&counter) && counter != 15);
        }
        assert_eq!((flow.received, flow.total, flow.expected_by_counters()), (9, 30, 10));
    }

    #[test]
    fn what_was_not_subscribed_is_not_missed() {
        let mut flow = Flow::default();
        for counter in [10, 11, 12, 14] {
            flow.on_packet(counter, true);
        }
        flow.on_unsubscribed();
        for counter in [100, 101] {
            flow.on_packet(counter, true);
        }
        assert_eq!((flow.received, flow.expected_by_counters()), (6, 5 + 2));
        flow.on_unsubscribed();
        flow.on_unsubscribed();
        assert_eq!(flow.expected_by_counters(), 7);
    }

    #[test]
    fn loss_is_per_pair() {
        let mut flow = Flow::default();
        for counter in [4, 5, 7] {
            flow.on_packet(counter, true);
        }
        let mut delivery = Delivery::default();
        delivery.add_pair(&flow, 8, true);
        assert_eq!((delivery.lost(), delivery.loss_percent()), (5, 62.5));
        delivery.add_pair(&flow, 8, false);
        assert_eq!((delivery.expected, delivery.lost()), (12, 6));
        delivery.add_pair(&Flow::default(), 8, true);
        assert_eq!((delivery.expected, delivery.received), (20, 6), "a pair without a packet lost them all");
        assert_eq!((delivery.pairs_wanted, delivery.pairs_carried, delivery.pairs_missing), (3, 2, 1));
        delivery.add_pair(&Flow::default(), 8, false);
        assert_eq!(delivery.pairs_missing, 1, "nobody promised it a line");
        assert_eq!(Delivery::default().loss_percent(), 0.0);
    }
}
