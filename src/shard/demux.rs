//! Tells what a datagram is by its first byte (RFC 7983) and whom a connectivity check is for.

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A STUN message, with the local part of its USERNAME: our own ufrag (RFC 8445 §7.2.2).
    Check(&'a [u8]),
    /// DTLS, SRTP or SRTCP.
    Media,
    /// Neither, or a STUN message without a user name.
    Other,
}

/// Classifies a datagram. Looks at the heads of the first few attributes only.
pub fn classify(data: &[u8]) -> Kind<'_> {
    match data.first() {
        Some(0..=1) => match local_ufrag(data) {
            Some(ufrag) => Kind::Check(ufrag),
            None => Kind::Other,
        },
        Some(20..=63 | 128..=191) => Kind::Media,
        _ => Kind::Other,
    }
}

fn local_ufrag(data: &[u8]) -> Option<&[u8]> {
    if data.len() < 20 || data[4..8] != MAGIC_COOKIE {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
    let mut rest = data.get(20..20 + length)?;
    for _ in 0..MAX_ATTRIBUTES {
        let [t0, t1, l0, l1, ..] = *rest else { return None };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(4..4 + length)?;
        if u16::from_be_bytes([t0, t1]) == USERNAME {
            let colon = value.iter().position(|b| *b == b':')?;
            return Some(&value[..colon]);
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
    None
}

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const USERNAME: u16 = 0x0006;
/// Browsers put the user name among the first; a message that hides it behind more is not worth the search.
const MAX_ATTRIBUTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn stun(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_be_bytes());
            body.extend((value.len() as u16).to_be_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = vec![0, 1];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(MAGIC_COOKIE);
        message.extend([7; 12]);
        message.extend(body);
        message
    }

    #[test]
    fn user_name_is_found_wherever_it_stands() {
        assert_eq!(classify(&stun(&[(USERNAME, b"ours:theirs")])), Kind::Check(b"ours"));
        assert_eq!(classify(&stun(&[(0x24, b"1234"), (0x8022, b"abcde"), (USERNAME, b"o:t")])), Kind::Check(b"o"));
    }

    #[test]
    fn what_names_nobody_is_other() {
        assert_eq!(classify(&stun(&[])), Kind::Other);
        assert_eq!(classify(&stun(&[(USERNAME, b"no colon")])), Kind::Other);
        assert_eq!(classify(&stun(&[(0x24, b"1".as_slice()); 12])), Kind::Other);
        assert_eq!(classify(b""), Kind::Other);
        assert_eq!(classify(b"GET / HTTP/1.1"), Kind::Other);
    }

    #[test]
    fn every_truncation_is_harmless() {
        let whole = stun(&[(0x24, b"1234"), (USERNAME, b"ours:theirs")]);
        for end in 0..whole.len() {
            assert_eq!(classify(&whole[..end]), Kind::Other, "cut at {end}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
            classify(&bytes);
        }
    }

    #[test]
    fn media_by_its_first_byte() {
        assert_eq!(classify(&[22, 254, 253]), Kind::Media);
        assert_eq!(classify(&[0x80, 96]), Kind::Media);
        assert_eq!(classify(&[200, 0]), Kind::Other);
    }
}
