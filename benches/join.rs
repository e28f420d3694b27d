//! What does a participant cost beside media: to join, to stay, to hold in memory?
//!
//! `cargo bench --bench join`; `-- --quick` for a try. Everything is the CPU of the server's side of one thread; the
//! clients run on the same thread but are not counted, and time is virtual.
//!
//! - *join*: from the text of `join` to the connection being up: the room, the offer of 2 sending and 12 receiving
//!   lines with every codec, the answer, ICE checks, the DTLS handshake, and the messages to all who are there.
//! - *idle*: a minute of a connected participant without media: deadlines, connectivity checks, RTCP.
//! - *memory*: what a connected participant without media holds: the heap of Rust, in the bytes asked for, and that of
//!   C (OpenSSL, aws-lc), in the bytes given. The allocator's own losses and the kernel's buffers come on top.

mod support;

use std::time::Duration;

use str0m::media::MediaKind;

use support::allocations::Counting;
use support::client::ClientConfig;
use support::statistics::{self, mean, quantile};
use support::{Cost, World, crypto};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let quick = statistics::has_option("--quick");
    let (per_room, rooms) = if quick { (4, 3) } else { (10, 50) };
    statistics::print_conditions();
    println!("\n| participants | rooms of | what | value |\n| --: | --: | --- | --: |");
    let total = per_room * rooms;
    let row = |what: &str, value: String| println!("| {total} | {per_room} | {what} | {value} |");

    let mut world = World::new();
    // The first one pays for what is made once per process.
    world.join(config("warm-up", 0));
    let mut joins: Vec<f64> = Vec::with_capacity(total);
    let (mut whole, mut signaling) = (Cost::default(), Vec::with_capacity(total));
    world.watch_c_heap = true;
    for room in 0..rooms {
        for n in 0..per_room {
            (world.rest, world.signaling) = Default::default();
            world.join(config(&format!("room-{room}"), n));
            signaling.push(world.signaling.time.as_nanos() as f64 / 1000.0);
            joins.push(world.rest.time.as_nanos() as f64 / 1000.0);
            whole += world.rest;
        }
    }
    world.watch_c_heap = false;
    row("join, CPU p50", format!("{:.0} µs", quantile(&mut joins, 0.5)));
    row("join, CPU p95", format!("{:.0} µs", quantile(&mut joins, 0.95)));
    row("join, CPU mean", format!("{:.0} µs", mean(&joins)));
    row("join, CPU p50 of the messages alone (offer, answer)", format!("{:.0} µs", quantile(&mut signaling, 0.5)));
    let per = |value: f64| value / total as f64;
    row("join, turns of the loop", format!("{:.0}", per(whole.turns as f64)));
    row("join, datagrams in, out", {
        format!("{:.0}, {:.0}", per(whole.datagrams_in as f64), per(whole.datagrams_out as f64))
    });
    row("join, allocations", format!("{:.0}", per(whole.allocations.allocations as f64)));

    row("memory, heap of Rust", format!("{:.1} KiB", per(whole.allocations.live_bytes as f64 / 1024.0)));
    row("memory, heap of C", format!("{:.1} KiB", per(whole.c_bytes as f64 / 1024.0)));

    // What a fresh connection still does is over.
    world.advance(Duration::from_secs(if quick { 5 } else { 30 }));
    world.rest = Cost::default();
    let seconds = if quick { 5 } else { 60 };
    world.advance(Duration::from_secs(seconds));
    let idle = world.rest;
    let per = |value: f64| value / (total + 1) as f64 / seconds as f64;
    row("idle, CPU per second", format!("{:.1} µs", per(idle.time.as_nanos() as f64 / 1000.0)));
    row("idle, turns per second", format!("{:.2}", per(idle.turns as f64)));
    row("idle, turns without a datagram per second", format!("{:.2}", per((idle.turns - idle.datagrams_in) as f64)));
    row("idle, datagrams in, out per second", {
        format!("{:.2}, {:.2}", per(idle.datagrams_in as f64), per(idle.datagrams_out as f64))
    });
    row("idle, allocations per second", format!("{:.1}", per(idle.allocations.allocations as f64)));
    println!("\nSRTP profiles of the connections: {:?}, load average {}", crypto::profiles(), statistics::load());
}

/// As of a browser with camera and microphone in a call with slots for 9 videos and 3 voices.
fn config(room: &str, n: usize) -> ClientConfig {
    let mut receives = vec![MediaKind::Video; 9];
    receives.extend([MediaKind::Audio; 3]);
    let sends = vec![MediaKind::Audio, MediaKind::Video];
    ClientConfig {
        user: format!("u{n}"),
        room: room.to_owned(),
        sends,
        receives,
        all_codecs: true,
        ..Default::default()
    }
}
