//! What does recording a packet cost, as a share of what forwarding it to one subscriber costs?
//!
//! `cargo bench --bench record`; `-- --quick` for a try. `-- --dir DIR` writes there instead of in the directory for temporary
//! files; what a disk takes is no part of it either way, since nobody waits for one here.
//!
//! One publisher; its packets go into a shard in batches, as in the bench `forward`, three times: to nobody, to one subscriber, to
//! a recording. What the shard spends more than for nobody is *forward*, and *tap*. The recorder thread's part is what it does
//! with the batches: order, frames, clock, interleaving, and the file (*thread*). All is CPU of the thread; making the datagrams is
//! no part of it.
//!
//! The file's system calls are in it, and those that would send a packet to a subscriber are not, which are the greater part of
//! what that costs: so the ratio here is too high by several times. `tools/record-load.sh` measures both with sockets.

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use str0m::media::MediaKind;
use webrtc_engine::recording::Recorder;
use webrtc_engine::recording::feed::{EndReason, Item};
use webrtc_engine::storage::live::{Live, Room};

use support::allocations::Counting;
use support::client::{ClientConfig, is_media};
use support::statistics::{self, mean};
use support::{Cost, World, crypto, server_address};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Debug, Clone, Copy)]
struct Row {
    kind: MediaKind,
    /// Octets of payload.
    size: usize,
    /// Packets of a picture.
    picture: u32,
    /// Datagrams of a turn.
    batch: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Nobody,
    Subscriber,
    Recording,
}

fn main() {
    let quick = statistics::has_option("--quick");
    let directory =
        std::env::args().skip_while(|arg| arg != "--dir").nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    statistics::print_conditions();
    println!(
        "\n| payload | batch | packets | ns to receive | forward | tap | thread | of which file | recording / forward | \
         allocations of the thread |"
    );
    println!("| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |");
    for (kind, size, picture) in [(MediaKind::Audio, 120, 1), (MediaKind::Video, 1150, 1), (MediaKind::Video, 1150, 5)]
    {
        for batch in [1, 8] {
            let row = Row { kind, size, picture, batch };
            measure(row, if quick { 400 } else { 40_000 }, &directory);
        }
    }
    println!("\nSRTP profiles of the connections: {:?}", crypto::profiles());
}

fn measure(row: Row, packets: usize, directory: &std::path::Path) {
    // One after the other in pieces, so that what else happens on the machine meets all alike.
    let mut calls = [To::Nobody, To::Subscriber, To::Recording].map(|to| Call::new(row, to));
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..PIECES {
        for (call, costs) in calls.iter_mut().zip(&mut costs) {
            let total = call.run(packets / PIECES / row.batch);
            costs.push(total.time.as_nanos() as f64 / (packets / PIECES / row.batch * row.batch) as f64);
        }
    }
    let [nobody, forward, tap] = costs.map(|costs| mean(&costs));
    let recorded = calls.into_iter().last().expect("three of them");
    let thread = Thread::run(recorded.world, directory);
    let (forward, tap) = (forward - nobody, tap - nobody);
    println!(
        "| {:?} {} B, {} a frame | {} | {packets} | {nobody:.0} | {forward:.0} | {tap:.0} | {:.0} | {:.0} | {:.2} | {:.2} |",
        row.kind,
        row.size,
        row.picture,
        row.batch,
        thread.time,
        thread.file,
        (tap + thread.time) / forward,
        thread.allocations,
    );
}

/// A publisher, and whoever takes what it sends.
struct Call {
    row: Row,
    world: World,
    next: u32,
}

impl Call {
    fn new(row: Row, to: To) -> Call {
        let mut world = if to == To::Recording { World::recorded() } else { World::new() };
        let room = "record".to_owned();
        let config = ClientConfig { user: "p".into(), room: room.clone(), sends: vec![row.kind], ..Default::default() };
        world.join(ClientConfig { picture_packets: row.picture, ..config });
        if to == To::Subscriber {
            let receives = vec![row.kind];
            let config = ClientConfig { user: "s".into(), room, receives, no_feedback: true, ..Default::default() };
            world.join(config);
        }
        let mut call = Call { row, world, next: 0 };
        // Past the first key frame, and until buffers have their size.
        for _ in 0..3 {
            call.world.advance(Duration::from_secs(1));
            call.run(300 / row.batch);
        }
        let received = call.world.clients.last().map_or(0, |client| client.received);
        call.run(8);
        match to {
            To::Nobody => {}
            To::Subscriber => {
                let now = call.world.clients.last().map_or(0, |client| client.received);
                assert_eq!(now - received, 8 * row.batch as u64, "every packet comes");
            }
            To::Recording => assert!(call.world.begun.is_some(), "the call is recorded"),
        }
        call
    }

    fn run(&mut self, turns: usize) -> Cost {
        let mut total = Cost::default();
        for _ in 0..turns {
            let datagrams = self.produce();
            let cost = self.world.turn(|shard, now| {
                for (source, data) in &datagrams {
                    shard.handle_datagram(now, server_address(), *source, data);
                }
            });
            total += cost;
            self.world.settle();
        }
        total
    }

    fn produce(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let Row { kind, size, batch, .. } = self.row;
        let interval = if kind == MediaKind::Audio { 20_000 } else { 6_667 };
        self.world.advance(Duration::from_micros(interval) * batch as u32);
        let client = &mut self.world.clients[0];
        (0..batch)
            .map(|_| {
                client.send(self.world.now, 0, size, self.next);
                self.next += 1;
                let at = client.outgoing.iter().position(|(_, data)| is_media(data)).expect("it was sent");
                (client.address, client.outgoing.remove(at).1)
            })
            .collect()
    }
}

/// What the recorder thread spends, in ns and allocations for each packet.
struct Thread {
    time: f64,
    /// Of `time`: writing.
    file: f64,
    allocations: f64,
}

impl Thread {
    fn run(mut world: World, directory: &std::path::Path) -> Thread {
        let begin = world.begun.take().expect("it began");
        let root = directory.join(format!("webrtc-engine-bench-{}", begin.recording));
        let mut live = Live::create(&root, &begin, Room::default()).expect("a file can be written there");
        let mut recorder = Recorder::new(begin.at, Default::default());
        let batches = std::mem::take(&mut world.batches);
        let is_packet = |item: &&Item| matches!(item, Item::Packet(_));
        let packets = batches.iter().flatten().filter(is_packet).count() as f64;
        let (mut time, mut file, mut blocks) = (Duration::ZERO, Duration::ZERO, 0u64);
        let mut allocations = support::allocations::Counts::default();
        let mut now = begin.at;
        for items in batches {
            now = items.iter().filter_map(arrival).max().unwrap_or(now).max(now);
            let (counts, start) = (support::allocations::counts(), statistics::thread_cpu());
            let mut ready = Vec::with_capacity(64);
            for item in &items {
                recorder.handle_item(now, item);
            }
            recorder.handle_timeout(now);
            ready.extend(std::iter::from_fn(|| recorder.poll_block()));
            while recorder.poll_keyframe_request(now).is_some() {}
            while recorder.poll_note().is_some() {}
            let between = statistics::thread_cpu();
            live.write(&ready).map_err(|failure| failure.reason()).expect("the file takes it");
            blocks += ready.len() as u64;
            drop(ready);
            drop(items);
            let end = statistics::thread_cpu();
            time += end.saturating_sub(start);
            file += end.saturating_sub(between);
            allocations += support::allocations::counts() - counts;
        }
        assert!(blocks > 0, "something was written");
        drop(live.end(EndReason::Requested, SystemTime::now()));
        // What cannot be removed is in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&root);
        let each = |time: Duration| time.as_nanos() as f64 / packets;
        Thread { time: each(time), file: each(file), allocations: allocations.allocations as f64 / packets }
    }
}

fn arrival(item: &Item) -> Option<Instant> {
    match item {
        Item::Packet(packet) => Some(packet.arrival),
        _ => None,
    }
}

const PIECES: usize = 20;
