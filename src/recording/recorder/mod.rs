//! The machine around all the others: what happened in a call goes in, blocks come out in the order in which to write them.
//!
//! Driven by whoever writes: after each batch of items, and when [`Recorder::poll_timeout`] says so, it calls
//! [`Recorder::handle_timeout`], and takes blocks, key-frame requests and notes until there are none. The clock that blocks are
//! put by is the arrival of packets; `now` only says what has been waited for long enough.
//!
//! A pause is cut out: what is waiting is written, the recording's time stands still, and nothing from before its end is
//! written after it. Sound goes on at once then, pictures with a key frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use str0m::media::MediaKind;

use super::clock::Clock;
use super::feed::{Arrival, Item, Packet, Report, TrackInfo};
use super::interleave::Interleaver;
use super::{Block, Note, Quality, jitter};

mod track;

#[cfg(test)]
mod tests;

use track::{Output, Track};

/// How a call is recorded.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a missing packet is waited for.
    pub reorder: Duration,
    /// How old the last key frame of a track becomes until another one is asked for.
    pub keyframe_interval: Duration,
    /// How old a block may become while slower tracks are waited for. A packet that was waited for is that much older than
    /// `reorder` when it comes, by a batch.
    pub hold: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config { reorder: jitter::WAIT, keyframe_interval: Duration::from_secs(10), hold: Duration::from_millis(650) }
    }
}

/// Makes blocks of one call.
#[derive(Debug)]
pub struct Recorder {
    config: Config,
    origin: Instant,
    clock: Clock,
    /// By number.
    tracks: Vec<Slot>,
    out: Output,
    paused: Option<Instant>,
    is_finished: bool,
    /// When some track is to be asked for a key frame, at the earliest.
    keyframes_due: Option<Instant>,
}

#[derive(Debug)]
enum Slot {
    Unknown,
    Live(Box<Track>),
    Removed(Quality),
}

impl Recorder {
    /// `now`: the recording's time 0.
    pub fn new(now: Instant, config: Config) -> Self {
        let hold_ns = u64::try_from(config.hold.as_nanos()).unwrap_or(u64::MAX);
        Recorder {
            config,
            origin: now,
            clock: Clock::new(now),
            tracks: Vec::new(),
            out: Output {
                interleaver: Interleaver::new(hold_ns),
                frames: VecDeque::new(),
                notes: VecDeque::new(),
                number: 1,
                paused_ns: 0,
                floor_ns: 0,
                position_ns: 0,
            },
            paused: None,
            is_finished: false,
            keyframes_due: None,
        }
    }

    /// Something that happened, in the order in which it did. What is about people, not media, does nothing here.
    pub fn handle_item(&mut self, now: Instant, item: &Item) {
        if self.is_finished {
            return;
        }
        self.advance(now);
        match item {
            Item::Packet(packet) => self.handle_packet(now, packet),
            Item::Arrival(Arrival { track, ssrc, time, clock_rate, arrival }) => {
                if let Some(track) = live(&mut self.tracks, *track) {
                    self.clock.handle_arrival(&mut track.clock, *ssrc, *time, *clock_rate, *arrival);
                }
            }
            Item::Report(report) => {
                if let Some(track) = live(&mut self.tracks, report.track) {
                    let report = Report { ntp: track.heard_at(report.ntp), ..*report };
                    self.clock.handle_report(&mut track.clock, &report);
                }
            }
            Item::TrackAdded { track, .. } => self.add(now, track),
            Item::TrackRemoved { track, .. } => self.remove(now, *track),
            Item::Muted { track, muted, .. } => {
                if let Some(track) = live(&mut self.tracks, *track) {
                    track.set_muted(now, *muted, &mut self.out);
                    self.keyframes_due = Some(now);
                }
            }
            Item::Overflow { track, packets, .. } => {
                if let Some(track) = live(&mut self.tracks, *track) {
                    track.on_overflow(*packets);
                }
            }
            Item::Left { user, .. } => self.clock.forget(user),
            Item::Paused { at } => self.pause(now, *at),
            Item::Resumed { at } => self.resume(now, *at),
            Item::Finish { at, .. } => self.finish(now, *at),
            Item::Joined { .. } | Item::Speakers { .. } => {}
        }
    }

    /// Time has passed: holes are given up, silence is written, blocks that waited long enough leave.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if self.paused.is_some() || self.is_finished {
            return;
        }
        for track in all(&mut self.tracks) {
            if track.handle_timeout(now, &self.clock, &mut self.out) {
                self.keyframes_due = Some(now);
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and ask again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.paused.is_some() || self.is_finished {
            return None;
        }
        let at = |ns: i64| self.origin + Duration::from_nanos((ns + self.out.paused_ns).max(0) as u64);
        let mut next = self.out.interleaver.due_ns().map(|ns| at(i64::try_from(ns).unwrap_or(i64::MAX / 2)));
        let mut sooner = |other: Option<Instant>| next = [next, other].into_iter().flatten().min();
        for slot in &self.tracks {
            let Slot::Live(track) = slot else { continue };
            sooner(track.jitter.poll_timeout());
            sooner(track.fill_ns(self.out.position_ns).map(at));
            sooner(track.first_ns(&self.clock).map(at));
        }
        sooner(self.keyframes_due);
        next
    }

    /// The block to be written next. `None`: none before more items or the next timeout.
    pub fn poll_block(&mut self) -> Option<Block> {
        self.out.interleaver.pop(self.out.position_ns.max(0) as u64)
    }

    /// The number of a track of which a key frame is wanted.
    pub fn poll_keyframe_request(&mut self, now: Instant) -> Option<u32> {
        if self.keyframes_due.is_none_or(|due| due > now) || self.paused.is_some() || self.is_finished {
            return None;
        }
        let interval = self.config.keyframe_interval;
        let mut next: Option<Instant> = None;
        for track in all(&mut self.tracks).filter(|track| track.kind == MediaKind::Video && !track.is_muted) {
            if track.keyframes.take(now, interval) {
                return Some(track.source);
            }
            let due = track.keyframes.due(interval).filter(|due| *due > now);
            next = [next, due].into_iter().flatten().min();
        }
        self.keyframes_due = next;
        None
    }

    /// Something to be remembered about what was recorded.
    pub fn poll_note(&mut self) -> Option<Note> {
        self.out.notes.pop_front()
    }

    /// How well a track was recorded, or is being. All zero for one that is not known.
    pub fn quality(&self, track: u32) -> Quality {
        match self.tracks.get(track as usize) {
            Some(Slot::Live(track)) => track.quality(),
            Some(Slot::Removed(quality)) => *quality,
            Some(Slot::Unknown) | None => Quality::default(),
        }
    }

    /// Time in the recording, without what was paused.
    pub fn position_ns(&self, now: Instant) -> u64 {
        self.position(now).max(0) as u64
    }

    /// Whether everything is out, after [`Item::Finish`].
    pub fn is_finished(&self) -> bool {
        self.is_finished && self.out.interleaver.is_empty()
    }

    fn position(&self, now: Instant) -> i64 {
        self.clock.ns(self.paused.unwrap_or(now)) - self.out.paused_ns
    }

    fn advance(&mut self, now: Instant) {
        self.out.position_ns = self.out.position_ns.max(self.position(now));
    }

    fn handle_packet(&mut self, now: Instant, packet: &Packet) {
        let Some(track) = live(&mut self.tracks, packet.track) else { return };
        self.clock.handle_packet(&mut track.clock, packet.ssrc, packet.time, packet.clock_rate, packet.arrival);
        if self.paused.is_none() && track.handle_packet(now, packet, &self.clock, &mut self.out) {
            self.keyframes_due = Some(now);
        }
    }

    fn add(&mut self, now: Instant, info: &TrackInfo) {
        let index = info.number as usize;
        if index > TRACKS_MAX {
            return;
        }
        if index >= self.tracks.len() {
            self.tracks.resize_with(index + 1, || Slot::Unknown);
        }
        if let Slot::Unknown = self.tracks[index] {
            let clock = self.clock.add(&info.user);
            self.tracks[index] = Slot::Live(Box::new(Track::new(now, info, clock, &self.config)));
            self.keyframes_due = Some(now);
        }
    }

    fn remove(&mut self, now: Instant, number: u32) {
        let Some(track) = live(&mut self.tracks, number) else { return };
        if self.paused.is_none() {
            track.drain(now, &self.clock, &mut self.out);
        }
        track.end(self.out.position_ns, false, &mut self.out);
        let quality = track.quality();
        self.out.interleaver.set_holds(number, false);
        let slot = std::mem::replace(&mut self.tracks[number as usize], Slot::Removed(quality));
        if let Slot::Live(track) = slot {
            self.clock.remove(track.clock);
        }
    }

    fn pause(&mut self, now: Instant, at: Instant) {
        if self.paused.is_some() {
            return;
        }
        self.write_all(now, at);
        self.paused = Some(at);
        self.out.position_ns = self.position(at).max(0);
    }

    fn resume(&mut self, now: Instant, at: Instant) {
        let Some(paused) = self.paused.take() else { return };
        self.out.paused_ns += i64::try_from(at.saturating_duration_since(paused).as_nanos()).unwrap_or(0);
        self.out.floor_ns = self.position(at);
        self.out.position_ns = self.position(now).max(self.out.floor_ns);
        for track in all(&mut self.tracks) {
            track.restart(now);
        }
        self.keyframes_due = Some(now);
    }

    fn finish(&mut self, now: Instant, at: Instant) {
        if self.paused.is_none() {
            self.write_all(now, at);
        }
        self.is_finished = true;
    }

    /// Everything that waits goes out, and sound lasts until now.
    fn write_all(&mut self, now: Instant, at: Instant) {
        let position_ns = self.position(at);
        for track in all(&mut self.tracks) {
            track.drain(now, &self.clock, &mut self.out);
            track.end(position_ns, true, &mut self.out);
        }
        self.out.interleaver.flush();
    }
}

fn live(tracks: &mut [Slot], number: u32) -> Option<&mut Track> {
    match tracks.get_mut(number as usize) {
        Some(Slot::Live(track)) => Some(track),
        _ => None,
    }
}

fn all(tracks: &mut [Slot]) -> impl Iterator<Item = &mut Track> {
    tracks.iter_mut().filter_map(|slot| match slot {
        Slot::Live(track) => Some(&mut **track),
        _ => None,
    })
}

/// Tracks of one recording, removed ones included; more are not recorded. As many as a file can number.
const TRACKS_MAX: usize = 16_382;
