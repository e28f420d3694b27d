//! Names of files. Whatever somebody is called, it becomes a part of a path that is safe everywhere.

use std::path::PathBuf;

use crate::base::{RecordingId, RoomId};

/// The whole call, without its extension.
pub const CALL: &str = "recording";
pub const MANIFEST: &str = "manifest.jsonl";
pub const METADATA: &str = "metadata.json";
pub const CAPTIONS: &str = "speakers.vtt";
pub const POSTER: &str = "poster.webp";
/// Of files that are not what they will be yet. Whatever ends like that may go when nobody writes it.
pub const TEMPORARY: &str = ".tmp";

/// Where a recording is, below the configured directory.
pub fn directory(room: &RoomId, recording: &RecordingId) -> PathBuf {
    PathBuf::from(room.as_str()).join(recording.as_str())
}

/// The whole call.
pub fn call(is_webm: bool) -> String {
    format!("{CALL}.{}", extension(is_webm))
}

/// One participant's file, of those with this name the `n`th; `name` is [`encode`]d.
pub fn participant(name: &str, n: usize, is_webm: bool) -> String {
    format!("{name}-{n}.{}", extension(is_webm))
}

pub fn content_type(is_webm: bool) -> &'static str {
    if is_webm { "video/webm" } else { "video/x-matroska" }
}

fn extension(is_webm: bool) -> &'static str {
    if is_webm { "webm" } else { "mkv" }
}

/// Percent-encodes everything outside `[A-Za-z0-9_-]`. At most 64 characters: what is longer is cut, and ends in a
/// hash of all of it, so that two long names stay apart.
pub fn encode(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    let mut cut = 0;
    for byte in text.bytes() {
        if encoded.len() <= LENGTH_MAX - 1 - HASH_LENGTH {
            cut = encoded.len();
        }
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => encoded.push(char::from(byte)),
            _ => {
                let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
                encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    if encoded.len() <= LENGTH_MAX {
        return encoded;
    }
    encoded.truncate(cut);
    encoded.push('-');
    encoded.push_str(&hex(&openssl::sha::sha256(text.as_bytes())[..HASH_LENGTH / 2]));
    encoded
}

/// In lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    })
}

/// `None`: it is not hexadecimal.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibbles: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|nibble| nibble as u8)).collect();
    let nibbles = nibbles.filter(|nibbles| nibbles.len() % 2 == 0)?;
    Some(nibbles.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// With what is appended, below the 255 octets that file systems take.
const LENGTH_MAX: usize = 64;
/// 64 bits: nobody meets another's by chance, and files whose names do meet are counted as one's.
const HASH_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe() {
        for (text, encoded) in [
            ("ann", "ann"),
            ("ann-1_B", "ann-1_B"),
            ("../../etc/passwd", "%2E%2E%2F%2E%2E%2Fetc%2Fpasswd"),
            ("a~2", "a%7E2"),
            ("Jürgen", "J%C3%BCrgen"),
            ("100%", "100%25"),
        ] {
            assert_eq!(encode(text), encoded);
        }
        assert_eq!(participant(&encode("a b"), 2, false), "a%20b-2.mkv");
        assert_eq!(call(true), "recording.webm");
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        assert_eq!(encode(&"a".repeat(64)).len(), 64);
        for piece in ["a", "ä", "a ", "🎥"] {
            let (one, other) = (piece.repeat(65), format!("{}{piece}", piece.repeat(65)));
            let names = [encode(&one), encode(&other)];
            assert_ne!(names[0], names[1]);
            for name in names {
                assert!(name.len() <= 64 && name.len() > 60, "{name}");
                // Cut between characters of ours, not within one.
                let (front, hash) = name.rsplit_once('-').expect("a hash");
                assert_eq!(hash.len(), 16);
                assert!(front.split('%').skip(1).all(|part| part.len() >= 2), "{name}");
            }
        }
    }

    #[test]
    fn hexadecimal_there_and_back() {
        assert_eq!(hex(&[0, 0xab, 0xff]), "00abff");
        assert_eq!(from_hex("00abFF"), Some(vec![0, 0xab, 0xff]));
        assert_eq!((from_hex("0"), from_hex("0g"), from_hex("ä")), (None, None, None));
    }
}
