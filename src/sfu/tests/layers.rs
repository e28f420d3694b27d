//! Layers, targets and what becomes of them, with encoders that make what browsers send.

use super::stream::{Mode, Stage, layer};
use super::*;

const SIMULCAST: [Option<&str>; 3] = [Some("q"), Some("h"), Some("f")];

/// Every mode in which an encoding is made.
const MODES: [Mode; 13] = [
    Mode::Vp8 { temporal: 1 },
    Mode::Vp8 { temporal: 2 },
    Mode::Vp8 { temporal: 3 },
    Mode::Vp9 { spatial: 1, temporal: 1, flexible: false },
    Mode::Vp9 { spatial: 3, temporal: 3, flexible: false },
    Mode::Vp9 { spatial: 3, temporal: 3, flexible: true },
    Mode::Vp9 { spatial: 2, temporal: 1, flexible: true },
    Mode::Av1 { spatial: 1, temporal: 1, keyed: false },
    Mode::Av1 { spatial: 1, temporal: 3, keyed: false },
    Mode::Av1 { spatial: 3, temporal: 3, keyed: false },
    Mode::Av1 { spatial: 3, temporal: 2, keyed: true },
    Mode::Vp8Described { temporal: 3 },
    Mode::H264,
];

/// A stage with one track and a slot that takes it.
fn stage(mode: Mode, rids: &[Option<&'static str>], target: Target) -> Stage {
    let mut stage = Stage::new(7);
    stage.publish(TRACK, mode, rids);
    stage.subscribe(slot(0), TRACK, target);
    stage
}

/// Pictures are 33 ms apart, and a window has one more or less of them.
fn nearest(framerate: u8) -> u8 {
    [8_u8, 15, 30].into_iter().find(|expect| expect.abs_diff(framerate) <= 1).unwrap_or(framerate)
}

#[test]
fn layers_are_learned_with_their_figures() {
    let (q, h, f) = ((320, 180), (640, 360), (1280, 720));
    // Mode, encodings, and each layer's size and frame rate, ascending.
    type Row = (Mode, &'static [Option<&'static str>], Vec<((u8, u8, u8), (u16, u16), u8)>);
    let rows: Vec<Row> = vec![
        (Mode::Vp8 { temporal: 1 }, &SIMULCAST, vec![((0, 0, 0), q, 30), ((1, 0, 0), h, 30), ((2, 0, 0), f, 30)]),
        (Mode::Vp8 { temporal: 3 }, &[None], vec![((0, 0, 0), f, 8), ((0, 0, 1), f, 15), ((0, 0, 2), f, 30)]),
        (
            Mode::Vp9 { spatial: 3, temporal: 2, flexible: false },
            &[None],
            vec![
                ((0, 0, 0), q, 15),
                ((0, 0, 1), q, 30),
                ((0, 1, 0), h, 15),
                ((0, 1, 1), h, 30),
                ((0, 2, 0), f, 15),
                ((0, 2, 1), f, 30),
            ],
        ),
        (
            Mode::Av1 { spatial: 2, temporal: 2, keyed: true },
            &[None],
            vec![((0, 0, 0), h, 15), ((0, 0, 1), h, 30), ((0, 1, 0), f, 15), ((0, 1, 1), f, 30)],
        ),
        (
            Mode::Vp8Described { temporal: 2 },
            &[Some("h"), Some("f")],
            vec![((0, 0, 0), h, 15), ((0, 0, 1), h, 30), ((1, 0, 0), f, 15), ((1, 0, 1), f, 30)],
        ),
        (Mode::H264, &[Some("h"), Some("f")], vec![((0, 0, 0), (0, 0), 30), ((1, 0, 0), (0, 0), 30)]),
    ];
    for (mode, rids, expect) in rows {
        let mut stage = stage(mode, rids, Target::Best);
        stage.run(4000);
        let infos = stage.infos();
        let got: Vec<_> = infos
            .iter()
            .map(|i| ((i.layer.encoding, i.layer.spatial, i.layer.temporal), (i.width, i.height), nearest(i.framerate)))
            .collect();
        assert_eq!(got, expect, "{mode:?}");
        assert!(infos.iter().all(|i| i.is_live && i.rid == rids[usize::from(i.layer.encoding)].map(Rid::from)));
        assert!(infos.windows(2).all(|w| w[0].bitrate <= w[1].bitrate), "{mode:?}: {infos:?}");
        // The largest picture has 3200 octets and what the descriptor takes, 30 times a second.
        let most = infos.last().map(|i| i.bitrate).unwrap();
        let expect = if infos.len() == 6 { 800_000..1_600_000 } else { 700_000..1_100_000 };
        assert!(expect.contains(&most), "{mode:?}: {most}");
        stage.verify();
    }
}

#[test]
fn a_key_frame_is_no_jump_in_a_bitrate() {
    let mut stage = stage(Mode::Vp8 { temporal: 1 }, &[None], Target::Best);
    stage.run(8000);
    let before = stage.infos()[0].bitrate;
    stage.encoders[0].bytes.1 = 60_000;
    stage.encoders[0].key_wanted = true;
    let mut most = 0;
    for _ in 0..100 {
        stage.run(33);
        most = most.max(stage.infos()[0].bitrate);
    }
    assert!(most < before * 13 / 10, "{before} to {most}");
}

/// Whatever is wanted of whatever mode: it comes, nothing is missing, and no number is left out.
#[test]
fn every_target_is_reached_from_every_other() {
    for mode in MODES {
        for rids in [&[None][..], &SIMULCAST[1..]] {
            let mut stage = stage(mode, rids, Target::Best);
            stage.run(45 * 33);
            let layers = stage.layers();
            let best = *layers.last().unwrap();
            assert_eq!(stage.forwarding(slot(0)), Some(best), "{mode:?}");
            let mut random = fastrand::Rng::with_seed(1);
            for n in 0..24 {
                let (encoding, spatial, temporal) = layers[random.usize(0..layers.len())];
                let (target, expect) = match n % 4 {
                    3 => (Target::Best, best),
                    _ => (layer(encoding, spatial, temporal), (encoding, spatial, temporal)),
                };
                let begin = stage.room.ms;
                stage.set_target(slot(0), target);
                stage.run(30 * 33);
                let settled = stage.room.ms;
                stage.run(21 * 33);
                assert_eq!(stage.forwarding(slot(0)), Some(expect), "{mode:?} {rids:?} {n}: {target:?}");
                let got = stage.receiver(slot(0)).layers_since(settled + 1, &stage.truth);
                let highest = got.iter().map(|(_, s, _)| *s).max().unwrap();
                let fastest = got.iter().map(|(_, _, t)| *t).max().unwrap();
                assert!(got.iter().all(|(e, _, _)| *e == usize::from(expect.0)), "{mode:?}: {got:?}");
                assert_eq!((highest, fastest), (expect.1, expect.2), "{mode:?}: {got:?}");
                let gap = stage.receiver(slot(0)).longest_gap(begin, stage.room.ms);
                assert!(gap <= 4 * 33, "{mode:?} {n}: nothing came for {gap} ms");
            }
            assert_eq!(stage.receiver(slot(0)).holes(), 0, "{mode:?}");
            stage.verify();
        }
    }
}

#[test]
fn temporal_layers_end_at_once_and_begin_at_a_marked_frame_without_a_key_frame() {
    for mode in [
        Mode::Vp8 { temporal: 2 },
        Mode::Vp8 { temporal: 3 },
        Mode::Vp8Described { temporal: 3 },
        Mode::Vp9 { spatial: 1, temporal: 3, flexible: false },
        Mode::Vp9 { spatial: 1, temporal: 2, flexible: true },
        Mode::Av1 { spatial: 1, temporal: 2, keyed: false },
        Mode::Av1 { spatial: 2, temporal: 3, keyed: true },
    ] {
        let mut stage = stage(mode, &[None], Target::Best);
        stage.run(1500);
        stage.requests.clear();
        let (_, spatial, top) = *stage.layers().last().unwrap();
        let down = stage.room.ms;
        stage.set_target(slot(0), layer(0, spatial, 0));
        stage.run(800);
        let got = stage.receiver(slot(0)).layers_since(down + 1, &stage.truth);
        assert!(got.iter().all(|(_, _, t)| *t == 0), "{mode:?}: at once: {got:?}");
        let up = stage.room.ms;
        stage.set_target(slot(0), layer(0, spatial, top));
        // Where it can begin comes every eighth picture.
        stage.run(9 * 33 + 1);
        assert_eq!(stage.forwarding(slot(0)), Some((0, spatial, top)), "{mode:?}");
        assert!(stage.receiver(slot(0)).since(up + 1, &stage.truth).iter().any(|(_, _, t)| *t == top));
        assert_eq!(stage.requests, [], "{mode:?}");
        assert_eq!(stage.receiver(slot(0)).holes(), 0, "{mode:?}");
        stage.verify();
    }
}

#[test]
fn a_temporal_layer_that_is_never_marked_takes_a_key_frame() {
    for mode in [
        Mode::Vp8 { temporal: 2 },
        Mode::Vp8Described { temporal: 2 },
        Mode::Vp9 { spatial: 1, temporal: 2, flexible: true },
    ] {
        let mut stage = stage(mode, &[None], layer(0, 0, 0));
        stage.encoders[0].marks = false;
        stage.run(1000);
        stage.requests.clear();
        stage.set_target(slot(0), layer(0, 0, 1));
        stage.run(2500);
        assert_eq!(stage.forwarding(slot(0)), Some((0, 0, 0)), "{mode:?}");
        assert_eq!(stage.requests, []);
        stage.run(1000);
        assert_eq!(stage.forwarding(slot(0)), Some((0, 0, 1)), "{mode:?}");
        assert_eq!(stage.requests.len(), 1);
        stage.verify();
    }
}

#[test]
fn spatial_layers_go_down_at_once_and_up_with_a_key_frame() {
    for mode in [
        Mode::Vp9 { spatial: 3, temporal: 1, flexible: true },
        Mode::Vp9 { spatial: 3, temporal: 3, flexible: false },
        Mode::Av1 { spatial: 3, temporal: 3, keyed: false },
    ] {
        let mut stage = stage(mode, &[None], Target::Best);
        stage.run(1500);
        let top = stage.layers().last().unwrap().2;
        stage.requests.clear();
        let down = stage.room.ms;
        stage.set_target(slot(0), layer(0, 0, top));
        stage.run(500);
        let got = stage.receiver(slot(0)).layers_since(down + 1, &stage.truth);
        assert!(got.iter().all(|(_, s, _)| *s == 0), "{mode:?}: {got:?}");
        assert_eq!(stage.requests, [], "{mode:?}");
        stage.answers = false;
        stage.set_target(slot(0), layer(0, 1, top));
        stage.run(1200);
        assert_eq!(stage.forwarding(slot(0)), Some((0, 0, top)), "{mode:?}: goes on below");
        assert!((2..=3).contains(&stage.requests.len()), "{mode:?}: {:?}", stage.requests);
        stage.answers = true;
        stage.run(700);
        assert_eq!(stage.forwarding(slot(0)), Some((0, 1, top)), "{mode:?}");
        stage.verify();
    }
}

/// With upper layers that are independent of the lower ones between key frames, the lower ones are not sent in vain, so that
/// there is no way down without a key frame.
#[test]
fn keyed_layers_leave_out_what_is_not_needed() {
    let mut stage = stage(Mode::Av1 { spatial: 3, temporal: 1, keyed: true }, &[None], Target::Best);
    stage.run(1500);
    let settled = stage.room.ms;
    stage.run(500);
    assert_eq!(stage.receiver(slot(0)).layers_since(settled + 1, &stage.truth), [(0, 2, 0)]);
    stage.requests.clear();
    stage.set_target(slot(0), layer(0, 0, 0));
    stage.run(100);
    assert_eq!(stage.forwarding(slot(0)), Some((0, 0, 0)));
    assert_eq!(stage.requests.len(), 1);
    stage.verify();
}

#[test]
fn a_spatial_layer_that_comes_later_is_taken_by_those_who_want_it() {
    for mode in [
        Mode::Vp9 { spatial: 3, temporal: 3, flexible: false },
        Mode::Vp9 { spatial: 2, temporal: 1, flexible: true },
        Mode::Av1 { spatial: 3, temporal: 3, keyed: false },
    ] {
        let mut stage = Stage::new(3);
        stage.publish(TRACK, mode, &[None]);
        stage.encoders[0].spatial_active = 1;
        stage.subscribe(slot(0), TRACK, Target::Best);
        stage.run(1000);
        let low = stage.forwarding(slot(0)).unwrap();
        assert_eq!(low.1, 0, "{mode:?}");
        stage.requests.clear();
        stage.encoders[0].spatial_active = 4;
        stage.run(700);
        let (_, top, _) = *stage.layers().last().unwrap();
        assert!(top > 0);
        assert_eq!(stage.forwarding(slot(0)).map(|l| l.1), Some(top), "{mode:?}");
        assert_eq!(stage.requests, [], "{mode:?}: without a key frame");
        // And goes, and comes again.
        stage.encoders[0].spatial_active = 1;
        stage.run(4000);
        assert_eq!(stage.layers().last().unwrap().1, 0, "{mode:?}: it is gone");
        assert_eq!(stage.forwarding(slot(0)).map(|l| l.1), Some(0));
        stage.encoders[0].spatial_active = 4;
        stage.run(1000);
        assert_eq!(stage.forwarding(slot(0)).map(|l| l.1), Some(top), "{mode:?}");
        assert_eq!(stage.receiver(slot(0)).holes(), 0);
        stage.verify();
    }
}

#[test]
fn a_target_that_dies_has_a_fallback_and_is_gone_back_to() {
    let mut stage = stage(Mode::Vp8 { temporal: 1 }, &SIMULCAST, layer(2, 0, 0));
    stage.run(1500);
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 0)));
    stage.encoder("f").is_active = false;
    stage.run(2200);
    assert_eq!(stage.forwarding(slot(0)), Some((1, 0, 0)), "the nearest below");
    assert_eq!(stage.layers(), [(0, 0, 0), (1, 0, 0)], "what died by itself cannot be chosen");
    stage.encoder("h").is_active = false;
    stage.run(2200);
    assert_eq!(stage.forwarding(slot(0)), Some((0, 0, 0)));
    // Back: the one that was wanted all the time.
    stage.encoder("f").is_active = true;
    stage.run(1000);
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 0)));
    stage.set_target(slot(0), layer(0, 0, 0));
    stage.run(1000);
    assert_eq!(stage.forwarding(slot(0)), Some((0, 0, 0)));
    stage.encoder("q").is_active = false;
    stage.run(2200);
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 0)), "nothing below: the nearest above");
    stage.verify();
}

#[test]
fn events_say_what_changes() {
    let mut stage = stage(Mode::Vp8 { temporal: 1 }, &SIMULCAST, layer(1, 0, 0));
    stage.obeys = false;
    stage.run(1000);
    let changes = |stage: &mut Stage| -> Vec<Option<(u8, u8, u8)>> {
        let changes = stage.events.drain(..).filter_map(|event| match event {
            Event::LayerChanged { slot: of, track, layer } => {
                assert_eq!((of, track), (slot(0), TRACK));
                Some(layer.map(|l| (l.encoding, l.spatial, l.temporal)))
            }
            _ => None,
        });
        changes.collect()
    };
    assert!(stage.events.contains(&Event::LayersChanged { track: TRACK }));
    let all = changes(&mut stage);
    assert_eq!(all.last(), Some(&Some((1, 0, 0))), "{all:?}");
    stage.run(1000);
    assert_eq!(stage.events, [], "nothing changes");
    stage.set_target(slot(0), Target::Paused);
    stage.run(33);
    assert_eq!(changes(&mut stage), [None]);
    assert_eq!(stage.forwarding(slot(0)), None);
    stage.set_target(slot(0), layer(2, 0, 0));
    stage.run(500);
    assert_eq!(changes(&mut stage), [Some((2, 0, 0))]);
    stage.encoder("q").size = (160, 90);
    stage.encoder("q").key_wanted = true;
    stage.run(500);
    assert_eq!(stage.events, [Event::LayersChanged { track: TRACK }]);
    let size = stage.infos()[0];
    assert_eq!((size.width, size.height), (160, 90));
    stage.events.clear();
    stage.encoder("q").is_active = false;
    stage.run(2000);
    assert_eq!(stage.events, [Event::LayersChanged { track: TRACK }], "it died");
    stage.verify();
}

#[test]
fn nobody_is_asked_for_what_nobody_watches() {
    let mut stage = stage(Mode::Vp8 { temporal: 1 }, &SIMULCAST, layer(1, 0, 0));
    let wanted = |stage: &mut Stage| -> Vec<(&'static str, bool)> {
        let events = stage.events.drain(..).filter_map(|event| match event {
            Event::EncodingWanted { track: TRACK, rid, wanted } => {
                let name = SIMULCAST.into_iter().flatten().find(|name| rid == Some(Rid::from(*name)));
                Some((name.expect("a rid"), wanted))
            }
            _ => None,
        });
        events.collect()
    };
    stage.run(9900);
    assert_eq!(wanted(&mut stage), [], "layers are still being learned");
    stage.run(400);
    assert_eq!(wanted(&mut stage), [("q", false), ("f", false)]);
    stage.run(20_000);
    let infos = stage.infos();
    assert_eq!(stage.layers(), [(0, 0, 0), (1, 0, 0), (2, 0, 0)], "can still be chosen");
    assert_eq!(infos.iter().map(|i| i.is_live).collect::<Vec<_>>(), [false, true, false]);
    assert!(infos[2].bitrate > 700_000 && infos[2].framerate >= 30 && infos[2].width == 1280, "{:?}", infos[2]);
    // Wanted again: at once, while the present one goes on.
    let begin = stage.room.ms;
    stage.set_target(slot(0), layer(2, 0, 0));
    stage.poll();
    assert_eq!(wanted(&mut stage), [("f", true)]);
    stage.run(500);
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 0)));
    assert!(stage.receiver(slot(0)).longest_gap(begin, stage.room.ms) <= 66);
    let back = stage.infos()[2];
    assert!(back.is_live && back.bitrate > 700_000, "the figures go on: {back:?}");
    stage.run(4000);
    assert_eq!(wanted(&mut stage), []);
    stage.run(1500);
    assert_eq!(wanted(&mut stage), [("h", false)]);
    // Best wants the best, even while it is paused.
    stage.set_target(slot(0), layer(0, 0, 0));
    stage.run(8000);
    assert_eq!(wanted(&mut stage), [("q", true), ("f", false)]);
    stage.set_target(slot(0), Target::Best);
    stage.run(8000);
    let all = wanted(&mut stage);
    assert!(all.starts_with(&[("h", true), ("f", true)]) && all.contains(&("q", false)), "{all:?}");
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 0)));
    stage.verify();
}

#[test]
fn demand_ends_and_returns_with_the_last_and_the_first_who_watches() {
    for mode in [Mode::Vp8 { temporal: 1 }, Mode::H264] {
        let mut stage = stage(mode, &[None], Target::Best);
        stage.run(12_000);
        let told = |wanted| Event::EncodingWanted { track: TRACK, rid: None, wanted };
        assert!(!stage.events.contains(&told(false)));
        stage.room.sfu.unsubscribe(slot(0));
        stage.run(4500);
        assert!(!stage.events.contains(&told(false)));
        stage.run(1000);
        assert!(stage.events.contains(&told(false)), "{mode:?}");
        assert!(!stage.encoders[0].is_active);
        // Muted meanwhile: nothing is said before it is over.
        stage.events.clear();
        stage.room.sfu.set_muted(TRACK, true);
        stage.subscribe(slot(1), TRACK, Target::Best);
        stage.run(2000);
        assert_eq!(stage.events, []);
        stage.room.sfu.set_muted(TRACK, false);
        stage.run(500);
        assert!(stage.events.contains(&told(true)));
        assert!(stage.receiver(slot(1)).count() > 0);
        stage.verify();
    }
    // Nobody hears this: audio is never told to stop.
    let mut room = Room::new();
    room.sfu.publish(TRACK, MediaKind::Audio);
    for n in 0..1000 {
        room.ms += 20;
        room.send(&Packet::audio(n));
        room.sfu.handle_timeout(room.now());
    }
    assert_eq!(room.sfu.poll_event(), None);
}

#[test]
fn an_encoding_that_died_by_itself_is_not_told_to_stop_and_may_return() {
    let mut stage = stage(Mode::Vp8 { temporal: 1 }, &SIMULCAST, layer(0, 0, 0));
    stage.run(3000);
    stage.encoder("f").is_active = false;
    stage.run(30_000);
    let of_f = |stage: &Stage| {
        let rid = Some(Rid::from("f"));
        stage.events.iter().filter(|e| matches!(e, Event::EncodingWanted { rid: of, .. } if *of == rid)).count()
    };
    assert_eq!(of_f(&stage), 0, "else it could never come back");
    assert_eq!(stage.layers(), [(0, 0, 0), (1, 0, 0)]);
    stage.encoder("f").is_active = true;
    stage.run(1000);
    assert_eq!(stage.layers().last(), Some(&(2, 0, 0)));
    // Asked for after a pause, it does not come: then it cannot be chosen any more.
    stage.run(6000);
    assert_eq!(of_f(&stage), 1);
    stage.obeys = false;
    stage.set_target(slot(0), layer(2, 0, 0));
    stage.run(4000);
    assert_eq!(stage.layers().last(), Some(&(2, 0, 0)), "it may still come");
    stage.run(2000);
    assert_eq!(stage.layers().last(), Some(&(1, 0, 0)));
    stage.verify();
}

#[test]
fn who_comes_later_has_a_picture_at_once_and_the_publisher_is_left_alone() {
    for mode in MODES {
        let mut stage = stage(mode, &[None], Target::Best);
        stage.run(45 * 33);
        stage.requests.clear();
        stage.replay_max = usize::MAX;
        let begin = stage.room.ms;
        stage.subscribe(slot(1), TRACK, Target::Best);
        let (first, count) = stage.receiver(slot(1)).first();
        assert_eq!(first, begin, "{mode:?}");
        assert!(count > 20, "{mode:?}: {count}");
        stage.poll();
        assert_eq!(stage.forwarding(slot(1)), stage.forwarding(slot(0)), "{mode:?}");
        let times = stage.receiver(slot(1)).times_at(begin);
        assert!(times.windows(2).all(|w| w[1].wrapping_sub(w[0]) == 90), "{mode:?}: a millisecond apart: {times:?}");
        stage.run(500);
        assert_eq!(stage.requests, [], "{mode:?}");
        let live = stage.receiver(slot(1)).times_at(begin + 33);
        assert_eq!(live[0].wrapping_sub(*times.last().unwrap()), 33 * 90, "{mode:?}: then as it is made");
        assert_eq!(stage.receiver(slot(1)).holes(), 0);
        assert_eq!(stage.room.sfu.counters().replays, 1);
        stage.verify();
    }
}

#[test]
fn a_replay_is_no_larger_than_it_may_be() {
    let mut stage = stage(Mode::Vp8 { temporal: 3 }, &SIMULCAST, layer(2, 0, 2));
    stage.subscribe(slot(9), TRACK, layer(0, 0, 2));
    stage.run(1500);
    stage.requests.clear();
    stage.replay_max = usize::MAX;
    // Each time a little less than the last one took: lower layers of the encoding, then the next one below.
    let rows = [(2, 0, 2), (2, 0, 1), (2, 0, 0), (1, 0, 2), (1, 0, 1), (1, 0, 0), (0, 0, 2)];
    for (n, expect) in (1..).zip(rows) {
        stage.subscribe(slot(n), TRACK, layer(2, 0, 2));
        assert_eq!(stage.forwarding(slot(n)), Some(expect), "{}", stage.replay_max);
        let sent = stage.receiver(slot(n)).octets_at(stage.room.ms);
        assert!((1..=stage.replay_max).contains(&sent), "{sent} of {}", stage.replay_max);
        stage.replay_max = sent - 1;
        stage.poll();
        assert_eq!(stage.requests.is_empty(), n < 4, "{n}: only another encoding takes a key frame");
    }
    stage.replay_max = 1000;
    stage.subscribe(slot(8), TRACK, layer(2, 0, 2));
    assert_eq!(stage.forwarding(slot(8)), None);
    stage.run(1000);
    for n in 1..9 {
        assert_eq!(stage.forwarding(slot(n)), Some((2, 0, 2)), "{n}");
    }
    stage.verify();
}

#[test]
fn a_replay_serves_a_change_and_the_end_of_a_pause_as_well() {
    for mode in [Mode::Vp8 { temporal: 3 }, Mode::Av1 { spatial: 1, temporal: 2, keyed: false }] {
        let mut stage = stage(mode, &SIMULCAST, layer(0, 0, 0));
        stage.subscribe(slot(1), TRACK, layer(2, 0, 1));
        stage.run(450);
        stage.requests.clear();
        stage.replay_max = usize::MAX;
        stage.set_target(slot(0), layer(2, 0, 1));
        assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 1)), "{mode:?}");
        stage.run(500);
        stage.set_target(slot(0), Target::Paused);
        stage.run(500);
        stage.set_target(slot(0), layer(2, 0, 0));
        assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 0)), "{mode:?}");
        stage.run(500);
        assert_eq!(stage.requests, [], "{mode:?}");
        assert_eq!(stage.receiver(slot(0)).holes(), 0);
        stage.verify();
    }
    // Within one encoding as well: the upper layers' group again, from its key frame.
    let mut stage = stage(Mode::Vp9 { spatial: 3, temporal: 3, flexible: false }, &[None], layer(0, 0, 2));
    stage.run(450);
    stage.requests.clear();
    stage.replay_max = usize::MAX;
    stage.set_target(slot(0), layer(0, 2, 2));
    assert_eq!(stage.forwarding(slot(0)), Some((0, 2, 2)));
    stage.run(500);
    assert_eq!(stage.requests, []);
    stage.verify();
}

/// A receiver that is shown pictures already would take what comes after many at once for freezes.
#[test]
fn a_replay_to_who_sees_something_has_few_pictures() {
    let mut stage = stage(Mode::Vp8 { temporal: 3 }, &SIMULCAST, layer(0, 0, 2));
    stage.subscribe(slot(1), TRACK, layer(2, 0, 2));
    stage.run(30 * 33);
    stage.requests.clear();
    stage.replay_max = usize::MAX;
    // Thirty pictures are too many; every second one of them is not.
    stage.set_target(slot(0), layer(2, 0, 2));
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 1)));
    assert_eq!(stage.receiver(slot(0)).times_at(stage.room.ms).len(), 1 + 15, "and what was there");
    stage.run(9 * 33);
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 2)));
    assert_eq!(stage.requests, []);
    stage.run(60 * 33);
    // Nor is there a layer of that now: the publisher is asked.
    stage.set_target(slot(0), layer(1, 0, 2));
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 2)));
    stage.run(330);
    assert_eq!((stage.forwarding(slot(0)), stage.requests.len()), (Some((1, 0, 2)), 1));
    stage.verify();
}

/// A line that is flooded takes nothing more of what floods it, and goes on with a key frame of what fits.
#[test]
fn a_cut_ends_at_once_what_was_sent() {
    for mode in [Mode::Vp8 { temporal: 3 }, Mode::Vp9 { spatial: 1, temporal: 3, flexible: false }] {
        let mut stage = stage(mode, &SIMULCAST, layer(2, 0, 2));
        stage.subscribe(slot(1), TRACK, layer(2, 0, 2));
        stage.run(500);
        stage.requests.clear();
        stage.answers = false;
        let now = stage.room.now();
        stage.room.sfu.cut(now, slot(0));
        assert_eq!(stage.forwarding(slot(0)), None, "{mode:?}");
        stage.set_target(slot(0), layer(0, 0, 2));
        let before = stage.receiver(slot(0)).times_at(stage.room.ms).len();
        stage.run(330);
        assert_eq!(
            stage.receiver(slot(0)).times_at(stage.room.ms).len(),
            before,
            "{mode:?}: nothing before a key frame"
        );
        let asked: Vec<_> = stage.requests.iter().map(|r| r.rid).collect();
        assert!(asked.iter().all(|rid| *rid == Some("q".into())) && !asked.is_empty(), "{mode:?}: {asked:?}");
        stage.answers = true;
        stage.run(1000);
        assert_eq!(stage.forwarding(slot(0)), Some((0, 0, 2)), "{mode:?}");
        assert_eq!(stage.forwarding(slot(1)), Some((2, 0, 2)), "{mode:?}: others are sent what they were");
        assert_eq!(stage.receiver(slot(0)).holes(), 0, "{mode:?}");
        stage.verify();
    }
}

#[test]
fn a_receiver_without_descriptors_gets_what_it_can_read() {
    for (mode, expect) in [
        (Mode::Av1 { spatial: 3, temporal: 3, keyed: true }, (0, 0, 2)),
        (Mode::Av1 { spatial: 1, temporal: 2, keyed: false }, (0, 0, 1)),
        (Mode::Vp8Described { temporal: 3 }, (0, 0, 2)),
    ] {
        let mut stage = Stage::new(5);
        stage.publish(TRACK, mode, &[None]);
        stage.room.sfu.set_reads_descriptors(slot(0), false);
        stage.subscribe(slot(0), TRACK, Target::Best);
        stage.subscribe(slot(1), TRACK, Target::Best);
        stage.room.sfu.set_reads_descriptors(slot(1), false);
        stage.subscribe(slot(2), TRACK, Target::Best);
        stage.run(1500);
        for n in [0, 1] {
            assert_eq!(stage.forwarding(slot(n)), Some(expect), "{mode:?}");
            assert!(!stage.receiver(slot(n)).has_descriptors());
        }
        assert!(stage.receiver(slot(2)).has_descriptors());
        stage.room.sfu.set_reads_descriptors(slot(0), true);
        stage.run(1000);
        assert_eq!(stage.forwarding(slot(0)), stage.forwarding(slot(2)), "{mode:?}");
        for n in [1, 2] {
            stage.receiver(slot(n)).verify(&stage.truth, &stage.lost, "");
        }
    }
}

/// Time that a replay needs is given back at later changes.
#[test]
fn time_keeps_step_with_the_clock_over_many_replays() {
    let mut stage = stage(Mode::Vp8 { temporal: 1 }, &SIMULCAST, layer(0, 0, 0));
    stage.subscribe(slot(1), TRACK, Target::Best);
    stage.replay_max = usize::MAX;
    stage.run(600);
    let (begin, from) = (stage.receiver(slot(0)).newest_time(), stage.room.ms);
    for n in 0..120 {
        stage.set_target(slot(0), layer(n % 3, 0, 0));
        stage.run(165);
        if n % 3 == 2 {
            for encoder in &mut stage.encoders {
                encoder.key_wanted = true;
            }
        }
    }
    let time = stage.receiver(slot(0)).newest_time().wrapping_sub(begin) / 90;
    let wall = (stage.room.ms - from) as u32;
    assert!(time >= wall && time < wall + 300, "{time} ms in {wall}");
    assert!(stage.room.sfu.counters().replays > 60, "{:?}", stage.room.sfu.counters());
    stage.verify();
}

#[test]
fn what_is_kept_ends() {
    let attempt = |stage: &mut Stage, n: u32| {
        stage.replay_max = usize::MAX;
        stage.subscribe(slot(n), TRACK, Target::Best);
        stage.forwarding(slot(n)).is_some()
    };
    // 96,000 octets a second: full before three seconds are over.
    let mut stage = stage(Mode::Vp8 { temporal: 1 }, &[None], Target::Best);
    stage.run(2000);
    assert!(attempt(&mut stage, 1));
    stage.run(1500);
    assert!(!attempt(&mut stage, 2), "it grew too large");
    stage.run(500);
    assert!(attempt(&mut stage, 3), "a key frame came");
    // A packet is lost for good.
    let lost = stage.make();
    stage.room.ms += 33;
    for packet in &lost[..lost.len() - 1] {
        stage.deliver(packet);
    }
    stage.lost.insert(stream::Tail::of(&lost.last().unwrap().payload).frame);
    stage.run(200);
    assert!(attempt(&mut stage, 4), "it may still come");
    stage.run(600);
    assert!(!attempt(&mut stage, 5));
    stage.run(500);
    assert!(attempt(&mut stage, 6));
    // What was said while muted, or before, is not for those who come later.
    stage.room.sfu.set_muted(TRACK, true);
    stage.run(300);
    stage.room.sfu.set_muted(TRACK, false);
    assert!(!attempt(&mut stage, 7));
    stage.run(500);
    assert!(attempt(&mut stage, 8));
    let Stage { encoders, random, .. } = &mut stage;
    encoders[0].restart(random);
    stage.answers = false;
    stage.encoders[0].key_wanted = false;
    stage.run(33);
    assert!(!attempt(&mut stage, 9), "of what was before");
}

#[test]
fn the_publishers_allocation_tells_sizes_and_what_is_off() {
    use str0m::rtp::vla::*;
    let allocation = |current: u8, active: [bool; 3]| {
        let streams = [(320, 180), (640, 360), (1280, 720)].into_iter().zip(active).map(|((width, height), is_on)| {
            let temporal_layers =
                if is_on { vec![TemporalLayerAllocation { cumulative_kbps: 100 }] } else { Vec::new() };
            let size = ResolutionAndFramerate { width, height, framerate: 30 };
            let layer = SpatialLayerAllocation { temporal_layers, resolution_and_framerate: Some(size) };
            SimulcastStreamAllocation { spatial_layers: vec![layer] }
        });
        VideoLayersAllocation { current_simulcast_stream_index: current, simulcast_streams: streams.collect() }
    };
    // H.264 whose parameter sets cannot be read, as with end-to-end encryption.
    let mut stage = stage(Mode::H264, &SIMULCAST, layer(2, 0, 0));
    let run = |stage: &mut Stage, ms: u64, active: [bool; 3]| {
        for _ in 0..ms / 33 {
            stage.room.ms += 33;
            for mut packet in stage.make() {
                let index = SIMULCAST.iter().position(|rid| *rid == packet.rid).unwrap();
                packet.ext.user_values.set(allocation(index as u8, active));
                stage.deliver(&packet);
            }
            stage.poll();
        }
    };
    run(&mut stage, 1000, [true; 3]);
    let sizes: Vec<_> = stage.infos().iter().map(|i| (i.width, i.height)).collect();
    assert_eq!(sizes, [(320, 180), (640, 360), (1280, 720)]);
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 0)));
    // Off: known at once, not after a second and a half of silence.
    stage.encoder("f").is_active = false;
    let begin = stage.room.ms;
    run(&mut stage, 330, [true, true, false]);
    assert_eq!(stage.forwarding(slot(0)), Some((1, 0, 0)));
    assert_eq!(stage.layers(), [(0, 0, 0), (1, 0, 0)]);
    assert!(stage.receiver(slot(0)).longest_gap(begin, stage.room.ms) < 300);
    stage.encoder("f").is_active = true;
    run(&mut stage, 660, [true; 3]);
    assert_eq!(stage.forwarding(slot(0)), Some((2, 0, 0)));
    stage.verify();
}

#[test]
fn only_what_subscribers_may_see_of_extensions_goes_out_with_a_descriptor() {
    let mut stage = stage(Mode::Av1 { spatial: 1, temporal: 1, keyed: false }, &[None], Target::Best);
    stage.room.ms += 33;
    for mut packet in stage.make() {
        packet.ext.user_values.set(17_u32);
        packet.ext.mid = Some("p".into());
        for forward in stage.room.send(&packet) {
            assert!(forward.ext.user_values.get::<u32>().is_none() && forward.ext.mid.is_none());
            let (sent, got) = (packet.ext.user_values.get::<DependencyDescriptor>(), forward.ext.user_values.get());
            assert_eq!(got, sent);
        }
    }
}

/// A packet that is lost on the way to the machine is a hole only for those who would have got it.
#[test]
fn what_is_lost_of_layers_that_are_not_sent_leaves_no_hole() {
    for mode in MODES {
        let mut stage = stage(mode, &[None], Target::Best);
        stage.run(1500);
        let layers = stage.layers();
        if layers.len() == 1 {
            continue;
        }
        stage.set_target(slot(0), layer(0, 0, 0));
        stage.run(1000);
        let mut lost = 0;
        for _ in 0..150 {
            stage.room.ms += 33;
            let packets = stage.make();
            for packet in packets {
                let frame = stream::Tail::of(&packet.payload).frame;
                let truth = &stage.truth.frames[frame];
                // Two in a row now and then, of any place in a frame.
                if (truth.spatial > 0 || truth.temporal > 0) && stage.random.u32(0..4) == 0 {
                    stage.lost.insert(frame);
                    lost += 1;
                    continue;
                }
                stage.deliver(&packet);
            }
            stage.poll();
        }
        let holes = stage.receiver(slot(0)).holes();
        assert!(lost > 20, "{mode:?}: {lost}");
        // With a number for each frame only what follows directly can be judged; upper spatial layers of VP9 always can.
        let bound = match mode {
            Mode::Vp8 { .. } => 0,
            Mode::Vp9 { .. } => lost / 3,
            _ => lost / 2,
        };
        assert!(holes <= bound, "{mode:?}: {holes} of {lost}");
        stage.verify();
    }
}
