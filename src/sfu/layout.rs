//! The layers of one encoding, as they are learned from what arrives: which there are, how large, how fast, and which
//! operating point a wish stands for.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::dependency::{DependencyDescriptor, Descriptor, Structure};
use super::frame::{ALL_POINTS, Frame, LAYER_MAX, Point, Points, below};
use super::rate::Rate;

/// The highest layers wanted of an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub spatial: u8,
    pub temporal: u8,
}

impl Limit {
    /// All there are and will be.
    pub const NONE: Limit = Limit { spatial: u8::MAX, temporal: u8::MAX };
    /// The base layers.
    pub const LOWEST: Limit = Limit { spatial: 0, temporal: 0 };

    pub fn allows(self, spatial: u8, temporal: u8) -> bool {
        spatial <= self.spatial && temporal <= self.temporal
    }
}

/// What was learned.
#[derive(Debug, Default)]
pub struct Layout {
    /// Of the dependency descriptor; boxed, since most encodings have none.
    structure: Option<Box<Structure>>,
    /// The frame number that `structure` came with.
    structure_number: u16,
    /// The decode targets that are being sent.
    active: u32,
    parts: Vec<Part>,
    sizes: [Size; SPATIAL_MAX],
    /// Another structure came: points mean something else.
    scheme: u32,
    /// What can be wanted has changed.
    revision: u32,
}

/// The frames that belong to the same points.
#[derive(Debug)]
struct Part {
    spatial: u8,
    temporal: u8,
    present: Points,
    rate: Rate,
    heard: Instant,
    /// The RTP time of the newest frame that was counted.
    time: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    width: u16,
    height: u16,
    source: SizeSource,
}

/// Who said how large a layer is; who knows better comes later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SizeSource {
    #[default]
    Unknown,
    /// The codec's own header, in a key frame.
    Header,
    /// VP9's scalability structure or the dependency descriptor's.
    Structure,
    /// The encoder's allocation for all its layers.
    Allocation,
}

/// The figures of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub spatial: u8,
    pub temporal: u8,
    pub bitrate: u64,
    pub width: u16,
    pub height: u16,
    pub framerate: u8,
}

impl Layout {
    /// Reads a dependency descriptor. One that goes by a structure that is not known here says nothing.
    pub fn read(&self, descriptor: &DependencyDescriptor) -> Option<Descriptor> {
        Descriptor::parse(&descriptor.0, self.structure.as_deref()).ok()
    }

    /// Takes over what a descriptor says about the encoding. `is_newest`: nothing newer was seen.
    pub fn learn(&mut self, descriptor: &mut Descriptor, is_newest: bool) {
        if let Some(structure) = descriptor.structure.take() {
            let is_newer = self.structure.is_none()
                || descriptor.number.wrapping_sub(self.structure_number).cast_signed() > 0
                || is_newest;
            if is_newer {
                for (spatial, (width, height)) in structure.sizes().iter().enumerate() {
                    self.set_size(spatial, *width, *height, SizeSource::Structure);
                }
                if self.structure.as_ref() != Some(&structure) {
                    self.active = structure.all_targets();
                    self.structure = Some(structure);
                    self.parts.clear();
                    self.scheme += 1;
                    self.revision += 1;
                }
                self.structure_number = descriptor.number;
            }
        }
        if let (Some(active), true) = (descriptor.active, is_newest)
            && active != self.active
        {
            self.active = active;
            self.revision += 1;
        }
    }

    /// Points are told apart by this number too: with another one they mean something else.
    pub fn scheme(&self) -> u32 {
        self.scheme
    }

    /// Another number: what a limit stands for may have changed.
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// The spatial layer's size, unless somebody who knows better told it. `true`: it is another one.
    pub fn set_size(&mut self, spatial: usize, width: u16, height: u16, source: SizeSource) -> bool {
        let Some(size) = self.sizes.get_mut(spatial) else { return false };
        if source < size.source {
            return false;
        }
        let before = std::mem::replace(size, Size { width, height, source });
        (before.width, before.height) != (width, height)
    }

    /// Counts a packet. `true`: a layer that was not known, or had gone, is there.
    pub fn count(
        &mut self,
        now: Instant,
        heard: Instant,
        frame: &Frame,
        time: u32,
        bytes: usize,
        is_keyframe: bool,
    ) -> bool {
        let found = self
            .parts
            .iter()
            .position(|p| (p.spatial, p.temporal, p.present) == (frame.spatial, frame.temporal, frame.present));
        let index = match found {
            Some(index) => index,
            None => {
                if self.parts.len() >= PARTS_MAX {
                    let oldest = self.parts.iter().enumerate().min_by_key(|(_, p)| p.heard).map(|(index, _)| index);
                    self.parts.swap_remove(oldest.unwrap_or(0));
                }
                let (spatial, temporal, present) = (frame.spatial, frame.temporal, frame.present);
                self.parts.push(Part { spatial, temporal, present, rate: Rate::new(now), heard: now, time: None });
                self.parts.len() - 1
            }
        };
        let Some(part) = self.parts.get_mut(index) else { return false };
        let had_gone = found.is_none() || part.has_gone(heard);
        part.heard = now;
        if is_keyframe {
            part.rate.add_keyframe(now, bytes);
        } else {
            part.rate.add(now, bytes);
        }
        if frame.starts && part.time != Some(time) {
            part.time = Some(time);
            part.rate.add_frame(now);
        }
        if had_gone {
            self.revision += 1;
        }
        had_gone
    }

    /// The encoding goes on after a silence; it was heard last at `heard`. `is_same`: as it was before, since it did not end by
    /// itself.
    pub fn resume(&mut self, now: Instant, heard: Instant, is_same: bool) {
        self.parts.retain(|p| is_same && !p.has_gone(heard));
        for part in &mut self.parts {
            part.rate.resume(now, heard);
            part.heard = now;
        }
    }

    /// The encoding begins anew.
    pub fn restart(&mut self) {
        self.structure = None;
        self.active = 0;
        self.sizes = Default::default();
        self.scheme += 1;
        self.revision += 1;
    }

    /// The point for a limit, of those that are `allowed`. `None`: none of them is within the limit.
    pub fn point(&self, limit: Limit, allowed: Points) -> Option<Point> {
        let Some(structure) = &self.structure else {
            let exact = Point::of_layers(limit.spatial, limit.temporal);
            if allowed & exact.bit() != 0 {
                return Some(exact);
            }
            let learned = self.parts.iter().map(|p| Point::of_layers(p.spatial, p.temporal));
            let reachable = learned.filter(|p| limit.allows(p.spatial, p.temporal) && allowed & p.bit() != 0);
            return reachable.max_by_key(|p| (p.spatial, p.temporal));
        };
        let targets = structure.targets().iter().enumerate().map(|(index, target)| Point {
            index: index as u8,
            spatial: target.spatial,
            temporal: target.temporal,
        });
        let targets = targets.filter(|p| u64::from(self.active) & allowed & p.bit() != 0);
        targets.filter(|p| limit.allows(p.spatial, p.temporal)).max_by_key(|p| (p.spatial, p.temporal))
    }

    /// The point for a limit when a key frame makes all of them possible.
    pub fn point_at_keyframe(&self, limit: Limit) -> Point {
        let lowest = || {
            let targets = self.structure.as_ref()?.targets().iter().enumerate();
            let active = targets.filter(|(index, _)| self.active >> index & 1 == 1);
            let (index, target) = active.min_by_key(|(_, t)| (t.spatial, t.temporal))?;
            Some(Point { index: index as u8, spatial: target.spatial, temporal: target.temporal })
        };
        // With nothing below the limit the lowest there is; with nothing active at all, whatever comes.
        self.point(limit, ALL_POINTS).or_else(lowest).unwrap_or(Point::EVERYTHING)
    }

    /// Whether points are decode targets, not pairs of layers.
    pub fn has_decode_targets(&self) -> bool {
        self.structure.is_some()
    }

    /// The points of the layers that are known within a limit, the highest first.
    pub fn points_within(&self, limit: Limit) -> Vec<Point> {
        let mut points: Vec<Point> = match &self.structure {
            Some(structure) => structure
                .targets()
                .iter()
                .enumerate()
                .filter(|(index, _)| self.active >> index & 1 == 1)
                .map(|(index, t)| Point { index: index as u8, spatial: t.spatial, temporal: t.temporal })
                .collect(),
            None => self.parts.iter().map(|p| Point::of_layers(p.spatial, p.temporal)).collect(),
        };
        points.retain(|p| limit.allows(p.spatial, p.temporal));
        points.sort_unstable_by_key(|p| (Reverse((p.spatial, p.temporal)), p.index));
        points.dedup();
        points
    }

    /// Whether something within the limit is missing in `point`, or something beyond it is in there: `Some(true)` when it is
    /// a spatial layer. `wanted`: what the limit stands for.
    pub fn is_short_of(&self, limit: Limit, wanted: Point, point: Point, now: Instant) -> Option<bool> {
        if self.structure.is_some() {
            return (point != wanted).then_some(point.spatial != wanted.spatial);
        }
        if !limit.allows(point.spatial, point.temporal) {
            return Some(point.spatial > limit.spatial);
        }
        let there = self.parts.iter().filter(|p| !p.has_gone(now) && limit.allows(p.spatial, p.temporal));
        let missing = there.filter(|p| p.spatial > point.spatial || p.temporal > point.temporal);
        missing.map(|p| p.spatial > point.spatial).max()
    }

    /// The points whose frames are all among those of `point`.
    pub fn within(&self, point: Point) -> Points {
        match &self.structure {
            Some(structure) => structure.within(point.index).into(),
            None => below(point.spatial, point.temporal),
        }
    }

    /// The layer that arrives when `point` is forwarded; `heard`: when the encoding was heard last.
    pub fn layer(&self, point: Point, heard: Instant) -> (u8, u8) {
        let there = self.parts.iter().filter(|p| !p.has_gone(heard) && p.present & point.bit() != 0);
        let spatial = there.clone().map(|p| p.spatial).max().unwrap_or(0);
        let temporal = there.filter(|p| p.spatial == spatial).map(|p| p.temporal).max().unwrap_or(0);
        (spatial, temporal)
    }

    /// Appends the layers that are there, ascending; `heard`: when the encoding was heard last.
    pub fn figures(&self, heard: Instant, out: &mut Vec<Figures>) {
        let there = self.parts.iter().filter(|p| !p.has_gone(heard));
        let first = out.len();
        for part in there.clone() {
            let Some(point) = self.point_of_layer(part.spatial, part.temporal) else { continue };
            let bit = point.bit();
            let known = out
                .get(first..)
                .is_some_and(|f| f.iter().any(|f| (f.spatial, f.temporal) == (part.spatial, part.temporal)));
            if known {
                continue;
            }
            let belongs = there.clone().filter(|p| p.present & bit != 0);
            let frames = belongs.clone().filter(|p| p.spatial == part.spatial);
            let size = self.sizes.get(usize::from(part.spatial)).copied().unwrap_or_default();
            out.push(Figures {
                spatial: part.spatial,
                temporal: part.temporal,
                bitrate: belongs.map(|p| p.rate.bits(heard)).sum(),
                width: size.width,
                height: size.height,
                framerate: u8::try_from((frames.map(|p| p.rate.deciframes(heard)).sum::<u64>() + 5) / 10)
                    .unwrap_or(u8::MAX),
            });
        }
        if let Some(added) = out.get_mut(first..) {
            added.sort_unstable_by_key(|f| (f.spatial, f.temporal));
        }
    }

    /// The bitrate of everything, as of `heard`, when the encoding was heard last.
    pub fn bitrate(&self, heard: Instant) -> u64 {
        self.parts.iter().filter(|p| !p.has_gone(heard)).map(|p| p.rate.bits(heard)).sum()
    }

    /// The pixels of the largest layer; 0: not known.
    pub fn area(&self, heard: Instant) -> u32 {
        let there = self.parts.iter().filter(|p| !p.has_gone(heard));
        let size = there.filter_map(|p| self.sizes.get(usize::from(p.spatial)));
        size.map(|s| u32::from(s.width) * u32::from(s.height)).max().unwrap_or(0)
    }

    fn point_of_layer(&self, spatial: u8, temporal: u8) -> Option<Point> {
        let point = self.point(Limit { spatial, temporal }, ALL_POINTS)?;
        ((point.spatial, point.temporal) == (spatial, temporal)).then_some(point)
    }
}

impl Part {
    /// A layer of which nothing came for long while others did. `heard`: when the encoding was heard last.
    fn has_gone(&self, heard: Instant) -> bool {
        heard.saturating_duration_since(self.heard) > GONE_AFTER
    }
}

/// Spatial layers whose size is kept.
const SPATIAL_MAX: usize = LAYER_MAX as usize + 1;
/// Three spatial and four temporal layers, twice, since frames of a key picture may belong to other points.
const PARTS_MAX: usize = 24;
/// Shorter, and the highest temporal layer of a screen that seldom changes comes and goes.
const GONE_AFTER: Duration = Duration::from_secs(3);
