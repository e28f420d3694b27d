//! Roles, rooms and permissions: the table of who may do what.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::RoomId;

/// Ordered by strength, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Participant,
    Moderator,
    Host,
    Admin,
}

impl Role {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "viewer" => Role::Viewer,
            "participant" => Role::Participant,
            "moderator" => Role::Moderator,
            "host" => Role::Host,
            "admin" => Role::Admin,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Participant => "participant",
            Role::Moderator => "moderator",
            Role::Host => "host",
            Role::Admin => "admin",
        }
    }
}

/// The rooms that a token opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomScope {
    Any,
    /// Only these; none when empty.
    Rooms(Vec<RoomId>),
}

impl RoomScope {
    pub fn contains(&self, room: &RoomId) -> bool {
        match self {
            RoomScope::Any => true,
            RoomScope::Rooms(rooms) => rooms.contains(room),
        }
    }

    /// An id, a list of ids, or `*`.
    pub(super) fn from_claim(value: &Value) -> Option<Self> {
        let room = |value: &Value| value.as_str().and_then(|text| RoomId::new(text).ok());
        match value {
            Value::String(text) if text == "*" => Some(RoomScope::Any),
            Value::String(_) => Some(RoomScope::Rooms(vec![room(value)?])),
            Value::Array(list) => list.iter().map(room).collect::<Option<_>>().map(RoomScope::Rooms),
            _ => None,
        }
    }

    pub(super) fn to_claim(&self) -> Option<Value> {
        let text = |room: &RoomId| Value::from(room.as_str());
        match self {
            RoomScope::Any => None,
            RoomScope::Rooms(rooms) => Some(match rooms.as_slice() {
                [one] => text(one),
                several => several.iter().map(text).collect(),
            }),
        }
    }
}

/// What a published track shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Camera,
    Microphone,
    Screen,
}

/// A set of [`Source`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sources {
    pub camera: bool,
    pub microphone: bool,
    pub screen: bool,
}

impl Sources {
    pub const ALL: Sources = Sources { camera: true, microphone: true, screen: true };
    pub const NONE: Sources = Sources { camera: false, microphone: false, screen: false };

    pub fn contains(self, source: Source) -> bool {
        match source {
            Source::Camera => self.camera,
            Source::Microphone => self.microphone,
            Source::Screen => self.screen,
        }
    }

    fn of(list: &[Source]) -> Self {
        let has = |source| list.contains(&source);
        Sources { camera: has(Source::Camera), microphone: has(Source::Microphone), screen: has(Source::Screen) }
    }
}

impl Serialize for Sources {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(
            [Source::Camera, Source::Microphone, Source::Screen].iter().filter(|source| self.contains(**source)),
        )
    }
}

/// What somebody may do in a call. Serialises as the `permissions` of `joined`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Permissions {
    /// Audio, video or screen at all. Then `publish_sources` is not empty.
    pub publish: bool,
    pub publish_sources: Sources,
    pub subscribe: bool,
    pub data: bool,
    pub chat: bool,
    /// Start and stop recordings.
    pub record: bool,
    /// Mute or kick others, lock, admit from the lobby.
    pub moderate: bool,
    /// Create calls.
    pub create: bool,
}

impl Permissions {
    /// The row of the role in the table of the interface.
    pub fn of(role: Role) -> Self {
        let takes_part = role >= Role::Participant;
        let moderates = role >= Role::Moderator;
        Permissions {
            publish: takes_part,
            publish_sources: if takes_part { Sources::ALL } else { Sources::NONE },
            subscribe: true,
            data: takes_part,
            chat: takes_part,
            record: moderates,
            moderate: moderates,
            create: role >= Role::Host,
        }
    }

    /// The role's permissions with `overrides` over them.
    pub fn resolve(role: Role, overrides: &Overrides) -> Self {
        let base = Self::of(role);
        let wants_publish = overrides.publish.unwrap_or(base.publish);
        let publish_sources = match &overrides.publish_sources {
            _ if !wants_publish => Sources::NONE,
            Some(list) => Sources::of(list),
            None => Sources::ALL,
        };
        Permissions {
            publish: publish_sources != Sources::NONE,
            publish_sources,
            subscribe: overrides.subscribe.unwrap_or(base.subscribe),
            data: overrides.data.unwrap_or(base.data),
            chat: overrides.chat.unwrap_or(base.chat),
            record: overrides.record.unwrap_or(base.record),
            moderate: overrides.moderate.unwrap_or(base.moderate),
            create: overrides.create.unwrap_or(base.create),
        }
    }

    pub fn may_publish(&self, source: Source) -> bool {
        self.publish && self.publish_sources.contains(source)
    }
}

/// The claim `permissions`. A name that is not known is refused: a misspelt restriction must not be none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_sources: Option<Vec<Source>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moderate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create: Option<bool>,
}
