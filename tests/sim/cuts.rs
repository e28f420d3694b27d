//! A line that becomes narrow from one moment to the next, and wide again.

use std::time::Duration;

use serde_json::json;

use crate::client::{AudioShare, BROWSER};
use crate::net::HOME;
use crate::payload::Source;
use crate::simulate;
use crate::world::{MS, SECOND, World};

/// What came of it for one who watches another.
struct Cut {
    /// The first picture of a smaller size.
    lower: Duration,
    audio: AudioShare,
    /// The longest time without a picture.
    stillness: Duration,
    /// The best size again, after the line is wide again.
    back: Duration,
}

/// The best size of a camera and no other was shown for a second.
fn is_best(world: &World, to: usize, from: usize) -> bool {
    let shown = world.clients[to].shown_of(from as u32, Source::Camera, world.now.saturating_sub(SECOND));
    shown.len() > 20 && shown.iter().all(|s| s.width == 1280)
}

fn cut(world: &mut World, room: &str) -> Cut {
    let [ann, bob] = ["ann", "bob"].map(|name| world.join_at(0, &format!("{name}-{room}"), room, &BROWSER, HOME));
    world.expect("the best size", 20 * SECOND, |w| is_best(w, bob, ann));

    world.set_down(bob, HOME.narrow(500));
    let start = world.now;
    let is_lower = |w: &World| {
        w.clients[bob].shown_of(ann as u32, Source::Camera, start).iter().any(|s| s.width < 1280 && s.sent >= start)
    };
    let lower = world.expect("a smaller size", 10 * SECOND, is_lower);
    world.run((start + 15 * SECOND).saturating_sub(world.now));
    let audio = world.clients[bob].audio_share(&world.clients[ann], (start, world.now - SECOND), 400 * MS);
    let shown = world.clients[bob].shown_of(ann as u32, Source::Camera, start);
    let stillness = shown.windows(2).map(|w| w[1].at - w[0].at).max().unwrap_or(15 * SECOND);
    world.check(audio.delivered >= 0.95, || format!("audio: {audio:?}"));

    world.set_down(bob, HOME);
    let is_back = |w: &World| w.clients[bob].width_of(w.now, ann as u32, Source::Camera) == 1280;
    let back = world.expect("the best size again", 20 * SECOND, is_back);
    for person in [ann, bob] {
        world.with(person, |c, _| c.say("leave", json!({})));
    }
    Cut { lower, audio, stillness, back }
}

/// Video goes on in a smaller size within two seconds, audio without a break, and when there is room again the best size is back
/// within ten.
#[test]
fn a_cut_to_500_kbps() {
    simulate("a_cut_to_500_kbps", 1, |world| {
        let cuts: Vec<Cut> = (0..CUTS).map(|number| cut(world, &format!("r{number}"))).collect();
        // Of chance depends what is lost at the cut, and a single one can be unlucky with it.
        let of = |what: fn(&Cut) -> Duration| {
            let mut times: Vec<Duration> = cuts.iter().map(what).collect();
            times.sort();
            (times[CUTS / 2], times[CUTS - 1])
        };
        let rows = [
            ("smaller size after", of(|c| c.lower), 2 * SECOND),
            ("longest gap in audio", of(|c| c.audio.gap), 300 * MS),
            ("longest time without a picture", of(|c| c.stillness), 2 * SECOND),
            ("best size back after", of(|c| c.back), 10 * SECOND),
        ];
        let values = rows.map(|(what, (median, longest), _)| (what, format!("{median:?}, at most {longest:?}")));
        world.figure(&format!("cut to 500 kb/s, median of {CUTS}"), &values);
        for (what, (median, longest), bound) in rows {
            world.check(median <= bound && longest <= bound * 3, || format!("{what}: {median:?}, {longest:?}"));
        }
    });
}

const CUTS: usize = 5;

/// A line that carries voices and no picture: pictures are paused, whoever watches is told, voices go on, and when there is room
/// again pictures come back by themselves.
#[test]
fn a_line_for_voices_alone() {
    simulate("a_line_for_voices_alone", 1, |world| {
        let [ann, bob] = ["ann", "bob"].map(|name| world.join_at(0, name, "r", &BROWSER, HOME));
        world.expect("the best size", 20 * SECOND, |w| is_best(w, bob, ann));
        world.set_down(bob, HOME.narrow(120));
        let paused = |w: &World, is_paused: bool| {
            let told = w.clients[bob].texts_of("layer-changed").last();
            told.is_some_and(|(_, m)| m["data"]["paused"] == is_paused && m["data"]["reason"] == "bandwidth")
        };
        let after = world.expect("the picture is paused", 20 * SECOND, |w| paused(w, true));
        world.run(5 * SECOND);
        let start = world.now;
        world.run(15 * SECOND);
        let audio = world.clients[bob].audio_share(&world.clients[ann], (start, world.now - SECOND), 400 * MS);
        world.set_down(bob, HOME);
        let wide = world.now;
        let is_back = |w: &World| !w.clients[bob].shown_of(ann as u32, Source::Camera, wide).is_empty();
        let back = world.expect("a picture again", 20 * SECOND, is_back);
        let best = back + world.expect("the best size again", 20 * SECOND, |w| is_best(w, bob, ann));
        let values = [
            ("paused after", format!("{after:?}")),
            ("audio", format!("{:.2} %", audio.delivered * 100.0)),
            ("longest gap", format!("{:?}", audio.gap)),
            ("a picture again after", format!("{back:?}")),
            ("the best after", format!("{best:?}")),
        ];
        world.figure("cut to 120 kb/s", &values);
        world.check(audio.delivered >= 0.85, || format!("{audio:?}"));
    });
}
