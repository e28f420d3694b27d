//! Which addresses media sockets bind to, and which ones candidates show.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use crate::config::{Announced, Config, ConfigError, stun_host};

/// An address for media. Several may share a `bind` address (behind NAT both the local and the public one are
/// announced); no two share an `announced` one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MediaAddress {
    pub bind: IpAddr,
    pub announced: IpAddr,
}

/// How long a STUN server may take to answer, repetitions included.
const STUN_TIMEOUT: Duration = Duration::from_secs(2);

/// Finds the addresses as `RTC_ANNOUNCED_IPS` says. Never empty.
///
/// With `auto` this blocks for as long as name resolution takes, and up to two seconds per STUN server that does not
/// answer.
pub fn discover_addresses(config: &Config, dev_mode: bool) -> Result<Vec<MediaAddress>, ConfigError> {
    discover(config, dev_mode, &Host)
}

/// What has to be asked of the machine.
trait Network: Sync {
    /// Addresses of interfaces that are up.
    fn interfaces(&self) -> io::Result<Vec<IpAddr>>;
    /// Whether a socket can have this address.
    fn is_local(&self, address: IpAddr) -> bool;
    /// The address from which packets to everywhere are sent.
    fn default_route(&self, v4: bool) -> Option<IpAddr>;
    /// What a STUN server sees of packets from `local`.
    fn mapped(&self, local: IpAddr, server: &str) -> Option<IpAddr>;
}

fn discover(config: &Config, dev_mode: bool, network: &dyn Network) -> Result<Vec<MediaAddress>, ConfigError> {
    if let Announced::List(announces) = &config.rtc.announced {
        return announces
            .iter()
            .map(|announce| {
                let bind = match announce.local {
                    Some(local) if network.is_local(local) => local,
                    Some(local) => return Err(wrong(&format!("{local} is not an address of this machine"))),
                    None if network.is_local(announce.public) => announce.public,
                    None => network.default_route(announce.public.is_ipv4()).ok_or_else(|| {
                        wrong(&format!("no local address found for {0}; write {0}/local", announce.public))
                    })?,
                };
                Ok(MediaAddress { bind, announced: announce.public })
            })
            .collect();
    }

    let mut usable = Vec::new();
    for address in network.interfaces().map_err(|e| wrong(&format!("the interfaces cannot be listed: {e}")))? {
        if is_usable(address) && !usable.contains(&address) {
            usable.push(address);
        }
    }
    let (loopback, routed): (Vec<IpAddr>, Vec<IpAddr>) = usable.iter().partition(|address| address.is_loopback());
    // A machine with nothing but loopback can still serve itself.
    let with_loopback = dev_mode || config.server.host.is_some_and(|host| host.is_loopback()) || routed.is_empty();

    let mut found: Vec<MediaAddress> = routed.iter().map(|ip| MediaAddress { bind: *ip, announced: *ip }).collect();
    if config.rtc.announced == Announced::Auto {
        for (local, public) in ask_stun(&routed, &config.rtc.ice_servers, network) {
            if !found.iter().any(|address| address.announced == public) {
                found.push(MediaAddress { bind: local, announced: public });
            }
        }
    }
    if with_loopback {
        found.extend(loopback.iter().map(|ip| MediaAddress { bind: *ip, announced: *ip }));
    }
    if found.is_empty() { Err(wrong("no address found on the interfaces")) } else { Ok(found) }
}

fn wrong(problem: &str) -> ConfigError {
    ConfigError::new(format!("RTC_ANNOUNCED_IPS: {problem}"))
}

/// No candidate can be made of a link-local IPv6 address: it needs a scope, which is another on the other side.
fn is_usable(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !link_local && !address.is_multicast() && !address.is_unspecified()
}

/// The first answer for each local address, all of them asked at once.
fn ask_stun(locals: &[IpAddr], servers: &[String], network: &dyn Network) -> Vec<(IpAddr, IpAddr)> {
    let ask =
        |local: IpAddr| servers.iter().find_map(|server| network.mapped(local, server)).map(|public| (local, public));
    std::thread::scope(|scope| {
        let asked: Vec<_> = locals.iter().map(|local| scope.spawn(move || ask(*local))).collect();
        asked.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    })
}

struct Host;

impl Network for Host {
    fn interfaces(&self) -> io::Result<Vec<IpAddr>> {
        let all = if_addrs::get_if_addrs()?;
        Ok(all.into_iter().filter(if_addrs::Interface::is_oper_up).map(|interface| interface.ip()).collect())
    }

    fn is_local(&self, address: IpAddr) -> bool {
        UdpSocket::bind((address, 0)).is_ok()
    }

    fn default_route(&self, v4: bool) -> Option<IpAddr> {
        // Connecting a UDP socket chooses a route and sends nothing. The targets are documentation addresses.
        let (any, target): (IpAddr, IpAddr) = match v4 {
            true => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
            false => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((target, 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
    }

    fn mapped(&self, local: IpAddr, server: &str) -> Option<IpAddr> {
        let (host, port) = stun_host(server)?;
        let server = (host.as_str(), port).to_socket_addrs().ok()?.find(|a| a.is_ipv4() == local.is_ipv4())?;
        binding(local, server, STUN_TIMEOUT).ok().map(|address| address.ip())
    }
}

/// One STUN Binding (RFC 8489) from any port of `local`; sent again every half second.
fn binding(local: IpAddr, server: SocketAddr, timeout: Duration) -> io::Result<SocketAddr> {
    let mut transaction = [0; 12];
    openssl::rand::rand_bytes(&mut transaction)?;
    let mut request = [0; 20];
    request[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    request[8..].copy_from_slice(&transaction);

    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(server)?;
    let end = Instant::now() + timeout;
    let mut buffer = [0; 1500];
    loop {
        socket.send(&request)?;
        let resend = (Instant::now() + Duration::from_millis(500)).min(end);
        loop {
            let left = resend.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(size) => {
                    if let Some(address) = buffer.get(..size).and_then(|answer| mapped_address(answer, &transaction)) {
                        return Ok(address);
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(e) => return Err(e),
            }
        }
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// The XOR-MAPPED-ADDRESS of a Binding success response to this transaction (RFC 8489 §14.2).
fn mapped_address(answer: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let (head, mut attributes) = answer.split_at_checked(20)?;
    if head.get(..2)? != [1, 1] || head.get(4..8)? != [0x21, 0x12, 0xa4, 0x42] || head.get(8..)? != transaction {
        return None;
    }
    let mask = head.get(4..)?;
    loop {
        let (kind, rest) = attributes.split_first_chunk::<2>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let value = rest.get(..length)?;
        if u16::from_be_bytes(*kind) == 0x0020 {
            let (head, address) = value.split_first_chunk::<4>()?;
            let port = u16::from_be_bytes([head[2], head[3]]) ^ 0x2112;
            let plain: Vec<u8> = address.iter().zip(mask).map(|(a, m)| a ^ m).collect();
            let ip: IpAddr = match head[1] {
                1 => <[u8; 4]>::try_from(plain).ok()?.into(),
                2 => <[u8; 16]>::try_from(plain).ok()?.into(),
                _ => return None,
            };
            return is_usable(ip).then_some(SocketAddr::new(ip, port));
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Announce;

    struct Fake {
        interfaces: &'static [&'static str],
        /// Local address, server and what it sees.
        mapped: &'static [(&'static str, &'static str, &'static str)],
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    impl Network for Fake {
        fn interfaces(&self) -> io::Result<Vec<IpAddr>> {
            Ok(self.interfaces.iter().map(|a| ip(a)).collect())
        }

        fn is_local(&self, address: IpAddr) -> bool {
            self.interfaces.iter().any(|a| ip(a) == address)
        }

        fn default_route(&self, v4: bool) -> Option<IpAddr> {
            v4.then(|| ip("10.0.0.5"))
        }

        fn mapped(&self, local: IpAddr, server: &str) -> Option<IpAddr> {
            self.mapped.iter().find(|(l, s, _)| ip(l) == local && *s == server).map(|(_, _, public)| ip(public))
        }
    }

    const LAN: Fake = Fake {
        interfaces: &["127.0.0.1", "::1", "10.0.0.5", "2001:db8::5", "fe80::1", "10.0.0.5"],
        mapped: &[
            ("10.0.0.5", "stun:second", "203.0.113.9"),
            ("2001:db8::5", "stun:first", "2001:db8::5"),
            ("127.0.0.1", "stun:first", "198.51.100.1"),
        ],
    };

    fn found(config: &Config, dev_mode: bool, network: &Fake) -> Vec<String> {
        let found = discover(config, dev_mode, network).unwrap();
        found
            .iter()
            .map(|a| if a.bind == a.announced { a.bind.to_string() } else { format!("{}/{}", a.announced, a.bind) })
            .collect()
    }

    #[test]
    fn interfaces_and_loopback() {
        let config = Config::default();
        let behind_proxy = |host: &str| {
            let mut config = Config::default();
            config.server.host = Some(ip(host));
            config
        };
        let with = ["10.0.0.5", "2001:db8::5", "127.0.0.1", "::1"];
        let without = ["10.0.0.5", "2001:db8::5"];
        assert_eq!(found(&config, false, &LAN), without);
        assert_eq!(found(&config, true, &LAN), with);
        assert_eq!(found(&behind_proxy("::1"), false, &LAN), with);
        assert_eq!(found(&behind_proxy("0.0.0.0"), false, &LAN), without);
        let alone = Fake { interfaces: &["127.0.0.1", "::1"], mapped: &[] };
        assert_eq!(found(&config, false, &alone), ["127.0.0.1", "::1"]);
        let nothing = Fake { interfaces: &["fe80::1"], mapped: &[] };
        assert!(discover(&config, true, &nothing).unwrap_err().to_string().starts_with("RTC_ANNOUNCED_IPS"));
    }

    #[test]
    fn listed_addresses_find_their_local_ones() {
        let list = |items: &[(&str, Option<&str>)]| {
            let mut config = Config::default();
            let announces = items.iter().map(|(public, local)| Announce { public: ip(public), local: local.map(ip) });
            config.rtc.announced = Announced::List(announces.collect());
            config
        };
        let config = list(&[("203.0.113.9", Some("10.0.0.5")), ("127.0.0.1", None), ("203.0.113.10", None)]);
        assert_eq!(found(&config, false, &LAN), ["203.0.113.9/10.0.0.5", "127.0.0.1", "203.0.113.10/10.0.0.5"]);
        for items in [("203.0.113.9", Some("10.9.9.9")), ("2001:db8::99", None)] {
            let error = discover(&list(&[items]), true, &LAN).unwrap_err().to_string();
            assert!(error.starts_with("RTC_ANNOUNCED_IPS"), "{error}");
        }
    }

    #[test]
    fn auto_adds_what_stun_servers_see_once() {
        let mut config = Config::default();
        config.rtc.announced = Announced::Auto;
        config.rtc.ice_servers = vec!["stun:first".to_owned(), "stun:second".to_owned()];
        assert_eq!(found(&config, false, &LAN), ["10.0.0.5", "2001:db8::5", "203.0.113.9/10.0.0.5"]);
        let deaf = Fake { mapped: &[], ..LAN };
        assert_eq!(found(&config, false, &deaf), ["10.0.0.5", "2001:db8::5"]);
    }

    /// A server on loopback that first sends rubbish and an answer to somebody else.
    #[test]
    fn binding_over_loopback() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 100];
            let (size, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(size, 20);
            let mut answer = vec![1, 1, 0, 20, 0x21, 0x12, 0xa4, 0x42];
            answer.extend_from_slice(&buffer[8..20]);
            // SOFTWARE of three bytes and padding, then XOR-MAPPED-ADDRESS 203.0.113.9:4660.
            answer.extend_from_slice(&[0x80, 0x22, 0, 3, b'a', b'b', b'c', 0]);
            answer.extend_from_slice(&[0, 0x20, 0, 8, 0, 1, 0x12 ^ 0x21, 0x34 ^ 0x12]);
            answer.extend_from_slice(&[203 ^ 0x21, 0x12, 113 ^ 0xa4, 9 ^ 0x42]);
            let mut other = answer.clone();
            other[8] ^= 1;
            for message in [b"rubbish".as_slice(), &other, &answer] {
                server.send_to(message, from).unwrap();
            }
            answer
        });
        let mapped = binding(ip("127.0.0.1"), address, Duration::from_secs(10)).unwrap();
        assert_eq!(mapped, "203.0.113.9:4660".parse().unwrap());

        let answer = thread.join().unwrap();
        let transaction: [u8; 12] = answer[8..20].try_into().unwrap();
        assert!(mapped_address(&answer, &transaction).is_some());
        for end in 0..answer.len() {
            assert_eq!(mapped_address(&answer[..end], &transaction), None);
        }
    }

    /// The vector of RFC 5769 §2.3.
    #[test]
    fn mapped_address_of_ipv6() {
        let transaction = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let mut answer = vec![1, 1, 0, 24, 0x21, 0x12, 0xa4, 0x42];
        answer.extend_from_slice(&transaction);
        answer.extend_from_slice(&[0, 0x20, 0, 0x14, 0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79]);
        answer.extend_from_slice(&[0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9]);
        let expected: SocketAddr = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(mapped_address(&answer, &transaction), Some(expected));
    }
}
