//! Who is really there: connections that are lost, resumed, or gone for good (interface.md §4, "Reconnection").
//!
//! A participant is *lost* when its socket closed without a word, or when neither a check nor media came from it for
//! [`SILENT_AFTER`]. The others are told so and that it is back; they see neither leave nor join. After `LIMIT_RESUME` it has
//! left. What is lost may still be sending media, which goes on being forwarded.

use std::time::{Duration, Instant};

use super::{Output, Participant, Shard};
use crate::base::{ConnKey, ParticipantKey};
use crate::peer::Peer;
use crate::room::LeaveReason;
use crate::signal::message::{self, UserUpdated};

/// What is known of a participant's presence.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Presence {
    /// Since when its socket is closed; never for those who need none.
    socket_lost: Option<Instant>,
    /// The others were told that it is lost.
    told: bool,
}

impl Presence {
    /// The others think it lost.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    fn is_lost(&self, participant: &Participant, now: Instant) -> bool {
        self.socket_lost.is_some() || participant.silence(now) >= SILENT_AFTER
    }
}

impl Participant {
    /// How long nothing came over the media connection; zero without one, or while it is being made.
    fn silence(&self, now: Instant) -> Duration {
        match self.peer.as_ref().filter(|peer| peer.is_connected()) {
            Some(peer) => now.saturating_duration_since(peer.heard()),
            None => Duration::ZERO,
        }
    }
}

impl Shard {
    /// A socket closed without a `leave`: its participant may come back for a while.
    pub(super) fn lose_socket(&mut self, now: Instant, key: ParticipantKey) {
        if self.draining || self.config.limits.resume.is_zero() {
            // Whoever comes back would be refused.
            return self.remove_participant(now, key, LeaveReason::Lost);
        }
        let Some(participant) = self.participant_mut(key) else { return };
        participant.conn = None;
        participant.presence.socket_lost = Some(now);
        self.watch_presence(now, key);
    }

    /// Looks at one participant; to be called regularly, and whenever something about its presence changed.
    pub(super) fn watch_presence(&mut self, now: Instant, key: ParticipantKey) {
        let Some(participant) = self.participant(key) else { return };
        let presence = participant.presence;
        let gone_after = self.config.limits.resume;
        if presence.socket_lost.is_some_and(|since| now >= since + gone_after) {
            return self.remove_participant(now, key, LeaveReason::Lost);
        }
        // Never so soon that a network that changes looks like a leave.
        let gone_after = gone_after.max(SILENT_AFTER * 2);
        let silence = participant.silence(now);
        if presence.socket_lost.is_none() && silence >= gone_after {
            let is_reachable = participant
                .conn
                .and_then(|conn| self.sessions.get(&conn))
                .is_some_and(|session| now.saturating_duration_since(session.heard()) + LAST_WORD < silence);
            if !is_reachable {
                let conn = participant.conn;
                self.remove_participant(now, key, LeaveReason::Lost);
                if let Some(conn) = conn {
                    self.outputs.push_back(Output::Close { conn, code: 1008, reason: "nothing heard" });
                    self.take_session(conn);
                }
                return;
            }
            // Only the way of the media is gone; the person is there and may offer anew.
            tracing::info!(user = %participant.user, "the media connection is silent and is given up");
            self.drop_peer(now, key);
        }
        let Some(participant) = self.participant(key) else { return };
        let is_lost = presence.is_lost(participant, now);
        if is_lost != presence.told {
            self.tell_presence(key, is_lost);
        }
    }

    fn tell_presence(&mut self, key: ParticipantKey, is_lost: bool) {
        let Some(participant) = self.participant_mut(key) else { return };
        participant.presence.told = is_lost;
        let index = participant.room;
        let state = &self.rooms[index];
        let Some(user) = state.room.participant(key).map(|p| p.user.as_str()) else { return };
        let connection = Some(if is_lost { "lost" } else { "ok" });
        let data = UserUpdated { connection, ..UserUpdated::default() };
        let text = message::encode("user-updated", Some(&state.id), Some(user), None, data);
        self.tell_others(index, Some(key), text);
    }

    /// The participant of this user that a resume token belongs to.
    pub(super) fn resumable(&self, index: usize, user: &crate::base::UserId, token: &str) -> Option<ParticipantKey> {
        let is_theirs = |key: &ParticipantKey| {
            let known = self.participant(*key).and_then(|p| p.resume_token.as_deref());
            known.is_some_and(|known| {
                known.len() == token.len() && openssl::memcmp::eq(known.as_bytes(), token.as_bytes())
            })
        };
        let sessions = self.rooms.get(index)?.room.participants();
        sessions.filter(|(_, p)| p.person == *user && !p.is_media_only).map(|(key, _)| key).find(is_theirs)
    }

    /// The participant goes on with another socket. An older one that is still open, since its end was not noticed here, is
    /// closed.
    pub(super) fn resume(&mut self, now: Instant, key: ParticipantKey, conn: ConnKey) {
        let Some(participant) = self.participant_mut(key) else { return };
        let older = participant.conn.replace(conn);
        participant.presence.socket_lost = None;
        // An offer that the client may never have seen is made anew, and what it had to say about ICE too.
        if let Some(peer) = &mut participant.peer {
            peer.forget_offer();
        }
        participant.shelved = None;
        participant.candidates = 0;
        if participant.peer.as_ref().is_some_and(Peer::is_dead) {
            self.drop_peer(now, key);
        }
        if let Some(older) = older {
            self.outputs.push_back(Output::Close { conn: older, code: 4003, reason: "replaced by a newer session" });
            self.take_session(older);
        }
        self.watch_presence(now, key);
    }
}

/// Browsers send a check at least every few seconds, so this is several of them. With the interval at which it is looked at, a
/// last word that was under way, and the way to the others, it stays below the 15 s that are promised.
const SILENT_AFTER: Duration = Duration::from_secs(14);
/// What came over the socket so soon after the last media was under way when both went silent. Pings are answered every 20 s, so
/// that a socket that lives is heard later than this before a silent participant is given up.
const LAST_WORD: Duration = Duration::from_secs(5);
