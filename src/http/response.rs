//! Answers, as values and as bytes.

use serde::Serialize;
use std::borrow::Cow;
use std::io::Write;

/// The content of an answer.
pub type Body = Cow<'static, [u8]>;

/// An answer. What depends on the connection (length, request id, keep-alive) is added by [`Response::encode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// Without `Content-Length`, `Connection` and `X-Request-Id`. Values with control characters are not sent.
    pub headers: Vec<(Cow<'static, str>, String)>,
    pub body: Body,
    /// Octets of a content that is not here and follows the head by itself. Then `body` is empty.
    pub follows: Option<u64>,
    /// What [`Response::encode`] completes with the request id.
    problem: Option<Box<Problem>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    code: &'static str,
    title: String,
    detail: String,
    members: Vec<(&'static str, String)>,
}

impl Response {
    /// An answer without content.
    pub fn empty(status: u16) -> Self {
        Response { status, headers: Vec::new(), body: Cow::Borrowed(&[]), follows: None, problem: None }
    }

    pub fn new(status: u16, content_type: &str, body: impl Into<Body>) -> Self {
        let mut response = Response::empty(status).header("Content-Type", content_type);
        response.body = body.into();
        response
    }

    /// `value` as JSON. A value that cannot be serialised (a map with keys that are no texts) is a bug of ours and
    /// becomes a 500.
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Response::new(status, "application/json", body),
            Err(_) => Response::problem(500, "internal_error", "Internal error", ""),
        }
    }

    /// An error as `application/problem+json` (RFC 9457) with the members `type`, `title`, `status`, `detail`,
    /// `code` and `requestId`. `code` is a promise to programs; `detail` is for people and may be empty.
    pub fn problem(status: u16, code: &'static str, title: &str, detail: &str) -> Self {
        let mut response = Response::empty(status);
        response.problem =
            Some(Box::new(Problem { code, title: title.to_owned(), detail: detail.to_owned(), members: Vec::new() }));
        response
    }

    /// Adds a member to a [`Response::problem`] (RFC 9457 §3.2). Of anything else nothing changes.
    pub fn member(mut self, name: &'static str, value: &str) -> Self {
        if let Some(problem) = &mut self.problem {
            problem.members.push((name, value.to_owned()));
        }
        self
    }

    /// Adds a header field.
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The stable word of a [`Response::problem`].
    pub fn code(&self) -> Option<&'static str> {
        self.problem.as_ref().map(|problem| problem.code)
    }

    /// Appends the answer to `out`. `head_only`: the request was `HEAD`, so the content is announced but not sent.
    /// `request_id` must be printable ASCII.
    pub fn encode(&self, head_only: bool, request_id: &str, keep_alive: bool, out: &mut Vec<u8>) {
        let problem = self.problem.as_ref().map(|problem| problem.to_json(self.status, request_id));
        let body = problem.as_deref().unwrap_or(&self.body);
        // RFC 9110 §8.6, §15.4.5: these have no content, whatever we were given.
        let has_content = self.status >= 200 && !matches!(self.status, 204 | 304);

        line(out, format_args!("HTTP/1.1 {} {}", self.status, reason(self.status)));
        if problem.is_some() {
            line(out, format_args!("Content-Type: application/problem+json"));
        }
        for (name, value) in &self.headers {
            if is_field_name(name) && is_field_value(value) {
                line(out, format_args!("{name}: {value}"));
            }
        }
        if has_content {
            line(out, format_args!("Content-Length: {}", self.follows.unwrap_or(body.len() as u64)));
        }
        line(out, format_args!("X-Request-Id: {request_id}"));
        line(out, format_args!("Connection: {}", if keep_alive { "keep-alive" } else { "close" }));
        line(out, format_args!(""));
        if has_content && !head_only {
            out.extend_from_slice(body);
        }
    }
}

impl Problem {
    fn to_json(&self, status: u16, request_id: &str) -> Vec<u8> {
        let mut members = serde_json::json!({
            "type": "about:blank",
            "title": self.title,
            "status": status,
            "detail": self.detail,
            "code": self.code,
            "requestId": request_id,
        });
        for (name, value) in &self.members {
            members[*name] = value.as_str().into();
        }
        members.to_string().into_bytes()
    }
}

fn line(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes every byte");
    out.extend_from_slice(b"\r\n");
}

fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A value with CR or LF would let whoever chose it write headers.
fn is_field_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}

/// The reason phrase, which nobody has to read (RFC 9112 §4).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(response: &Response, head_only: bool, keep_alive: bool) -> String {
        let mut out = Vec::new();
        response.encode(head_only, "req-1", keep_alive, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn json_with_length_and_id() {
        let response = Response::json(201, &serde_json::json!({"a": 1})).header("Location", "/video-calls/x");
        assert_eq!(
            encoded(&response, false, true),
            "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nLocation: /video-calls/x\r\n\
             Content-Length: 7\r\nX-Request-Id: req-1\r\nConnection: keep-alive\r\n\r\n{\"a\":1}"
        );
        let head = encoded(&response, true, false);
        assert!(head.ends_with("Content-Length: 7\r\nX-Request-Id: req-1\r\nConnection: close\r\n\r\n"), "{head}");
    }

    #[test]
    fn a_problem_has_all_its_members() {
        let response = Response::problem(404, "call_not_found", "No such call", "There is no call \"x\".");
        let text = encoded(&response, false, true);
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("Content-Type: application/problem+json\r\n"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        let members: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(
            members,
            serde_json::json!({
                "type": "about:blank", "title": "No such call", "status": 404, "code": "call_not_found",
                "detail": "There is no call \"x\".", "requestId": "req-1",
            })
        );
    }

    #[test]
    fn no_content_where_none_may_be() {
        for status in [204, 304] {
            let mut response = Response::empty(status);
            response.body = Cow::Borrowed(b"never");
            let text = encoded(&response, false, true);
            assert!(text.ends_with("\r\n\r\n") && !text.contains("Content-Length"), "{text}");
        }
        assert!(encoded(&Response::empty(200), false, true).contains("Content-Length: 0\r\n"));
    }

    #[test]
    fn nobody_injects_a_header() {
        let response =
            Response::empty(200).header("X-A", "1\r\nX-Evil: 1").header("X-B\r\nX-Evil", "1").header("X-C", "ü");
        let text = encoded(&response, false, true);
        assert!(!text.contains("Evil") && text.contains("X-C: ü\r\n"), "{text}");
    }
}
