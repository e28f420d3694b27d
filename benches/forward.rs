//! What does a whole shard pay per forwarded packet, without sockets?
//!
//! `cargo bench --bench forward`; `-- --quick` for a try, `-- --only audio,50,3,8` for one row (kind, subscribers,
//! carried lines, datagrams per turn; `,feedback` where bandwidth is estimated). `cargo bench --profile dev --bench forward -- --quick --trace --only …` tells where
//! it allocates instead of how long it takes; an optimized build has lost the names.
//!
//! M publishers with one track each and N subscribers with M carried lines; the publishers' packets come in turn.
//! One turn is what a worker does with a batch: `handle_datagram` for each, `handle_timeout`, `flush`, and
//! `poll_transmit` until it is empty, so it decrypts each packet once and encrypts it N times. Making the publishers'
//! datagrams and decrypting the subscribers' is not measured. What is measured is CPU of the thread.
//!
//! Time is virtual, at the rates of [`Kind::interval`]. Deadlines, checks and RTCP of both sides happen when they are
//! due, between the measured turns, and are the column *rest*.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use str0m::media::MediaKind;

use support::allocations::{Counting, Sites};
use support::client::{ClientConfig, is_media};
use support::statistics::{self, mean, quantile};
use support::{Cost, World, crypto, server_address};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Audio,
    Video,
}

impl Kind {
    fn media(self) -> MediaKind {
        match self {
            Kind::Audio => MediaKind::Audio,
            Kind::Video => MediaKind::Video,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Audio => "audio",
            Kind::Video => "video",
        }
    }

    fn payload_len(self) -> usize {
        match self {
            Kind::Audio => 120,
            Kind::Video => 1150,
        }
    }

    /// Between two packets of one publisher: 50 per second, or 1.4 Mbit/s.
    fn interval(self) -> Duration {
        match self {
            Kind::Audio => Duration::from_millis(20),
            Kind::Video => Duration::from_micros(6_667),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    kind: Kind,
    subscribers: usize,
    lines: usize,
    batch: usize,
    /// Subscribers tell what arrives, so that their bandwidth is estimated and packets are paced: some leave between the
    /// measured turns, and *rest* has the other half of what they cost.
    feedback: bool,
}

fn main() {
    let quick = statistics::has_option("--quick");
    let trace = statistics::has_option("--trace");
    statistics::print_conditions();
    if !trace {
        println!(
            "\n| payload | N | M | batch | feedback | turns | ns/forward p50 | p95 | mean | rest ns/forward | allocations/forward \
             | bytes/forward |"
        );
        println!("| --- | --: | --: | --: | --- | --: | --: | --: | --: | --: | --: | --: |");
    }
    for row in rows() {
        // Enough for a 95th percentile, and as many forwards for every N as time allows.
        let turns = match quick {
            true => 20,
            false => (400_000 / (row.subscribers * row.batch)).clamp(1_000, 10_000),
        };
        let mut call = Call::new(row, if quick { 2 } else { WARM_UP });
        if trace { call.trace() } else { call.measure(turns) }
    }
    println!("\nSRTP profiles of the connections: {:?}", crypto::profiles());
}

fn rows() -> Vec<Row> {
    let only = std::env::args().skip_while(|a| a != "--only").nth(1);
    let mut rows = Vec::new();
    // Of more voices three are forwarded.
    for (kind, lines) in [(Kind::Audio, 1), (Kind::Audio, 3), (Kind::Video, 1), (Kind::Video, 10)] {
        for subscribers in [1, 10, 50] {
            for batch in [1, 8] {
                for feedback in [false, true] {
                    let name = format!("{},{subscribers},{lines},{batch}", kind.name());
                    let name = if feedback { name + ",feedback" } else { name };
                    if (!feedback || lines == 1) && only.as_ref().is_none_or(|only| *only == name) {
                        rows.push(Row { kind, subscribers, lines, batch, feedback });
                    }
                }
            }
        }
    }
    rows
}

struct Call {
    row: Row,
    world: World,
    /// Whose packet is next, and the number of all so far.
    next: u32,
}

impl Call {
    /// Everybody is connected, and every line of every subscriber has brought media.
    fn new(row: Row, warm_up: usize) -> Call {
        let mut world = World::new();
        let room = "forward".to_owned();
        for n in 0..row.lines {
            let sends = vec![row.kind.media()];
            world.join(ClientConfig { user: format!("p{n}"), room: room.clone(), sends, ..Default::default() });
        }
        for n in 0..row.subscribers {
            let receives = vec![row.kind.media(); row.lines];
            let config = ClientConfig { user: format!("s{n}"), room: room.clone(), receives, ..Default::default() };
            world.join(ClientConfig { no_feedback: !row.feedback, ..config });
        }
        let mut call = Call { row, world, next: 0 };
        // Past the throttling of key frames, so that nobody waits for one.
        for _ in 0..3 {
            call.world.advance(Duration::from_secs(1));
            for _ in 0..(2 * row.lines).div_ceil(row.batch) {
                call.turn();
            }
        }
        for _ in 0..(warm_up * row.lines).div_ceil(row.batch) {
            call.turn();
        }
        if row.feedback {
            return call;
        }
        let counts: Vec<u64> = call.world.clients[row.lines..].iter().map(|c| c.received).collect();
        let cost = call.turn();
        assert!(cost.datagrams_out >= (row.subscribers * row.batch) as u64, "every packet goes to everybody");
        for (client, before) in call.world.clients[row.lines..].iter().zip(counts) {
            assert_eq!(client.received - before, row.batch as u64, "and can be read there");
            assert_eq!(client.carried, row.lines);
        }
        call
    }

    /// The datagrams of one batch, with their sources.
    fn produce(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let Row { kind, lines, batch, .. } = self.row;
        self.world.advance(kind.interval() * batch as u32 / lines as u32);
        let mut datagrams = Vec::new();
        for _ in 0..batch {
            let publisher = self.next as usize % lines;
            let client = &mut self.world.clients[publisher];
            client.send(self.world.now, 0, kind.payload_len(), self.next);
            self.next += 1;
            // Reports that are due at the same moment stay, for later.
            let at = client.outgoing.iter().position(|(_, data)| is_media(data)).expect("it was sent");
            datagrams.push((client.address, client.outgoing.remove(at).1));
        }
        datagrams
    }

    /// A batch, from its production to its delivery; the cost is that of the shard.
    fn turn(&mut self) -> Cost {
        let batch = self.produce();
        let cost = forward(&mut self.world, &batch);
        self.world.settle();
        cost
    }

    fn measure(&mut self, turns: usize) {
        let Row { kind, subscribers, lines, batch, feedback } = self.row;
        let forwards = (subscribers * batch) as f64;
        self.world.rest = Cost::default();
        let received = |world: &World| world.clients.iter().map(|client| client.received).sum::<u64>();
        let before = received(&self.world);
        let mut total = Cost::default();
        let mut times = Vec::with_capacity(turns);
        for _ in 0..turns {
            let cost = self.turn();
            times.push(cost.time.as_nanos() as f64 / forwards);
            total += cost;
        }
        let all = forwards * turns as f64;
        // A pacer may hold some back at the end.
        let least = if self.row.feedback { all * 0.98 - forwards * 50.0 } else { all };
        assert!((received(&self.world) - before) as f64 >= least, "nothing was lost on the way");
        println!(
            "| {} {} B | {subscribers} | {lines} | {batch} | {} | {turns} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} |",
            kind.name(),
            kind.payload_len(),
            if feedback { "yes" } else { "no" },
            quantile(&mut times, 0.5),
            quantile(&mut times, 0.95),
            mean(&times),
            self.world.rest.time.as_nanos() as f64 / all,
            total.allocations.allocations as f64 / all,
            total.allocations.bytes as f64 / all,
        );
    }

    /// Where turns allocate.
    fn trace(&mut self) {
        let mut sites = Sites::default();
        for _ in 0..TRACED {
            let batch = self.produce();
            sites.trace(|| {
                forward(&mut self.world, &batch);
            });
            self.world.settle();
        }
        let forwards = (self.row.subscribers * self.row.batch * TRACED) as f64;
        println!("\n{:?}, {TRACED} turns: allocations per forward, bytes per forward, where", self.row);
        for (site, count, bytes) in sites.by_count() {
            println!("{:8.4} {:8.1}  {site}", count as f64 / forwards, bytes as f64 / forwards);
        }
    }
}

/// What is measured. A name of its own, so that `valgrind --tool=callgrind --toggle-collect='forward::forward'` counts
/// this and nothing of the clients.
#[inline(never)]
fn forward(world: &mut World, batch: &[(SocketAddr, Vec<u8>)]) -> Cost {
    world.turn(|shard, now| {
        for (source, data) in batch {
            shard.handle_datagram(now, server_address(), *source, data);
        }
    })
}

/// Packets of each publisher before anything is measured: more than a second of video, after which the server's
/// retransmission buffers do not grow any more.
const WARM_UP: usize = 250;
const TRACED: usize = 50;
