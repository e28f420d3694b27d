//! A model of what a browser does with the video of one m-line: puts frames together, decodes what can be decoded, shows it,
//! and asks for a key frame when it is stuck.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::payload::{NONE, Source, Tag};

/// A picture on the screen.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    pub at: Duration,
    pub client: u32,
    pub source: Source,
    pub encoding: u8,
    pub spatial: u8,
    pub temporal: u8,
    pub width: u16,
    pub picture: u32,
    pub sent: Duration,
}

/// The decoder of one m-line.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Incomplete frames and complete ones that cannot be decoded, by the number of their first packet.
    waiting: BTreeMap<u64, Assembly>,
    /// What is being decoded, and the frames of it that were.
    stream: Option<(u32, Source, u8)>,
    decoded: BTreeSet<u32>,
    /// The number of the first packet of the latest decoded frame.
    newest: Option<u64>,
    pub shown: Vec<Shown>,
    pub decoded_frames: u64,
    /// Since when the line should show something; told from outside.
    expected_since: Option<Duration>,
    last_packet: Option<Duration>,
    /// When a key frame was asked for.
    pub asked: Vec<Duration>,
    /// The last distances between pictures.
    distances: Vec<Duration>,
    freezes: Vec<(Duration, Duration)>,
    /// Of the latest picture, while nothing was said that explains a gap.
    running_since: Option<Duration>,
}

#[derive(Debug)]
struct Assembly {
    tag: Tag,
    got: BTreeSet<u8>,
    complete_at: Option<Duration>,
}

impl Decoder {
    /// The line carries something else from now on, or nothing: a gap is no freeze.
    pub fn expect_another(&mut self, now: Duration, carries: bool) {
        self.running_since = None;
        self.distances.clear();
        self.expected_since = carries.then_some(now);
    }

    /// Another connection: numbers begin anew.
    pub fn reset(&mut self) {
        self.waiting.clear();
        self.stream = None;
        self.decoded.clear();
        self.newest = None;
    }

    /// One packet, with its number on the line.
    pub fn handle_packet(&mut self, now: Duration, seq: u64, tag: &Tag) {
        self.last_packet = Some(now);
        let first = seq.saturating_sub(u64::from(tag.index));
        if self.newest.is_some_and(|newest| first <= newest) {
            return;
        }
        let assembly = self.waiting.entry(first).or_insert_with(|| Assembly {
            tag: *tag,
            got: BTreeSet::new(),
            complete_at: None,
        });
        assembly.got.insert(tag.index);
        if assembly.got.len() == usize::from(tag.count) && assembly.complete_at.is_none() {
            assembly.complete_at = Some(now);
            self.decode(now);
        }
        while self.waiting.len() > WAITING_MAX {
            self.waiting.pop_first();
        }
    }

    fn decode(&mut self, now: Duration) {
        while let Some((first, tag)) = self.next() {
            self.newest = Some(first);
            self.waiting.retain(|at, _| *at > first);
            if tag.key {
                self.decoded.clear();
                self.stream = Some(tag.stream());
            }
            self.decoded.insert(tag.frame);
            if self.decoded.len() > 300 {
                self.decoded.pop_first();
            }
            self.decoded_frames += 1;
            self.show(now, &tag);
        }
    }

    /// The first frame in order that can be decoded.
    fn next(&self) -> Option<(u64, Tag)> {
        let ready = |assembly: &Assembly| {
            let tag = &assembly.tag;
            let has = |needs: u32| needs == NONE || self.decoded.contains(&needs);
            assembly.complete_at.is_some()
                && (tag.key || self.stream == Some(tag.stream()) && tag.needs.iter().all(|n| has(*n)))
        };
        self.waiting.iter().find(|(_, a)| ready(a)).map(|(first, a)| (*first, a.tag))
    }

    fn show(&mut self, now: Duration, tag: &Tag) {
        let shown = Shown {
            at: now,
            client: tag.client,
            source: tag.source,
            encoding: tag.encoding,
            spatial: tag.spatial,
            temporal: tag.temporal,
            width: tag.width,
            picture: tag.picture,
            sent: Duration::from_millis(u64::from(tag.sent_ms)),
        };
        // A higher spatial layer of the picture that is shown.
        if let Some(last) = self.shown.last_mut()
            && (last.client, last.source, last.encoding, last.picture)
                == (tag.client, tag.source, tag.encoding, tag.picture)
        {
            *last = Shown { at: last.at, ..shown };
            return;
        }
        if let Some(since) = self.running_since {
            let distance = now - since;
            if distance > self.patience() {
                self.freezes.push((since, now));
            }
            self.distances.push(distance);
            if self.distances.len() > 30 {
                self.distances.remove(0);
            }
        }
        self.running_since = Some(now);
        self.shown.push(shown);
    }

    /// A longer gap is a freeze (webrtc-stats, `freezeCount`).
    fn patience(&self) -> Duration {
        let mean = match self.distances.len() {
            0 => Duration::from_millis(33),
            count => self.distances.iter().sum::<Duration>() / count as u32,
        };
        (mean * 3).max(mean + Duration::from_millis(150))
    }

    /// How long the picture stood still in this time.
    pub fn frozen(&self, from: Duration, until: Duration) -> Duration {
        let running = self.running_since.filter(|since| until > *since + self.patience()).map(|since| (since, until));
        let freezes = self.freezes.iter().copied().chain(running);
        freezes.map(|(start, end)| end.min(until).saturating_sub(start.max(from))).sum()
    }

    /// Whether the receiver asks for a key frame now: soon when it has nothing, late when it waits for a frame that may still
    /// come (libwebrtc waits 200 ms and 3 s). Only while packets come.
    pub fn wants_keyframe(&mut self, now: Duration) -> bool {
        if self.last_packet.is_none_or(|at| now > at + KEYFRAME_WAIT) {
            return false;
        }
        let (since, wait) = match (self.running_since, self.expected_since) {
            (Some(since), _) => (since, FRAME_WAIT),
            (None, Some(since)) => (since, KEYFRAME_WAIT),
            (None, None) => return false,
        };
        let since = self.asked.last().map_or(since + wait, |asked| (since + wait).max(*asked + KEYFRAME_WAIT));
        if now < since {
            return false;
        }
        self.asked.push(now);
        true
    }

    /// Pictures shown from this time on.
    pub fn shown_since(&self, from: Duration) -> &[Shown] {
        let start = self.shown.partition_point(|s| s.at < from);
        &self.shown[start..]
    }

    /// Whole frames that cannot be decoded although so much time has passed.
    pub fn stuck(&self, now: Duration, patience: Duration) -> Option<&Tag> {
        let old = |a: &Assembly| a.complete_at.is_some_and(|at| now > at + patience);
        self.waiting.values().find(|a| old(a)).map(|a| &a.tag)
    }
}

const WAITING_MAX: usize = 300;
const KEYFRAME_WAIT: Duration = Duration::from_millis(200);
const FRAME_WAIT: Duration = Duration::from_secs(3);
