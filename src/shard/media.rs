//! Datagrams in, packets forwarded, and what each participant is to receive.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use str0m::media::{Direction, MediaKind, Mid};
use str0m::net::Protocol;

use super::control::TrackFacts;
use super::demux::{self, Kind as DatagramKind};
use super::recording::RECORDER_SLOT;
use super::signaling::{media_kind, mid_text};
use super::{
    CONNECT_TIMEOUT, Carried, MAX_ADDRESSES, MAX_OFFERED_LINES, Output, Participant, Published, RoomState, Shard,
    TimerKey,
};
use crate::base::{ParticipantKey, TrackId};
use crate::peer::{Change, Event, Peer, Received};
use crate::room::{self, Kind, Source, TrackMeta};
use crate::sfu::{Forward, Incoming, Slot, Target};
use crate::signal::message::{self, ErrorCode, Receive, TrackSubscribed};

impl Shard {
    /// One datagram from the media socket that belongs to the announced address `local`.
    ///
    /// A connectivity check is for whom its user name says. Everything else must come from an address from which an
    /// authenticated check came before; what does not is dropped without an answer.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, source: SocketAddr, data: &[u8]) {
        self.handle_packet(now, Protocol::Udp, local, source, data);
    }

    /// One frame (RFC 4571) from the TCP connection that `source` opened to the announced address `local`; as
    /// [`Shard::handle_datagram`].
    pub fn handle_frame(&mut self, now: Instant, local: SocketAddr, source: SocketAddr, data: &[u8]) {
        self.handle_packet(now, Protocol::Tcp, local, source, data);
    }

    /// Whether a connectivity check with this user-name fragment is for somebody here.
    pub fn has_ufrag(&self, ufrag: &[u8]) -> bool {
        self.ufrags.contains_key(ufrag)
    }

    /// Whether an authenticated check came over the TCP connection from there, for somebody who is still here.
    pub fn knows_stream(&self, source: SocketAddr) -> bool {
        self.addresses.contains_key(&(Protocol::Tcp, source))
    }

    /// The TCP connection from there is gone: another one may come from the same address, for somebody else.
    pub fn handle_stream_closed(&mut self, source: SocketAddr) {
        let address = (Protocol::Tcp, source);
        if let Some(key) = self.addresses.remove(&address)
            && let Some(participant) = self.participant_mut(key)
        {
            participant.addresses.retain(|a| *a != address);
            if let Some(peer) = &mut participant.peer {
                peer.handle_stream_closed(source);
            }
        }
    }

    fn handle_packet(&mut self, now: Instant, protocol: Protocol, local: SocketAddr, source: SocketAddr, data: &[u8]) {
        self.metrics.received(data.len());
        if data.len() > MAX_DATAGRAM {
            self.metrics.dropped_datagram();
            return;
        }
        let key = match demux::classify(data) {
            DatagramKind::Check(ufrag) => self.ufrags.get(ufrag).copied(),
            DatagramKind::Media => self.addresses.get(&(protocol, source)).copied(),
            DatagramKind::Other => None,
        };
        let Some(key) = key else {
            self.metrics.dropped_datagram();
            return;
        };
        let Some(participant) = self.participants.get_mut(key.slot as usize).filter(|p| p.generation == key.generation)
        else {
            return;
        };
        let Some(peer) = &mut participant.peer else { return };
        let was_silent =
            now.saturating_duration_since(std::mem::replace(&mut participant.packet_at, now)) >= RETURN_AFTER;
        peer.handle_packet(now, protocol, source, local, data, &mut self.sink);
        self.touch(key);
        self.absorb(now, key);
        if was_silent {
            self.on_return(now, key);
        }
    }

    /// Somebody is back after a silence in which what was sent to it may have been lost as well. Its pictures begin anew at
    /// once: browsers go on asking for what is gone for seconds before they ask for a key frame.
    fn on_return(&mut self, now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participant(key).filter(|p| p.peer.as_ref().is_some_and(Peer::is_connected))
        else {
            return;
        };
        let index = participant.room;
        let slots: Vec<Slot> = participant
            .carried
            .iter()
            .filter(|c| c.kind == MediaKind::Video)
            .map(|c| Slot { participant: key, mid: c.mid })
            .collect();
        for slot in slots {
            self.rooms[index].sfu.handle_keyframe_request(now, slot);
        }
        self.serve_sfu(now, index);
    }

    /// Takes what a peer has put into the sink to where it belongs.
    pub(super) fn absorb(&mut self, now: Instant, key: ParticipantKey) {
        self.transmits.append(&mut self.sink.transmits);
        if !self.sink.received.is_empty() {
            let mut received = std::mem::take(&mut self.sink.received);
            for packet in received.drain(..) {
                self.forward(now, key, &packet);
            }
            self.sink.received = received;
        }
        if !self.sink.events.is_empty() {
            let mut events = std::mem::take(&mut self.sink.events);
            for event in events.drain(..) {
                self.on_peer_event(now, key, event);
            }
            events.append(&mut self.sink.events);
            self.sink.events = events;
        }
    }

    fn forward(&mut self, now: Instant, key: ParticipantKey, received: &Received) {
        let Some(participant) = self.participants.get(key.slot as usize) else { return };
        let Some(track) = participant.published.iter().find(|p| p.mid == received.mid).map(|p| p.track) else {
            return;
        };
        let room = participant.room;
        let packet = &received.packet;
        let incoming = Incoming {
            track,
            rid: received.rid,
            codec: received.codec,
            red: received.red,
            inner_pt: received.inner_pt,
            seq_no: packet.seq_no,
            ssrc: *packet.header.ssrc,
            time: packet.header.timestamp,
            clock_rate: received.clock_rate,
            marker: packet.header.marker,
            payload: &packet.payload,
            ext: &packet.header.ext_vals,
            arrival: packet.timestamp,
        };
        let mut forwards = std::mem::take(&mut self.forwards);
        let Some(state) = self.rooms.get_mut(room) else { return };
        if let (Some(tap), Some(info)) = (&mut state.tap, &packet.last_sender_info) {
            tap.note_report(track, info, incoming.ssrc, incoming.clock_rate, packet.timestamp);
        }
        let is_tapped = state.tap.is_some();
        if is_tapped {
            self.note_arrival(room, &incoming);
        }
        let Some(state) = self.rooms.get_mut(room) else { return };
        state.sfu.handle_rtp(now, incoming, &mut forwards);
        self.deliver(now, &mut forwards);
        self.forwards = forwards;
        self.serve_sfu(now, room);
    }

    /// Hands packets to the connections of those they are for.
    pub(super) fn deliver(&mut self, now: Instant, forwards: &mut Vec<Forward>) {
        if forwards.is_empty() {
            return;
        }
        self.metrics.forwarded(forwards.len());
        for forward in forwards.drain(..) {
            let slot = forward.slot;
            if slot.participant.slot == RECORDER_SLOT {
                self.record(now, forward);
                continue;
            }
            let Some(subscriber) = self
                .participants
                .get_mut(slot.participant.slot as usize)
                .filter(|p| p.generation == slot.participant.generation)
            else {
                continue;
            };
            let Some(peer) = &mut subscriber.peer else { continue };
            peer.write(forward, &mut self.sink);
            subscriber.dirty = true;
            if !subscriber.touched {
                subscriber.touched = true;
                self.touched.push(slot.participant);
            }
        }
    }

    fn on_peer_event(&mut self, now: Instant, key: ParticipantKey, event: Event) {
        match event {
            Event::Connected => {
                self.end_handshake(key);
                // A client that rolled back would have said so by now.
                if self.participant_mut(key).is_some_and(|p| p.shelved.take().is_some()) {
                    self.want_plan(key);
                }
                let Some(participant) = self.participants.get(key.slot as usize) else { return };
                let state = &mut self.rooms[participant.room];
                let lines = participant.peer.as_ref().map(Peer::lines).unwrap_or_default();
                for carried in &participant.carried {
                    let slot = Slot { participant: key, mid: carried.mid };
                    let has_descriptor = lines.iter().any(|l| l.mid == carried.mid && l.has_descriptor);
                    state.sfu.set_reads_descriptors(slot, has_descriptor);
                    state.sfu.subscribe(now, slot, carried.track, Target::Paused, 0, &mut self.forwards);
                }
                self.allocate(now, key);
            }
            Event::AddressVerified(protocol, address) => {
                if self.begin_handshake(now, key) {
                    self.learn_address(key, (protocol, address));
                }
            }
            Event::KeyframeRequest(mid) => {
                let Some(room) = self.participant(key).map(|p| p.room) else { return };
                self.rooms[room].sfu.handle_keyframe_request(now, Slot { participant: key, mid });
                self.request_keyframes(now, room);
            }
            Event::Estimate => self.on_estimate(now, key),
            Event::Message { label, delivery, binary, data } => {
                self.relay_message(now, key, label, delivery, binary, &data);
            }
            Event::ChannelRefused => {
                self.metrics.dropped_message();
                self.error_to(key, ErrorCode::BadMessage, "a message or a data channel is beyond the limits");
            }
            Event::Closed => self.lose_peer(now, key),
            Event::Panicked => {
                self.metrics.panicked();
                tracing::error!("a media connection panicked and was closed");
                self.lose_peer(now, key);
            }
        }
    }

    /// DTLS follows the first authenticated check. Only so many handshakes run at a time; a peer that has to wait is not
    /// listened to, and its client's retransmissions bring it here again.
    fn begin_handshake(&mut self, now: Instant, key: ParticipantKey) -> bool {
        let limits = &self.config.limits;
        let (most, time) = (limits.dtls_handshakes, limits.dtls_timeout);
        let has_room = self.connecting < most;
        let Some(participant) = self.participant_mut(key) else { return false };
        let is_up = participant.peer.as_ref().is_some_and(Peer::is_connected);
        if is_up || participant.handshake_until.is_some() {
            return true;
        }
        if has_room {
            participant.handshake_until = Some(now + time);
            self.connecting += 1;
        }
        has_room
    }

    fn end_handshake(&mut self, key: ParticipantKey) {
        if self.participant_mut(key).is_some_and(|p| p.handshake_until.take().is_some()) {
            self.connecting -= 1;
        }
    }

    fn learn_address(&mut self, key: ParticipantKey, address: (Protocol, SocketAddr)) {
        if self.addresses.insert(address, key) == Some(key) {
            return;
        }
        let Some(participant) = self.participant_mut(key) else { return };
        participant.addresses.push(address);
        if participant.addresses.len() > MAX_ADDRESSES {
            let oldest = participant.addresses.remove(0);
            self.forget_address(key, oldest);
        }
    }

    /// A TCP connection without an owner is of no use to anybody.
    fn forget_address(&mut self, key: ParticipantKey, address: (Protocol, SocketAddr)) {
        if self.addresses.get(&address) == Some(&key) {
            self.addresses.remove(&address);
            if let (Protocol::Tcp, source) = address {
                self.outputs.push_back(Output::CloseStream { source });
            }
        }
    }

    /// Sends the key-frame requests that are due, and wakes again for those that are not.
    pub(super) fn request_keyframes(&mut self, now: Instant, room: usize) {
        let Some(state) = self.rooms.get_mut(room) else { return };
        while let Some(request) = state.sfu.poll_keyframe_request(now) {
            let Some((owner, mid)) = state.sources.get(&request.track).copied() else { continue };
            let Some(participant) = self.participants.get_mut(owner.slot as usize) else { continue };
            if let Some(peer) = &mut participant.peer {
                peer.request_keyframe(mid, request.rid, &mut self.sink);
                participant.dirty = true;
                if !participant.touched {
                    participant.touched = true;
                    self.touched.push(owner);
                }
            }
        }
        match state.sfu.poll_timeout() {
            Some(at) => self.wheel.set(TimerKey::Room(room).index(), at),
            None => self.wheel.cancel(TimerKey::Room(room).index()),
        }
    }

    /// The end of a turn for one peer.
    pub(super) fn flush_peer(&mut self, now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(key.slot as usize).filter(|p| p.generation == key.generation)
        else {
            return;
        };
        participant.touched = false;
        let Some(peer) = &mut participant.peer else { return };
        if std::mem::take(&mut participant.dirty) || peer.deadline() <= now {
            peer.flush(now, &mut self.sink);
        }
        self.absorb(now, key);
        self.arm_peer(key);
    }

    pub(super) fn handle_peer_timeout(&mut self, now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participant_mut(key) else { return };
        let Some(peer) = &participant.peer else { return };
        if participant.connect_deadline(peer).is_some_and(|at| now >= at) {
            tracing::info!(user = %participant.user, "the media connection did not come up and is given up");
            self.lose_peer(now, key);
            return;
        }
        participant.dirty = true;
        self.touch(key);
    }

    fn arm_peer(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participant(key) else { return };
        let Some(peer) = &participant.peer else { return };
        let at = participant.connect_deadline(peer).map_or(peer.deadline(), |at| at.min(peer.deadline()));
        self.wheel.set(TimerKey::Participant(key.slot as usize).index(), at);
    }

    pub(super) fn ensure_peer(&mut self, now: Instant, key: ParticipantKey) {
        let config = self.peer_config.clone();
        let Some(participant) = self.participant_mut(key) else { return };
        if participant.peer.is_none() {
            participant.peer = Some(Peer::new(now, config));
            self.register_ufrag(key);
            self.touch(key);
        }
    }

    /// Ends the media connection; the session stays and may offer anew.
    pub(super) fn drop_peer(&mut self, now: Instant, key: ParticipantKey) {
        self.end_handshake(key);
        let Some(participant) = self.participants.get_mut(key.slot as usize).filter(|p| p.generation == key.generation)
        else {
            return;
        };
        participant.shelved = None;
        let Some(mut peer) = participant.peer.take() else { return };
        participant.ended = participant.identity.take().or(participant.ended.take());
        peer.close(now, &mut self.sink);
        self.transmits.append(&mut self.sink.transmits);
        self.sink.received.clear();
        self.sink.events.clear();
        let room = participant.room;
        let ufrags = std::mem::take(&mut participant.ufrags);
        let addresses = std::mem::take(&mut participant.addresses);
        let published = std::mem::take(&mut participant.published);
        participant.carried.clear();
        participant.allotted = 0;
        participant.is_limited = false;
        participant.bitrates = (0, 0);
        participant.names.clear();
        participant.candidates = 0;
        for ufrag in ufrags {
            self.ufrags.remove(&ufrag);
        }
        for address in addresses {
            self.forget_address(key, address);
        }
        if let Some(state) = self.rooms.get_mut(room) {
            // Another connection has other SRTP keys, so its numbering begins anew (RFC 3711 §3.3.1).
            state.sfu.remove_participant(key);
            for Published { track, .. } in published {
                state.room.unpublish(key, track);
            }
        }
        self.wheel.cancel(TimerKey::Participant(key.slot as usize).index());
        self.pump(now, room);
    }

    /// An ICE restart changes the ufrag; the older ones stay valid, since checks for them may be on their way.
    pub(super) fn register_ufrag(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(key.slot as usize).filter(|p| p.generation == key.generation)
        else {
            return;
        };
        let Some(peer) = &mut participant.peer else { return };
        for ufrag in peer.ufrags() {
            let ufrag: Box<[u8]> = ufrag.into_bytes().into();
            if participant.ufrags.contains(&ufrag) {
                continue;
            }
            self.ufrags.insert(ufrag.clone(), key);
            participant.ufrags.push(ufrag);
            if participant.ufrags.len() > MAX_UFRAGS {
                self.ufrags.remove(&participant.ufrags.remove(0));
            }
        }
    }

    /// Publishes the lines on which the client sends now and withdraws those on which it does not any more.
    pub(super) fn publish_lines(&mut self, now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participant(key) else { return };
        let Some(peer) = &participant.peer else { return };
        let index = participant.room;
        let gone: Vec<TrackId> = participant
            .published
            .iter()
            .filter(|p| !peer.lines().iter().any(|l| l.mid == p.mid && l.receives))
            .map(|p| p.track)
            .collect();
        let fresh: Vec<(Mid, MediaKind)> = peer
            .lines()
            .iter()
            .filter(|l| l.receives && !participant.published.iter().any(|p| p.mid == l.mid))
            .map(|l| (l.mid, l.kind))
            .collect();
        if let Some(participant) = self.participant_mut(key) {
            participant.published.retain(|p| !gone.contains(&p.track));
        }
        for track in gone {
            self.rooms[index].room.unpublish(key, track);
        }
        for (mid, kind) in fresh {
            self.publish(now, key, index, mid, kind);
        }
        self.pump(now, index);
    }

    fn publish(&mut self, _now: Instant, key: ParticipantKey, index: usize, mid: Mid, kind: MediaKind) {
        let Some(participant) = self.participant(key) else { return };
        let text = mid_text(mid);
        let named = participant.names.iter().find(|n| n.mid == text);
        let (kind, default) = match kind {
            MediaKind::Audio => (Kind::Audio, Source::Microphone),
            MediaKind::Video => (Kind::Video, Source::Camera),
        };
        let source = named.map(|n| n.source).filter(|s| s.kind() == kind).unwrap_or(default);
        let id = TrackId(self.next_track);
        let meta = TrackMeta { id, kind, source, name: named.and_then(|n| n.name.clone()), mid: text };
        self.next_track += 1;
        match self.rooms[index].room.publish(key, meta) {
            Ok(()) => {
                if let Some(participant) = self.participant_mut(key) {
                    participant.published.push(Published { mid, track: id });
                }
            }
            Err(room::Error::TooManyTracks) => {
                self.error_to(key, ErrorCode::TooManyTracks, "a participant may publish four tracks");
            }
            Err(_) => self.error_to(key, ErrorCode::Forbidden, "the token does not allow to publish this"),
        }
    }

    /// Brings what a participant receives in line with what it should: fills and frees its outgoing lines, and, in
    /// *tracks* mode, negotiates those that are missing.
    pub(super) fn plan(&mut self, now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(key.slot as usize).filter(|p| p.generation == key.generation)
        else {
            return;
        };
        participant.unplanned = false;
        let index = participant.room;
        let Some(state) = self.rooms.get(index) else { return };
        if state.room.is_peer_to_peer(key) {
            return;
        }
        let wanted = participant.wanted(key, state);
        if participant.peer.is_none() {
            // In slots mode the client offers first.
            if participant.receive == Receive::Slots || wanted.is_empty() {
                return;
            }
            self.ensure_peer(now, key);
        }
        let Some(participant) = self.participants.get_mut(key.slot as usize) else { return };
        let Some(peer) = &participant.peer else { return };
        let state = &mut self.rooms[index];
        let mut notices: Vec<(Mid, MediaKind, Option<TrackId>)> = Vec::new();

        participant.carried.retain(|carried| {
            let usable = peer.lines().iter().any(|l| l.mid == carried.mid && l.sends);
            let keep = usable && wanted.iter().any(|w| w.0 == carried.track);
            if !keep {
                state.sfu.unsubscribe(Slot { participant: key, mid: carried.mid });
                notices.push((carried.mid, carried.kind, None));
            }
            keep
        });

        let mut missing: Vec<MediaKind> = Vec::new();
        for &(track, kind) in &wanted {
            if participant.carried.iter().any(|c| c.track == track) {
                continue;
            }
            let free = peer
                .lines()
                .iter()
                .find(|l| l.kind == kind && l.sends && !participant.carried.iter().any(|c| c.mid == l.mid));
            match free {
                Some(line) => {
                    // Before it is up a peer has nowhere to send to, and numbers must not run ahead of what is sent:
                    // then its slots are subscribed when it is.
                    if peer.is_connected() {
                        let slot = Slot { participant: key, mid: line.mid };
                        state.sfu.set_reads_descriptors(slot, line.has_descriptor);
                        state.sfu.subscribe(now, slot, track, Target::Paused, 0, &mut self.forwards);
                    }
                    participant.carried.push(Carried::new(line.mid, kind, track));
                    // A line that goes from one track to the next is told once, with what it carries now.
                    notices.retain(|n| n.0 != line.mid);
                    notices.push((line.mid, kind, Some(track)));
                }
                None => missing.push(kind),
            }
        }
        // While it is open which of two crossed offers the client goes by, a third would only add to it.
        let may_offer = peer.pending_offer().is_none() && participant.shelved.is_none();
        let changes = if may_offer && participant.receive == Receive::Tracks {
            participant.changes(&missing)
        } else {
            Vec::new()
        };
        let restart = may_offer && std::mem::take(&mut participant.restart_wanted);
        for (mid, kind, track) in notices {
            self.notify_subscribed(key, index, mid, kind, track);
        }
        if !changes.is_empty() || restart {
            self.make_offer(now, key, &changes, restart);
        }
        self.allocate(now, key);
        self.serve_sfu(now, index);
    }

    pub(super) fn notify_subscribed(
        &mut self,
        key: ParticipantKey,
        index: usize,
        mid: Mid,
        kind: MediaKind,
        track: Option<TrackId>,
    ) {
        let state = &self.rooms[index];
        let found = track.and_then(|track| {
            let (owner, _) = state.sources.get(&track)?;
            let user = &state.room.participant(*owner)?.user;
            let (_, published) = state.room.track(track)?;
            Some((track, user, published.meta.source))
        });
        let text = mid_text(mid);
        let data = TrackSubscribed {
            mid: &text,
            track_id: found.map(|f| f.0),
            user_id: found.map(|f| f.1),
            kind: match kind {
                MediaKind::Audio => Kind::Audio,
                MediaKind::Video => Kind::Video,
            },
            source: found.map(|f| f.2),
        };
        let message = message::encode(
            "track-subscribed",
            Some(&state.id),
            found.map(|f| f.1.as_str()).or(Some("sfu")),
            None,
            data,
        );
        self.send_to(key, message);
    }
}

impl Participant {
    /// Until when a connection that is not up may take; `None` before there is an answer, and once it is up.
    fn connect_deadline(&self, peer: &Peer) -> Option<Instant> {
        let whole = peer.negotiated().filter(|_| !peer.is_connected())? + CONNECT_TIMEOUT;
        Some(self.handshake_until.map_or(whole, |handshake| handshake.min(whole)))
    }

    /// The tracks that this participant is to receive, as many of a kind as there may be lines: those it asked for first, then
    /// screens, then whoever spoke last, then the oldest.
    fn wanted(&self, key: ParticipantKey, state: &RoomState) -> Vec<(TrackId, MediaKind)> {
        if !self.may_subscribe {
            return Vec::new();
        }
        let mut tracks = Vec::new();
        let mut count = [0usize; 2];
        for (owner, track) in state.room.tracks().filter(|(owner, _)| *owner != key) {
            let facts = TrackFacts::of(state, &self.wishes, track.meta.id);
            if facts.is_wanted(self.auto_subscribe) {
                let kind = media_kind(track.meta.kind);
                count[usize::from(kind == MediaKind::Video)] += 1;
                tracks.push((owner, track.meta.id, kind, facts));
            }
        }
        // In the order of publishing, which is not that of joining; a viewer by WHEP is promised no other.
        tracks.sort_unstable_by_key(|(_, id, _, _)| *id);
        let most = [MediaKind::Audio, MediaKind::Video].map(|kind| self.capacity(kind));
        if self.whip.is_none() && (count[0] > most[0] || count[1] > most[1]) {
            tracks.sort_by_cached_key(|(owner, id, _, facts)| {
                let voice = state.voices.iter().position(|voice| voice == id).unwrap_or(usize::MAX);
                let is_theirs = |track: TrackId| state.sources.get(&track).is_some_and(|source| source.0 == *owner);
                let spoke = state.speakers.recent().position(is_theirs).unwrap_or(usize::MAX);
                let is_carried = self.carried.iter().any(|c| c.track == *id);
                (
                    facts.is_paused(),
                    Reverse(facts.rank()),
                    !facts.is_pinned(),
                    !facts.is_screen,
                    voice,
                    spoke,
                    !is_carried,
                )
            });
        }
        let mut left = most;
        tracks.retain(|(_, _, kind, _)| {
            let left = &mut left[usize::from(*kind == MediaKind::Video)];
            let fits = *left > 0;
            *left = left.saturating_sub(1);
            fits
        });
        tracks.into_iter().map(|(_, id, kind, _)| (id, kind)).collect()
    }

    /// Tracks of a kind that can be delivered at a time.
    fn capacity(&self, kind: MediaKind) -> usize {
        match (self.receive, &self.peer) {
            (Receive::Tracks, _) | (Receive::Slots, None) => MAX_OFFERED_LINES,
            (Receive::Slots, Some(peer)) => peer.lines().iter().filter(|l| l.kind == kind && l.sends).count(),
        }
    }

    /// What has to be negotiated so that lines of these kinds come to be, and so that lines without a track rest.
    fn changes(&self, missing: &[MediaKind]) -> Vec<Change> {
        let Some(peer) = &self.peer else { return Vec::new() };
        let mut changes = Vec::new();
        let mut resting: Vec<(Mid, MediaKind)> = Vec::new();
        let mut lines = [0usize; 2];
        for line in peer.lines().iter().filter(|l| !l.receives && !l.stopped) {
            lines[usize::from(line.kind == MediaKind::Video)] += 1;
            if !line.sends {
                resting.push((line.mid, line.kind));
            } else if !self.carried.iter().any(|c| c.mid == line.mid) {
                changes.push(Change::Direct(line.mid, Direction::Inactive));
            }
        }
        for kind in missing {
            if let Some(at) = resting.iter().position(|r| r.1 == *kind) {
                changes.push(Change::Direct(resting.remove(at).0, Direction::SendOnly));
                continue;
            }
            let count = &mut lines[usize::from(*kind == MediaKind::Video)];
            if *count < MAX_OFFERED_LINES {
                *count += 1;
                changes.push(Change::Add(*kind, Direction::SendOnly));
            }
        }
        changes
    }
}

/// Receivers report at least once a second; a client that takes nothing sends a check every few, and needs no key frame.
const RETURN_AFTER: Duration = Duration::from_secs(2);
/// Larger ones are no media of ours: the largest that str0m writes is smaller, and what it cannot hold panics it.
const MAX_DATAGRAM: usize = 1500;
/// Of two negotiations: the current one and the one before an ICE restart.
const MAX_UFRAGS: usize = 4;
