//! One signaling connection: connected → joining → joined → closed.
//!
//! Judges whether a message may come now and from this client: rate, identity, order, room. What a message means is for
//! [`crate::shard`], which drives this and moves it from phase to phase. Heartbeat and frames are for `ws`.

use std::time::{Duration, Instant, SystemTime};

use tungstenite::Utf8Bytes;

use super::Limits;
use super::message::{
    Body, Empty, ErrorCode, Form, Join, Reject, Request, RequestId, TokenExpiring, encode, encode_error, parse,
};
use crate::auth::{self, Grants};
use crate::base::limit::TokenBucket;
use crate::base::{ParticipantKey, RoomId};

pub struct Session {
    pub grants: Grants,
    phase: Phase,
    limits: Limits,
    sdp_form: Option<Form>,
    candidate_form: Option<Form>,
    messages: Rate,
    offers: Rate,
    bad_in_a_row: u32,
    expiry: Option<Expiry>,
    heard: Instant,
}

/// When the token of a joined session ends, where that is enforced.
#[derive(Debug, Clone, Copy)]
struct Expiry {
    at: Instant,
    warned: bool,
}

/// How far a connection has come.
#[derive(Debug)]
pub enum Phase {
    /// No join yet; at `deadline` the connection is closed.
    Connected {
        deadline: Instant,
    },
    /// A join was accepted here and is being carried out: the room is looked up or the participant waits in the lobby.
    Joining {
        room: RoomId,
        request: Box<(Option<RequestId>, Join)>,
    },
    Joined {
        room: RoomId,
        participant: ParticipantKey,
    },
    Closed,
}

/// What is to be done about a frame.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Carry it out. A `join` has its room and may be followed by [`Session::set_joining`].
    Message(Request),
    /// Nothing but a reply.
    Reply(Utf8Bytes),
    /// Send the reply and close with the code.
    Close { reply: Option<Utf8Bytes>, code: u16, reason: &'static str },
}

impl Session {
    pub fn new(now: Instant, grants: Grants, limits: &Limits) -> Self {
        Session {
            grants,
            phase: Phase::Connected { deadline: now + limits.join_within },
            sdp_form: None,
            candidate_form: None,
            messages: Rate::new(now, limits.messages_per_second, limits.messages_burst),
            offers: Rate::new(now, limits.offers_per_second, limits.offers_burst),
            bad_in_a_row: 0,
            expiry: None,
            heard: now,
            limits: limits.clone(),
        }
    }

    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The room that is joined or being joined.
    pub fn room(&self) -> Option<&RoomId> {
        match &self.phase {
            Phase::Joining { room, .. } | Phase::Joined { room, .. } => Some(room),
            Phase::Connected { .. } | Phase::Closed => None,
        }
    }

    pub fn participant(&self) -> Option<ParticipantKey> {
        match self.phase {
            Phase::Joined { participant, .. } => Some(participant),
            _ => None,
        }
    }

    /// How to write `sdp` to this client: as it did last, the object form before it used any.
    pub fn sdp_form(&self) -> Form {
        self.sdp_form.or(self.candidate_form).unwrap_or(Form::Object)
    }

    /// How to write `candidate`. Apart from `sdp`, since many clients send descriptions whole but candidates as
    /// `RTCIceCandidate.toJSON()`, where the line is a text.
    pub fn candidate_form(&self) -> Form {
        self.candidate_form.or(self.sdp_form).unwrap_or(Form::Object)
    }

    /// The largest message allowed in this phase, in bytes.
    pub fn message_bytes_max(&self) -> usize {
        match self.phase {
            Phase::Joined { .. } => self.limits.message_after_join,
            _ => self.limits.message_before_join,
        }
    }

    /// Whether the token is past its expiry and [`auth::LEEWAY`]. Asked at join and resume; a running session stays.
    pub fn token_expired(&self, wall: SystemTime) -> bool {
        wall.duration_since(self.grants.expires_at()).is_ok_and(|late| late >= auth::LEEWAY)
    }

    /// When something came from the client last, if only the answer to a ping.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// The client gave a sign of life that says nothing else.
    pub fn note_heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub fn handle_text(&mut self, now: Instant, text: &str) -> Action {
        self.heard = now;
        if matches!(self.phase, Phase::Closed) {
            return CLOSED;
        }
        if text.len() > self.message_bytes_max() {
            return self.close(None, 1009, "message too large");
        }
        match self.messages.take(now) {
            Verdict::Pass => {}
            Verdict::Refuse => {
                // A long text is not even read: reading it is what the limit protects from.
                let id = if text.len() <= 4096 { self.id_of(text) } else { None };
                return Action::Reply(self.error(ErrorCode::RateLimited, id.as_ref(), "too many messages"));
            }
            Verdict::Close => return self.close_rate_limited(),
        }
        let request = match parse(text, &self.limits) {
            Ok(request) => request,
            Err(reject) => return self.refuse(&reject),
        };
        match self.check(now, &request) {
            Ok(()) => {}
            Err(Refusal::Error(code, message)) => {
                return self.refuse(&Reject { code, message: message.into(), id: request.id });
            }
            Err(Refusal::Close) => return self.close_rate_limited(),
        }
        self.bad_in_a_row = 0;
        match &request.body {
            Body::Offer(sdp) | Body::Answer(sdp) => self.sdp_form = Some(sdp.form),
            Body::IceCandidate(Some(candidate)) => self.candidate_form = Some(candidate.form),
            Body::Ping => {
                let user = self.grants.user().as_str();
                return Action::Reply(encode("pong", self.room(), Some(user), request.id.as_ref(), Empty {}));
            }
            Body::Moderation(word) => {
                let message = format!("{word} is not available");
                return Action::Reply(self.error(ErrorCode::NotAvailable, request.id.as_ref(), &message));
            }
            _ => {}
        }
        Action::Message(request)
    }

    /// A binary frame: there is none in this protocol.
    pub fn handle_binary(&mut self, now: Instant) -> Action {
        if matches!(self.phase, Phase::Closed) {
            return CLOSED;
        }
        match self.messages.take(now) {
            Verdict::Pass => {}
            Verdict::Refuse => return Action::Reply(self.error(ErrorCode::RateLimited, None, "too many messages")),
            Verdict::Close => return self.close_rate_limited(),
        }
        let message = "binary frames are not understood; send JSON as text".to_owned();
        self.refuse(&Reject { code: ErrorCode::BadMessage, message, id: None })
    }

    /// The session is to end with its token: a warning 60 s before, close code 4004 then. A renewed token sets it anew.
    pub fn set_expiry(&mut self, at: Instant) {
        self.expiry = Some(Expiry { at, warned: false });
    }

    /// When [`Session::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (&self.phase, self.expiry) {
            (Phase::Connected { deadline }, _) => Some(*deadline),
            (Phase::Joined { .. }, Some(Expiry { at, warned: true })) => Some(at),
            // Written so that a token that ends within the minute is warned about at once.
            (Phase::Joined { .. }, Some(Expiry { at, warned: false })) => {
                Some(at.checked_sub(EXPIRY_WARNING).unwrap_or(at))
            }
            _ => None,
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Option<Action> {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return None;
        }
        if !matches!(self.phase, Phase::Joined { .. }) {
            let reply = self.error(ErrorCode::NotJoined, None, "no join within the time allowed");
            return Some(self.close(Some(reply), 1008, "not joined"));
        }
        let expiry = self.expiry.as_mut()?;
        if now >= expiry.at {
            return Some(self.close(None, 4004, "token expired"));
        }
        expiry.warned = true;
        let data = TokenExpiring { in_ms: expiry.at.saturating_duration_since(now).as_millis() as u64 };
        Some(Action::Reply(encode("token-expiring", self.room(), Some("sfu"), None, data)))
    }

    /// The join is being carried out. Until [`Session::joined`] everything but `ping` and `leave` gets an error, so rather
    /// read no further from the connection.
    pub fn set_joining(&mut self, room: RoomId, id: Option<RequestId>, join: Join) {
        if matches!(self.phase, Phase::Connected { .. }) {
            self.phase = Phase::Joining { room, request: Box::new((id, join)) };
        }
    }

    /// The join succeeded. Returns the request it answers, when [`Session::set_joining`] noted one.
    pub fn joined(&mut self, room: RoomId, participant: ParticipantKey) -> Option<(Option<RequestId>, Join)> {
        if matches!(self.phase, Phase::Closed) {
            return None;
        }
        match std::mem::replace(&mut self.phase, Phase::Joined { room, participant }) {
            Phase::Joining { request, .. } => Some(*request),
            _ => None,
        }
    }

    /// The join was refused: the client may try another one, within the time that a new connection has.
    pub fn join_failed(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Connected { deadline: now + self.limits.join_within };
        }
    }

    /// Nothing is accepted any more.
    pub fn set_closed(&mut self) {
        self.phase = Phase::Closed;
    }

    /// An `error` for this connection.
    pub fn error(&self, code: ErrorCode, id: Option<&RequestId>, message: &str) -> Utf8Bytes {
        encode_error(self.room(), id, code, message)
    }

    fn check(&mut self, now: Instant, request: &Request) -> Result<(), Refusal> {
        let refuse = |code, message| Err(Refusal::Error(code, message));
        if request.user.as_deref().is_some_and(|user| user != self.grants.user().as_str()) {
            return refuse(ErrorCode::Forbidden, "userId is not yours");
        }
        match (&self.phase, &request.body) {
            (Phase::Connected { .. }, Body::Join(_)) => {
                let Some(room) = &request.room else { return refuse(ErrorCode::BadMessage, "roomId is missing") };
                // The same words as for a call that does not exist, so that ids cannot be tried out.
                if !self.grants.may_enter(room) {
                    return refuse(ErrorCode::CallNotFound, "no such call");
                }
                return Ok(());
            }
            (Phase::Joining { .. } | Phase::Joined { .. }, Body::Join(_)) => {
                return refuse(ErrorCode::AlreadyJoined, "this connection has joined a call");
            }
            (Phase::Connected { .. } | Phase::Joining { .. }, Body::Ping | Body::Leave) => {}
            (Phase::Connected { .. }, _) => return refuse(ErrorCode::NotJoined, "join a call first"),
            (Phase::Joining { .. }, _) => return refuse(ErrorCode::NotJoined, "the join is not complete"),
            (Phase::Joined { .. } | Phase::Closed, _) => {}
        }
        if let (Some(joined), Some(named)) = (self.room(), &request.room)
            && joined != named
        {
            return refuse(ErrorCode::Forbidden, "roomId is not the call that was joined");
        }
        if matches!(request.body, Body::Offer(_)) {
            match self.offers.take(now) {
                Verdict::Pass => {}
                Verdict::Refuse => return refuse(ErrorCode::RateLimited, "too many offers"),
                Verdict::Close => return Err(Refusal::Close),
            }
        }
        Ok(())
    }

    fn refuse(&mut self, reject: &Reject) -> Action {
        let reply = self.error(reject.code, reject.id.as_ref(), &reject.message);
        if reject.code != ErrorCode::BadMessage {
            self.bad_in_a_row = 0;
            return Action::Reply(reply);
        }
        self.bad_in_a_row += 1;
        if self.bad_in_a_row >= self.limits.bad_messages {
            return self.close(Some(reply), 1008, "too many bad messages");
        }
        Action::Reply(reply)
    }

    fn close_rate_limited(&mut self) -> Action {
        let reply = self.error(ErrorCode::RateLimited, None, "too many messages, for too long");
        self.close(Some(reply), 1008, "rate limited")
    }

    fn close(&mut self, reply: Option<Utf8Bytes>, code: u16, reason: &'static str) -> Action {
        self.phase = Phase::Closed;
        Action::Close { reply, code, reason }
    }

    fn id_of(&self, text: &str) -> Option<RequestId> {
        parse(text, &self.limits).map_or_else(|reject| reject.id, |request| request.id)
    }
}

/// How long before the end of its token a client is told.
const EXPIRY_WARNING: Duration = Duration::from_secs(60);
/// What comes after the end.
const CLOSED: Action = Action::Close { reply: None, code: 1008, reason: "closed" };

enum Refusal {
    Error(ErrorCode, &'static str),
    Close,
}

enum Verdict {
    Pass,
    Refuse,
    Close,
}

/// A rate, and the patience with those who exceed it: ten times the burst may be refused, earned back at the rate itself.
struct Rate {
    allowed: TokenBucket,
    patience: TokenBucket,
}

impl Rate {
    fn new(now: Instant, per_second: u32, burst: u32) -> Self {
        Rate {
            allowed: TokenBucket::new(now, per_second, burst),
            patience: TokenBucket::new(now, per_second, burst.saturating_mul(10)),
        }
    }

    fn take(&mut self, now: Instant) -> Verdict {
        if self.allowed.take(now) {
            Verdict::Pass
        } else if self.patience.take(now) {
            Verdict::Refuse
        } else {
            Verdict::Close
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::auth::{Claims, Role, RoomScope, Signer, Verifier};
    use crate::base::UserId;
    use crate::config::{AuthConfig, Secret};

    const KEY: ParticipantKey = ParticipantKey { slot: 1, generation: 0 };

    fn room(text: &str) -> RoomId {
        RoomId::new(text).expect("valid")
    }

    /// Ann's token is good for `r1` and `r2` until second 1000.
    fn grants() -> Grants {
        let secret = Secret::new("Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aEo");
        let config = AuthConfig { jwt_secret: Some(secret), ..AuthConfig::default() };
        let claims = Claims {
            user: UserId::new("ann").expect("valid"),
            name: None,
            role: Role::Participant,
            rooms: RoomScope::Rooms(vec![room("r1"), room("r2")]),
            permissions: None,
            ttl: Duration::from_secs(1000),
        };
        let signer = Signer::new(&config).expect("the secret is long enough").expect("a secret signs");
        let token = signer.mint(&claims, SystemTime::UNIX_EPOCH);
        Verifier::new(&config).expect("a secret verifies").verify(&token, SystemTime::UNIX_EPOCH).expect("is good")
    }

    fn session(now: Instant) -> Session {
        Session::new(now, grants(), &Limits::default())
    }

    fn joined(now: Instant) -> Session {
        let mut session = session(now);
        let Action::Message(Request { id, body: Body::Join(join), .. }) =
            session.handle_text(now, r#"{"type":"join","roomId":"r1","id":1}"#)
        else {
            panic!("join is accepted")
        };
        session.set_joining(room("r1"), id, join);
        assert_eq!(session.joined(room("r1"), KEY).map(|(id, _)| id), Some(Some(RequestId::number(1))));
        session
    }

    /// The error code of a reply, the code of a close, or `ok` or `reply`.
    fn outcome(action: Action) -> String {
        let code = |text: &str| {
            let value: serde_json::Value = serde_json::from_str(text).expect("replies are JSON");
            value["data"]["code"].as_str().unwrap_or("reply").to_owned()
        };
        match action {
            Action::Message(_) => "ok".into(),
            Action::Reply(text) => code(&text),
            Action::Close { code, .. } => code.to_string(),
        }
    }

    #[test]
    fn what_may_come_when() {
        let now = Instant::now();
        let rows = [
            // message, before join, joining, joined
            (r#"{"type":"join","roomId":"r1"}"#, "ok", "already_joined", "already_joined"),
            (r#"{"type":"join"}"#, "bad_message", "already_joined", "already_joined"),
            (r#"{"type":"join","roomId":"r9"}"#, "call_not_found", "already_joined", "already_joined"),
            (r#"{"type":"join","roomId":"r1","userId":"bob"}"#, "forbidden", "forbidden", "forbidden"),
            (r#"{"type":"leave"}"#, "ok", "ok", "ok"),
            (r#"{"type":"ping"}"#, "reply", "reply", "reply"),
            (r#"{"type":"chat","data":{"text":"x"}}"#, "not_joined", "not_joined", "ok"),
            (r#"{"type":"chat","userId":"ann","roomId":"r1","data":{"text":"x"}}"#, "not_joined", "not_joined", "ok"),
            (r#"{"type":"chat","roomId":"r2","data":{"text":"x"}}"#, "not_joined", "not_joined", "forbidden"),
            (r#"{"type":"chat","userId":"bob","data":{"text":"x"}}"#, "forbidden", "forbidden", "forbidden"),
            (r#"{"type":"offer","data":{"sdp":"v=0"}}"#, "not_joined", "not_joined", "ok"),
            (r#"{"type":"offer","data":{"sdp":""}}"#, "bad_sdp", "bad_sdp", "bad_sdp"),
            (r#"{"type":"ice-candidate","data":{"candidate":null}}"#, "not_joined", "not_joined", "ok"),
            (r#"{"type":"token","data":{"token":"x"}}"#, "not_joined", "not_joined", "ok"),
            (r#"{"type":"kick"}"#, "not_joined", "not_joined", "not_available"),
            (r#"{"type":"joined"}"#, "unknown_type", "unknown_type", "unknown_type"),
            ("{", "bad_message", "bad_message", "bad_message"),
        ];
        for (text, before, during, after) in rows {
            assert_eq!(outcome(session(now).handle_text(now, text)), before, "before join: {text}");
            let mut joining = session(now);
            let Action::Message(Request { body: Body::Join(join), .. }) =
                joining.handle_text(now, r#"{"type":"join","roomId":"r1"}"#)
            else {
                panic!("join is accepted")
            };
            joining.set_joining(room("r1"), None, join);
            assert_eq!(outcome(joining.handle_text(now, text)), during, "joining: {text}");
            assert_eq!(outcome(joined(now).handle_text(now, text)), after, "joined: {text}");
        }
    }

    #[test]
    fn replies_carry_id_room_and_the_true_user() {
        let now = Instant::now();
        let mut session = joined(now);
        let Action::Reply(pong) = session.handle_text(now, r#"{"type":"ping","id":"p\u0031"}"#) else { panic!() };
        assert_eq!(&*pong, r#"{"type":"pong","roomId":"r1","userId":"ann","id":"p\u0031","data":{}}"#);
        let Action::Reply(error) = session.handle_text(now, r#"{"type":"x","id":5}"#) else { panic!() };
        assert!(error.starts_with(r#"{"type":"error","roomId":"r1","id":5,"#), "{error}");
    }

    #[test]
    fn ten_bad_messages_in_a_row_close() {
        let now = Instant::now();
        let mut session = joined(now);
        for round in 0..3 {
            for _ in 0..9 {
                assert_eq!(outcome(session.handle_text(now, "[]")), "bad_message");
            }
            let good = [r#"{"type":"ping"}"#, r#"{"type":"nope"}"#, r#"{"type":"kick"}"#][round];
            assert_ne!(outcome(session.handle_text(now, good)), "1008");
        }
        for _ in 0..5 {
            assert_eq!(outcome(session.handle_text(now, "{\"a\":1,\"a\":1}")), "bad_message");
        }
        for _ in 0..4 {
            assert_eq!(outcome(session.handle_binary(now)), "bad_message");
        }
        assert!(matches!(session.handle_text(now, ""), Action::Close { reply: Some(_), code: 1008, .. }));
        assert!(matches!(session.phase(), Phase::Closed));
        assert!(matches!(session.handle_text(now, r#"{"type":"ping"}"#), Action::Close { reply: None, .. }));
        assert!(matches!(session.handle_binary(now), Action::Close { reply: None, .. }));
    }

    #[test]
    fn rates() {
        let start = Instant::now();
        let mut session = joined(start);
        let ping = r#"{"type":"ping","id":9}"#;
        let passed = (0..300).filter(|_| outcome(session.handle_text(start, ping)) == "reply").count();
        assert_eq!(passed, 199, "the join took one of the burst");
        let Action::Reply(refused) = session.handle_text(start, ping) else { panic!("refused with a reply") };
        assert!(refused.contains("rate_limited") && refused.contains("\"id\":9"), "{refused}");
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| outcome(session.handle_text(later, ping)) == "reply").count(), 50);

        // Whoever goes on gets ten bursts of refusals, then the end.
        let mut session = joined(start);
        let before_close = (0..5000).take_while(|_| outcome(session.handle_text(start, ping)) != "1008").count();
        assert_eq!(before_close, 199 + 2000);

        let mut session = joined(start);
        let offer = r#"{"type":"offer","data":{"sdp":"v=0"}}"#;
        assert_eq!((0..20).filter(|_| outcome(session.handle_text(start, offer)) == "ok").count(), 10);
        assert_eq!(outcome(session.handle_text(start, offer)), "rate_limited");
        assert_eq!(outcome(session.handle_text(start, r#"{"type":"answer","data":{"sdp":"v=0"}}"#)), "ok");
        let later = start + Duration::from_secs(2);
        assert_eq!((0..20).filter(|_| outcome(session.handle_text(later, offer)) == "ok").count(), 4);
    }

    #[test]
    fn sizes_by_phase() {
        let now = Instant::now();
        let padded = |n: usize| format!(r#"{{"type":"ping"{}}}"#, " ".repeat(n - 15));
        assert_eq!(padded(20).len(), 20);
        let limits = Limits::default();
        for (make, most) in [
            (session as fn(Instant) -> Session, limits.message_before_join),
            (joined as fn(Instant) -> Session, limits.message_after_join),
        ] {
            assert_eq!(outcome(make(now).handle_text(now, &padded(most))), "reply");
            assert_eq!(outcome(make(now).handle_text(now, &padded(most + 1))), "1009");
        }
    }

    #[test]
    fn an_enforced_expiry_warns_then_closes_and_a_renewal_moves_it() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut session = joined(start);
        session.set_expiry(at(100));
        assert_eq!((session.poll_timeout(), session.handle_timeout(at(39))), (Some(at(40)), None));
        let Some(Action::Reply(text)) = session.handle_timeout(at(40)) else { panic!("a warning") };
        assert_eq!(&*text, r#"{"type":"token-expiring","roomId":"r1","userId":"sfu","data":{"inMs":60000}}"#);
        assert_eq!((session.poll_timeout(), session.handle_timeout(at(41))), (Some(at(100)), None));
        session.set_expiry(at(200));
        assert_eq!(session.poll_timeout(), Some(at(140)));
        assert!(matches!(session.handle_timeout(at(140)), Some(Action::Reply(_))));
        assert!(matches!(session.handle_timeout(at(200)), Some(Action::Close { code: 4004, .. })));
        assert_eq!(outcome(session.handle_text(at(201), r#"{"type":"ping"}"#)), "1008");
    }

    #[test]
    fn a_connection_that_never_joins_is_closed() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut idle = session(start);
        assert_eq!(idle.poll_timeout(), Some(at(15)));
        assert_eq!(idle.handle_timeout(at(14)), None);
        assert!(matches!(idle.handle_timeout(at(15)), Some(Action::Close { reply: Some(_), code: 1008, .. })));
        assert_eq!((idle.poll_timeout(), idle.handle_timeout(at(16))), (None, None));

        let mut active = joined(start);
        assert_eq!((active.poll_timeout(), active.handle_timeout(at(99))), (None, None));

        let mut refused = session(start);
        let Action::Message(Request { id, body: Body::Join(join), .. }) =
            refused.handle_text(at(9), r#"{"type":"join","roomId":"r2","id":4}"#)
        else {
            panic!("join is accepted")
        };
        refused.set_joining(room("r2"), id, join);
        assert_eq!(refused.poll_timeout(), None);
        refused.join_failed(at(10));
        assert_eq!(refused.poll_timeout(), Some(at(25)));
        assert_eq!(outcome(refused.handle_text(at(11), r#"{"type":"join","roomId":"r2"}"#)), "ok");
    }

    #[test]
    fn the_form_is_the_clients_own() {
        let now = Instant::now();
        let mut session = joined(now);
        assert_eq!((session.sdp_form(), session.candidate_form()), (Form::Object, Form::Object));
        session.handle_text(now, r#"{"type":"offer","data":{"sdp":"v=0"}}"#);
        assert_eq!((session.sdp_form(), session.candidate_form()), (Form::Text, Form::Text));
        session.handle_text(now, r#"{"type":"offer","data":{"sdp":{"type":"offer","sdp":"v=0"}}}"#);
        session.handle_text(now, r#"{"type":"ice-candidate","data":{"candidate":"candidate:x"}}"#);
        assert_eq!((session.sdp_form(), session.candidate_form()), (Form::Object, Form::Text));
    }

    #[test]
    fn expiry_has_leeway() {
        let session = session(Instant::now());
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!session.token_expired(at(0)) && !session.token_expired(at(1029)) && session.token_expired(at(1030)));
    }

    /// Any sequence of frames: never a panic, every reply JSON, and nothing is carried out before the join or after the end.
    #[test]
    fn random_frames() {
        let start = Instant::now();
        let frames = [
            r#"{"type":"join","roomId":"r1"}"#,
            r#"{"type":"leave","id":1}"#,
            r#"{"type":"chat","data":{"text":"x"}}"#,
            r#"{"type":"offer","data":{"sdp":"v=0"}}"#,
            r#"{"type":"offer","roomId":"r2","data":{"sdp":"v=0"}}"#,
            r#"{"type":"data","userId":"bob","data":1}"#,
            r#"{"type":"ping"}"#,
            "nonsense",
        ];
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..300 {
            let mut session = session(start);
            let mut now = start;
            for _ in 0..200 {
                now += Duration::from_millis(random.u64(0..40));
                let closed = matches!(session.phase(), Phase::Closed);
                let was_joined = session.participant().is_some();
                let action = match random.u8(0..20) {
                    0 => session.handle_binary(now),
                    1 => match session.handle_timeout(now) {
                        Some(action) => action,
                        None => continue,
                    },
                    _ => session.handle_text(now, frames[random.usize(0..frames.len())]),
                };
                if let Action::Message(request) = action {
                    assert!(!closed);
                    assert!(request.user.is_none_or(|user| user == "ann"));
                    match request.body {
                        Body::Join(join) => {
                            assert!(!was_joined);
                            session.set_joining(room("r1"), request.id, join);
                            if random.bool() {
                                session.joined(room("r1"), KEY);
                            } else {
                                session.join_failed(now);
                            }
                        }
                        Body::Leave => {}
                        _ => assert!(was_joined && request.room.is_none_or(|named| named == room("r1"))),
                    }
                } else {
                    outcome(action);
                }
            }
        }
    }
}
