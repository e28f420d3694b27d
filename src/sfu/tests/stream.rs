//! Encoders that make what browsers send, and the truth about it: which frames each frame really needs.
//!
//! Every packet ends with the number of its frame and its place in it, so that a receiver can be judged by the truth and not
//! by what the machine made of it.

use std::sync::Arc;

use super::super::dependency::tests::{Indication, StructureSpec, TemplateSpec, write};
use super::super::{DependencyDescriptor, KeyframeRequest};
use super::*;

/// The way an encoder makes its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// VP8 with so many temporal layers; three go as Chromium's do.
    Vp8 {
        temporal: u8,
    },
    /// VP9; `flexible` names references in the payload, else a pattern is told with the key frame.
    Vp9 {
        spatial: u8,
        temporal: u8,
        flexible: bool,
    },
    /// AV1 with the dependency descriptor. `keyed`: upper spatial layers need the lower ones at key frames only.
    Av1 {
        spatial: u8,
        temporal: u8,
        keyed: bool,
    },
    /// VP8 whose layers are in the dependency descriptor alone, as libwebrtc sends it when both are negotiated.
    Vp8Described {
        temporal: u8,
    },
    H264,
}

/// What is true of a frame.
#[derive(Debug, Clone)]
pub struct TrueFrame {
    /// Encoder and its run: a restart is another one.
    pub source: (usize, u32),
    /// Counts the pictures of the source.
    pub picture: u64,
    pub spatial: u8,
    pub temporal: u8,
    pub references: Vec<usize>,
    pub is_key: bool,
    pub packets: usize,
    pub mode: Mode,
}

/// All frames that were ever made.
#[derive(Debug, Default)]
pub struct Truth {
    pub frames: Vec<TrueFrame>,
}

/// What a packet's last octets say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    pub frame: usize,
    pub index: usize,
}

impl Tail {
    const LENGTH: usize = 5;

    pub fn of(payload: &[u8]) -> Tail {
        let [a, b, c, d, index] = *payload.last_chunk::<{ Tail::LENGTH }>().expect("a tail");
        Tail { frame: u32::from_be_bytes([a, b, c, d]) as usize, index: index.into() }
    }

    fn put(self, payload: &mut Vec<u8>) {
        payload.extend((self.frame as u32).to_be_bytes());
        payload.push(self.index as u8);
    }
}

/// One encoding of one publisher.
#[derive(Debug)]
pub struct Encoder {
    pub mode: Mode,
    pub track: TrackId,
    pub rid: Option<&'static str>,
    /// Of the largest spatial layer.
    pub size: (u16, u16),
    /// Octets of a frame of the largest spatial layer, and of one of its key frames.
    pub bytes: (usize, usize),
    /// Produces nothing when it is not.
    pub is_active: bool,
    /// Spatial layers that are to be made, from the next base picture on.
    pub spatial_active: u8,
    spatial_now: u8,
    pub key_wanted: bool,
    /// Says where upper temporal layers can begin.
    pub marks: bool,
    id: usize,
    run: u32,
    ssrc: u32,
    seq: u64,
    time: u32,
    picture: u64,
    picture_id: u16,
    tl0: u8,
    key_idx: u8,
    frame_number: u16,
    /// Pictures since the last key picture.
    since_key: u64,
    /// The newest frame by spatial and temporal layer.
    newest: [[Option<usize>; 4]; 4],
    /// The frame number of each frame of this run.
    numbers: HashMap<usize, u16>,
    structure_id: u8,
}

impl Encoder {
    pub fn new(id: usize, mode: Mode, track: TrackId, rid: Option<&'static str>, random: &mut fastrand::Rng) -> Self {
        let mut encoder = Encoder {
            mode,
            track,
            rid,
            size: (1280, 720),
            bytes: (3000, 12_000),
            is_active: true,
            spatial_active: 4,
            spatial_now: 4,
            key_wanted: true,
            marks: true,
            id,
            run: 0,
            ssrc: 0,
            seq: 0,
            time: 0,
            picture: 0,
            picture_id: 0,
            tl0: 0,
            key_idx: 0,
            frame_number: 0,
            since_key: 0,
            newest: Default::default(),
            numbers: HashMap::new(),
            structure_id: 0,
        };
        encoder.restart(random);
        encoder
    }

    /// Another numbering of everything.
    pub fn restart(&mut self, random: &mut fastrand::Rng) {
        self.run += 1;
        self.ssrc = random.u32(1..);
        self.seq = random.u64(1..200_000);
        self.time = random.u32(..);
        self.picture_id = random.u16(..) & 0x7fff;
        self.tl0 = random.u8(..);
        self.key_idx = random.u8(..32);
        self.frame_number = random.u16(..);
        self.key_wanted = true;
        self.newest = Default::default();
        self.numbers.clear();
        self.structure_id = random.u8(..64);
    }

    fn spatial_layers(&self) -> u8 {
        match self.mode {
            Mode::Vp9 { spatial, .. } | Mode::Av1 { spatial, .. } => spatial.min(self.spatial_now),
            _ => 1,
        }
    }

    fn temporal_layers(&self) -> u8 {
        match self.mode {
            Mode::Vp8 { temporal }
            | Mode::Vp8Described { temporal }
            | Mode::Vp9 { temporal, .. }
            | Mode::Av1 { temporal, .. } => temporal,
            Mode::H264 => 1,
        }
    }

    /// The temporal layer of the next picture.
    fn temporal(&self) -> u8 {
        match (self.temporal_layers(), self.since_key % 4) {
            (1, _) | (_, 0) => 0,
            (2, position) => (position % 2) as u8,
            (_, 2) => 1,
            (_, _) => 2,
        }
    }

    /// In the first half of eight pictures upper temporal layers begin anew; in the second they go on from the first.
    fn is_fresh(&self) -> bool {
        self.since_key % 8 < 4
    }

    /// The next picture, `ms` after the one before.
    pub fn picture(&mut self, ms: u32, truth: &mut Truth, out: &mut Vec<Packet>) {
        if !self.is_active {
            return;
        }
        self.time = self.time.wrapping_add(ms * 90);
        self.picture += 1;
        let is_key = std::mem::take(&mut self.key_wanted);
        if is_key {
            self.since_key = 0;
            self.newest = Default::default();
            self.key_idx = (self.key_idx + 1) & 0x1f;
        } else {
            self.since_key += 1;
        }
        let temporal = self.temporal();
        self.picture_id = (self.picture_id + 1) & 0x7fff;
        if temporal == 0 {
            self.tl0 = self.tl0.wrapping_add(1);
        }
        if temporal == 0 {
            self.spatial_now = self.spatial_active;
        }
        let layers = self.spatial_layers();
        // A layer that was left out begins with what is below it.
        for absent in &mut self.newest[usize::from(layers)..] {
            *absent = Default::default();
        }
        let mut below = None;
        for spatial in 0..layers {
            let frame = self.frame(spatial, temporal, is_key, below, spatial + 1 == layers, truth, out);
            below = Some(frame);
        }
    }

    /// The frames of the same spatial layer that a frame needs.
    fn temporal_references(&self, spatial: u8, temporal: u8) -> Vec<usize> {
        let newest = &self.newest[usize::from(spatial)];
        let base = newest[0];
        let middle = newest[1].filter(|_| !self.is_fresh() || self.since_key % 4 == 3);
        let references = match temporal {
            0 => vec![base],
            // Two layers: the upper one goes on from itself but for every fourth time.
            1 if self.temporal_layers() == 2 => vec![base, newest[1].filter(|_| self.since_key % 8 != 1)],
            _ => vec![base, middle],
        };
        references.into_iter().flatten().collect()
    }

    #[expect(clippy::too_many_arguments, reason = "a test's helper")]
    fn frame(
        &mut self,
        spatial: u8,
        temporal: u8,
        is_key: bool,
        below: Option<usize>,
        is_top: bool,
        truth: &mut Truth,
        out: &mut Vec<Packet>,
    ) -> usize {
        let earlier = self.temporal_references(spatial, temporal);
        let is_keyed = matches!(self.mode, Mode::Av1 { keyed: true, .. });
        let below = below.filter(|_| !is_keyed || is_key);
        let references: Vec<usize> = earlier.iter().copied().chain(below).collect();
        let id = truth.frames.len();
        let scale = usize::from(self.spatial_layers() - spatial);
        let bytes = if is_key { self.bytes.1 } else { self.bytes.0 } / scale / scale;
        let count = bytes.div_ceil(1100).max(1);
        truth.frames.push(TrueFrame {
            source: (self.id, self.run),
            picture: self.picture,
            spatial,
            temporal,
            references: references.clone(),
            is_key: is_key && spatial == 0,
            packets: count,
            mode: self.mode,
        });
        self.frame_number = self.frame_number.wrapping_add(1);
        self.numbers.insert(id, self.frame_number);
        self.newest[usize::from(spatial)][usize::from(temporal)] = Some(id);

        for index in 0..count {
            self.seq += 1;
            let (is_first, is_last) = (index == 0, index + 1 == count);
            let mut payload = match self.mode {
                Mode::Vp8 { .. } => self.vp8(temporal, is_key, is_first, &earlier),
                Mode::Vp8Described { .. } => {
                    let mut payload = vec![if is_first { 0x10 } else { 0 }];
                    self.vp8_header(is_key && is_first, &mut payload);
                    payload
                }
                Mode::Vp9 { flexible, .. } => {
                    let frame = Vp9Frame { spatial, temporal, is_key, is_first, is_last, needs_lower: below.is_some() };
                    self.vp9(frame, flexible, &earlier, truth)
                }
                Mode::Av1 { .. } => vec![if is_key && spatial == 0 && is_first { 0x18 } else { 0x10 }, 0x32, 0],
                Mode::H264 => vec![0x7c, if is_first { 0x80 } else { 0 } | if is_key { 5 } else { 1 }],
            };
            let rest = bytes / count;
            payload.resize(payload.len().max(rest), 0);
            Tail { frame: id, index }.put(&mut payload);
            let mut ext = ExtensionValues::default();
            if matches!(self.mode, Mode::Av1 { .. } | Mode::Vp8Described { .. }) {
                let raw = self.descriptor(spatial, temporal, is_key, (is_first, is_last), &references);
                ext.user_values.set(DependencyDescriptor(raw.into()));
            }
            out.push(Packet {
                track: self.track,
                rid: self.rid,
                ssrc: self.ssrc,
                codec: match self.mode {
                    Mode::Vp8 { .. } | Mode::Vp8Described { .. } => Codec::Vp8,
                    Mode::Vp9 { .. } => Codec::Vp9,
                    Mode::Av1 { .. } => Codec::Av1,
                    Mode::H264 => Codec::H264,
                },
                seq: self.seq,
                time: self.time,
                clock_rate: 90_000,
                marker: is_last && is_top,
                payload,
                ext,
            });
        }
        id
    }

    fn vp8(&self, temporal: u8, is_key: bool, is_first: bool, earlier: &[usize]) -> Vec<u8> {
        let is_sync = self.marks && temporal > 0 && earlier.len() == 1;
        // The highest of three layers is needed by nobody.
        let is_discardable = temporal == 2;
        let head = 0x80 | if is_discardable { 0x20 } else { 0 } | if is_first { 0x10 } else { 0 };
        let [high, low] = (self.picture_id | 0x8000).to_be_bytes();
        let layer = temporal << 6 | u8::from(is_sync) << 5 | self.key_idx;
        let mut payload = vec![head, 0xf0, high, low, self.tl0, layer];
        self.vp8_header(is_key && is_first, &mut payload);
        payload
    }

    fn vp8_header(&self, is_key_start: bool, payload: &mut Vec<u8>) {
        if is_key_start {
            let ([a, b], [c, d]) = (self.size.0.to_le_bytes(), self.size.1.to_le_bytes());
            payload.extend([0x10, 0, 0, 0x9d, 0x01, 0x2a, a, b, c, d]);
        } else {
            payload.push(0x01);
        }
    }

    fn vp9(&self, frame: Vp9Frame, flexible: bool, earlier: &[usize], truth: &Truth) -> Vec<u8> {
        let has_structure = frame.is_key && frame.spatial == 0 && frame.is_first;
        let mut flags = 0xa0;
        let is_predicted = !earlier.is_empty();
        for (bit, is_set) in [
            (0x40, is_predicted),
            (0x10, flexible),
            (0x08, frame.is_first),
            (0x04, frame.is_last),
            (0x02, has_structure),
        ] {
            flags |= if is_set { bit } else { 0 };
        }
        let [high, low] = (self.picture_id | 0x8000).to_be_bytes();
        // What follows a base picture in the first half of eight needs nothing older of the upper layers.
        let is_switching_point = self.begins();
        let layer =
            frame.temporal << 5 | u8::from(is_switching_point) << 4 | frame.spatial << 1 | u8::from(frame.needs_lower);
        let mut payload = vec![flags, high, low, layer];
        if !flexible {
            payload.push(self.tl0);
        } else if is_predicted {
            let picture = |id: &usize| truth.frames[*id].picture;
            let diffs: Vec<u8> = earlier.iter().map(|id| (self.picture - picture(id)) as u8).collect();
            for (n, diff) in diffs.iter().enumerate() {
                payload.push(diff << 1 | u8::from(n + 1 < diffs.len()));
            }
        }
        if has_structure {
            let layers = self.spatial_layers();
            payload.push((layers - 1) << 5 | 0x10 | if flexible { 0 } else { 0x08 });
            for spatial in 0..layers {
                let shift = layers - 1 - spatial;
                payload.extend((self.size.0 >> shift).to_be_bytes());
                payload.extend((self.size.1 >> shift).to_be_bytes());
            }
            if !flexible {
                // One picture that needs the one before; nobody here reads it.
                payload.extend([1, 0x04, 1]);
            }
        }
        payload.push(0x82);
        payload
    }

    /// The dependency descriptor: everything by template but what the template does not have.
    fn descriptor(
        &self,
        spatial: u8,
        temporal: u8,
        is_key: bool,
        (is_first, is_last): (bool, bool),
        references: &[usize],
    ) -> Vec<u8> {
        let structure = self.structure();
        let template = structure.templates.iter().position(|t| (t.spatial, t.temporal) == (spatial, temporal));
        let template = template.expect("a template for every layer");
        let number = self.frame_number;
        let differences: Vec<u16> = references.iter().map(|id| number.wrapping_sub(self.numbers[id])).collect();
        let indications: Vec<Indication> =
            structure.targets.iter().map(|t| self.indication(spatial, temporal, is_key, self.begins(), *t)).collect();
        let known = &structure.templates[template];
        write(
            (is_first, is_last, self.structure_id.wrapping_add(template as u8) % 64, number),
            &structure,
            is_key && spatial == 0 && is_first,
            Some(self.active_targets(&structure)),
            (known.indications != indications).then_some(&indications[..]),
            (known.references != differences).then_some(&differences[..]),
            None,
        )
    }

    fn active_targets(&self, structure: &StructureSpec) -> u32 {
        let targets = structure.targets.iter().enumerate();
        targets.filter(|(_, (spatial, _))| *spatial < self.spatial_now).map(|(n, _)| 1 << n).sum()
    }

    fn structure(&self) -> StructureSpec {
        let spatial_layers = match self.mode {
            Mode::Av1 { spatial, .. } => spatial,
            _ => 1,
        };
        let layers = || (0..spatial_layers).flat_map(|s| (0..self.temporal_layers()).map(move |t| (s, t)));
        let targets: Vec<(u8, u8)> = layers().collect();
        let templates = layers()
            .map(|(spatial, temporal)| TemplateSpec {
                spatial,
                temporal,
                indications: targets.iter().map(|t| self.indication(spatial, temporal, false, false, *t)).collect(),
                references: vec![u16::from(spatial_layers)],
                chains: vec![1],
            })
            .collect();
        StructureSpec {
            first_id: self.structure_id,
            templates,
            protected_by: vec![0; targets.len()],
            targets,
            chains: 1,
            sizes: (0..spatial_layers)
                .map(|s| (self.size.0 >> (spatial_layers - 1 - s), self.size.1 >> (spatial_layers - 1 - s)))
                .collect(),
        }
    }

    /// Upper temporal layers begin anew after the first of eight pictures.
    fn begins(&self) -> bool {
        self.marks && self.since_key.is_multiple_of(8)
    }

    /// As Chromium's encoders say it.
    fn indication(
        &self,
        spatial: u8,
        temporal: u8,
        is_key: bool,
        begins: bool,
        (to_spatial, to_temporal): (u8, u8),
    ) -> Indication {
        let is_keyed = matches!(self.mode, Mode::Av1 { keyed: true, .. });
        if to_spatial < spatial || to_temporal < temporal || (is_keyed && !is_key && to_spatial != spatial) {
            return Indication::NotPresent;
        }
        if is_key {
            return Indication::Switch;
        }
        if to_spatial > spatial {
            return Indication::Required;
        }
        match temporal {
            0 if to_temporal == 0 || begins => Indication::Switch,
            0 => Indication::Required,
            2 => Indication::Discardable,
            _ => Indication::Required,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Vp9Frame {
    spatial: u8,
    temporal: u8,
    is_key: bool,
    is_first: bool,
    is_last: bool,
    needs_lower: bool,
}

/// Publishers, the machine, and everybody who watches.
pub struct Stage {
    pub room: Room,
    pub random: fastrand::Rng,
    pub truth: Truth,
    pub encoders: Vec<Encoder>,
    pub receivers: HashMap<Slot, receiver::Receiver>,
    pub events: Vec<Event>,
    pub requests: Vec<KeyframeRequest>,
    /// Encoders make the key frames they are asked for.
    pub answers: bool,
    /// Encoders stop and go as they are told.
    pub obeys: bool,
    /// Frames of which a packet never came to the machine.
    pub lost: HashSet<usize>,
    pub replay_max: usize,
    seed: u64,
    last_picture_ms: u64,
}

impl Stage {
    pub fn new(seed: u64) -> Stage {
        let mut room = Room::new();
        room.sfu = Sfu::new(SfuConfig { seed, ..SfuConfig::default() });
        Stage {
            room,
            random: fastrand::Rng::with_seed(seed),
            truth: Truth::default(),
            encoders: Vec::new(),
            receivers: HashMap::new(),
            events: Vec::new(),
            requests: Vec::new(),
            answers: true,
            obeys: true,
            lost: HashSet::new(),
            replay_max: 0,
            seed,
            last_picture_ms: 0,
        }
    }

    /// A published track with these encodings, the smallest first, each half the size of the next.
    pub fn publish(&mut self, track: TrackId, mode: Mode, rids: &[Option<&'static str>]) {
        self.room.sfu.publish(track, MediaKind::Video);
        for (n, rid) in rids.iter().enumerate() {
            let mut encoder = Encoder::new(self.encoders.len(), mode, track, *rid, &mut self.random);
            let shift = rids.len() - 1 - n;
            encoder.size = (1280 >> shift, 720 >> shift);
            encoder.bytes = (3200 >> (2 * shift), 12_800 >> (2 * shift));
            self.encoders.push(encoder);
        }
    }

    pub fn subscribe(&mut self, slot: Slot, track: TrackId, target: Target) {
        let (now, replay_max) = (self.room.now(), self.replay_max);
        assert!(self.room.sfu.subscribe(now, slot, track, target, replay_max, &mut self.room.out));
        self.collect();
    }

    pub fn set_target(&mut self, slot: Slot, target: Target) {
        let (now, replay_max) = (self.room.now(), self.replay_max);
        self.room.sfu.set_target(now, slot, target, replay_max, &mut self.room.out);
        self.collect();
    }

    pub fn encoder(&mut self, rid: &str) -> &mut Encoder {
        self.encoders.iter_mut().find(|e| e.rid == Some(rid)).expect("an encoder of that name")
    }

    /// One picture of every encoder, as it leaves them.
    pub fn make(&mut self) -> Vec<Packet> {
        let elapsed = (self.room.ms - self.last_picture_ms).clamp(1, 1000) as u32;
        self.last_picture_ms = self.room.ms;
        let mut packets = Vec::new();
        for encoder in &mut self.encoders {
            encoder.picture(elapsed, &mut self.truth, &mut packets);
        }
        packets
    }

    pub fn deliver(&mut self, packet: &Packet) {
        let out = self.room.send(packet);
        self.take(out);
    }

    /// What the machine wants to have done.
    pub fn poll(&mut self) {
        let now = self.room.now();
        self.room.sfu.handle_timeout(now);
        while let Some(event) = self.room.sfu.poll_event() {
            if let (Event::EncodingWanted { track, rid, wanted }, true) = (event, self.obeys) {
                for encoder in self.encoders.iter_mut().filter(|e| e.track == track && e.rid.map(Rid::from) == rid) {
                    encoder.key_wanted |= wanted && !encoder.is_active;
                    encoder.is_active = wanted;
                }
            }
            self.events.push(event);
        }
        while let Some(request) = self.room.sfu.poll_keyframe_request(now) {
            self.requests.push(request);
            for encoder in &mut self.encoders {
                if encoder.track == request.track && encoder.rid.map(Rid::from) == request.rid && self.answers {
                    encoder.key_wanted = true;
                }
            }
        }
        assert!(self.room.sfu.poll_timeout().is_none_or(|at| at > now), "all that was due has been polled");
        self.collect();
    }

    /// Thirty pictures a second.
    pub fn run(&mut self, ms: u64) {
        let end = self.room.ms + ms;
        while self.room.ms + 33 <= end {
            self.room.ms += 33;
            for packet in self.make() {
                self.deliver(&packet);
            }
            self.poll();
        }
        self.room.ms = end;
    }

    /// The layers that can be chosen: encoding, spatial, temporal.
    pub fn layers(&self) -> Vec<(u8, u8, u8)> {
        let infos = self.infos();
        infos.iter().map(|i| (i.layer.encoding, i.layer.spatial, i.layer.temporal)).collect()
    }

    pub fn infos(&self) -> Vec<LayerInfo> {
        let mut infos = Vec::new();
        self.room.sfu.layers(self.room.now(), TRACK, &mut infos);
        infos
    }

    pub fn forwarding(&self, slot: Slot) -> Option<(u8, u8, u8)> {
        self.room.sfu.forwarding(slot).map(|l| (l.encoding, l.spatial, l.temporal))
    }

    /// Judges everything that was ever received.
    pub fn verify(&self) {
        for (slot, receiver) in &self.receivers {
            receiver.verify(&self.truth, &self.lost, &format!("seed {}, slot {}", self.seed, slot.participant.slot));
        }
    }

    pub fn receiver(&self, slot: Slot) -> &receiver::Receiver {
        &self.receivers[&slot]
    }

    fn collect(&mut self) {
        let out = std::mem::take(&mut self.room.out);
        self.take(out);
    }

    fn take(&mut self, out: Vec<Forward>) {
        for forward in out {
            self.receivers.entry(forward.slot).or_default().push(forward, self.room.ms);
        }
    }
}

/// A target by numbers.
pub fn layer(encoding: u8, spatial: u8, temporal: u8) -> Target {
    Target::Layer(Layer { encoding, spatial, temporal })
}

/// The payload as a receiver reads it.
pub fn payload_of(forward: &Forward) -> Arc<[u8]> {
    apply(forward.vp8_patch, &forward.payload).into()
}
