//! Questions about live rooms that come by HTTP, and WHIP and WHEP sessions, which are participants without a socket.
//!
//! A question begins on the worker that read the request. Worker 0 knows where the room is; a question that lets somebody in
//! is counted there like a join, see [`super::directory`]. It is answered where the room is, and the answer goes back:
//!
//! ```text
//!   worker 2 ──Ask──► worker 0 ──Visit──► worker 1
//!       ▲                                    │
//!       └────────────────Answer──────────────┘
//! ```
//!
//! Every question gets one answer. Where a mailbox is full it is answered in the room's place, and a join that was counted
//! is accounted for. An answer for which nobody waits any more is dropped by the worker.

use std::time::Instant;

use super::directory::Refusal as Placeless;
use super::{Mail, Output, Participant, Shard, Wish};
use crate::auth::{self, Grants, Role};
use crate::base::limit::TokenBucket;
use crate::base::{ConnKey, ParticipantKey, RoomId, WorkerId};
use crate::http::question::{Question, Reply, Unavailable};
use crate::ice_servers::link_servers;
use crate::peer::{NegotiationError, Peer};
use crate::room::{Joiner, Kind, LeaveReason, Source};
use crate::sfu::allocate::Caps;
use crate::signal::message::{Receive, TrackName, TrackRef};
use crate::whip::{
    self, Bounds, Fragment, IfMatch, Offer, OfferLine, Open, Patch, Protocol, Refusal, Session, SessionId, Wanted, What,
};

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    worker: WorkerId,
    conn: ConnKey,
    number: u32,
}

impl Shard {
    /// A request that was read here asks something of a room. `number` comes back with [`Output::Answer`].
    pub fn handle_question(&mut self, now: Instant, conn: ConnKey, number: u32, room: RoomId, question: Question) {
        let from = Asker { worker: self.id, conn, number };
        if self.draining && question.opens() {
            return self.answer(from, Reply::Unavailable(Unavailable::Draining));
        }
        if self.directory.is_some() {
            self.direct(now, from, room, question);
        } else {
            let mail = Mail::Ask { from, room, question: Box::new(question) };
            self.outputs.push_back(Output::Mail { to: WorkerId(0), mail });
        }
        self.settle(now);
    }

    /// On worker 0: sends a question to where its room is.
    pub(super) fn direct(&mut self, now: Instant, from: Asker, room: RoomId, question: Question) {
        let create = self.config.server.auto_create_calls;
        let place = match &mut self.directory {
            Some(directory) if question.opens() => directory.locate(&room, create),
            Some(directory) => directory.find(&room).ok_or(Placeless::NotFound),
            None => Err(Placeless::NotFound),
        };
        match place {
            Ok(worker) if worker == self.id => self.visit(now, from, room, question),
            Ok(worker) => {
                let mail = Mail::Visit { from, room, question: Box::new(question) };
                self.outputs.push_back(Output::Mail { to: worker, mail });
            }
            Err(Placeless::NotFound) => {
                let reply = match question {
                    Question::Recording(control) => control.without_recording(&room),
                    _ => Reply::Unavailable(Unavailable::NoRoom),
                };
                self.answer(from, reply);
            }
            Err(Placeless::TooManyRooms) => self.answer(from, Reply::Unavailable(Unavailable::TooManyRooms)),
        }
    }

    /// On the worker of the room: answers. A question that opens has been counted as a join.
    pub(super) fn visit(&mut self, now: Instant, from: Asker, room: RoomId, question: Question) {
        let reply = match question {
            Question::Whip(question) => self.ask_whip(now, room, *question),
            Question::Stats(grants) => self.ask_stats(now, &room, &grants),
            // Some are answered later.
            Question::Recording(control) => return self.ask_recording(now, from, &room, *control),
        };
        self.answer(from, reply);
    }

    pub(super) fn answer(&mut self, to: Asker, reply: Reply) {
        self.outputs.push_back(if to.worker == self.id {
            Output::Answer { conn: to.conn, number: to.number, reply }
        } else {
            Output::Mail { to: to.worker, mail: Mail::Answer { to, reply } }
        });
    }

    pub(super) fn on_answer(&mut self, to: Asker, reply: Reply) {
        self.outputs.push_back(Output::Answer { conn: to.conn, number: to.number, reply });
    }

    /// The worker could not deliver a question: the mailbox is full. Any other mail is given back, since it must not be lost.
    pub fn handle_undeliverable(&mut self, mail: Mail) -> Option<Mail> {
        match mail {
            Mail::Ask { from, .. } => self.answer(from, Reply::Unavailable(Unavailable::Busy)),
            Mail::Visit { from, room, question } => {
                if question.opens() {
                    self.account(room, 1);
                }
                self.answer(from, Reply::Unavailable(Unavailable::Busy));
            }
            mail => return Some(mail),
        }
        None
    }

    // ---- sessions ----

    fn ask_whip(&mut self, now: Instant, room: RoomId, question: whip::Question) -> Reply {
        let whip::Question { grants, protocol, what } = question;
        let result = match what {
            What::Open(_) if self.draining => {
                self.account(room, 1);
                return Reply::Unavailable(Unavailable::Draining);
            }
            What::Open(open) => self.open_session(now, room, protocol, &grants, open),
            What::Patch { id, if_match, fragment } => self
                .find_session(&room, protocol, &id, &grants)
                .and_then(|key| self.patch_session(now, key, &if_match, &fragment)),
            What::End { id } => self.find_session(&room, protocol, &id, &grants).map(|key| {
                self.remove_participant(now, key, LeaveReason::Left);
                whip::Reply::Ended
            }),
            What::Look { id } => self.find_session(&room, protocol, &id, &grants).map(|key| {
                let session = self.participant(key).and_then(|p| p.whip.as_deref());
                whip::Reply::Alive { etag: session.map(Session::etag).unwrap_or_default() }
            }),
        };
        Reply::Whip(result.unwrap_or_else(whip::Reply::Refused))
    }

    fn open_session(
        &mut self,
        now: Instant,
        room: RoomId,
        protocol: Protocol,
        grants: &Grants,
        open: Open,
    ) -> Result<whip::Reply, Refusal> {
        // Everything that may fail for reasons of its own comes before the others could notice anything.
        let (peer, offer, answer) = match self.connect(now, &room, protocol, grants, &open) {
            Ok(connected) => connected,
            Err(refusal) => {
                self.sink.clear();
                self.account(room, 1);
                return Err(refusal);
            }
        };
        let index = self.room_for(now, &room);
        let key = self.vacant_key();
        let state = &mut self.rooms[index];
        state.arrivals += 1;
        let is_oneself = open.user == *grants.user();
        let joiner = Joiner {
            user: open.user,
            display_name: grants.name().filter(|_| is_oneself).map(str::to_owned),
            // Who acts for another does not lend it the rank.
            role: if is_oneself { grants.role() } else { grants.role().min(Role::Participant) },
            permissions: *grants.permissions(),
            metadata: None,
            is_media_only: true,
        };
        if state.room.join(key, joiner).is_err() {
            // Nothing else can be wrong with a key and a name that are new.
            self.sink.clear();
            self.end_room_if_empty(now, index);
            return Err(Refusal::CallFull);
        }
        let limits = &self.config.limits;
        let bounds = Bounds {
            patches: TokenBucket::new(now, limits.message_rate, limits.message_burst),
            restarts: TokenBucket::new(now, limits.offer_rate, limits.offer_burst),
            candidates: limits.candidates,
        };
        let id = SessionId::random();
        let session = Session::new(id.clone(), protocol, grants.user().clone(), &offer, bounds);
        let etag = session.etag();
        let participant = Participant {
            whip: Some(Box::new(session)),
            peer: Some(peer),
            receive: Receive::Slots,
            auto_subscribe: open.wanted.is_empty(),
            wishes: open.wanted.into_iter().map(wish).collect(),
            may_subscribe: protocol == Protocol::Whep,
            names: offer.lines.iter().map(|line| name(line, open.is_screen)).collect(),
            ..Participant::new(now, key, index, &state.room)
        };
        tracing::info!(user = %participant.user, protocol = protocol.as_str(), "session opened");
        let ice_servers = link_servers(&self.config.rtc, &participant.user, self.wall);
        self.participants.insert(participant);
        self.pump(now, index);
        self.after_negotiation(now, key, "");
        Ok(whip::Reply::Created { room, protocol, id, etag, answer, ice_servers })
    }

    /// A media connection that has answered the offer, and the answer as the client gets it.
    fn connect(
        &mut self,
        now: Instant,
        room: &RoomId,
        protocol: Protocol,
        grants: &Grants,
        open: &Open,
    ) -> Result<(Peer, Offer, String), Refusal> {
        if let Some(index) = self.room_by_id.get(room) {
            let openings = &mut self.rooms[*index].openings;
            let openings = openings.get_or_insert_with(|| TokenBucket::new(now, OPENINGS_PER_SECOND, OPENINGS_BURST));
            if !openings.take(now) {
                return Err(Refusal::RateLimited);
            }
        }
        let offer = Offer::new(protocol, &open.offer).map_err(|error| Refusal::Offer(error.to_string()))?;
        if protocol == Protocol::Whip {
            if offer.lines.len() > self.config.limits.tracks {
                return Err(Refusal::TooManyTracks);
            }
            for line in &offer.lines {
                let source = match line.kind {
                    _ if open.is_screen => auth::Source::Screen,
                    Kind::Video => auth::Source::Camera,
                    Kind::Audio => auth::Source::Microphone,
                };
                if !grants.permissions().may_publish(source) {
                    return Err(Refusal::Forbidden("The token does not allow to publish all of this."));
                }
            }
        }
        let mut peer = Peer::new(now, self.peer_config.clone());
        let answer = peer.handle_offer(now, &offer.sdp, &mut self.sink).map_err(refused)?;
        let answer = offer.finish(protocol, &answer).map_err(|error| Refusal::Offer(error.to_string()))?;
        Ok((peer, offer, answer))
    }

    /// The participant that is this session; a session is for whoever opened it, hosts and admins.
    fn find_session(
        &self,
        room: &RoomId,
        protocol: Protocol,
        id: &SessionId,
        grants: &Grants,
    ) -> Result<ParticipantKey, Refusal> {
        let index = self.room_by_id.get(room).ok_or(Refusal::NoSession)?;
        let sessions =
            self.rooms[*index].room.participants().filter(|(_, p)| p.is_media_only).filter_map(|(key, _)| {
                let session = self.participant(key)?.whip.as_deref()?;
                Some((key, session))
            });
        let mut found = sessions.filter(|(_, session)| session.protocol() == protocol && session.id() == id);
        let (key, session) = found.next().ok_or(Refusal::NoSession)?;
        if session.owner() != grants.user() && grants.role() < Role::Host {
            return Err(Refusal::Forbidden("The session belongs to another user."));
        }
        Ok(key)
    }

    fn patch_session(
        &mut self,
        now: Instant,
        key: ParticipantKey,
        if_match: &IfMatch,
        fragment: &Fragment,
    ) -> Result<whip::Reply, Refusal> {
        let Some(participant) = self.participants.get_mut(key.slot as usize) else { return Err(Refusal::NoSession) };
        let (Some(session), Some(peer)) = (&mut participant.whip, &mut participant.peer) else {
            return Err(Refusal::NoSession);
        };
        let Patch::Restart { offer } = session.handle_patch(now, if_match, fragment)? else {
            return Ok(whip::Reply::Noted);
        };
        let answered = peer.handle_offer(now, &offer, &mut self.sink);
        let reply = answered.map_err(refused).map(|answer| {
            session.restarted(fragment);
            whip::Reply::Restarted { etag: session.etag(), fragment: whip::fragment_of(&answer) }
        });
        self.after_negotiation(now, key, "");
        reply
    }

    /// The media connection is over; a session that is nothing else goes with it.
    pub(super) fn lose_peer(&mut self, now: Instant, key: ParticipantKey) {
        if self.participant(key).is_some_and(|participant| participant.whip.is_some()) {
            self.remove_participant(now, key, LeaveReason::Lost);
        } else {
            self.drop_peer(now, key);
        }
    }
}

/// How the lines of a publisher are called.
fn name(line: &OfferLine, is_screen: bool) -> TrackName {
    let source = match (line.kind, is_screen) {
        (Kind::Audio, true) => Source::ScreenAudio,
        (Kind::Video, true) => Source::Screen,
        (kind, false) => kind.main_source(),
    };
    TrackName { mid: line.mid.clone(), source, name: None }
}

fn wish(wanted: Wanted) -> Wish {
    let what = match wanted {
        Wanted::Publisher(user) => TrackRef::User(user),
        Wanted::Track(track) => TrackRef::Track(track),
    };
    Wish { what, wanted: true, paused: false, priority: 0, caps: Caps::default() }
}

fn refused(error: NegotiationError) -> Refusal {
    match error {
        NegotiationError::Sdp(text) => Refusal::Offer(text),
        NegotiationError::Stale | NegotiationError::Unexpected | NegotiationError::Dead => Refusal::Broken,
    }
}

/// Sessions opened in one room: all its viewers may come at once, but an offer takes a millisecond or more.
const OPENINGS_PER_SECOND: u32 = 20;
const OPENINGS_BURST: u32 = 100;
