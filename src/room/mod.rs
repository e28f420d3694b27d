//! Who is in a call and what each may do: membership, tracks, mute, chat, who talks past the media server.
//!
//! Commands in, [`Event`]s out, drained by [`crate::shard`] after each command. Knows no JSON, SDP, packet, session or
//! database. Invariant: an event is about participants of this room only.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::auth::{Permissions, Role};
use crate::base::{ParticipantKey, RoomId, TrackId, UserId};

pub struct Room {
    id: RoomId,
    max_participants: usize,
    tracks_per_publisher: usize,
    /// In the order of joining. At most `max_participants`, so a search is short.
    participants: Vec<(ParticipantKey, Participant)>,
    /// Oldest first, at most [`FORCED_MAX`].
    forced: Vec<(UserId, Force)>,
    /// Bounded by what one command can cause, since it is drained after each.
    events: VecDeque<Event>,
}

/// Someone about to enter.
#[derive(Debug, Clone)]
pub struct Joiner {
    pub user: UserId,
    pub display_name: Option<String>,
    pub role: Role,
    pub permissions: Permissions,
    /// A JSON text; opaque here.
    pub metadata: Option<Arc<str>>,
    /// Takes part without signaling (WHIP, WHEP).
    pub is_media_only: bool,
}

#[derive(Debug)]
pub struct Participant {
    /// The name by which it is known here; of several sessions of one user each has its own.
    pub user: UserId,
    /// Whose session it is.
    pub person: UserId,
    pub is_media_only: bool,
    pub display_name: Option<String>,
    pub role: Role,
    pub permissions: Permissions,
    pub metadata: Option<Arc<str>>,
    tracks: Vec<Track>,
    /// What tracks of this kind start with.
    muted_audio: bool,
    muted_video: bool,
    peer_to_peer: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    pub meta: TrackMeta,
    /// Not forwarded to anyone.
    pub muted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackMeta {
    pub id: TrackId,
    pub kind: Kind,
    pub source: Source,
    /// Of the publisher's connection.
    pub mid: String,
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Audio,
    Video,
}

/// Where a track's media comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    Camera,
    Microphone,
    Screen,
    ScreenAudio,
}

/// Why someone left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveReason {
    /// Said so.
    Left,
    /// Was silent for too long, or its connection ended.
    Lost,
    /// Came again from elsewhere.
    Replaced,
    Kicked,
    CallEnded,
    ServerStopped,
}

/// Why a command is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The key is not in this room.
    NotJoined,
    AlreadyJoined,
    Full,
    Forbidden,
    /// No other participant of that name.
    ParticipantNotFound,
    /// The participant has no signaling, so nothing can be said to it.
    Unreachable,
    TrackNotFound,
    TooManyTracks,
    /// Video from a microphone, or the like.
    SourceMismatch,
}

/// What happened. Unless said otherwise it is told to everyone but the one whose doing it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Told to the joiner.
    Joined { key: ParticipantKey },
    /// Told to the others.
    UserJoined { key: ParticipantKey },
    /// `key` is no participant any more.
    UserLeft { key: ParticipantKey, user: UserId, reason: LeaveReason },
    /// The older session of a user who came again: to be closed. It is no participant any more.
    Replaced { key: ParticipantKey },
    /// Role or permissions changed; told to everyone.
    UserUpdated { key: ParticipantKey },
    /// The track may be muted from the start: see [`Room::track`].
    TrackPublished { owner: ParticipantKey, track: TrackMeta },
    /// Comes before `UserLeft` when the owner left; then `owner` is no participant any more.
    TrackUnpublished { owner: ParticipantKey, user: UserId, id: TrackId },
    /// For the media server only: whether to forward the track.
    TrackMuted { track: TrackId, muted: bool },
    /// Told to everyone. `track` is `None` when it is about the kind; `by` is the moderator, if it was one.
    Muted { owner: ParticipantKey, kind: Kind, track: Option<TrackId>, muted: bool, by: Option<UserId> },
    /// Told to `owner` only: a moderator lifted the force; unmuting is up to the owner.
    UnmuteAllowed { owner: ParticipantKey, kind: Kind, track: Option<TrackId>, by: UserId },
    /// To `to`, or to everyone but `from`.
    Chat { from: ParticipantKey, to: Option<ParticipantKey>, text: Arc<str> },
    /// To `to`, or to everyone but `from`. A JSON text, opaque here.
    Data { from: ParticipantKey, to: Option<ParticipantKey>, data: Arc<str> },
}

/// Tracks that one participant may publish at a time, unless configured otherwise.
pub const TRACKS_PER_PUBLISHER: usize = 4;

/// Forced mutes remembered, also of users who left. Beyond it the oldest of an absent user is forgotten.
const FORCED_MAX: usize = 1024;

impl Room {
    pub fn new(id: RoomId, max_participants: usize) -> Room {
        Room {
            id,
            max_participants,
            tracks_per_publisher: TRACKS_PER_PUBLISHER,
            participants: Vec::new(),
            forced: Vec::new(),
            events: VecDeque::new(),
        }
    }

    pub fn with_tracks_per_publisher(self, most: usize) -> Room {
        Room { tracks_per_publisher: most, ..self }
    }

    /// From the next join on; nobody is sent away.
    pub fn set_max_participants(&mut self, most: usize) {
        self.max_participants = most;
    }

    pub fn id(&self) -> &RoomId {
        &self.id
    }

    /// In the order of joining.
    pub fn participants(&self) -> impl Iterator<Item = (ParticipantKey, &Participant)> {
        self.participants.iter().map(|(key, participant)| (*key, participant))
    }

    pub fn participant(&self, key: ParticipantKey) -> Option<&Participant> {
        self.participants.iter().find(|(k, _)| *k == key).map(|(_, participant)| participant)
    }

    pub fn by_user(&self, user: &UserId) -> Option<ParticipantKey> {
        self.participants.iter().find(|(_, participant)| participant.user == *user).map(|(key, _)| *key)
    }

    /// All tracks with their owners, in the order of joining, then of publishing.
    pub fn tracks(&self) -> impl Iterator<Item = (ParticipantKey, &Track)> {
        self.participants.iter().flat_map(|(key, participant)| participant.tracks.iter().map(|track| (*key, track)))
    }

    pub fn track(&self, id: TrackId) -> Option<(ParticipantKey, &Track)> {
        self.tracks().find(|(_, track)| track.meta.id == id)
    }

    pub fn is_empty(&self) -> bool {
        self.participants.is_empty()
    }

    pub fn len(&self) -> usize {
        self.participants.len()
    }

    /// A user who is here already is replaced: the older session leaves first, so that there is one of each user. Sessions
    /// without signaling neither replace nor are replaced; they stand beside others of the user, and whoever comes to a
    /// name that is taken gets a number: see [`Participant::user`].
    pub fn join(&mut self, key: ParticipantKey, joiner: Joiner) -> Result<(), Error> {
        if self.participant(key).is_some() {
            return Err(Error::AlreadyJoined);
        }
        let is_replaced = |p: &Participant| p.person == joiner.user && !p.is_media_only && !joiner.is_media_only;
        let older = self.participants.iter().find(|(_, participant)| is_replaced(participant)).map(|(key, _)| *key);
        if self.participants.len() - usize::from(older.is_some()) >= self.max_participants {
            return Err(Error::Full);
        }
        if let Some(older) = older {
            self.events.push_back(Event::Replaced { key: older });
            self.leave(older, LeaveReason::Replaced);
        }
        let user = self.free_name(&joiner.user);
        let force = self.force(&joiner.user).or(self.force(&user));
        self.participants.push((
            key,
            Participant {
                user,
                person: joiner.user,
                is_media_only: joiner.is_media_only,
                display_name: joiner.display_name,
                role: joiner.role,
                permissions: joiner.permissions,
                metadata: joiner.metadata,
                tracks: Vec::new(),
                muted_audio: force.covers(Kind::Audio),
                muted_video: force.covers(Kind::Video),
                peer_to_peer: false,
            },
        ));
        self.events.push_back(Event::Joined { key });
        self.events.push_back(Event::UserJoined { key });
        Ok(())
    }

    /// Nothing happens when `key` is not here.
    pub fn leave(&mut self, key: ParticipantKey, reason: LeaveReason) {
        let Some(at) = self.participants.iter().position(|(k, _)| *k == key) else { return };
        let (_, participant) = self.participants.remove(at);
        let user = participant.user;
        for track in participant.tracks {
            self.events.push_back(Event::TrackUnpublished { owner: key, user: user.clone(), id: track.meta.id });
        }
        self.events.push_back(Event::UserLeft { key, user, reason });
    }

    /// Renewed grants. Tracks that they do not allow are unpublished.
    pub fn set_grants(&mut self, key: ParticipantKey, role: Role, permissions: Permissions) -> Result<(), Error> {
        let participant = self.participant_mut(key).ok_or(Error::NotJoined)?;
        if participant.role == role && participant.permissions == permissions {
            return Ok(());
        }
        participant.role = role;
        participant.permissions = permissions;
        let lost: Vec<TrackId> = participant
            .tracks
            .iter()
            .filter(|t| !may_publish(&permissions, t.meta.source))
            .map(|t| t.meta.id)
            .collect();
        for id in lost {
            self.unpublish(key, id);
        }
        self.events.push_back(Event::UserUpdated { key });
        Ok(())
    }

    /// Whether [`Room::publish`] would be allowed to publish from `source`, the number of tracks aside.
    pub fn may_publish(&self, key: ParticipantKey, source: Source) -> bool {
        self.participant(key).is_some_and(|participant| may_publish(&participant.permissions, source))
    }

    /// The track starts muted when its owner has muted its kind or a moderator forces it. `track.id` is unused so far.
    pub fn publish(&mut self, key: ParticipantKey, track: TrackMeta) -> Result<(), Error> {
        debug_assert!(self.track(track.id).is_none(), "track ids are unique in the process");
        let participant = self.participant(key).ok_or(Error::NotJoined)?;
        if track.source.kind() != track.kind {
            return Err(Error::SourceMismatch);
        }
        if !may_publish(&participant.permissions, track.source) {
            return Err(Error::Forbidden);
        }
        if participant.tracks.len() >= self.tracks_per_publisher {
            return Err(Error::TooManyTracks);
        }
        let forced = self.force(&participant.person).or(self.force(&participant.user)).has(track.source);
        let participant = self.participant_mut(key).ok_or(Error::NotJoined)?;
        let is_main = track.source == track.kind.main_source();
        let muted = forced || is_main && participant.default_muted(track.kind);
        participant.tracks.push(Track { meta: track.clone(), muted });
        let id = track.id;
        self.events.push_back(Event::TrackPublished { owner: key, track });
        if muted {
            self.events.push_back(Event::TrackMuted { track: id, muted: true });
        }
        Ok(())
    }

    /// Nothing happens when `key` has no such track.
    pub fn unpublish(&mut self, key: ParticipantKey, id: TrackId) {
        let Some(participant) = self.participant_mut(key) else { return };
        let Some(at) = participant.tracks.iter().position(|track| track.meta.id == id) else { return };
        participant.tracks.remove(at);
        let user = participant.user.clone();
        self.events.push_back(Event::TrackUnpublished { owner: key, user, id });
    }

    /// Mutes or unmutes a kind, or one track (whose kind then counts instead of `kind`).
    ///
    /// Everyone may do both to oneself (`target` absent, or one's own name). A moderator may mute others: that is *forced*,
    /// which means that it also holds for tracks to come and after the participant left and joined again, until the
    /// participant unmutes or a moderator lifts it. Nobody but the participant ever turns a microphone or camera on: a
    /// moderator's unmute lifts the force, lets the participant know, and leaves everything muted. Only who has no signaling
    /// could never unmute, and is unmuted by it. A user's name covers all sessions of the user, which may mute each other.
    pub fn mute(
        &mut self,
        by: ParticipantKey,
        target: Option<&UserId>,
        kind: Kind,
        track: Option<TrackId>,
        muted: bool,
    ) -> Result<(), Error> {
        let sender = self.participant(by).ok_or(Error::NotJoined)?;
        let Some(user) = target.filter(|user| **user != sender.user) else {
            return self.mute_own(by, kind, track, muted);
        };
        let sibling = self.participants.iter().find(|(_, p)| p.user == *user && p.person == sender.person);
        if let Some((key, _)) = sibling {
            return self.mute_own(*key, kind, track, muted);
        }
        if !sender.permissions.moderate {
            return Err(Error::Forbidden);
        }
        let moderator = sender.user.clone();
        self.mute_others(user, kind, track, muted, &moderator)
    }

    /// As a moderator's [`Room::mute`], on behalf of someone who need not be here, such as a caller of the REST API
    /// whose right has been checked.
    pub fn mute_as(
        &mut self,
        moderator: UserId,
        target: &UserId,
        kind: Kind,
        track: Option<TrackId>,
        muted: bool,
    ) -> Result<(), Error> {
        self.mute_others(target, kind, track, muted, &moderator)
    }

    /// Whether a moderator's mute holds for this source of this user, here or not.
    pub fn is_forced(&self, user: &UserId, source: Source) -> bool {
        self.force(user).has(source)
    }

    pub fn chat(
        &mut self,
        by: ParticipantKey,
        target: Option<&UserId>,
        text: impl Into<Arc<str>>,
    ) -> Result<(), Error> {
        let sender = self.participant(by).ok_or(Error::NotJoined)?;
        if !sender.permissions.chat {
            return Err(Error::Forbidden);
        }
        let to = self.addressee(by, target)?;
        self.events.push_back(Event::Chat { from: by, to, text: text.into() });
        Ok(())
    }

    pub fn data(
        &mut self,
        by: ParticipantKey,
        target: Option<&UserId>,
        data: impl Into<Arc<str>>,
    ) -> Result<(), Error> {
        let sender = self.participant(by).ok_or(Error::NotJoined)?;
        if !sender.permissions.data {
            return Err(Error::Forbidden);
        }
        let to = self.addressee(by, target)?;
        self.events.push_back(Event::Data { from: by, to, data: data.into() });
        Ok(())
    }

    /// To whom something addressed to `to` by `by` goes: another participant of this room, never anyone else.
    pub fn may_relay(&self, by: ParticipantKey, to: &UserId) -> Result<ParticipantKey, Error> {
        self.participant(by).ok_or(Error::NotJoined)?;
        let found = self.participants.iter().find(|(key, participant)| participant.user == *to && *key != by);
        let (key, participant) = found.ok_or(Error::ParticipantNotFound)?;
        if participant.is_media_only { Err(Error::Unreachable) } else { Ok(*key) }
    }

    /// While on, the media server makes this participant no offers.
    pub fn set_peer_to_peer(&mut self, key: ParticipantKey, on: bool) {
        if let Some(participant) = self.participant_mut(key) {
            participant.peer_to_peer = on;
        }
    }

    pub fn is_peer_to_peer(&self, key: ParticipantKey) -> bool {
        self.participant(key).is_some_and(|participant| participant.peer_to_peer)
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn mute_own(&mut self, key: ParticipantKey, kind: Kind, track: Option<TrackId>, muted: bool) -> Result<(), Error> {
        let participant = self.participant(key).ok_or(Error::NotJoined)?;
        // "My video" is the camera: who turns it off while sharing a screen goes on sharing.
        let scope = match participant.scope(kind, track)? {
            Scope::Kind(kind) => Scope::Source(kind.main_source()),
            scope => scope,
        };
        let names = [participant.user.clone(), participant.person.clone()];
        let changed = self.set_muted(key, scope, muted);
        let mut lifted = false;
        for name in names.iter().filter(|_| !muted) {
            lifted |= self.lift(name, scope);
        }
        if changed || lifted {
            self.events.push_back(Event::Muted { owner: key, kind: scope.kind(), track, muted, by: None });
        }
        Ok(())
    }

    /// The force is upon the name that was meant, so that it holds for sessions of the user that are still to come.
    fn mute_others(
        &mut self,
        target: &UserId,
        kind: Kind,
        track: Option<TrackId>,
        muted: bool,
        moderator: &UserId,
    ) -> Result<(), Error> {
        let mut sessions: Vec<(ParticipantKey, UserId)> = self.sessions_of(target).collect();
        if sessions.is_empty() {
            return Err(Error::ParticipantNotFound);
        }
        let mut scope = Scope::Kind(kind);
        if let Some(id) = track {
            let (owner, track) = self.track(id).ok_or(Error::TrackNotFound)?;
            scope = Scope::Source(track.meta.source);
            sessions.retain(|(key, _)| *key == owner);
            if sessions.is_empty() {
                return Err(Error::TrackNotFound);
            }
        }
        let kind = scope.kind();
        if muted {
            let forced = self.enforce(target, scope);
            for (key, _) in sessions {
                if self.set_muted(key, scope, true) || forced {
                    let by = Some(moderator.clone());
                    self.events.push_back(Event::Muted { owner: key, kind, track, muted, by });
                }
            }
            return Ok(());
        }
        self.lift(target, scope);
        for (key, user) in sessions {
            self.lift(&user, scope);
            let is_media_only = self.participant(key).is_some_and(|participant| participant.is_media_only);
            if !is_media_only {
                let by = moderator.clone();
                self.events.push_back(Event::UnmuteAllowed { owner: key, kind, track, by });
            } else if self.set_muted(key, scope, false) {
                let by = Some(moderator.clone());
                self.events.push_back(Event::Muted { owner: key, kind, track, muted, by });
            }
        }
        Ok(())
    }

    /// Those whom a moderator means by a name: who is called so, and all sessions of the user of that name.
    fn sessions_of(&self, name: &UserId) -> impl Iterator<Item = (ParticipantKey, UserId)> {
        let is_meant = |p: &Participant| p.user == *name || p.person == *name;
        self.participants.iter().filter(move |(_, p)| is_meant(p)).map(|(key, p)| (*key, p.user.clone()))
    }

    fn free_name(&self, user: &UserId) -> UserId {
        if self.by_user(user).is_none() {
            return user.clone();
        }
        let mut names = (2..).map(|number| user.beside(number));
        names.find(|name| self.by_user(name).is_none()).expect("there are more numbers than participants")
    }

    /// Whether anything changed.
    fn set_muted(&mut self, key: ParticipantKey, scope: Scope, muted: bool) -> bool {
        let mut changed = false;
        let mut events = Vec::new();
        let Some(participant) = self.participant_mut(key) else { return false };
        for track in participant.tracks.iter_mut().filter(|track| scope.includes(&track.meta)) {
            if track.muted != muted {
                track.muted = muted;
                events.push(Event::TrackMuted { track: track.meta.id, muted });
            }
        }
        changed |= !events.is_empty();
        // A single muted track says nothing about those to come; a single unmuted one ends "all muted".
        let is_main = scope.source().is_none_or(|source| source == source.kind().main_source());
        if is_main && (!muted || !matches!(scope, Scope::Track { .. })) {
            let default = match scope.kind() {
                Kind::Audio => &mut participant.muted_audio,
                Kind::Video => &mut participant.muted_video,
            };
            changed |= *default != muted;
            *default = muted;
        }
        self.events.extend(events);
        changed
    }

    fn force(&self, user: &UserId) -> Force {
        self.forced.iter().find(|(u, _)| u == user).map(|(_, force)| *force).unwrap_or_default()
    }

    /// Whether that is more than before.
    fn enforce(&mut self, user: &UserId, scope: Scope) -> bool {
        let before = self.force(user);
        let after = before.with(scope, true);
        self.set_force(user, after);
        before != after
    }

    /// Whether there was anything to lift.
    fn lift(&mut self, user: &UserId, scope: Scope) -> bool {
        let before = self.force(user);
        let after = before.with(scope, false);
        self.set_force(user, after);
        before != after
    }

    fn set_force(&mut self, user: &UserId, force: Force) {
        if let Some(at) = self.forced.iter().position(|(u, _)| u == user) {
            if force == Force::default() {
                self.forced.remove(at);
            } else if let Some((_, known)) = self.forced.get_mut(at) {
                *known = force;
            }
        } else if force != Force::default() {
            if self.forced.len() >= FORCED_MAX {
                let absent = self.forced.iter().position(|(u, _)| self.by_user(u).is_none()).unwrap_or(0);
                self.forced.remove(absent);
            }
            self.forced.push((user.clone(), force));
        }
    }

    fn addressee(&self, by: ParticipantKey, target: Option<&UserId>) -> Result<Option<ParticipantKey>, Error> {
        target.map(|user| self.may_relay(by, user)).transpose()
    }

    fn participant_mut(&mut self, key: ParticipantKey) -> Option<&mut Participant> {
        self.participants.iter_mut().find(|(k, _)| *k == key).map(|(_, participant)| participant)
    }
}

impl Participant {
    /// In the order of publishing.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// Whether the microphone or the camera is muted, by the participant's own or a moderator's wish.
    pub fn is_muted(&self, kind: Kind) -> bool {
        let mut tracks = self.tracks.iter().filter(|track| track.meta.source == kind.main_source()).peekable();
        if tracks.peek().is_none() { self.default_muted(kind) } else { tracks.all(|track| track.muted) }
    }

    fn default_muted(&self, kind: Kind) -> bool {
        match kind {
            Kind::Audio => self.muted_audio,
            Kind::Video => self.muted_video,
        }
    }

    fn scope(&self, kind: Kind, track: Option<TrackId>) -> Result<Scope, Error> {
        let Some(id) = track else { return Ok(Scope::Kind(kind)) };
        let track = self.tracks.iter().find(|track| track.meta.id == id).ok_or(Error::TrackNotFound)?;
        Ok(Scope::Track { id, source: track.meta.source })
    }
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Audio => "audio",
            Kind::Video => "video",
        }
    }

    /// What is meant by "my audio" and "my video".
    pub fn main_source(self) -> Source {
        match self {
            Kind::Audio => Source::Microphone,
            Kind::Video => Source::Camera,
        }
    }
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Camera => "camera",
            Source::Microphone => "microphone",
            Source::Screen => "screen",
            Source::ScreenAudio => "screen-audio",
        }
    }

    pub fn kind(self) -> Kind {
        match self {
            Source::Camera | Source::Screen => Kind::Video,
            Source::Microphone | Source::ScreenAudio => Kind::Audio,
        }
    }

    const ALL: [Source; 4] = [Source::Camera, Source::Microphone, Source::Screen, Source::ScreenAudio];
}

impl LeaveReason {
    pub fn as_str(self) -> &'static str {
        match self {
            LeaveReason::Left => "left",
            LeaveReason::Lost => "lost",
            LeaveReason::Replaced => "replaced",
            LeaveReason::Kicked => "kicked",
            LeaveReason::CallEnded => "call-ended",
            LeaveReason::ServerStopped => "server-stopped",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::NotJoined => "not in this call",
            Error::AlreadyJoined => "already in this call",
            Error::Full => "the call is full",
            Error::Forbidden => "not allowed",
            Error::ParticipantNotFound => "no other participant of that name",
            Error::Unreachable => "that participant only sends or receives media",
            Error::TrackNotFound => "that participant has no such track",
            Error::TooManyTracks => "too many tracks",
            Error::SourceMismatch => "the source does not go with the kind of media",
        })
    }
}

impl std::error::Error for Error {}

fn may_publish(permissions: &Permissions, source: Source) -> bool {
    let sources = &permissions.publish_sources;
    permissions.publish
        && match source {
            Source::Camera => sources.camera,
            Source::Microphone => sources.microphone,
            Source::Screen | Source::ScreenAudio => sources.screen,
        }
}

/// What a mute is about.
#[derive(Debug, Clone, Copy)]
enum Scope {
    Kind(Kind),
    Source(Source),
    Track { id: TrackId, source: Source },
}

impl Scope {
    fn kind(self) -> Kind {
        match self {
            Scope::Kind(kind) => kind,
            Scope::Source(source) | Scope::Track { source, .. } => source.kind(),
        }
    }

    /// `None`: all sources of the kind.
    fn source(self) -> Option<Source> {
        match self {
            Scope::Kind(_) => None,
            Scope::Source(source) | Scope::Track { source, .. } => Some(source),
        }
    }

    fn includes(self, track: &TrackMeta) -> bool {
        match self {
            Scope::Kind(kind) => track.kind == kind,
            Scope::Source(source) => track.source == source,
            Scope::Track { id, .. } => track.id == id,
        }
    }
}

/// The sources that a moderator muted. By source and not by track, so that publishing again does not undo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Force([bool; Source::ALL.len()]);

impl Force {
    fn has(self, source: Source) -> bool {
        Source::ALL.iter().zip(self.0).any(|(s, forced)| forced && *s == source)
    }

    /// Every source of the kind.
    fn covers(self, kind: Kind) -> bool {
        Source::ALL.iter().zip(self.0).all(|(s, forced)| forced || s.kind() != kind)
    }

    fn or(self, other: Force) -> Force {
        Force(std::array::from_fn(|at| self.0[at] || other.0[at]))
    }

    fn with(self, scope: Scope, on: bool) -> Force {
        let mut force = self;
        for (source, forced) in Source::ALL.iter().zip(force.0.iter_mut()) {
            let included = match scope {
                Scope::Kind(kind) => source.kind() == kind,
                Scope::Source(one) | Scope::Track { source: one, .. } => *source == one,
            };
            if included {
                *forced = on;
            }
        }
        force
    }
}

#[cfg(test)]
mod tests;
