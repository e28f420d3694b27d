//! The tap: what is recorded of a room, and who starts and stops that.
//!
//! A recorder is a subscriber of every track at its best layer, by a [`Slot`] that no participant has; so layers are chosen,
//! publishers told what is wanted, and requests for key frames merged as for anybody else. What it is sent goes to the thread
//! that records, a batch at a time, payloads by reference.
//!
//! ```text
//!   start ─► Begin ─► (thread) ─► Opened ─► everybody is told ─► slots are subscribed ─► batches … ─► Finish
//!                              └► Refused ─► whoever asked is told
//! ```
//!
//! The way to the thread is bounded: by batches, and by the octets that wait in them (`LIMIT_RECORDING_QUEUE`). What does not
//! fit is not recorded, and the recording says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use str0m::media::Mid;
use str0m::rtp::rtcp::SenderInfo;

use super::whip::Asker;
use super::{Output, Shard};
use crate::base::{ParticipantKey, RecordingId, RoomId, TrackId, UserId, rfc3339};
use crate::http::question::{Control, Controlled, Reply};
use crate::recording::command::{Command, Start};
use crate::recording::feed::{
    Arrival, Begin, EndReason, Feed, Item, Notice, NoticeKind, Packet, Refusal, Report, TrackInfo as TapTrackInfo,
};
use crate::recording::library::{Inquiry, Status};
use crate::room::{LeaveReason, Source, TrackMeta};
use crate::sfu::{Forward, Incoming, Slot, Target};
use crate::signal::message::{
    self, ErrorCode, RecordingCompleted, RecordingInfo, RecordingStarted, RecordingState, RecordingStopped, RequestId,
};

use super::signaling::media_kind;

/// A recording that is made of a room.
pub(super) struct Tap {
    pub recording: RecordingId,
    phase: Phase,
    start: Start,
    by: Option<UserId>,
    since: SystemTime,
    tracks: Vec<TapTrack>,
    next_number: u32,
    items: Vec<Item>,
    /// Octets of payload in `items`.
    octets: usize,
    backlog: Arc<AtomicUsize>,
}

enum Phase {
    /// The thread has not answered yet. Whoever waits for that is told.
    Opening(Vec<Waiter>),
    Recording,
    Paused,
}

/// Who asked for it by signaling, and the id of the request.
type Asked<'a> = (ParticipantKey, Option<&'a RequestId>);

/// Who asked for a recording.
enum Waiter {
    Http(Asker),
    Client(ParticipantKey, Option<RequestId>),
}

struct TapTrack {
    number: u32,
    id: TrackId,
    is_video: bool,
    /// Of the last packet that was recorded.
    ssrc: Option<u32>,
    /// The last report that was passed on of each of its SSRCs, as SSRC and RTP time; the oldest first.
    reports: Vec<(u32, u32)>,
    /// Packets that found no room since this was last said.
    dropped: u32,
}

impl Tap {
    fn status(&self) -> Status {
        match self.phase {
            Phase::Opening(_) | Phase::Recording => Status::Recording,
            Phase::Paused => Status::Paused,
        }
    }

    /// What clients are told of it; nothing before everybody was told that it began.
    pub fn info(&self) -> Option<RecordingInfo<'_>> {
        let is_told = !matches!(self.phase, Phase::Opening(_));
        is_told.then(|| RecordingInfo { recording_id: self.recording.as_str(), status: self.status().as_str() })
    }

    fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Opening(_))
    }

    fn takes(&self, track: &TrackMeta, names: [&UserId; 2]) -> bool {
        let is_wanted = |wanted: &Vec<UserId>| wanted.iter().any(|user| names.contains(&user));
        (track.kind == crate::room::Kind::Audio || !self.start.audio_only)
            && self.start.participants.as_ref().is_none_or(is_wanted)
    }

    /// A track whose packets may come without being recorded.
    fn video(&self, track: TrackId) -> Option<&TapTrack> {
        self.tracks.iter().find(|t| t.id == track && t.is_video)
    }

    /// The publisher's clock, as far as it is news.
    pub fn note_report(&mut self, track: TrackId, info: &SenderInfo, ssrc: u32, clock_rate: u32, arrival: Instant) {
        let Some(track) = self.tracks.iter_mut().find(|t| t.id == track) else { return };
        let time = info.rtp_time.numer() as u32;
        match track.reports.iter_mut().find(|(of, _)| *of == ssrc) {
            Some((_, known)) if *known == time => return,
            Some((_, known)) => *known = time,
            None => {
                if track.reports.len() >= SSRCS_MAX {
                    track.reports.remove(0);
                }
                track.reports.push((ssrc, time));
            }
        }
        let report = Report { track: track.number, ssrc, ntp: info.ntp_time, time, clock_rate, arrival };
        self.items.push(Item::Report(report));
    }

    /// Takes a packet, unless too much waits already. `true`: a batch is full.
    fn take(&mut self, forward: Forward, most: usize) -> bool {
        let number = forward.slot.mid.parse::<u32>().unwrap_or(0);
        // They ascend, since they are given out in order.
        let Ok(place) = self.tracks.binary_search_by_key(&number, |track| track.number) else { return false };
        let track = &mut self.tracks[place];
        let size = forward.payload.len();
        if self.backlog.load(Ordering::Relaxed) + self.octets + size > most {
            track.dropped = track.dropped.saturating_add(1);
            return false;
        }
        self.octets += size;
        track.ssrc = Some(forward.origin.ssrc);
        self.items.push(Item::Packet(Packet {
            track: number,
            ssrc: forward.origin.ssrc,
            seq_no: *forward.seq_no,
            time: forward.origin.time,
            clock_rate: forward.origin.clock_rate,
            codec: forward.codec,
            red: forward.red,
            marker: forward.marker,
            payload: forward.payload,
            arrival: forward.arrival,
        }));
        self.items.len() >= BATCH
    }

    /// What waits, for the thread. `None`: nothing does.
    fn batch(&mut self, now: Instant) -> Option<Feed> {
        for track in self.tracks.iter_mut().filter(|track| track.dropped > 0) {
            let packets = std::mem::take(&mut track.dropped);
            self.items.push(Item::Overflow { at: now, track: track.number, packets });
        }
        if self.items.is_empty() {
            return None;
        }
        self.backlog.fetch_add(std::mem::take(&mut self.octets), Ordering::Relaxed);
        let items = std::mem::replace(&mut self.items, Vec::with_capacity(BATCH));
        Some(Feed::Batch { recording: self.recording.clone(), items })
    }

    /// The thread did not take a batch: media of it is gone, everything else comes with the next.
    fn take_back(&mut self, items: Vec<Item>) {
        let mut kept = Vec::with_capacity(items.len());
        let mut octets = 0;
        for item in items {
            match item {
                Item::Packet(packet) => {
                    octets += packet.payload.len();
                    if let Some(track) = self.tracks.iter_mut().find(|t| t.number == packet.track) {
                        track.dropped = track.dropped.saturating_add(1);
                    }
                }
                item => kept.push(item),
            }
        }
        self.backlog.fetch_sub(octets, Ordering::Relaxed);
        kept.append(&mut self.items);
        self.items = kept;
    }
}

impl Shard {
    // ---- commands ----

    /// A request about the recording of a room; the answer goes to `from`, maybe later.
    pub(super) fn ask_recording(&mut self, now: Instant, from: Asker, room: &RoomId, control: Control) {
        let Some(index) = self.room_by_id.get(room).copied() else {
            let reply = control.without_recording(room);
            return self.answer(from, reply);
        };
        let by = Some(control.grants.user().clone());
        match control.command {
            Command::Start(start) => {
                if let Err(refused) = self.begin_recording(now, index, start, by, Some(Waiter::Http(from))) {
                    self.answer(from, Reply::Controlled(refused));
                }
            }
            Command::Stop => {
                let reply = match self.end_recording(now, index, EndReason::Requested, None) {
                    Some(recording) => Reply::Controlled(Controlled::Is { recording, status: Status::Stopping }),
                    None => control.without_recording(room),
                };
                self.answer(from, reply);
            }
            Command::Pause | Command::Resume => {
                let is_pause = matches!(control.command, Command::Pause);
                let reply = match self.pause_recording(now, index, is_pause, None) {
                    Some((recording, status)) => Reply::Controlled(Controlled::Is { recording, status }),
                    None => control.without_recording(room),
                };
                self.answer(from, reply);
            }
        }
    }

    /// `start-recording` and its like, of somebody in the room.
    pub(super) fn command_recording(
        &mut self,
        now: Instant,
        key: ParticipantKey,
        id: Option<&RequestId>,
        command: Command,
    ) -> Result<(), (ErrorCode, String)> {
        let Some(index) = self.participant(key).map(|p| p.room) else { return Ok(()) };
        let Some(participant) = self.rooms[index].room.participant(key) else { return Ok(()) };
        if !participant.permissions.record {
            return Err((ErrorCode::Forbidden, "the token does not allow to record".into()));
        }
        let by = Some(participant.user.clone());
        let is_pause = matches!(command, Command::Pause);
        let done = match command {
            Command::Start(start) => {
                let waiter = Waiter::Client(key, id.cloned());
                return self.begin_recording(now, index, start, by, Some(waiter)).map_err(|refused| refused.error());
            }
            Command::Stop => self.end_recording(now, index, EndReason::Requested, Some((key, id))).is_some(),
            Command::Pause | Command::Resume => self.pause_recording(now, index, is_pause, Some((key, id))).is_some(),
        };
        done.then_some(()).ok_or_else(|| (ErrorCode::NotRecording, "nothing is recorded".into()))
    }

    fn begin_recording(
        &mut self,
        now: Instant,
        index: usize,
        start: Start,
        by: Option<UserId>,
        waiter: Option<Waiter>,
    ) -> Result<(), Controlled> {
        let state = &mut self.rooms[index];
        if let Some(tap) = &state.tap {
            return Err(Controlled::Active(tap.recording.clone()));
        }
        if !self.config.recording.allowed {
            return Err(Controlled::NotAllowed);
        }
        if self.draining {
            return Err(Controlled::Draining);
        }
        let unix = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut random = [0; 9];
        openssl::rand::rand_bytes(&mut random).expect("OpenSSL's generator is seeded");
        let recording = RecordingId::new(unix.as_millis() as u64, random);
        let tap = Tap {
            recording: recording.clone(),
            phase: Phase::Opening(waiter.into_iter().collect()),
            start,
            by,
            since: self.wall,
            tracks: Vec::new(),
            next_number: 1,
            items: Vec::new(),
            octets: 0,
            backlog: Arc::default(),
        };
        let begin = Begin {
            recording,
            room: state.id.clone(),
            worker: self.id,
            at: now,
            wall: self.wall,
            by: tap.by.clone(),
            audio_only: tap.start.audio_only,
            participants: tap.start.participants.clone(),
            backlog: tap.backlog.clone(),
        };
        state.tap = Some(tap);
        self.outputs.push_back(Output::Record(Feed::Begin(Box::new(begin))));
        Ok(())
    }

    /// Ends what is recorded of a room, if something is, and tells everybody.
    pub(super) fn end_recording(
        &mut self,
        now: Instant,
        index: usize,
        reason: EndReason,
        asked: Option<Asked<'_>>,
    ) -> Option<RecordingId> {
        let recording = self.close_tap(now, index, reason)?;
        let data = RecordingStopped { recording_id: recording.as_str(), reason: reason.as_str() };
        self.tell_recording(index, "recording-stopped", &data, asked);
        Some(recording)
    }

    /// The thread is told to complete the file. Who still waits for its beginning is told that there is none.
    fn close_tap(&mut self, now: Instant, index: usize, reason: EndReason) -> Option<RecordingId> {
        let state = self.rooms.get_mut(index)?;
        let mut tap = state.tap.take()?;
        state.sfu.remove_participant(recorder(index));
        tap.items.push(Item::Finish { at: now, reason });
        let waiters = match &mut tap.phase {
            Phase::Opening(waiters) => std::mem::take(waiters),
            _ => Vec::new(),
        };
        if let Some(feed) = tap.batch(now) {
            self.outputs.push_back(Output::Record(feed));
        }
        self.refuse_waiters(waiters, &Controlled::Refused(Refusal::Failed("it was ended before it began".into())));
        self.metrics.set_recordings(self.rooms.iter().filter(|(_, state)| state.tap.is_some()).count());
        Some(tap.recording)
    }

    fn pause_recording(
        &mut self,
        now: Instant,
        index: usize,
        is_pause: bool,
        asked: Option<Asked<'_>>,
    ) -> Option<(RecordingId, Status)> {
        let tap = self.rooms[index].tap.as_mut()?;
        let changes = match (&tap.phase, is_pause) {
            (Phase::Recording, true) => {
                tap.phase = Phase::Paused;
                tap.items.push(Item::Paused { at: now });
                true
            }
            (Phase::Paused, false) => {
                tap.phase = Phase::Recording;
                tap.items.push(Item::Resumed { at: now });
                true
            }
            _ => false,
        };
        let (recording, status) = (tap.recording.clone(), tap.status());
        if changes {
            let target = if is_pause { Target::Paused } else { Target::Best };
            let slots: Vec<Slot> = tap.tracks.iter().map(|track| slot(index, track.number)).collect();
            let state = &mut self.rooms[index];
            for slot in slots {
                state.sfu.set_target(now, slot, target, 0, &mut self.forwards);
            }
            self.serve_sfu(now, index);
            // Whoever asks next for its status is to read this one.
            self.feed(now, index);
        }
        let data = RecordingState { recording_id: recording.as_str(), status: status.as_str() };
        let word = if is_pause { "recording-paused" } else { "recording-resumed" };
        if changes {
            self.tell_recording(index, word, &data, asked);
        } else if let Some((key, id)) = asked {
            let text = message::encode(word, Some(&self.rooms[index].id), Some("sfu"), id, &data);
            self.send_to(key, text);
        }
        Some((recording, status))
    }

    /// The settings want every call recorded: begins with the first who comes.
    pub(super) fn auto_record(&mut self, now: Instant, index: usize) {
        if self.config.recording.auto && !self.rooms[index].was_recorded {
            self.rooms[index].was_recorded = true;
            let start = Start { audio_only: false, participants: None };
            if let Err(refused) = self.begin_recording(now, index, start, None, None) {
                tracing::error!(target: "webrtc_engine::recording", room = %self.rooms[index].id, "not recorded: {}", refused.error().1);
            }
        }
    }

    // ---- what the thread says ----

    /// Something about a recording of a room that lives, or lived, here.
    pub(super) fn on_notice(&mut self, now: Instant, notice: Notice) {
        let Notice { room, recording, what } = notice;
        let Some(index) = self.room_by_id.get(&room).copied() else { return };
        let is_current = self.rooms[index].tap.as_ref().is_some_and(|tap| tap.recording == recording);
        match what {
            NoticeKind::Opened if is_current => self.open_tap(now, index),
            NoticeKind::Refused(refusal) if is_current => self.on_refused(index, refusal),
            NoticeKind::KeyframeWanted { track } if is_current => {
                self.rooms[index].sfu.handle_keyframe_request(now, slot(index, track));
                self.serve_sfu(now, index);
            }
            NoticeKind::Ended(reason) if is_current => {
                if let Some(tap) = self.rooms[index].tap.take() {
                    self.rooms[index].sfu.remove_participant(recorder(index));
                    let data = RecordingStopped { recording_id: tap.recording.as_str(), reason: reason.as_str() };
                    self.tell_recording(index, "recording-stopped", &data, None);
                }
            }
            NoticeKind::Completed { duration_ms, .. } => {
                self.tell_completed(index, &recording, Status::Completed, Some(duration_ms), None);
            }
            NoticeKind::Failed { error } => {
                self.tell_completed(index, &recording, Status::Failed, None, Some(&error));
            }
            // About one that has ended meanwhile.
            _ => {}
        }
    }

    /// The file is there: everybody is told, and only then something of them is recorded.
    fn open_tap(&mut self, now: Instant, index: usize) {
        let state = &mut self.rooms[index];
        let Some(tap) = &mut state.tap else { return };
        let Phase::Opening(waiters) = std::mem::replace(&mut tap.phase, Phase::Recording) else { return };
        state.was_recorded = true;
        let recording = tap.recording.clone();
        let (by, since) = (tap.by.clone(), tap.since);
        let data = RecordingStarted {
            recording_id: recording.as_str(),
            status: Status::Recording.as_str(),
            by: by.as_ref(),
            started_at: rfc3339(since),
        };
        let asked = waiters.iter().find_map(|waiter| match waiter {
            Waiter::Client(key, id) => Some((*key, id.clone())),
            Waiter::Http(_) => None,
        });
        let asked = asked.as_ref().map(|(key, id)| (*key, id.as_ref()));
        self.tell_recording(index, "recording-started", &data, asked);
        for waiter in waiters {
            if let Waiter::Http(from) = waiter {
                self.answer(from, Reply::Controlled(Controlled::Started(recording.clone())));
            }
        }
        let keys: Vec<ParticipantKey> = self.rooms[index].room.participants().map(|(key, _)| key).collect();
        for key in keys {
            self.tap_joined(now, index, key);
        }
        let tracks: Vec<(ParticipantKey, TrackMeta)> =
            self.rooms[index].room.tracks().map(|(owner, track)| (owner, track.meta.clone())).collect();
        for (owner, track) in tracks {
            self.tap_track(now, index, owner, &track);
        }
        self.metrics.set_recordings(self.rooms.iter().filter(|(_, state)| state.tap.is_some()).count());
        self.serve_sfu(now, index);
    }

    fn on_refused(&mut self, index: usize, refusal: Refusal) {
        let Some(tap) = self.rooms[index].tap.take() else { return };
        let refused = Controlled::Refused(refusal);
        tracing::error!(target: "webrtc_engine::recording", room = %self.rooms[index].id, "not recorded: {}", refused.error().1);
        if let Phase::Opening(waiters) = tap.phase {
            self.refuse_waiters(waiters, &refused);
        }
    }

    fn refuse_waiters(&mut self, waiters: Vec<Waiter>, refused: &Controlled) {
        for waiter in waiters {
            match waiter {
                Waiter::Http(from) => self.answer(from, Reply::Controlled(refused.clone())),
                Waiter::Client(key, id) => {
                    let (code, text) = refused.error();
                    let room = self.participant(key).map(|p| &self.rooms[p.room].id);
                    let text = message::encode_error(room, id.as_ref(), code, &text);
                    self.send_to(key, text);
                }
            }
        }
    }

    /// The way to the thread is full, or the thread is gone.
    pub fn handle_feed_refused(&mut self, now: Instant, feed: Feed) {
        match feed {
            Feed::Begin(begin) => {
                let Begin { room, recording, .. } = *begin;
                let what = NoticeKind::Refused(Refusal::Busy);
                self.on_notice(now, Notice { room, recording, what });
            }
            Feed::Batch { recording, items } => {
                let taps = self.rooms.iter_mut().filter_map(|(_, state)| state.tap.as_mut());
                if let Some(tap) = taps.into_iter().find(|tap| tap.recording == recording) {
                    tap.take_back(items);
                } else if self.unfed.len() < UNFED_MAX {
                    // It has ended. Its end must come through, or its file would never be completed.
                    self.unfed.push((now + RETRY_FEED, Feed::Batch { recording, items }));
                }
            }
        }
    }

    /// Ends of recordings that the thread had no room for, when it is time.
    pub(super) fn feed_again(&mut self, now: Instant) {
        for place in (0..self.unfed.len()).rev().filter(|place| self.unfed[*place].0 <= now).collect::<Vec<_>>() {
            let (_, feed) = self.unfed.swap_remove(place);
            self.outputs.push_back(Output::Record(feed));
        }
    }

    // ---- what happens in the room ----

    /// A packet for the recorder's slot.
    pub(super) fn record(&mut self, now: Instant, forward: Forward) {
        let index = forward.slot.participant.generation as usize;
        let most = self.config.limits.recording_queue;
        let Some(tap) = self.rooms.get_mut(index).and_then(|state| state.tap.as_mut()) else { return };
        if tap.take(forward, most) {
            self.feed(now, index);
        }
    }

    /// While no picture of a track is recorded, or another encoding is, its packets still tell how long they are under way: the first
    /// key frame takes longer than others, and what comes after it would seem to be early.
    pub(super) fn note_arrival(&mut self, index: usize, packet: &Incoming<'_>) {
        let Some(state) = self.rooms.get_mut(index) else { return };
        let Some(tap) = state.tap.as_mut().filter(|tap| tap.is_open() && tap.items.len() < BATCH) else { return };
        let Some(track) = tap.video(packet.track) else { return };
        let (track, is_other) = (track.number, track.ssrc.is_some_and(|ssrc| ssrc != packet.ssrc));
        if is_other || state.sfu.forwarding(slot(index, track)).is_none() {
            let Incoming { ssrc, time, clock_rate, arrival, .. } = *packet;
            tap.items.push(Item::Arrival(Arrival { track, ssrc, time, clock_rate, arrival }));
        }
    }

    /// Sends what waits to the thread.
    pub(super) fn feed(&mut self, now: Instant, index: usize) {
        let Some(tap) = self.rooms.get_mut(index).and_then(|state| state.tap.as_mut()) else { return };
        if tap.is_open()
            && let Some(feed) = tap.batch(now)
        {
            self.outputs.push_back(Output::Record(feed));
        }
    }

    pub(super) fn tap_joined(&mut self, now: Instant, index: usize, key: ParticipantKey) {
        let state = &mut self.rooms[index];
        let Some(p) = state.room.participant(key) else { return };
        if let Some(tap) = state.tap.as_mut().filter(|tap| tap.is_open()) {
            let (user, name, role) = (p.user.clone(), p.display_name.clone(), p.role.name());
            tap.items.push(Item::Joined { at: now, user, name, role });
        }
    }

    pub(super) fn tap_left(&mut self, now: Instant, index: usize, user: &UserId, reason: LeaveReason) {
        if let Some(tap) = self.open_tap_of(index) {
            tap.items.push(Item::Left { at: now, user: user.clone(), reason: reason.as_str() });
        }
    }

    pub(super) fn tap_track(&mut self, now: Instant, index: usize, owner: ParticipantKey, track: &TrackMeta) {
        let state = &mut self.rooms[index];
        let Some(p) = state.room.participant(owner) else { return };
        let is_muted = state.room.track(track.id).is_some_and(|(_, t)| t.muted);
        let Some(tap) = state.tap.as_mut().filter(|tap| tap.is_open() && tap.takes(track, [&p.user, &p.person])) else {
            return;
        };
        let number = tap.next_number;
        tap.next_number += 1;
        let is_video = track.kind == crate::room::Kind::Video;
        tap.tracks.push(TapTrack { number, id: track.id, is_video, ssrc: None, reports: Vec::new(), dropped: 0 });
        let info = TapTrackInfo {
            number,
            id: track.id,
            user: p.user.clone(),
            kind: media_kind(track.kind),
            source: source_word(track.source),
            name: track.name.clone(),
        };
        tap.items.push(Item::TrackAdded { at: now, track: info });
        if is_muted {
            tap.items.push(Item::Muted { at: now, track: number, muted: true });
        }
        let target = if matches!(tap.phase, Phase::Paused) { Target::Paused } else { Target::Best };
        // What was kept for newcomers is from before the beginning.
        state.sfu.subscribe(now, slot(index, number), track.id, target, 0, &mut self.forwards);
    }

    pub(super) fn untap_track(&mut self, now: Instant, index: usize, track: TrackId) {
        let Some(tap) = self.open_tap_of(index) else { return };
        let Some(place) = tap.tracks.iter().position(|t| t.id == track) else { return };
        let number = tap.tracks.remove(place).number;
        tap.items.push(Item::TrackRemoved { at: now, track: number });
    }

    pub(super) fn tap_muted(&mut self, now: Instant, index: usize, track: TrackId, muted: bool) {
        let Some(tap) = self.open_tap_of(index) else { return };
        let Some(number) = tap.tracks.iter().find(|t| t.id == track).map(|t| t.number) else { return };
        tap.items.push(Item::Muted { at: now, track: number, muted });
    }

    pub(super) fn tap_speakers(&mut self, now: Instant, index: usize, users: Vec<UserId>) {
        if let Some(tap) = self.open_tap_of(index) {
            tap.items.push(Item::Speakers { at: now, users });
        }
    }

    fn open_tap_of(&mut self, index: usize) -> Option<&mut Tap> {
        self.rooms.get_mut(index)?.tap.as_mut().filter(|tap| tap.is_open())
    }

    // ---- what people are told ----

    /// Everybody; whoever asked for it, with the id of the request.
    fn tell_recording(&mut self, index: usize, word: &'static str, data: &impl Serialize, asked: Option<Asked<'_>>) {
        let room = &self.rooms[index].id;
        let text = message::encode(word, Some(room), Some("sfu"), None, data);
        if let Some((key, id)) = asked {
            let reply = message::encode(word, Some(room), Some("sfu"), id, data);
            self.send_to(key, reply);
        }
        self.tell_others(index, asked.map(|(key, _)| key), text);
    }

    fn tell_completed(
        &mut self,
        index: usize,
        recording: &RecordingId,
        status: Status,
        duration_ms: Option<u64>,
        error: Option<&str>,
    ) {
        let state = &self.rooms[index];
        let data = RecordingCompleted { recording_id: recording.as_str(), status: status.as_str(), duration_ms, error };
        let text = message::encode("recording-completed", Some(&state.id), Some("sfu"), None, data);
        self.tell_others(index, None, text);
    }
}

impl Control {
    /// What is answered when nothing is recorded: a stop is content with what was recorded last.
    pub(super) fn without_recording(&self, room: &RoomId) -> Reply {
        match self.command {
            Command::Stop => Reply::Library(Inquiry::Latest { room: room.clone() }),
            Command::Start(_) => Reply::Unavailable(crate::http::question::Unavailable::NoRoom),
            Command::Pause | Command::Resume => Reply::Controlled(Controlled::NotRecording),
        }
    }
}

impl Controlled {
    /// As a client is told by signaling.
    fn error(&self) -> (ErrorCode, String) {
        match self {
            Controlled::Active(recording) => (ErrorCode::RecordingActive, format!("{recording} is under way")),
            Controlled::NotAllowed => (ErrorCode::Forbidden, "recordings are not allowed".into()),
            Controlled::Draining => (ErrorCode::ServerDraining, "the server is going away".into()),
            Controlled::Refused(Refusal::DiskFull) => {
                (ErrorCode::NotAvailable, "there is not enough room on the disk".into())
            }
            Controlled::Refused(Refusal::TooMany) => {
                (ErrorCode::Overloaded, "as many recordings as there may be are under way".into())
            }
            Controlled::Refused(Refusal::Busy) => (ErrorCode::Overloaded, "the server is busy, try again".into()),
            Controlled::Refused(Refusal::Failed(why)) => (ErrorCode::Internal, why.clone()),
            Controlled::NotRecording | Controlled::Is { .. } | Controlled::Started(_) => {
                (ErrorCode::NotRecording, "nothing is recorded".into())
            }
        }
    }
}

/// The subscriber that a room's recorder is. No participant has such a key: their slots are small numbers.
fn recorder(room: usize) -> ParticipantKey {
    ParticipantKey { slot: RECORDER_SLOT, generation: room as u32 }
}

fn slot(room: usize, track: u32) -> Slot {
    Slot { participant: recorder(room), mid: Mid::from(track.to_string().as_str()) }
}

fn source_word(source: Source) -> &'static str {
    match source {
        Source::Camera => "camera",
        Source::Microphone => "microphone",
        Source::Screen => "screen",
        Source::ScreenAudio => "screen-audio",
    }
}

/// See [`recorder`].
pub(super) const RECORDER_SLOT: u32 = u32::MAX;
/// Items that go to the thread at once; those of a tenth of a second when fewer come. Larger saves wakes of the thread, and is
/// lost when the process is killed.
const BATCH: usize = 64;
/// Of a track: three encodings, and those of a connection before.
const SSRCS_MAX: usize = 8;
/// Ends of recordings that wait for room on the way to the thread.
const UNFED_MAX: usize = 1024;
const RETRY_FEED: Duration = Duration::from_millis(100);
