//! Models of encoders: what a camera or a screen is turned into, frame by frame, with the sizes and dependencies of the real
//! ones.

use std::time::Duration;

use str0m::format::Codec;

use crate::payload::NONE;

/// How a video source is encoded.
#[derive(Debug, Clone)]
pub struct Video {
    pub codec: Codec,
    pub every: Duration,
    /// One, or one per rid: in the order of the SDP.
    pub encodings: &'static [Encoding],
}

/// What goes to one SSRC.
#[derive(Debug, Clone, Copy)]
pub struct Encoding {
    /// `None`: the only one.
    pub rid: Option<&'static str>,
    /// Spatial layers, the smallest first.
    pub layers: &'static [Spatial],
    /// Number of temporal layers, 1 to 3.
    pub temporal: u8,
}

#[derive(Debug, Clone, Copy)]
pub struct Spatial {
    pub width: u16,
    pub height: u16,
    pub size: Size,
}

#[derive(Debug, Clone, Copy)]
pub enum Size {
    /// Bits per second; the frames are as large as that makes them.
    Rate(u64),
    /// So many packets of so many octets; a key frame has twice as many.
    Packets(u8, usize),
}

pub const fn spatial(width: u16, height: u16, kbps: u64) -> Spatial {
    Spatial { width, height, size: Size::Rate(kbps * 1000) }
}

/// One encoding of small frames.
pub const PLAIN: Video = Video {
    codec: Codec::Vp8,
    every: Duration::from_millis(33),
    encodings: &[Encoding {
        rid: None,
        layers: &[Spatial { width: 320, height: 240, size: Size::Packets(3, 300) }],
        temporal: 1,
    }],
};

/// The same with smaller ones.
pub const SMALL: Video = Video {
    encodings: &[Encoding {
        rid: None,
        layers: &[Spatial { width: 320, height: 240, size: Size::Packets(2, 300) }],
        temporal: 1,
    }],
    ..PLAIN
};

/// Three encodings of a camera, each with temporal layers, as browsers make them.
pub const SIMULCAST: Video = Video {
    codec: Codec::Vp8,
    every: Duration::from_millis(33),
    encodings: &[
        Encoding { rid: Some("l"), layers: &[spatial(320, 180, 150)], temporal: 3 },
        Encoding { rid: Some("m"), layers: &[spatial(640, 360, 500)], temporal: 3 },
        Encoding { rid: Some("h"), layers: &[spatial(1280, 720, 1500)], temporal: 3 },
    ],
};

/// One stream of three spatial and three temporal layers; only key pictures predict across spatial layers.
pub const SVC: Video = Video {
    codec: Codec::Vp9,
    every: Duration::from_millis(33),
    encodings: &[Encoding {
        rid: None,
        layers: &[spatial(320, 180, 130), spatial(640, 360, 350), spatial(1280, 720, 800)],
        temporal: 3,
    }],
};

/// A shared screen.
pub const SCREEN: Video = Video {
    codec: Codec::Vp8,
    every: Duration::from_millis(50),
    encodings: &[Encoding { rid: None, layers: &[spatial(1920, 1080, 1200)], temporal: 3 }],
};

/// One frame, to be cut into packets.
#[derive(Debug, Clone)]
pub struct Frame {
    pub number: u32,
    pub needs: [u32; 2],
    pub spatial: u8,
    pub temporal: u8,
    pub width: u16,
    pub height: u16,
    pub key: bool,
    pub key_picture: bool,
    /// Depends on nothing above temporal layer 0.
    pub sync: bool,
    pub tl0: u8,
    /// Octets of payload per packet.
    pub packets: Vec<usize>,
    /// Nothing of this picture follows.
    pub is_last: bool,
}

/// One SSRC's worth of encoder.
#[derive(Debug)]
pub struct Encoder {
    encoding: Encoding,
    every: Duration,
    random: fastrand::Rng,
    /// Share of the nominal rate that is made.
    pub share: f64,
    next: u32,
    /// Pictures since the key picture.
    position: Option<u32>,
    tl0: u8,
    /// By spatial and temporal layer: the latest frame.
    latest: [[u32; 3]; 3],
    /// Octets by which a key frame went over the rate, to be made up for by smaller frames; by spatial layer.
    debt: [f64; 3],
}

impl Encoder {
    pub fn new(video: &Video, encoding: Encoding, seed: u64, first: u32) -> Encoder {
        Encoder {
            encoding,
            every: video.every,
            random: fastrand::Rng::with_seed(seed),
            share: 1.0,
            next: first,
            position: None,
            tl0: 250,
            latest: [[NONE; 3]; 3],
            debt: [0.0; 3],
        }
    }

    /// The number of the next frame.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// One picture: a frame per spatial layer.
    pub fn encode(&mut self, key: bool) -> Vec<Frame> {
        let position = match self.position {
            Some(position) if !key => position + 1,
            _ => 0,
        };
        let key = position == 0;
        self.position = Some(position);
        let pattern: &[u8] = match self.encoding.temporal {
            1 => &[0],
            2 => &[0, 1],
            _ => &[0, 2, 1, 2],
        };
        let temporal = pattern[position as usize % pattern.len()];
        if temporal == 0 {
            self.tl0 = self.tl0.wrapping_add(1);
        }
        let layers = self.encoding.layers;
        let mut frames: Vec<Frame> = Vec::new();
        for (spatial, layer) in layers.iter().enumerate() {
            let below = frames.last().filter(|_| key).map_or(NONE, |frame| frame.number);
            // The latest frame of a lower temporal layer; the base layer follows itself.
            let own = &self.latest[spatial];
            let before = own[..usize::from(temporal.max(1))].iter().copied().filter(|n| *n != NONE).max();
            let before = before.filter(|_| !key).unwrap_or(NONE);
            let sync = temporal > 0 && before == own[0];
            let number = self.next;
            self.next += 1;
            let packets = self.packets(spatial, layer, temporal, key);
            frames.push(Frame {
                number,
                needs: [before, below],
                spatial: spatial as u8,
                temporal,
                width: layer.width,
                height: layer.height,
                key: key && spatial == 0,
                key_picture: key,
                sync,
                tl0: self.tl0,
                packets,
                is_last: spatial + 1 == layers.len(),
            });
            if key {
                self.latest[spatial] = [NONE; 3];
            }
            self.latest[spatial][usize::from(temporal)] = number;
        }
        frames
    }

    fn packets(&mut self, spatial: usize, layer: &Spatial, temporal: u8, key: bool) -> Vec<usize> {
        let rate = match layer.size {
            Size::Packets(count, octets) => return vec![octets; usize::from(count) * if key { 2 } else { 1 }],
            Size::Rate(rate) => rate as f64 * self.share,
        };
        let mean = rate / 8.0 * self.every.as_secs_f64();
        // How libwebrtc divides a rate among temporal layers, per frame.
        let weight = match (self.encoding.temporal, temporal) {
            (1, _) => 1.0,
            (2, 0) => 1.2,
            (3, 0) => 1.6,
            _ => 0.8,
        };
        let mut octets = mean * weight * (0.85 + 0.3 * self.random.f64());
        if key {
            octets = mean * KEY_FRAME;
            self.debt[spatial] += octets - mean;
        } else {
            let saved = (octets * 0.2).min(self.debt[spatial]);
            self.debt[spatial] -= saved;
            octets -= saved;
        }
        let octets = (octets as usize).max(OCTETS_MIN);
        let count = octets.div_ceil(PACKET).min(255);
        (0..count).map(|index| octets / count + usize::from(index < octets % count)).collect()
    }
}

/// How many times a mean frame a key frame is.
const KEY_FRAME: f64 = 6.0;
/// Octets of payload that a packet carries.
const PACKET: usize = 1150;
const OCTETS_MIN: usize = 90;
