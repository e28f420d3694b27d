//! Which frames of an encoding one slot gets: an operating point, and when it may become another one.
//!
//! What a slot is sent changes at the first packet of a picture only, and only to a point that its receiver can decode from
//! there: one of which nothing was withheld ([`Selection::whole`]), or one that the frame itself allows to begin. So layers
//! below are there at once, temporal layers above at a frame that the encoder marked, and spatial layers above, as a rule, at
//! a key frame.
//!
//! VP9 also says, in the frame of an upper layer, that it needs nothing but the layer below; that comes too late, since by
//! then the lower layer's last packet has gone out with the marker that ends the picture.

use std::time::{Duration, Instant};

use super::frame::{Frame, Lift, Number, Point, Points};
use super::layout::{Layout, Limit};

/// The choice of one slot within the encoding that it is sent.
#[derive(Debug)]
pub struct Selection {
    limit: Limit,
    /// What `limit` stands for.
    wanted: Point,
    /// From which number on which point is sent; the newest last, never empty.
    spans: [Span; Selection::SPANS],
    span_count: usize,
    /// The points of which the receiver has had everything it needs.
    whole: Points,
    scheme: u32,
    revision: u32,
    stuck: Option<Stuck>,
    /// Nothing changes before this is over: what is sent was measured.
    is_replay: bool,
    /// The RTP time of the newest packet.
    time: u32,
    /// `None` as long as everything is sent: then nobody asks.
    last: Option<Last>,
}

/// What is wanted is there, and cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stuck {
    since: Instant,
    is_spatial: bool,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    from: u64,
    point: Point,
}

/// The newest packet of the encoding, whether the slot got it or not.
#[derive(Debug, Clone, Copy)]
struct Last {
    frame: Frame,
    time: u32,
    marker: bool,
    is_taken: bool,
}

/// What lies between two packets that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// Perhaps something that is to be sent when it comes.
    Unknown,
    /// Nothing that is to be sent, and so many pictures.
    Withheld(u16),
}

impl Selection {
    /// A late packet is judged by the point of its time; those from before so many changes are dropped.
    const SPANS: usize = 4;

    /// Starts at the first packet of a key frame. `point`: what to begin with in a replay, which need not be what `limit` stands
    /// for.
    pub fn start(seq: u64, time: u32, frame: &Frame, limit: Limit, point: Option<Point>, layout: &Layout) -> Selection {
        let wanted = layout.point_at_keyframe(limit);
        let span = Span { from: seq, point: point.unwrap_or(wanted) };
        Selection {
            limit,
            wanted,
            spans: [span; Selection::SPANS],
            span_count: 1,
            whole: frame.switch,
            scheme: layout.scheme(),
            revision: layout.revision(),
            stuck: None,
            is_replay: point.is_some(),
            time,
            last: None,
        }
    }

    /// What follows is live.
    pub fn end_replay(&mut self) {
        self.is_replay = false;
    }

    /// The point that is sent now.
    pub fn point(&self) -> Point {
        self.span().point
    }

    pub fn set_limit(&mut self, now: Instant, limit: Limit, layout: &Layout) {
        if self.limit != limit {
            self.limit = limit;
            self.wanted = layout.point_at_keyframe(limit);
            self.stuck = None;
            if self.whole & self.wanted.bit() == 0 {
                self.judge(now, layout);
            }
        }
    }

    /// Notes whether what is wanted and there is not sent.
    pub fn judge(&mut self, now: Instant, layout: &Layout) {
        self.stuck = match layout.is_short_of(self.limit, self.wanted, self.point(), now) {
            None => None,
            Some(is_spatial) => {
                let since = self.stuck.map_or(now, |stuck| stuck.since);
                Some(Stuck { since, is_spatial })
            }
        };
    }

    /// What is wanted takes a key frame.
    pub fn needs_keyframe(&self, now: Instant) -> bool {
        // A spatial layer hardly ever begins without one; a temporal layer begins soon, unless the encoder never says where.
        self.stuck.is_some_and(|s| s.is_spatial || now.saturating_duration_since(s.since) >= TEMPORAL_WAIT)
    }

    /// Whether the slot gets everything there is, and did so from its start.
    pub fn takes_everything(&self) -> bool {
        self.span_count == 1 && self.point() == Point::EVERYTHING
    }

    /// Looks at a packet that is newer than all before: at the first one of a picture moves to what is wanted, or towards it.
    /// `follows`: nothing is missing before it.
    pub fn turn(&mut self, now: Instant, seq: u64, time: u32, frame: &Frame, follows: bool, layout: &Layout) {
        // What is missing before an upper layer may be the lower ones of its picture.
        let is_picture_start = frame.starts && time != self.time && (follows || frame.spatial == 0);
        self.time = time;
        if !is_picture_start || self.is_replay {
            return;
        }
        if self.scheme != layout.scheme() {
            *self = Selection::start(seq, time, frame, self.limit, None, layout);
            return;
        }
        if self.revision != layout.revision() {
            self.revision = layout.revision();
            self.wanted = layout.point_at_keyframe(self.limit);
        }
        let current = self.point();
        if current == self.wanted {
            self.stuck = None;
            return;
        }
        let mut allowed = self.whole | frame.lifted(self.whole, current);
        if frame.starts_keyframe || frame.present & current.bit() != 0 {
            allowed |= frame.switch;
        }
        let is_within = self.limit.allows(current.spatial, current.temporal);
        let next = match layout.point(self.limit, allowed) {
            Some(next) if next == current => None,
            // Not back to a layer below only because what is sent is not known by name.
            Some(next) if is_within && next.spatial <= current.spatial && next.temporal <= current.temporal => None,
            next => next,
        };
        if let Some(point) = next {
            self.push(Span { from: seq, point });
        }
        self.judge(now, layout);
    }

    /// Whether the slot gets the packet `seq`. `None`: it is so late that nobody knows.
    pub fn takes(&self, seq: u64, frame: &Frame) -> Option<Point> {
        self.point_at(seq).filter(|point| frame.present & point.bit() != 0)
    }

    fn point_at(&self, seq: u64) -> Option<Point> {
        let spans = self.spans.get(..self.span_count)?;
        spans.iter().rev().find(|span| span.from <= seq).map(|span| span.point)
    }

    /// Whether the packet ends its picture for a slot that is sent `point`.
    pub fn is_last(point: Point, frame: &Frame, marker: bool) -> bool {
        marker || (frame.ends && frame.spatial >= point.spatial)
    }

    /// Notes a packet that the slot got or did not get. `is_newest`: none of the encoding was newer.
    pub fn note(&mut self, frame: &Frame, time: u32, marker: bool, is_taken: bool, is_newest: bool) {
        if !is_taken {
            self.whole &= !(frame.present & !frame.discardable);
        } else if is_newest {
            self.whole |= frame.switch;
            if frame.lift != Lift::None {
                self.whole |= frame.lifted(self.whole, self.point());
            }
        }
        if is_newest {
            self.last = Some(Last { frame: *frame, time, marker, is_taken });
        }
    }

    /// What is missing between the newest packet so far and this one, which is newer and not the next.
    ///
    /// Said to be withheld only where it follows from the two packets; a number that is kept free in vain costs a receiver a
    /// few requests, one that is not kept free costs it the picture.
    pub fn gap(&self, seq: u64, frame: &Frame, time: u32, is_taken: bool) -> Gap {
        // What is missing was sent, or not, before anything changed with this packet.
        let (Some(last), Some(point)) = (&self.last, self.point_at(seq.saturating_sub(1))) else { return Gap::Unknown };
        let withheld = |it_is: bool| if it_is { Gap::Withheld(0) } else { Gap::Unknown };
        // What may still belong to the last packet's frame, or already to this one's, goes the way of that frame.
        let tail_is_withheld = last.frame.ends || !last.is_taken;
        let head_is_withheld = frame.starts || !is_taken;
        let something_in_between = last.frame.ends && frame.starts;
        match (last.frame.number, frame.number) {
            // libwebrtc numbers the frames of all encodings of a simulcast in one row, so that hardly any follows the one before.
            (Number::Frame(before), Number::Frame(after)) => match after.wrapping_sub(before) {
                0 => withheld(!is_taken),
                1 => withheld(tail_is_withheld && head_is_withheld && !something_in_between),
                _ => Gap::Unknown,
            },
            // A short picture id could have come round.
            (Number::Picture(before, values), Number::Picture(after, after_values))
                if values == after_values && (values > 1 << 7 || last.time == time) =>
            {
                let step = after.wrapping_sub(before) & (values - 1);
                let has_spatial = frame.spatial > 0 || last.frame.spatial > 0 || !last.marker && last.frame.ends;
                // The rest of the last packet's picture: everything above what is sent.
                let rest_is_withheld =
                    !last.is_taken || (last.frame.ends && last.frame.spatial == point.spatial && !last.marker);
                match step {
                    0 if last.time != time => Gap::Unknown,
                    0 if last.frame.spatial == frame.spatial => withheld(!is_taken),
                    0 => withheld(rest_is_withheld && !is_taken),
                    1 if has_spatial => withheld(rest_is_withheld && frame.starts && frame.spatial == 0),
                    1 => withheld(tail_is_withheld && head_is_withheld && !something_in_between),
                    _ => match (last.frame.tl0_pic_idx, frame.tl0_pic_idx) {
                        // No base picture is missing, and only those are sent.
                        (Some(base), Some(next))
                            if point.temporal == 0
                                && !has_spatial
                                && step < values / 2
                                && next.wrapping_sub(base) == u8::from(frame.temporal == 0)
                                && tail_is_withheld
                                && head_is_withheld =>
                        {
                            Gap::Withheld(step - 1)
                        }
                        _ => Gap::Unknown,
                    },
                }
            }
            _ => Gap::Unknown,
        }
    }

    /// Something is missing before the next packet. Whatever it is, the slot gets it if it is of what is sent now, and only
    /// then.
    pub fn note_gap(&mut self, layout: &Layout) {
        self.whole &= layout.within(self.point());
    }

    fn span(&self) -> Span {
        self.spans.get(self.span_count - 1).copied().unwrap_or(self.spans[0])
    }

    fn push(&mut self, span: Span) {
        if self.span_count == Selection::SPANS {
            self.spans.rotate_left(1);
            self.span_count -= 1;
        }
        if let Some(place) = self.spans.get_mut(self.span_count) {
            *place = span;
            self.span_count += 1;
        }
    }
}

/// How long to wait for the encoder to say where a temporal layer can begin, before a key frame is asked for. Its patterns
/// have such a place every few frames, if at all.
const TEMPORAL_WAIT: Duration = Duration::from_secs(3);
