//! What scenarios look at: pictures and voices as the person in front of the screen has them.

use std::time::Duration;

use serde_json::Value;

use crate::client::Client;
use crate::payload::Source;
use crate::world::World;

/// How late audio may be and still be played.
pub const LATE: Duration = Duration::from_millis(400);

pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// The value below which so large a share of them is.
pub fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort();
    let at = (times.len() as f64 * share).ceil() as usize;
    times.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

pub fn median<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    let mut values: Vec<f64> = values.copied().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Waits until the picture of a camera has this width.
pub fn expect_width(
    world: &mut World,
    to: usize,
    from: usize,
    source: Source,
    width: u16,
    within: Duration,
) -> Duration {
    let what = format!("{source:?} of {from} at {to} is {width} wide");
    world.expect(&what, within, |w| w.clients[to].width_of(w.now, from as u32, source) == width)
}

/// How long the picture of a camera stood still since then.
pub fn frozen(world: &World, to: usize, from: usize, since: Duration) -> Duration {
    let decoder = world.clients[to].decoder_of(from as u32, Source::Camera);
    decoder.map_or(world.now - since, |d| d.frozen(since, world.now))
}

/// The longest time without a packet of a microphone since then.
pub fn silence(world: &World, to: usize, from: usize, since: Duration) -> Duration {
    world.clients[to].audio_share(&world.clients[from], (since, world.now), LATE).gap
}

/// The longest time between two pictures of a track since then.
pub fn stillness(world: &World, to: usize, from: usize, source: Source, since: Duration) -> Duration {
    let shown = world.clients[to].shown_of(from as u32, source, since);
    let times = std::iter::once(since).chain(shown.iter().map(|s| s.at)).chain([world.now]);
    let times: Vec<Duration> = times.collect();
    times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default()
}

/// Lets this much time pass, and tells what was shown of a track meanwhile: pictures per second, and all their widths.
pub fn watch(world: &mut World, to: usize, from: usize, source: Source, time: Duration) -> (f64, Vec<u16>) {
    let start = world.now;
    world.run(time);
    let shown = world.clients[to].shown_of(from as u32, source, start);
    let mut widths: Vec<u16> = shown.iter().map(|s| s.width).collect();
    widths.sort();
    widths.dedup();
    (shown.len() as f64 / time.as_secs_f64(), widths)
}

/// The id of a track, as a client was told it.
pub fn track_id(client: &Client, user: &str, source: Source) -> Value {
    let is_it = |(_, whose): &(&String, &(String, Option<Source>))| whose.0 == user && whose.1 == Some(source);
    let found = client.tracks.iter().find(is_it).map(|(id, _)| id.as_str());
    serde_json::from_str(found.unwrap_or("null")).expect("it was JSON before")
}
