//! A store like Vercel Blob, by what its public client (@vercel/blob 2.8.0) sends and expects: `PUT /?pathname=`, `POST /mpu`,
//! `GET ?url=`, `POST /delete`, and the objects themselves below `/objects/`. Private: nothing without the token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use openssl::hash::{MessageDigest, hash};
use serde_json::{Value, json};

use crate::server::{Request, Response, Server, decoded};

pub const TOKEN: &str = "vercel_blob_rw_AbCdEf123_VerySecretVerySecretVerySecret";
pub const STORE_ID: &str = "AbCdEf123";

/// All parts but the last have at least so many octets.
const PART_MIN: usize = 5 << 20;

#[derive(Default)]
struct State {
    objects: HashMap<String, (String, Vec<u8>)>,
    uploads: HashMap<String, Upload>,
    count: usize,
}

struct Upload {
    pathname: String,
    content_type: String,
    parts: HashMap<u32, Vec<u8>>,
}

pub struct BlobStandin {
    pub server: Server,
    state: Arc<Mutex<State>>,
}

impl BlobStandin {
    pub fn start() -> BlobStandin {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let server = Server::start(move |request| {
            answer(&mut shared.lock().expect("no panic"), request).unwrap_or_else(|refusal| refusal)
        });
        BlobStandin { server, state }
    }

    /// Type and octets.
    pub fn object(&self, pathname: &str) -> Option<(String, Vec<u8>)> {
        self.state.lock().expect("no panic").objects.get(pathname).cloned()
    }
}

fn answer(state: &mut State, request: &Request) -> Result<Response, Response> {
    let head = &request.head;
    if head.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return Err(refusal(403, "forbidden"));
    }
    if let Some(path) = head.path().strip_prefix("/objects/") {
        return content(state, request, &decoded(path));
    }
    if head.header("x-api-version") != Some("12") || head.header("x-vercel-blob-store-id") != Some(STORE_ID) {
        return Err(refusal(400, "bad_request"));
    }
    let host = head.header("host").unwrap_or_default();
    match (head.method.as_str(), head.path()) {
        ("PUT", "/") => {
            let (pathname, content_type) = wanted(state, request, true)?;
            state.objects.insert(pathname.clone(), (content_type, request.body.clone()));
            Ok(json_response(described(state, &pathname, host)?))
        }
        ("POST", "/mpu") => upload(state, request, host),
        ("GET", "/") => {
            let wanted = head.query("url").ok_or_else(|| refusal(400, "bad_request"))?;
            let pathname = pathname_of(&wanted, host);
            Ok(json_response(described(state, &pathname, host)?))
        }
        ("POST", "/delete") => {
            let body: Value = serde_json::from_slice(&request.body).map_err(|_| refusal(400, "bad_request"))?;
            for url in body["urls"].as_array().ok_or_else(|| refusal(400, "bad_request"))? {
                state.objects.remove(&pathname_of(url.as_str().unwrap_or_default(), host));
            }
            Ok(json_response(Value::Null))
        }
        _ => Err(refusal(404, "not_found")),
    }
}

/// Name and type of what is to become an object.
fn wanted(state: &State, request: &Request, is_last: bool) -> Result<(String, String), Response> {
    let head = &request.head;
    let bad = || refusal(400, "bad_request");
    let pathname = head.query("pathname").filter(|name| !name.is_empty()).ok_or_else(bad)?;
    // A private store takes nothing public.
    if head.header("x-vercel-blob-access") != Some("private") || head.header("x-add-random-suffix") == Some("1") {
        return Err(bad());
    }
    if is_last && head.header("x-allow-overwrite") != Some("1") && state.objects.contains_key(&pathname) {
        return Err(bad());
    }
    Ok((pathname, head.header("x-content-type").unwrap_or("application/octet-stream").to_owned()))
}

fn upload(state: &mut State, request: &Request, host: &str) -> Result<Response, Response> {
    let head = &request.head;
    let bad = || refusal(400, "bad_request");
    let action = head.header("x-mpu-action").ok_or_else(bad)?;
    let (pathname, content_type) = wanted(state, request, action == "complete")?;
    if action == "create" {
        state.count += 1;
        let id = format!("upload-{}", state.count);
        let key = key_of(&pathname);
        state.uploads.insert(id.clone(), Upload { pathname, content_type, parts: HashMap::new() });
        return Ok(json_response(json!({ "uploadId": id, "key": key })));
    }
    let id = head.header("x-mpu-upload-id").unwrap_or_default().to_owned();
    let found = state.uploads.get_mut(&id).ok_or_else(|| refusal(404, "not_found"))?;
    let key = head.header("x-mpu-key").map(decoded);
    if found.pathname != pathname || key != Some(key_of(&pathname)) {
        return Err(bad());
    }
    match action {
        "upload" => {
            let number = head.header("x-mpu-part-number").and_then(|number| number.parse().ok()).ok_or_else(bad)?;
            found.parts.insert(number, request.body.clone());
            Ok(json_response(json!({ "etag": etag(&request.body) })))
        }
        "complete" => {
            let mut list: Vec<Value> = serde_json::from_slice(&request.body).map_err(|_| bad())?;
            // The client lists them as they were done.
            list.sort_by_key(|part| part["partNumber"].as_u64());
            let mut whole = Vec::new();
            for (n, part) in list.iter().enumerate() {
                let number = part["partNumber"].as_u64().and_then(|number| u32::try_from(number).ok());
                let octets = number.and_then(|number| found.parts.get(&number)).ok_or_else(bad)?;
                let is_small = n + 1 < list.len() && octets.len() < PART_MIN;
                if number != Some(n as u32 + 1) || part["etag"].as_str() != Some(&etag(octets)) || is_small {
                    return Err(bad());
                }
                whole.extend_from_slice(octets);
            }
            let upload = state.uploads.remove(&id).ok_or_else(bad)?;
            state.objects.insert(pathname.clone(), (upload.content_type, whole));
            Ok(json_response(described(state, &pathname, host)?))
        }
        _ => Err(bad()),
    }
}

fn content(state: &State, request: &Request, pathname: &str) -> Result<Response, Response> {
    let (content_type, octets) = state.objects.get(pathname).ok_or_else(|| refusal(404, "not_found"))?;
    let range = request.head.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let range = range.and_then(|(first, last)| Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?)));
    let response = match range {
        Some((first, last)) if first < octets.len() => {
            let end = octets.len().min(last + 1);
            Response::new(206, &octets[first..end])
                .with("content-range", format!("bytes {first}-{}/{}", end - 1, octets.len()))
        }
        Some(_) => Response::new(416, ""),
        None => Response::new(200, &octets[..]),
    };
    Ok(response.with("content-type", content_type).with("etag", etag(octets)))
}

fn described(state: &State, pathname: &str, host: &str) -> Result<Value, Response> {
    let (content_type, octets) = state.objects.get(pathname).ok_or_else(|| refusal(404, "not_found"))?;
    let encoded: String =
        pathname
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b"-._/".contains(&b) {
                    char::from(b).into()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
    let url = format!("http://{host}/objects/{encoded}");
    Ok(json!({
        "url": url,
        "downloadUrl": format!("{url}?download=1"),
        "pathname": pathname,
        "size": octets.len(),
        "contentType": content_type,
        "contentDisposition": "inline",
        "cacheControl": "private",
        "uploadedAt": "2026-01-01T00:00:00.000Z",
        "etag": etag(octets),
    }))
}

/// Of a name, or of the URL that was told.
fn pathname_of(text: &str, host: &str) -> String {
    text.strip_prefix(&format!("http://{host}/objects/")).map_or(text.to_owned(), decoded)
}

/// Not the name, so that clients have to send what they were told.
fn key_of(pathname: &str) -> String {
    format!("{STORE_ID}/ü {pathname}")
}

fn etag(octets: &[u8]) -> String {
    let sum = hash(MessageDigest::md5(), octets).expect("MD5");
    format!("\"{}\"", sum.iter().map(|octet| format!("{octet:02x}")).collect::<String>())
}

fn json_response(value: Value) -> Response {
    Response::new(200, value.to_string()).with("content-type", "application/json")
}

fn refusal(status: u16, code: &str) -> Response {
    let body = json!({ "error": { "code": code, "message": format!("refused: {code}") } });
    Response::new(status, body.to_string()).with("content-type", "application/json")
}
