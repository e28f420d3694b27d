//! Simulated browsers on real sockets: the client of the simulator, driven by the clock, each behind a [`Relay`] of its own.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use serde_json::json;

use super::relay::{self, Relay};
use super::{Server, Ws};
use crate::client::{Client, Plan};
use crate::weather::Weather;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

/// People who are in one room, driven by one thread.
pub struct Call<'a> {
    server: &'a Server,
    base: Instant,
    pub people: Vec<Browser>,
    judged: Duration,
    checked: Duration,
}

pub struct Browser {
    pub client: Client,
    pub relay: Relay,
    ws: Option<Ws>,
    media: UdpSocket,
    server: SocketAddr,
    /// Signaling waits, as TCP does on a line on which nothing passes.
    pub is_held: bool,
}

impl Browser {
    /// Weather in both directions.
    pub fn set_weather(&mut self, weather: Weather) {
        self.set_up(weather);
        self.set_down(weather);
    }

    /// On the way to the server.
    pub fn set_up(&mut self, weather: Weather) {
        self.relay.set_up(weather);
        self.note_weather(weather);
    }

    /// On the way from the server.
    pub fn set_down(&mut self, weather: Weather) {
        // Threads that are not scheduled add to it.
        self.client.disorder = weather.disorder() + if weather.disorder().is_zero() { Duration::ZERO } else { 20 * MS };
        self.relay.set_down(weather);
        self.note_weather(weather);
    }

    fn note_weather(&mut self, weather: Weather) {
        self.client.lossless &= weather.is_lossless();
        let way = weather.delay + weather.jitter + weather.queue;
        self.client.patience = self.client.patience.max(way * 4 + SECOND);
    }

    pub fn rebind(&mut self) {
        self.client.lossless = false;
        self.relay.rebind();
    }

    /// Goes, and says so.
    pub fn leave(&mut self) {
        if let Some(mut ws) = self.ws.take() {
            ws.queue(json!({"type": "leave"}).to_string());
        }
        self.client.handle_closed(1000);
    }

    /// The socket of signaling is closed; media goes on for as long as the server lets it.
    pub fn go_offline(&mut self) {
        self.ws = None;
        self.client.go_offline();
    }

    fn turn(&mut self, now: impl Fn() -> Duration) {
        if !self.is_held {
            while let Some(text) = self.ws.as_mut().and_then(Ws::poll) {
                self.client.handle_text(now(), &text);
            }
        }
        let mut buffer = [0; 2048];
        while let Ok((length, _)) = self.media.recv_from(&mut buffer) {
            self.client.handle_datagram(now(), self.server, &buffer[..length]);
        }
        let time = now();
        if self.client.deadline() <= time {
            self.client.handle_timeout(time);
        }
        while let Some((_, datagram)) = self.client.transmits.pop_front() {
            let _ = self.media.send_to(&datagram, self.relay.address());
        }
        if !self.is_held
            && let Some(ws) = &mut self.ws
        {
            while let Some(text) = self.client.outbox.pop_front() {
                ws.queue(text);
            }
        }
        // What the simulator's world looks at.
        self.client.arrived.clear();
    }
}

impl<'a> Call<'a> {
    pub fn new(server: &'a Server) -> Call<'a> {
        Call { server, base: Instant::now(), people: Vec::new(), judged: Duration::ZERO, checked: Duration::ZERO }
    }

    pub fn now(&self) -> Duration {
        self.base.elapsed()
    }

    /// Another participant, whose network has this weather.
    pub fn join(&mut self, user: &str, plan: &Plan, weather: Weather) -> usize {
        let index = self.people.len();
        let mut client = Client::new(self.base, index as u32, user, "r", 0, plan.clone());
        // As browsers do on a path that answers.
        client.set_check_interval(SECOND);
        let media = relay::socket();
        client.private = media.local_addr().unwrap();
        client.join();
        let server = self.server.media[0];
        let relay = Relay::start(server, index as u64 + 1, weather);
        let ws = Some(Ws::connect(self.server, user).polled());
        let mut browser = Browser { client, relay, ws, media, server, is_held: false };
        browser.set_weather(weather);
        self.people.push(browser);
        index
    }

    /// Whoever went offline has a socket again, and joins with what it remembers.
    pub fn come_back(&mut self, person: usize) {
        let browser = &mut self.people[person];
        browser.ws = Some(Ws::connect(self.server, &browser.client.user).polled());
        browser.client.come_back();
    }

    pub fn run(&mut self, time: Duration) {
        self.wait(time, |_| false);
    }

    /// Runs until it is so, and says how long that took; `None` when it does not come within this time.
    pub fn wait(&mut self, time: Duration, mut is_so: impl FnMut(&Call) -> bool) -> Option<Duration> {
        let (base, start) = (self.base, self.now());
        loop {
            for browser in &mut self.people {
                browser.turn(|| base.elapsed());
            }
            let now = self.now();
            if now >= self.judged + SECOND {
                self.judged = now;
                self.judge(now);
            }
            // Looking is not free.
            if now >= self.checked + CHECK {
                self.checked = now;
                if is_so(self) {
                    return Some(now - start);
                }
            }
            if now >= start + time {
                return is_so(self).then_some(now - start);
            }
            let next = self.people.iter().map(|b| b.client.deadline()).min().unwrap_or(Duration::MAX);
            let next = next.min(self.checked + CHECK).min(start + time).saturating_sub(self.now());
            let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let media = self.people.iter().map(|b| b.media.as_raw_fd());
            let signaling = self.people.iter().filter(|b| !b.is_held).filter_map(|b| b.ws.as_ref().map(Ws::fd));
            let mut fds: Vec<libc::pollfd> = media.chain(signaling).map(poll).collect();
            relay::wait(&mut fds, Some(next));
        }
    }

    /// Waits, and fails when it does not come.
    pub fn expect(&mut self, what: &str, time: Duration, is_so: impl FnMut(&Call) -> bool) -> Duration {
        match self.wait(time, is_so) {
            Some(after) => after,
            None => panic!("not within {time:?}: {what}\n{}", self.describe()),
        }
    }

    pub fn describe(&self) -> String {
        let one = |b: &Browser| {
            let (up, down) = b.relay.counts();
            let estimate = b.client.estimate;
            format!("{}\n  up {up:?}\n  down {down:?}\n  estimate {estimate:?}", b.client.describe())
        };
        self.people.iter().map(one).collect::<Vec<_>>().join("\n")
    }

    /// What always holds, whatever the weather: numbers and frames that follow each other, media of those who were named.
    fn judge(&mut self, now: Duration) {
        let names: Vec<String> = self.people.iter().map(|b| b.client.user.clone()).collect();
        for browser in &mut self.people {
            browser.client.judge_names(now, false, |index| names[index as usize].clone());
            let violations = &browser.client.violations;
            assert!(violations.is_empty(), "{}: {violations:#?}", browser.client.user);
        }
    }
}

/// How often a condition is looked at.
const CHECK: Duration = Duration::from_millis(5);
