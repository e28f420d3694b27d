//! How good everybody's connection is: ratings and warnings as they change, and figures when somebody asks.

use std::time::{Duration, Instant};

use serde::Serialize;
use str0m::media::{MediaKind, Mid, Rid};

use super::{Participant, RoomState, Shard};
use crate::auth::{Grants, Role};
use crate::base::{ParticipantKey, RoomId, TrackId, UserId};
use crate::http::question::{Reply, Unavailable};
use crate::peer::Peer;
use crate::quality::{Event, Path, Reason, Sample, Video};
use crate::room::{Kind, Source};
use crate::sfu::{LayerInfo, Slot};
use crate::signal::message::{self, ConnectionQuality, QualityWarning, RecordingInfo};

use super::signaling::mid_text;

impl Shard {
    /// The regular rating of one participant.
    pub(super) fn assess(&mut self, now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participant_mut(key) else { return };
        if now < participant.assess_at {
            return;
        }
        participant.assess_at = now + ASSESS_INTERVAL;
        if participant.peer.is_none() {
            return;
        }
        let sample = participant.sample();
        let mut events = std::mem::take(&mut self.ratings);
        if let Some(participant) = self.participant_mut(key) {
            participant.meter.handle_sample(&sample, &mut events);
        }
        for event in events.drain(..) {
            self.tell_quality(key, &event);
        }
        self.ratings = events;
    }

    fn tell_quality(&mut self, key: ParticipantKey, event: &Event) {
        let Some(participant) = self.participant(key) else { return };
        let index = participant.room;
        let state = &self.rooms[index];
        match event {
            Event::Rated(rating) => {
                let user = &participant.user;
                let data = ConnectionQuality { user_id: user, quality: rating.score, reason: rating.reason };
                let text = message::encode("quality", Some(&state.id), Some(user.as_str()), None, data);
                self.tell_others(index, None, text);
            }
            Event::Warning(warning) => {
                let data = QualityWarning {
                    kind: warning.kind,
                    direction: warning.direction,
                    value: warning.value,
                    active: warning.is_active,
                };
                let text = message::encode("quality-warning", Some(&state.id), Some("sfu"), None, data);
                self.send_to(key, text);
            }
        }
    }

    /// The figures of one participant's connection.
    pub(super) fn connection_stats(&self, now: Instant, key: ParticipantKey) -> Option<ConnectionStats<'_>> {
        let participant = self.participant(key)?;
        let state = self.rooms.get(participant.room)?;
        Some(ConnectionStats::of(now, participant, key, state))
    }

    /// Takes what a client says about the pictures that it is sent.
    pub(super) fn note_freezes(&mut self, key: ParticipantKey, freezes: &[message::Freezes]) {
        let Some(participant) = self.participant_mut(key) else { return };
        for told in freezes {
            if let Some(carried) = participant.carried.iter_mut().find(|c| mid_text(c.mid) == told.mid) {
                carried.freezes = Some(Freezes { count: told.count, ms: told.ms });
            }
        }
    }

    /// The figures of everybody in a room, for those who may see it: whoever is in it, and whoever moderates.
    pub(super) fn ask_stats(&self, now: Instant, room: &RoomId, grants: &Grants) -> Reply {
        let state = self.room_by_id.get(room).and_then(|index| self.rooms.get(*index));
        let is_visible = |state: &&RoomState| {
            let is_in_it = state.room.participants().any(|(_, p)| p.user == *grants.user());
            grants.role() >= Role::Moderator || is_in_it
        };
        let Some(state) = state.filter(is_visible) else { return Reply::Unavailable(Unavailable::NoRoom) };
        let participants: Vec<ConnectionStats<'_>> =
            state.room.participants().filter_map(|(key, _)| self.connection_stats(now, key)).collect();
        let stats = RoomStats {
            participant_count: participants.len(),
            participants,
            recording: state.tap.as_ref().and_then(|tap| tap.info()),
        };
        // What is serialized here has no maps with keys that are not strings, which is all that can fail.
        Reply::Json(serde_json::to_string(&stats).expect("statistics serialize"))
    }
}

impl Participant {
    fn sample(&self) -> Sample {
        let Some(peer) = &self.peer else { return Sample::default() };
        let stats = peer.stats();
        let kind_of = |mid: Mid| peer.lines().iter().find(|l| l.mid == mid).map(|l| l.kind);
        let is_audio = |mid: Mid| kind_of(mid) == Some(MediaKind::Audio);
        let jitter_up = stats.received().filter(|(mid, ..)| is_audio(*mid)).map(|(_, _, r)| r.jitter).max();
        let jitter_down = stats.sent().filter(|(mid, _)| is_audio(*mid)).filter_map(|(_, s)| s.jitter).max();
        let video: Vec<_> = self.carried.iter().filter(|c| c.kind == MediaKind::Video).collect();
        let video = if !self.is_limited {
            Video::Fine
        } else if video.iter().all(|c| c.bitrate == 0) {
            Video::Paused
        } else {
            Video::Limited
        };
        Sample {
            send: Path { loss: stats.loss_up, jitter: jitter_up.map(audio_time), ..Path::default() },
            receive: Path {
                loss: stats.loss_down,
                jitter: jitter_down.map(audio_time),
                video,
                estimate: peer.estimate(),
            },
            rtt: stats.rtt,
            is_lost: self.presence.is_told(),
        }
    }
}

/// Units of the audio clock as time.
fn audio_time(units: u32) -> Duration {
    Duration::from_micros(u64::from(units) * 1_000_000 / 48_000)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoomStats<'a> {
    participant_count: usize,
    participants: Vec<ConnectionStats<'a>>,
    /// `null` while nothing is recorded.
    recording: Option<RecordingInfo<'a>>,
}

/// Figures of the last second or so. Absent: not measured (yet).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConnectionStats<'a> {
    user_id: &'a UserId,
    /// `"ok"`, `"lost"`, or `"none"` without a media connection.
    connection: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality_reason: Option<Reason>,
    /// Milliseconds, there and back.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt: Option<f64>,
    /// Bit/s that the way to the participant is believed to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<u64>,
    /// Shares of packets that were lost, before retransmission: on the way from and to the participant.
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_loss_up: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_loss_down: Option<f32>,
    /// Packets in which each audio frame is repeated.
    audio_redundancy: usize,
    /// Video is smaller than wished for, or paused, for want of bandwidth.
    bandwidth_limited: bool,
    /// What the participant publishes, by track and encoding.
    sent: Vec<SentTrack<'a>>,
    /// What the participant is sent.
    received: Vec<ReceivedTrack<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SentTrack<'a> {
    track_id: TrackId,
    kind: Kind,
    source: Source,
    mid: &'a str,
    muted: bool,
    encodings: Vec<Encoding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<message::Layer>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Encoding {
    #[serde(skip_serializing_if = "Option::is_none")]
    rid: Option<String>,
    bitrate: u64,
    packets: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_loss: Option<f32>,
    /// Milliseconds.
    jitter: f64,
    nacks: u64,
    keyframe_requests: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReceivedTrack<'a> {
    mid: String,
    track_id: TrackId,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a UserId>,
    kind: Kind,
    bitrate: u64,
    packets: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_loss: Option<f32>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<f64>,
    nacks: u64,
    keyframe_requests: u64,
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<message::Layer>,
    /// As the participant told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    freezes: Option<Freezes>,
}

/// How often a picture stood still, and for how long altogether, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Freezes {
    count: u32,
    ms: u32,
}

impl<'a> ConnectionStats<'a> {
    fn of(now: Instant, participant: &'a Participant, key: ParticipantKey, state: &'a RoomState) -> Self {
        let rating = participant.meter.rating();
        let connection = match &participant.peer {
            _ if participant.presence.is_told() => "lost",
            Some(peer) if peer.is_connected() => "ok",
            _ => "none",
        };
        let stats = participant.peer.as_ref().map(Peer::stats);
        let mut layers = Vec::new();
        ConnectionStats {
            user_id: &participant.user,
            connection,
            quality: rating.map(|r| r.score),
            quality_reason: rating.map(|r| r.reason),
            rtt: stats.and_then(|s| s.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0),
            estimate: participant.peer.as_ref().and_then(Peer::estimate),
            packet_loss_up: stats.and_then(|s| s.loss_up),
            packet_loss_down: stats.and_then(|s| s.loss_down),
            audio_redundancy: participant.peer.as_ref().map_or(0, Peer::redundancy),
            bandwidth_limited: participant.is_limited,
            sent: participant.sent_tracks(now, key, state, &mut layers),
            received: participant.received_tracks(now, key, state, &mut layers),
        }
    }
}

impl Participant {
    fn sent_tracks<'a>(
        &'a self,
        now: Instant,
        key: ParticipantKey,
        state: &'a RoomState,
        layers: &mut Vec<LayerInfo>,
    ) -> Vec<SentTrack<'a>> {
        let own = state.room.tracks().filter(|(owner, _)| *owner == key);
        own.map(|(_, track)| {
            let mid: Mid = track.meta.mid.as_str().into();
            let rate = clock_rate(track.meta.kind);
            let received = self.peer.iter().flat_map(|peer| peer.stats().received());
            let mut encodings: Vec<Encoding> = received
                .filter(|(m, ..)| *m == mid)
                .map(|(_, rid, figures)| Encoding {
                    rid: rid.as_ref().map(Rid::to_string),
                    bitrate: figures.bitrate,
                    packets: figures.packets,
                    bytes: figures.bytes,
                    packet_loss: figures.loss,
                    jitter: f64::from(figures.jitter) * 1000.0 / rate,
                    nacks: figures.nacks,
                    keyframe_requests: figures.plis,
                })
                .collect();
            encodings.sort_by(|a, b| a.rid.cmp(&b.rid));
            layers.clear();
            state.sfu.layers(now, track.meta.id, layers);
            SentTrack {
                track_id: track.meta.id,
                kind: track.meta.kind,
                source: track.meta.source,
                mid: &track.meta.mid,
                muted: track.muted,
                encodings,
                layers: layers.iter().map(super::control::described).collect(),
            }
        })
        .collect()
    }

    fn received_tracks<'a>(
        &'a self,
        now: Instant,
        key: ParticipantKey,
        state: &'a RoomState,
        layers: &mut Vec<LayerInfo>,
    ) -> Vec<ReceivedTrack<'a>> {
        self.carried
            .iter()
            .map(|carried| {
                let kind = if carried.kind == MediaKind::Audio { Kind::Audio } else { Kind::Video };
                let owner = state.sources.get(&carried.track).map(|(owner, _)| *owner);
                let figures = self
                    .peer
                    .iter()
                    .flat_map(|peer| peer.stats().sent())
                    .find(|(mid, _)| *mid == carried.mid)
                    .map(|(_, figures)| *figures)
                    .unwrap_or_default();
                let forwarded = state.sfu.forwarding(Slot { participant: key, mid: carried.mid });
                layers.clear();
                state.sfu.layers(now, carried.track, layers);
                let layer = layers.iter().find(|info| Some(info.layer) == forwarded && kind == Kind::Video);
                ReceivedTrack {
                    mid: mid_text(carried.mid),
                    track_id: carried.track,
                    user_id: owner.and_then(|owner| state.room.participant(owner)).map(|p| &p.user),
                    kind,
                    bitrate: figures.bitrate,
                    packets: figures.packets,
                    bytes: figures.bytes,
                    packet_loss: figures.loss,
                    jitter: figures.jitter.map(|jitter| f64::from(jitter) * 1000.0 / clock_rate(kind)),
                    nacks: figures.nacks,
                    keyframe_requests: figures.plis,
                    paused: carried.target == Some(crate::sfu::Target::Paused),
                    layer: layer.map(super::control::described),
                    freezes: carried.freezes,
                }
            })
            .collect()
    }
}

/// Of the codecs that calls use, in Hz.
fn clock_rate(kind: Kind) -> f64 {
    match kind {
        Kind::Audio => 48_000.0,
        Kind::Video => 90_000.0,
    }
}

/// What str0m measures in a second, twice.
const ASSESS_INTERVAL: Duration = Duration::from_secs(2);
