//! What a packet says about its frame, in one form for all codecs: where it begins and ends, and which operating points it
//! belongs to.
//!
//! An *operating point* is a way to receive an encoding. With the dependency descriptor the points are its decode targets;
//! else there is one for each pair of a spatial and a temporal layer, and a frame belongs to those that are at least as high
//! as itself in both. A set of points is a bit mask, so that every question about a packet is a few instructions.

use super::codec::Inspection;
use super::dependency;

/// A set of operating points, one bit each.
pub type Points = u64;

/// Every operating point.
pub const ALL_POINTS: Points = u64::MAX;

/// One operating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its bit.
    pub index: u8,
    /// The highest layer that belongs to it.
    pub spatial: u8,
    pub temporal: u8,
}

impl Point {
    /// Everything there is and will be; only where points are pairs of layers.
    pub const EVERYTHING: Point = Point { index: 63, spatial: LAYER_MAX, temporal: LAYER_MAX };

    /// The point of a pair of layers.
    pub fn of_layers(spatial: u8, temporal: u8) -> Point {
        let (spatial, temporal) = (spatial.min(LAYER_MAX), temporal.min(LAYER_MAX));
        Point { index: spatial * 8 + temporal, spatial, temporal }
    }

    pub fn bit(self) -> Points {
        1 << (self.index & 63)
    }
}

/// How a frame lets layers begin of which something was missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lift {
    None,
    /// The frame needs the base layer only, so its own temporal layer can begin with it (VP8's Y).
    ToItself,
    /// What follows in higher temporal layers needs nothing of them from before this frame (VP9's U).
    FromItself,
    /// The frame needs nothing but the spatial layer below, so its own begins as far as that one is whole (VP9 without P).
    FromBelow,
}

/// What is known of the frame that a packet belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The first packet of the frame.
    pub starts: bool,
    /// The last packet of the frame. Where there are no spatial layers that is the RTP marker.
    pub ends: bool,
    /// The first packet of a key frame.
    pub starts_keyframe: bool,
    pub spatial: u8,
    pub temporal: u8,
    /// The points that the frame belongs to.
    pub present: Points,
    /// Those of which no other frame needs this one.
    pub discardable: Points,
    /// Those of which all that follows can be decoded if this frame can.
    pub switch: Points,
    pub lift: Lift,
    /// The number of the frame, or of the picture it belongs to.
    pub number: Number,
    pub tl0_pic_idx: Option<u8>,
}

/// The number that the encoder gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    None,
    /// One for all spatial layers; of so many values.
    Picture(u16, u16),
    /// Every frame has its own.
    Frame(u16),
}

impl Frame {
    /// A frame of which nothing is known but what is in the RTP header: it belongs to every point.
    pub fn plain(starts_keyframe: bool, marker: bool) -> Frame {
        Frame {
            starts: true,
            ends: marker,
            starts_keyframe,
            spatial: 0,
            temporal: 0,
            present: ALL_POINTS,
            discardable: 0,
            switch: if starts_keyframe { ALL_POINTS } else { 0 },
            lift: Lift::None,
            number: Number::None,
            tl0_pic_idx: None,
        }
    }

    /// By the codec's own descriptor.
    pub fn of_payload(inspection: &Inspection, marker: bool) -> Frame {
        let plain = Frame::plain(inspection.keyframe_start, marker);
        if let Some(vp8) = &inspection.vp8 {
            let present = above(0, vp8.temporal);
            let values = if vp8.picture_id_is_long { 1 << 15 } else { 1 << 7 };
            return Frame {
                starts: vp8.starts,
                temporal: vp8.temporal,
                present,
                discardable: if vp8.is_discardable { present } else { 0 },
                lift: if vp8.is_sync && vp8.temporal > 0 { Lift::ToItself } else { Lift::None },
                number: vp8.descriptor.picture_id().map_or(Number::None, |id| Number::Picture(id, values)),
                tl0_pic_idx: vp8.descriptor.tl0_pic_idx(),
                ..plain
            };
        }
        if let Some(vp9) = &inspection.vp9 {
            let values = if vp9.picture_id_is_long { 1 << 15 } else { 1 << 7 };
            return Frame {
                starts: vp9.starts,
                ends: vp9.ends,
                spatial: vp9.spatial,
                temporal: vp9.temporal,
                present: above(vp9.spatial, vp9.temporal),
                switch: if vp9.is_predicted || vp9.spatial > 0 { 0 } else { ALL_POINTS },
                lift: match (vp9.is_predicted, vp9.spatial) {
                    (false, 1..) => Lift::FromBelow,
                    _ if vp9.is_switching_point => Lift::FromItself,
                    _ => Lift::None,
                },
                number: vp9.picture_id.map_or(Number::None, |id| Number::Picture(id, values)),
                tl0_pic_idx: vp9.tl0_pic_idx.map(|(value, _)| value),
                ..plain
            };
        }
        plain
    }

    /// By the dependency descriptor.
    pub fn of_descriptor(descriptor: &dependency::Descriptor) -> Frame {
        let template = &descriptor.template;
        Frame {
            starts: descriptor.starts,
            ends: descriptor.ends,
            starts_keyframe: descriptor.starts && descriptor.structure.is_some(),
            spatial: template.spatial,
            temporal: template.temporal,
            // Whoever is sent everything is sent this as well.
            present: Points::from(template.indications.present) | Point::EVERYTHING.bit(),
            discardable: template.indications.discardable.into(),
            switch: template.indications.switch.into(),
            lift: Lift::None,
            number: Number::Frame(descriptor.number),
            tl0_pic_idx: None,
        }
    }

    /// The points that can begin here, when those in `whole` can be decoded so far and `current` is being received.
    pub fn lifted(&self, whole: Points, current: Point) -> Points {
        let temporal = self.temporal.min(LAYER_MAX);
        // The spatial layers that are whole up to a temporal layer, as its lowest bits.
        let rows = |temporal: u8| (whole >> temporal) & EACH_SPATIAL;
        match self.lift {
            Lift::None => 0,
            Lift::ToItself => rows(0) << temporal,
            Lift::FromBelow => {
                let spatial = self.spatial.min(LAYER_MAX);
                let row = (whole >> (spatial.saturating_sub(1) * 8)) & 0xff;
                (row * EACH_SPATIAL) & (ALL_POINTS << (spatial * 8))
            }
            Lift::FromItself if self.present & current.bit() == 0 => 0,
            Lift::FromItself => rows(temporal) * ((0xff << temporal) & 0xff),
        }
    }
}

/// The points that are at least as high in both.
pub fn above(spatial: u8, temporal: u8) -> Points {
    let row = (0xff << temporal.min(LAYER_MAX)) & 0xff;
    (EACH_SPATIAL * row) & (ALL_POINTS << (spatial.min(LAYER_MAX) * 8))
}

/// The points that are at most as high in both.
pub fn below(spatial: u8, temporal: u8) -> Points {
    let row = 0xff >> (LAYER_MAX - temporal.min(LAYER_MAX));
    (EACH_SPATIAL * row) & (ALL_POINTS >> (56 - spatial.min(LAYER_MAX) * 8))
}

/// By the widths in VP9's descriptor.
pub const LAYER_MAX: u8 = 7;
/// The lowest temporal layer of each spatial layer.
const EACH_SPATIAL: Points = 0x0101_0101_0101_0101;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_pairs_of_layers() {
        for spatial in 0..8 {
            for temporal in 0..8 {
                for (s, t) in (0..8).flat_map(|s| (0..8).map(move |t| (s, t))) {
                    let bit = Point::of_layers(s, t).bit();
                    assert_eq!(above(spatial, temporal) & bit != 0, s >= spatial && t >= temporal);
                    assert_eq!(below(spatial, temporal) & bit != 0, s <= spatial && t <= temporal);
                }
            }
        }
        assert_eq!(Point::of_layers(9, 200), Point::EVERYTHING);
    }

    #[test]
    fn temporal_layers_are_lifted_where_the_spatial_layer_is_whole() {
        let frame = |lift, spatial, temporal| Frame {
            lift,
            temporal,
            present: above(spatial, temporal),
            ..Frame::plain(false, true)
        };
        let point = Point::of_layers;
        // Spatial layer 1 is not whole, and nothing above temporal layer 0.
        let whole = below(0, 0);
        let up = frame(Lift::FromItself, 0, 0).lifted(whole, point(0, 0));
        assert_eq!(up, below(0, 7), "all temporal layers of spatial layer 0 and nothing else");
        assert_eq!(frame(Lift::FromItself, 0, 1).lifted(whole, point(0, 0)), 0, "a frame that is not received");
        let sync = frame(Lift::ToItself, 0, 2).lifted(whole, point(0, 0));
        assert_eq!(sync, point(0, 2).bit());
        // Of spatial layer 0 the first two temporal layers are whole: so are they then of what begins above it.
        let begins = Frame { spatial: 1, ..frame(Lift::FromBelow, 1, 0) };
        assert_eq!(begins.lifted(below(0, 1), point(1, 1)), below(7, 1) & above(1, 0));
        let both = below(1, 1);
        assert_eq!(frame(Lift::FromItself, 0, 1).lifted(both, point(1, 1)), below(1, 7) & above(0, 1));
    }
}
