//! Which web pages may call this server (WHATWG Fetch, CORS protocol). Tokens travel in headers that pages set
//! themselves, so there is no credentials mode, and an origin that is not listed is never echoed.

use super::Request;

/// The origins that may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<Origin>);

/// Scheme, host and port of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

/// A configured origin is not of the form `scheme://host` or `scheme://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginError(pub String);

impl std::fmt::Display for OriginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is not an origin such as https://example.org or http://localhost:8080", self.0)
    }
}

impl std::error::Error for OriginError {}

impl Origins {
    /// None listed means: the server's own pages only.
    pub fn new<S: AsRef<str>>(listed: impl IntoIterator<Item = S>) -> Result<Self, OriginError> {
        let parse = |text: S| Origin::parse(text.as_ref()).ok_or_else(|| OriginError(text.as_ref().to_owned()));
        Ok(Origins(listed.into_iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// Whether a page of `origin` may call this server, which it addressed as `host` (the `Host` header).
    ///
    /// Listed origins match in scheme, host and port. The server's own are always allowed; there the scheme is not
    /// compared, because behind a proxy that ends TLS the page is `https` and this server sees `http`.
    pub fn allows(&self, origin: &str, host: Option<&str>) -> bool {
        let Some(origin) = Origin::parse(origin) else { return false };
        let is_own = host.and_then(|host| Origin::with_scheme(&origin.scheme, host)).is_some_and(|own| own == origin);
        is_own || self.0.contains(&origin)
    }

    /// Whether the request comes from a page that may not ask. Requests without an `Origin` come from no page.
    pub fn forbids(&self, request: &Request) -> bool {
        let mut origins = request.headers.get_all("origin");
        let first = origins.next();
        origins.next().is_some() || first.is_some_and(|origin| !self.allows(origin, request.host()))
    }

    /// Headers for any answer to this request; none when no page asks.
    pub fn headers(&self, request: &Request) -> Vec<(&'static str, String)> {
        let Some(origin) = request.headers.get("origin") else { return Vec::new() };
        let mut headers = vec![("Vary", "Origin".to_owned())];
        if !self.forbids(request) {
            headers.push(("Access-Control-Allow-Origin", origin.to_owned()));
            headers.push(("Access-Control-Expose-Headers", EXPOSED.to_owned()));
        }
        headers
    }

    /// Headers for the answer (204) to a preflight request: `OPTIONS` with `Access-Control-Request-Method`. `None`
    /// when the request is none. `methods` is what the resource has, as in `Allow`.
    pub fn preflight(&self, request: &Request, methods: &str) -> Option<Vec<(&'static str, String)>> {
        request.headers.get("access-control-request-method")?;
        let mut headers = self.headers(request);
        if !headers.is_empty() && !self.forbids(request) {
            headers.push(("Access-Control-Allow-Methods", methods.to_owned()));
            headers.push(("Access-Control-Allow-Headers", ACCEPTED.to_owned()));
            headers.push(("Access-Control-Max-Age", MAX_AGE_SECONDS.to_owned()));
        }
        Some(headers)
    }
}

impl Origin {
    /// The serialisation of RFC 6454 §6.2; `null` is nobody.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        Origin::with_scheme(scheme, authority)
    }

    fn with_scheme(scheme: &str, authority: &str) -> Option<Self> {
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        if !super::parse::is_authority(authority) {
            return None;
        }
        let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match authority[host_end..].rfind(':') {
            Some(colon) => (&authority[..host_end + colon], authority[host_end + colon + 1..].parse().ok()?),
            None => (authority, default_port),
        };
        Some(Origin { scheme, host: host.to_ascii_lowercase(), port })
    }
}

const EXPOSED: &str = "Accept-Patch, Accept-Post, Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, \
                       Link, Location, Retry-After, WWW-Authenticate, X-Request-Id";
const ACCEPTED: &str = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, If-Range, Range";
/// Longer saves requests, shorter makes a changed configuration known sooner.
const MAX_AGE_SECONDS: &str = "600";

#[cfg(test)]
mod tests {
    use super::super::{Headers, Method};
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.push(name, value.as_bytes());
        }
        Request {
            method: Method::Options,
            target: "/".into(),
            path: "/".into(),
            query: None,
            headers,
            body: Vec::new(),
            version_minor: 1,
        }
    }

    #[test]
    fn exact_origins() {
        let own: &[&str] = &[];
        let listed: &[&str] = &["https://app.example", "http://localhost:8080", "https://[2001:db8::1]"];
        let rows: &[(&[&str], &str, &str, bool)] = &[
            (own, "http://a.example:3000", "a.example:3000", true),
            (own, "https://a.example", "a.example", true),
            (own, "https://a.example", "a.example:443", true),
            (own, "HTTPS://A.example", "a.EXAMPLE", true),
            (own, "https://a.example", "a.example:80", false),
            (own, "http://a.example", "a.example:3000", false),
            (own, "http://[::1]:3000", "[::1]:3000", true),
            (own, "http://[::1]", "[::1]", true),
            (own, "http://evil.example", "a.example", false),
            (own, "null", "a.example", false),
            (own, "", "a.example", false),
            (own, "http://", "", false),
            (own, "file://", "", false),
            (listed, "https://app.example", "api.example", true),
            (listed, "https://app.example:443", "api.example", true),
            (listed, "http://app.example", "api.example", false),
            (listed, "https://app.example:8443", "api.example", false),
            (listed, "https://app.example.evil.example", "api.example", false),
            (listed, "https://sub.app.example", "api.example", false),
            (listed, "https://app.example/", "api.example", false),
            (listed, "https://user@app.example", "api.example", false),
            (listed, "http://localhost:8080", "api.example", true),
            (listed, "http://localhost", "api.example", false),
            (listed, "https://[2001:db8::1]", "api.example", true),
            (listed, "https://api.example", "api.example", true),
        ];
        for (configured, origin, host, expected) in rows {
            let origins = Origins::new(*configured).expect("valid");
            assert_eq!(origins.allows(origin, Some(host)), *expected, "{origin} to {host}");
        }
    }

    #[test]
    fn a_bad_configuration_is_refused() {
        for text in ["*", "app.example", "https://", "https://a/b", "https://a:99999", "ws://a", "https://a b"] {
            assert_eq!(Origins::new([text]), Err(OriginError(text.to_owned())));
        }
    }

    #[test]
    fn headers_only_for_those_allowed() {
        let origins = Origins::new(["https://app.example"]).expect("valid");
        let good = request(&[
            ("Origin", "https://app.example"),
            ("Host", "api.example"),
            ("Access-Control-Request-Method", "PUT"),
        ]);
        let headers = origins.preflight(&good, "GET, PUT").expect("a preflight");
        assert!(headers.contains(&("Access-Control-Allow-Origin", "https://app.example".to_owned())));
        assert!(headers.contains(&("Access-Control-Allow-Methods", "GET, PUT".to_owned())));
        assert!(!origins.forbids(&good));

        let evil = request(&[("Origin", "https://evil.example"), ("Access-Control-Request-Method", "PUT")]);
        assert_eq!(origins.preflight(&evil, "GET"), Some(vec![("Vary", "Origin".to_owned())]));
        assert!(origins.forbids(&evil));

        let twice = request(&[("Origin", "https://app.example"), ("Origin", "https://app.example")]);
        assert!(origins.forbids(&twice));

        let no_page = request(&[("Host", "api.example")]);
        assert!(origins.headers(&no_page).is_empty() && origins.preflight(&no_page, "GET").is_none());
        assert!(!origins.forbids(&no_page));
    }
}
