//! Relay of offers, answers and candidates between two browsers: candidate lines are checked, and who negotiates with
//! whom is remembered. Also decides which candidates a media server may take notice of at all.
//!
//! Knows no room and no session: [`crate::shard`] asks `room` who may talk to whom first. Names are never resolved, and
//! nothing here sends. See RFC 8839 §5.1 (grammar), RFC 6544 §4.5 (`tcptype`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::base::ParticipantKey;

/// The longest candidate line that is read. Browsers write under 250 bytes.
pub const CANDIDATE_BYTES_MAX: usize = 512;

/// Candidates per ICE session and direction, unless configured otherwise.
pub const CANDIDATES_MAX: u32 = 64;

/// Why a candidate line is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidateError {
    TooLong,
    /// The named part is missing or not as RFC 8839 writes it.
    Grammar(&'static str),
}

impl fmt::Display for CandidateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CandidateError::TooLong => write!(f, "the candidate is longer than {CANDIDATE_BYTES_MAX} bytes"),
            CandidateError::Grammar(part) => write!(f, "the candidate's {part} is missing or malformed"),
        }
    }
}

impl std::error::Error for CandidateError {}

/// A candidate that the media server may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParsedCandidate {
    /// Unicast, with a port; an IPv4-mapped IPv6 address is written as the IPv4 address it is.
    pub addr: SocketAddr,
    pub proto: Proto,
    pub typ: CandidateType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    Udp,
    Tcp(TcpType),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpType {
    Active,
    Passive,
    SimultaneousOpen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidateType {
    Host,
    ServerReflexive,
    PeerReflexive,
    Relayed,
}

/// Whether a candidate line may be relayed: its grammar and length, nothing about where it points. An empty line (the
/// end of candidates) may.
pub fn check_candidate(text: &str) -> Result<(), CandidateError> {
    line(text).map(drop)
}

/// The candidate for the media server. `None` when it is well-formed but to be ignored: the end of candidates, a host name,
/// an address that no one client has, a component, transport or type that we do not use.
pub fn server_candidate(text: &str) -> Result<Option<ParsedCandidate>, CandidateError> {
    let Some(line) = line(text)? else { return Ok(None) };
    let Address::Ip(ip) = line.address else { return Ok(None) };
    let ip = ip.to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if line.component != 1 || line.port == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Ok(None);
    }
    let typ = match line.typ {
        "host" => CandidateType::Host,
        "srflx" => CandidateType::ServerReflexive,
        "prflx" => CandidateType::PeerReflexive,
        "relay" => CandidateType::Relayed,
        _ => return Ok(None),
    };
    let proto = if line.transport.eq_ignore_ascii_case("udp") {
        Proto::Udp
    } else if line.transport.eq_ignore_ascii_case("tcp") {
        match line.tcp_type {
            Some("active") => Proto::Tcp(TcpType::Active),
            Some("passive") => Proto::Tcp(TcpType::Passive),
            Some("so") => Proto::Tcp(TcpType::SimultaneousOpen),
            _ => return Ok(None),
        }
    } else {
        return Ok(None);
    };
    Ok(Some(ParsedCandidate { addr: SocketAddr::new(ip, line.port), proto, typ }))
}

/// Counts the candidates of one side of one ICE session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CandidateCount(u32);

/// More than are allowed in one ICE session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyCandidates;

impl fmt::Display for TooManyCandidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many candidates")
    }
}

impl std::error::Error for TooManyCandidates {}

impl CandidateCount {
    pub fn take(&mut self, most: u32) -> Result<(), TooManyCandidates> {
        if self.0 >= most {
            return Err(TooManyCandidates);
        }
        self.0 += 1;
        Ok(())
    }
}

/// Nobody offered what is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnexpectedAnswer;

impl fmt::Display for UnexpectedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("that participant has made no offer that is unanswered")
    }
}

impl std::error::Error for UnexpectedAnswer {}

/// Who negotiates with whom in one room. At most one entry for every pair of participants.
#[derive(Debug)]
pub struct P2p {
    candidates_max: u32,
    pairs: BTreeMap<(ParticipantKey, ParticipantKey), Pair>,
}

/// The first of a pair is the lesser key.
#[derive(Debug, Default)]
struct Pair {
    /// Whether the offer of the first, of the second, is unanswered.
    offered: [bool; 2],
    candidates: [CandidateCount; 2],
}

impl Default for P2p {
    fn default() -> Self {
        P2p::new()
    }
}

impl P2p {
    pub fn new() -> Self {
        P2p::with_candidates_max(CANDIDATES_MAX)
    }

    pub fn with_candidates_max(candidates_max: u32) -> Self {
        P2p { candidates_max, pairs: BTreeMap::new() }
    }

    /// An offer goes from one to the other. It begins a new ICE session or restarts one, so candidates count anew.
    /// One cannot negotiate with oneself: nothing happens.
    pub fn offer_relayed(&mut self, from: ParticipantKey, to: ParticipantKey) {
        if from == to {
            return;
        }
        let (names, side) = pair_of(from, to);
        let pair = self.pairs.entry(names).or_default();
        pair.candidates = Default::default();
        *pair.of(side).0 = true;
    }

    /// Whether an answer may go from one to the other: only to an unanswered offer.
    pub fn answer_relayed(&mut self, from: ParticipantKey, to: ParticipantKey) -> Result<(), UnexpectedAnswer> {
        let (names, side) = pair_of(to, from);
        let offered = self.pairs.get_mut(&names).ok_or(UnexpectedAnswer)?.of(side).0;
        if std::mem::take(offered) { Ok(()) } else { Err(UnexpectedAnswer) }
    }

    /// Counts a candidate on its way between a relayed pair. Between others there is nothing to count.
    pub fn candidate_relayed(&mut self, from: ParticipantKey, to: ParticipantKey) -> Result<(), TooManyCandidates> {
        let (names, side) = pair_of(from, to);
        match self.pairs.get_mut(&names) {
            Some(pair) => pair.of(side).1.take(self.candidates_max),
            None => Ok(()),
        }
    }

    /// Whether an offer was relayed between the two, in either direction. If not, a candidate that one addresses to the
    /// other counts as one for the server.
    pub fn is_relayed_pair(&self, a: ParticipantKey, b: ParticipantKey) -> bool {
        self.pairs.contains_key(&pair_of(a, b).0)
    }

    /// Forgets a participant who left.
    pub fn leave(&mut self, key: ParticipantKey) {
        self.pairs.retain(|(a, b), _| *a != key && *b != key);
    }
}

impl Pair {
    fn of(&mut self, side: Side) -> (&mut bool, &mut CandidateCount) {
        let [first_offered, second_offered] = &mut self.offered;
        let [first_count, second_count] = &mut self.candidates;
        match side {
            Side::First => (first_offered, first_count),
            Side::Second => (second_offered, second_count),
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    First,
    Second,
}

/// The name of the pair, and which of it `from` is.
fn pair_of(from: ParticipantKey, to: ParticipantKey) -> ((ParticipantKey, ParticipantKey), Side) {
    if from < to { ((from, to), Side::First) } else { ((to, from), Side::Second) }
}

/// The parts of a candidate line that matter here.
struct Line<'a> {
    component: u16,
    transport: &'a str,
    address: Address,
    port: u16,
    typ: &'a str,
    tcp_type: Option<&'a str>,
}

enum Address {
    Ip(IpAddr),
    Name,
}

/// `None` for an empty line. A leading `a=` and a line end, as copied from SDP, are tolerated.
fn line(text: &str) -> Result<Option<Line<'_>>, CandidateError> {
    use CandidateError::Grammar;
    if text.len() > CANDIDATE_BYTES_MAX {
        return Err(CandidateError::TooLong);
    }
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Ok(None);
    }
    let text = text.strip_prefix("a=").unwrap_or(text);
    let text = text.strip_prefix("candidate:").ok_or(Grammar("prefix"))?;
    let mut parts = text.split(' ');
    let mut part = |name: &'static str, good: fn(&str) -> bool| parts.next().filter(|p| good(p)).ok_or(Grammar(name));

    part("foundation", |p| {
        (1..=32).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
    })?;
    let component = number(part("component", |p| p.len() <= 3)?).filter(|n| *n >= 1).ok_or(Grammar("component"))?;
    let transport = part("transport", is_token)?;
    number(part("priority", |p| p.len() <= 10)?).filter(|n| u32::try_from(*n).is_ok()).ok_or(Grammar("priority"))?;
    let address = address(part("address", |_| true)?).ok_or(Grammar("address"))?;
    let port = port(part("port", |_| true)?).ok_or(Grammar("port"))?;
    part("type", |p| p == "typ")?;
    let typ = part("type", is_token)?;

    let mut line = Line { component: component as u16, transport, address, port, typ, tcp_type: None };
    let mut parts = parts.peekable();
    // One space at the end is what some write before extensions that they then leave out.
    while let Some(name) = parts.next() {
        if name.is_empty() && parts.peek().is_none() {
            break;
        }
        if !is_token(name) {
            return Err(Grammar("extension"));
        }
        let value = parts.next().ok_or(Grammar("extension"))?;
        match name {
            "raddr" if self::address(value).is_none() => return Err(Grammar("related address")),
            "rport" if self::port(value).is_none() => return Err(Grammar("related port")),
            "tcptype" if !matches!(value, "active" | "passive" | "so") => return Err(Grammar("tcptype")),
            "tcptype" => line.tcp_type = Some(value),
            _ if !value.bytes().all(|b| b.is_ascii_graphic()) => return Err(Grammar("extension")),
            _ => {}
        }
    }
    Ok(Some(line))
}

fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&b))
}

/// Digits only; at most what a `u64` holds.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn port(text: &str) -> Option<u16> {
    number(text).filter(|_| text.len() <= 5).and_then(|n| u16::try_from(n).ok())
}

fn address(text: &str) -> Option<Address> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Address::Ip(ip));
    }
    let label =
        |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let name = text.len() <= 253 && text.split('.').all(label);
    // A last label that begins with a digit is a number in disguise (`0177.0.0.1`, `0x7f.1`), which resolvers read in
    // their own ways; no name ends so.
    let last = text.rsplit('.').next().unwrap_or_default();
    let numeric = last.starts_with(|c: char| c.is_ascii_digit());
    (name && !numeric).then_some(Address::Name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHROME: &str = "candidate:2999745851 1 udp 2122260223 192.168.1.7 56143 typ host generation 0 ufrag EsAw network-id 1 network-cost 10";
    const MDNS: &str =
        "candidate:1 1 UDP 2122252543 0f3d1e4a-7c5b-4a55-9d1e-2f7c1c0a9e11.local 50000 typ host generation 0";
    const RELAY: &str = "candidate:3 1 udp 41885439 203.0.113.9 49152 typ relay raddr 0.0.0.0 rport 0 generation 0";
    const TCP: &str = "candidate:4 1 tcp 1518280447 192.168.1.7 9 typ host tcptype active generation 0";
    const V6: &str = "a=candidate:5 1 udp 2122 2001:db8::7 5000 typ srflx raddr fd00::1 rport 5000\r\n";

    #[test]
    fn what_browsers_write_is_relayed() {
        for text in [
            CHROME,
            MDNS,
            RELAY,
            TCP,
            V6,
            "",
            "candidate:x/+1 2 udp 0 ::1 0 typ host",
            "candidate:1 1 ssltcp 1 1.2.3.4 443 typ new ",
        ] {
            assert_eq!(check_candidate(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_no_candidate_is_not() {
        let rows = [
            ("x", "prefix"),
            ("Candidate:1 1 udp 1 1.2.3.4 5 typ host", "prefix"),
            ("candidate:", "foundation"),
            ("candidate: 1 udp 1 1.2.3.4 5 typ host", "foundation"),
            ("candidate:a-b 1 udp 1 1.2.3.4 5 typ host", "foundation"),
            ("candidate:012345678901234567890123456789012 1 udp 1 1.2.3.4 5 typ host", "foundation"),
            ("candidate:1", "component"),
            ("candidate:1 0 udp 1 1.2.3.4 5 typ host", "component"),
            ("candidate:1 +1 udp 1 1.2.3.4 5 typ host", "component"),
            ("candidate:1 1000 udp 1 1.2.3.4 5 typ host", "component"),
            ("candidate:1 1 u(p 1 1.2.3.4 5 typ host", "transport"),
            ("candidate:1 1 udp -1 1.2.3.4 5 typ host", "priority"),
            ("candidate:1 1 udp 9999999999 1.2.3.4 5 typ host", "priority"),
            ("candidate:1 1 udp 1  1.2.3.4 5 typ host", "address"),
            ("candidate:1 1 udp 1 1.2.3.256 5 typ host", "address"),
            ("candidate:1 1 udp 1 0177.0.0.1 5 typ host", "address"),
            ("candidate:1 1 udp 1 127.0.0.0x1 5 typ host", "address"),
            ("candidate:1 1 udp 1 2130706433 5 typ host", "address"),
            ("candidate:1 1 udp 1 [::1] 5 typ host", "address"),
            ("candidate:1 1 udp 1 fe80::1%eth0 5 typ host", "address"),
            ("candidate:1 1 udp 1 a..b 5 typ host", "address"),
            ("candidate:1 1 udp 1 ex\u{e4}mple.com 5 typ host", "address"),
            ("candidate:1 1 udp 1 1.2.3.4 65536 typ host", "port"),
            ("candidate:1 1 udp 1 1.2.3.4 5", "type"),
            ("candidate:1 1 udp 1 1.2.3.4 5 type host", "type"),
            ("candidate:1 1 udp 1 1.2.3.4 5 typ", "type"),
            ("candidate:1 1 udp 1 1.2.3.4 5 typ srflx raddr nowhere! rport 1", "related address"),
            ("candidate:1 1 udp 1 1.2.3.4 5 typ srflx raddr 1.2.3.4 rport x", "related port"),
            ("candidate:1 1 tcp 1 1.2.3.4 5 typ host tcptype maybe", "tcptype"),
            ("candidate:1 1 udp 1 1.2.3.4 5 typ host generation", "extension"),
            ("candidate:1 1 udp 1 1.2.3.4 5 typ host x y\r\na=z 0", "extension"),
            ("candidate:1 1 udp 1 1.2.3.4 5 typ host\r\na=ice-lite", "type"),
            ("candidate:1 1 udp 1 1.2.3.4 5 typ host x \u{1b}[2J", "extension"),
        ];
        for (text, part) in rows {
            assert_eq!(check_candidate(text), Err(CandidateError::Grammar(part)), "{text:?}");
            assert_eq!(server_candidate(text), Err(CandidateError::Grammar(part)), "{text:?}");
        }
        let long = format!("{CHROME} x {}", "y".repeat(CANDIDATE_BYTES_MAX));
        assert_eq!(check_candidate(&long), Err(CandidateError::TooLong));
    }

    #[test]
    fn what_the_server_takes_notice_of() {
        let parsed =
            |addr: &str, proto, typ| Ok(Some(ParsedCandidate { addr: addr.parse().expect("an address"), proto, typ }));
        assert_eq!(server_candidate(CHROME), parsed("192.168.1.7:56143", Proto::Udp, CandidateType::Host));
        assert_eq!(server_candidate(RELAY), parsed("203.0.113.9:49152", Proto::Udp, CandidateType::Relayed));
        assert_eq!(server_candidate(TCP), parsed("192.168.1.7:9", Proto::Tcp(TcpType::Active), CandidateType::Host));
        assert_eq!(server_candidate(V6), parsed("[2001:db8::7]:5000", Proto::Udp, CandidateType::ServerReflexive));
        let mapped = "candidate:1 1 udp 1 ::ffff:10.0.0.1 5 typ prflx";
        assert_eq!(server_candidate(mapped), parsed("10.0.0.1:5", Proto::Udp, CandidateType::PeerReflexive));
        let line = |address: &str, port: u16| format!("candidate:1 1 udp 1 {address} {port} typ host");
        for ignored in [
            String::new(),
            MDNS.into(),
            line("example.com", 5),
            line("localhost", 5),
            line("10.0.0.1", 0),
            line("0.0.0.0", 5),
            line("::", 5),
            line("::ffff:0.0.0.0", 5),
            line("224.0.0.1", 5),
            line("::ffff:224.0.0.1", 5),
            line("ff02::1", 5),
            line("255.255.255.255", 5),
            "candidate:1 2 udp 1 10.0.0.1 5 typ host".into(),
            "candidate:1 1 sctp 1 10.0.0.1 5 typ host".into(),
            "candidate:1 1 tcp 1 10.0.0.1 5 typ host".into(),
            "candidate:1 1 udp 1 10.0.0.1 5 typ other".into(),
        ] {
            assert_eq!(server_candidate(&ignored), Ok(None), "{ignored}");
        }
    }

    /// Both functions agree on what is well-formed, whatever comes, and the server is never told an unusable address.
    #[test]
    fn mutated_lines() {
        let seeds = [CHROME, MDNS, RELAY, TCP, V6];
        let alphabet: Vec<char> = " :.%019afx-+/\r\n\u{0}é".chars().collect();
        let mut random = fastrand::Rng::with_seed(5);
        let mut good = 0;
        for round in 0..20_000 {
            let mut chars: Vec<char> = seeds[round % seeds.len()].chars().collect();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..chars.len());
                match random.u8(0..3) {
                    0 => chars[at] = alphabet[random.usize(0..alphabet.len())],
                    1 => drop(chars.remove(at)),
                    _ => chars.insert(at, alphabet[random.usize(0..alphabet.len())]),
                }
            }
            let text: String = chars.into_iter().collect();
            let parsed = server_candidate(&text);
            assert_eq!(check_candidate(&text).is_ok(), parsed.is_ok(), "{text:?}");
            if check_candidate(&text).is_ok() {
                good += 1;
                let inside = text.trim_end_matches(['\r', '\n']);
                assert!(!inside.contains(|c: char| c.is_control() || !c.is_ascii()), "{text:?} would be relayed");
            }
            if let Ok(Some(ParsedCandidate { addr, .. })) = parsed {
                assert!(addr.port() != 0 && !addr.ip().is_multicast() && !addr.ip().is_unspecified(), "{text:?}");
            }
        }
        assert!((500..19_500).contains(&good), "{good} well-formed: the mutations test one side only");
    }

    fn key(number: u32) -> ParticipantKey {
        ParticipantKey { slot: number, generation: 0 }
    }

    #[test]
    fn answers_need_an_offer() {
        let mut p2p = P2p::new();
        assert!(!p2p.is_relayed_pair(key(1), key(2)));
        assert_eq!(p2p.answer_relayed(key(2), key(1)), Err(UnexpectedAnswer));
        p2p.offer_relayed(key(1), key(2));
        assert!(p2p.is_relayed_pair(key(1), key(2)) && p2p.is_relayed_pair(key(2), key(1)));
        assert!(!p2p.is_relayed_pair(key(1), key(3)));
        assert_eq!(p2p.answer_relayed(key(1), key(2)), Err(UnexpectedAnswer), "not to one's own offer");
        assert_eq!(p2p.answer_relayed(key(3), key(1)), Err(UnexpectedAnswer));
        assert_eq!(p2p.answer_relayed(key(2), key(1)), Ok(()));
        assert_eq!(p2p.answer_relayed(key(2), key(1)), Err(UnexpectedAnswer), "once");
        // Both offer at the same time: either may be answered.
        p2p.offer_relayed(key(1), key(2));
        p2p.offer_relayed(key(2), key(1));
        assert_eq!(p2p.answer_relayed(key(1), key(2)), Ok(()));
        assert_eq!(p2p.answer_relayed(key(2), key(1)), Ok(()));
        p2p.offer_relayed(key(1), key(3));
        p2p.leave(key(2));
        assert!(!p2p.is_relayed_pair(key(1), key(2)) && p2p.is_relayed_pair(key(1), key(3)));
        p2p.offer_relayed(key(4), key(4));
        assert!(!p2p.is_relayed_pair(key(4), key(4)));
    }

    #[test]
    fn candidates_are_counted_per_direction_and_offer() {
        let mut p2p = P2p::new();
        p2p.offer_relayed(key(1), key(2));
        for _ in 0..CANDIDATES_MAX {
            assert_eq!(p2p.candidate_relayed(key(1), key(2)), Ok(()));
        }
        assert_eq!(p2p.candidate_relayed(key(1), key(2)), Err(TooManyCandidates));
        assert_eq!(p2p.candidate_relayed(key(2), key(1)), Ok(()));
        p2p.offer_relayed(key(2), key(1));
        assert_eq!(p2p.candidate_relayed(key(1), key(2)), Ok(()));
    }
}
