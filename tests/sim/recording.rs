//! What a shard gives to the thread that records: of whom, from when to when, and what it says when it cannot.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use webrtc_engine::auth::Role;
use webrtc_engine::recording::feed::{Begin, EndReason, Feed, Item, Notice, NoticeKind, Packet, Refusal};

use crate::client::{BROWSER, Plan, SLOTS};
use crate::net::FAIR;
use crate::world::{MS, SECOND, World};
use crate::{expect_media, simulate};

/// Stands for the thread that records.
#[derive(Default)]
pub struct Studio {
    pub answer: Answer,
    pub takes: Vec<Take>,
}

#[derive(Default, Clone, PartialEq)]
pub enum Answer {
    #[default]
    Open,
    Refuse(Refusal),
    /// It has no room for anything.
    Full,
    /// It takes everything, and does nothing about it.
    Stuck,
}

/// One recording.
pub struct Take {
    pub begin: Begin,
    /// When it came, and what.
    pub items: Vec<(Duration, Item)>,
}

impl Studio {
    /// Takes what a shard hands over. What it has to say to that goes to the shard as mail.
    pub fn handle(&mut self, now: Duration, feed: Feed) -> Result<Option<Notice>, Feed> {
        if self.answer == Answer::Full {
            return Err(feed);
        }
        match feed {
            Feed::Begin(begin) => {
                let what = match &self.answer {
                    Answer::Refuse(refusal) => NoticeKind::Refused(refusal.clone()),
                    _ => NoticeKind::Opened,
                };
                let notice = Notice { room: begin.room.clone(), recording: begin.recording.clone(), what };
                self.takes.push(Take { begin: *begin, items: Vec::new() });
                Ok(Some(notice))
            }
            Feed::Batch { recording, items } => {
                let take = self.takes.iter_mut().find(|take| take.begin.recording == recording).expect("it began");
                let octets: usize = items.iter().filter_map(packet).map(|packet| packet.payload.len()).sum();
                if self.answer != Answer::Stuck {
                    take.begin.backlog.fetch_sub(octets, Ordering::Relaxed);
                }
                assert!(!take.has_finished(), "nothing comes after the end");
                take.items.extend(items.into_iter().map(|item| (now, item)));
                Ok(None)
            }
        }
    }
}

impl Take {
    fn has_finished(&self) -> bool {
        matches!(self.items.last(), Some((_, Item::Finish { .. })))
    }

    fn end(&self) -> Option<EndReason> {
        self.items.iter().find_map(|(_, item)| match item {
            Item::Finish { reason, .. } => Some(*reason),
            _ => None,
        })
    }

    fn packets(&self) -> impl Iterator<Item = &Packet> {
        self.items.iter().filter_map(|(_, item)| packet(item))
    }

    /// User and source of each track that was added, by its number.
    fn tracks(&self) -> BTreeMap<u32, (String, &'static str)> {
        let added = self.items.iter().filter_map(|(_, item)| match item {
            Item::TrackAdded { track, .. } => Some((track.number, (track.user.to_string(), track.source))),
            _ => None,
        });
        added.collect()
    }

    fn number(&self, user: &str, source: &str) -> u32 {
        let found = self.tracks().into_iter().filter(|(_, (of, what))| of == user && *what == source);
        found.map(|(number, _)| number).next_back().unwrap_or_else(|| panic!("{user} has a {source}"))
    }

    fn arrivals(&self, track: u32) -> Vec<Instant> {
        self.packets().filter(|packet| packet.track == track).map(|packet| packet.arrival).collect()
    }

    /// Numbers that no packet of a track has, between its first and its last.
    fn missing(&self, track: u32) -> u64 {
        let mut numbers: Vec<u64> = self.packets().filter(|p| p.track == track).map(|p| p.seq_no).collect();
        numbers.sort_unstable();
        let before = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), before, "a number is given once");
        let span = numbers.first().zip(numbers.last()).map_or(0, |(first, last)| last - first + 1);
        span - numbers.len() as u64
    }
}

fn packet(item: &Item) -> Option<&Packet> {
    match item {
        Item::Packet(packet) => Some(packet),
        _ => None,
    }
}

const HOST: Plan = Plan { role: Role::Host, ..BROWSER };
const GUEST: Plan = BROWSER;

/// A host and a guest who see each other.
fn ann_and_bob(world: &mut World) -> (usize, usize) {
    let (ann, bob) = (world.join_at(0, "ann", "r", &HOST, FAIR), world.join_at(0, "bob", "r", &GUEST, FAIR));
    expect_media(world, &[ann, bob], 3 * SECOND);
    (ann, bob)
}

fn has(world: &World, who: usize, kind: &str) -> bool {
    world.clients[who].texts_of(kind).next().is_some()
}

fn record(world: &mut World, who: usize, data: serde_json::Value) {
    world.with(who, |client, _| client.say("start-recording", data));
    world.expect("it is told that the recording began", SECOND, |w| has(w, who, "recording-started"));
}

fn last_error(world: &World, who: usize) -> Option<String> {
    let (_, text) = world.clients[who].texts_of("error").last()?;
    text["data"]["code"].as_str().map(str::to_owned)
}

#[test]
fn everybody_is_told_before_anything_is_taken() {
    simulate("everybody_is_told_before_anything_is_taken", 2, |world| {
        let (ann, bob) = ann_and_bob(world);
        record(world, ann, json!({}));
        let told = world.clients[ann].texts_of("recording-started").next().map(|(at, _)| at).unwrap_or_default();
        world.expect("the other is told as well", SECOND, |w| has(w, bob, "recording-started"));
        world.run(2 * SECOND);
        let carl = world.join_at(1, "carl", "r", &GUEST, FAIR);
        world.expect("it joins", SECOND, |w| has(w, carl, "joined"));
        let (_, joined) = world.clients[carl].texts_of("joined").next().expect("it has joined");
        let (told_id, status) =
            (joined["data"]["recording"]["recordingId"].clone(), joined["data"]["recording"]["status"].clone());
        world.run(2 * SECOND);
        world.with(bob, |client, _| client.say("leave", json!({})));
        world.run(SECOND);
        world.with(carl, |client, _| client.say("leave", json!({})));
        world.with(ann, |client, _| client.say("leave", json!({})));
        world.run(SECOND);

        let take = &world.studio.takes[0];
        assert_eq!((told_id.as_str(), status.as_str()), (Some(take.begin.recording.as_str()), Some("recording")));
        // Within the delay of signaling: what is taken came after the word was sent.
        let began = world.instant(told.saturating_sub(world.signal_delay));
        assert!(take.packets().all(|packet| packet.arrival >= began), "something was taken before");
        let users: Vec<String> = take.tracks().into_values().map(|(user, source)| format!("{user} {source}")).collect();
        for name in ["ann camera", "ann microphone", "bob camera", "bob microphone", "carl camera", "carl microphone"] {
            assert_eq!(users.iter().filter(|user| *user == name).count(), 1, "{name} in {users:?}");
        }
        for (number, (user, source)) in take.tracks() {
            let arrivals = take.arrivals(number);
            assert!(arrivals.len() > 50, "{user}'s {source}: {} packets", arrivals.len());
            assert_eq!(take.missing(number), 0, "{user}'s {source} on a line that loses nothing");
        }
        let left: Vec<String> = take
            .items
            .iter()
            .filter_map(|(_, item)| match item {
                Item::Joined { user, .. } => Some(format!("+{user}")),
                Item::Left { user, .. } => Some(format!("-{user}")),
                _ => None,
            })
            .collect();
        assert_eq!(left, ["+ann", "+bob", "+carl", "-bob", "-carl", "-ann"]);
        assert_eq!(take.end(), Some(EndReason::CallEnded));
        assert_eq!(take.begin.backlog.load(Ordering::Relaxed), 0, "what is under way is accounted for");
    });
}

#[test]
fn the_best_encoding_is_taken_though_nobody_else_watches() {
    simulate("the_best_encoding_is_taken_though_nobody_else_watches", 1, |world| {
        let ann = world.join_at(0, "ann", "r", &HOST, FAIR);
        world.expect("it publishes", 3 * SECOND, |w| w.clients[ann].connected);
        // Nobody watches for so long that encodings are stopped.
        world.run(20 * SECOND);
        record(world, ann, json!({}));
        world.run(5 * SECOND);
        let take = &world.studio.takes[0];
        let camera = take.number("ann", "camera");
        let mut octets: BTreeMap<u32, usize> = BTreeMap::new();
        for packet in take.packets().filter(|packet| packet.track == camera) {
            *octets.entry(packet.ssrc).or_default() += packet.payload.len();
        }
        assert!(octets.values().max() > Some(&200_000), "octets of each encoding: {octets:?}");
    });
}

#[test]
fn what_a_moderator_mutes_is_not_taken() {
    simulate("what_a_moderator_mutes_is_not_taken", 1, |world| {
        let (ann, bob) = ann_and_bob(world);
        record(world, ann, json!({}));
        world.run(2 * SECOND);
        world.with(ann, |client, _| client.say_to("mute", "bob", json!({"kind": "audio"})));
        world.expect("it is muted", SECOND, |w| has(w, bob, "muted"));
        let from = world.now;
        world.run(3 * SECOND);
        let to = world.now;
        world.with(bob, |client, _| client.say("unmute", json!({"kind": "audio"})));
        world.run(2 * SECOND);
        let take = &world.studio.takes[0];
        let microphone = take.number("bob", "microphone");
        let (from, to) = (world.instant(from), world.instant(to));
        let arrivals = take.arrivals(microphone);
        assert_eq!(arrivals.iter().filter(|at| **at > from && **at < to).count(), 0, "packets while it was muted");
        assert!(arrivals.iter().any(|at| *at < from) && arrivals.iter().any(|at| *at > to), "before and after");
        let muted: Vec<bool> = take
            .items
            .iter()
            .filter_map(|(_, item)| match item {
                Item::Muted { track, muted, .. } if *track == microphone => Some(*muted),
                _ => None,
            })
            .collect();
        assert_eq!(muted, [true, false]);
    });
}

#[test]
fn only_what_was_asked_for_is_taken() {
    simulate("only_what_was_asked_for_is_taken", 1, |world| {
        let (ann, _) = ann_and_bob(world);
        let rows = [
            (json!({"audioOnly": true}), vec!["ann microphone", "bob microphone"]),
            (json!({"participants": ["bob"]}), vec!["bob camera", "bob microphone"]),
            (json!({"participants": ["nobody"]}), vec![]),
        ];
        for (number, (data, wanted)) in rows.into_iter().enumerate() {
            world.with(ann, |client, _| client.say("start-recording", data.clone()));
            world.run(2 * SECOND);
            world.with(ann, |client, _| client.say("stop-recording", json!({})));
            world.run(SECOND);
            let take = &world.studio.takes[number];
            let mut tracks: Vec<String> =
                take.tracks().into_values().map(|(user, source)| format!("{user} {source}")).collect();
            tracks.sort();
            assert_eq!(tracks, wanted, "{data}");
            assert_eq!(take.packets().next().is_some(), !wanted.is_empty(), "{data}");
            assert_eq!(take.end(), Some(EndReason::Requested));
        }
    });
}

#[test]
fn starts_stops_and_pauses() {
    simulate("starts_stops_and_pauses", 1, |world| {
        let (ann, bob) = ann_and_bob(world);
        world.with(bob, |client, _| client.say("start-recording", json!({})));
        world.run(200 * MS);
        assert_eq!(last_error(world, bob).as_deref(), Some("forbidden"), "a participant does not record");
        world.with(ann, |client, _| client.say("stop-recording", json!({})));
        world.run(200 * MS);
        assert_eq!(last_error(world, ann).as_deref(), Some("not_recording"));
        world.with(ann, |client, _| client.say("start-recording", json!({"layout": "grid"})));
        world.run(200 * MS);
        assert_eq!(last_error(world, ann).as_deref(), Some("not_available"));

        record(world, ann, json!({}));
        world.with(ann, |client, _| client.say("start-recording", json!({})));
        world.run(200 * MS);
        assert_eq!(last_error(world, ann).as_deref(), Some("recording_active"));
        // Past the server nothing can be recorded.
        world.with(bob, |client, _| client.say_to("offer", "ann", json!({"sdp": "v=0"})));
        world.run(200 * MS);
        assert_eq!(last_error(world, bob).as_deref(), Some("recording_active"));

        world.run(2 * SECOND);
        world.with(ann, |client, _| client.say("pause-recording", json!({})));
        world.expect("everybody is told", SECOND, |w| {
            has(w, ann, "recording-paused") && has(w, bob, "recording-paused")
        });
        world.run(200 * MS);
        let from = world.instant(world.now);
        world.run(2 * SECOND);
        let to = world.instant(world.now);
        world.with(ann, |client, _| client.say("resume-recording", json!({})));
        world.expect("everybody is told", SECOND, |w| {
            has(w, ann, "recording-resumed") && has(w, bob, "recording-resumed")
        });
        world.run(2 * SECOND);
        world.with(ann, |client, _| client.say("stop-recording", json!({})));
        world.expect("everybody is told", SECOND, |w| {
            has(w, ann, "recording-stopped") && has(w, bob, "recording-stopped")
        });
        world.run(SECOND);

        let take = &world.studio.takes[0];
        let paused = take.packets().filter(|packet| packet.arrival > from && packet.arrival < to).count();
        assert_eq!(paused, 0, "packets while it was paused");
        let camera = take.arrivals(take.number("bob", "camera"));
        assert!(camera.iter().any(|at| *at < from) && camera.iter().any(|at| *at > to), "before and after");
        expect_media(world, &[ann, bob], SECOND);
    });
}

#[test]
fn a_thread_that_refuses() {
    simulate("a_thread_that_refuses", 1, |world| {
        let (ann, bob) = ann_and_bob(world);
        let rows = [
            (Answer::Refuse(Refusal::DiskFull), "not_available"),
            (Answer::Refuse(Refusal::TooMany), "overloaded"),
            (Answer::Refuse(Refusal::Failed("no".into())), "internal"),
            (Answer::Full, "overloaded"),
        ];
        for (answer, code) in rows {
            world.studio.answer = answer;
            world.with(ann, |client, _| client.say("start-recording", json!({})));
            world.run(500 * MS);
            assert_eq!(last_error(world, ann).as_deref(), Some(code));
        }
        assert!(!has(world, bob, "recording-started"), "nothing began");
        world.studio.answer = Answer::Open;
        record(world, ann, json!({}));
        expect_media(world, &[ann, bob], SECOND);
    });
}

/// The loop goes on whatever the thread does, and the recording knows what it lacks.
#[test]
fn a_thread_that_has_no_room() {
    simulate("a_thread_that_has_no_room", 1, |world| {
        let (ann, bob) = ann_and_bob(world);
        record(world, ann, json!({}));
        world.run(SECOND);
        for (answer, time) in [(Answer::Full, SECOND), (Answer::Stuck, 60 * SECOND)] {
            world.studio.answer = answer;
            world.run(time);
            world.studio.answer = Answer::Open;
            // What it had not got to is done with.
            let take = &world.studio.takes[0];
            take.begin.backlog.store(0, Ordering::Relaxed);
            world.run(SECOND);
        }
        world.studio.answer = Answer::Full;
        world.with(ann, |client, _| client.say("stop-recording", json!({})));
        world.run(SECOND);
        world.studio.answer = Answer::Open;
        world.run(SECOND);
        expect_media(world, &[ann, bob], SECOND);

        let take = &world.studio.takes[0];
        assert_eq!(take.end(), Some(EndReason::Requested), "the end comes through");
        let mut overflow: BTreeMap<u32, u64> = BTreeMap::new();
        for (_, item) in &take.items {
            if let Item::Overflow { track, packets, .. } = item {
                *overflow.entry(*track).or_default() += u64::from(*packets);
            }
        }
        for (number, (user, source)) in take.tracks() {
            let (missing, told) = (take.missing(number), overflow.get(&number).copied().unwrap_or(0));
            assert!(missing > 20, "{user}'s {source} lacks {missing} packets");
            // Those of the last second had a batch of their own that was never taken.
            assert!(told >= missing && told <= missing + 200, "{user}'s {source} lacks {missing}, told {told}");
        }
    });
}

#[test]
fn an_end_comes_through_though_nobody_is_left() {
    simulate("an_end_comes_through_though_nobody_is_left", 1, |world| {
        let (ann, bob) = ann_and_bob(world);
        record(world, ann, json!({}));
        world.run(SECOND);
        world.studio.answer = Answer::Full;
        for who in [ann, bob] {
            world.with(who, |client, _| client.say("leave", json!({})));
        }
        world.run(5 * SECOND);
        assert_eq!(world.rooms_alive(0), 0);
        world.studio.answer = Answer::Open;
        world.run(SECOND);
        assert_eq!(world.studio.takes[0].end(), Some(EndReason::CallEnded));
    });
}

/// Reports of senders come along, those of before the beginning too.
#[test]
fn what_senders_say_of_their_clocks() {
    simulate("what_senders_say_of_their_clocks", 1, |world| {
        let ann = world.join_at(0, "ann", "r", &Plan { role: Role::Host, ..SLOTS }, FAIR);
        world.expect("it publishes", 3 * SECOND, |w| w.clients[ann].connected);
        world.run(10 * SECOND);
        record(world, ann, json!({}));
        world.run(SECOND);
        let take = &world.studio.takes[0];
        for source in ["camera", "microphone"] {
            let number = take.number("ann", source);
            let report = take.items.iter().position(|(_, item)| matches!(item, Item::Report(r) if r.track == number));
            let packet = take.items.iter().position(|(_, item)| matches!(item, Item::Packet(p) if p.track == number));
            let early = take.items.iter().position(|(_, item)| matches!(item, Item::Arrival(a) if a.track == number));
            assert_eq!(
                early.is_some_and(|early| Some(early) < packet),
                source == "camera",
                "{source}: before its key frame"
            );
            let (report, packet) = (report.expect("a report"), packet.expect("a packet"));
            assert!(report < packet, "{source}: the report comes at {report}, the first packet at {packet}");
        }
    });
}
