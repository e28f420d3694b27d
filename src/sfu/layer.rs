//! What can be chosen of a track, and what is said about it.

use str0m::media::Rid;

use super::Slot;
use crate::base::TrackId;

/// One way to receive a track. Receiving a layer includes all that it is built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layer {
    /// Index in the track, stable while the track lives.
    pub encoding: u8,
    pub spatial: u8,
    pub temporal: u8,
}

/// What is known of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInfo {
    pub layer: Layer,
    /// The encoding's name; `None` without simulcast.
    pub rid: Option<Rid>,
    /// Bit/s of all that has to be forwarded for it, smoothed: a key frame is no jump.
    pub bitrate: u64,
    /// In pixels; 0: not known.
    pub width: u16,
    pub height: u16,
    /// Measured; 0: not known.
    pub framerate: u8,
    /// `false`: paused at the source because nobody wants it; the figures are the last known.
    pub is_live: bool,
}

/// What a slot is to be sent of its track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The best there is.
    Best,
    /// Nothing.
    Paused,
    /// This layer; while it is not there the nearest below, else above.
    Layer(Layer),
}

/// What happened on its own account; see [`Sfu::poll_event`](super::Sfu::poll_event).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A slot forwards another layer of its track. `None`: nothing for now.
    LayerChanged { slot: Slot, track: TrackId, layer: Option<Layer> },
    /// Layers came, went, or changed their size.
    LayersChanged { track: TrackId },
    /// The publisher may stop, or has to go on, sending an encoding.
    EncodingWanted { track: TrackId, rid: Option<Rid>, wanted: bool },
}
