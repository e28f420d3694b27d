//! What a worker does for those who ask about recordings and download them: questions go to those who keep recordings and come
//! back as mail, and so do pieces of files, one at a time for each connection. No disk is touched here.
//!
//! A download holds at most one piece that waits for the socket and one that is on its way, however large the file is. It ends
//! the connection when a piece does not come after the head was sent, since there is no other way to say it.

use std::time::{Duration, Instant};

use super::tcp::{Download, Protocol, Waiting};
use super::{ANSWER_WITHIN, Mailbox, Worker, WorkerMail};
use crate::base::ConnKey;
use crate::http::Response;
use crate::http::recordings::{self, Asked, Outcome, Terms};
use crate::recording::library::{Answer, Inquiry, Piece, Read, ReadFrom, Request, Unavailable, Unreadable};

impl Worker {
    /// Asks those who keep recordings on behalf of a connection, which waits for the answer.
    pub(super) fn ask_library(
        &mut self,
        now: Instant,
        key: ConnKey,
        asked: Asked,
        headers: Vec<(&'static str, String)>,
        head_only: bool,
    ) {
        let number = self.question_number();
        let mailbox = self.own_mailbox();
        let Some(conn) = self.conn_mut(key) else { return };
        let Asked { inquiry, terms } = asked;
        let within = if matches!(inquiry, Inquiry::Delete { .. }) { DELETED_WITHIN } else { ANSWER_WITHIN };
        let waiting = Waiting { number, until: now + within, head_only, headers, terms: Some(terms) };
        conn.waiting = Some(waiting);
        let reply = Box::new(move |answer| {
            // Full: the request waits in vain, and is told so.
            let _ = mailbox.send(WorkerMail::Library { conn: key, number, answer: Box::new(answer) });
        });
        let sent = self.library.as_ref().map(|library| library.try_send(Request::Ask { inquiry, reply }));
        if !matches!(sent, Some(Ok(()))) {
            self.deliver_library(now, key, number, Err(Unavailable::Database));
        }
    }

    /// A room had nothing to say to a question, and those who keep recordings may.
    pub(super) fn ask_library_instead(&mut self, now: Instant, key: ConnKey, number: u32, inquiry: Inquiry) {
        let waiting = self.conn_mut(key).and_then(|conn| conn.waiting.take_if(|waiting| waiting.number == number));
        if let Some(Waiting { headers, head_only, .. }) = waiting {
            self.ask_library(now, key, Asked { inquiry, terms: Terms::Plain }, headers, head_only);
        }
    }

    /// The client may have gone, or may have been told that it took too long.
    pub(super) fn deliver_library(
        &mut self,
        now: Instant,
        key: ConnKey,
        number: u32,
        answer: Result<Answer, Unavailable>,
    ) {
        let waiting = self.conn_mut(key).and_then(|conn| conn.waiting.take_if(|waiting| waiting.number == number));
        let Some(waiting) = waiting else { return };
        let Some(terms) = &waiting.terms else { return };
        match recordings::outcome(terms, answer) {
            Outcome::Response(response) => self.respond_waiting(now, key, waiting, response),
            Outcome::File { head, from, range } => {
                if self.downloads >= DOWNLOADS_MAX {
                    return self.respond_waiting(now, key, waiting, recordings::too_many_downloads());
                }
                let head = waiting.headers.into_iter().fold(head, |head, (name, value)| head.header(name, value));
                let Some(conn) = self.conn_mut(key) else { return };
                let Protocol::Http(http) = &conn.protocol else { return };
                let keep_alive = http.keep_alive();
                conn.download = Some(Box::new(Download {
                    from,
                    rest: range,
                    head: Some(head),
                    keep_alive,
                    asked: None,
                    again: None,
                }));
                self.downloads += 1;
                // Its turn begins with the first piece.
                self.enqueue(key);
            }
        }
    }

    /// Asks for the next piece of a download, when what was there is nearly written.
    pub(super) fn read_on(&mut self, now: Instant, key: ConnKey) {
        let Some(conn) = self.conn_mut(key) else { return };
        let pending = conn.pending();
        let Some(download) = &mut conn.download else { return };
        if download.asked.is_some() || download.again.is_some_and(|again| now < again) {
            return;
        }
        download.again = None;
        if pending >= PIECE as usize {
            return;
        }
        let (from, offset) = (download.from.clone(), download.rest.start);
        let length = (download.rest.end - offset).min(PIECE) as usize;
        let within = match from {
            ReadFrom::Path(_) | ReadFrom::Open(_) => PIECE_WITHIN,
            ReadFrom::Remote { .. } | ReadFrom::Stream(_) => REMOTE_PIECE_WITHIN,
        };
        let number = self.question_number();
        let mailbox = self.own_mailbox();
        let reply = Box::new(move |piece| {
            // Full: the download waits in vain.
            let _ = mailbox.send(WorkerMail::Piece { conn: key, number, piece });
        });
        let sent = self.files.as_ref().map(|files| files.try_send(Read { from, offset, length, reply }));
        let Some(download) = self.conn_mut(key).and_then(|conn| conn.download.as_mut()) else { return };
        match sent {
            Some(Ok(())) => download.asked = Some((number, now + within)),
            Some(Err(_)) => download.again = Some(now + READ_AGAIN),
            None => self.give_up_download(now, key, Unreadable::Failed),
        }
    }

    pub(super) fn deliver_piece(&mut self, now: Instant, key: ConnKey, number: u32, piece: Result<Piece, Unreadable>) {
        let download = self.conn_mut(key).and_then(|conn| conn.download.as_mut());
        let is_awaited = |download: &&mut Box<Download>| download.asked.is_some_and(|(asked, _)| asked == number);
        let Some(download) = download.filter(is_awaited) else { return };
        download.asked = None;
        let Piece { octets, from } = match piece {
            Ok(piece) => piece,
            Err(why) => return self.give_up_download(now, key, why),
        };
        download.from = from;
        download.rest.start += octets.len() as u64;
        let keep_alive = download.keep_alive;
        let is_whole = download.rest.is_empty();
        let head = download.head.take().map(|head| self.encode_head(&head, keep_alive));
        let Some(conn) = self.conn_mut(key) else { return };
        let queued = head.map_or(Ok(()), |head| conn.queue(&head)).and_then(|()| conn.queue_piece(octets));
        if queued.is_err() {
            conn.abandon();
        } else if is_whole {
            self.end_download(now, key);
        }
        self.enqueue(key);
    }

    /// The file cannot be read, or not to its end.
    pub(super) fn give_up_download(&mut self, now: Instant, key: ConnKey, why: Unreadable) {
        let Some(conn) = self.conn_mut(key) else { return };
        let Some(download) = conn.download.take() else { return };
        match download.head {
            Some(head) => {
                let response = match why {
                    Unreadable::Missing => recordings::file_not_found(),
                    Unreadable::Failed => recordings::file_failed(),
                    Unreadable::Elsewhere(url) => recordings::file_elsewhere(url),
                };
                let response = with_cors_of(&head, response);
                self.respond(now, key, &response, false, true);
            }
            None => conn.abandon(),
        }
        self.downloads -= 1;
        self.enqueue(key);
    }

    /// Everything is queued; the next request has its turn.
    fn end_download(&mut self, now: Instant, key: ConnKey) {
        let Some(conn) = self.conn_mut(key) else { return };
        let Some(download) = conn.download.take() else { return };
        if let Protocol::Http(http) = &mut conn.protocol {
            http.response_sent(now, download.keep_alive);
        }
        if !download.keep_alive {
            conn.finish();
        }
        self.downloads -= 1;
    }

    fn encode_head(&mut self, head: &Response, keep_alive: bool) -> Vec<u8> {
        let request_id = self.request_id();
        let mut bytes = Vec::new();
        head.encode(false, &request_id, keep_alive, &mut bytes);
        bytes
    }

    fn question_number(&mut self) -> u32 {
        self.question_serial = self.question_serial.wrapping_add(1);
        self.question_serial
    }

    fn own_mailbox(&self) -> Mailbox {
        self.mailboxes[usize::from(self.id.0)].clone()
    }
}

/// What a page has to be told with whatever answer.
fn with_cors_of(head: &Response, response: Response) -> Response {
    let is_cors = |name: &str| name == "Vary" || name.starts_with("Access-Control-");
    let headers = head.headers.iter().filter(|(name, _)| is_cors(name));
    headers.fold(response, |response, (name, value)| response.header(name.clone(), value.as_str()))
}

/// Octets that are read at once. A connection holds twice as many at most; less means more trips between threads.
const PIECE: u64 = 128 * 1024;
/// For all that they hold: 64 MiB. The next is told to come back.
const DOWNLOADS_MAX: usize = 256;
/// A disk that needs longer for a piece is not going to bring it.
const PIECE_WITHIN: Duration = Duration::from_secs(10);
/// The same of a store, which may have to be reached first.
const REMOTE_PIECE_WITHIN: Duration = Duration::from_secs(30);
/// A store may be asked to delete each file of a recording.
const DELETED_WITHIN: Duration = Duration::from_secs(60);
const READ_AGAIN: Duration = Duration::from_millis(20);
