//! Messages on data channels: to the room, to one person, over lines that lose, and to whoever reads too slowly.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{BROWSER, DataMessage, Plan};
use crate::net::{FAIR, HOME, Weather};
use crate::simulate;
use crate::world::{MS, SECOND, World};

/// People without media whose channels are open.
fn people(world: &mut World, names: &[&str], weather: Weather) -> Vec<usize> {
    let plan = Plan { audio: false, video: false, data: true, ..BROWSER };
    let people: Vec<usize> = names.iter().map(|name| world.join_at(0, name, "r", &plan, weather)).collect();
    let open =
        |w: &World| people.iter().all(|p| ["reliable", "lossy"].iter().all(|label| w.clients[*p].is_open(label)));
    world.expect("all channels are open", 5 * SECOND, open);
    people
}

fn say(world: &mut World, who: usize, label: &str, binary: bool, data: &[u8]) -> bool {
    let mut taken = false;
    world.with(who, |c, now| taken = c.send_data(now, label, binary, data));
    taken
}

fn messages<'a>(world: &'a World, who: usize, label: &str) -> Vec<&'a DataMessage> {
    world.clients[who].messages.iter().filter(|m| m.label == label).collect()
}

#[test]
fn messages_to_the_room_and_to_one() {
    simulate("messages_to_the_room_and_to_one", 1, |world| {
        let [ann, bob, cid] = people(world, &["ann", "bob", "cid"], HOME)[..] else { return };
        for label in ["reliable", "lossy"] {
            let rows: [(bool, Vec<u8>, &[usize]); 4] = [
                (false, json!({"data": {"text": "to all"}}).to_string().into(), &[bob, cid]),
                (false, json!({"to": "cid", "data": 2}).to_string().into(), &[cid]),
                (true, [&[0][..], b"bytes for all"].concat(), &[bob, cid]),
                (true, [&[3][..], b"bob", b"bytes for bob"].concat(), &[bob]),
            ];
            for (is_binary, data, receivers) in rows {
                let before: Vec<usize> = [ann, bob, cid].iter().map(|p| messages(world, *p, label).len()).collect();
                let taken = say(world, ann, label, is_binary, &data);
                world.check(taken, || format!("{label} takes nothing"));
                world.run(300 * MS);
                for (number, who) in [ann, bob, cid].into_iter().enumerate() {
                    let got: Vec<(bool, Vec<u8>)> = messages(world, who, label)[before[number]..]
                        .iter()
                        .map(|m| (m.binary, m.data.clone()))
                        .collect();
                    let right = match receivers.contains(&who) {
                        true => vec![(is_binary, as_relayed(is_binary, &data))],
                        false => Vec::new(),
                    };
                    let is_same = got.len() == right.len()
                        && got
                            .iter()
                            .zip(&right)
                            .all(|(got, right)| got.0 == right.0 && is_same(got.0, &got.1, &right.1));
                    world.check(is_same, || format!("{who} got {got:?} on {label} and not {right:?}"));
                }
            }
        }
    });
}

/// What of Ann's comes out at the other end.
fn as_relayed(is_binary: bool, data: &[u8]) -> Vec<u8> {
    if is_binary {
        let payload = &data[1 + usize::from(data[0])..];
        return [&[3][..], b"ann", payload].concat();
    }
    let mut message: Value = serde_json::from_slice(data).expect("it is JSON");
    message["from"] = json!("ann");
    message.to_string().into()
}

fn is_same(is_binary: bool, a: &[u8], b: &[u8]) -> bool {
    let parsed = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
    if is_binary { a == b } else { parsed(a).is_some() && parsed(a) == parsed(b) }
}

/// The numbers of what came on a channel, and how long the slowest of it took.
fn numbers(world: &World, who: usize, label: &str) -> (Vec<u64>, Duration) {
    let mut slowest = Duration::ZERO;
    let of = |m: &&DataMessage| {
        let message: Value = serde_json::from_slice(&m.data).ok()?;
        let sent = Duration::from_millis(message["data"]["sent"].as_u64()?);
        slowest = slowest.max(m.at.saturating_sub(sent));
        message["data"]["n"].as_u64()
    };
    let numbers = messages(world, who, label).iter().filter_map(of).collect();
    (numbers, slowest)
}

/// Reliable is complete and in order; what is lossy is late by nothing but its way, and no more than the line loses is missing.
#[test]
fn messages_over_lines_that_lose() {
    simulate("messages_over_lines_that_lose", 1, |world| {
        let [ann, bob] = people(world, &["ann", "bob"], HOME)[..] else { return };
        world.set_weather_all(HOME.lossy(0.05));
        let count = 400;
        let padding = "x".repeat(400);
        for n in 0..count {
            for label in ["reliable", "lossy"] {
                let data =
                    json!({"data": {"n": n, "sent": world.now.as_millis() as u64, "padding": padding}}).to_string();
                let taken = say(world, ann, label, false, data.as_bytes());
                world.check(taken, || format!("{label} takes nothing"));
            }
            world.run(25 * MS);
        }
        world.run(5 * SECOND);
        let (reliable, slowest) = numbers(world, bob, "reliable");
        let (lossy, slowest_lossy) = numbers(world, bob, "lossy");
        let share = lossy.len() as f64 / count as f64;
        let values = [
            ("reliable", format!("{} of {count}", reliable.len())),
            ("slowest", format!("{slowest:?}")),
            ("lossy", format!("{} of {count}", lossy.len())),
            ("slowest", format!("{slowest_lossy:?}")),
        ];
        world.figure("messages, 5 % loss on both lines", &values);
        world.check(reliable == (0..count).collect::<Vec<u64>>(), || format!("reliable: {reliable:?}"));
        world.check(slowest <= 5 * SECOND, || format!("a reliable message took {slowest:?}"));
        // 0.95 squared is 0.90.
        world.check((0.8..0.999).contains(&share), || format!("lossy: {share}"));
        let mut once = lossy.clone();
        once.sort();
        once.dedup();
        world.check(once.len() == lossy.len(), || format!("lossy, some of it twice: {lossy:?}"));
    });
}

/// More than a line takes: what is lossy is dropped, a reliable channel is closed, and neither waits for long.
#[test]
fn messages_for_who_reads_too_slowly() {
    simulate("messages_for_who_reads_too_slowly", 1, |world| {
        let [ann, bob, cid] = people(world, &["ann", "bob", "cid"], FAIR)[..] else { return };
        world.set_down(bob, FAIR.narrow(1000));
        let padding = "x".repeat(16_000);
        for label in ["lossy", "reliable"] {
            let start = world.now;
            // 3 Mb/s for eight seconds are three times of what may wait.
            for n in 0..192 {
                let data =
                    json!({"data": {"n": n, "sent": world.now.as_millis() as u64, "padding": padding}}).to_string();
                say(world, ann, label, false, data.as_bytes());
                world.run(42 * MS);
            }
            let stopped = world.now;
            world.run(15 * SECOND);
            let last = messages(world, bob, label).iter().map(|m| m.at).max().unwrap_or(start);
            let (to_bob, slowest) = numbers(world, bob, label);
            let (to_cid, _) = numbers(world, cid, label);
            let values = [
                ("to the slow one", format!("{} of 192", to_bob.len())),
                ("slowest", format!("{slowest:?}")),
                ("to another", format!("{} of 192", to_cid.len())),
                ("last after the end", format!("{:?}", last.saturating_sub(stopped))),
            ];
            world.figure(&format!("3 Mb/s of {label} messages, a line of 1 Mb/s"), &values);
            // The mebibyte that may wait for the slow one takes that line 8.4 s.
            world.check(slowest <= 14 * SECOND, || format!("a {label} message waited for {slowest:?}"));
            world.check((50..150).contains(&to_bob.len()), || format!("{} {label} messages came", to_bob.len()));
            world.check(to_bob.is_sorted() || label == "lossy", || {
                format!("{label} messages in this order: {to_bob:?}")
            });
            world.check(to_cid.len() == 192, || format!("somebody else has {} {label} messages", to_cid.len()));
            let overloaded = world.clients[bob].errors.iter().filter(|code| *code == "overloaded").count();
            let is_told = (overloaded > 0) == (label == "reliable");
            world.check(is_told, || format!("told {overloaded} times of a channel that was closed, {label}"));
        }
    });
}
