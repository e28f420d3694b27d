//! Who asks, when a proxy asks for somebody (`X-Forwarded-For`, and `Forwarded` of RFC 7239).

use std::net::{IpAddr, SocketAddr};

use super::Request;
use crate::config::IpNet;

/// The address of the client: that of the connection, unless it is one of `proxies`. Then it is the last address in the
/// headers that is not one of them, since everything before that is only what the client says.
pub fn client(request: &Request, connection: IpAddr, proxies: &[IpNet]) -> IpAddr {
    let is_proxy = |ip: IpAddr| proxies.iter().any(|net| net.contains(ip));
    if !is_proxy(connection) {
        return connection;
    }
    let headers = &request.headers;
    let mut named: Vec<IpAddr> = headers.list("x-forwarded-for").map_while(address).collect();
    if named.is_empty() {
        named = headers.list("forwarded").map_while(|element| address(forwarded_for(element)?)).collect();
    }
    named.into_iter().rev().find(|ip| !is_proxy(*ip)).unwrap_or(connection)
}

fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| value.trim_matches('"'))
    })
}

/// An address, with or without a port, IPv6 in brackets or not.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let ip = text.parse().or_else(|_| text.parse::<SocketAddr>().map(|a| a.ip()));
    ip.or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse()).ok().map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Connection, Limits, Poll};
    use std::time::Instant;

    fn check(headers: &str, connection: &str) -> String {
        let now = Instant::now();
        let mut machine = Connection::new(now, &Limits::default());
        machine.handle_bytes(now, format!("GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n").as_bytes());
        let Poll::Request(request) = machine.poll(now) else { panic!("a request") };
        let proxies = [IpNet::parse("10.0.0.0/8").unwrap(), IpNet::parse("::1").unwrap()];
        client(&request, connection.parse().unwrap(), &proxies).to_string()
    }

    #[test]
    fn only_proxies_are_believed() {
        for (headers, connection, expected) in [
            ("X-Forwarded-For: 1.2.3.4\r\n", "9.9.9.9", "9.9.9.9"),
            ("", "10.0.0.1", "10.0.0.1"),
            ("X-Forwarded-For: 1.2.3.4\r\n", "10.0.0.1", "1.2.3.4"),
            ("X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.1.1.1\r\n", "10.0.0.1", "1.2.3.4"),
            ("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.2.3.4:555\r\n", "::1", "1.2.3.4"),
            ("X-Forwarded-For: unknown\r\n", "10.0.0.1", "10.0.0.1"),
            ("Forwarded: for=6.6.6.6, for=\"[2001:db8::1]:80\";proto=https\r\n", "10.0.0.1", "2001:db8::1"),
        ] {
            assert_eq!(check(headers, connection), expected, "{headers:?} from {connection}");
        }
    }
}
