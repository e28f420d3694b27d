//! One outgoing numbering per slot, whatever source feeds it: sequence numbers, timestamps and VP8's counters.
//!
//! A receiver sees one SSRC for ever and must see one continuous stream on it. Within a source every number keeps its
//! distance, so gaps stay gaps (and can be NACKed) and a late packet gets the number that was left for it. What is withheld
//! from the slot on purpose leaves no gap: what follows moves down.
//!
//! Invariants: an outgoing sequence number belongs to one packet only (SRTP forbids anything else, RFC 3711 §9.1), and the
//! first one is below 2^15, because a receiver starts with rollover counter 0 (RFC 3711 §3.3.1).
//! See RFC 3550 §5.1, RFC 7741 §4.2.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use str0m::rtp::{SeqNo, Vp8Patch};

use super::cache::HOLES_MAX;
use super::codec::Vp8Fields;
use super::vp9;

/// The numbers of one incoming packet.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// Extended and without the numbers of padding.
    pub seq: u64,
    /// RTP time.
    pub time: u32,
    /// Of `time`, in Hz.
    pub clock_rate: u32,
    pub arrival: Instant,
    pub vp8: Option<Vp8Fields>,
    pub vp9: Option<vp9::Descriptor>,
    /// Of the dependency descriptor.
    pub frame_number: Option<u16>,
}

/// The numbers of one outgoing packet.
#[derive(Debug, Clone, Copy)]
pub struct Rewritten {
    pub seq_no: SeqNo,
    pub time: u32,
    /// `None` when the payload goes out as it came.
    pub vp8_patch: Option<Vp8Patch>,
    /// Picture id and TL0PICIDX for a VP9 descriptor; `None` when the payload goes out as it came.
    pub vp9_patch: Option<(Option<u16>, Option<u8>)>,
    /// `None` when the dependency descriptor goes out as it came.
    pub frame_number: Option<u16>,
}

/// The outgoing numbering of one slot.
#[derive(Debug)]
pub struct Rewriter {
    /// One above the highest sequence number given out.
    seq_next: u64,
    /// The highest timestamp given out and when its first packet arrived.
    newest: Option<(u32, Instant)>,
    /// The timestamp a slot starts with.
    time_first: u32,
    source: Option<Source>,
    picture_id: Counter,
    tl0_pic_idx: Counter,
    key_idx: Counter,
    frame_number: Counter,
    /// How far time is ahead of what the clock says, in ticks: replays have to fit in. Taken back at changes of the source.
    lead: u32,
    /// The receiver has the dependency descriptor.
    reads_descriptors: bool,
}

/// How the present source's numbers become ours.
#[derive(Debug)]
struct Source {
    /// The first number that was taken over, and what it became.
    seq_in: u64,
    seq_out: u64,
    /// To be added.
    time: u32,
    /// One above the highest number that was sent or withheld.
    next: u64,
    withheld: Withheld,
    /// The time that each replayed picture was given, in order, and the number from which on `time` counts.
    replayed: Vec<(u32, u32)>,
    live_from: u64,
}

impl Rewriter {
    pub fn new(random: &mut fastrand::Rng) -> Self {
        Rewriter {
            seq_next: random.u64(1..SEQ_FIRST_MAX),
            newest: None,
            time_first: random.u32(..),
            source: None,
            picture_id: Counter::default(),
            tl0_pic_idx: Counter::default(),
            key_idx: Counter::default(),
            frame_number: Counter::default(),
            lead: 0,
            reads_descriptors: true,
        }
    }

    pub fn reads_descriptors(&self) -> bool {
        self.reads_descriptors
    }

    pub fn set_reads_descriptors(&mut self, reads: bool) {
        self.reads_descriptors = reads;
    }

    /// Whether something was ever sent.
    pub fn has_sent(&self) -> bool {
        self.newest.is_some()
    }

    /// The next packets come from another source, of which this is the first one to be sent.
    ///
    /// It follows the last one directly: the next sequence number, and as much later as it arrived later.
    pub fn attach(&mut self, first: &Numbers) {
        let time = self.time_of(first, 1);
        self.attach_at(first, time, Vec::new(), first.seq);
    }

    /// The same where the first packets were kept: the pictures before the newest one get times that end just before its, at
    /// most a millisecond apart, so that the receiver does not take their age for delay.
    ///
    /// `pictures`: the times of all of them in order. `newest`: the first packet of the last one.
    pub fn attach_replay(&mut self, first: &Numbers, pictures: &[u32], newest: &Numbers) {
        let earlier = pictures.get(..pictures.len().saturating_sub(1)).unwrap_or(&[]);
        let count = u32::try_from(earlier.len()).unwrap_or(u32::MAX);
        let millisecond = newest.clock_rate / 1000;
        // Closer where time is ahead already.
        let room = millisecond.saturating_mul(LEAD_MS_MAX).saturating_sub(self.lead);
        let step = millisecond.min(room / count.max(1)).max(1);
        let span = count.saturating_mul(step);
        let time = self.time_of(newest, span.saturating_add(1));
        let back = (0..count).rev().map(|n| time.wrapping_sub((n + 1).wrapping_mul(step)));
        let replayed = pictures.iter().copied().zip(back.chain([time])).collect();
        self.attach_at(first, time.wrapping_sub(newest.time).wrapping_add(first.time), replayed, newest.seq);
    }

    /// The outgoing time for a packet that follows what was sent, at least `least` ticks later.
    fn time_of(&mut self, packet: &Numbers, least: u32) -> u32 {
        let Some((time, arrival)) = self.newest else { return self.time_first };
        let elapsed = ticks(packet.arrival.saturating_duration_since(arrival), packet.clock_rate);
        let later = elapsed.saturating_sub(self.lead).max(least);
        self.lead = self.lead.saturating_add(later).saturating_sub(elapsed.max(1));
        time.wrapping_add(later)
    }

    fn attach_at(&mut self, first: &Numbers, time: u32, replayed: Vec<(u32, u32)>, live_from: u64) {
        self.source = Some(Source {
            seq_in: first.seq,
            seq_out: self.seq_next,
            time: time.wrapping_sub(first.time),
            next: first.seq,
            withheld: Withheld::default(),
            replayed,
            live_from,
        });
        self.picture_id.detach();
        self.tl0_pic_idx.detach();
        self.key_idx.detach();
        self.frame_number.detach();
    }

    /// No source until the next [`attach`](Self::attach); what comes until then is dropped.
    pub fn detach(&mut self) {
        self.source = None;
    }

    /// The packet is so far ahead of the last one that its source has to be attached anew, without a hole.
    ///
    /// Whoever lost so much needs a new start anyway, and a receiver that misses many such holes in a row would guess the
    /// rollover counter wrongly and could never decrypt the slot again.
    pub fn is_out_of_reach(&self, packet: &Numbers) -> bool {
        self.source.as_ref().is_some_and(|source| {
            let ahead = packet.seq.saturating_sub(source.seq_in);
            ahead > (self.seq_next - source.seq_out).saturating_add(source.withheld.count).saturating_add(HOLE_MAX)
        })
    }

    /// The number after the highest one that was sent or withheld. `None` without a source.
    pub fn next_in(&self) -> Option<u64> {
        self.source.as_ref().map(|source| source.next)
    }

    /// The packet is not for this slot: it takes no number. Only for the newest; a late one leaves the gap that it is.
    pub fn withhold(&mut self, packet: &Numbers) {
        let picture = packet.vp8.and_then(|fields| fields.descriptor.picture_id());
        let Some(source) = &mut self.source else { return };
        if packet.seq >= source.next {
            source.next = packet.seq.saturating_add(1);
            source.withheld.add(packet.seq, packet.seq);
            if picture.is_some() && picture != source.withheld.picture {
                source.withheld.picture = picture;
                source.withheld.add_pictures(1);
            }
        }
    }

    /// What is missing up to the packet, which is newer, is not for this slot: so many whole pictures among it.
    pub fn withhold_missing(&mut self, packet: &Numbers, pictures: u16) {
        let Some(source) = &mut self.source else { return };
        if packet.seq > source.next {
            source.withheld.add(source.next, packet.seq - 1);
            source.withheld.add_pictures(pictures);
            source.next = packet.seq;
        }
    }

    /// `None` for a packet from before the switch, whose number belongs to the former source, for one whose place among what
    /// was withheld is forgotten, and for one that has no time between those that were replayed.
    pub fn rewrite(&mut self, packet: &Numbers) -> Option<Rewritten> {
        let source = self.source.as_mut()?;
        let distance = packet.seq.checked_sub(source.seq_in)?;
        let (withheld, pictures) = source.withheld.before(packet.seq)?;
        let seq = source.seq_out.checked_add(distance)?.checked_sub(withheld)?;
        let time = source.time_of(packet)?;
        source.next = source.next.max(packet.seq.saturating_add(1));

        let is_newest = seq >= self.seq_next;
        if is_newest {
            self.seq_next = seq.checked_add(1)?;
            let later = self.newest.is_none_or(|(newest, _)| time.wrapping_sub(newest).cast_signed() > 0);
            if later {
                self.newest = Some((time, packet.arrival));
            }
        }
        let vp8_patch = packet.vp8.and_then(|fields| self.patch_vp8(&fields, pictures, is_newest));
        let vp9_patch = packet.vp9.and_then(|fields| self.patch_vp9(&fields, is_newest));
        let frame_number = packet.frame_number.and_then(|number| {
            let out = self.frame_number.rewrite(number, u16::MAX, is_newest);
            (out != number).then_some(out)
        });
        Some(Rewritten { seq_no: seq.into(), time, vp8_patch, vp9_patch, frame_number })
    }

    /// `pictures`: so many of the source were withheld before this one.
    fn patch_vp8(&mut self, fields: &Vp8Fields, pictures: u16, is_newest: bool) -> Option<Vp8Patch> {
        let descriptor = &fields.descriptor;
        let mut patch = descriptor.patch();
        let mut changed = false;
        if let Some(value) = descriptor.picture_id() {
            // A receiver waits for a picture whose id is left out, so what is withheld has none.
            let mask = if fields.picture_id_is_long { 0x7fff } else { 0x7f };
            let out = self.picture_id.rewrite(value.wrapping_sub(pictures), mask, is_newest);
            patch = patch.picture_id(out);
            changed |= out != value;
        }
        if let Some(value) = descriptor.tl0_pic_idx() {
            let out = self.tl0_pic_idx.rewrite(value.into(), 0xff, is_newest) as u8;
            patch = patch.tl0_pic_idx(out);
            changed |= out != value;
        }
        if let Some(value) = descriptor.key_idx() {
            let out = self.key_idx.rewrite(value.into(), 0x1f, is_newest) as u8;
            patch = patch.key_idx(out);
            changed |= out != value;
        }
        // The values fit by their masks; were one refused, the receiver would be served best by the payload as it is.
        if changed { patch.build().ok() } else { None }
    }

    /// VP9's picture ids keep their gaps: a receiver finds the pattern of temporal layers by them.
    fn patch_vp9(&mut self, fields: &vp9::Descriptor, is_newest: bool) -> Option<(Option<u16>, Option<u8>)> {
        let mask = if fields.picture_id_is_long { 0x7fff } else { 0x7f };
        let picture_id = fields.picture_id.map(|value| self.picture_id.rewrite(value, mask, is_newest));
        let base = fields.tl0_pic_idx.map(|(value, _)| value);
        let tl0_pic_idx = base.map(|value| self.tl0_pic_idx.rewrite(value.into(), 0xff, is_newest) as u8);
        ((picture_id, tl0_pic_idx) != (fields.picture_id, base)).then_some((picture_id, tl0_pic_idx))
    }
}

impl Source {
    /// `None`: there is no time left for the picture among those that were replayed.
    fn time_of(&self, packet: &Numbers) -> Option<u32> {
        if packet.seq < self.live_from {
            let at = self.replayed.partition_point(|(time, _)| packet.time.wrapping_sub(*time).cast_signed() >= 0);
            let before = at.checked_sub(1).and_then(|at| self.replayed.get(at));
            match (before, self.replayed.get(at)) {
                (Some((time, out)), _) if *time == packet.time => return Some(*out),
                // A picture of which nothing had come: as far between the others as it was.
                (Some((time, out)), Some((next, next_out))) => {
                    let (span, room) = (u64::from(next.wrapping_sub(*time)), next_out.wrapping_sub(*out));
                    let share = u64::from(packet.time.wrapping_sub(*time)) * u64::from(room) / span.max(1);
                    return (u64::from(room) > HOLES_MAX).then(|| out.wrapping_add(share as u32));
                }
                _ => {}
            }
        }
        Some(packet.time.wrapping_add(self.time))
    }
}

/// The numbers of a source that a slot was not given on purpose.
#[derive(Debug, Default)]
struct Withheld {
    count: u64,
    /// Whole pictures, by their VP8 picture ids.
    pictures: u16,
    /// The id of the latest of them.
    picture: Option<u16>,
    /// The latest, ascending; at most [`Withheld::RUNS`].
    runs: VecDeque<Run>,
    /// Older ones were dropped from `runs`.
    is_forgetful: bool,
}

/// Numbers in a row, and how many were withheld up to their end.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    last: u64,
    count: u64,
    pictures: u16,
}

impl Withheld {
    /// Two seconds at 60 pictures a second. What is later than that is of no use.
    const RUNS: usize = 128;

    fn add(&mut self, first: u64, last: u64) {
        self.count += last - first + 1;
        match self.runs.back_mut() {
            Some(run) if run.last.checked_add(1) == Some(first) => {
                run.last = last;
                run.count = self.count;
            }
            _ => {
                if self.runs.len() >= Withheld::RUNS {
                    self.runs.pop_front();
                    self.is_forgetful = true;
                }
                self.runs.push_back(Run { first, last, count: self.count, pictures: self.pictures });
            }
        }
    }

    fn add_pictures(&mut self, pictures: u16) {
        self.pictures = self.pictures.wrapping_add(pictures);
        if let Some(run) = self.runs.back_mut() {
            run.pictures = self.pictures;
        }
    }

    /// How many numbers and pictures were withheld before a number. `None`: so was this one, or it is forgotten.
    fn before(&self, seq: u64) -> Option<(u64, u16)> {
        match self.runs.iter().rev().find(|run| run.first <= seq) {
            Some(run) => (seq > run.last).then_some((run.count, run.pictures)),
            None => (!self.is_forgetful).then_some((0, 0)),
        }
    }
}

/// A small wrapping counter whose first value after a switch is one more than the last before.
#[derive(Debug, Default)]
struct Counter {
    /// The value in the newest packet sent.
    last: Option<u16>,
    /// To be added to the present source's values; unknown until the first one comes.
    offset: Option<u16>,
}

impl Counter {
    fn detach(&mut self) {
        self.offset = None;
    }

    fn rewrite(&mut self, value: u16, mask: u16, is_newest: bool) -> u16 {
        let offset = *self.offset.get_or_insert_with(|| match self.last {
            Some(last) => last.wrapping_add(1).wrapping_sub(value),
            None => 0,
        });
        let out = value.wrapping_add(offset) & mask;
        if is_newest {
            self.last = Some(out);
        }
        out
    }
}

/// A duration in units of a media clock: at least 1, so that time never stands still at a switch.
fn ticks(elapsed: Duration, clock_rate: u32) -> u32 {
    let ticks = elapsed.as_micros().saturating_mul(clock_rate.into()) / 1_000_000;
    u32::try_from(ticks).unwrap_or(u32::MAX).clamp(1, TICKS_MAX)
}

/// First sequence numbers are below. Higher, and a packet lost at the start could make a receiver guess the rollover
/// counter wrongly.
const SEQ_FIRST_MAX: u64 = 1 << 15;
/// The largest hole in a slot's sequence numbers: a receiver that misses 63 of the largest in a row can still follow.
const HOLE_MAX: u64 = 512;
/// How far replays may take time ahead of the clock. More spaces their pictures evenly where there are many of them, and is
/// paid for in lip sync.
const LEAD_MS_MAX: u32 = 250;
/// A slot that was quiet for longer jumps only so far (3.3 hours at 90 kHz): half the range and more would look like the past.
const TICKS_MAX: u32 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sfu::codec;
    use str0m::format::Codec;
    use str0m::rtp::Vp8Descriptor;

    struct Bench {
        start: Instant,
        rewriter: Rewriter,
    }

    impl Bench {
        fn new() -> Self {
            Bench { start: Instant::now(), rewriter: Rewriter::new(&mut fastrand::Rng::with_seed(7)) }
        }

        fn numbers(&self, seq: u64, time: u32, ms: u64) -> Numbers {
            let arrival = self.start + Duration::from_millis(ms);
            Numbers { seq, time, clock_rate: 90_000, arrival, vp8: None, vp9: None, frame_number: None }
        }

        fn attach(&mut self, seq: u64, time: u32, ms: u64) -> (u64, u32) {
            self.rewriter.attach(&self.numbers(seq, time, ms));
            self.send(seq, time, ms).expect("the first packet of a source is sent")
        }

        fn send(&mut self, seq: u64, time: u32, ms: u64) -> Option<(u64, u32)> {
            let out = self.rewriter.rewrite(&self.numbers(seq, time, ms))?;
            Some((*out.seq_no, out.time))
        }
    }

    #[test]
    fn starts_below_half_the_wire_range() {
        for seed in 0..2000 {
            let rewriter = Rewriter::new(&mut fastrand::Rng::with_seed(seed));
            assert!((1..1 << 15).contains(&rewriter.seq_next));
        }
    }

    #[test]
    fn numbers_of_a_source_keep_their_distance_over_many_wraps() {
        let mut bench = Bench::new();
        // The source is far into its own numbering, and its timestamps wrap during the run.
        let (seq_in, time_in) = (0xffff_fff0_u64, u32::MAX - 50_000);
        let (seq_out, time_out) = bench.attach(seq_in, time_in, 0);
        for n in 1..200_000_u64 {
            let (seq, time) = bench.send(seq_in + n, time_in.wrapping_add(n as u32 * 3000), n * 33).unwrap();
            assert_eq!(seq, seq_out + n);
            assert_eq!(SeqNo::from(seq).as_u16(), (seq_out as u16).wrapping_add(n as u16));
            assert_eq!(time, time_out.wrapping_add(n as u32 * 3000));
        }
    }

    #[test]
    fn gaps_and_late_packets() {
        let mut bench = Bench::new();
        let (first, _) = bench.attach(100, 0, 0);
        assert_eq!(bench.send(105, 3000, 33).unwrap().0, first + 5);
        assert_eq!(bench.send(103, 0, 40).unwrap().0, first + 3, "a late packet has its own number");
        assert_eq!(bench.send(106, 3000, 41).unwrap().0, first + 6, "and does not move what follows");
        assert_eq!(bench.send(99, 0, 42), None, "from before the first");
    }

    #[test]
    fn holes_are_bounded() {
        let mut bench = Bench::new();
        bench.attach(100, 0, 0);
        let out_of_reach = |bench: &Bench, seq: u64| bench.rewriter.is_out_of_reach(&bench.numbers(seq, 0, 0));
        for (seq, expect) in [(0, false), (101, false), (101 + 512, false), (102 + 512, true), (u64::MAX, true)] {
            assert_eq!(out_of_reach(&bench, seq), expect, "{seq}");
        }
        bench.send(101 + 512, 0, 0);
        assert!(!out_of_reach(&bench, 102 + 512 + 512) && out_of_reach(&bench, 103 + 512 + 512));
        bench.rewriter.detach();
        assert!(!out_of_reach(&bench, u64::MAX));
    }

    #[test]
    fn a_switch_continues_sequence_and_time() {
        let mut bench = Bench::new();
        let (first, time) = bench.attach(100, 1_000_000, 0);
        bench.send(101, 1_003_000, 33);
        bench.send(110, 1_006_000, 66);
        // Twenty milliseconds after the newest packet of the old source.
        assert_eq!(bench.attach(7, 5, 86), (first + 11, time + 6000 + 1800));
        assert_eq!(bench.send(6, 5, 87), None, "older than the switch");
        assert_eq!(bench.send(8, 5 + 3000, 119), Some((first + 12, time + 6000 + 1800 + 3000)));
        // At the same moment time still moves.
        assert_eq!(bench.attach(50, 77, 119), (first + 13, time + 6000 + 1800 + 3000 + 1));
    }

    #[test]
    fn a_late_packet_does_not_take_time_back_before_a_switch() {
        let mut bench = Bench::new();
        let (first, time) = bench.attach(0, 0, 0);
        bench.send(2, 6000, 66);
        bench.send(1, 3000, 70);
        // A newer packet with an older time (a reordered picture) does not either.
        bench.send(3, 4500, 76);
        assert_eq!(bench.attach(9, 9, 76), (first + 4, time.wrapping_add(6000 + 900)));
    }

    #[test]
    fn a_switch_across_the_timestamp_wrap() {
        let mut bench = Bench::new();
        bench.rewriter.time_first = u32::MAX - 10;
        assert_eq!(bench.attach(0, 500, 0).1, u32::MAX - 10);
        assert_eq!(bench.attach(0, 900, 1).1, 79);
        assert_eq!(bench.attach(0, 900, 2).1, 169);
    }

    #[test]
    fn a_long_silence_never_looks_like_the_past() {
        let mut bench = Bench::new();
        let (_, time) = bench.attach(0, 0, 0);
        let (_, later) = bench.attach(0, 0, 20 * 3600 * 1000);
        assert_eq!(later.wrapping_sub(time), TICKS_MAX);
    }

    #[test]
    fn detached_means_nothing_is_sent() {
        let mut bench = Bench::new();
        assert_eq!(bench.send(1, 0, 0), None);
        bench.attach(1, 0, 0);
        bench.rewriter.detach();
        assert_eq!(bench.send(2, 0, 0), None);
    }

    /// Pictures that come only after the others were replayed have times of their own between those, or are left out.
    #[test]
    fn what_comes_after_a_replay_has_a_time_of_its_own() {
        for lead in [0, 24_000] {
            let mut bench = Bench::new();
            bench.rewriter.lead = lead;
            bench.attach(1, 0, 0);
            // Pictures 1, 2, 5 and 6 are there.
            let times = [3000, 6000, 15_000, 18_000];
            let (first, newest) = (bench.numbers(11, 3000, 100), bench.numbers(16, 18_000, 100));
            bench.rewriter.attach_replay(&first, &times, &newest);
            let of = |bench: &mut Bench, n: u32| bench.send(10 + u64::from(n), n * 3000, 100).map(|(_, time)| time);
            let kept: Vec<u32> = [1, 2, 5, 6].into_iter().filter_map(|n| of(&mut bench, n)).collect();
            assert!(kept.is_sorted_by(|a, b| b.wrapping_sub(*a).cast_signed() > 0) && kept.len() == 4);
            let late: Vec<u32> = [3, 4].into_iter().filter_map(|n| of(&mut bench, n)).collect();
            match lead {
                0 => assert!(
                    [kept[1], late[0], late[1], kept[2]].is_sorted_by(|a, b| b.wrapping_sub(*a).cast_signed() > 0)
                ),
                _ => assert!(late.is_empty(), "no room"),
            }
        }
    }

    #[test]
    fn absurd_numbers_are_refused_not_panicked_at() {
        let mut bench = Bench::new();
        bench.attach(0, 0, 0);
        assert_eq!(bench.send(u64::MAX, 0, 0), None);
    }

    /// Descriptor with all fields; `long` picture ids have 15 bits.
    fn vp8(long: bool, picture_id: u16, tl0_pic_idx: u8, key_idx: u8) -> Vec<u8> {
        let mut payload = vec![0x90, 0xf0];
        if long {
            payload.extend([0x80 | (picture_id >> 8) as u8, picture_id as u8]);
        } else {
            payload.push(picture_id as u8);
        }
        payload.extend([tl0_pic_idx, 0x60 | key_idx, 0x00, 0xaa]);
        payload
    }

    /// What a receiver reads after the patch.
    fn patched(payload: &[u8], patch: Option<Vp8Patch>) -> (Option<u16>, Option<u8>, Option<u8>) {
        let payload = crate::sfu::tests::apply(patch, payload);
        let descriptor = Vp8Descriptor::parse(&payload).unwrap();
        (descriptor.picture_id(), descriptor.tl0_pic_idx(), descriptor.key_idx())
    }

    #[test]
    fn vp8_counters_continue_and_wrap() {
        let mut bench = Bench::new();
        let mut send = |attach: bool, seq: u64, payload: &[u8]| {
            let mut numbers = bench.numbers(seq, seq as u32 * 3000, seq);
            numbers.vp8 = codec::inspect(Codec::Vp8, payload).unwrap().vp8;
            if attach {
                bench.rewriter.attach(&numbers);
            }
            let out = bench.rewriter.rewrite(&numbers).unwrap();
            patched(payload, out.vp8_patch)
        };
        // A switch before it?, sequence number, payload, counters that go out.
        let rows = [
            // The first source passes as it is.
            (true, 10, vp8(true, 0x7ffd, 254, 30), (0x7ffd, 254, 30)),
            (false, 11, vp8(true, 0x7ffe, 255, 30), (0x7ffe, 255, 30)),
            // A switch: one more each, whatever the source counts.
            (true, 500, vp8(true, 3, 7, 1), (0x7fff, 0, 31)),
            (false, 502, vp8(true, 5, 9, 2), (1, 2, 0)),
            (false, 501, vp8(true, 4, 8, 1), (0, 1, 31)),
            // A late packet did not count as the last one.
            (true, 9, vp8(true, 0x7fff, 0, 0), (2, 3, 1)),
            (false, 10, vp8(true, 0, 1, 0), (3, 4, 1)),
            // A source with short picture ids.
            (true, 1, vp8(false, 0x7f, 200, 5), (4, 5, 2)),
            (false, 2, vp8(false, 0, 201, 5), (5, 6, 2)),
            // And back.
            (true, 1, vp8(true, 0x100, 200, 5), (6, 7, 3)),
        ];
        for (n, (attach, seq, payload, (picture_id, tl0, key))) in rows.into_iter().enumerate() {
            let expect = (Some(picture_id), Some(tl0), Some(key));
            assert_eq!(send(attach, seq, &payload), expect, "row {n}");
        }
        // A source without counters leaves them alone, and they continue afterwards.
        assert_eq!(send(true, 1, &[0x10, 0x00, 0xaa]), (None, None, None));
        assert_eq!(send(true, 1, &vp8(true, 9, 9, 9)), (Some(7), Some(8), Some(4)));
    }

    #[test]
    fn an_untouched_payload_has_no_patch() {
        let mut bench = Bench::new();
        let payload = vp8(true, 1, 2, 3);
        let mut numbers = bench.numbers(1, 0, 0);
        numbers.vp8 = codec::inspect(Codec::Vp8, &payload).unwrap().vp8;
        bench.rewriter.attach(&numbers);
        assert!(bench.rewriter.rewrite(&numbers).unwrap().vp8_patch.is_none());
    }
}
