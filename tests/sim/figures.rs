//! The figures of media quality: what arrives, and how fast it recovers, in weather that is stated. Each prints rows of the
//! table in `benches/RESULTS.md` (`cargo test --test sim figures -- --show-output`).

use std::time::Duration;

use crate::client::{BROWSER, Plan, Voice};
use crate::encoder::SVC;
use crate::net::{DARK, FAIR, HOME, Weather};
use crate::payload::Source;
use crate::watch::{LATE, expect_width, frozen, percent, silence};
use crate::world::{MS, SECOND, World};
use crate::{expect_media, simulate};

#[test]
fn simulcast_arrives_in_its_best_layer() {
    simulate("simulcast_arrives_in_its_best_layer", 1, |world| {
        let people = [
            world.join_at(0, "ann", "r", &BROWSER, HOME),
            world.join_at(0, "bob", "r", &Plan { mode: crate::TRACKS.mode, ..BROWSER }, HOME),
        ];
        expect_media(world, &people, 3 * SECOND);
        for (to, from) in [(0, 1), (1, 0)] {
            expect_width(world, people[to], people[from], Source::Camera, 1280, 8 * SECOND);
        }
        // Its temporal layers come one after the other.
        world.run(5 * SECOND);
        for (to, from) in [(0, 1), (1, 0)] {
            world.expect("all its temporal layers", 3 * SECOND, |w| {
                let since = w.now.saturating_sub(SECOND);
                w.clients[people[to]].shown_of(people[from] as u32, Source::Camera, since).len() >= 29
            });
        }
        for person in people {
            let active = world.clients[person].active_encodings(Source::Camera);
            world.check(active.last() == Some(&true), || format!("{person} sends {active:?}"));
        }
        let start = world.now;
        world.run(3 * SECOND);
        for (to, from) in [(0, 1), (1, 0)] {
            let frozen = frozen(world, people[to], people[from], start);
            world.check(frozen.is_zero(), || format!("the picture stood still for {frozen:?}"));
            let pictures = world.clients[people[to]].shown_of(people[from] as u32, Source::Camera, start).len();
            world.check(pictures >= 88, || format!("{pictures} pictures in three seconds"));
        }
        let feedback = world.counters.twcc_up;
        world.check(feedback > 20, || format!("{feedback} reports of arrival times"));
    });
}

/// Scalable video, and a screen beside the camera, which says that it is one.
#[test]
fn scalable_video_and_a_screen() {
    simulate("scalable_video_and_a_screen", 1, |world| {
        let plan = Plan { camera: SVC, ..BROWSER };
        let people = [world.join("ann", "r", &plan), world.join("bob", "r", &plan)];
        expect_media(world, &people, 3 * SECOND);
        expect_width(world, people[1], people[0], Source::Camera, 1280, 2 * SECOND);
        world.run(SECOND);
        let shown = world.clients[people[1]].shown_of(people[0] as u32, Source::Camera, world.now - 500 * MS);
        let layers: std::collections::BTreeSet<(u8, u8)> = shown.iter().map(|s| (s.spatial, s.temporal)).collect();
        world.check(layers == [(2, 0), (2, 1), (2, 2)].into(), || format!("layers {layers:?} were shown"));
        world.with(people[0], |c, now| c.share(now, true));
        expect_width(world, people[1], people[0], Source::Screen, 1920, 2 * SECOND);
        let start = world.now;
        world.run(2 * SECOND);
        let pictures = world.clients[people[1]].shown_of(people[0] as u32, Source::Screen, start).len();
        world.check(pictures >= 38, || format!("{pictures} pictures of the screen in two seconds"));
        world.with(people[0], |c, now| c.share(now, false));
        let is_screen = |(_, source): &(String, Option<Source>)| *source == Some(Source::Screen);
        world.expect("the screen is withdrawn", SECOND, |w| !w.clients[people[1]].tracks.values().any(is_screen));
    });
}

/// Redundancy brings back what was lost alone; what a browser sends covers one packet.
#[test]
fn redundant_audio() {
    simulate("redundant_audio", 1, |world| {
        let talks = Plan { video: false, ..BROWSER };
        let people = [world.join("ann", "r", &talks), world.join("bob", "r", &talks)];
        expect_media(world, &people, 3 * SECOND);
        world.set_down(people[1], HOME.lossy(0.1));
        let start = world.now;
        world.run(20 * SECOND);
        let share = world.clients[people[1]].audio_share(&world.clients[people[0]], (start, world.now - SECOND), LATE);
        world.check((0.86..0.94).contains(&share.alone), || format!("{share:?}"));
        world.check(share.delivered > 0.98, || format!("{share:?}"));
        // Silence that is not sent makes the distance of packets larger, and the numbers stay right.
        world.clients[people[0]].voice = Voice::Dtx;
        world.run(3 * SECOND);
        world.clients[people[0]].voice = Voice::Silence;
        world.run(SECOND);
    });
}

/// A client measures its own line and sends what that can carry.
#[test]
fn a_narrow_line_up() {
    simulate("a_narrow_line_up", 1, |world| {
        let plan = Plan { bwe: true, ..BROWSER };
        let people = [world.join_at(0, "ann", "r", &plan, HOME), world.join_at(0, "bob", "r", &BROWSER, HOME)];
        expect_media(world, &people, 3 * SECOND);
        expect_width(world, people[1], people[0], Source::Camera, 1280, 8 * SECOND);
        world.set_up(people[0], HOME.narrow(500));
        let start = world.now;
        world.run(15 * SECOND);
        let share = world.clients[people[1]].audio_share(&world.clients[people[0]], (start, world.now - SECOND), LATE);
        let frozen = frozen(world, people[1], people[0], start);
        let estimate = world.clients[people[0]].estimate.unwrap_or(0) / 1000;
        let values = [
            ("audio", percent(share.delivered)),
            ("frozen", format!("{frozen:.1?} of 15 s")),
            ("estimate", format!("{estimate} kb/s")),
        ];
        world.figure("500 kb/s up, with the client's own estimate", &values);
        world.check(share.delivered > 0.8, || format!("{share:?}"));
        world.check(estimate < 500, || format!("the estimate is still {estimate} kb/s"));
        expect_width(world, people[1], people[0], Source::Camera, 320, SECOND);
    });
}

#[test]
fn data_channels_open() {
    simulate("data_channels_open", 1, |world| {
        let plan = Plan { data: true, ..BROWSER };
        let people = [world.join("ann", "r", &plan), world.join("bob", "r", &plan)];
        expect_media(world, &people, 3 * SECOND);
        for label in ["reliable", "lossy"] {
            let mut sent = false;
            let open = |world: &mut World, sent: &mut bool| {
                world.with(people[0], |c, now| *sent |= c.send_data(now, label, false, b"{\"data\":1}"));
            };
            for _ in 0..20 {
                if !sent {
                    open(world, &mut sent);
                    world.run(50 * MS);
                }
            }
            world.check(sent, || format!("{label} does not open"));
        }
    });
}

/// New credentials while media flows, from the client's side and from the server's.
#[test]
fn ice_restarts_under_media() {
    simulate("ice_restarts_under_media", 1, |world| {
        let people = [world.join_at(0, "ann", "r", &BROWSER, HOME), world.join_at(0, "bob", "r", &BROWSER, HOME)];
        expect_media(world, &people, 3 * SECOND);
        world.run(SECOND);
        for side in ["client", "server"] {
            for _ in 0..3 {
                let start = world.now;
                world.with(people[0], |c, now| match side {
                    "client" => c.restart_ice(now),
                    _ => c.say("restart-ice", serde_json::json!({})),
                });
                world.run(3 * SECOND);
                let gap = silence(world, people[0], people[1], start).max(silence(world, people[1], people[0], start));
                world.figure(&format!("ICE restart by the {side}"), &[("audio gap", format!("{gap:?}"))]);
                world.check(gap <= 500 * MS, || format!("no audio for {gap:?} at an ICE restart by the {side}"));
            }
        }
    });
}

#[test]
fn rebinding_every_five_seconds() {
    simulate("rebinding_every_five_seconds", 1, |world| {
        let people = [world.join_at(0, "ann", "r", &BROWSER, HOME), world.join_at(0, "bob", "r", &BROWSER, HOME)];
        for person in people {
            world.clients[person].set_check_interval(SECOND);
        }
        expect_media(world, &people, 3 * SECOND);
        let mut worst = Duration::ZERO;
        for _ in 0..12 {
            let start = world.now;
            world.rebind(people[0]);
            world.run(5 * SECOND);
            worst = worst.max(silence(world, people[0], people[1], start));
        }
        world.figure("NAT rebinding every 5 s for a minute", &[("worst audio gap", format!("{worst:?}"))]);
        world.check(worst <= 1500 * MS, || format!("no audio for {worst:?} after a rebinding"));
        let left = world.clients[people[1]].texts_of("user-left").count();
        world.check(left == 0, || "somebody left".into());
    });
}

/// Loss that comes in bursts: the model has the share and the length it is asked for.
#[test]
fn bursts_of_loss() {
    for burst in [5.0, 30.0] {
        simulate("bursts_of_loss", 1, |world| {
            let people = [world.join_at(0, "ann", "r", &BROWSER, HOME), world.join_at(0, "bob", "r", &BROWSER, HOME)];
            expect_media(world, &people, 3 * SECOND);
            world.set_weather(people[1], Weather { loss: 0.05, burst, ..HOME });
            let before = world.counts(people[1]).1;
            world.run(20 * SECOND);
            let after = world.counts(people[1]).1;
            let share = (after.lost - before.lost) as f64 / (after.datagrams - before.datagrams) as f64;
            world.check((0.01..0.12).contains(&share), || format!("{share} was lost"));
            world.set_weather(people[1], FAIR);
            expect_media(world, &people, 3 * SECOND);
        });
    }
}

/// What one direction of a subscriber's or a publisher's line does to what the subscriber hears and sees.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    audio: f64,
    alone: f64,
    with_fec: f64,
    gap: Duration,
    frozen: Duration,
    time: Duration,
    /// Key frames that the subscriber asked for.
    asked: usize,
    /// Share of the pictures that came in the largest size.
    top: f64,
    /// From camera to screen, the median.
    latency: Duration,
    pictures: f64,
    is_alive: bool,
}

impl Outcome {
    fn row(&self, world: &World, what: &str) {
        let values = [
            ("audio", percent(self.audio)),
            ("packets alone", percent(self.alone)),
            ("with FEC", percent(self.with_fec)),
            ("longest gap", format!("{:?}", self.gap)),
            ("video frozen", format!("{:.1} of {:.0} s", self.frozen.as_secs_f64(), self.time.as_secs_f64())),
            ("pictures", format!("{:.1}/s", self.pictures)),
            ("top layer", percent(self.top)),
            ("latency", format!("{:?}", self.latency)),
            ("key frames asked", self.asked.to_string()),
        ];
        world.figure(what, &values);
    }
}

/// Ann publishes, Bob listens; the weather is on one direction of one of their lines.
fn outcome(world: &mut World, is_down: bool, weather: Weather, time: Duration) -> Outcome {
    let ann = world.join_at(0, "ann", "r", &BROWSER, HOME);
    let bob = world.join_at(0, "bob", "r", &BROWSER, HOME);
    expect_media(world, &[ann, bob], 3 * SECOND);
    expect_width(world, bob, ann, Source::Camera, 1280, 8 * SECOND);
    if is_down {
        world.set_down(bob, weather);
    } else {
        world.set_up(ann, weather);
    }
    // What left before the change is not on the same way.
    world.run(weather.delay + weather.jitter + 100 * MS);
    let start = world.now;
    world.run(time + SECOND);
    let until = world.now - SECOND;
    let client = &world.clients[bob];
    let audio = client.audio_share(&world.clients[ann], (start, until), LATE + weather.delay);
    let shown = client.shown_of(ann as u32, Source::Camera, start);
    let asked =
        client.decoder_of(ann as u32, Source::Camera).map_or(0, |d| d.asked.iter().filter(|at| **at > start).count());
    let mut latencies: Vec<Duration> = shown.iter().map(|s| s.at.saturating_sub(s.sent)).collect();
    latencies.sort();
    let is_alive = client.connected && world.clients[ann].connected && client.connections == 1;
    Outcome {
        audio: audio.delivered,
        alone: audio.alone,
        with_fec: audio.with_fec,
        gap: audio.gap,
        frozen: frozen(world, bob, ann, start),
        time,
        asked,
        top: shown.iter().filter(|s| s.width == 1280).count() as f64 / shown.len().max(1) as f64,
        latency: latencies.get(latencies.len() / 2).copied().unwrap_or_default(),
        pictures: shown.len() as f64 / (time + SECOND).as_secs_f64(),
        is_alive,
    }
}

fn holds_up(world: &mut World, outcome: &Outcome, audio: f64, frozen: Duration) {
    world.check(outcome.audio >= audio, || format!("{} of the audio came", percent(outcome.audio)));
    world.check(outcome.frozen <= frozen, || format!("the picture stood still for {:?}", outcome.frozen));
}

/// Downlink rows are held to bounds, uplink rows are reported beside them.
fn weather_rows(test: &str, name: &str, weather: Weather, time: Duration, holds: impl Fn(&mut World, Outcome)) {
    simulate(test, 1, |world| {
        let down = outcome(world, true, weather, time);
        down.row(world, &format!("{name}, down"));
        world.check(down.is_alive, || format!("{name}: the connection did not survive"));
        holds(world, down);
    });
    simulate(test, 1, |world| {
        let up = outcome(world, false, weather, time);
        up.row(world, &format!("{name}, up"));
        world.check(up.is_alive, || format!("{name}: the publisher's connection did not survive"));
    });
}

#[test]
fn loss_of_1_percent() {
    weather_rows("loss_of_1_percent", "1 % loss", HOME.lossy(0.01), 20 * SECOND, |world, o| {
        holds_up(world, &o, 0.999, SECOND)
    });
}
#[test]
fn loss_of_5_percent() {
    weather_rows("loss_of_5_percent", "5 % loss", HOME.lossy(0.05), 20 * SECOND, |world, o| {
        holds_up(world, &o, 0.99, SECOND)
    });
}
#[test]
fn loss_of_10_percent() {
    weather_rows("loss_of_10_percent", "10 % loss", HOME.lossy(0.1), 30 * SECOND, |world, o| {
        world.check(o.audio >= 0.995, || format!("{} of the audio came", percent(o.audio)));
    });
}
#[test]
fn loss_of_20_percent() {
    weather_rows("loss_of_20_percent", "20 % loss", HOME.lossy(0.2), 30 * SECOND, |world, o| {
        world.check(o.audio >= 0.97, || format!("{} of the audio came", percent(o.audio)));
    });
}
#[test]
fn loss_of_30_percent() {
    weather_rows("loss_of_30_percent", "30 % loss", HOME.lossy(0.3), 60 * SECOND, |world, o| {
        // That the connection survives is asked of every row.
        world.check(o.audio >= 0.9, || format!("{} of the audio came", percent(o.audio)));
    });
}
#[test]
fn loss_in_bursts_of_5() {
    weather_rows(
        "loss_in_bursts_of_5",
        "5 % loss in bursts of 5",
        Weather { burst: 5.0, ..HOME.lossy(0.05) },
        20 * SECOND,
        |_, _| {},
    );
}
#[test]
fn loss_in_bursts_of_30() {
    weather_rows(
        "loss_in_bursts_of_30",
        "5 % loss in bursts of 30",
        Weather { burst: 30.0, ..HOME.lossy(0.05) },
        20 * SECOND,
        |_, _| {},
    );
}
#[test]
fn jitter_of_50_ms() {
    weather_rows("jitter_of_50_ms", "50 ms jitter", Weather { jitter: 50 * MS, ..HOME }, 10 * SECOND, |world, o| {
        holds_up(world, &o, 0.999, 5 * SECOND)
    });
}
#[test]
fn reorder_of_5_percent() {
    weather_rows(
        "reorder_of_5_percent",
        "5 % reordered",
        Weather { reorder: 0.05, ..HOME },
        10 * SECOND,
        // The estimator may take what overtakes for a queue; then a layer is lowered once, while its packets wait in the pacer.
        |world, o| holds_up(world, &o, 0.999, SECOND),
    );
}
#[test]
fn delay_of_500_ms() {
    weather_rows("delay_of_500_ms", "500 ms delay", Weather { delay: 500 * MS, ..HOME }, 10 * SECOND, |world, o| {
        holds_up(world, &o, 0.999, SECOND)
    });
}
#[test]
fn cap_of_500_kbps() {
    weather_rows("cap_of_500_kbps", "500 kb/s", HOME.narrow(500), 20 * SECOND, |_, _| {});
}

/// A client loses its socket and comes with another one.
#[test]
fn a_socket_is_lost() {
    simulate("a_socket_is_lost", 1, |world| {
        let people = [world.join_at(0, "ann", "r", &BROWSER, HOME), world.join_at(0, "bob", "r", &BROWSER, HOME)];
        expect_media(world, &people, 3 * SECOND);
        for _ in 0..2 {
            world.lose_socket(people[0], true);
            world.run(2 * SECOND);
            world.resume(people[0]);
            world.expect("it joins again", SECOND, |w| w.clients[people[0]].joined);
            expect_media(world, &people, 3 * SECOND);
        }
    });
}

/// A line on which nothing passes for a while: media is there again within a second of its end.
#[test]
fn blackouts() {
    simulate("blackouts", 1, |world| {
        world.dark_holds_talk = true;
        let people = [world.join_at(0, "ann", "r", &BROWSER, HOME), world.join_at(0, "bob", "r", &BROWSER, HOME)];
        expect_media(world, &people, 3 * SECOND);
        for time in [500 * MS, 3 * SECOND, 10 * SECOND, 25 * SECOND] {
            world.set_weather(people[0], DARK);
            world.run(time);
            world.set_weather(people[0], HOME);
            let start = world.now;
            expect_media(world, &people, 10 * SECOND);
            let media = world.now - start;
            let shown = |w: &World, to: usize, from: usize| {
                !w.clients[to].shown_of(from as u32, Source::Camera, start).is_empty()
            };
            world.wait(10 * SECOND, |w| shown(w, people[0], people[1]) && shown(w, people[1], people[0]));
            let picture = world.now - start;
            let values = [("media after", format!("{media:?}")), ("picture after", format!("{picture:?}"))];
            world.figure(&format!("blackout of {time:?}"), &values);
            world.check(media <= SECOND, || format!("media is back only {media:?} after a blackout of {time:?}"));
            world.run(5 * SECOND);
        }
    });
}

/// Twenty subscribers ask for a key frame every 50 ms.
#[test]
fn a_storm_of_requests_for_key_frames() {
    simulate("a_storm_of_requests_for_key_frames", 1, |world| {
        let watcher = Plan { audio: false, video: false, audio_slots: 1, video_slots: 1, ..BROWSER };
        let ann = world.join_at(0, "ann", "r", &BROWSER, HOME);
        let people: Vec<usize> = (0..20).map(|n| world.join_at(0, &format!("w{n}"), "r", &watcher, HOME)).collect();
        for person in &people {
            world.expect("everybody sees", 4 * SECOND, |w| w.clients[*person].heard_of(ann as u32, true) > 0);
        }
        world.run(SECOND);
        let start = world.now;
        for _ in 0..100 {
            for person in &people {
                world.with(*person, |c, now| c.request_keyframes(now));
            }
            world.run(50 * MS);
        }
        let rids: Vec<_> = BROWSER.camera.encodings.iter().map(|e| e.rid).collect();
        for rid in rids {
            let asked = world.clients[ann].keyframe_requests.iter().filter(|a| a.at > start);
            let of: Vec<Duration> =
                asked.filter(|a| a.rid.map(|r| r.to_string()).as_deref() == rid).map(|a| a.at).collect();
            let least = of.windows(2).map(|w| w[1] - w[0]).min().unwrap_or(Duration::MAX);
            let bound = if rid == Some("h") { 495 * MS } else { 195 * MS };
            let closest = if of.len() > 1 { format!("{least:?}") } else { "-".into() };
            let values = [("requests", of.len().to_string()), ("closest", closest)];
            world.figure(&format!("2000 requests for key frames in 5 s, layer {}", rid.unwrap_or("")), &values);
            world.check(least >= bound, || format!("two requests within {least:?} for {rid:?}"));
        }
    });
}

/// Nobody tells what arrives, and nothing is known of the line: it gets the best there is, and without waiting.
#[test]
fn a_player_without_feedback() {
    simulate("a_player_without_feedback", 1, |world| {
        let ann = world.join_at(0, "ann", "r", &BROWSER, HOME);
        let ben = world.join_at(0, "ben", "r", &BROWSER, HOME);
        let watcher = Plan { audio: false, video: false, no_feedback: true, ..BROWSER };
        let bob = world.join_at(0, "bob", "r", &watcher, HOME);
        world.run(5 * SECOND);
        let start = world.now;
        world.run(5 * SECOND);
        for from in [ann, ben] {
            let shown = world.clients[bob].shown_of(from as u32, Source::Camera, start);
            let best = shown.iter().filter(|s| s.width == 1280).count();
            let latest = shown.iter().map(|s| s.at - s.sent).max().unwrap_or(SECOND * 99);
            world.figure(
                "without feedback",
                &[("pictures", format!("{best} of {}", shown.len())), ("latest", format!("{latest:?}"))],
            );
            world.check(best >= 140 && shown.len() == best, || {
                format!("{best} of {} pictures in the best size", shown.len())
            });
            world.check(latest < 500 * MS, || format!("a picture came {latest:?} late"));
        }
    });
}
