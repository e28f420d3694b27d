//! A session of WHIP or WHEP: the offer in a POST, the answer in its response, and a DELETE at the end.

use std::io::{self, Read, Write};

use crate::http::{self, HttpUrl, Response};

/// A session, or the wish for one. `S` is a connection that does not block.
#[derive(Debug)]
pub struct Session<S> {
    endpoint: HttpUrl,
    authorization: String,
    /// Until the response is there: a server ends connections over which nothing goes.
    stream: Option<S>,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Of the session.
    location: Option<HttpUrl>,
}

impl<S: Read + Write> Session<S> {
    pub fn new(endpoint: HttpUrl, token: &str, stream: S) -> Session<S> {
        Session {
            endpoint,
            authorization: format!("Authorization: Bearer {token}"),
            stream: Some(stream),
            outgoing: Vec::new(),
            incoming: Vec::new(),
            location: None,
        }
    }

    /// Until the response has come.
    pub fn stream(&self) -> Option<&S> {
        self.stream.as_ref()
    }

    /// Asks for a session. What the connection does not take at once goes out with [`Session::poll_answer`].
    pub fn offer(&mut self, sdp: &str) {
        let headers = [self.authorization.as_str(), "Content-Type: application/sdp"];
        self.outgoing = http::request("POST", &self.endpoint, &headers, sdp);
    }

    /// The answer, once it is there.
    ///
    /// # Errors
    ///
    /// Why there will be none.
    pub fn poll_answer(&mut self) -> Result<Option<String>, String> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let end = exchange(stream, &mut self.outgoing, &mut self.incoming).map_err(|e| e.to_string())?;
        let Some(response) = Response::parse(&self.incoming, end).map_err(|e| e.to_string())? else { return Ok(None) };
        self.stream = None;
        if response.status != 201 {
            return Err(format!("refused: {} {}", response.status, response.body));
        }
        let location = response.header("location").ok_or("a session without Location")?;
        self.location = Some(self.endpoint.with_path(location));
        Ok(Some(response.body))
    }

    /// Ends the session, if there is one. Blocks for as long as the server takes.
    ///
    /// # Errors
    ///
    /// Those of the connection, and an answer that is not 200.
    pub fn end(&mut self) -> io::Result<()> {
        let Some(location) = self.location.take() else { return Ok(()) };
        let response = http::exchange("DELETE", &location, &[&self.authorization], "")?;
        if response.status == 200 {
            return Ok(());
        }
        Err(io::Error::other(format!("DELETE: {} {}", response.status, response.body)))
    }
}

/// Writes what can be written and reads what there is. True when the other side has ended the connection.
fn exchange(stream: &mut (impl Read + Write), outgoing: &mut Vec<u8>, incoming: &mut Vec<u8>) -> io::Result<bool> {
    while !outgoing.is_empty() {
        match stream.write(outgoing) {
            Ok(len) => drop(outgoing.drain(..len)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    let mut bytes = [0; 16 * 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(true),
            Ok(len) => incoming.extend_from_slice(&bytes[..len]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        }
    }
}

/// The endpoint beside that of signaling, `…/video-calls/ws`. A viewer names whom it wants to see: of many voices the server
/// would forward the loudest alone. `None` when that is no such URL.
pub fn endpoint(signaling: &HttpUrl, room: &str, publishers: Option<&[String]>) -> Option<HttpUrl> {
    let calls = signaling.path.split('?').next()?.strip_suffix("/ws")?;
    let Some(publishers) = publishers else { return Some(signaling.with_path(&format!("{calls}/{room}/whip"))) };
    let query: Vec<String> = publishers.iter().map(|user| format!("publisher={user}")).collect();
    Some(signaling.with_path(&format!("{calls}/{room}/whep?{}", query.join("&"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A connection that takes and gives a few bytes at a time.
    #[derive(Default)]
    struct Slow {
        taken: Vec<u8>,
        gives: VecDeque<Vec<u8>>,
        is_busy: bool,
        is_ended: bool,
    }

    impl Read for Slow {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let Some(part) = self.gives.pop_front() else {
                return if self.is_ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
            };
            bytes[..part.len()].copy_from_slice(&part);
            Ok(part.len())
        }
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.is_busy = !self.is_busy;
            if self.is_busy {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let len = bytes.len().min(7);
            self.taken.extend(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn session() -> Session<Slow> {
        let endpoint = HttpUrl { authority: "h:1".into(), path: "/video-calls/r/whip".into() };
        Session::new(endpoint, "t", Slow::default())
    }

    #[test]
    fn an_offer_goes_out_and_an_answer_comes_in_parts() {
        let mut session = session();
        session.offer("v=0 offer");
        let wanted = "POST /video-calls/r/whip HTTP/1.1\r\nHost: h:1\r\nContent-Length: 9\r\nAuthorization: Bearer t\r\n\
                      Content-Type: application/sdp\r\n\r\nv=0 offer";
        for _ in 0..wanted.len() {
            assert_eq!(session.poll_answer(), Ok(None));
        }
        let stream = session.stream.as_mut().expect("no response yet");
        assert_eq!(String::from_utf8_lossy(&stream.taken), wanted);
        let response = b"HTTP/1.1 201 Created\r\nLocation: /video-calls/r/whip/7\r\nContent-Length: 3\r\n\r\nv=0";
        stream.gives.extend(response[..response.len() - 1].chunks(20).map(<[u8]>::to_vec));
        assert_eq!(session.poll_answer(), Ok(None));
        session.stream.as_mut().expect("still none").gives.push_back(b"0".to_vec());
        assert_eq!(session.poll_answer(), Ok(Some("v=0".into())));
        assert_eq!(session.location.as_ref().map(|url| url.path.as_str()), Some("/video-calls/r/whip/7"));
        assert!(session.stream().is_none() && session.poll_answer() == Ok(None));
    }

    #[test]
    fn a_refusal_is_none_of_the_answers() {
        for (response, part) in [
            ("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nno", "429 no"),
            ("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", "Location"),
            ("HTTP/1.1 201 Crea", "no HTTP response"),
        ] {
            let mut session = session();
            let stream = session.stream.as_mut().expect("new");
            stream.gives.push_back(response.into());
            stream.is_ended = true;
            let error = session.poll_answer().expect_err(response);
            assert!(error.contains(part), "{error}");
            assert!(session.end().is_ok(), "there is nothing to end");
        }
    }

    #[test]
    fn endpoints_stand_beside_signaling() {
        let url = |path: &str| HttpUrl { authority: "h:1".into(), path: path.into() };
        let publishers = ["a".to_owned(), "b".to_owned()];
        for (signaling, publishers, path) in [
            ("/video-calls/ws", None, Some("/video-calls/r/whip")),
            ("/x/video-calls/ws?y", Some(&publishers[..]), Some("/x/video-calls/r/whep?publisher=a&publisher=b")),
            ("/video-calls", None, None),
        ] {
            assert_eq!(endpoint(&url(signaling), "r", publishers), path.map(url), "{signaling}");
        }
    }
}
