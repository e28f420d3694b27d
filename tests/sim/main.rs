//! Whole shards against simulated browsers over a simulated network, in virtual time.
//!
//! `SIM_SEED=n` runs that seed alone, `SIM_SEEDS=n` so many per scenario. What always holds is in [`world`]; a scenario
//! describes weather and what people do.

// A guard that changes something would be harder to read.
#![allow(clippy::collapsible_match)]

mod channels;
mod client;
mod crowd;
mod cuts;
mod decoder;
mod encoder;
mod figures;
mod net;
mod newcomers;
mod payload;
mod presence;
mod recording;
mod watch;
mod whip;
mod wishes;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use client::{Plan, SLOTS, TRACKS};
use encoder::{SMALL, Video};
use net::{FAIR, Weather};
use payload::Source;
use serde_json::json;
use webrtc_engine::auth::Role;
use world::{MS, SECOND, World};

/// Runs a scenario for every seed that is asked for, and says which one failed.
fn simulate(name: &str, shards: u8, scenario: impl Fn(&mut World)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SIM_SEEDS").unwrap_or(1)).collect(),
    };
    for seed in seeds {
        let run = || {
            let mut world = World::new(seed, shards);
            scenario(&mut world);
            world.report();
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            eprintln!("scenario {name} failed: SIM_SEED={seed} cargo test --test sim {name}");
            resume_unwind(panic);
        }
    }
}

/// Everybody hears and sees everybody, whatever was before.
fn expect_media(world: &mut World, people: &[usize], within: Duration) -> Duration {
    let mut wanted = Vec::new();
    for &to in people {
        for &from in people.iter().filter(|from| **from != to && world.clients[**from].room == world.clients[to].room) {
            for video in [false, true] {
                let plan = &world.clients[from].plan;
                if if video { plan.video } else { plan.audio } {
                    wanted.push((to, from as u32, video, world.clients[to].heard_of(from as u32, video)));
                }
            }
        }
    }
    let heard = |world: &World, (to, from, video, before): &(usize, u32, bool, u64)| {
        world.clients[*to].heard_of(*from, *video) > *before + 3
    };
    let start = world.now;
    if !world.wait(within, |world| wanted.iter().all(|row| heard(world, row))) {
        let missing: Vec<_> =
            wanted.iter().filter(|row| !heard(world, row)).map(|(to, from, video, _)| (to, from, video)).collect();
        world.describe(people);
        let up: Vec<bool> = people.iter().map(|p| world.clients[*p].connected).collect();
        world.check(false, || {
            format!("not heard within {within:?} (listener, publisher, video): {missing:?}; connected: {up:?}")
        });
    }
    world.now - start
}

/// Whole frames that `to` has of what `from` sent between its first one and `until_ms`, as a share.
fn delivered(world: &World, to: usize, from: usize, video: bool, until_ms: Duration) -> f64 {
    delivered_since(world, to, from, video, 0, until_ms)
}

/// As [`delivered`], of the frames from the number `since` on.
fn delivered_since(world: &World, to: usize, from: usize, video: bool, since: u32, until_ms: Duration) -> f64 {
    let source = if video { Source::Camera } else { Source::Microphone };
    let Some(heard) = world.clients[to].heard.get(&(from as u32, source)) else { return 0.0 };
    let plan = &world.clients[from].plan;
    let every = if video { plan.camera.every } else { plan.audio_every };
    let first = since.max(*heard.frames.keys().next().unwrap_or(&0));
    let sent = world.clients[from].frames_sent.get(&source).copied().unwrap_or(0);
    let last = sent.saturating_sub((until_ms.as_millis() / every.as_millis()) as u32);
    let whole = heard.frames.range(first..last).filter(|(_, frame)| frame.is_complete()).count();
    whole as f64 / f64::from(last.saturating_sub(first).max(1))
}

fn room_of(world: &mut World, plans: &[&Plan]) -> Vec<usize> {
    plans.iter().enumerate().map(|(i, plan)| world.join(&format!("user{i}"), "r", plan)).collect()
}

#[test]
fn two_people_in_slots_mode() {
    simulate("two_people_in_slots_mode", 1, |world| {
        let people = room_of(world, &[&SLOTS; 2]);
        expect_media(world, &people, 2 * SECOND);
        world.run(2 * SECOND);
        for (to, from) in [(0, 1), (1, 0)] {
            for video in [false, true] {
                let share = delivered(world, people[to], people[from], video, SECOND);
                world.check(share == 1.0, || format!("{share} of the frames came over a network that loses nothing"));
            }
        }
    });
}

#[test]
fn two_people_in_tracks_mode() {
    simulate("two_people_in_tracks_mode", 1, |world| {
        let people = room_of(world, &[&TRACKS; 2]);
        expect_media(world, &people, 2 * SECOND);
        world.run(2 * SECOND);
        let share = delivered(world, people[0], people[1], true, SECOND);
        world.check(share == 1.0, || format!("{share} of the frames came over a network that loses nothing"));
    });
}

#[test]
fn five_people_in_either_mode() {
    simulate("five_people_in_either_mode", 1, |world| {
        let slow = Plan { camera: Video { every: 66 * MS, ..SMALL }, audio_slots: 4, ..SLOTS };
        let tracks = Plan { mode: TRACKS.mode, ..slow.clone() };
        for plans in [[&slow; 5], [&tracks; 5], [&slow, &tracks, &slow, &tracks, &slow]] {
            let people = room_of(world, &plans);
            world.run(SECOND);
            // Of many voices three are forwarded; whoever is asked for by name is heard as well.
            for &person in &people {
                for other in (0..people.len()).filter(|other| *other != person) {
                    world.with(person, |c, _| c.say("subscribe", json!({"userId": format!("user{other}")})));
                }
            }
            expect_media(world, &people, 4 * SECOND);
            for person in people {
                world.with(person, |c, _| c.say("leave", json!({})));
            }
            world.run(SECOND);
            let left = world.participants();
            world.check(left == 0, || format!("{left} participants after everybody left"));
        }
    });
}

#[test]
fn a_room_hears_nothing_of_another() {
    simulate("a_room_hears_nothing_of_another", 1, |world| {
        let a = [world.join("ann", "a", &SLOTS), world.join("bob", "a", &TRACKS)];
        let b = [world.join("ann", "b", &SLOTS), world.join("bob", "b", &TRACKS)];
        expect_media(world, &a, 2 * SECOND);
        expect_media(world, &b, 2 * SECOND);
    });
}

/// NACK and RTX bring lost video back; audio is not retransmitted, so it suffers both ways' losses.
#[test]
fn loss_both_ways() {
    for (percent, video_min) in [(1, 0.99), (5, 0.98), (10, 0.93), (20, 0.50)] {
        simulate("loss_both_ways", 1, |world| {
            let loss = f64::from(percent) / 100.0;
            let people = room_of(world, &[&SLOTS, &TRACKS]);
            world.set_weather_all(Weather { loss, delay: 25 * MS, ..FAIR });
            expect_media(world, &people, 20 * SECOND);
            world.run(20 * SECOND);
            for (to, from) in [(0, 1), (1, 0)] {
                let video = delivered(world, people[to], people[from], true, 2 * SECOND);
                let audio = delivered(world, people[to], people[from], false, 2 * SECOND);
                let audio_min = (1.0 - loss) * (1.0 - loss) - 0.1;
                world.note(|| format!("loss {percent} %: video {video:.4}, audio {audio:.4}"));
                world.check(video >= video_min, || format!("{video} of the video came at a loss of {percent} %"));
                world.check(audio >= audio_min, || format!("{audio} of the audio came at a loss of {percent} %"));
            }
        });
    }
}

#[test]
fn reorder_duplicates_jitter_and_delay() {
    let weathers = [
        Weather { reorder: 0.05, duplicate: 0.05, ..FAIR },
        Weather { jitter: 50 * MS, ..FAIR },
        Weather { delay: 300 * MS, ..FAIR },
        Weather { delay: 300 * MS, jitter: 50 * MS, loss: 0.02, duplicate: 0.02, ..FAIR },
    ];
    for (index, weather) in weathers.into_iter().enumerate() {
        simulate("reorder_duplicates_jitter_and_delay", 1, |world| {
            let people = room_of(world, &[&SLOTS, &TRACKS]);
            expect_media(world, &people, 2 * SECOND);
            world.set_weather_all(weather);
            // What it makes of such a change the estimator knows after some seconds; until then video may pause.
            world.run(10 * SECOND);
            let since: Vec<u32> = people.iter().map(|p| world.clients[*p].frames_sent[&Source::Camera]).collect();
            world.run(12 * SECOND);
            for (to, from) in [(0, 1), (1, 0)] {
                let video = delivered_since(world, people[to], people[from], true, since[from], 2 * SECOND);
                world.note(|| format!("weather {index}: video {video:.4}"));
                world.check(video >= 0.93, || format!("{video} of the video came in weather {index}"));
            }
        });
    }
}

/// A subscriber whose line is too narrow loses packets, but neither the connection nor the order of things.
#[test]
fn a_narrow_line() {
    simulate("a_narrow_line", 1, |world| {
        let people = room_of(world, &[&SLOTS, &SLOTS]);
        expect_media(world, &people, 2 * SECOND);
        world.set_weather(people[0], Weather { rate: Some(20_000), ..FAIR });
        world.run(4 * SECOND);
        world.set_weather(people[0], FAIR);
        expect_media(world, &people, 2 * SECOND);
    });
}

#[test]
fn an_address_translator_that_rebinds() {
    simulate("an_address_translator_that_rebinds", 1, |world| {
        let people = room_of(world, &[&SLOTS, &TRACKS]);
        for person in &people {
            world.clients[*person].set_check_interval(SECOND);
        }
        expect_media(world, &people, 2 * SECOND);
        for _ in 0..5 {
            world.rebind(people[0]);
            let time = expect_media(world, &people, 2 * SECOND);
            world.note(|| format!("media resumed after {time:?}"));
            world.run((2 * SECOND).saturating_sub(time));
        }
    });
}

#[test]
fn media_comes_back_after_a_blackout() {
    simulate("media_comes_back_after_a_blackout", 1, |world| {
        let people = room_of(world, &[&SLOTS, &TRACKS]);
        expect_media(world, &people, 2 * SECOND);
        for _ in 0..2 {
            world.set_weather(people[0], Weather { dark: true, ..FAIR });
            world.run(3 * SECOND);
            world.set_weather(people[0], FAIR);
            let time = expect_media(world, &people, 4 * SECOND);
            world.note(|| format!("media resumed after {time:?}"));
            world.run(SECOND);
        }
    });
}

#[test]
fn nobody_hears_the_muted_or_the_unwanted() {
    simulate("nobody_hears_the_muted_or_the_unwanted", 1, |world| {
        let host = Plan { role: Role::Host, ..SLOTS };
        let people = room_of(world, &[&host, &SLOTS, &TRACKS]);
        expect_media(world, &people, 3 * SECOND);
        let silent = |world: &mut World, to: usize, from: usize, video: bool, what: &str| {
            world.run(100 * MS);
            let before = world.clients[to].heard_of(from as u32, video);
            world.run(500 * MS);
            let after = world.clients[to].heard_of(from as u32, video);
            world.check(after == before, || format!("{what}: {} packets", after - before));
        };
        world.with(people[1], |c, _| c.say("mute", json!({"kind": "video"})));
        silent(world, people[0], people[1], true, "after mute");
        silent(world, people[2], people[1], true, "after mute");
        world.with(people[1], |c, _| c.say("unmute", json!({"kind": "video"})));
        expect_media(world, &people, 2 * SECOND);

        world.with(people[0], |c, _| c.say_to("mute", "user2", json!({"kind": "audio"})));
        silent(world, people[1], people[2], false, "after a moderator's mute");
        world.with(people[0], |c, _| c.say_to("unmute", "user2", json!({"kind": "audio"})));
        world.run(100 * MS);
        world.with(people[2], |c, _| c.say("unmute", json!({"kind": "audio"})));
        expect_media(world, &people, 2 * SECOND);

        world.with(people[1], |c, _| c.say("unsubscribe", json!({"userId": "user0"})));
        world.with(people[2], |c, _| c.say("unsubscribe", json!({"userId": "user0"})));
        silent(world, people[1], people[0], true, "after unsubscribe");
        silent(world, people[2], people[0], false, "after unsubscribe");
        world.with(people[1], |c, _| c.say("subscribe", json!({"userId": "user0"})));
        world.with(people[2], |c, _| c.say("subscribe", json!({"userId": "user0"})));
        expect_media(world, &people, 3 * SECOND);
    });
}

/// However many subscribers ask, the publisher is asked at most every 500 ms.
#[test]
fn a_storm_of_key_frame_requests() {
    simulate("a_storm_of_key_frame_requests", 1, |world| {
        let watcher = Plan { audio: false, video: false, ..SLOTS };
        let people = room_of(world, &[&SLOTS, &watcher, &watcher, &watcher, &watcher]);
        expect_media(world, &people, 3 * SECOND);
        for step in 0..60 {
            for person in &people[1..] {
                world.with(*person, |c, now| c.request_keyframes(now));
            }
            if step == 30 {
                world.join("late", "r", &watcher);
            }
            world.run(100 * MS);
        }
        let asked: Vec<Duration> = world.clients[people[0]].keyframe_requests.iter().map(|k| k.at).collect();
        world.check(asked.len() >= 8, || format!("the publisher was asked {} times only", asked.len()));
        for pair in asked.windows(2) {
            let gap = pair[1] - pair[0];
            world.check(gap >= 495 * MS, || format!("two key-frame requests within {gap:?}"));
        }
    });
}

#[test]
fn a_publisher_leaves_while_others_wait() {
    simulate("a_publisher_leaves_while_others_wait", 1, |world| {
        for (round, plan) in [&SLOTS, &TRACKS].into_iter().enumerate() {
            let room = format!("r{round}");
            let publisher = world.join("pub", &room, plan);
            let first = world.join("first", &room, plan);
            world.wait(5 * SECOND, |w| !w.clients[first].tracks.is_empty());
            // Before a packet could come.
            world.with(publisher, |c, _| c.say("leave", json!({})));
            world.run(SECOND);
            let again = world.join("pub", &room, plan);
            expect_media(world, &[first, again], 3 * SECOND);
            world.vanish(again);
            world.run(32 * SECOND);
            let tracks = world.clients[first].tracks.len();
            world.check(tracks == 0, || format!("{tracks} tracks of people who left"));
        }
    });
}

#[test]
fn a_connection_that_never_comes_up_is_dropped() {
    simulate("a_connection_that_never_comes_up_is_dropped", 1, |world| {
        let ann = world.join_at(0, "ann", "r", &SLOTS, Weather { dark: true, ..FAIR });
        let bob = world.join("bob", "r", &SLOTS);
        world.expect("the tracks are published", 2 * SECOND, |w| w.clients[bob].tracks.len() == 2);
        let first = world.clients[ann].last_offer.clone();
        world.run(27 * SECOND);
        let tracks = world.clients[bob].tracks.len();
        world.check(tracks == 2, || "the connection was given up too early".into());
        world.expect("the connection is dropped", 4 * SECOND, |w| w.clients[bob].tracks.is_empty());
        world.with(ann, |c, _| c.say("chat", json!({"text": "still here"})));
        world.expect("the session stays", SECOND, |w| w.clients[bob].texts_of("chat").next().is_some());
        // It may try again, but not with what has the keys of the connection that was dropped.
        world.set_weather(ann, FAIR);
        world.with(ann, |c, _| c.say("offer", json!({"sdp": first})));
        let is_refused = |w: &World| {
            let mut errors = w.clients[ann].texts_of("error");
            errors.any(|(_, e)| e["data"]["message"].as_str().is_some_and(|text| text.contains("given up")))
        };
        world.expect("the old one is refused", 2 * SECOND, is_refused);
        world.with(ann, |c, now| c.reconnect(now));
        expect_media(world, &[ann, bob], 3 * SECOND);
    });
}

/// More than 2^16 packets through one slot (RFC 3711 §3.3.1), and a new connection with new keys after that.
#[test]
fn the_rollover_counter_of_a_slot() {
    simulate("the_rollover_counter_of_a_slot", 1, |world| {
        let fast = Plan { video: false, audio_every: MS, audio_octets: 40, ..SLOTS };
        let mute = Plan { audio: false, video: false, audio_slots: 1, video_slots: 0, ..SLOTS };
        let publisher = world.join("pub", "r", &fast);
        let subscriber = world.join("sub", "r", &mute);
        world.set_step(10 * MS);
        world.expect("70,000 packets", 75 * SECOND, |w| {
            w.clients[subscriber].heard_of(publisher as u32, false) > 70_000
        });
        world.set_step(MS);
        let before = world.clients[subscriber].heard_of(publisher as u32, false);
        world.with(subscriber, |c, now| c.reconnect(now));
        world.expect("a new connection hears as well", 3 * SECOND, |w| {
            w.clients[subscriber].heard_of(publisher as u32, false) > before + 1000
        });
    });
}

#[test]
fn a_connection_moves_to_the_worker_of_its_room() {
    simulate("a_connection_moves_to_the_worker_of_its_room", 2, |world| {
        // The first room goes to shard 0, the second to shard 1.
        let keeper = world.join("keeper", "zero", &Plan { media: false, ..SLOTS });
        world.run(SECOND);
        let people = [
            world.join_at(0, "ann", "one", &SLOTS, FAIR),
            world.join_at(1, "bob", "one", &TRACKS, FAIR),
            world.join_at(0, "cid", "one", &TRACKS, FAIR),
        ];
        expect_media(world, &people, 3 * SECOND);
        for person in people {
            let shard = world.shard_of(person);
            world.check(shard == Some(1), || format!("person {person} is on shard {shard:?}"));
        }
        let (home, moves) = (world.shard_of(keeper), world.counters.moves);
        world.check(home == Some(0) && moves == 2, || format!("keeper on {home:?}, {moves} moves"));
    });
}

/// Rooms end while joins are under way to them: nobody is lost, no room lives twice, and in the end none is left.
#[test]
fn rooms_end_while_joins_are_under_way() {
    simulate("rooms_end_while_joins_are_under_way", 3, |world| {
        let quiet = Plan { media: false, ..SLOTS };
        world.mail_delay = 20 * MS;
        let mut people: Vec<usize> = Vec::new();
        for step in 0..400 {
            let room = format!("r{}", world.random.u32(..3));
            let user = format!("u{}", world.random.u32(..5));
            let shard = world.random.usize(..3);
            people.push(world.join_at(shard, &user, &room, &quiet, FAIR));
            if step % 7 == 0 {
                // Gone before the join can be carried out.
                let person = *people.last().unwrap_or(&0);
                world.vanish(person);
            }
            for _ in 0..2 {
                let person = people[world.random.usize(..people.len())];
                if world.random.bool() {
                    world.vanish(person);
                } else {
                    world.with(person, |c, _| c.say("leave", json!({})));
                }
            }
            let pause = Duration::from_millis(world.random.u64(0..60));
            world.run(pause);
        }
        world.run(SECOND);
        for person in people {
            world.vanish(person);
        }
        world.run(32 * SECOND);
        let left: usize = (0..3).map(|s| world.rooms_alive(s)).sum();
        world.check(left == 0 && world.participants() == 0, || format!("{left} rooms left"));
        // A directory that still thought so would send this join away.
        let last = world.join("last", "r0", &quiet);
        world.expect("the room can be made again", SECOND, |w| w.clients[last].joined);
    });
}

/// What strangers send has no effect and no answer.
#[test]
fn strangers_get_no_answer() {
    simulate("strangers_get_no_answer", 1, |world| {
        let people = room_of(world, &[&SLOTS, &SLOTS]);
        expect_media(world, &people, 2 * SECOND);
        for _ in 0..400 {
            let data = garbage(&mut world.random);
            world.stranger(data);
            world.replay_as_stranger();
            world.run(5 * MS);
        }
        expect_media(world, &people, SECOND);
    });
}

fn garbage(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut data: Vec<u8> = (0..random.usize(..1600)).map(|_| random.u8(..)).collect();
    if let [first, ..] = &mut data[..] {
        // STUN, DTLS, RTP, anything.
        *first = [0, 1, 22, 0x80, *first][random.usize(..5)];
    }
    data
}

/// Offers cross again and again; in the end everything is negotiated.
#[test]
fn offers_that_cross() {
    simulate("offers_that_cross", 1, |world| {
        // A message takes long, so that much can cross it.
        world.signal_delay = 120 * MS;
        let plan = Plan { video: false, ..TRACKS };
        let people = room_of(world, &[&plan, &plan]);
        for round in 0..4 {
            world.with(people[0], |c, now| c.publish(now, true, round % 2 == 0));
            let pause = Duration::from_millis(world.random.u64(0..200));
            world.run(pause);
            world.with(people[1], |c, now| c.publish(now, true, round % 2 == 0));
            world.run(1500 * MS);
        }
        for person in &people {
            world.with(*person, |c, now| c.publish(now, true, true));
        }
        expect_media(world, &people, 5 * SECOND);
        let glares: u32 = people.iter().map(|p| world.clients[*p].glares).sum();
        world.note(|| format!("{glares} offers crossed"));
        world.check(glares > 0, || "no offers crossed".into());
    });
}

#[test]
fn a_newer_session_replaces_the_older() {
    simulate("a_newer_session_replaces_the_older", 1, |world| {
        let host = Plan { role: Role::Host, ..SLOTS };
        let (bob, older) = (world.join("bob", "r", &TRACKS), world.join("ann", "r", &host));
        expect_media(world, &[bob, older], 2 * SECOND);
        let newer = world.join("ann", "r", &SLOTS);
        expect_media(world, &[bob, newer], 3 * SECOND);
        let code = world.clients[older].closed;
        world.check(code == Some(4003), || format!("the older session was closed with {code:?}"));
    });
}

/// Somebody joins over a line that loses and reorders: the first picture takes a few key frames, no more.
#[test]
fn a_join_in_bad_weather() {
    simulate("a_join_in_bad_weather", 1, |world| {
        let weather = Weather { loss: 0.05, reorder: 0.05, duplicate: 0.05, delay: 40 * MS, ..FAIR };
        let ann = world.join_at(0, "ann", "r", &SLOTS, weather);
        let bob = world.join_at(0, "bob", "r", &TRACKS, weather);
        let time = expect_media(world, &[ann, bob], 6 * SECOND);
        world.note(|| format!("everything was there after {time:?}"));
    });
}

/// A key frame's first packet need not come first: what came before it was held for those who wait.
#[test]
fn a_join_where_packets_overtake_each_other() {
    simulate("a_join_where_packets_overtake_each_other", 1, |world| {
        let weather = Weather { jitter: 50 * MS, ..FAIR };
        let ann = world.join_at(0, "ann", "r", &SLOTS, weather);
        let bob = world.join_at(0, "bob", "r", &SLOTS, weather);
        let time = expect_media(world, &[ann, bob], 20 * SECOND);
        world.note(|| format!("everything was there after {time:?}"));
        world.check(time < 1500 * MS, || format!("everything was there only after {time:?}"));
    });
}

/// A server that drains takes nobody in and goes on for those who are there; one that stops says so to everyone.
#[test]
fn a_server_that_drains_and_stops() {
    simulate("a_server_that_drains_and_stops", 2, |world| {
        let people = [world.join_at(0, "ann", "r", &SLOTS, FAIR), world.join_at(1, "bob", "r", &TRACKS, FAIR)];
        expect_media(world, &people, 3 * SECOND);
        world.drain();
        let late = world.join("late", "r", &SLOTS);
        world.expect("a late join is refused", SECOND, |w| w.clients[late].errors == ["server_draining"]);
        expect_media(world, &people, SECOND);
        world.stop();
        world.run(SECOND);
        for person in people {
            let code = world.clients[person].closed;
            world.check(code == Some(1001), || format!("closed with {code:?}"));
        }
        let left = world.participants();
        world.check(left == 0, || format!("{left} participants after the end"));
    });
}

/// Sixty seconds in which people do everything at the worst time.
#[test]
fn churn() {
    simulate("churn", 1, |world| churn_for(world, 1, 60 * SECOND));
}

#[test]
fn churn_on_two_shards() {
    simulate("churn_on_two_shards", 2, |world| churn_for(world, 2, 30 * SECOND));
}

fn churn_for(world: &mut World, shards: usize, time: Duration) {
    let weather = Weather { loss: 0.02, jitter: 10 * MS, reorder: 0.02, duplicate: 0.02, ..FAIR };
    let slots = Plan { camera: Video { every: 100 * MS, ..SMALL }, audio_every: 60 * MS, ..SLOTS };
    let tracks = Plan { mode: TRACKS.mode, echo_ids: false, ..slots.clone() };
    let host = Plan { role: Role::Host, ..slots.clone() };
    let until = world.now + time;
    let mut alive: Vec<usize> = vec![world.join_at(0, "host", "r0", &host, weather)];
    while world.now < until {
        alive.retain(|c| world.clients[*c].closed.is_none());
        if alive.len() < 3 || alive.len() < 7 && world.random.u8(..4) == 0 {
            // Sometimes the user is there already: the newer session replaces the older.
            let user = format!("u{}", world.random.u32(..7));
            let room = format!("r{}", world.random.u32(..2));
            let mut plan = if world.random.bool() { slots.clone() } else { tracks.clone() };
            plan.video = world.random.bool();
            plan.auto_subscribe = world.random.u8(..5) > 0;
            plan.echo_ids = world.random.bool();
            let shard = world.random.usize(..shards);
            alive.push(world.join_at(shard, &user, &room, &plan, weather));
        }
        let who = alive[world.random.usize(..alive.len())];
        let other = format!("u{}", world.random.u32(..7));
        let (dice, on) = (world.random.u32(..20), world.random.bool());
        let kind = if world.random.bool() { "audio" } else { "video" };
        match dice {
            0 => world.vanish(who),
            1 => world.with(who, |c, _| c.say("leave", json!({}))),
            2 | 3 => world.with(who, |c, now| c.publish(now, kind == "video", on)),
            4 | 5 => world.with(who, |c, _| c.say(if on { "mute" } else { "unmute" }, json!({"kind": kind}))),
            6 => world.with(alive[0], |c, _| {
                c.say_to(if on { "mute" } else { "unmute" }, &other, json!({"kind": kind}));
            }),
            7 | 8 => world.with(who, |c, _| {
                c.say(if on { "subscribe" } else { "unsubscribe" }, json!({"userId": other}));
            }),
            9 => world.with(who, |c, _| c.say("chat", json!({"text": "hello"}))),
            10 => world.with(who, |c, _| c.say("restart-ice", json!({}))),
            11 => world.with(who, |c, now| c.reconnect(now)),
            12 => world.rebind(who),
            13 => world.with(who, |c, _| c.stale_answer()),
            14 => world.with(who, |c, _| c.outbox.push_back("{\"type\":\"subscribe\",\"data\":[".into())),
            15 => world.with(who, |c, _| c.say("offer", json!({"sdp": "v=0"}))),
            16 => {
                let data = garbage(&mut world.random);
                world.stranger(data);
                world.replay_as_stranger();
            }
            17 => {
                // Glare: the server has to offer (somebody publishes) while this client offers itself.
                let another = alive[world.random.usize(..alive.len())];
                world.with(who, |c, now| c.publish(now, true, on));
                world.with(another, |c, now| c.publish(now, true, !on));
            }
            18 => world.with(who, |c, now| c.request_keyframes(now)),
            _ => {
                let end = if on { Weather { dark: true, ..FAIR } } else { weather };
                world.set_weather(who, end);
            }
        }
        let pause = Duration::from_millis(world.random.u64(20..600));
        world.run(pause);
    }
    // When all is quiet again, everybody hears those whom they want to hear.
    alive.retain(|c| world.clients[*c].closed.is_none());
    for client in &alive {
        world.set_weather(*client, FAIR);
    }
    // Estimates recover from a storm, and pictures that were paused come back.
    world.run(14 * SECOND);
    let live = world.silences(&alive, 2 * SECOND);
    if let Some((to, from, _)) = live.first() {
        world.describe(&[*to, *from]);
    }
    world.check(live.is_empty(), || format!("not heard after the storm: {live:?}"));
}
