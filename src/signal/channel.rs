//! What clients say to each other on data channels: to whom a message is, and from whom it came.
//!
//! A text is JSON: up `{"to"?: userId, "data": any}`, down `{"from": userId, "to"?: userId, "data": any}`. Octets have a head:
//! `[n: u8][n octets]` and then the payload; the octets are the UTF-8 of the addressee's user id on the way up (none: everyone)
//! and of the sender's on the way down. The payload itself is never looked at.

use std::sync::Arc;

use super::Limits;
use super::json::{self, Outline};
use crate::base::UserId;

/// One message on its way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub to: Option<To<'a>>,
    pub payload: Payload<'a>,
}

/// The addressee as it was written; whether it is somebody is for the room to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct To<'a>(&'a str);

/// What is passed on as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// The text of one JSON value.
    Json(&'a str),
    Octets(&'a [u8]),
}

impl To<'_> {
    /// `None`: no user can have this id.
    pub fn user(&self) -> Option<UserId> {
        match self.0.strip_prefix('"') {
            Some(_) => UserId::new(&json::string(self.0)?).ok(),
            None => UserId::new(self.0).ok(),
        }
    }
}

/// Reads one message; `None` when it is not as described above. `binary` is what the channel says of it.
pub fn parse<'a>(binary: bool, data: &'a [u8], limits: &Limits) -> Option<Message<'a>> {
    if binary {
        let (length, rest) = data.split_first()?;
        let (to, payload) = rest.split_at_checked(usize::from(*length))?;
        let to = std::str::from_utf8(to).ok()?;
        return Some(Message { to: (!to.is_empty()).then_some(To(to)), payload: Payload::Octets(payload) });
    }
    let text = std::str::from_utf8(data).ok()?;
    let Outline::Object(members) = json::outline(text, limits.json_depth, limits.json_members).ok()? else {
        return None;
    };
    let member = |name: &str| members.iter().find(|(n, _)| n == name).map(|(_, raw)| *raw);
    let to = member("to").filter(|raw| *raw != "null");
    if to.is_some_and(|raw| !raw.starts_with('"')) {
        return None;
    }
    Some(Message { to: to.map(To), payload: Payload::Json(member("data")?) })
}

/// The message as its receivers get it.
pub fn encode(from: &UserId, message: &Message<'_>) -> Arc<[u8]> {
    match message.payload {
        Payload::Octets(payload) => {
            let name = from.as_str().as_bytes();
            // A user id has at most 128 characters; one that fills more than 255 octets arrives cut, at a character.
            let cut = (0..=name.len().min(255)).rev().find(|at| from.as_str().is_char_boundary(*at)).unwrap_or(0);
            [&[cut as u8][..], &name[..cut], payload].concat().into()
        }
        Payload::Json(value) => {
            let from = serde_json::to_string(from.as_str()).expect("a string serializes");
            let text = match message.to {
                Some(To(to)) => format!("{{\"from\":{from},\"to\":{to},\"data\":{value}}}"),
                None => format!("{{\"from\":{from},\"data\":{value}}}"),
            };
            text.into_bytes().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("valid")
    }

    fn check(binary: bool, up: &[u8], to: Option<&str>, down: &[u8]) {
        let message = parse(binary, up, &Limits::default()).unwrap_or_else(|| panic!("{up:?} is a message"));
        assert_eq!(message.to.map(|to| to.user()), to.map(|to| Some(user(to))));
        assert_eq!(encode(&user("änn"), &message)[..], *down);
    }

    #[test]
    fn octets() {
        check(true, &[0, 1, 2], None, b"\x04\xc3\xa4nn\x01\x02");
        check(true, b"\x03bob", Some("bob"), b"\x04\xc3\xa4nn");
        check(true, b"\x03bob\0\xff", Some("bob"), b"\x04\xc3\xa4nn\0\xff");
    }

    #[test]
    fn texts() {
        check(false, br#"{"data":{"a":[1, 2.50]}}"#, None, r#"{"from":"änn","data":{"a":[1, 2.50]}}"#.as_bytes());
        let down = r#"{"from":"änn","to":"b\u006fb","data":null}"#;
        check(false, br#"{"to":"b\u006fb","data":null,"x":1}"#, Some("bob"), down.as_bytes());
        check(false, br#"{"to":null,"data":"x"}"#, None, r#"{"from":"änn","data":"x"}"#.as_bytes());
    }

    #[test]
    fn what_is_no_message() {
        let rows: [(bool, &[u8]); 9] = [
            (true, b""),
            (true, b"\x04bob"),
            (true, b"\x01\xff"),
            (false, b""),
            (false, b"\xff"),
            (false, b"7"),
            (false, br#"{"to":"bob"}"#),
            (false, br#"{"to":7,"data":1}"#),
            (false, br#"{"data":1,"data":2}"#),
        ];
        for (binary, up) in rows {
            assert_eq!(parse(binary, up, &Limits::default()), None, "{up:?}");
        }
    }

    #[test]
    fn a_name_that_nobody_can_have() {
        let message = parse(true, b"\x03sfu", &Limits::default()).expect("well formed");
        assert_eq!(message.to.and_then(|to| to.user()), None);
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let long = user(&"€".repeat(128));
        let message = Message { to: None, payload: Payload::Octets(&[7]) };
        let down = encode(&long, &message);
        assert_eq!((usize::from(down[0]), down.len()), (255, 257));
        assert!(std::str::from_utf8(&down[1..256]).is_ok());
    }
}
