//! What a message of a client does. Checks of form and of the session's phase are behind us (`signal`); who may do what
//! is decided by `room`.

use std::time::Instant;

use str0m::media::{MediaKind, Mid};

use super::directory::Refusal;
use super::{Carried, Mail, Output, Participant, Shard, TimerKey, Wish};
use crate::auth::{Permissions, Role};
use crate::base::{ConnKey, ParticipantKey, RoomId, TrackId, WorkerId};
use crate::config::EncodingConfig;
use crate::ice_servers::ice_servers;
use crate::p2p;
use crate::peer::{Change, NegotiationError, Peer};
use crate::room::{self, Event, Joiner, Kind, LeaveReason, Room, TrackMeta};
use crate::sfu::allocate::{Caps, Quality};
use crate::signal::message::{
    self, Body, CandidateOut, ChatData, Empty, ErrorCode, Joined, MuteState, Muted, ParticipantInfo, RawValue, Request,
    RequestId, Sdp, SdpOut, Target, TrackInfo, TrackPublished, TrackRef, TrackUnpublished, UserLeft, UserUpdated, You,
};
use crate::signal::session::{Phase, Session};

/// An error for the client: its code and what a person reads.
type Refused = (ErrorCode, String);

impl Shard {
    pub(super) fn dispatch(&mut self, now: Instant, conn: ConnKey, request: Request) {
        let id = request.id.clone();
        let Some(session) = self.sessions.get(&conn) else { return };
        let key = session.participant();
        let result = match (key, request.body) {
            (_, Body::Join(join)) => return self.join(now, conn, request.room, id, join),
            (_, Body::Ping) => {
                self.reply(conn, "pong", id.as_ref(), Empty {});
                Ok(())
            }
            (key, Body::Leave) => {
                if let Some(key) = key {
                    self.remove_participant(now, key, LeaveReason::Left);
                }
                return self.close(now, conn, 1000, "left");
            }
            (None, _) => Err((ErrorCode::NotJoined, "join a call first".into())),
            (Some(key), body) => self.dispatch_joined(now, key, conn, request.target, id.as_ref(), body, request.data),
        };
        if let Err((code, text)) = result {
            self.error(conn, id.as_ref(), code, &text);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn dispatch_joined(
        &mut self,
        now: Instant,
        key: ParticipantKey,
        conn: ConnKey,
        target: Target,
        id: Option<&RequestId>,
        body: Body,
        data: Option<RawValue>,
    ) -> Result<(), Refused> {
        match body {
            Body::Join(_) | Body::Leave | Body::Ping => Ok(()),
            Body::Offer(sdp) => match target {
                Target::User(user) => self.relay(key, &user, "offer", id, data),
                _ => self.handle_offer(now, key, id, sdp),
            },
            Body::Answer(sdp) => match target {
                Target::User(user) => self.relay(key, &user, "answer", id, data),
                _ => self.handle_answer(now, key, id, sdp),
            },
            Body::IceCandidate(candidate) => {
                if let Target::User(user) = &target
                    && self.is_relayed_pair(key, user)
                {
                    if let Some(candidate) = &candidate
                        && !candidate.text.is_empty()
                    {
                        p2p::check_candidate(&candidate.text).map_err(|e| (ErrorCode::BadCandidate, e.to_string()))?;
                    }
                    return self.relay(key, user, "ice-candidate", id, data);
                }
                self.handle_candidate(key, candidate)
            }
            Body::Mute(what) => self.mute(now, key, target, what.kind, what.track, true),
            Body::Unmute(what) => self.mute(now, key, target, what.kind, what.track, false),
            Body::Chat { text } => {
                let user = user_of(&target)?;
                self.with_room(now, key, |room| room.chat(key, user, text))
            }
            Body::Data(value) => {
                let user = user_of(&target)?;
                self.with_room(now, key, |room| room.data(key, user, value.shared()))
            }
            Body::Subscribe(wish) => self.wish(
                key,
                Wish {
                    what: wish.what,
                    wanted: true,
                    paused: wish.paused.unwrap_or(false),
                    priority: wish.priority.unwrap_or(0),
                    caps: Caps {
                        quality: wish.quality.map(|quality| match quality {
                            message::Quality::Low => Quality::Low,
                            message::Quality::Medium => Quality::Medium,
                            message::Quality::High => Quality::High,
                        }),
                        width_max: wish.max_width,
                        height_max: wish.max_height,
                        framerate_max: wish.max_framerate,
                        bitrate_max: None,
                    },
                },
            ),
            Body::Unsubscribe(what) => {
                self.wish(key, Wish { what, wanted: false, paused: false, priority: 0, caps: Caps::default() })
            }
            Body::RestartIce => {
                let Some(participant) = self.participant_mut(key) else { return Ok(()) };
                if participant.peer.as_ref().is_none_or(|p| p.is_dead() || p.is_fresh()) {
                    return Err((ErrorCode::NotAvailable, "there is no media connection to restart".into()));
                }
                participant.restart_wanted = true;
                self.want_plan(key);
                Ok(())
            }
            Body::Token(token) => self.renew(now, conn, key, &token),
            Body::Stats(freezes) => {
                self.note_freezes(key, &freezes);
                let Some(stats) = self.connection_stats(now, key) else { return Ok(()) };
                let room = self.participant(key).map(|p| &self.rooms[p.room].id);
                let text = message::encode("stats", room, Some("sfu"), id, stats);
                self.send(conn, text);
                Ok(())
            }
            Body::Recording(command) => self.command_recording(now, key, id, command),
            Body::Moderation(what) => Err((ErrorCode::NotAvailable, format!("{what} is not available yet"))),
        }
    }

    // ---- joining ----

    fn join(&mut self, now: Instant, conn: ConnKey, room: Option<RoomId>, id: Option<RequestId>, join: message::Join) {
        let wall = self.wall;
        let refused = match (&room, self.sessions.get(&conn)) {
            (_, None) => return,
            (None, _) => Some((ErrorCode::BadMessage, "roomId is missing".to_owned())),
            _ if self.draining => Some((ErrorCode::ServerDraining, "the server is going away".to_owned())),
            (Some(room), Some(session)) if !session.grants.may_enter(room) => {
                Some((ErrorCode::Forbidden, "the token is for another call".to_owned()))
            }
            (_, Some(session)) if session.token_expired(wall) => {
                Some((ErrorCode::InvalidToken, "the token has expired".to_owned()))
            }
            _ => None,
        };
        if let Some((code, text)) = refused {
            return self.error(conn, id.as_ref(), code, &text);
        }
        let Some(room) = room else { return };
        let create = self.config.server.auto_create_calls;
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.set_joining(room.clone(), id, join);
        }
        self.arm_session(conn);
        match &mut self.directory {
            Some(directory) => {
                let place = directory.locate(&room, create);
                self.on_located(now, conn, room, place);
            }
            None => self
                .outputs
                .push_back(Output::Mail { to: WorkerId(0), mail: Mail::Locate { from: self.id, conn, room, create } }),
        }
    }

    pub(super) fn on_located(&mut self, now: Instant, conn: ConnKey, room: RoomId, place: Result<WorkerId, Refusal>) {
        let waiting = self
            .sessions
            .get(&conn)
            .is_some_and(|s| matches!(s.phase(), Phase::Joining { room: wanted, .. } if *wanted == room));
        match place {
            Ok(_) if !waiting => self.account(room, 1),
            Ok(worker) if worker == self.id => self.enter(now, conn),
            Ok(worker) => self.outputs.push_back(Output::Move { conn, room, to: worker }),
            Err(_) if !waiting => {}
            Err(refusal) => {
                let (code, text) = match refusal {
                    Refusal::NotFound => (ErrorCode::CallNotFound, "there is no such call"),
                    Refusal::TooManyRooms => (ErrorCode::Overloaded, "the server has as many calls as it may have"),
                };
                self.refuse_join(now, conn, code, text);
            }
        }
    }

    /// The join could not be carried out: the client may try again on the same connection.
    fn refuse_join(&mut self, now: Instant, conn: ConnKey, code: ErrorCode, text: &str) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let id = match session.phase() {
            Phase::Joining { request, .. } => request.0.clone(),
            _ => None,
        };
        session.join_failed(now);
        self.arm_session(conn);
        self.error(conn, id.as_ref(), code, text);
    }

    /// The worker could not take the connection: its mailbox is full.
    pub fn handle_move_failed(&mut self, now: Instant, conn: ConnKey, room: RoomId) {
        self.account(room, 1);
        self.refuse_join(now, conn, ErrorCode::Overloaded, "the server is busy, try again");
    }

    /// The room is (or is to be) here: lets the session in.
    pub(super) fn enter(&mut self, now: Instant, conn: ConnKey) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Phase::Joining { room: room_id, request } = session.phase() else { return };
        let room_id = room_id.clone();
        let (id, join) = (**request).clone();
        let mut role = session.grants.role();
        let mut permissions = *session.grants.permissions();
        let user = session.grants.user().clone();
        let display_name = join.display_name.clone().or_else(|| session.grants.name().map(str::to_owned));

        if self.draining {
            self.account(room_id, 1);
            return self.refuse_join(now, conn, ErrorCode::ServerDraining, "the server is going away");
        }
        if let Some(token) = &join.resume_token
            && let Some(index) = self.room_by_id.get(&room_id).copied()
            && let Some(key) = self.resumable(index, &user, token)
        {
            self.rooms[index].arrivals += 1;
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.joined(room_id, key);
            }
            self.resume(now, key, conn);
            self.arm_session(conn);
            self.watch_expiry(now, conn);
            // The token that was shown now counts, not the one of then.
            if !self.dev_mode {
                self.apply_grants(now, key, role, permissions);
            }
            self.send_joined(now, key, conn, id.as_ref(), true);
            self.tell_state(now, key);
            return;
        }
        let index = self.room_for(now, &room_id);
        // Those who stream to the call before anybody talks in it do not take this from the first who does.
        let is_first = self.rooms[index].room.participants().all(|(_, p)| p.is_media_only);
        if self.dev_mode && role < Role::Host && is_first {
            role = Role::Host;
            let host = Permissions::of(Role::Host);
            permissions.moderate |= host.moderate;
            permissions.record |= host.record;
            permissions.create |= host.create;
        }
        let key = self.vacant_key();
        let state = &mut self.rooms[index];
        state.arrivals += 1;
        let joiner = Joiner {
            user,
            display_name,
            role,
            permissions,
            metadata: join.metadata.as_ref().map(RawValue::shared),
            is_media_only: false,
        };
        if let Err(e) = state.room.join(key, joiner) {
            let (code, text) = refused(&e);
            self.end_room_if_empty(now, index);
            return self.refuse_join(now, conn, code, &text);
        }
        self.participants.insert(Participant {
            conn: Some(conn),
            receive: join.receive,
            auto_subscribe: join.auto_subscribe,
            may_subscribe: permissions.subscribe,
            resume_token: Some(resume_token()),
            ..Participant::new(now, key, index, &state.room)
        });
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.joined(room_id.clone(), key);
        }
        self.arm_session(conn);
        self.watch_expiry(now, conn);
        self.send_joined(now, key, conn, id.as_ref(), false);
        self.pump(now, index);
        if join.server_offer {
            self.offer_for_client_media(now, key);
        }
        self.want_plan(key);
    }

    /// What a client needs to know after its socket was another for a while, besides `joined`: what its lines carry, which of
    /// its encodings are wanted, and offers that it may have missed.
    fn tell_state(&mut self, _now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participant(key) else { return };
        let index = participant.room;
        let carried = participant.carried.clone();
        let published: Vec<TrackId> = participant.published.iter().map(|p| p.track).collect();
        for Carried { mid, kind, track, .. } in carried {
            self.notify_subscribed(key, index, mid, kind, Some(track));
        }
        for track in published {
            self.tell_wanted(index, track);
        }
        self.want_plan(key);
    }

    fn send_joined(&mut self, now: Instant, key: ParticipantKey, conn: ConnKey, id: Option<&RequestId>, resumed: bool) {
        let Some(participant) = self.participant(key) else { return };
        let state = &self.rooms[participant.room];
        let Some(own) = state.room.participant(key) else { return };
        let participants = state
            .room
            .participants()
            .filter(|(other, _)| *other != key)
            .map(|(other, p)| ParticipantInfo {
                user_id: &p.user,
                display_name: p.display_name.as_deref(),
                role: p.role.name(),
                metadata: p.metadata.clone().and_then(RawValue::new),
                connection: self.participant(other).is_some_and(|p| p.presence.is_told()).then_some("lost"),
                muted: MuteState { audio: p.is_muted(Kind::Audio), video: p.is_muted(Kind::Video) },
                tracks: state
                    .room
                    .tracks()
                    .filter(|(owner, _)| *owner == other)
                    .map(|(_, track)| TrackInfo {
                        layers: self.layers_of(now, state, track.meta.id),
                        ..track_info(&track.meta, track.muted)
                    })
                    .collect(),
            })
            .collect();
        let joined = Joined {
            participants,
            ice_servers: ice_servers(&self.config.rtc, &participant.user, self.wall),
            encoding: EncodingInfo::from(&self.config.encoding),
            call: CallInfo { id: &state.id, status: "active", started_at: crate::base::rfc3339(state.created) },
            recording: state.tap.as_ref().and_then(|tap| tap.info()),
            you: You {
                user_id: &own.user,
                role: own.role.name(),
                permissions: own.permissions,
                muted: MuteState { audio: own.is_muted(Kind::Audio), video: own.is_muted(Kind::Video) },
            },
            resume_token: participant.resume_token.as_deref(),
            resumed,
            media: participant.peer.as_ref().is_some_and(Peer::is_connected),
        };
        let text = message::encode("joined", Some(&state.id), Some("sfu"), id, joined);
        self.send(conn, text);
    }

    fn renew(&mut self, now: Instant, conn: ConnKey, key: ParticipantKey, token: &str) -> Result<(), Refused> {
        let grants = self
            .verifier
            .verify(token, self.wall)
            .map_err(|_| (ErrorCode::InvalidToken, "the token is not valid".to_owned()))?;
        let Some(participant) = self.participant(key) else { return Ok(()) };
        let room = &self.rooms[participant.room].id;
        if *grants.user() != participant.user || !grants.may_enter(room) {
            return Err((ErrorCode::Forbidden, "the token is for another user or call".into()));
        }
        let (index, role, permissions) = (participant.room, grants.role(), *grants.permissions());
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.grants = grants;
        }
        self.watch_expiry(now, conn);
        self.apply_grants(now, key, role, permissions);
        self.end_room_if_empty(now, index);
        Ok(())
    }

    fn apply_grants(&mut self, now: Instant, key: ParticipantKey, role: Role, permissions: Permissions) {
        if let Some(participant) = self.participant_mut(key) {
            participant.may_subscribe = permissions.subscribe;
        }
        self.want_plan(key);
        // It fails only for somebody who is not in the room.
        let _ = self.with_room(now, key, |room| room.set_grants(key, role, permissions));
        self.publish_lines(now, key);
    }

    // ---- media negotiation ----

    fn handle_offer(
        &mut self,
        now: Instant,
        key: ParticipantKey,
        id: Option<&RequestId>,
        offer: Sdp,
    ) -> Result<(), Refused> {
        let Some(participant) = self.participant(key) else { return Ok(()) };
        if participant.peer.as_ref().is_some_and(|p| p.is_dead() || p.is_foreign(&offer.sdp)) {
            self.drop_peer(now, key);
        }
        let identity = crate::peer::sdp::identity(&offer.sdp);
        if self.participant(key).is_some_and(|p| p.peer.is_none() && p.ended.is_some() && p.ended == identity) {
            // A browser would take the answer of a new peer for an ICE restart, and go on with the keys of the old one.
            let text = "this PeerConnection was given up after its connection failed; make another one";
            return Err((ErrorCode::NotAvailable, text.into()));
        }
        self.leave_peer_to_peer(key);
        if let Some(participant) = self.participant_mut(key)
            && participant.peer.as_ref().is_some_and(Peer::awaits_first_answer)
        {
            // The first two offers cross. The server gives way, but a client that let its browser roll back will answer
            // the server's after all, and str0m cannot take back an offer that it has accepted. So both stand for now.
            participant.shelved = participant.peer.take();
        }
        self.ensure_peer(now, key);
        let Some(participant) = self.participants.get_mut(key.slot as usize) else { return Ok(()) };
        participant.note_names(&offer);
        let Some(peer) = &mut participant.peer else { return Ok(()) };
        let answer = peer.handle_offer(now, &offer.sdp, &mut self.sink);
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) => {
                self.absorb(now, key);
                return Err(negotiation_refused(e));
            }
        };
        participant.identity = identity;
        let room = participant.room;
        let form = self.session_of(key).map_or(message::Form::Object, |s| s.sdp_form());
        let text =
            message::encode("answer", Some(&self.rooms[room].id), Some("sfu"), id, SdpOut::answer(form, &answer));
        self.send_to(key, text);
        self.after_negotiation(now, key, &answer);
        Ok(())
    }

    fn handle_answer(
        &mut self,
        now: Instant,
        key: ParticipantKey,
        id: Option<&RequestId>,
        answer: Sdp,
    ) -> Result<(), Refused> {
        if self.participant(key).and_then(|p| p.peer.as_ref()).is_some_and(|p| p.is_foreign(&answer.sdp)) {
            // Another PeerConnection took up an offer that was made to the one before: it gets one of its own.
            self.drop_peer(now, key);
            self.want_plan(key);
            return Err(negotiation_refused(NegotiationError::Stale));
        }
        let is_for_shelved = self.participant(key).and_then(|p| p.shelved.as_ref()).is_some_and(|p| {
            p.is_answered_by(&answer.sdp) && id.is_none_or(|id| p.pending_offer().is_some_and(|n| id.is_number(n)))
        });
        if is_for_shelved {
            let shelved = self.participant_mut(key).and_then(|p| p.shelved.take());
            self.drop_peer(now, key);
            if let Some(participant) = self.participant_mut(key) {
                participant.peer = shelved;
            }
            self.register_ufrag(key);
        }
        let Some(participant) = self.participants.get_mut(key.slot as usize) else { return Ok(()) };
        let Some(peer) = &mut participant.peer else {
            return Err((ErrorCode::UnexpectedAnswer, "the server has made no offer".into()));
        };
        // Another id than that of the pending offer is an answer to one that was dropped: 0 is never given out.
        let echoed = id.map(|id| peer.pending_offer().filter(|n| id.is_number(*n)).unwrap_or(0));
        let result = peer.handle_answer(now, echoed, &answer.sdp, &mut self.sink);
        if result.is_ok() {
            participant.note_names(&answer);
            participant.identity = crate::peer::sdp::identity(&answer.sdp);
        }
        self.leave_peer_to_peer(key);
        match result {
            Ok(()) => {
                self.after_negotiation(now, key, "");
                Ok(())
            }
            Err(e) => {
                self.absorb(now, key);
                self.want_plan(key);
                Err(negotiation_refused(e))
            }
        }
    }

    /// A description was exchanged: the ufrag may be another, tracks came or went.
    pub(super) fn after_negotiation(&mut self, now: Instant, key: ParticipantKey, answer: &str) {
        self.absorb(now, key);
        self.register_ufrag(key);
        if !answer.is_empty() {
            self.send_candidates(key, answer);
        }
        self.publish_lines(now, key);
        self.want_plan(key);
        self.touch(key);
    }

    /// The server's candidates are in every description of its own; they are trickled as well, and their end with them,
    /// for clients that act on messages alone.
    pub(super) fn send_candidates(&mut self, key: ParticipantKey, description: &str) {
        let Some(participant) = self.participant(key) else { return };
        let Some(session) = self.session_of(key) else { return };
        let form = session.candidate_form();
        let room = &self.rooms[participant.room].id;
        let mid = crate::peer::sdp::mids(description).into_iter().next().unwrap_or_default();
        let mut texts: Vec<_> = description
            .lines()
            .filter_map(|line| line.strip_prefix("a="))
            .filter(|line| line.starts_with("candidate:"))
            .map(|text| {
                let candidate = CandidateOut::Candidate { form, text: text.trim_end(), mid: &mid, m_line_index: 0 };
                message::encode("ice-candidate", Some(room), Some("sfu"), None, candidate)
            })
            .collect();
        texts.push(message::encode("ice-candidate", Some(room), Some("sfu"), None, CandidateOut::End));
        for text in texts {
            self.send_to(key, text);
        }
    }

    fn handle_candidate(&mut self, key: ParticipantKey, candidate: Option<message::Candidate>) -> Result<(), Refused> {
        let limit = self.config.limits.candidates;
        let Some(participant) = self.participant_mut(key) else { return Ok(()) };
        participant.candidates += 1;
        if participant.candidates > limit {
            return Err((ErrorCode::TooManyCandidates, format!("at most {limit} candidates")));
        }
        if let Some(candidate) = candidate
            && !candidate.text.is_empty()
        {
            // Validated, then set aside: an ICE-lite agent answers checks and learns addresses from them alone.
            p2p::server_candidate(&candidate.text).map_err(|e| (ErrorCode::BadCandidate, e.to_string()))?;
        }
        Ok(())
    }

    /// `"offer":"server"`: recvonly m-lines for the client's own audio and video.
    fn offer_for_client_media(&mut self, now: Instant, key: ParticipantKey) {
        use str0m::media::Direction::RecvOnly;
        self.ensure_peer(now, key);
        let changes = [Change::Add(MediaKind::Audio, RecvOnly), Change::Add(MediaKind::Video, RecvOnly)];
        self.make_offer(now, key, &changes, false);
    }

    pub(super) fn make_offer(&mut self, now: Instant, key: ParticipantKey, changes: &[Change], restart: bool) {
        let id = self.next_offer;
        let Some(participant) = self.participants.get_mut(key.slot as usize) else { return };
        let Some(peer) = &mut participant.peer else { return };
        let made = peer.create_offer(now, id, changes, restart, &mut self.sink);
        self.next_offer += 1;
        let room = participant.room;
        if let Ok(Some(offer)) = made {
            let form = self.session_of(key).map_or(message::Form::Object, |s| s.sdp_form());
            let text = message::encode(
                "offer",
                Some(&self.rooms[room].id),
                Some("sfu"),
                Some(&RequestId::numbered(offer.id)),
                SdpOut::offer(form, &offer.sdp),
            );
            self.send_to(key, text);
            self.send_candidates(key, &offer.sdp);
        }
        self.absorb(now, key);
        self.register_ufrag(key);
        self.touch(key);
    }

    // ---- peer to peer ----

    fn is_relayed_pair(&self, key: ParticipantKey, user: &crate::base::UserId) -> bool {
        let Some(participant) = self.participant(key) else { return false };
        let state = &self.rooms[participant.room];
        state.room.by_user(user).is_some_and(|other| state.p2p.is_relayed_pair(key, other))
    }

    fn relay(
        &mut self,
        key: ParticipantKey,
        user: &crate::base::UserId,
        kind: &'static str,
        id: Option<&RequestId>,
        data: Option<RawValue>,
    ) -> Result<(), Refused> {
        let Some(participant) = self.participant(key) else { return Ok(()) };
        let index = participant.room;
        let from = participant.user.clone();
        let state = &mut self.rooms[index];
        let other = state.room.may_relay(key, user).map_err(|e| refused(&e))?;
        match kind {
            "offer" if state.tap.is_some() => {
                let text = "the call is recorded, so its media goes through the server";
                return Err((ErrorCode::RecordingActive, text.into()));
            }
            "offer" => {
                state.p2p.offer_relayed(key, other);
                state.room.set_peer_to_peer(key, true);
                state.room.set_peer_to_peer(other, true);
            }
            "answer" => state
                .p2p
                .answer_relayed(key, other)
                .map_err(|_| (ErrorCode::UnexpectedAnswer, "no offer of theirs waits for an answer".to_owned()))?,
            "ice-candidate" => state
                .p2p
                .candidate_relayed(key, other)
                .map_err(|_| (ErrorCode::TooManyCandidates, "too many candidates".to_owned()))?,
            _ => {}
        }
        let Some(data) = data else { return Ok(()) };
        let text = message::encode_raw_to(kind, Some(&state.id), Some(from.as_str()), user, id, &data);
        self.send_to(other, text);
        Ok(())
    }

    fn leave_peer_to_peer(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participant(key) else { return };
        let index = participant.room;
        self.rooms[index].room.set_peer_to_peer(key, false);
    }

    // ---- room commands ----

    fn mute(
        &mut self,
        now: Instant,
        key: ParticipantKey,
        target: Target,
        kind: Kind,
        track: Option<TrackId>,
        muted: bool,
    ) -> Result<(), Refused> {
        let user = user_of(&target)?;
        self.with_room(now, key, |room| room.mute(key, user, kind, track, muted))
    }

    fn with_room(
        &mut self,
        now: Instant,
        key: ParticipantKey,
        command: impl FnOnce(&mut Room) -> Result<(), room::Error>,
    ) -> Result<(), Refused> {
        let Some(participant) = self.participant(key) else { return Ok(()) };
        let index = participant.room;
        let result = command(&mut self.rooms[index].room);
        self.pump(now, index);
        result.map_err(|e| refused(&e))
    }

    fn wish(&mut self, key: ParticipantKey, wish: Wish) -> Result<(), Refused> {
        let Some(participant) = self.participant(key) else { return Ok(()) };
        if !participant.may_subscribe {
            return Err((ErrorCode::Forbidden, "the token does not allow to subscribe".into()));
        }
        let state = &self.rooms[participant.room];
        match &wish.what {
            TrackRef::Track(track) if !state.sources.contains_key(track) => {
                return Err((ErrorCode::TrackNotFound, "there is no such track".into()));
            }
            TrackRef::User(user) if state.room.by_user(user).is_none() => {
                return Err((ErrorCode::ParticipantNotFound, "there is no such participant".into()));
            }
            TrackRef::Track(_) | TrackRef::User(_) => {}
        }
        if let Some(participant) = self.participant_mut(key) {
            participant.wishes.retain(|other| other.what != wish.what);
            participant.wishes.push(wish);
            if participant.wishes.len() > MAX_WISHES {
                participant.wishes.remove(0);
            }
        }
        self.want_plan(key);
        Ok(())
    }

    /// Carries a room's events to the people and to the media machines.
    pub(super) fn pump(&mut self, now: Instant, index: usize) {
        while let Some(event) = self.rooms.get_mut(index).and_then(|state| state.room.poll_event()) {
            self.on_room_event(now, index, event);
        }
    }

    fn on_room_event(&mut self, now: Instant, index: usize, event: Event) {
        match event {
            Event::Joined { .. } => {}
            Event::UserJoined { key } => {
                self.tap_joined(now, index, key);
                self.auto_record(now, index);
                let state = &self.rooms[index];
                let Some(p) = state.room.participant(key) else { return };
                let info = ParticipantInfo {
                    user_id: &p.user,
                    display_name: p.display_name.as_deref(),
                    role: p.role.name(),
                    metadata: p.metadata.clone().and_then(RawValue::new),
                    connection: None,
                    muted: MuteState { audio: p.is_muted(Kind::Audio), video: p.is_muted(Kind::Video) },
                    tracks: Vec::new(),
                };
                let text = message::encode("user-joined", Some(&state.id), Some(p.user.as_str()), None, info);
                self.tell_others(index, Some(key), text);
            }
            Event::UserLeft { key, user, reason } => {
                self.tap_left(now, index, &user, reason);
                let state = &self.rooms[index];
                let left = UserLeft { reason: reason.as_str() };
                let text = message::encode("user-left", Some(&state.id), Some(user.as_str()), None, left);
                // Whoever replaced the one who left is not told that it left itself.
                let but = state.room.by_user(&user).unwrap_or(key);
                self.tell_others(index, Some(but), text);
            }
            Event::Replaced { key } => {
                // The room has forgotten the older one already; what is left of it goes here.
                if let Some(conn) = self.participant(key).and_then(|p| p.conn) {
                    self.outputs.push_back(Output::Close { conn, code: 4003, reason: "replaced by a newer session" });
                    self.take_session(conn);
                }
                self.drop_peer(now, key);
                self.participants.remove(key.slot as usize);
                self.wheel.cancel(TimerKey::Participant(key.slot as usize).index());
                self.rooms[index].sfu.remove_participant(key);
                self.rooms[index].p2p.leave(key);
            }
            Event::TrackPublished { owner, track } => {
                let state = &mut self.rooms[index];
                let Some(user) = state.room.participant(owner).map(|p| p.user.clone()) else { return };
                let published = TrackPublished {
                    track: track_info(&track, state.room.track(track.id).is_some_and(|(_, t)| t.muted)),
                };
                let text = message::encode("track-published", Some(&state.id), Some(user.as_str()), None, published);
                state.sfu.publish(track.id, media_kind(track.kind));
                state.sources.insert(track.id, (owner, track.mid.as_str().into()));
                self.tell_others(index, Some(owner), text);
                self.tap_track(now, index, owner, &track);
                self.plan_all(index);
            }
            Event::TrackUnpublished { owner, user, id } => {
                self.untap_track(now, index, id);
                let state = &mut self.rooms[index];
                let gone = TrackUnpublished { track_id: id };
                let text = message::encode("track-unpublished", Some(&state.id), Some(user.as_str()), None, gone);
                // Whoever replaced the publisher never knew of its tracks.
                let but = state.room.by_user(&user).unwrap_or(owner);
                state.sfu.unpublish(id);
                state.sources.remove(&id);
                state.wanted.remove(&id);
                let changes = state.speakers.remove(id);
                self.on_voices(now, index, changes);
                if let Some(participant) = self.participant_mut(owner) {
                    participant.published.retain(|p| p.track != id);
                }
                self.tell_others(index, Some(but), text);
                self.plan_all(index);
            }
            Event::Muted { owner, kind, track, muted, by } => {
                let state = &self.rooms[index];
                let Some(user) = state.room.participant(owner).map(|p| p.user.clone()) else { return };
                // Those who mute themselves know it; those who were muted are told like everyone.
                let but = by.is_none().then_some(owner);
                let data = Muted { kind, track_id: track, by: by.as_ref() };
                let word = if muted { "muted" } else { "unmuted" };
                let text = message::encode(word, Some(&state.id), Some(user.as_str()), None, data);
                self.tell_others(index, but, text);
            }
            Event::UserUpdated { key } => {
                let state = &self.rooms[index];
                let Some(p) = state.room.participant(key) else { return };
                let data = UserUpdated { role: Some(p.role.name()), ..UserUpdated::default() };
                let text = message::encode("user-updated", Some(&state.id), Some(p.user.as_str()), None, data);
                self.tell_others(index, None, text);
            }
            Event::UnmuteAllowed { owner, kind, track, by } => {
                let state = &self.rooms[index];
                let data = Muted { kind, track_id: track, by: Some(&by) };
                let text = message::encode("unmute-allowed", Some(&state.id), Some(by.as_str()), None, data);
                self.tell(index, owner, Some(owner), text);
            }
            Event::TrackMuted { track, muted } => {
                self.tap_muted(now, index, track, muted);
                self.rooms[index].sfu.set_muted(track, muted);
                self.serve_sfu(now, index);
            }
            Event::Chat { from, to, text } => {
                let state = &self.rooms[index];
                let Some(user) = state.room.participant(from).map(|p| p.user.as_str()) else { return };
                let data = ChatData { text: &text };
                let text = match to.and_then(|to| state.room.participant(to)) {
                    Some(target) => message::encode_to("chat", Some(&state.id), Some(user), &target.user, data),
                    None => message::encode("chat", Some(&state.id), Some(user), None, data),
                };
                self.tell(index, from, to, text);
            }
            Event::Data { from, to, data } => {
                let state = &self.rooms[index];
                let Some(user) = state.room.participant(from).map(|p| p.user.as_str()) else { return };
                let Some(data) = RawValue::new(data) else { return };
                let text = match to.and_then(|to| state.room.participant(to)) {
                    Some(target) => {
                        message::encode_raw_to("data", Some(&state.id), Some(user), &target.user, None, &data)
                    }
                    None => message::encode_raw("data", Some(&state.id), Some(user), None, &data),
                };
                self.tell(index, from, to, text);
            }
        }
    }

    fn tell(&mut self, index: usize, from: ParticipantKey, to: Option<ParticipantKey>, text: tungstenite::Utf8Bytes) {
        match to {
            Some(key) => self.send_to(key, text),
            None => self.tell_others(index, Some(from), text),
        }
    }

    pub(super) fn tell_others(&mut self, index: usize, but: Option<ParticipantKey>, text: tungstenite::Utf8Bytes) {
        let Some(state) = self.rooms.get(index) else { return };
        for (key, _) in state.room.participants() {
            if Some(key) != but
                && let Some(conn) = self.participants.get(key.slot as usize).and_then(|p| p.conn)
            {
                self.outputs.push_back(Output::Send { conn, text: text.clone() });
            }
        }
    }

    pub(super) fn plan_all(&mut self, index: usize) {
        let Some(state) = self.rooms.get(index) else { return };
        let keys: Vec<ParticipantKey> = state.room.participants().map(|(key, _)| key).collect();
        for key in keys {
            self.want_plan(key);
        }
    }

    pub(super) fn announce_draining(&mut self) {
        let conns: Vec<ConnKey> = self.sessions.keys().copied().collect();
        for conn in conns {
            let text = message::encode("server-draining", None, Some("sfu"), None, Empty {});
            self.send(conn, text);
        }
    }

    fn session_of(&self, key: ParticipantKey) -> Option<&Session> {
        self.sessions.get(&self.participant(key)?.conn?)
    }

    fn reply(&mut self, conn: ConnKey, kind: &'static str, id: Option<&RequestId>, data: impl serde::Serialize) {
        let room = self.sessions.get(&conn).and_then(|s| s.room());
        let text = message::encode(kind, room, Some("sfu"), id, data);
        self.send(conn, text);
    }

    fn error(&mut self, conn: ConnKey, id: Option<&RequestId>, code: ErrorCode, text: &str) {
        let room = self.sessions.get(&conn).and_then(|s| s.room());
        let text = message::encode_error(room, id, code, text);
        self.send(conn, text);
    }

    pub(super) fn error_to(&mut self, key: ParticipantKey, code: ErrorCode, text: &str) {
        if let Some(conn) = self.participant(key).and_then(|p| p.conn) {
            self.error(conn, None, code, text);
        }
    }
}

impl Participant {
    /// Remembers how the client calls what it publishes; what it does not name again keeps its name.
    fn note_names(&mut self, description: &Sdp) {
        for name in &description.tracks {
            self.names.retain(|other| other.mid != name.mid);
            self.names.push(name.clone());
        }
        let excess = self.names.len().saturating_sub(MAX_NAMES);
        self.names.drain(..excess);
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct CallInfo<'a> {
    id: &'a RoomId,
    status: &'static str,
    started_at: String,
}

/// `encoding` in `joined`: wishes for what a client publishes.
#[derive(serde::Serialize)]
struct EncodingInfo {
    audio: AudioEncoding,
    video: VideoEncoding,
}

#[derive(serde::Serialize)]
struct AudioEncoding {
    codec: &'static str,
    bitrate: u32,
}

#[derive(serde::Serialize)]
struct VideoEncoding {
    codec: &'static str,
    bitrate: BitrateRange,
    framerate: u32,
    width: u32,
    height: u32,
}

#[derive(serde::Serialize)]
struct BitrateRange {
    min: u32,
    max: u32,
}

impl From<&EncodingConfig> for EncodingInfo {
    fn from(config: &EncodingConfig) -> Self {
        EncodingInfo {
            audio: AudioEncoding { codec: config.audio_codec.name(), bitrate: config.audio_bitrate },
            video: VideoEncoding {
                codec: config.video_codec.name(),
                bitrate: BitrateRange { min: config.video_min_bitrate, max: config.video_max_bitrate },
                framerate: config.framerate,
                width: config.width,
                height: config.height,
            },
        }
    }
}

fn user_of(target: &Target) -> Result<Option<&crate::base::UserId>, Refused> {
    match target {
        Target::None => Ok(None),
        Target::User(user) => Ok(Some(user)),
        Target::Sfu => Err((ErrorCode::BadMessage, "targetUserId must be a participant".into())),
    }
}

fn track_info(track: &TrackMeta, muted: bool) -> TrackInfo<'_> {
    TrackInfo {
        track_id: track.id,
        kind: track.kind,
        source: track.source,
        name: track.name.as_deref(),
        mid: None,
        muted,
        layers: Vec::new(),
    }
}

pub(super) fn media_kind(kind: Kind) -> MediaKind {
    match kind {
        Kind::Audio => MediaKind::Audio,
        Kind::Video => MediaKind::Video,
    }
}

pub(super) fn mid_text(mid: Mid) -> String {
    mid.to_string().trim().to_owned()
}

fn negotiation_refused(error: NegotiationError) -> Refused {
    match error {
        NegotiationError::Sdp(text) => (ErrorCode::BadSdp, text),
        NegotiationError::Stale => (ErrorCode::StaleAnswer, "this answers an offer that was dropped".into()),
        NegotiationError::Unexpected => (ErrorCode::UnexpectedAnswer, "the server has made no offer".into()),
        NegotiationError::Dead => {
            (ErrorCode::Internal, "the media connection failed; make another PeerConnection".into())
        }
    }
}

fn refused(error: &room::Error) -> Refused {
    let code = match error {
        room::Error::Full => ErrorCode::CallFull,
        room::Error::Forbidden => ErrorCode::Forbidden,
        room::Error::ParticipantNotFound => ErrorCode::ParticipantNotFound,
        room::Error::Unreachable => ErrorCode::NotAvailable,
        room::Error::TrackNotFound => ErrorCode::TrackNotFound,
        room::Error::TooManyTracks => ErrorCode::TooManyTracks,
        _ => ErrorCode::BadMessage,
    };
    (code, error.to_string())
}

/// Shown by a client that goes on with a new socket: as good as a password for half a minute, so unguessable.
fn resume_token() -> Box<str> {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes).expect("OpenSSL's generator is seeded");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// Messages on data channels of one participant: a cursor that moves with the screen, and files in pieces.
pub(super) const MESSAGES_PER_SECOND: u32 = 200;
pub(super) const MESSAGES_BURST: u32 = 400;
/// Wishes and names that one participant may have on record: more than tracks a room can have is only repetition.
const MAX_WISHES: usize = 256;
const MAX_NAMES: usize = 64;
