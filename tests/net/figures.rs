//! The figures of media quality that are promised, over real sockets: a server process, and simulated browsers behind relays.
//!
//! The long ones print rows for `benches/RESULTS.md` and are run by `tools/figures.sh`; short ones of the same kind belong to
//! every run. All of them need the processor for themselves, so they wait for each other.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::client::{AudioShare, BROWSER};
use crate::harness::call::{Call, MS, SECOND};
use crate::harness::{Server, Setup};
use crate::payload::Source;
use crate::weather::{DARK, HOME};

/// One at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // What failed for another is over.
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

fn server() -> Server {
    Setup::new().start()
}

/// Ann and Bob see each other in the best size.
fn pair(server: &Server) -> Call<'_> {
    let mut call = Call::new(server);
    for user in ["ann", "bob"] {
        call.join(user, &BROWSER, HOME);
    }
    call.expect("both see and hear each other", 10 * SECOND, |call| {
        [(ANN, BOB), (BOB, ANN)].iter().all(|(to, from)| call.people[*to].client.heard_of(*from as u32, false) > 10)
    });
    call.expect("nothing but the best size for a while", 15 * SECOND, |call| {
        [(ANN, BOB), (BOB, ANN)].iter().all(|(to, from)| {
            let now = call.now();
            let shown = call.people[*to].client.shown_of(*from as u32, Source::Camera, now.saturating_sub(STEADY));
            shown.first().is_some_and(|s| s.at + STEADY < now + 100 * MS) && shown.iter().all(|s| s.width == 1280)
        })
    });
    call
}

/// So long has the best size to be there before the weather changes.
const STEADY: Duration = Duration::from_millis(1500);

const ANN: usize = 0;
const BOB: usize = 1;

/// The width of the latest picture, 0 for none within the last second.
fn width(call: &Call, to: usize, from: usize) -> u16 {
    call.people[to].client.width_of(call.now(), from as u32, Source::Camera)
}

/// What came of the audio that was sent since then. The last second is still under way.
fn audio(call: &Call, to: usize, from: usize, since: Duration) -> AudioShare {
    let span = (since, call.now() - SECOND);
    call.people[to].client.audio_share(&call.people[from].client, span, LATE)
}

/// How late audio may be and still be played.
const LATE: Duration = Duration::from_millis(400);

/// Pictures of a camera since then, by width; and how long it stood still.
fn pictures(call: &Call, to: usize, from: usize, since: Duration) -> (BTreeMap<u16, usize>, Duration) {
    let client = &call.people[to].client;
    let mut widths = BTreeMap::new();
    for shown in client.shown_of(from as u32, Source::Camera, since) {
        *widths.entry(shown.width).or_default() += 1;
    }
    let now = call.now();
    (widths, client.decoder_of(from as u32, Source::Camera).map_or(now - since, |d| d.frozen(since, now)))
}

fn is_one_connection(call: &Call) -> bool {
    call.people.iter().all(|b| b.client.connections == 1) && is_without_leave(call)
}

fn is_without_leave(call: &Call) -> bool {
    call.people.iter().all(|b| b.client.connected && b.client.texts_of("user-left").count() == 0)
}

/// A row: what was done, what is promised of it, what was measured, and what else is worth knowing.
fn row(what: &str, promised: &str, measured: &str, besides: &str) {
    println!("| {what} | {promised} | {measured} | {besides} |");
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

fn by_width(widths: &BTreeMap<u16, usize>) -> String {
    widths.iter().map(|(width, count)| format!("{count} of {width}")).collect::<Vec<_>>().join(", ")
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

// ---- loss ----

/// First on Bob's way down, then on Ann's way up; what Bob hears of Ann.
fn loss(loss: f64, time: Duration, promised: f64) {
    let (_alone, server) = (alone(), server());
    let mut call = pair(&server);
    call.people[BOB].set_down(HOME.lossy(loss));
    let start = call.now();
    call.run(time + SECOND);
    let down = audio(&call, BOB, ANN, start);
    let (widths, frozen) = pictures(&call, BOB, ANN, start);
    call.people[BOB].set_down(HOME);
    call.people[ANN].set_up(HOME.lossy(loss));
    let start = call.now();
    call.run(time + SECOND);
    let up = audio(&call, BOB, ANN, start);
    row(
        &format!("{} loss for {time:?}", percent(loss)),
        &format!("audio ≥ {}", percent(promised)),
        &percent(down.delivered),
        &format!(
            "packets alone {}, longest gap {}, pictures by width {}, frozen {}; the same loss up: {}, packets alone {}",
            percent(down.alone),
            millis(down.gap),
            by_width(&widths),
            seconds(frozen),
            percent(up.delivered),
            percent(up.alone)
        ),
    );
    assert!(is_one_connection(&call), "{}", call.describe());
    assert!(down.delivered >= promised, "{down:?}\n{}", call.describe());
    assert_eq!(server.count("panics"), 0);
}

#[test]
fn audio_survives_loss() {
    loss(0.2, 4 * SECOND, 0.95);
}

#[test]
#[ignore = "takes minutes; tools/figures.sh"]
fn long_loss_of_10_percent() {
    loss(0.1, 60 * SECOND, 0.995);
}

#[test]
#[ignore = "takes minutes; tools/figures.sh"]
fn long_loss_of_20_percent() {
    loss(0.2, 60 * SECOND, 0.97);
}

/// In both directions of Bob's line.
fn heavy_loss(time: Duration) {
    let (_alone, server) = (alone(), server());
    let mut call = pair(&server);
    call.people[BOB].set_weather(HOME.lossy(0.3));
    let start = call.now();
    call.run(time + SECOND);
    let (down, up) = (audio(&call, BOB, ANN, start), audio(&call, ANN, BOB, start));
    let (widths, frozen) = pictures(&call, BOB, ANN, start);
    let late = call.now() - 4 * SECOND.min(time / 2);
    let at_the_end = [(BOB, ANN), (ANN, BOB)].map(|(to, from)| audio(&call, to, from, late).delivered);
    row(
        &format!("30 % loss both ways for {time:?}"),
        "the session survives",
        if is_one_connection(&call) { "it does" } else { "it does not" },
        &format!(
            "audio down {}, up {}, longest gap {}, pictures by width {}, frozen {}",
            percent(down.delivered),
            percent(up.delivered),
            millis(down.gap),
            by_width(&widths),
            seconds(frozen)
        ),
    );
    assert!(is_one_connection(&call), "{}", call.describe());
    // Of pictures little is left: what may be sent again is limited to less than is lost.
    assert!(at_the_end.iter().all(|share| *share > 0.5), "audio at the end {at_the_end:?}\n{}", call.describe());
    assert!(down.delivered > 0.5, "{down:?}");
    assert_eq!(server.count("panics"), 0);
}

#[test]
fn a_session_survives_heavy_loss() {
    heavy_loss(5 * SECOND);
}

#[test]
#[ignore = "takes minutes; tools/figures.sh"]
fn long_loss_of_30_percent() {
    heavy_loss(60 * SECOND);
}

// ---- blackouts ----

/// Nothing passes on Bob's line. `has_socket`: TCP waits until it is over; otherwise the socket is lost at once, and Bob has
/// another one when it is over.
fn blackout(time: Duration, has_socket: bool) {
    let (_alone, server) = (alone(), server());
    let mut call = pair(&server);
    call.people[BOB].set_weather(DARK);
    if has_socket {
        call.people[BOB].is_held = true;
    } else {
        call.people[BOB].go_offline();
    }
    call.run(time);
    call.people[BOB].set_weather(HOME);
    call.people[BOB].is_held = false;
    if !has_socket {
        call.come_back(BOB);
    }
    let start = call.now();
    let heard =
        |call: &Call| [(ANN, BOB), (BOB, ANN)].map(|(to, from)| call.people[to].client.heard_of(from as u32, false));
    let seen = |call: &Call, to: usize, from: usize| {
        !call.people[to].client.shown_of(from as u32, Source::Camera, start).is_empty()
    };
    let before = heard(&call);
    let media = call.expect("audio is back", 10 * SECOND, |call| heard(call).iter().zip(before).all(|(n, b)| *n > b));
    call.expect("video is back", 10 * SECOND, |call| seen(call, ANN, BOB) && seen(call, BOB, ANN));
    let video = call.now() - start;
    row(
        &format!(
            "blackout of {time:?}, {}",
            if has_socket { "signaling waits" } else { "signaling is lost and resumed" }
        ),
        "media is back within 1 s",
        &seconds(media),
        &format!("video after {}, connections made: {}", seconds(video), call.people[BOB].client.connections),
    );
    assert!(media <= SECOND, "{}", call.describe());
    // A client that gave its connection up meanwhile makes another one.
    assert!(is_without_leave(&call), "{}", call.describe());
    assert_eq!(server.count("panics"), 0);
}

#[test]
fn media_returns_after_a_blackout() {
    blackout(3 * SECOND, true);
}

#[test]
#[ignore = "takes minutes; tools/figures.sh"]
fn long_blackouts() {
    blackout(25 * SECOND, true);
    blackout(25 * SECOND, false);
}

// ---- bandwidth ----

/// Bob's way down is suddenly narrow, and wide again after a while. How long a lower layer may take, and audio be silent.
fn narrow(time: Duration, lower_max: Duration, gap_max: Duration, back_max: Option<Duration>) {
    let (_alone, server) = (alone(), server());
    let mut call = pair(&server);
    call.people[BOB].set_down(HOME.narrow(500));
    let start = call.now();
    let is_lower = |call: &Call| {
        let shown = call.people[BOB].client.shown_of(ANN as u32, Source::Camera, start);
        shown.iter().any(|s| s.width < 1280)
    };
    let lower = call.expect("a lower layer", 10 * SECOND, is_lower);
    call.run((start + time).saturating_sub(call.now()) + SECOND);
    let heard = audio(&call, BOB, ANN, start);
    let (widths, frozen) = pictures(&call, BOB, ANN, start);
    let (_, down) = call.people[BOB].relay.counts();
    row(
        &format!("cut to 500 kb/s for {time:?}"),
        &format!("lower layer within {lower_max:?}, audio without a gap over {gap_max:?}"),
        &format!("{}, {}", seconds(lower), millis(heard.gap)),
        &format!(
            "audio {}, pictures by width {}, frozen {}, {} of {} datagrams lost",
            percent(heard.delivered),
            by_width(&widths),
            seconds(frozen),
            down.lost,
            down.datagrams
        ),
    );
    if let Some(back_max) = back_max {
        call.people[BOB].set_down(HOME);
        let back = call.expect("the best size again", 30 * SECOND, |call| width(call, BOB, ANN) == 1280);
        row("bandwidth returns", &format!("best layer within {back_max:?}"), &seconds(back), "");
        assert!(back <= back_max, "{}", call.describe());
    }
    assert!(lower <= lower_max, "{}", call.describe());
    assert!(heard.gap <= gap_max, "{heard:?}\n{}", call.describe());
    assert!(is_one_connection(&call), "{}", call.describe());
    assert_eq!(server.count("panics"), 0);
}

/// With room for other tests on the machine.
#[test]
fn a_narrow_line_gets_a_lower_layer() {
    narrow(4 * SECOND, 5 * SECOND, SECOND, None);
}

#[test]
#[ignore = "takes minutes; tools/figures.sh"]
fn long_cuts_to_500_kbps() {
    for _ in 0..3 {
        narrow(20 * SECOND, 2 * SECOND, 300 * MS, Some(10 * SECOND));
    }
}

/// An address translator that forgets: the server sees the client elsewhere from one packet to the next.
#[test]
fn media_follows_a_rebinding() {
    let (_alone, server) = (alone(), server());
    let mut call = pair(&server);
    let start = call.now();
    call.people[BOB].rebind();
    call.run(3 * SECOND);
    let gaps = [(ANN, BOB), (BOB, ANN)].map(|(to, from)| audio(&call, to, from, start).gap);
    row("rebinding", "no gap in audio > 1.5 s", &gaps.map(millis).join(", "), "");
    assert!(gaps.iter().all(|gap| *gap <= 1500 * MS), "{gaps:?}\n{}", call.describe());
    assert!(is_one_connection(&call), "{}", call.describe());
}
