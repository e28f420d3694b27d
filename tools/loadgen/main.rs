//! Loads a running server: publishers and subscribers on str0m, called in through its signaling or by WHIP and WHEP.
//!
//! `cargo run --release --example loadgen -- --help` tells the options. What it measures is the server: CPU per
//! forwarded packet, loss per pair of publisher and subscriber, delay, memory. The generator itself should stay far
//! from saturation, and says when it does not.
//!
//! Memory per subscriber is against the server as it was before the run, so it wants a server that was just started;
//! a call of more than 100 wants `LIMIT_PARTICIPANTS` raised.
//!
//! - `media`: what publishers send, paced; `stats`: distributions and delivery. Both sans-IO.
//! - `client`: one participant; `channel`: its way to the server, with `whip` for sessions over `http`; `frames`: when it sees
//!   something; `driver`: the thread around many of them; `udp`: its sockets.
//! - `token`, `crypto`: what it takes to get in. `process`: what `/proc` says. `report`: the result.

mod channel;
mod client;
mod clock;
mod crypto;
mod driver;
mod frames;
mod http;
mod media;
mod options;
mod process;
mod report;
mod stats;
mod token;
mod udp;
mod whip;

use std::io;
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::WebSocket;
use tungstenite::client::ClientRequestBuilder;

use crate::channel::{Channel, Via};
use crate::client::{Opened, Plan, Settings};
use crate::driver::{Driver, Finished, Shared};
use crate::options::{Command, Options};
use crate::process::{MachineSample, ProcessSample};
use crate::report::{Report, Sample};
use crate::stats::{Histogram, Window};

fn main() -> ExitCode {
    let options = match options::parse(lexopt::Parser::from_env()) {
        Ok(Command::Run(options)) => options,
        Ok(Command::Help) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("loadgen: {e} (--help tells the options)");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(report) => {
            if options.json {
                println!("{}", report.json());
            } else {
                print!("{}", report.text());
            }
            if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("loadgen: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<Report> {
    let before = Sample::take(options.server_pid)?;
    let settings = Arc::new(options.settings());
    let shared = Arc::new(Shared::new());
    let mut senders = Vec::new();
    let mut threads = Vec::new();
    for _ in 0..options.threads {
        let (sender, incoming) = mpsc::channel();
        let driver = Driver::new(Arc::clone(&settings), Arc::clone(&shared), incoming)?;
        senders.push(sender);
        threads.push(thread::spawn(move || driver.run()));
    }

    let plans = options.plans();
    let (participants, mut handshakes) = (plans.len(), Histogram::default());
    let joining_since = Instant::now();
    for (index, plan) in plans.into_iter().enumerate() {
        let due = joining_since + Duration::from_secs_f64(index as f64 / options.join_rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        match open(options, plan, &mut handshakes) {
            Ok(opened) => {
                // A thread that ended early tells why when it is joined.
                let _ = senders[index % senders.len()].send(opened);
            }
            Err(e) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                shared.on_error("open", &e.to_string());
            }
        }
    }
    let settled = || shared.ready.load(Ordering::Relaxed) + shared.failed.load(Ordering::Relaxed) >= participants;
    let patience = Instant::now() + options.join_timeout;
    while !settled() && Instant::now() < patience {
        thread::sleep(Duration::from_millis(10));
    }
    let all_ready_after = joining_since.elapsed();
    let ready = shared.ready.load(Ordering::Relaxed);
    eprintln!("{ready} of {participants} participants are ready after {:.1} s", all_ready_after.as_secs_f64());
    thread::sleep(options.warmup);

    let start_ns = clock::monotonic_ns() + START_DELAY.as_nanos() as u64;
    let window = Window { start_ns, end_ns: start_ns + options.seconds.as_nanos() as u64 };
    shared.measure(window);
    sleep_until(window.start_ns);
    // A server that died is part of the result.
    let sample = || {
        Sample::take(options.server_pid).or_else(|e| {
            shared.on_error("server", &e.to_string());
            Sample::take(None)
        })
    };
    let begin = sample()?;
    sleep_until(window.end_ns);
    let end = sample()?;
    thread::sleep(STRAGGLERS);
    shared.stop.store(true, Ordering::Relaxed);

    let mut finished = Vec::new();
    for thread in threads {
        let result: io::Result<Finished> = thread.join().map_err(|_| io::Error::other("a thread panicked"))?;
        finished.push(result?);
    }
    Ok(Report::new(report::Input {
        settings: &settings,
        options,
        participants,
        ready,
        all_ready_after,
        handshakes,
        samples: [before, begin, end],
        finished,
        errors: shared.errors(),
        profiles: crypto::profiles(),
    }))
}

/// Gets a token and opens the connection.
fn open(options: &Options, plan: Plan, handshakes: &mut Histogram) -> io::Result<Opened> {
    let token = options.tokens.token(&plan.user_id, &plan.room_id)?;
    let begun = Instant::now();
    let stream = http::connect(&options.url.authority)?;
    let channel = match options.via {
        Via::Signaling => Channel::Signaling(Box::new(upgrade(options, stream, &token)?)),
        Via::Whip => {
            let publishers: Vec<String> =
                plan.wanted(options.publishers).map(|member| client::user_id(&plan.run, plan.room, member)).collect();
            let wanted = (!plan.publishes).then_some(publishers.as_slice());
            let endpoint = whip::endpoint(&options.url, &plan.room_id, wanted).ok_or(io::ErrorKind::InvalidInput)?;
            stream.set_nonblocking(true)?;
            Channel::Whip(whip::Session::new(endpoint, &token, stream))
        }
    };
    handshakes.record(begun.elapsed());
    Ok(Opened { plan, channel, opened_at: Instant::now() })
}

fn upgrade(options: &Options, stream: TcpStream, token: &str) -> io::Result<WebSocket<TcpStream>> {
    let uri = format!("ws://{}{}", options.url.authority, options.url.path).parse().map_err(io::Error::other)?;
    let request = ClientRequestBuilder::new(uri)
        .with_header("Authorization", format!("Bearer {token}"))
        .with_sub_protocol("webrtc-engine.v1");
    let (socket, _) = tungstenite::client(request, stream).map_err(|e| io::Error::other(e.to_string()))?;
    socket.get_ref().set_nonblocking(true)?;
    Ok(socket)
}

fn sleep_until(monotonic_ns: u64) {
    thread::sleep(Duration::from_nanos(monotonic_ns.saturating_sub(clock::monotonic_ns())));
}

/// Every thread has noticed the window before it begins.
const START_DELAY: Duration = Duration::from_millis(50);
/// Packets of the window that are late, or sent again, still count.
const STRAGGLERS: Duration = Duration::from_secs(1);

impl Sample {
    fn take(server: Option<u32>) -> io::Result<Sample> {
        Ok(Sample {
            server: server
                .map(ProcessSample::of)
                .transpose()
                .map_err(|e| io::Error::new(e.kind(), format!("--server-pid: {e}")))?,
            machine: MachineSample::take(),
            own_cpu_us: process::own_cpu_us(),
            at: Instant::now(),
        })
    }
}

impl Options {
    fn settings(&self) -> Settings {
        Settings {
            publishers: self.publishers,
            video: self.video,
            audio_bytes: self.audio_bytes,
            mode: self.mode,
            slots: self.slots,
            crypto: crypto::provider(self.backend),
            kernel_timestamps: self.kernel_timestamps,
            seed: self.seed,
        }
    }

    /// Publishers of all rooms first, so that subscribers find something.
    fn plans(&self) -> Vec<Plan> {
        let run = format!("{:x}", std::process::id());
        let member_plan = |room: usize, member: usize| Plan {
            run: run.clone(),
            room,
            room_id: self.room.clone().unwrap_or_else(|| format!("load-{run}-{room}")),
            member,
            user_id: client::user_id(&run, room, member),
            publishes: member < self.publishers,
            receives: self.meeting || member >= self.publishers,
        };
        let publishers = (0..self.publishers).flat_map(|member| (0..self.rooms).map(move |room| (room, member)));
        let subscribers = (self.publishers..self.publishers + self.subscribers)
            .flat_map(|member| (0..self.rooms).map(move |room| (room, member)));
        publishers.chain(subscribers).map(|(room, member)| member_plan(room, member)).collect()
    }
}
