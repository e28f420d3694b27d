//! Who is there: networks and sockets that go, people who come back in time, and what the others see of that.

use std::time::Duration;

use serde_json::json;

use crate::client::BROWSER;
use crate::net::{DARK, HOME};
use crate::watch::silence;
use crate::world::{MS, SECOND, World};
use crate::{expect_media, simulate};

fn ann_and_bob(world: &mut World) -> (usize, usize) {
    let (ann, bob) = (world.join_at(0, "ann", "r", &BROWSER, HOME), world.join_at(0, "bob", "r", &BROWSER, HOME));
    expect_media(world, &[ann, bob], 3 * SECOND);
    world.run(SECOND);
    (ann, bob)
}

/// What somebody was told of others since then, in order.
fn told(world: &World, who: usize, since: Duration) -> Vec<String> {
    let texts = world.clients[who].texts.iter().filter(|(at, _)| *at > since);
    texts
        .filter_map(|(_, text)| match text["type"].as_str()? {
            "user-updated" => text["data"]["connection"].as_str().map(str::to_owned),
            kind @ ("user-left" | "user-joined") => Some(kind.to_owned()),
            _ => None,
        })
        .collect()
}

fn expect_told(world: &mut World, who: usize, since: Duration, until: Duration, what: &[&str]) -> Duration {
    world.expect(&format!("it is told {what:?}"), since + until - world.now, |w| told(w, who, since) == what);
    world.now - since
}

#[test]
fn a_network_that_vanishes() {
    simulate("a_network_that_vanishes", 1, |world| {
        world.dark_holds_talk = true;
        // Whatever comes last: media, or a word that took longer.
        for (signal_delay, after) in [(15 * MS, 0), (15 * MS, 500), (400 * MS, 0)] {
            world.signal_delay = signal_delay;
            let (ann, bob) = ann_and_bob(world);
            world.run(MS * after);
            let start = world.now;
            world.with(ann, |c, _| c.say("chat", json!({"text": "the line is bad"})));
            world.set_weather(ann, DARK);
            let lost = expect_told(world, bob, start, 15 * SECOND, &["lost"]);
            let gone = expect_told(world, bob, start, 31 * SECOND, &["lost", "user-left"]);
            let values = [("lost after", format!("{lost:?}")), ("gone after", format!("{gone:?}"))];
            world.figure("a network that vanishes", &values);
            // Not at every short trouble.
            world.check(lost > 10 * SECOND, || format!("it was called lost after {lost:?} already"));
            world.check(gone > 29 * SECOND, || format!("it was called gone after {gone:?} already"));
            world.with(bob, |c, _| c.say("leave", json!({})));
            world.run(SECOND);
        }
    });
}

#[test]
fn a_socket_that_closes() {
    simulate("a_socket_that_closes", 1, |world| {
        let (ann, bob) = ann_and_bob(world);
        let start = world.now;
        world.lose_socket(ann, true);
        let lost = expect_told(world, bob, start, SECOND, &["lost"]);
        world.run(25 * SECOND);
        let gap = silence(world, bob, ann, start);
        world.check(gap <= 200 * MS, || format!("media stopped for {gap:?}, and its way is as good as ever"));
        let gone = expect_told(world, bob, start, 31 * SECOND, &["lost", "user-left"]);
        let values = [("lost after", format!("{lost:?}")), ("gone after", format!("{gone:?}"))];
        world.figure("a socket that closes", &values);
        world.check(lost <= 100 * MS, || format!("it was called lost only after {lost:?}"));
        world.check(gone > 29 * SECOND, || format!("it was called gone after {gone:?} already"));
        // The token is of no use any more.
        world.resume(ann);
        expect_told(world, bob, start, 33 * SECOND, &["lost", "user-left", "user-joined"]);
        world.check(world.clients[ann].resumes == 0, || "a session that is gone was resumed".into());
        expect_media(world, &[ann, bob], 3 * SECOND);
    });
}

/// Whoever comes back in time was never away: others see the connection lost and back, media goes on meanwhile.
#[test]
fn somebody_who_comes_back() {
    simulate("somebody_who_comes_back", 1, |world| {
        let (ann, bob) = ann_and_bob(world);
        let rows = [(0, true), (2, true), (28, true), (0, false), (5, false)];
        for (number, (away, is_noticed)) in rows.into_iter().enumerate() {
            let start = world.now;
            world.lose_socket(ann, is_noticed);
            world.run(SECOND * away + 300 * MS);
            world.resume(ann);
            world.expect("it joins again", SECOND, |w| w.clients[ann].joined);
            world.run(2 * SECOND);
            let told = told(world, bob, start);
            let right: &[&str] = if is_noticed { &["lost", "ok"] } else { &[] };
            world.check(told == right, || format!("{away} s without a socket, noticed {is_noticed}: {told:?}"));
            let resumes = world.clients[ann].resumes;
            world.check(resumes == number as u32 + 1, || format!("{resumes} of {} joins were resumed", number + 1));
            let gap = silence(world, bob, ann, start).max(silence(world, ann, bob, start));
            world.check(gap <= 200 * MS, || format!("media stopped for {gap:?} while it was away for {away} s"));
            expect_media(world, &[ann, bob], SECOND);
        }
        let connections = world.clients[ann].connections;
        world.check(connections == 1, || format!("{connections} media connections"));
    });
}

/// The whole network is gone and another one is there: another socket from another address, and the same media connection.
#[test]
fn somebody_who_changes_networks() {
    simulate("somebody_who_changes_networks", 1, |world| {
        let (ann, bob) = ann_and_bob(world);
        world.clients[ann].set_check_interval(SECOND);
        for away in [1, 8, 20] {
            let start = world.now;
            world.lose_socket(ann, true);
            world.set_weather(ann, DARK);
            world.run(SECOND * away);
            world.rebind(ann);
            world.set_weather(ann, HOME);
            world.resume(ann);
            let back = world.now;
            world.expect("it joins again", SECOND, |w| w.clients[ann].joined);
            world.with(ann, |c, now| c.restart_ice(now));
            expect_media(world, &[ann, bob], 2 * SECOND);
            let media = world.now - back;
            world.figure(&format!("another network after {away} s"), &[("media after", format!("{media:?}"))]);
            world.run(2 * SECOND);
            let told = told(world, bob, start);
            world.check(told == ["lost", "ok"], || format!("{away} s without a network: {told:?}"));
        }
        let resumes = world.clients[ann].resumes;
        world.check(resumes == 3, || format!("{resumes} of 3 joins were resumed"));
    });
}
