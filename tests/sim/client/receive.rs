//! What arrives at a client, and whether it may look like that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use str0m::format::Codec;
use str0m::media::{KeyframeRequestKind, MediaKind, Mid};
use str0m::rtp::RtpPacket;

use super::Client;
use crate::decoder::{Decoder, Shown};
use crate::payload::{self, NONE, Source, Tag};

/// A packet that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Duration,
    pub mid: Mid,
    pub seq: u64,
    pub time: u32,
    pub marker: bool,
    pub is_vp9: bool,
    /// Picture id and TL0PICIDX.
    pub counters: Option<(u16, u8)>,
    pub tag: Tag,
}

/// What came from one track of one client.
#[derive(Debug, Default)]
pub struct Heard {
    pub packets: u64,
    /// Packets per frame of the first encoding.
    pub frames: BTreeMap<u32, FrameSeen>,
    /// Frames of audio by the time they were first there: on their own, or as redundancy of a later one.
    pub audio: BTreeMap<u32, Duration>,
    pub audio_alone: BTreeMap<u32, Duration>,
    pub first_at: Duration,
    pub last_at: Duration,
}

#[derive(Debug, Default)]
pub struct FrameSeen {
    got: BTreeSet<u8>,
    count: u8,
}

impl FrameSeen {
    pub fn is_complete(&self) -> bool {
        self.got.len() == usize::from(self.count)
    }
}

/// What the server said that a line carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assigned {
    pub user: Option<String>,
    pub source: Option<Source>,
}

/// An m-line as receiver.
#[derive(Default)]
pub(super) struct Line {
    pub assigned: Vec<(Duration, Assigned)>,
    pub recent: BTreeMap<u64, Seen>,
    /// The lowest number of the first half second; `None` again once it was judged.
    pub first: Option<Seen>,
    pub decoder: Decoder,
    /// `layer-changed` said that nothing is sent.
    pub paused: bool,
    /// When that was said, and when not.
    pub pauses: Vec<(Duration, bool)>,
}

/// Of the audio that was sent, shares of 1.
#[derive(Debug, Clone, Copy)]
pub struct AudioShare {
    /// With what redundancy brought back.
    pub delivered: f64,
    /// Packets alone.
    pub alone: f64,
    /// What in-band FEC could rebuild besides, if the publisher's encoder made any: a packet brings that of the one before.
    pub with_fec: f64,
    /// The longest time without any.
    pub gap: Duration,
}

impl Line {
    fn carries(&self) -> bool {
        self.assigned.last().is_some_and(|(_, a)| a.user.is_some()) && !self.paused
    }
}

impl Client {
    pub(super) fn assign(&mut self, now: Duration, mid: Mid, assigned: Assigned) {
        let line = self.lines.entry(mid).or_default();
        if line.assigned.last().is_none_or(|(_, before)| *before != assigned) {
            line.paused = false;
            line.assigned.push((now, assigned));
            line.decoder.expect_another(now, line.carries());
        }
    }

    pub(super) fn pause(&mut self, now: Duration, mid: Mid, paused: bool) {
        let line = self.lines.entry(mid).or_default();
        if line.paused != paused {
            line.paused = paused;
            line.pauses.push((now, paused));
            line.decoder.expect_another(now, line.carries());
        }
    }

    pub(super) fn receive(&mut self, now: Duration, packet: RtpPacket) {
        let Some(rtc) = &mut self.rtc else { return };
        let Some(mid) = rtc.direct_api().stream_rx(&packet.header.ssrc).map(|s| s.mid()) else { return };
        let pt = packet.header.payload_type;
        let params = rtc.codec_config().find(|p| p.pt() == pt || p.red() == Some(pt)).copied();
        let is_red = params.is_some_and(|p| p.red() == Some(pt));
        let is_vp9 = params.is_some_and(|p| p.spec().codec == Codec::Vp9);
        let inner = params.map_or(0, |p| *p.pt());
        let blocks = match is_red {
            true => payload::red_blocks(&packet.payload),
            false => Some(vec![(inner, 0, &packet.payload[..])]),
        };
        let tags: Option<Vec<Tag>> = blocks
            .filter(|blocks| blocks.iter().all(|(pt, ..)| *pt == inner))
            .and_then(|blocks| blocks.iter().map(|(_, _, payload)| Tag::read(payload)).collect());
        let Some((tag, older)) = tags.as_deref().and_then(|tags| tags.split_last()) else {
            self.violations.push(format!("a payload of {} octets is none of ours", packet.payload.len()));
            return;
        };
        let (tag, marker) = (*tag, packet.header.marker);
        let counters = if tag.is_video() { payload::counters(is_vp9, &packet.payload) } else { None };
        let time = packet.header.timestamp;
        let seen = Seen { at: now, mid, seq: *packet.seq_no, time, marker, is_vp9, counters, tag };
        self.note_heard(now, &tag, older);
        let line = self.lines.entry(mid).or_default();
        if let Some(other) = line.recent.get(&seen.seq)
            && other.tag != seen.tag
        {
            self.violations.push(format!("one sequence number, two payloads: {other:?} and {seen:?}"));
        }
        if let Some((_, before)) = line.recent.range(..seen.seq).next_back()
            && before.seq + 1 == seen.seq
        {
            self.violations.extend(follows(before, &seen));
        }
        if let Some((_, after)) = line.recent.range(seen.seq + 1..).next()
            && after.seq == seen.seq + 1
        {
            self.violations.extend(follows(&seen, after));
        }
        if line.recent.is_empty() || line.first.as_ref().is_some_and(|first| seen.seq < first.seq) {
            line.first = Some(seen.clone());
        }
        line.recent.insert(seen.seq, seen.clone());
        if line.recent.len() > 1500 {
            line.recent.pop_first();
        }
        if tag.is_video() {
            line.decoder.handle_packet(now, seen.seq, &tag);
        }
        self.arrived.push(seen.clone());
        self.unexplained.push(seen);
    }

    fn note_heard(&mut self, now: Duration, tag: &Tag, older: &[Tag]) {
        let heard = self.heard.entry((tag.client, tag.source)).or_default();
        if heard.packets == 0 {
            heard.first_at = now;
        }
        heard.packets += 1;
        heard.last_at = now;
        if tag.encoding == 0 && tag.spatial == 0 {
            let frame = heard.frames.entry(tag.frame).or_default();
            frame.count = tag.count;
            frame.got.insert(tag.index);
        }
        if !tag.is_video() {
            heard.audio_alone.entry(tag.frame).or_insert(now);
            heard.audio.entry(tag.frame).or_insert(now);
            for tag in older {
                heard.audio.entry(tag.frame).or_insert(now);
            }
        }
    }

    /// Looks at every line for a picture that is missing, and asks for a key frame as browsers do.
    pub(super) fn check_decoders(&mut self, now: Duration) {
        let stuck = self.lines.iter_mut().filter_map(|(mid, l)| l.decoder.wants_keyframe(now).then_some(*mid));
        for mid in stuck.collect::<Vec<_>>() {
            self.pli(mid);
        }
    }

    pub(super) fn pli(&mut self, mid: Mid) {
        if let Some(rtc) = &mut self.rtc
            && rtc.media(mid).is_some_and(|m| m.kind() == MediaKind::Video)
            && let Some(stream) = rtc.direct_api().stream_rx_by_mid(mid, None)
        {
            stream.request_keyframe(KeyframeRequestKind::Pli);
        }
    }

    /// What comes on a mid is from the user whom the server named for it, give or take the time that word and media need.
    /// `is_fair`: nothing was ever lost in this world.
    pub fn judge_names(&mut self, now: Duration, is_fair: bool, name_of: impl Fn(u32) -> String) {
        for (mid, line) in &mut self.lines {
            if let Some(first) = line.first.take_if(|first| now > first.at + Duration::from_millis(500))
                && first.tag.is_video()
                && self.lossless
                && !(first.tag.key && first.tag.is_first())
            {
                self.violations.push(format!("a line starts within a picture: {first:?}"));
            }
            if is_fair && let Some(tag) = line.decoder.stuck(now, Duration::from_secs(1)) {
                self.violations.push(format!("a frame on {mid} cannot be decoded: {tag:?}"));
            }
        }
        let (patience, lines, violations) = (self.patience, &self.lines, &mut self.violations);
        self.unexplained.retain(|seen| {
            let user = name_of(seen.tag.client);
            let assigned = lines.get(&seen.mid).map(|l| &l.assigned[..]).unwrap_or_default();
            let explained = assigned.iter().enumerate().any(|(i, (from, what))| {
                let until = assigned.get(i + 1).map_or(Duration::MAX, |next| next.0);
                what.user.as_deref() == Some(&user)
                    && what.source.is_none_or(|source| source == seen.tag.source)
                    && seen.at + patience >= *from
                    && seen.at <= until.saturating_add(patience)
            });
            if !explained && now > seen.at + patience {
                violations.push(format!("media of {user} on mid {}, which carries {assigned:?}: {seen:?}", seen.mid));
                return false;
            }
            !explained
        });
    }

    // ---- what scenarios want to know ----

    /// What was heard of one camera or microphone of another client.
    pub fn heard_of(&self, client: u32, video: bool) -> u64 {
        let source = if video { Source::Camera } else { Source::Microphone };
        self.heard.get(&(client, source)).map_or(0, |h| h.packets)
    }

    /// The decoder that has shown something of this track last.
    pub fn decoder_of(&self, client: u32, source: Source) -> Option<&Decoder> {
        let decoders = self.lines.values().map(|l| &l.decoder);
        let is_of = |s: &Shown| s.client == client && s.source == source;
        decoders.filter(|d| d.shown.last().is_some_and(is_of)).max_by_key(|d| d.shown.last().map(|s| s.at))
    }

    /// Pictures of this track that were shown from this time on, on whatever line.
    pub fn shown_of(&self, client: u32, source: Source, from: Duration) -> Vec<Shown> {
        let lines = self.lines.values().flat_map(|l| l.decoder.shown_since(from));
        let mut shown: Vec<Shown> = lines.filter(|s| s.client == client && s.source == source).copied().collect();
        shown.sort_by_key(|s| s.at);
        shown
    }

    /// The width of the picture that is shown of this track, 0 for none within the last second.
    pub fn width_of(&self, now: Duration, client: u32, source: Source) -> u16 {
        self.shown_of(client, source, now.saturating_sub(Duration::from_secs(1))).last().map_or(0, |s| s.width)
    }

    /// How much of another's audio that was sent in this time is here, at most `late` after it was sent.
    pub fn audio_share(&self, from: &Client, span: (Duration, Duration), late: Duration) -> AudioShare {
        let none = Heard::default();
        let heard = self.heard.get(&(from.index, Source::Microphone)).unwrap_or(&none);
        let all = from.sent.get(&Source::Microphone).map(Vec::as_slice).unwrap_or_default();
        let sent: Vec<&(u32, Duration)> = all.iter().filter(|(_, at)| *at >= span.0 && *at < span.1).collect();
        let there = |map: &BTreeMap<u32, Duration>, frame: u32, at: Duration| {
            map.get(&frame).is_some_and(|arrived| *arrived <= at + late)
        };
        let has = |(frame, at): &(u32, Duration)| there(&heard.audio, *frame, *at);
        let count = sent.len().max(1) as f64;
        let mut arrivals: Vec<Duration> = heard.audio.values().copied().filter(|at| *at >= span.0).collect();
        arrivals.sort();
        AudioShare {
            delivered: sent.iter().filter(|s| has(s)).count() as f64 / count,
            alone: sent.iter().filter(|(frame, at)| there(&heard.audio_alone, *frame, *at)).count() as f64 / count,
            with_fec: sent.iter().filter(|s| has(s) || there(&heard.audio, s.0 + 1, s.1)).count() as f64 / count,
            gap: arrivals.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(span.1 - span.0),
        }
    }
}

/// What is wrong with a packet that directly follows another one by its sequence number.
fn follows(a: &Seen, b: &Seen) -> Option<String> {
    let wrong = |what: &str| Some(format!("{what}: {b:?} after {a:?}"));
    let same_stream = a.tag.stream() == b.tag.stream();
    if a.tag.is_video() != b.tag.is_video() {
        return wrong("audio and video on one line");
    }
    if !b.tag.is_video() {
        return if same_stream && b.tag.frame <= a.tag.frame { wrong("audio goes back") } else { None };
    }
    let starts_key = b.tag.key && b.tag.is_first();
    let same_frame = same_stream && a.tag.frame == b.tag.frame;
    // Frames may be left out if those that are left in do not need them.
    let next_frame = same_stream
        && b.tag.frame > a.tag.frame
        && (a.tag.is_last() && b.tag.is_first())
        && b.tag.needs.iter().all(|needs| *needs == NONE || *needs <= a.tag.frame);
    let continues = same_frame && b.tag.index == a.tag.index + 1 || next_frame;
    if !continues && !starts_key {
        return wrong("neither the next packet, nor the next frame, nor the start of a key frame");
    }
    // A key frame that was kept may come a second time, as another picture.
    let same_picture = same_stream && a.tag.picture == b.tag.picture && !starts_key;
    if same_picture && a.marker {
        return wrong("a marker within a picture");
    }
    if next_frame && !same_picture && !a.marker {
        return wrong("a picture without a marker");
    }
    let (Some((pa, ta)), Some((pb, tb))) = (a.counters, b.counters) else { return wrong("no picture id") };
    let ahead = pb.wrapping_sub(pa) & 0x7fff;
    let later = b.time.wrapping_sub(a.time);
    // Whoever decodes VP9 starts anew at a key frame, whatever its picture id.
    let is_other_vp9 = b.is_vp9 && !same_stream;
    if same_picture {
        if ahead != 0 || later != 0 {
            return wrong("one picture with two picture ids or times");
        }
    } else if (ahead == 0 || ahead >= 0x4000) && !is_other_vp9 {
        return wrong("the picture id does not go forward");
    } else if later == 0 || later >= 1 << 31 {
        return wrong("the time does not go forward");
    } else if next_frame && !b.is_vp9 && (ahead != 1 || tb.wrapping_sub(ta) != u8::from(b.tag.temporal == 0)) {
        // A receiver takes a gap for loss, and lets frames wait for what is missing.
        return wrong("a gap in picture ids or TL0PICIDX");
    }
    None
}
