//! The room from its edge: commands, what they are answered, and who is told what.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn key(number: u32) -> ParticipantKey {
    ParticipantKey { slot: number, generation: 0 }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("valid")
}

fn joiner(name: &str, role: Role) -> Joiner {
    let permissions = Permissions::of(role);
    Joiner { user: user(name), display_name: None, role, permissions, metadata: None, is_media_only: false }
}

fn meta(id: u64, source: Source) -> TrackMeta {
    TrackMeta { id: TrackId(id), kind: source.kind(), source, mid: id.to_string(), name: None }
}

fn drain(room: &mut Room) -> Vec<Event> {
    std::iter::from_fn(|| room.poll_event()).collect()
}

/// Ann (1, participant), Bob (2, participant), Mod (3, moderator), Vic (4, viewer).
fn room() -> Room {
    let mut room = Room::new(RoomId::new("r").expect("valid"), 10);
    for (number, name, role) in [
        (1, "ann", Role::Participant),
        (2, "bob", Role::Participant),
        (3, "mod", Role::Moderator),
        (4, "vic", Role::Viewer),
    ] {
        assert_eq!(room.join(key(number), joiner(name, role)), Ok(()));
    }
    drain(&mut room);
    room
}

#[test]
fn join_and_leave() {
    let mut room = Room::new(RoomId::new("r").expect("valid"), 2);
    assert!(room.is_empty());
    assert_eq!(room.join(key(1), joiner("ann", Role::Participant)), Ok(()));
    assert_eq!(drain(&mut room), [Event::Joined { key: key(1) }, Event::UserJoined { key: key(1) }]);
    assert_eq!(room.join(key(1), joiner("bob", Role::Participant)), Err(Error::AlreadyJoined));
    assert_eq!(room.join(key(2), joiner("bob", Role::Participant)), Ok(()));
    assert_eq!(room.join(key(3), joiner("cat", Role::Admin)), Err(Error::Full));
    assert_eq!(room.publish(key(1), meta(7, Source::Microphone)), Ok(()));
    drain(&mut room);
    room.leave(key(1), LeaveReason::Lost);
    let expect = [
        Event::TrackUnpublished { owner: key(1), user: user("ann"), id: TrackId(7) },
        Event::UserLeft { key: key(1), user: user("ann"), reason: LeaveReason::Lost },
    ];
    assert_eq!(drain(&mut room), expect);
    room.leave(key(1), LeaveReason::Left);
    assert_eq!(drain(&mut room), []);
    assert_eq!((room.len(), room.by_user(&user("ann")), room.by_user(&user("bob"))), (1, None, Some(key(2))));
}

#[test]
fn the_same_user_replaces_the_older_session_even_when_full() {
    let mut room = Room::new(RoomId::new("r").expect("valid"), 1);
    assert_eq!(room.join(key(1), joiner("ann", Role::Participant)), Ok(()));
    drain(&mut room);
    assert_eq!(room.join(key(2), joiner("ann", Role::Participant)), Ok(()));
    let expect = [
        Event::Replaced { key: key(1) },
        Event::UserLeft { key: key(1), user: user("ann"), reason: LeaveReason::Replaced },
        Event::Joined { key: key(2) },
        Event::UserJoined { key: key(2) },
    ];
    assert_eq!(drain(&mut room), expect);
    assert_eq!(room.chat(key(1), None, "x"), Err(Error::NotJoined));
}

/// Somebody who only sends or receives media.
fn streamer(name: &str, role: Role) -> Joiner {
    Joiner { is_media_only: true, ..joiner(name, role) }
}

#[test]
fn sessions_without_signaling_stand_beside_others_of_their_user() {
    let mut room = Room::new(RoomId::new("r").expect("valid"), 10);
    let name = |room: &Room, number| room.participant(key(number)).map(|p| p.user.as_str().to_owned());
    // Row: who comes, whether it signals, what it is called, who is gone then.
    let rows = [
        (1, "ann", true, "ann", None),
        (2, "ann", false, "ann~2", None),
        (3, "ann", false, "ann~3", None),
        (4, "ann", true, "ann", Some(1)),
        // The name is taken by a session of somebody else.
        (5, "ann~2", true, "ann~2~2", None),
        (6, "ann~2", true, "ann~2~2", Some(5)),
        (7, "bob", false, "bob", None),
        (8, "bob", true, "bob~2", None),
        (9, "bob", true, "bob~2", Some(8)),
    ];
    for (number, user, signals, called, gone) in rows {
        let who = if signals { joiner(user, Role::Participant) } else { streamer(user, Role::Participant) };
        assert_eq!(room.join(key(number), who), Ok(()));
        assert_eq!(name(&room, number).as_deref(), Some(called));
        if let Some(gone) = gone {
            assert_eq!(name(&room, gone), None);
        }
    }
    // Nothing can be said to who has no signaling.
    assert_eq!(room.may_relay(key(9), &user("ann")), Ok(key(4)));
    assert_eq!(room.may_relay(key(9), &user("ann~2")), Err(Error::Unreachable));
    assert_eq!(room.chat(key(9), Some(&user("bob")), "hello"), Err(Error::Unreachable));
    room.leave(key(2), LeaveReason::Left);
    assert_eq!(room.join(key(10), streamer("ann", Role::Viewer)), Ok(()));
    assert_eq!(name(&room, 10).as_deref(), Some("ann~2"), "the smallest number that is free");
}

#[test]
fn a_name_covers_all_sessions_of_the_user() {
    let mut room = room();
    assert_eq!(room.join(key(5), streamer("bob", Role::Participant)), Ok(()));
    for (number, id) in [(2, 1), (5, 2)] {
        room.publish(key(number), meta(id, Source::Microphone)).expect("may publish");
    }
    drain(&mut room);
    let by = Some(user("mod"));
    let said = |owner, muted| Event::Muted { owner: key(owner), kind: Kind::Audio, track: None, muted, by: by.clone() };
    let track = |id, muted| Event::TrackMuted { track: TrackId(id), muted };
    let lifted = Event::UnmuteAllowed { owner: key(2), kind: Kind::Audio, track: None, by: user("mod") };

    assert_eq!(room.mute(key(3), Some(&user("bob")), Kind::Audio, None, true), Ok(()));
    assert_eq!(drain(&mut room), [track(1, true), said(2, true), track(2, true), said(5, true)]);
    assert_eq!(room.join(key(6), streamer("bob", Role::Participant)), Ok(()));
    room.publish(key(6), meta(3, Source::Microphone)).expect("may publish");
    assert_eq!(drain(&mut room).last(), Some(&track(3, true)), "it holds for those to come");

    // Who has no signaling could not unmute itself.
    assert_eq!(room.mute(key(3), Some(&user("bob")), Kind::Audio, None, false), Ok(()));
    let expect = [lifted.clone(), track(2, false), said(5, false), track(3, false), said(6, false)];
    assert_eq!(drain(&mut room), expect);

    // One session alone, by its own name.
    assert_eq!(room.mute(key(3), Some(&user("bob~2")), Kind::Audio, None, true), Ok(()));
    assert_eq!(drain(&mut room), [track(2, true), said(5, true)]);
    assert!(room.is_forced(&user("bob~2"), Source::Microphone) && !room.is_forced(&user("bob"), Source::Microphone));
    assert_eq!(room.mute(key(1), Some(&user("bob~2")), Kind::Audio, None, false), Err(Error::Forbidden));
    // It is bob's, who is in the call with another.
    assert_eq!(room.mute(key(2), Some(&user("bob~2")), Kind::Audio, None, false), Ok(()));
    let own = Event::Muted { owner: key(5), kind: Kind::Audio, track: None, muted: false, by: None };
    assert_eq!(drain(&mut room), [track(2, false), own]);

    // A track is in one session.
    assert_eq!(room.mute(key(3), Some(&user("bob")), Kind::Video, Some(TrackId(3)), true), Ok(()));
    let expect =
        Event::Muted { owner: key(6), kind: Kind::Audio, track: Some(TrackId(3)), muted: true, by: by.clone() };
    assert_eq!(drain(&mut room), [track(3, true), expect]);
    let other = room.mute(key(3), Some(&user("bob~2")), Kind::Audio, Some(TrackId(3)), true);
    assert_eq!(other, Err(Error::TrackNotFound));
    assert_eq!(room.mute(key(3), Some(&user("eve")), Kind::Audio, None, true), Err(Error::ParticipantNotFound));
}

#[test]
fn who_may_publish_what() {
    let mut room = room();
    assert_eq!(room.publish(key(4), meta(1, Source::Camera)), Err(Error::Forbidden));
    assert_eq!(room.publish(key(9), meta(1, Source::Camera)), Err(Error::NotJoined));
    let wrong = TrackMeta { kind: Kind::Video, ..meta(1, Source::Microphone) };
    assert_eq!(room.publish(key(1), wrong), Err(Error::SourceMismatch));
    let mut permissions = joiner("ann", Role::Participant).permissions;
    permissions.publish_sources.screen = false;
    assert_eq!(room.set_grants(key(1), Role::Participant, permissions), Ok(()));
    for (source, may) in
        [(Source::Camera, true), (Source::Microphone, true), (Source::Screen, false), (Source::ScreenAudio, false)]
    {
        assert_eq!(room.may_publish(key(1), source), may);
    }
    assert_eq!(room.publish(key(1), meta(1, Source::ScreenAudio)), Err(Error::Forbidden));
    for id in 1..=4 {
        assert_eq!(room.publish(key(2), meta(id, Source::Camera)), Ok(()));
    }
    assert_eq!(room.publish(key(2), meta(5, Source::Camera)), Err(Error::TooManyTracks));
    drain(&mut room);
    room.unpublish(key(1), TrackId(1));
    assert_eq!(drain(&mut room), [], "only the owner unpublishes");
    room.unpublish(key(2), TrackId(1));
    assert_eq!(room.publish(key(2), meta(5, Source::Camera)), Ok(()));

    permissions.publish_sources.camera = false;
    drain(&mut room);
    assert_eq!(room.set_grants(key(2), Role::Participant, permissions), Ok(()));
    let events = drain(&mut room);
    assert_eq!(events.len(), 5, "four tracks go, and the change is told: {events:?}");
    assert_eq!(events.last(), Some(&Event::UserUpdated { key: key(2) }));
    assert_eq!(room.tracks().count(), 0);
    assert_eq!(room.set_grants(key(2), Role::Participant, permissions), Ok(()));
    assert_eq!(drain(&mut room), [], "the same grants are no news");
}

#[test]
fn muting_oneself() {
    let mut room = room();
    room.publish(key(1), meta(1, Source::Microphone)).expect("may publish");
    room.publish(key(1), meta(2, Source::ScreenAudio)).expect("may publish");
    drain(&mut room);
    let said = |track, muted, id| Event::Muted { owner: key(1), kind: Kind::Audio, track, muted, by: id };
    let track = |id, muted| Event::TrackMuted { track: TrackId(id), muted };

    assert_eq!(room.mute(key(1), None, Kind::Audio, None, true), Ok(()));
    assert_eq!(drain(&mut room), [track(1, true), said(None, true, None)], "the shared sound goes on");
    assert_eq!(room.mute(key(1), Some(&user("ann")), Kind::Audio, None, true), Ok(()));
    assert_eq!(drain(&mut room), [], "muted already");
    assert_eq!(room.mute(key(1), None, Kind::Audio, Some(TrackId(2)), true), Ok(()));
    assert_eq!(drain(&mut room), [track(2, true), said(Some(TrackId(2)), true, None)]);
    // The track's own kind counts.
    assert_eq!(room.mute(key(1), None, Kind::Video, Some(TrackId(1)), false), Ok(()));
    assert_eq!(drain(&mut room), [track(1, false), said(Some(TrackId(1)), false, None)]);
    assert!(!room.participant(key(1)).expect("is here").is_muted(Kind::Audio));
    assert_eq!(room.mute(key(1), None, Kind::Audio, None, false), Ok(()));
    assert_eq!(drain(&mut room), [], "the microphone is on");
    assert_eq!(room.mute(key(1), None, Kind::Audio, Some(TrackId(2)), false), Ok(()));
    assert_eq!(drain(&mut room), [track(2, false), said(Some(TrackId(2)), false, None)]);
    // Muted before publishing: the track starts so.
    assert_eq!(room.mute(key(1), None, Kind::Video, None, true), Ok(()));
    room.publish(key(1), meta(3, Source::Camera)).expect("may publish");
    assert!(drain(&mut room).contains(&track(3, true)));
    // One's own mute is not kept for the next visit.
    room.leave(key(1), LeaveReason::Left);
    room.join(key(5), joiner("ann", Role::Participant)).expect("may join");
    assert!(!room.participant(key(5)).expect("is here").is_muted(Kind::Video));

    assert_eq!(room.mute(key(2), None, Kind::Audio, Some(TrackId(99)), true), Err(Error::TrackNotFound));
    assert_eq!(room.mute(key(99), None, Kind::Audio, None, true), Err(Error::NotJoined));
}

#[test]
fn a_moderators_mute_holds() {
    let mut room = room();
    room.publish(key(1), meta(1, Source::Microphone)).expect("may publish");
    drain(&mut room);
    let ann = user("ann");
    assert_eq!(room.mute(key(2), Some(&ann), Kind::Audio, None, true), Err(Error::Forbidden));
    assert_eq!(room.mute(key(3), Some(&user("eve")), Kind::Audio, None, true), Err(Error::ParticipantNotFound));
    assert_eq!(room.mute(key(3), Some(&ann), Kind::Audio, None, true), Ok(()));
    let by = Some(user("mod"));
    let expect = [
        Event::TrackMuted { track: TrackId(1), muted: true },
        Event::Muted { owner: key(1), kind: Kind::Audio, track: None, muted: true, by },
    ];
    assert_eq!(drain(&mut room), expect);

    // Neither publishing again nor joining again gets around it, nor a moderator's unmute by itself.
    let muted = |room: &Room, id| room.track(TrackId(id)).expect("published").1.muted;
    room.unpublish(key(1), TrackId(1));
    room.publish(key(1), meta(2, Source::Microphone)).expect("may publish");
    assert!(muted(&room, 2));
    room.join(key(5), joiner("ann", Role::Participant)).expect("replaces");
    assert!(room.participant(key(5)).expect("is here").is_muted(Kind::Audio));
    room.publish(key(5), meta(3, Source::Microphone)).expect("may publish");
    room.publish(key(5), meta(4, Source::Camera)).expect("may publish");
    assert!(muted(&room, 3) && !muted(&room, 4));
    drain(&mut room);
    assert_eq!(room.mute(key(3), Some(&ann), Kind::Audio, None, false), Ok(()));
    let allowed = Event::UnmuteAllowed { owner: key(5), kind: Kind::Audio, track: None, by: user("mod") };
    assert_eq!(drain(&mut room), [allowed]);
    assert!(muted(&room, 3) && !room.is_forced(&ann, Source::Microphone));
    assert_eq!(room.mute(key(5), None, Kind::Audio, None, false), Ok(()));
    assert!(!muted(&room, 3));
}

/// A moderator's mute of one track is about its source, and the participant's own unmute lifts that much only.
#[test]
fn a_force_is_by_source() {
    let mut room = room();
    let ann = user("ann");
    for (id, source) in [(1, Source::Screen), (2, Source::Screen), (3, Source::Camera)] {
        room.publish(key(1), meta(id, source)).expect("may publish");
    }
    let muted = |room: &Room| room.tracks().map(|(_, track)| track.muted).collect::<Vec<_>>();
    assert_eq!(room.mute(key(3), Some(&ann), Kind::Audio, Some(TrackId(1)), true), Ok(()));
    assert_eq!(muted(&room), [true, true, false]);
    assert!(room.is_forced(&ann, Source::Screen) && !room.is_forced(&ann, Source::Camera));
    assert_eq!(room.mute(key(3), Some(&ann), Kind::Video, None, true), Ok(()));
    assert_eq!(room.mute(key(1), None, Kind::Video, Some(TrackId(3)), false), Ok(()));
    assert_eq!(muted(&room), [true, true, false]);
    assert!(room.is_forced(&ann, Source::Screen) && !room.is_forced(&ann, Source::Camera));
    assert_eq!(room.mute_as(user("rest"), &ann, Kind::Video, Some(TrackId(2)), false), Ok(()));
    assert!(!room.is_forced(&ann, Source::Screen));
}

#[test]
fn chat_data_and_relay_stay_among_participants() {
    let mut room = room();
    let chat = |from, to| Event::Chat { from: key(from), to, text: "x".into() };
    assert_eq!(room.chat(key(1), None, "x"), Ok(()));
    assert_eq!(room.chat(key(1), Some(&user("vic")), "x"), Ok(()));
    assert_eq!(drain(&mut room), [chat(1, None), chat(1, Some(key(4)))]);
    assert_eq!(room.chat(key(4), None, "x"), Err(Error::Forbidden));
    assert_eq!(room.data(key(4), None, "1"), Err(Error::Forbidden));
    assert_eq!(room.data(key(2), Some(&user("ann")), "{}"), Ok(()));
    assert_eq!(drain(&mut room), [Event::Data { from: key(2), to: Some(key(1)), data: "{}".into() }]);
    for (by, to, expect) in [
        (1, "bob", Ok(key(2))),
        (4, "ann", Ok(key(1))),
        (1, "ann", Err(Error::ParticipantNotFound)),
        (1, "eve", Err(Error::ParticipantNotFound)),
        (9, "ann", Err(Error::NotJoined)),
    ] {
        assert_eq!(room.may_relay(key(by), &user(to)), expect, "{by} to {to}");
    }
    assert_eq!(room.chat(key(1), Some(&user("eve")), "x"), Err(Error::ParticipantNotFound));
    assert_eq!(drain(&mut room), []);

    room.set_peer_to_peer(key(1), true);
    room.set_peer_to_peer(key(9), true);
    assert_eq!((room.is_peer_to_peer(key(1)), room.is_peer_to_peer(key(9))), (true, false));
}

#[test]
fn remembered_forces_are_bounded() {
    let mut room = room();
    room.mute(key(3), Some(&user("ann")), Kind::Audio, None, true).expect("may mute");
    for number in 0..2 * FORCED_MAX {
        let name = format!("u{number}");
        room.join(key(100), joiner(&name, Role::Participant)).expect("may join");
        room.mute(key(3), Some(&user(&name)), Kind::Audio, None, true).expect("may mute");
        room.leave(key(100), LeaveReason::Left);
        drain(&mut room);
    }
    assert_eq!(room.forced.len(), FORCED_MAX);
    assert!(room.is_forced(&user("ann"), Source::Microphone), "who is present is not forgotten");
}

/// Random commands on two rooms against what must always hold: membership is what joined and did not leave, one
/// participant per user, events are about members (or about who just left), chat stays in its room, what is forced is
/// muted, and the forwarding told to the media server is the state of the tracks.
#[test]
fn random_commands_keep_the_invariants() {
    const NAMES: [&str; 5] = ["ann", "bob", "cat", "dan", "mod"];
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rooms =
            [Room::new(RoomId::new("a").expect("valid"), 4), Room::new(RoomId::new("b").expect("valid"), 4)];
        let mut members: [BTreeMap<ParticipantKey, &str>; 2] = Default::default();
        let mut forwarding: [BTreeMap<TrackId, bool>; 2] = Default::default();
        let mut forced: [BTreeSet<(&str, Source)>; 2] = Default::default();
        let mut next = 0;
        for _ in 0..200 {
            let at = random.usize(0..2);
            let (room, members) = (&mut rooms[at], &mut members[at]);
            let mut known: Vec<ParticipantKey> = members.keys().copied().collect();
            known.push(key(random.u32(0..next + 1)));
            let who = known[random.usize(0..known.len())];
            let name = NAMES[random.usize(0..NAMES.len())];
            let own = members.get(&who).copied();
            let kind = [Kind::Audio, Kind::Video][random.usize(0..2)];
            let source = Source::ALL[random.usize(0..4)];
            let track = room.tracks().nth(random.usize(0..8)).map(|(_, track)| track.meta.clone());
            let mut gone = BTreeSet::new();
            match random.u8(0..12) {
                0..3 => {
                    next += 1;
                    let role = if name == "mod" { Role::Moderator } else { Role::Participant };
                    if room.join(key(next), joiner(name, role)).is_ok() {
                        gone.extend(members.iter().filter(|(_, n)| **n == name).map(|(k, _)| *k));
                        members.retain(|_, n| *n != name);
                        members.insert(key(next), name);
                    }
                }
                3 => {
                    room.leave(who, LeaveReason::Left);
                    if members.remove(&who).is_some() {
                        gone.insert(who);
                    }
                }
                4..7 => {
                    next += 1;
                    let before = room.tracks().filter(|(owner, _)| *owner == who).count();
                    let result = room.publish(who, meta(u64::from(next), source));
                    assert_eq!(result.is_ok(), own.is_some() && before < TRACKS_PER_PUBLISHER, "{result:?}");
                }
                7 => {
                    if let Some(track) = &track {
                        room.unpublish(who, track.id);
                    }
                }
                8..11 => {
                    let target = user(name);
                    let target = random.bool().then_some(&target);
                    let named = track.filter(|_| random.bool());
                    let on = random.bool();
                    let result = room.mute(who, target, kind, named.as_ref().map(|t| t.id), on);
                    if let (Ok(()), Some(own)) = (result, own) {
                        let whose = if target.is_some() { name } else { own };
                        for source in Source::ALL {
                            let about = match &named {
                                Some(track) => track.source == source,
                                None if whose == own => source == kind.main_source(),
                                None => source.kind() == kind,
                            };
                            if about && on && whose != own {
                                assert_eq!(own, "mod");
                                forced[at].insert((whose, source));
                            } else if about && !on {
                                forced[at].remove(&(whose, source));
                            }
                        }
                    }
                }
                _ => {
                    let target = user(name);
                    let _ = room.chat(who, random.bool().then_some(&target), "x");
                    let _ = room.data(who, random.bool().then_some(&target), "1");
                }
            }
            for event in drain(room) {
                let member = |key: &ParticipantKey| assert!(members.contains_key(key), "{event:?} of a stranger");
                match &event {
                    Event::Joined { key } | Event::UserJoined { key } | Event::UserUpdated { key } => member(key),
                    Event::UserLeft { key, .. } | Event::Replaced { key } => assert!(gone.contains(key), "{event:?}"),
                    Event::TrackPublished { owner, track } => {
                        member(owner);
                        assert_eq!(forwarding[at].insert(track.id, true), None);
                    }
                    Event::TrackUnpublished { owner, id, .. } => {
                        assert!(gone.contains(owner) || members.contains_key(owner));
                        assert!(forwarding[at].remove(id).is_some());
                    }
                    Event::TrackMuted { track, muted } => {
                        assert_eq!(forwarding[at].insert(*track, !muted), Some(*muted), "only changes are told");
                    }
                    Event::Muted { owner, .. } | Event::UnmuteAllowed { owner, .. } => member(owner),
                    Event::Chat { from, to, .. } | Event::Data { from, to, .. } => {
                        member(from);
                        to.iter().for_each(member);
                        assert_ne!(Some(*from), *to);
                    }
                }
            }
            let listed: BTreeMap<ParticipantKey, &str> =
                room.participants().map(|(k, p)| (k, p.user.as_str())).collect();
            assert_eq!(listed, *members);
            assert_eq!(members.values().collect::<BTreeSet<_>>().len(), members.len());
            let told: BTreeMap<TrackId, bool> = room.tracks().map(|(_, t)| (t.meta.id, !t.muted)).collect();
            assert_eq!(told, forwarding[at]);
            for (owner, track) in room.tracks() {
                let name = members[&owner];
                assert!(track.muted || !forced[at].contains(&(name, track.meta.source)), "{name} {track:?} is forced");
            }
            for name in NAMES {
                for source in Source::ALL {
                    assert_eq!(room.is_forced(&user(name), source), forced[at].contains(&(name, source)));
                }
            }
        }
    }
}
