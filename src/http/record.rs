//! Starting, stopping, pausing and resuming a recording as HTTP: requests become commands to the room, what came of them becomes
//! a response.

use serde::Serialize;

use super::Response;
use super::question::{Control, Controlled, Question};
use crate::auth::Grants;
use crate::recording::command::{Command, Fault, start};
use crate::recording::feed::Refusal;
use crate::recording::library::Status;

/// The last segment of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Start,
    Stop,
    Pause,
    Resume,
}

/// A POST, whose sender may enter the room.
pub fn question(action: Action, body: &[u8], grants: Grants) -> Result<Question, Response> {
    if !grants.permissions().record {
        return Err(Response::problem(403, "forbidden", "Forbidden", "The token does not allow to record."));
    }
    let command = match action {
        Action::Start => {
            let text = std::str::from_utf8(body).map_err(|_| bad_request("The body is not UTF-8."))?;
            Command::Start(start(text).map_err(|fault| match fault {
                Fault::Malformed(why) => bad_request(&format!("{why}.")),
                Fault::Layout(name) => bad_request(&format!("layout {name:?} is none of tracks, grid, speaker.")),
                Fault::NotAvailable => Response::problem(
                    501,
                    "not_available",
                    "Not available",
                    "Only the layout \"tracks\" is available: composition is not.",
                ),
            })?)
        }
        Action::Stop => Command::Stop,
        Action::Pause => Command::Pause,
        Action::Resume => Command::Resume,
    };
    Ok(Question::Recording(Box::new(Control { grants, command })))
}

/// What came of it.
pub fn response(controlled: &Controlled) -> Response {
    let state = |recording: &crate::base::RecordingId, status: Status| State {
        recording_id: recording.as_str().to_owned(),
        status: status.as_str(),
    };
    match controlled {
        Controlled::Started(recording) => Response::json(201, &state(recording, Status::Recording)),
        Controlled::Is { recording, status } => Response::json(200, &state(recording, *status)),
        Controlled::Active(recording) => {
            let detail = format!("{recording} is under way; stop it first.");
            Response::problem(409, "recording_active", "Recording already active", &detail)
                .member("recordingId", recording.as_str())
        }
        Controlled::NotRecording => {
            Response::problem(409, "not_recording", "Not recording", "Nothing is recorded of this call.")
        }
        Controlled::NotAllowed => {
            let detail = "This call may not be recorded; see RECORDING_ALLOWED.";
            Response::problem(403, "recording_not_allowed", "Recording not allowed", detail)
        }
        Controlled::Draining => {
            Response::problem(503, "server_draining", "Draining", "The server takes no new recordings.")
                .header("Retry-After", "10")
        }
        Controlled::Refused(refusal) => refused(refusal),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let (status, code, title, detail) = match refusal {
        Refusal::DiskFull => (
            507,
            "disk_full",
            "Insufficient storage",
            "There is not enough room on the disk; see RECORDING_MIN_FREE_DISK.",
        ),
        Refusal::TooMany => (503, "overloaded", "Overloaded", "As many recordings as there may be are under way."),
        Refusal::Busy => (503, "overloaded", "Overloaded", "The server is busy, try again."),
        Refusal::Failed(why) => (500, "recording_failed", "Recording failed", why.as_str()),
    };
    let response = Response::problem(status, code, title, detail);
    if status == 503 { response.header("Retry-After", "1") } else { response }
}

fn bad_request(detail: &str) -> Response {
    Response::problem(400, "bad_request", "Bad request", detail)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    recording_id: String,
    status: &'static str,
}
