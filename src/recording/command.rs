//! What people may ask of a recording.

use serde::Deserialize;

use crate::base::UserId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Start(Start),
    Stop,
    Pause,
    Resume,
}

/// How a recording is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    pub audio_only: bool,
    /// Only these. `None`: everybody.
    pub participants: Option<Vec<UserId>>,
}

/// The body of a start, and the data of `start-recording`. Everything may be left out. A name that is not
/// known is refused: a misspelt restriction must not be none.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StartRequest {
    #[serde(default)]
    audio_only: bool,
    #[serde(default)]
    participants: Option<Vec<String>>,
    #[serde(default)]
    layout: Option<String>,
}

/// Why a start asks for something that cannot be.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not JSON, or not of this shape.
    Malformed(String),
    /// There is no such layout.
    Layout(String),
    /// A layout that needs composition.
    NotAvailable,
}

/// Reads what a start asks for. `text`: JSON, or nothing.
pub fn start(text: &str) -> Result<Start, Fault> {
    let wish: StartRequest = match text.trim() {
        "" | "null" => StartRequest::default(),
        // A list would be taken for the members in their order.
        text if !text.starts_with('{') => return Err(Fault::Malformed("an object is expected".into())),
        text => serde_json::from_str(text).map_err(|error| Fault::Malformed(error.to_string()))?,
    };
    match wish.layout.as_deref() {
        None | Some("tracks") => {}
        Some("grid" | "speaker") => return Err(Fault::NotAvailable),
        Some(other) => return Err(Fault::Layout(other.chars().take(32).collect())),
    }
    let participants = match wish.participants {
        None => None,
        Some(list) if list.is_empty() || list.len() > PARTICIPANTS_MAX => {
            return Err(Fault::Malformed(format!("participants has to name 1 to {PARTICIPANTS_MAX} users")));
        }
        Some(list) => {
            let users: Result<Vec<UserId>, _> = list.iter().map(|text| UserId::new(text)).collect();
            Some(users.map_err(|error| Fault::Malformed(format!("a name among participants {error}")))?)
        }
    };
    Ok(Start { audio_only: wish.audio_only, participants })
}

/// Users that a start may name; a room has fewer.
const PARTICIPANTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_may_ask_for() {
        let users = |names: &[&str]| Some(names.iter().map(|name| UserId::new(name).unwrap()).collect());
        let rows: &[(&str, Start)] = &[
            ("", Start::default()),
            (" null ", Start::default()),
            ("{}", Start::default()),
            (r#"{"layout":"tracks"}"#, Start::default()),
            (r#"{"audioOnly":true}"#, Start { audio_only: true, participants: None }),
            (r#"{"participants":["ann","bob"]}"#, Start { audio_only: false, participants: users(&["ann", "bob"]) }),
        ];
        for (text, wanted) in rows {
            assert_eq!(start(text).as_ref(), Ok(wanted), "{text}");
        }
        assert_eq!(start(r#"{"layout":"grid"}"#), Err(Fault::NotAvailable));
        assert_eq!(start(r#"{"layout":"speaker"}"#), Err(Fault::NotAvailable));
        assert_eq!(start(r#"{"layout":"cube"}"#), Err(Fault::Layout("cube".into())));
        for text in ["[", "[]", r#"{"audio":1}"#, r#"{"participants":[]}"#, r#"{"participants":["sfu"]}"#] {
            assert!(matches!(start(text), Err(Fault::Malformed(_))), "{text}");
        }
    }
}
