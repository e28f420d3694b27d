//! Objects in a bucket over the XML API that S3 has and that GCS shares: one put, uploads in parts, reading.
//!
//! How a request is authorised is told by whoever implements [`Api`]. Every part and every put goes with its MD5, which all
//! stores of this kind compare before they keep anything.

use std::io::{self, Read};

use super::super::store::{Fault, FaultKind, Object, PartTag, Range, UploadId};
use super::checksum::Checksums;
use super::http::{Body, Http, Pace, Reply, kind_of_status};
use super::xml;

/// A request about an object.
pub struct Ask<'a> {
    pub method: &'static str,
    /// With the prefix.
    pub key: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    /// Names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Body<'a>,
    pub pace: Pace,
}

/// The opened body of a success.
pub type Opened = (Reply, Option<Box<dyn Read + Send>>);

pub trait Api {
    /// Sends it authorised. Any status is an answer.
    fn send(&self, ask: &Ask<'_>) -> Result<Reply, Fault>;
    fn open(&self, ask: &Ask<'_>) -> Result<Opened, Fault>;
    fn http(&self) -> &Http;
    /// For what becomes an object: encryption, storage class.
    fn object_headers(&self) -> Vec<(&'static str, &str)>;
    /// Whether an answer contradicts what was sent.
    fn is_other(&self, reply: &Reply, sent: &Checksums) -> bool;
    /// Where the bucket is, if that is not where it is looked for.
    fn is_elsewhere(&self, _reply: &Reply) -> bool {
        false
    }
}

/// A request that has to succeed.
pub fn succeed(api: &impl Api, ask: &Ask<'_>) -> Result<Reply, Fault> {
    let reply = api.send(ask)?;
    if reply.is_success() { Ok(reply) } else { Err(refusal(api, &reply)) }
}

/// The answer, which says the tag.
pub fn put(api: &impl Api, key: &str, object: Object<'_>, from: Range<'_>) -> Result<(Reply, Checksums), Fault> {
    let sums = Checksums::of(from)?;
    let md5 = sums.md5_base64();
    let mut headers = vec![("content-md5", md5.as_str()), ("content-type", object.content_type)];
    headers.extend(api.object_headers());
    let ask = Ask { method: "PUT", key, query: &[], headers: &headers, body: Body::File(from), pace: Pace::Soon };
    let reply = succeed(api, &ask).map_err(of_the_bucket)?;
    check(api, &reply, &sums)?;
    Ok((reply, sums))
}

pub fn create(api: &impl Api, key: &str, object: Object<'_>) -> Result<UploadId, Fault> {
    let mut headers = vec![("content-type", object.content_type)];
    headers.extend(api.object_headers());
    let body = Body::Octets(&[]);
    let ask = Ask { method: "POST", key, query: &[("uploads", "")], headers: &headers, body, pace: Pace::Soon };
    let reply = succeed(api, &ask).map_err(of_the_bucket)?;
    match xml::text(&reply.text(), "UploadId").filter(|id| !id.is_empty()) {
        Some(id) => Ok(UploadId { id, object: None }),
        None => Err(refusal(api, &reply)),
    }
}

/// The tag and the sums of what was sent.
pub fn part(
    api: &impl Api,
    key: &str,
    upload: &UploadId,
    number: u32,
    from: Range<'_>,
) -> Result<(String, Checksums), Fault> {
    let sums = Checksums::of(from)?;
    let (md5, number) = (sums.md5_base64(), number.to_string());
    let query = [("partNumber", number.as_str()), ("uploadId", upload.id.as_str())];
    let headers = [("content-md5", md5.as_str())];
    let reply = succeed(
        api,
        &Ask { method: "PUT", key, query: &query, headers: &headers, body: Body::File(from), pace: Pace::Soon },
    )?;
    check(api, &reply, &sums)?;
    let etag = reply.header("etag").unwrap_or_default().to_owned();
    if etag.is_empty() {
        return Err(Fault::new(FaultKind::Server, "the store has no tag for a part"));
    }
    Ok((etag, sums))
}

/// The tag of the whole. A success is one only by its body: it begins before the store knows.
pub fn complete(api: &impl Api, key: &str, upload: &UploadId, parts: &[PartTag]) -> Result<String, Fault> {
    let body = xml::completion(parts.iter().map(|part| (part.number, part.etag.as_str())));
    let query = [("uploadId", upload.id.as_str())];
    let headers = [("content-type", "application/xml")];
    let body = Body::Octets(body.as_bytes());
    let reply =
        succeed(api, &Ask { method: "POST", key, query: &query, headers: &headers, body, pace: Pace::Completion })?;
    let text = reply.text();
    match xml::root(&text) {
        Some("CompleteMultipartUploadResult") => Ok(xml::text(&text, "ETag").unwrap_or_default()),
        _ => Err(refusal(api, &reply)),
    }
}

pub fn abort(api: &impl Api, key: &str, upload: &UploadId) -> Result<(), Fault> {
    let query = [("uploadId", upload.id.as_str())];
    missing_is_fine(succeed(
        api,
        &Ask { method: "DELETE", key, query: &query, headers: &[], body: Body::None, pace: Pace::Soon },
    ))
}

/// For what is to be gone.
pub fn missing_is_fine<T>(result: Result<T, Fault>) -> Result<(), Fault> {
    match result {
        Err(fault) if fault.kind != FaultKind::Missing => Err(fault),
        _ => Ok(()),
    }
}

pub fn read(api: &impl Api, key: &str, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, Fault> {
    if length == 0 {
        return Ok(Box::new(io::empty()));
    }
    let range = range_header(offset, length);
    let headers = [("range", range.as_str())];
    let opened =
        api.open(&Ask { method: "GET", key, query: &[], headers: &headers, body: Body::None, pace: Pace::Soon })?;
    match opened {
        (reply, Some(body)) => ranged(reply.status, body, offset, length),
        (reply, None) => Err(refusal(api, &reply)),
    }
}

pub fn range_header(offset: u64, length: u64) -> String {
    format!("bytes={offset}-{}", offset.saturating_add(length).saturating_sub(1))
}

/// Exactly the range, also of a store that sends more than was asked for.
pub fn ranged(
    status: u16,
    mut body: Box<dyn Read + Send>,
    offset: u64,
    length: u64,
) -> Result<Box<dyn Read + Send>, Fault> {
    if status != 206 && offset > 0 {
        let skipped = io::copy(&mut body.by_ref().take(offset), &mut io::sink());
        if skipped.ok() != Some(offset) {
            return Err(Fault::new(FaultKind::Network, "the object broke off while it was read"));
        }
    }
    Ok(Box::new(Exactly { body, left: length }))
}

/// What was refused, by what the store says about it.
pub fn refusal(api: &impl Api, reply: &Reply) -> Fault {
    let text = reply.text();
    let field = |name| xml::text(&text, name).unwrap_or_default();
    let (code, message) = (field("Code"), field("Message"));
    if reply.is_success() && code.is_empty() {
        return api.http().refusal(reply, FaultKind::Server, "", "an answer that says nothing");
    }
    let mut kind = kind_of_code(reply.status, &code, &message);
    if api.is_elsewhere(reply) {
        kind = FaultKind::Region;
    }
    api.http().refusal(reply, kind, &code, &message)
}

fn kind_of_code(status: u16, code: &str, message: &str) -> FaultKind {
    let says = |words: &[&str]| {
        let message = message.to_ascii_lowercase();
        words.iter().any(|word| message.contains(word))
    };
    match code {
        "RequestTimeTooSkewed" | "RequestExpired" => FaultKind::Clock,
        // Of a signature that was made a moment ago.
        "AccessDenied" if says(&["request has expired", "not yet valid", "not valid yet"]) => FaultKind::Clock,
        "AuthorizationQueryParametersError" if says(&["region"]) => FaultKind::Region,
        "SignatureDoesNotMatch"
        | "InvalidAccessKeyId"
        | "AccessDenied"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "InvalidSecurity"
        | "InvalidClientTokenId"
        | "AuthFailure"
        | "Unauthorized"
        | "AuthenticationRequired"
        | "AuthorizationQueryParametersError"
        | "NotSignedUp" => FaultKind::Credentials,
        "NoSuchBucket" | "InvalidBucketName" | "AllAccessDisabled" | "AccountProblem" | "UserProjectAccountProblem" => {
            FaultKind::Bucket
        }
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "Redirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "IncorrectEndpoint" => FaultKind::Region,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "TooManyRequests"
        | "Busy"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "BandwidthLimitExceeded" => FaultKind::Throttled,
        // A part that is not there is sent again with the upload that it belongs to.
        "NoSuchUpload" | "NoSuchKey" | "InvalidPart" => FaultKind::Missing,
        "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch" => {
            FaultKind::Corrupt
        }
        "IncompleteBody" | "RequestTimeout" => FaultKind::Network,
        "InternalError" | "OperationAborted" => FaultKind::Server,
        _ if matches!(status, 301 | 302 | 307 | 308) => FaultKind::Region,
        // Within a success: it says that it failed, and no more.
        _ if status < 300 => FaultKind::Server,
        _ => kind_of_status(status),
    }
}

/// What makes something can miss nothing but where it is to be.
fn of_the_bucket(fault: Fault) -> Fault {
    let kind = if fault.kind == FaultKind::Missing { FaultKind::Bucket } else { fault.kind };
    Fault { kind, ..fault }
}

fn check(api: &impl Api, reply: &Reply, sent: &Checksums) -> Result<(), Fault> {
    if api.is_other(reply, sent) {
        return Err(Fault::new(FaultKind::Corrupt, "what arrived is not what was sent: its checksum differs"));
    }
    Ok(())
}

/// Where a body ends too early, that is an error, so that nobody takes a piece for the whole.
struct Exactly {
    body: Box<dyn Read + Send>,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.body.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the object ended too early"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kinds() {
        for (status, code, message, expected) in [
            (403, "SignatureDoesNotMatch", "", FaultKind::Credentials),
            (403, "InvalidAccessKeyId", "", FaultKind::Credentials),
            (403, "AccessDenied", "Access Denied", FaultKind::Credentials),
            (400, "ExpiredToken", "", FaultKind::Credentials),
            (403, "AccessDenied", "Request has expired", FaultKind::Clock),
            (403, "RequestTimeTooSkewed", "", FaultKind::Clock),
            (404, "NoSuchBucket", "", FaultKind::Bucket),
            (301, "PermanentRedirect", "", FaultKind::Region),
            (301, "", "", FaultKind::Region),
            (400, "AuthorizationHeaderMalformed", "", FaultKind::Region),
            (400, "AuthorizationQueryParametersError", "the region 'a' is wrong", FaultKind::Region),
            (503, "SlowDown", "", FaultKind::Throttled),
            (503, "", "", FaultKind::Throttled),
            (429, "", "", FaultKind::Throttled),
            (404, "NoSuchUpload", "", FaultKind::Missing),
            (404, "NoSuchKey", "", FaultKind::Missing),
            (404, "", "", FaultKind::Missing),
            (400, "BadDigest", "", FaultKind::Corrupt),
            (400, "EntityTooSmall", "", FaultKind::Refused),
            (500, "InternalError", "", FaultKind::Server),
            (200, "InternalError", "", FaultKind::Server),
            (200, "Strange", "", FaultKind::Server),
            (200, "SlowDown", "", FaultKind::Throttled),
            (502, "", "", FaultKind::Server),
            (400, "RequestTimeout", "", FaultKind::Network),
            (403, "", "", FaultKind::Credentials),
            (412, "PreconditionFailed", "", FaultKind::Refused),
        ] {
            assert_eq!(kind_of_code(status, code, message), expected, "{status} {code} {message}");
        }
    }

    #[test]
    fn ranges_of_stores_that_send_all() {
        let body = || Box::new(io::Cursor::new(b"0123456789".to_vec())) as Box<dyn Read + Send>;
        let all = |reader: Result<Box<dyn Read + Send>, Fault>| {
            let mut text = String::new();
            reader.expect("it is opened").read_to_string(&mut text).map(|_| text)
        };
        assert_eq!(all(ranged(200, body(), 2, 3)).expect("it is there"), "234");
        assert_eq!(all(ranged(206, body(), 2, 3)).expect("it is there"), "012");
        assert!(all(ranged(206, body(), 2, 11)).is_err(), "it ends too early");
        assert!(ranged(200, body(), 11, 3).is_err(), "it ends before the range");
        assert_eq!(range_header(5, 10), "bytes=5-14");
    }
}
