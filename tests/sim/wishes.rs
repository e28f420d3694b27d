//! What a subscriber asks for, and that it gets that: sizes, frame rates, an order among tracks, nothing at all. And the other
//! end of it: what nobody watches is not sent.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{BROWSER, Plan};
use crate::decoder::Shown;
use crate::encoder::{Encoding, SCREEN, Video, spatial};
use crate::net::{HOME, Weather};
use crate::payload::Source;
use crate::watch::{expect_width, median, percent, quantile, stillness, track_id, watch};
use crate::world::{MS, SECOND, World};
use crate::{expect_media, simulate};

/// Ann publishes, Bob watches.
fn ann_and_bob(world: &mut World, publishes: &Plan) -> (usize, usize) {
    let watcher = Plan { audio: false, video: false, ..BROWSER };
    let (ann, bob) = (world.join_at(0, "ann", "r", publishes, HOME), world.join_at(0, "bob", "r", &watcher, HOME));
    expect_media(world, &[ann, bob], 3 * SECOND);
    expect_width(world, bob, ann, Source::Camera, 1280, 8 * SECOND);
    // Until an estimate is known much waits in the pacer.
    world.run(3 * SECOND);
    (ann, bob)
}

/// Some rooms with the same publishers, and Bob in each of them, who watches over a line like that. Estimates of narrow lines
/// scatter: one may be lower than its line for some seconds, most are not.
fn rooms(world: &mut World, publishers: &[(&str, &Plan)], weather: Weather) -> Vec<(Vec<usize>, usize)> {
    so_many_rooms(ROOMS, world, publishers, weather)
}

fn so_many_rooms(
    count: usize,
    world: &mut World,
    publishers: &[(&str, &Plan)],
    weather: Weather,
) -> Vec<(Vec<usize>, usize)> {
    let watcher = Plan { audio: false, video: false, ..BROWSER };
    let mut rooms = Vec::new();
    for number in 0..count {
        let room = format!("r{number}");
        let publishers = publishers.iter().map(|(name, plan)| world.join_at(0, name, &room, plan, HOME)).collect();
        rooms.push((publishers, world.join_at(0, "bob", &room, &watcher, weather)));
    }
    rooms
}

fn wish(world: &mut World, who: usize, what: Value) {
    world.with(who, |c, _| c.say("subscribe", what));
}

/// Sizes and frame rates hold, by user and by track; every change is seen soon, and none stops the picture.
#[test]
fn wishes_for_size_and_frame_rate() {
    simulate("wishes_for_size_and_frame_rate", 1, |world| {
        let (ann, bob) = ann_and_bob(world, &BROWSER);
        let track = track_id(&world.clients[bob], "ann", Source::Camera);
        // What is wished for; the width and the frames per second that come.
        let rows: [(Value, u16, f64); 9] = [
            (json!({"quality": "low"}), 320, 30.0),
            (json!({"quality": "high"}), 1280, 30.0),
            (json!({"quality": "medium"}), 640, 30.0),
            (json!({"maxWidth": 1000}), 640, 30.0),
            (json!({"maxHeight": 200}), 320, 30.0),
            (json!({"maxWidth": 100}), 320, 30.0),
            (json!({"maxFramerate": 15}), 1280, 15.0),
            (json!({"maxFramerate": 8, "maxHeight": 360}), 640, 7.5),
            (json!({}), 1280, 30.0),
        ];
        let mut times = Vec::new();
        let mut stillest = Duration::ZERO;
        for (index, (mut what, width, framerate)) in rows.into_iter().enumerate() {
            let text = what.to_string();
            if index % 2 == 0 {
                what["userId"] = json!("ann");
            } else {
                what["trackId"] = track.clone();
            }
            let start = world.now;
            wish(world, bob, what);
            times.push(expect_width(world, bob, ann, Source::Camera, width, 4 * SECOND));
            world.run(1500 * MS);
            stillest = stillest.max(stillness(world, bob, ann, Source::Camera, start));
            let (pictures, widths) = watch(world, bob, ann, Source::Camera, 2 * SECOND);
            world.check(widths == [width], || format!("{text}: widths {widths:?}"));
            let is_so = (pictures - framerate).abs() <= framerate * 0.1 + 0.5;
            world.check(is_so, || format!("{text}: {pictures} pictures per second"));
        }
        // An estimate may be low for a moment: then one of them takes until it has recovered.
        let (usual, slowest) = (quantile(&mut times, 0.5), quantile(&mut times, 0.88));
        let values = [
            ("seen after, median", format!("{usual:?}")),
            ("slowest but one", format!("{slowest:?}")),
            ("longest gap between pictures", format!("{stillest:?}")),
        ];
        world.figure("wishes for size and frame rate", &values);
        world.check(slowest <= 500 * MS, || format!("wishes were seen after {times:?}"));
        world.check(stillest <= 300 * MS, || format!("no picture for {stillest:?} at a wish"));
    });
}

/// Paused is paused: not a packet. And resumed, there is a picture at once.
#[test]
fn a_wish_to_pause() {
    simulate("a_wish_to_pause", 1, |world| {
        let (ann, bob) = ann_and_bob(world, &BROWSER);
        let mut slowest = Duration::ZERO;
        // So long that what nobody watches is still sent, and so long that it is not.
        for pause in [2 * SECOND, 12 * SECOND] {
            wish(world, bob, json!({"userId": "ann", "paused": true}));
            // What is in the pacer's queue still comes.
            world.run(SECOND);
            let before = world.clients[bob].heard_of(ann as u32, true);
            let start = world.now;
            world.run(pause);
            let packets = world.clients[bob].heard_of(ann as u32, true) - before;
            world.check(packets == 0, || format!("{packets} packets of what is paused"));
            let voice = world.clients[bob].heard_of(ann as u32, false);
            wish(world, bob, json!({"userId": "ann", "paused": false}));
            let resumed = world.now;
            let has_picture = |w: &World| !w.clients[bob].shown_of(ann as u32, Source::Camera, resumed).is_empty();
            slowest = slowest.max(world.expect("the picture is back", 2 * SECOND, has_picture));
            expect_width(world, bob, ann, Source::Camera, 1280, 4 * SECOND);
            let told: Vec<(Duration, bool, bool)> = world.clients[bob]
                .texts_of("layer-changed")
                .filter(|(at, _)| *at > start - SECOND)
                .map(|(at, text)| (at, text["data"]["paused"] == true, text["data"]["reason"] == "wish"))
                .collect();
            let is_told = told.iter().any(|(at, paused, is_wish)| *at < resumed && *paused && *is_wish)
                && told.last().is_some_and(|(at, paused, _)| *at > resumed && !paused);
            world.check(is_told, || format!("layer-changed said (when, paused, by wish): {told:?}"));
            world.expect("the voice is back", SECOND, |w| w.clients[bob].heard_of(ann as u32, false) > voice + 10);
            world.run(SECOND);
        }
        world.figure("resumed after a wish to pause", &[("picture after", format!("{slowest:?}"))]);
        world.check(slowest <= 600 * MS, || format!("the picture was back only after {slowest:?}"));
    });
}

/// On lines that are too narrow for all, who is wished for first has the better picture.
#[test]
fn wishes_for_an_order() {
    simulate("wishes_for_an_order", 1, |world| {
        let camera = Plan { audio: false, ..BROWSER };
        let rooms = rooms(world, &[("ann", &camera), ("cid", &camera)], HOME.narrow(2400));
        world.run(SETTLED);
        for turn in [0, 1] {
            for (.., bob) in &rooms {
                for (place, name) in ["ann", "cid"].into_iter().enumerate() {
                    let priority = if place == turn { 10 } else { 1 };
                    wish(world, *bob, json!({"userId": name, "priority": priority}));
                }
            }
            // A change takes a while: what is lowered keeps everything from being raised for two seconds.
            world.run(4 * SECOND);
            let start = world.now;
            world.run(3 * SECOND);
            let shown = |place: usize| {
                rooms
                    .iter()
                    .map(move |(publishers, bob)| (*bob, publishers[place] as u32))
                    .map(|(bob, publisher)| world.clients[bob].shown_of(publisher, Source::Camera, start))
            };
            let shares = |place: usize| shown(place).map(|shown| share_of(&shown, 1280)).collect::<Vec<f64>>();
            let (first, second) = (shares(turn), shares(1 - turn));
            let moving: Vec<f64> = shown(1 - turn).map(|shown| shown.len() as f64 / 3.0).collect();
            let values = [
                ("large pictures of the first", percent(median(first.iter()))),
                ("of the second", percent(median(second.iter()))),
                ("pictures of the second", format!("{:.1}/s", median(moving.iter()))),
            ];
            world.figure(&format!("two cameras in an order on 2400 kb/s, round {turn}, median of {ROOMS}"), &values);
            let mean = first.iter().sum::<f64>() / ROOMS as f64;
            world.check(mean >= 0.3, || format!("shares of large pictures of the first: {first:?}"));
            world
                .check(median(second.iter()) <= 0.01, || format!("shares of large pictures of the second: {second:?}"));
            let is_so = first.iter().zip(&second).all(|(first, second)| first >= second);
            world.check(is_so, || format!("shares of large pictures, first {first:?}, second {second:?}"));
            world.check(median(moving.iter()) >= 7.0, || format!("pictures per second of the second: {moving:?}"));
        }
    });
}

/// A shared screen in two sizes.
const SCREENS: Video = Video {
    encodings: &[
        Encoding { rid: Some("l"), layers: &[spatial(960, 540, 400)], temporal: 3 },
        Encoding { rid: Some("h"), layers: &[spatial(1920, 1080, 1200)], temporal: 3 },
    ],
    ..SCREEN
};

/// A screen that can be read but jerks is better than a smooth one that cannot: it loses frame rate, down to 5 a second, while
/// the camera beside it loses its size.
#[test]
fn a_screen_on_a_narrow_line() {
    // Half its frames are 720 kb/s, a quarter is 480. The smaller size would be smooth with 400.
    for (kbps, framerate) in [(1500, 7.5..18.0), (1100, 4.5..13.0)] {
        simulate("a_screen_on_a_narrow_line", 1, |world| {
            let plan = Plan { share: true, screen: SCREENS, audio: false, ..BROWSER };
            // One in ten becomes small for a moment, and a median of few would be too.
            let rooms = so_many_rooms(15, world, &[("ann", &plan)], HOME.narrow(kbps));
            world.run(SETTLED);
            let start = world.now;
            world.run(6 * SECOND);
            let (mut moving, mut readable, mut faces) = (Vec::new(), Vec::new(), Vec::new());
            for (publishers, bob) in rooms {
                let screen = world.clients[bob].shown_of(publishers[0] as u32, Source::Screen, start);
                let camera = world.clients[bob].shown_of(publishers[0] as u32, Source::Camera, start);
                moving.push(screen.len() as f64 / 6.0);
                readable.push(share_of(&screen, 1920));
                faces.push(share_of(&camera, 1280));
            }
            let values = [
                ("pictures of the screen", format!("{:.1}/s", median(moving.iter()))),
                ("in full size", percent(median(readable.iter()))),
                ("large pictures of the camera", percent(median(faces.iter()))),
            ];
            world.figure(&format!("screen and camera on {kbps} kb/s, median of {}", readable.len()), &values);
            world.check(median(readable.iter()) >= 0.99, || format!("full size: {readable:?}"));
            world.check(framerate.contains(&median(moving.iter())), || format!("pictures per second: {moving:?}"));
            world.check(median(faces.iter()) <= 0.01, || format!("large pictures of the camera: {faces:?}"));
        });
    }
}

/// The share of the pictures that are so wide.
fn share_of(shown: &[Shown], width: u16) -> f64 {
    shown.iter().filter(|s| s.width == width).count() as f64 / shown.len().max(1) as f64
}

const ROOMS: usize = 5;
/// Until an estimate has found its way.
const SETTLED: Duration = Duration::from_secs(7);

/// What nobody watches is not sent; what somebody watches is sent at once.
#[test]
fn what_nobody_watches() {
    simulate("what_nobody_watches", 1, |world| {
        let watcher = Plan { audio: false, video: false, ..BROWSER };
        let ann = world.join_at(0, "ann", "r", &BROWSER, HOME);
        world.expect("all is paused while nobody is there", 20 * SECOND, |w| {
            w.clients[ann].connected && w.clients[ann].active_encodings(Source::Camera) == [false; 3]
        });
        world.run(SECOND);
        let before = world.counts(ann).0.octets;
        world.run(5 * SECOND);
        let rate = (world.counts(ann).0.octets - before) * 8 / 5000;
        world.figure("what is sent while nobody watches", &[("rate", format!("{rate} kb/s, the voice included"))]);
        // Of that are 53 kb/s headers and what is redundant of the voice.
        world.check(rate < 120, || format!("{rate} kb/s are sent, and nobody watches"));

        let bob = world.join_at(0, "bob", "r", &watcher, HOME);
        world.expect("bob is connected", 2 * SECOND, |w| w.clients[bob].connected);
        let start = world.now;
        let has_picture = |w: &World| !w.clients[bob].shown_of(ann as u32, Source::Camera, start).is_empty();
        let first = world.expect("there is a picture", 2 * SECOND, has_picture);
        let best = first + expect_width(world, bob, ann, Source::Camera, 1280, 4 * SECOND);
        let values = [("first picture after", format!("{first:?}")), ("best one after", format!("{best:?}"))];
        world.figure("watched again, all encodings paused", &values);
        world.check(first <= 500 * MS, || format!("the first picture came only after {first:?}"));

        // The large ones rest when a small picture is enough, and come back at once.
        wish(world, bob, json!({"userId": "ann", "quality": "low"}));
        world.expect("one is enough", 20 * SECOND, |w| {
            w.clients[ann].active_encodings(Source::Camera) == [true, false, false]
        });
        let start = world.now;
        wish(world, bob, json!({"userId": "ann", "quality": "high"}));
        let time = expect_width(world, bob, ann, Source::Camera, 1280, 4 * SECOND);
        let gap = stillness(world, bob, ann, Source::Camera, start);
        let values = [("picture after", format!("{time:?}")), ("longest gap", format!("{gap:?}"))];
        world.figure("the largest encoding wanted again", &values);
        world.check(time <= 500 * MS, || format!("the large picture came only after {time:?}"));
        world.check(gap <= 300 * MS, || format!("no picture for {gap:?} at the switch"));
    });
}

/// Whoever watches little for a while has the large picture as soon as it is wanted: what the line takes is not forgotten.
#[test]
fn a_wish_for_more_after_a_while() {
    simulate("a_wish_for_more_after_a_while", 1, |world| {
        let rooms = rooms(world, &[("ann", &BROWSER)], HOME.narrow(8000));
        world.run(SETTLED);
        for (_, who) in &rooms {
            wish(world, *who, json!({"userId": "ann", "quality": "low"}));
        }
        let start = world.now;
        for _ in 0..40 {
            world.run(SECOND);
            for (_, who) in &rooms {
                world.with(*who, |c, _| c.say("stats", json!({})));
            }
        }
        world.run(100 * MS);
        let lowest: Vec<f64> = rooms
            .iter()
            .map(|(_, who)| {
                let stats = world.clients[*who].texts_of("stats").filter(|(at, _)| *at > start);
                stats.filter_map(|(_, text)| text["data"]["estimate"].as_f64()).fold(f64::MAX, f64::min) / 1000.0
            })
            .collect();
        let asked = world.now;
        for (_, who) in &rooms {
            wish(world, *who, json!({"userId": "ann", "quality": "high"}));
        }
        world.run(5 * SECOND);
        let is_large = |shown: &&Shown| shown.width == 1280;
        let mut times: Vec<Duration> = rooms
            .iter()
            .map(|(publishers, who)| {
                let shown = world.clients[*who].shown_of(publishers[0] as u32, Source::Camera, asked);
                shown.iter().find(is_large).map_or(Duration::MAX, |shown| shown.at - asked)
            })
            .collect();
        let (estimate, time) = (median(lowest.iter()), quantile(&mut times, 0.5));
        let values = [("lowest estimate", format!("{estimate:.0} kb/s")), ("large picture after", format!("{time:?}"))];
        world.figure(&format!("40 s of a small picture on 8000 kb/s, median of {ROOMS}"), &values);
        world.check(estimate >= 1500.0, || format!("estimates, kb/s: {lowest:?}"));
        world.check(time <= 500 * MS, || format!("the large picture came after {times:?}"));
    });
}
