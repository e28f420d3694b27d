//! Many people and few places for pictures: who speaks is heard by all and seen by those who have a place.

use std::time::Duration;

use crate::client::{BROWSER, Plan, Voice};
use crate::encoder::{SMALL, Video};
use crate::net::HOME;
use crate::payload::Source;
use crate::simulate;
use crate::watch::quantile;
use crate::world::{MS, SECOND};

#[test]
fn a_room_of_thirty() {
    simulate("a_room_of_thirty", 1, |world| {
        let camera = Video { every: 200 * MS, ..SMALL };
        let plan = Plan { camera, video_slots: 3, ..BROWSER };
        // One of them has no place at all.
        let blind = Plan { video_slots: 0, ..plan.clone() };
        let people: Vec<usize> = (0..30)
            .map(|n| {
                let who = world.join_at(0, &format!("u{n}"), "r", if n == 29 { &blind } else { &plan }, HOME);
                world.clients[who].voice = Voice::Dtx;
                world.run(20 * MS);
                who
            })
            .collect();
        world.expect("everybody is connected", 5 * SECOND, |w| people.iter().all(|p| w.clients[*p].connected));
        world.run(SECOND);
        let (mut heard, mut seen) = (Vec::new(), Vec::new());
        for speaker in [28, 3, 29] {
            for who in &people {
                world.clients[*who].voice = if *who == people[speaker] { Voice::Speech(-30) } else { Voice::Dtx };
            }
            let start = world.now;
            world.run(3 * SECOND);
            for &who in people.iter().filter(|who| **who != people[speaker]) {
                let share = world.clients[who].audio_share(
                    &world.clients[people[speaker]],
                    (start + SECOND, world.now - 200 * MS),
                    400 * MS,
                );
                world.check(share.delivered >= 0.999, || format!("{who} hears of {speaker}: {share:?}"));
                let all = &world.clients[who].heard[&(people[speaker] as u32, Source::Microphone)].audio;
                let first = all.values().filter(|at| **at > start).min();
                heard.push(first.map_or(Duration::MAX, |at| *at - start));
                if who != people[29] {
                    let shown = world.clients[who].shown_of(people[speaker] as u32, Source::Camera, start);
                    seen.push(shown.first().map_or(Duration::MAX, |shown| shown.at - start));
                    world.check(shown.len() >= 6, || format!("{who} sees {} pictures of {speaker}", shown.len()));
                }
            }
            let told = world.clients[people[0]]
                .texts_of("active-speaker")
                .last()
                .map(|(_, text)| text["data"]["speakers"][0]["userId"].clone());
            world.check(told == Some(format!("u{speaker}").into()), || {
                format!("the speaker is {told:?}, not {speaker}")
            });
        }
        let slowest = |times: &mut Vec<Duration>| (quantile(times, 0.5), quantile(times, 1.0));
        let (heard, seen) = (slowest(&mut heard), slowest(&mut seen));
        let values = [
            ("speaker heard by all after", format!("{:?}, at most {:?}", heard.0, heard.1)),
            ("seen by those with a place after", format!("{:?}, at most {:?}", seen.0, seen.1)),
        ];
        world.figure("thirty people, three places for pictures", &values);
        world.check(heard.1 <= SECOND, || format!("a speaker was heard only after {heard:?}"));
        world.check(seen.1 <= 2 * SECOND, || format!("a speaker was seen only after {seen:?}"));
    });
}
