//! Requests about a live room: what is asked of the worker on which it lives, and what comes back.
//!
//! The worker that read the request checks its form and its token, so that what travels is asked by somebody who may ask.
//! [`crate::shard`] takes the question to the room and the reply back.

use super::{Response, record, whip};
use crate::auth::Grants;
use crate::base::RecordingId;
use crate::recording::command::Command;
use crate::recording::feed::Refusal;
use crate::recording::library::{Inquiry, Status};

/// What is asked.
#[derive(Debug)]
pub enum Question {
    Whip(Box<crate::whip::Question>),
    /// How everybody's connection is.
    Stats(Box<Grants>),
    Recording(Box<Control>),
}

/// Something about the recording of a room, by somebody who may record.
#[derive(Debug)]
pub struct Control {
    pub grants: Grants,
    pub command: Command,
}

/// What came of a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Controlled {
    Started(RecordingId),
    /// It is so now, or was already.
    Is {
        recording: RecordingId,
        status: Status,
    },
    /// This one is under way.
    Active(RecordingId),
    NotRecording,
    /// By the settings.
    NotAllowed,
    Draining,
    Refused(Refusal),
}

impl Question {
    /// Whether it lets somebody into the room, which then may have to be made.
    pub fn opens(&self) -> bool {
        match self {
            Question::Whip(question) => matches!(question.what, crate::whip::What::Open(_)),
            Question::Stats(_) | Question::Recording(_) => false,
        }
    }
}

/// What comes back.
#[derive(Debug)]
pub enum Reply {
    Whip(crate::whip::Reply),
    Controlled(Controlled),
    /// The room has nothing to say about it; the database has.
    Library(Inquiry),
    /// A JSON text.
    Json(String),
    Unavailable(Unavailable),
}

/// Why the room was not asked, or did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// There is no such room.
    NoRoom,
    /// There are as many rooms as there may be.
    TooManyRooms,
    Draining,
    /// The mailbox of the room's worker is full.
    Busy,
    /// There was no reply in time. What was asked for may happen nevertheless.
    Late,
}

impl Reply {
    pub fn response(&self) -> Response {
        match self {
            Reply::Whip(reply) => whip::response(reply),
            Reply::Controlled(controlled) => record::response(controlled),
            // Whoever carries replies asks the database; without one there is nothing to tell.
            Reply::Library(_) => Unavailable::Busy.response(),
            Reply::Json(text) => {
                Response::new(200, "application/json", text.clone().into_bytes()).header("Cache-Control", "no-store")
            }
            Reply::Unavailable(why) => why.response(),
        }
    }
}

impl Unavailable {
    fn response(self) -> Response {
        let (code, title, detail) = match self {
            Unavailable::NoRoom => {
                return Response::problem(404, "call_not_found", "Call not found", "There is no such call.");
            }
            Unavailable::TooManyRooms => ("overloaded", "Overloaded", "The server has as many calls as it may have."),
            Unavailable::Draining => ("server_draining", "Draining", "The server takes no new sessions."),
            Unavailable::Busy => ("overloaded", "Overloaded", "The server is busy, try again."),
            Unavailable::Late => ("overloaded", "Overloaded", "The server did not answer in time."),
        };
        let seconds = if self == Unavailable::Draining { "10" } else { "1" };
        Response::problem(503, code, title, detail).header("Retry-After", seconds)
    }
}
