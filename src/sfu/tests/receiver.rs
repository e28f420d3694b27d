//! A receiver that knows the truth: it fails when a frame arrives without those that it needs, and checks what libwebrtc's
//! receivers go by: markers, times, picture ids, frame numbers.

use std::collections::BTreeMap;

use super::super::dependency::{Descriptor, Structure};
use super::super::{DependencyDescriptor, vp9};
use super::stream::{Mode, Tail, TrueFrame, Truth, payload_of};
use super::*;

/// Everything that a slot was sent.
#[derive(Debug, Default)]
pub struct Receiver {
    packets: BTreeMap<u64, Got>,
}

#[derive(Debug)]
struct Got {
    tail: Tail,
    time: u32,
    marker: bool,
    payload: Arc<[u8]>,
    descriptor: Option<DependencyDescriptor>,
    ms: u64,
}

/// A frame, complete or not.
#[derive(Debug)]
struct Arrived<'a> {
    id: usize,
    truth: &'a TrueFrame,
    packets: Vec<(u64, &'a Got)>,
    is_complete: bool,
}

impl Receiver {
    pub fn push(&mut self, forward: Forward, ms: u64) {
        let payload = payload_of(&forward);
        let got = Got {
            tail: Tail::of(&payload),
            time: forward.time,
            marker: forward.marker,
            payload,
            descriptor: forward.ext.user_values.get::<DependencyDescriptor>().cloned(),
            ms,
        };
        assert!(self.packets.insert(*forward.seq_no, got).is_none(), "a number goes out once");
    }

    /// The frames of which something came since `ms`, in order: encoder, spatial and temporal layer.
    pub fn since(&self, ms: u64, truth: &Truth) -> Vec<(usize, u8, u8)> {
        let mut frames: Vec<usize> = self.packets.values().filter(|g| g.ms >= ms).map(|g| g.tail.frame).collect();
        frames.dedup();
        frames.iter().map(|id| &truth.frames[*id]).map(|f| (f.source.0, f.spatial, f.temporal)).collect()
    }

    /// The layers that came since `ms`, each once, ascending.
    pub fn layers_since(&self, ms: u64, truth: &Truth) -> Vec<(usize, u8, u8)> {
        let mut layers = self.since(ms, truth);
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// The longest time without a packet since `from`, up to `to`.
    pub fn longest_gap(&self, from: u64, to: u64) -> u64 {
        let mut times: Vec<u64> = self.packets.values().map(|g| g.ms).filter(|ms| (from..=to).contains(ms)).collect();
        times.extend([from, to]);
        times.sort_unstable();
        times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0)
    }

    /// When the first packet came, and how many came then.
    pub fn first(&self) -> (u64, usize) {
        let first = self.packets.values().next().expect("something came").ms;
        (first, self.packets.values().filter(|g| g.ms == first).count())
    }

    /// Numbers that were left out.
    pub fn holes(&self) -> u64 {
        let (Some(first), Some(last)) = (self.packets.keys().next(), self.packets.keys().last()) else { return 0 };
        last - first + 1 - self.packets.len() as u64
    }

    pub fn count(&self) -> usize {
        self.packets.len()
    }

    /// Octets that came at `ms`.
    pub fn octets_at(&self, ms: u64) -> usize {
        self.packets.values().filter(|g| g.ms == ms).map(|g| g.payload.len()).sum()
    }

    pub fn has_descriptors(&self) -> bool {
        self.packets.values().any(|g| g.descriptor.is_some())
    }

    pub fn newest_time(&self) -> u32 {
        self.packets.values().last().expect("something came").time
    }

    /// The outgoing times of the pictures that came at `ms`, in order.
    pub fn times_at(&self, ms: u64) -> Vec<u32> {
        let mut times: Vec<u32> = self.packets.values().filter(|g| g.ms == ms).map(|g| g.time).collect();
        times.dedup();
        times
    }

    /// Judges everything. `lost`: frames of which a packet never came to the machine.
    pub fn verify(&self, truth: &Truth, lost: &HashSet<usize>, name: &str) {
        let frames = self.frames(truth, name);
        self.check_references(&frames, lost, name);
        self.check_pictures(&frames, name);
        check_vp8(&frames, name);
        let is_whole = self.holes() == 0;
        check_vp9(&frames, is_whole, name);
        check_descriptors(&frames, is_whole, name);
    }

    /// What arrived, by frame, in the order of the numbers.
    fn frames<'a>(&'a self, truth: &'a Truth, name: &str) -> Vec<Arrived<'a>> {
        let mut frames: Vec<Arrived<'a>> = Vec::new();
        for (seq, got) in &self.packets {
            let id = got.tail.frame;
            match frames.last_mut() {
                // A group that is sent again begins with the first packet once more.
                Some(last)
                    if last.id == id && last.packets.last().is_some_and(|(_, g)| g.tail.index < got.tail.index) =>
                {
                    last.packets.push((*seq, got));
                }
                _ => frames.push(Arrived {
                    id,
                    truth: &truth.frames[id],
                    packets: vec![(*seq, got)],
                    is_complete: false,
                }),
            }
        }
        for frame in &mut frames {
            let first = frame.packets[0].0.wrapping_sub(frame.packets[0].1.tail.index as u64);
            for (seq, got) in &frame.packets {
                let expect = first.wrapping_add(got.tail.index as u64);
                assert_eq!(*seq, expect, "{name}: the packets of frame {} keep their distance", frame.id);
                assert_eq!(got.time, frame.packets[0].1.time, "{name}: frame {} has one time", frame.id);
            }
            frame.is_complete = frame.packets.len() == frame.truth.packets;
        }
        frames
    }

    /// Every frame that is complete has what it needs. Only what was lost, or came when the slot was sent something else
    /// already, may be missing; and then the receiver can see that something is.
    fn check_references(&self, frames: &[Arrived<'_>], lost: &HashSet<usize>, name: &str) {
        for run in frames.chunk_by(|_, after| !after.truth.is_key) {
            let first = &run[0];
            assert!(first.truth.is_key || first.packets[0].1.tail.index > 0, "{name}: frame {} is no start", first.id);
            let end = run.iter().flat_map(|f| &f.packets).map(|(_, got)| got.ms).max().unwrap_or(0);
            let mut good: HashSet<usize> = HashSet::new();
            for frame in run {
                assert_eq!(frame.truth.source, first.truth.source, "{name}: frame {} of another source", frame.id);
                if !frame.is_complete {
                    continue;
                }
                let Some(missing) = frame.truth.references.iter().find(|id| !good.contains(id)) else {
                    good.insert(frame.id);
                    continue;
                };
                let came = frame.packets.iter().map(|(_, got)| got.ms).min().unwrap_or(0);
                let is_late = end - came <= LATE_MS || !lost.is_empty();
                assert!(
                    is_late && self.is_hole(run, *missing),
                    "{name}: frame {} ({:?}) came without {missing}",
                    frame.id,
                    frame.truth
                );
            }
        }
    }

    /// Whether a number is missing where the frame should be, or where one is that it needs.
    fn is_hole(&self, run: &[Arrived<'_>], id: usize) -> bool {
        if let Some(frame) = run.iter().find(|f| f.id == id) {
            if frame.is_complete {
                return frame.truth.references.iter().any(|id| self.is_hole(run, *id));
            }
            let (seq, got) = frame.packets[0];
            let first = seq - got.tail.index as u64;
            return (first..first + frame.truth.packets as u64).any(|seq| !self.packets.contains_key(&seq));
        }
        let before = run.iter().rev().find(|f| f.id < id).map(|f| f.packets[0].0);
        let after = run.iter().find(|f| f.id > id).and_then(|f| f.packets.last()).map(|(seq, _)| *seq);
        let (Some(before), Some(after)) = (before, after) else { return false };
        (before..after).any(|seq| !self.packets.contains_key(&seq))
    }

    /// Every picture has a time of its own, later than the one before, and ends with the marker.
    fn check_pictures(&self, frames: &[Arrived<'_>], name: &str) {
        let mut pictures: Vec<Vec<&Arrived<'_>>> = Vec::new();
        for frame in frames {
            let key = |f: &Arrived<'_>| (f.truth.source, f.truth.picture, f.packets[0].1.time);
            match pictures.last_mut() {
                Some(last) if key(last[0]) == key(frame) => last.push(frame),
                _ => pictures.push(vec![frame]),
            }
        }
        for pair in pictures.windows(2) {
            let (before, after) = (pair[0][0].packets[0].1, pair[1][0].packets[0].1);
            let step = after.time.wrapping_sub(before.time).cast_signed();
            assert!(step > 0, "{name}: picture of frame {} is no step forward: {step}", pair[1][0].id);
        }
        for (n, picture) in pictures.iter().enumerate() {
            let highest = picture.iter().map(|f| f.truth.spatial).max().unwrap_or(0);
            for frame in picture {
                for (seq, got) in &frame.packets {
                    let is_end = frame.truth.spatial == highest && got.tail.index + 1 == frame.truth.packets;
                    if got.marker {
                        assert!(is_end, "{name}: packet {seq} of frame {} ends a picture that goes on", frame.id);
                    } else if is_end {
                        // A switch cuts it, or upper layers were lost or are still to come.
                        let is_followed = pictures.get(n + 1).is_some_and(|p| p[0].truth.source == frame.truth.source);
                        let is_next = self.packets.contains_key(&(seq + 1));
                        let is_key = pictures.get(n + 1).is_some_and(|p| p[0].truth.is_key);
                        assert!(
                            !(is_followed && is_next) || is_key,
                            "{name}: nothing ends the picture of frame {} at {seq}",
                            frame.id
                        );
                    }
                }
            }
        }
    }
}

/// Nothing is later than that but what is lost.
const LATE_MS: u64 = 260;

/// libwebrtc stalls upper temporal layers at a picture id that is left out, and goes by TL0PICIDX.
fn check_vp8(frames: &[Arrived<'_>], name: &str) {
    let mut last: Option<(u64, u16, u8)> = None;
    for frame in frames {
        if !matches!(frame.truth.mode, Mode::Vp8 { .. }) {
            last = None;
            continue;
        }
        let (seq, got) = frame.packets[0];
        let descriptor = Vp8Descriptor::parse(&got.payload).expect("VP8");
        let (Some(id), Some(base)) = (descriptor.picture_id(), descriptor.tl0_pic_idx()) else { panic!("counters") };
        if let Some((end, last_id, last_base)) = last {
            let steps = (id.wrapping_sub(last_id) & 0x7fff, base.wrapping_sub(last_base));
            if seq == end + 1 && got.tail.index == 0 {
                let expect = (1, u8::from(frame.truth.temporal == 0));
                assert_eq!(steps, expect, "{name}: counters of frame {} after {last_id}", frame.id);
            } else {
                assert!((1..1000).contains(&steps.0), "{name}: picture ids rise: {steps:?}");
            }
        }
        let end = frame.packets.last().map_or(seq, |(seq, _)| *seq);
        last = Some((end, id, base));
    }
}

/// libwebrtc finds references by picture id and spatial layer.
fn check_vp9(frames: &[Arrived<'_>], is_whole: bool, name: &str) {
    let mut seen: HashSet<(u16, u8)> = HashSet::new();
    let mut last: Option<(u16, Option<u8>)> = None;
    for frame in frames {
        let Mode::Vp9 { flexible, .. } = frame.truth.mode else {
            last = None;
            continue;
        };
        let Some((_, got)) = frame.packets.iter().find(|(_, g)| g.tail.index == 0) else { continue };
        let (descriptor, _) = vp9::Descriptor::parse(&got.payload).expect("VP9");
        let id = descriptor.picture_id.expect("a picture id");
        let base = descriptor.tl0_pic_idx.map(|(value, _)| value);
        assert_eq!(base.is_none(), flexible);
        if frame.truth.is_key {
            seen.clear();
        }
        if let Some((last_id, last_base)) = last {
            let step = id.wrapping_sub(last_id) & 0x7fff;
            let is_first = frame.truth.spatial == 0;
            assert!(step < 1000 && (step > 0 || !is_first), "{name}: picture ids rise: {last_id} to {id}");
            if let (Some(last_base), Some(base)) = (last_base, base) {
                assert!(base.wrapping_sub(last_base) < 100, "{name}: base pictures rise");
            }
        }
        last = Some((id, base));
        let mut references: Vec<(u16, u8)> = Vec::new();
        if flexible && descriptor.is_predicted {
            // After flags, picture id and layers.
            for octet in &got.payload[4..] {
                references.push((id.wrapping_sub((octet >> 1).into()) & 0x7fff, descriptor.spatial));
                if octet & 1 == 0 {
                    break;
                }
            }
        }
        if descriptor.needs_lower {
            references.push((id, descriptor.spatial - 1));
        }
        if is_whole {
            let missing = references.iter().find(|r| !seen.contains(r));
            assert_eq!(missing, None, "{name}: frame {} as a receiver finds it", frame.id);
        }
        seen.insert((id, descriptor.spatial));
    }
}

/// libwebrtc finds references by frame number, and refuses a structure that is older than the one it has.
fn check_descriptors(frames: &[Arrived<'_>], is_whole: bool, name: &str) {
    let mut structure: Option<Structure> = None;
    let mut seen: HashSet<u16> = HashSet::new();
    let mut last: Option<u16> = None;
    for frame in frames {
        if !matches!(frame.truth.mode, Mode::Av1 { .. } | Mode::Vp8Described { .. }) {
            continue;
        }
        for (_, got) in &frame.packets {
            // Not everybody can read them.
            let Some(raw) = &got.descriptor else { continue };
            let Ok(descriptor) = Descriptor::parse(&raw.0, structure.as_ref()) else {
                panic!("{name}: frame {} cannot be read with the structure that came", frame.id);
            };
            if got.tail.index == 0 {
                if let Some(last) = last {
                    let step = descriptor.number.wrapping_sub(last);
                    assert!((1..1000).contains(&step), "{name}: frame numbers rise: {step}");
                }
                if descriptor.structure.is_some() {
                    seen.clear();
                }
            }
            last = Some(descriptor.number);
            let references = descriptor.template.references.as_slice();
            let missing = references.iter().find(|r| !seen.contains(&descriptor.number.wrapping_sub(**r)));
            if is_whole {
                assert_eq!(missing, None, "{name}: frame {} as a receiver finds it", frame.id);
            }
            if let Some(read) = descriptor.structure {
                structure = Some(*read);
            }
        }
        seen.extend(last);
    }
}
