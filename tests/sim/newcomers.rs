//! How soon somebody who comes has a picture, and what that costs those who publish.

use std::time::Duration;

use serde_json::json;

use crate::client::{Asked, BROWSER, Plan};
use crate::net::{FAIR, HOME, Weather};
use crate::payload::Source;
use crate::simulate;
use crate::watch::quantile;
use crate::world::{MS, SECOND, World};

/// What one newcomer had to wait for, from the moment it asked to join.
struct Arrival {
    /// The first picture of anybody, and of everybody.
    first: Duration,
    all: Duration,
    /// First pictures that were made before the newcomer came, so that they were kept.
    kept: usize,
    /// Until there was a picture of everybody: key frames that were asked of those for what was kept, and of anybody for
    /// anything.
    asked_of_kept: usize,
    asked: usize,
}

/// Somebody joins, waits until there is a picture of everybody, and leaves.
fn arrive(world: &mut World, publishers: &[usize], weather: Weather) -> Arrival {
    let plan = Plan { audio: false, video: false, video_slots: publishers.len(), ..BROWSER };
    let start = world.now;
    let newcomer = world.join_at(0, "new", "r", &plan, weather);
    let seen =
        |w: &World, from: usize| w.clients[newcomer].shown_of(from as u32, Source::Camera, start).first().copied();
    world.expect("a picture of everybody", 5 * SECOND, |w| publishers.iter().all(|p| seen(w, *p).is_some()));
    // Larger encodings than the first that is shown may be asked for meanwhile.
    let asked_of = |w: &World, from: usize, encoding: Option<u8>| {
        let rid = |encoding: u8| BROWSER.camera.encodings[usize::from(encoding)].rid;
        let is_of = |asked: &&Asked| {
            encoding.is_none_or(|encoding| asked.rid.map(|rid| rid.to_string()).as_deref() == rid(encoding))
        };
        w.clients[from].keyframe_requests.iter().filter(|asked| asked.at > start).filter(is_of).count()
    };
    let mut arrival = Arrival { first: Duration::MAX, all: Duration::ZERO, kept: 0, asked_of_kept: 0, asked: 0 };
    for &publisher in publishers {
        let Some(shown) = seen(world, publisher) else { continue };
        arrival.first = arrival.first.min(shown.at - start);
        arrival.all = arrival.all.max(shown.at - start);
        arrival.asked += asked_of(world, publisher, None);
        if shown.sent < start {
            arrival.kept += 1;
            arrival.asked_of_kept += asked_of(world, publisher, Some(shown.encoding));
        }
    }
    world.with(newcomer, |c, _| c.say("leave", json!({})));
    world.run(100 * MS);
    arrival
}

/// So many newcomers, one after the other, to a room of nine.
fn arrivals(world: &mut World, weather: Weather, pauses: &[u32]) -> Vec<Arrival> {
    let people: Vec<usize> = (0..9).map(|n| world.join_at(0, &format!("p{n}"), "r", &BROWSER, weather)).collect();
    world.run(4 * SECOND);
    let one = |pause: &u32| {
        world.run(MS * *pause);
        arrive(world, &people, weather)
    };
    pauses.iter().map(one).collect()
}

fn row(world: &World, name: &str, arrivals: &[Arrival]) -> (Duration, Duration) {
    let mut first: Vec<Duration> = arrivals.iter().map(|a| a.first).collect();
    let mut all: Vec<Duration> = arrivals.iter().map(|a| a.all).collect();
    let sum = |of: fn(&Arrival) -> usize| arrivals.iter().map(of).sum::<usize>();
    let (p95, all) = (quantile(&mut first, 0.95), quantile(&mut all, 0.95));
    let values = [
        ("first picture, p50", format!("{:?}", quantile(&mut first, 0.5))),
        ("p95", format!("{p95:?}")),
        ("a picture of everybody, p95", format!("{all:?}")),
        ("kept", format!("{} of {}", sum(|a| a.kept), arrivals.len() * 9)),
        ("key frames asked for those", sum(|a| a.asked_of_kept).to_string()),
        ("for all", sum(|a| a.asked).to_string()),
    ];
    world.figure(name, &values);
    (p95, all)
}

const LOOPBACK: Weather = Weather { delay: MS, ..FAIR };

/// The tenth one has pictures at once, however long ago the publishers made a key frame.
#[test]
fn a_tenth_person_has_a_picture_soon() {
    simulate("a_tenth_person_has_a_picture_soon", 1, |world| {
        world.signal_delay = MS;
        let arrivals = arrivals(world, LOOPBACK, &[0, 3000, 0, 700, 2000, 500, 4000]);
        let (first, all) = row(world, "join to pictures in a room of ten, loopback", &arrivals);
        world.check(first < 500 * MS, || format!("the first picture came only after {first:?}"));
        world.check(all < SECOND, || format!("a picture of everybody was there only after {all:?}"));
    });
}

#[test]
fn a_tenth_person_has_a_picture_soon_at_home() {
    simulate("a_tenth_person_has_a_picture_soon_at_home", 1, |world| {
        let arrivals = arrivals(world, HOME, &[0, 3000, 500]);
        let (first, _) = row(world, "join to pictures in a room of ten, home", &arrivals);
        world.check(first < 500 * MS, || format!("the first picture came only after {first:?}"));
    });
}

/// What is kept since the last key frame is enough for a first picture: nobody is asked for another one.
#[test]
fn a_newcomer_does_not_trouble_those_whose_pictures_are_kept() {
    simulate("a_newcomer_does_not_trouble_those_whose_pictures_are_kept", 1, |world| {
        world.signal_delay = MS;
        // The first of them may find nothing that is fresh enough; what is made for it is there for the others.
        let arrivals = arrivals(world, LOOPBACK, &[0, 200, 200, 200, 200]);
        row(world, "newcomers close together, room of ten, loopback", &arrivals);
        let kept: usize = arrivals[1..].iter().map(|a| a.kept).sum();
        world.check(kept >= 4 * 9 * 3 / 4, || format!("{kept} of 36 first pictures were kept ones"));
        let asked: usize = arrivals.iter().map(|a| a.asked_of_kept).sum();
        world.check(asked == 0, || format!("{asked} key frames were asked of those whose pictures are kept"));
    });
}
