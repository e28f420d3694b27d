//! Divides the bandwidth of one subscriber among its video subscriptions: which layer of each track it is sent.
//!
//! Pure: layers, wishes and a budget in, layers out; nothing is remembered between two allocations but memory. Driven by
//! [`crate::shard`] for each subscriber, some times a second and whenever the estimate falls. Audio is not divided: the
//! caller takes it from the estimate first.
//!
//! # Who gets what
//!
//! Each track becomes a *ladder*: the layers that the wishes allow, ascending, without those that cost no less than a better
//! one. Three rules decide how far up each goes:
//!
//! 1. *Everybody sees something.* Before anything is raised, each track gets the first rung of its ladder, in the order of
//!    rank. Where that does not fit, the track pauses.
//! 2. *Rank.* Then the ladders are climbed, a greater priority first and to its end; at equal priority screens come before
//!    cameras. Equals climb together: the one whose next rung is the cheapest goes next.
//! 3. *Who has it keeps it.* What costs no more than what a subscription has may use the whole budget, anything above only
//!    what leaves an eighth free. Among equals what is held comes first. So estimates and bitrates may swing by an
//!    eighth without a switch, and an allocation whose result is fed back changes nothing.
//!
//! More budget never takes from a higher rank for the sake of a lower one, but where rule 1 wants it: a first rung that fits
//! now comes before what a higher rank had above its own.
//!
//! # Cameras and screens
//!
//! Both go down from the best layer by losing frame rate, then resolution; they differ in where that turns. A camera that
//! stutters is worse than a small one, so it takes the next resolution only at about 15 frames per second. A screen has to
//! be readable, so it keeps its resolution down to 5. At the lowest resolution every frame rate will do: the next thing to
//! lose is the picture.

use std::cmp::Reverse;
use std::ops::Range;

use super::layer::{Layer, LayerInfo, Target};

/// One video track that a subscriber takes. One that it has paused itself is not to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription<K> {
    /// Unique among the subscriptions. The smaller goes first where nothing else decides.
    pub key: K,
    /// Greater is more important.
    pub priority: u32,
    pub is_screen: bool,
    pub caps: Caps,
    pub current: Current,
}

/// What a subscription got from the last allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current {
    /// There was none: it is new, or its track had no layers.
    Nothing,
    Paused,
    Layer(Layer),
}

/// What a subscriber wants at most. Where a track has nothing so small, its smallest will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    pub quality: Option<Quality>,
    /// Pixels. A layer of unknown size is taken to fit.
    pub width_max: Option<u32>,
    pub height_max: Option<u32>,
    /// Frames per second.
    pub framerate_max: Option<u32>,
    /// Bit/s of one layer. A quarter more is tolerated, since encoders are not exact.
    pub bitrate_max: Option<u64>,
}

/// A share of the resolutions that a track has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// The lowest.
    Low,
    /// The middle one; of two the higher.
    Medium,
    /// Every one.
    High,
}

/// What one subscription gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allotment<K> {
    pub key: K,
    /// `None`: paused, or, when `ideal` is `None` as well, nothing is known of the track.
    pub layer: Option<Layer>,
    /// Bit/s of `layer`, measured or assumed.
    pub bitrate: u64,
    /// What it would get if bandwidth were no matter.
    pub ideal: Option<Layer>,
}

impl<K> Allotment<K> {
    /// What the slot is to be told. Of a track of which nothing is known, whatever comes first.
    pub fn target(&self) -> Target {
        match self.layer {
            Some(layer) => Target::Layer(layer),
            None if self.is_paused() => Target::Paused,
            None => Target::Best,
        }
    }

    /// Bandwidth is why it is not the ideal.
    pub fn is_limited(&self) -> bool {
        self.layer != self.ideal
    }

    /// It would be something, if there were bandwidth.
    pub fn is_paused(&self) -> bool {
        self.layer.is_none() && self.ideal.is_some()
    }
}

/// An allocation in sum, in bit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Total {
    /// Of what was chosen.
    pub used: u64,
    /// The budget at which the next track could be raised or resumed: worth padding up to. 0: nothing waits for bandwidth,
    /// or nothing may be raised.
    pub minimum: u64,
    /// The budget at which everybody has the ideal: worth probing for.
    pub desired: u64,
    /// Somebody has less than the ideal.
    pub is_limited: bool,
}

/// Makes allocations. Keep one and use it for everybody: once warm it does not allocate memory.
///
/// [`clear`](Self::clear), [`add`](Self::add) each subscription, [`allocate`](Self::allocate), read the
/// [`allotments`](Self::allotments).
#[derive(Debug)]
pub struct Allocator<K> {
    entries: Vec<Entry<K>>,
    layers: Vec<LayerInfo>,
    rungs: Vec<Rung>,
    allotments: Vec<Allotment<K>>,
}

#[derive(Debug)]
struct Entry<K> {
    subscription: Subscription<K>,
    /// Its place in the order of adding.
    place: usize,
    /// In `Allocator::layers`.
    layers: Range<usize>,
    /// In `Allocator::rungs`.
    rungs: Range<usize>,
    ideal: Option<Rung>,
    /// How many rungs cost no more than what it has.
    held: usize,
    /// How many rungs it was given.
    level: usize,
    /// Its next rung did not fit.
    is_stuck: bool,
}

#[derive(Debug, Clone, Copy)]
struct Rung {
    layer: Layer,
    bitrate: u64,
}

impl<K> Default for Allocator<K> {
    fn default() -> Self {
        Allocator { entries: Vec::new(), layers: Vec::new(), rungs: Vec::new(), allotments: Vec::new() }
    }
}

impl<K: Copy + Ord> Allocator<K> {
    /// Begins with another subscriber.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.layers.clear();
        self.allotments.clear();
    }

    /// `layers`: all that the track has, ascending, the temporal layers of one resolution side by side. Empty while nothing
    /// is known of it.
    pub fn add(&mut self, subscription: Subscription<K>, layers: &[LayerInfo]) {
        let first = self.layers.len();
        for info in layers {
            let before = self.layers[first..].last();
            let bitrate = if info.bitrate == 0 { assumed(info, before) } else { info.bitrate.min(BITRATE_MAX) };
            self.layers.push(LayerInfo { bitrate, ..*info });
        }
        self.entries.push(Entry {
            subscription,
            place: self.entries.len(),
            layers: first..self.layers.len(),
            rungs: 0..0,
            ideal: None,
            held: 0,
            level: 0,
            is_stuck: false,
        });
    }

    /// Divides `budget` bit/s. With `may_raise` off nobody gets a better layer than before and nobody resumes, whatever fits;
    /// who is new gets the first rung all the same.
    ///
    /// The budget is kept, but for one case: a single track that was not paused stays, at its first rung, as long as the
    /// budget is 70 % of that. Estimates are the less exact the less is sent, a picture that is late is
    /// better than one that stands, and the pacer keeps the excess away from the audio. And pausing the only video would
    /// leave the estimator with nothing to measure.
    pub fn allocate(&mut self, budget: u64, may_raise: bool) -> Total {
        self.rungs.clear();
        for entry in &mut self.entries {
            entry.climb(&self.layers, &mut self.rungs, may_raise);
        }
        self.entries.sort_unstable_by_key(|entry| (entry.rank(), entry.subscription.key));
        let mut ledger = Ledger { used: 0, next: None };
        for class in self.entries.chunk_by_mut(|a, b| a.rank() == b.rank()) {
            give_first_rungs(class, &self.rungs, &mut ledger, budget, may_raise);
        }
        if let Some(kept) = self.kept(budget) {
            let entry = &mut self.entries[kept];
            (entry.level, entry.is_stuck) = (1, false);
            ledger = Ledger { used: self.rungs[entry.rungs.start].bitrate, next: None };
        }
        for class in self.entries.chunk_by_mut(|a, b| a.rank() == b.rank()) {
            raise(class, &self.rungs, &mut ledger, |entry| entry.held, budget);
            if may_raise {
                raise(class, &self.rungs, &mut ledger, |entry| entry.rungs.len(), eased(budget));
            }
        }
        self.entries.sort_unstable_by_key(|entry| entry.place);
        self.allotments.clear();
        self.allotments.extend(self.entries.iter().map(|entry| entry.allotment(&self.rungs)));
        let ideals = self.entries.iter().filter_map(|entry| entry.ideal).map(|rung| rung.bitrate).sum();
        Total {
            used: ledger.used,
            minimum: ledger.next.filter(|_| may_raise).map_or(0, uneased),
            desired: uneased(ideals),
            is_limited: self.allotments.iter().any(Allotment::is_limited),
        }
    }

    /// The result of the last [`allocate`](Self::allocate), in the order of adding.
    pub fn allotments(&self) -> &[Allotment<K>] {
        &self.allotments
    }

    /// The entry that stays although its first rung does not fit.
    fn kept(&self, budget: u64) -> Option<usize> {
        let mut known = (0..self.entries.len()).filter(|index| !self.entries[*index].rungs.is_empty());
        let (index, None) = (known.next()?, known.next()) else { return None };
        let entry = &self.entries[index];
        let bitrate = self.rungs[entry.rungs.start].bitrate;
        let nearly = budget >= bitrate * KEPT_PERCENT / 100;
        (entry.level == 0 && entry.subscription.current != Current::Paused && nearly).then_some(index)
    }
}

/// What has been given so far.
struct Ledger {
    used: u64,
    /// The least that the sum would have been with one rung more.
    next: Option<u64>,
}

/// Who holds something comes first, then who is new, then who is paused.
fn give_first_rungs<K>(class: &mut [Entry<K>], rungs: &[Rung], ledger: &mut Ledger, budget: u64, may_raise: bool) {
    for turn in [Turn::Held, Turn::New, Turn::Paused] {
        for entry in class.iter_mut().filter(|entry| !entry.rungs.is_empty() && entry.turn() == turn) {
            match turn {
                Turn::Held | Turn::New => entry.step(rungs, ledger, budget),
                Turn::Paused if may_raise => entry.step(rungs, ledger, eased(budget)),
                Turn::Paused => entry.is_stuck = true,
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Held,
    New,
    Paused,
}

/// Raises the members of one class together, up to `level_max` rungs each.
fn raise<K>(
    class: &mut [Entry<K>],
    rungs: &[Rung],
    ledger: &mut Ledger,
    level_max: impl Fn(&Entry<K>) -> usize,
    limit: u64,
) {
    loop {
        let open = class.iter_mut().filter(|entry| !entry.is_stuck && (1..level_max(entry)).contains(&entry.level));
        // The first of equals: the class is sorted by key.
        let Some(entry) = open.min_by_key(|entry| entry.bitrate_at(rungs, entry.level + 1)) else { return };
        entry.step(rungs, ledger, limit);
    }
}

impl<K> Entry<K> {
    fn rank(&self) -> (Reverse<u32>, bool) {
        (Reverse(self.subscription.priority), !self.subscription.is_screen)
    }

    fn turn(&self) -> Turn {
        match self.subscription.current {
            Current::Paused => Turn::Paused,
            Current::Layer(_) if self.held > 0 => Turn::Held,
            Current::Layer(_) | Current::Nothing => Turn::New,
        }
    }

    /// Builds the ladder: appends its rungs, and resets what an allocation finds.
    fn climb(&mut self, all: &[LayerInfo], rungs: &mut Vec<Rung>, may_raise: bool) {
        let layers = &all[self.layers.clone()];
        let current = match self.subscription.current {
            Current::Layer(layer) => layers.iter().position(|info| info.layer == layer),
            Current::Nothing | Current::Paused => None,
        };
        let start = rungs.len();
        self.ideal = None;
        allowed(layers, &self.subscription, |index| {
            let rung = Rung { layer: layers[index].layer, bitrate: layers[index].bitrate };
            self.ideal = Some(rung);
            let is_better = current.is_some_and(|current| index > current);
            if is_better && !may_raise {
                return;
            }
            while rungs.len() > start && rungs.last().is_some_and(|worse| worse.bitrate >= rung.bitrate) {
                rungs.pop();
            }
            rungs.push(rung);
        });
        if current.is_none() && !may_raise {
            rungs.truncate(start + 1);
        }
        self.rungs = start..rungs.len();
        self.held =
            current.map_or(0, |current| rungs[start..].partition_point(|rung| rung.bitrate <= layers[current].bitrate));
        self.level = 0;
        self.is_stuck = false;
    }

    /// What `level` rungs cost.
    fn bitrate_at(&self, rungs: &[Rung], level: usize) -> u64 {
        self.rung_at(rungs, level).map_or(0, |rung| rung.bitrate)
    }

    fn rung_at(&self, rungs: &[Rung], level: usize) -> Option<Rung> {
        rungs[self.rungs.clone()].get(level.checked_sub(1)?).copied()
    }

    /// Takes the next rung if it fits.
    fn step(&mut self, rungs: &[Rung], ledger: &mut Ledger, limit: u64) {
        let more = self.bitrate_at(rungs, self.level + 1) - self.bitrate_at(rungs, self.level);
        let sum = ledger.used + more;
        if sum <= limit {
            ledger.used = sum;
            self.level += 1;
        } else {
            ledger.next = Some(ledger.next.map_or(sum, |next| next.min(sum)));
            self.is_stuck = true;
        }
    }

    fn allotment(&self, rungs: &[Rung]) -> Allotment<K>
    where
        K: Copy,
    {
        let given = self.rung_at(rungs, self.level);
        Allotment {
            key: self.subscription.key,
            layer: given.map(|rung| rung.layer),
            bitrate: given.map_or(0, |rung| rung.bitrate),
            ideal: self.ideal.map(|rung| rung.layer),
        }
    }
}

/// Tells the index of every layer that the wishes and the nature of the track allow, ascending; at least one, if there are
/// any.
fn allowed<K>(layers: &[LayerInfo], subscription: &Subscription<K>, mut tell: impl FnMut(usize)) {
    let caps = &subscription.caps;
    let resolutions = || layers.chunk_by(|a, b| resolution(a) == resolution(b));
    let count = resolutions().count();
    let wanted = match caps.quality {
        Some(Quality::Low) => 1,
        Some(Quality::Medium) => count / 2 + 1,
        Some(Quality::High) | None => count,
    };
    let is_too_large = |info: &LayerInfo| {
        let exceeds = |size: u16, most: Option<u32>| most.is_some_and(|most| u32::from(size) > most);
        exceeds(info.width, caps.width_max) || exceeds(info.height, caps.height_max)
    };
    // What is measured is not exact.
    let framerate_max = caps.framerate_max.map_or(u32::MAX, |most| most.saturating_add(most / 8 + 1));
    let bitrate_max = caps.bitrate_max.map_or(u64::MAX, |most| most.saturating_add(most / 4));
    let framerate_min = if subscription.is_screen { SCREEN_FRAMERATE_MIN } else { CAMERA_FRAMERATE_MIN };

    let mut end = 0;
    for (nth, group) in resolutions().enumerate().take(wanted) {
        if nth > 0 && group.iter().any(is_too_large) {
            return;
        }
        let start = end;
        end += group.len();
        let slowest = group.iter().map(|info| framerate(info, group)).min().unwrap_or_default();
        let fits =
            |info: &LayerInfo| framerate(info, group) <= framerate_max.max(slowest) && info.bitrate <= bitrate_max;
        let fitting = group.iter().filter(|info| fits(info));
        let fastest = fitting.map(|info| framerate(info, group)).max().unwrap_or_default();
        let least = if nth == 0 { 0 } else { fastest.min(framerate_min) };
        for (index, info) in (start..).zip(group) {
            // What it has stays allowed when the measured frame rate swings around the least.
            let is_current = subscription.current == Current::Layer(info.layer);
            let is_smooth = framerate(info, group) >= least || is_current;
            if index == 0 || (is_smooth && fits(info)) {
                tell(index);
            }
        }
    }
}

/// Layers of one resolution differ in their frame rate only.
fn resolution(info: &LayerInfo) -> (u8, u8) {
    (info.layer.encoding, info.layer.spatial)
}

/// As measured, or else as if the best of its resolution had 30 and each below half of that.
fn framerate(info: &LayerInfo, group: &[LayerInfo]) -> u32 {
    if info.framerate > 0 {
        return u32::from(info.framerate);
    }
    let best = group.iter().map(|info| info.layer.temporal).max().unwrap_or_default();
    30 >> u32::from(best.saturating_sub(info.layer.temporal)).min(4)
}

/// What a layer of unknown bitrate may cost; `before` is the one below. Wrong for as long as nothing of it has arrived: too
/// little would flood a subscriber for a moment, too much would keep a layer that is paused at its source from being tried.
fn assumed(info: &LayerInfo, before: Option<&LayerInfo>) -> u64 {
    let Some(before) = before else { return ASSUMED_FIRST };
    let pixels = u64::from(info.width) * u64::from(info.height);
    let guess = match pixels {
        0 if resolution(before) == resolution(info) => before.bitrate / 2 * 3,
        0 => before.bitrate * 3,
        // Some 0.07 bit per pixel, as browsers encode cameras.
        _ => pixels * u64::from(if info.framerate > 0 { info.framerate } else { 30 }) / 14,
    };
    // A guess does not make a layer below look worse.
    guess.min(ASSUMED_MAX).max(before.bitrate + before.bitrate / 4).min(BITRATE_MAX)
}

/// What may be used of a budget to raise somebody.
fn eased(budget: u64) -> u64 {
    budget - budget / 8
}

/// A budget of which `sum` may be used to raise somebody.
fn uneased(sum: u64) -> u64 {
    sum + sum.div_ceil(7)
}

/// Of the bitrate of the first rung, for a single track. Lower shows more and later pictures; the pacer's queue grows by what
/// is missing, and an encoder's peaks are as large.
const KEPT_PERCENT: u64 = 70;
/// The least frames per second of a camera above its lowest resolution: half of what one gives at 24, measured roughly. A
/// higher value keeps pictures small for longer, a lower one lets them stutter.
const CAMERA_FRAMERATE_MIN: u32 = 12;
/// The same of a screen.
const SCREEN_FRAMERATE_MIN: u32 = 5;
/// For the lowest layer of a track. Low, so that no track is paused because of an assumption.
const ASSUMED_FIRST: u64 = 150_000;
/// The most that is assumed. Higher could keep a large layer from ever being tried.
const ASSUMED_MAX: u64 = 2_500_000;
/// Larger figures are cut, so that sums cannot overflow: some terabits.
const BITRATE_MAX: u64 = 1 << 42;

#[cfg(test)]
mod tests {
    use super::*;

    /// The layers of a browser's camera: three encodings `q`, `h`, `f`, three frame rates each. Named `h15` and so on.
    const SIMULCAST: [(u8, u8, u64, u16, u16, u8); 9] = [
        (0, 0, 60, 320, 180, 8),
        (0, 1, 90, 320, 180, 15),
        (0, 2, 120, 320, 180, 30),
        (1, 0, 200, 640, 360, 8),
        (1, 1, 300, 640, 360, 15),
        (1, 2, 400, 640, 360, 30),
        (2, 0, 700, 1280, 720, 8),
        (2, 1, 1000, 1280, 720, 15),
        (2, 2, 1400, 1280, 720, 30),
    ];
    /// A screen in two sizes; the small one costs more at its best than the large one at its least.
    const SCREEN: [(u8, u8, u64, u16, u16, u8); 6] = [
        (1, 0, 120, 960, 540, 4),
        (1, 1, 200, 960, 540, 8),
        (1, 2, 350, 960, 540, 15),
        (2, 0, 300, 1920, 1080, 4),
        (2, 1, 500, 1920, 1080, 8),
        (2, 2, 900, 1920, 1080, 15),
    ];
    /// Without simulcast and without temporal layers.
    const SINGLE: [(u8, u8, u64, u16, u16, u8); 1] = [(0, 0, 800, 1280, 720, 30)];
    const UNKNOWN: [(u8, u8, u64, u16, u16, u8); 3] = [(0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0), (2, 0, 0, 0, 0, 0)];

    /// Encoding, temporal, kbit/s, width, height, frames per second.
    fn layers(of: &[(u8, u8, u64, u16, u16, u8)]) -> Vec<LayerInfo> {
        of.iter()
            .map(|(encoding, temporal, kbps, width, height, framerate)| LayerInfo {
                layer: Layer { encoding: *encoding, spatial: 0, temporal: *temporal },
                rid: None,
                bitrate: kbps * 1000,
                width: *width,
                height: *height,
                framerate: *framerate,
                is_live: true,
            })
            .collect()
    }

    #[derive(Debug, Clone)]
    struct Row {
        subscription: Subscription<char>,
        layers: Vec<LayerInfo>,
    }

    fn track(key: char, of: &[(u8, u8, u64, u16, u16, u8)]) -> Row {
        let caps = Caps::default();
        let subscription = Subscription { key, priority: 0, is_screen: false, caps, current: Current::Nothing };
        Row { subscription, layers: layers(of) }
    }

    fn camera(key: char) -> Row {
        track(key, &SIMULCAST)
    }

    fn screen(key: char) -> Row {
        let mut row = track(key, &SCREEN);
        row.subscription.is_screen = true;
        row
    }

    impl Row {
        fn priority(mut self, priority: u32) -> Self {
            self.subscription.priority = priority;
            self
        }

        /// `h15`, or `-` for paused.
        fn has(mut self, name: &str) -> Self {
            let found = self.layers.iter().find(|info| name_of(&self.layers, info.layer) == name);
            self.subscription.current = match name {
                "-" => Current::Paused,
                _ => Current::Layer(found.expect("a layer of the track").layer),
            };
            self
        }

        fn caps(mut self, caps: Caps) -> Self {
            self.subscription.caps = caps;
            self
        }

        fn scaled(mut self, percent: u64) -> Self {
            for info in &mut self.layers {
                info.bitrate = info.bitrate * percent / 100;
            }
            self
        }
    }

    fn name_of(layers: &[LayerInfo], layer: Layer) -> String {
        let framerate = layers.iter().find(|info| info.layer == layer).expect("a layer of the track").framerate;
        format!("{}{framerate}", ["q", "h", "f"][usize::from(layer.encoding)])
    }

    struct Outcome {
        total: Total,
        allotments: Vec<Allotment<char>>,
        /// `a=h15 b=-`, in the order of keys.
        text: String,
    }

    fn run(rows: &[Row], budget: u64, may_raise: bool) -> Outcome {
        let mut allocator = Allocator::default();
        for row in rows {
            allocator.add(row.subscription, &row.layers);
        }
        let total = allocator.allocate(budget, may_raise);
        let allotments = allocator.allotments().to_vec();
        let mut words: Vec<String> = rows
            .iter()
            .zip(&allotments)
            .map(|(row, given)| {
                assert_eq!(row.subscription.key, given.key);
                let name = match given.target() {
                    Target::Layer(layer) => name_of(&row.layers, layer),
                    Target::Paused => "-".into(),
                    Target::Best => "?".into(),
                };
                format!("{}={name}", row.subscription.key)
            })
            .collect();
        words.sort();
        assert_eq!(total.used, allotments.iter().map(|given| given.bitrate).sum::<u64>());
        Outcome { total, allotments, text: words.join(" ") }
    }

    /// The rows with what they were given.
    fn fed_back(rows: &[Row], outcome: &Outcome) -> Vec<Row> {
        let mut rows = rows.to_vec();
        for (row, given) in rows.iter_mut().zip(&outcome.allotments) {
            row.subscription.current = match given.target() {
                Target::Layer(layer) => Current::Layer(layer),
                Target::Paused => Current::Paused,
                Target::Best => Current::Nothing,
            };
        }
        rows
    }

    /// Budget in kbit/s.
    fn check(why: &str, rows: &[Row], budget: u64, expect: &str) {
        assert_eq!(run(rows, budget * 1000, true).text, expect, "{why}");
    }

    /// As [`check`], shortly after a congestion.
    fn check_held_off(why: &str, rows: &[Row], budget: u64, expect: &str) {
        assert_eq!(run(rows, budget * 1000, false).text, expect, "{why}");
    }

    #[test]
    fn one_camera_climbs() {
        for (budget, expect) in [
            (0, "a=-"),
            (41, "a=-"),
            (42, "a=q8"),
            (100, "a=q8"),
            (103, "a=q15"),
            (140, "a=q30"),
            // 8 frames per second of a larger picture are no gain.
            (340, "a=q30"),
            (345, "a=h15"),
            (460, "a=h30"),
            (1100, "a=h30"),
            (1200, "a=f15"),
            (1599, "a=f15"),
            (1600, "a=f30"),
            (u64::MAX / 1000, "a=f30"),
        ] {
            check("new", &[camera('a')], budget, expect);
        }
    }

    #[test]
    fn what_is_held_may_use_everything() {
        check("fits exactly", &[camera('a').has("f30")], 1400, "a=f30");
        check("does not fit", &[camera('a').has("f30")], 1399, "a=f15");
        check("down by several", &[camera('a').has("f30")], 450, "a=h30");
        check("above only with an eighth free", &[camera('a').has("f15")], 1590, "a=f15");
        check("above with an eighth free", &[camera('a').has("f15")], 1600, "a=f30");
        check("a paused track resumes with an eighth free", &[camera('a').has("-")], 68, "a=-");
        check("a paused track resumes", &[camera('a').has("-")], 69, "a=q8");
        check("the bitrate of what is held has grown", &[camera('a').has("f30").scaled(104)], 1455, "a=f15");
        let mut slow = camera('a');
        slow.layers[4].framerate = 11;
        check("too slow to be taken", &[slow.clone()], 360, "a=q30");
        check("it has become slow: kept", &[slow.has("h11")], 360, "a=h11");
        check("the held layer is gone", &[track('a', &SIMULCAST[..6]).has("h30")], 400, "a=h30");
        let mut gone = track('a', &SIMULCAST[..6]);
        gone.subscription.current = Current::Layer(Layer { encoding: 2, spatial: 0, temporal: 2 });
        check("what it had does not exist any more: as if it were new", &[gone.clone()], 400, "a=h15");
        check_held_off("as if it were new", &[gone], 400, "a=q8");
    }

    #[test]
    fn after_a_congestion_nothing_is_raised() {
        check_held_off("stays", &[camera('a').has("h15")], 9000, "a=h15");
        check_held_off("lowers", &[camera('a').has("h15")], 299, "a=q30");
        check_held_off("stays paused", &[camera('a').has("-")], 9000, "a=-");
        check_held_off("who is new sees something", &[camera('a').has("f15"), camera('b')], 9000, "a=f15 b=q8");
        check_held_off("others are lowered for it", &[camera('a').has("f15"), camera('b')], 1050, "a=h30 b=q8");
        // The small screen costs more than a larger one with fewer frames, and changes to that only when things may rise.
        let mut screen = screen('s');
        screen.layers[4].bitrate = 340_000;
        check_held_off("better for less is a raise too", &[screen.clone().has("h15")], 400, "s=h15");
        check("better for less", &[screen.has("h15")], 350, "s=f8");
        let outcome = run(&[camera('a').has("h15")], 9_000_000, false);
        assert!(outcome.total.is_limited && outcome.allotments[0].is_limited());
        assert_eq!(outcome.total.minimum, 0, "no padding");
    }

    #[test]
    fn everybody_sees_something_first() {
        let two = || [camera('a').priority(9), camera('b')];
        for (budget, expect) in [
            (59, "a=- b=-"),
            (60, "a=q8 b=-"),
            // Enough to raise the first, not enough to show the second.
            (119, "a=q15 b=-"),
            (120, "a=q8 b=q8"),
            (180, "a=q15 b=q8"),
            (600, "a=h30 b=q30"),
            (1300, "a=f15 b=q30"),
            (1700, "a=f30 b=q8"),
            (3200, "a=f30 b=f30"),
        ] {
            check("by priority", &two(), budget, expect);
        }
        let held = || [camera('a').priority(9).has("h30"), camera('b').has("h30")];
        check("the lower is lowered first", &held(), 799, "a=h30 b=h15");
        check("and to its first rung", &held(), 460, "a=h30 b=q8");
        check("then the higher is lowered", &held(), 459, "a=h15 b=q30");
        check("and the lower is paused", &held(), 119, "a=q15 b=-");
        let paused = [camera('a').priority(9).has("h30"), camera('b').has("-")];
        check("a first rung comes before what a higher one has", &paused, 450, "a=h15 b=q15");
    }

    #[test]
    fn what_does_not_fit_leaves_room_for_others() {
        let rows = [track('a', &SINGLE).priority(9), camera('b')];
        check("the single layer fits", &rows, 860, "a=q30 b=q8");
        check("it does not: the other climbs", &rows, 500, "a=- b=h30");
        let rows = [track('a', &SINGLE).priority(9).has("-"), camera('b').has("h30")];
        check("not yet", &rows, 910, "a=- b=h30");
        check("it is back", &rows, 920, "a=q30 b=q30");
    }

    #[test]
    fn equals_share() {
        let three = || [camera('a'), camera('b'), camera('c')];
        check("all by one rung", &three(), 1050, "a=h15 b=h15 c=h15");
        check("the rest goes to the first key", &three(), 1200, "a=h30 b=h15 c=h15");
        check("not far above the others", &three(), 1700, "a=h30 b=h30 c=h30");
        check("who has it keeps it", &[camera('a'), camera('b').has("h30")], 600, "a=q30 b=h30");
        check("also the last rung", &[camera('a').has("-"), camera('b').has("q8")], 119, "a=- b=q15");
        check("also of who is new", &[camera('a'), camera('b').has("q8")], 119, "a=- b=q15");
        check("new before paused", &[camera('a').has("-"), camera('b')], 100, "a=- b=q8");
        check("the largest are lowered first", &[camera('a').has("f30"), camera('b').has("h30")], 1500, "a=f15 b=h30");
        check("the cheaper rung is climbed first", &[camera('a'), camera('b').scaled(50)], 340, "a=q30 b=h15");
    }

    /// Measured bitrates of equals change places all the time; who was raised must not.
    #[test]
    fn swinging_bitrates_change_nothing() {
        let mut rows = vec![camera('a'), camera('b')];
        let first = run(&rows, 600_000, true);
        assert_eq!(first.text, "a=h30 b=q30");
        rows = fed_back(&rows, &first);
        for (a, b) in [(100, 95), (95, 100), (104, 100), (100, 104), (93, 93), (107, 90)] {
            let swung = [rows[0].clone().scaled(a), rows[1].clone().scaled(b)];
            check("swinging", &swung, 600, "a=h30 b=q30");
        }
    }

    #[test]
    fn a_screen_stays_readable() {
        let has = |name: &str| [screen('s').has(name)];
        for (budget, expect) in [
            (900, "s=f15"),
            (899, "s=f8"),
            (500, "s=f8"),
            // 4 frames per second are too few; and the smaller picture has what is left.
            (499, "s=h15"),
            (349, "s=h8"),
            (199, "s=h4"),
            (120, "s=h4"),
            (80, "s=-"),
        ] {
            check("down", &has("f15"), budget, expect);
        }
        check("up", &has("h15"), 571, "s=h15");
        check("up", &has("h15"), 572, "s=f8");
        check("a screen is before cameras of its priority", &[camera('a'), screen('s')], 1100, "a=q8 s=f15");
        check("a priority is more", &[camera('a').priority(1), screen('s')], 700, "a=h30 s=h8");
        let mut still = screen('s');
        for info in &mut still.layers {
            info.framerate = if info.layer.temporal == 2 { 2 } else { 1 };
        }
        assert_eq!(run(&[still], 1_100_000, true).total.used, 900_000, "a still picture has few frames at any layer");
    }

    #[test]
    fn wishes_are_limits() {
        let rows: &[(Caps, &str)] = &[
            (Caps::default(), "a=f30"),
            (Caps { quality: Some(Quality::Low), ..Caps::default() }, "a=q30"),
            (Caps { quality: Some(Quality::Medium), ..Caps::default() }, "a=h30"),
            (Caps { quality: Some(Quality::High), ..Caps::default() }, "a=f30"),
            (Caps { width_max: Some(1280), ..Caps::default() }, "a=f30"),
            (Caps { width_max: Some(1279), ..Caps::default() }, "a=h30"),
            (Caps { height_max: Some(359), ..Caps::default() }, "a=q30"),
            (Caps { width_max: Some(0), ..Caps::default() }, "a=q30"),
            (Caps { framerate_max: Some(15), ..Caps::default() }, "a=f15"),
            (Caps { framerate_max: Some(20), ..Caps::default() }, "a=f15"),
            // Nothing smoother is wanted, so this is smooth enough.
            (Caps { framerate_max: Some(8), ..Caps::default() }, "a=f8"),
            (Caps { framerate_max: Some(1), ..Caps::default() }, "a=f8"),
            (Caps { bitrate_max: Some(1_200_000), ..Caps::default() }, "a=f30"),
            (Caps { bitrate_max: Some(900_000), ..Caps::default() }, "a=f15"),
            (Caps { bitrate_max: Some(1), ..Caps::default() }, "a=q8"),
            (Caps { quality: Some(Quality::Medium), framerate_max: Some(15), ..Caps::default() }, "a=h15"),
            (Caps { quality: Some(Quality::High), width_max: Some(640), ..Caps::default() }, "a=h30"),
        ];
        for (caps, expect) in rows {
            let outcome = run(&[camera('a').caps(*caps)], 9_000_000, true);
            assert_eq!(outcome.text, *expect, "{caps:?}");
            assert!(!outcome.total.is_limited, "{caps:?}: a wish is no lack of bandwidth");
            assert_eq!(outcome.total.minimum, 0, "{caps:?}");
            let held = run(&[camera('a').caps(*caps).has("f30")], 9_000_000, false);
            assert_eq!(held.text, *expect, "{caps:?}, from the best");
        }
        for (count, expect) in [(3, "a=q30"), (6, "a=h30")] {
            let medium = Caps { quality: Some(Quality::Medium), ..Caps::default() };
            check("the middle of few", &[track('a', &SIMULCAST[..count]).caps(medium)], 9000, expect);
        }
    }

    #[test]
    fn a_single_track_stays_as_long_as_possible() {
        let single = || track('a', &SINGLE);
        check("new", &[single()], 560, "a=q30");
        check("held", &[single().has("q30")], 560, "a=q30");
        check("too little", &[single().has("q30")], 559, "a=-");
        check("paused: not before it fits with an eighth free", &[single().has("-")], 914, "a=-");
        check("resumes", &[single().has("-")], 915, "a=q30");
        check("not a single one", &[single().has("q30"), camera('b')], 560, "a=- b=h30");
        check("nothing is known of the other", &[single().has("q30"), track('b', &[])], 560, "a=q30 b=?");
        check_held_off("also after a congestion", &[single().has("q30")], 560, "a=q30");
    }

    #[test]
    fn what_is_not_known_breaks_nothing() {
        check("no tracks", &[], 1000, "");
        check("no layers", &[track('a', &[]), camera('b')], 9000, "a=? b=f30");
        let unknown = || track('a', &UNKNOWN);
        for (budget, used) in [(0, 0), (104, 0), (105, 150), (514, 150), (515, 450), (1542, 450), (1543, 1350)] {
            let total = run(&[unknown()], budget * 1000, true).total;
            assert_eq!(total.used, used * 1000, "{budget}");
        }
        let mut lone = track('a', &SINGLE);
        lone.layers[0].bitrate = 0;
        check("a lone layer is not paused for an assumption", &[lone], 150, "a=q30");
        let mut sized = camera('a');
        for info in &mut sized.layers[6..] {
            info.bitrate = 0;
        }
        check("by size and frame rate", &[sized.clone()], 1128, "a=h30");
        check("by size and frame rate", &[sized.clone()], 1129, "a=f15");
        for info in &mut sized.layers {
            (info.framerate, info.width, info.height) = (0, 0, 0);
        }
        let outcome = run(&[sized], 350_000, true);
        assert_eq!(
            outcome.total.used, 300_000,
            "frame rates are guessed: half of the best is enough, a quarter is not"
        );
        let mut paused = camera('a');
        for info in &mut paused.layers {
            info.is_live = false;
        }
        check("paused at the source", &[paused], 9000, "a=f30");
        let mut huge = camera('a');
        for info in &mut huge.layers {
            info.bitrate = u64::MAX;
        }
        check("absurd", &[huge.clone(), camera('b')], 9000, "a=- b=f30");
        check("absurd", &[huge], u64::MAX / 1000, "a=f30");
        let zeros = Caps {
            quality: Some(Quality::Low),
            width_max: Some(0),
            height_max: Some(0),
            framerate_max: Some(0),
            bitrate_max: Some(0),
        };
        check("nothing wanted", &[camera('a').caps(zeros)], 9000, "a=q8");
    }

    #[test]
    fn sums() {
        let total = |rows: &[Row], budget: u64| run(rows, budget * 1000, true).total;
        let all = total(&[camera('a'), camera('b')], 9000);
        assert_eq!((all.used, all.minimum, all.is_limited), (2_800_000, 0, false));
        // The desired budget is enough, and what is said to be the minimum is just enough.
        let two = [camera('a'), camera('b').priority(1).caps(Caps { quality: Some(Quality::Low), ..Caps::default() })];
        let mut budget = 0;
        let mut steps = 0;
        loop {
            let rows = fed_back(&two, &run(&two, budget, true));
            let before = run(&rows, budget, true);
            let Total { minimum, desired, .. } = before.total;
            assert_eq!(desired, (1_520_000 + 1_520_000_u64.div_ceil(7)));
            if minimum == 0 {
                assert!(!before.total.is_limited && budget <= desired);
                break;
            }
            assert!(minimum > budget && minimum <= desired, "{minimum} at {budget}");
            assert_eq!(run(&rows, minimum - 10, true).text, before.text, "below the minimum");
            assert!(run(&rows, minimum, true).total.used > before.total.used, "at the minimum");
            budget = minimum;
            steps += 1;
        }
        assert!(steps >= 10, "three rungs and seven: {steps}");
    }

    fn random_row(random: &mut fastrand::Rng, key: char, priority: u32) -> Row {
        let tables: [&[_]; 5] = [&SIMULCAST, &SIMULCAST[..6], &SCREEN, &SINGLE, &UNKNOWN];
        let mut row = track(key, tables[random.usize(0..tables.len())]);
        row.subscription.is_screen = random.u8(0..4) == 0;
        row = row.priority(priority);
        for info in &mut row.layers {
            info.bitrate = info.bitrate * random.u64(50..150) / 100;
            if random.u8(0..12) == 0 {
                info.bitrate = 0;
            }
            if random.u8(0..12) == 0 {
                info.framerate = 0;
            }
            if random.u8(0..12) == 0 {
                (info.width, info.height) = (0, 0);
            }
            info.is_live = random.bool();
        }
        let mut cap = |most: u32| (random.u8(0..6) == 0).then(|| random.u32(0..most));
        row.subscription.caps = Caps {
            quality: cap(3).map(|n| [Quality::Low, Quality::Medium, Quality::High][n as usize]),
            width_max: cap(1500),
            height_max: cap(1000),
            framerate_max: cap(35),
            bitrate_max: cap(2_000_000).map(u64::from),
        };
        row.subscription.current = match random.u8(0..6) {
            0 => Current::Nothing,
            1 => Current::Paused,
            2 => Current::Layer(Layer { encoding: random.u8(0..4), spatial: 0, temporal: random.u8(0..4) }),
            _ => row.layers.get(random.usize(0..9)).map_or(Current::Nothing, |info| Current::Layer(info.layer)),
        };
        row
    }

    fn random_rows(random: &mut fastrand::Rng, priorities: u32) -> Vec<Row> {
        let keys = "abcdefghi".chars().take(random.usize(0..10));
        keys.map(|key| {
            let priority = random.u32(0..priorities);
            random_row(random, key, priority)
        })
        .collect()
    }

    fn random_budget(random: &mut fastrand::Rng) -> u64 {
        let magnitude = random.u32(4..8);
        random.u64(0..10_u64.pow(magnitude))
    }

    #[test]
    fn the_budget_is_kept_and_nothing_needless_is_lost() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut kept, mut limited) = (0, 0);
        for round in 0..20_000 {
            let rows = random_rows(&mut random, 3);
            let (budget, may_raise) = (random_budget(&mut random), random.bool());
            let outcome = run(&rows, budget, may_raise);
            let total = outcome.total;
            limited += u32::from(total.is_limited);
            if total.used > budget {
                kept += 1;
                let known = rows.iter().filter(|row| !row.layers.is_empty()).count();
                assert!(known == 1 && total.used * 7 / 10 <= budget, "{round}: {total:?} of {budget}: {rows:#?}");
            }
            assert_eq!(total.is_limited, outcome.allotments.iter().any(|given| given.layer != given.ideal), "{round}");
            assert_eq!(total.minimum > 0, total.is_limited && may_raise, "{round}: {total:?}");
            assert!(total.minimum <= total.desired, "{round}: {total:?}");
            for (row, given) in rows.iter().zip(&outcome.allotments) {
                assert_eq!(given.ideal.is_none(), row.layers.is_empty(), "{round}");
                let at = |layer| row.layers.iter().position(|info| info.layer == layer);
                if let (Some(layer), Current::Layer(before), false) = (given.layer, row.subscription.current, may_raise)
                    && let Some(before) = at(before)
                {
                    assert!(at(layer) <= Some(before), "{round}: raised");
                }
                let was_paused = row.subscription.current == Current::Paused;
                assert!(!was_paused || may_raise || given.layer.is_none(), "{round}: resumed");
            }
            if total.desired <= budget && may_raise {
                assert!(!total.is_limited, "{round}: {total:?} of {budget}");
            }
        }
        assert!(kept > 50 && limited > 5_000, "{kept} {limited}: the inputs test one side only");
    }

    #[test]
    fn fed_back_nothing_changes() {
        let mut random = fastrand::Rng::with_seed(2);
        for round in 0..20_000 {
            let rows = random_rows(&mut random, 3);
            let (budget, may_raise) = (random_budget(&mut random), random.bool());
            let first = run(&rows, budget, may_raise);
            let second = run(&fed_back(&rows, &first), budget, may_raise);
            assert_eq!(first.allotments, second.allotments, "{round}: {budget} {may_raise} {rows:#?}");
            if may_raise {
                let third = run(&fed_back(&rows, &first), budget, false);
                assert_eq!(first.allotments, third.allotments, "{round}: held off, {budget} {rows:#?}");
            }
        }
    }

    #[test]
    fn the_order_of_adding_means_nothing() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut allocator = Allocator::default();
        for round in 0..5_000 {
            let mut rows = random_rows(&mut random, 3);
            let (budget, may_raise) = (random_budget(&mut random), random.bool());
            let first = run(&rows, budget, may_raise);
            random.shuffle(&mut rows);
            let second = run(&rows, budget, may_raise);
            assert_eq!((first.total, &first.text), (second.total, &second.text), "{round}: {budget} {rows:#?}");
            // Nothing is left of an earlier allocation, and allocating twice is the same.
            allocator.clear();
            for row in &rows {
                allocator.add(row.subscription, &row.layers);
            }
            allocator.allocate(budget / 3, !may_raise);
            assert_eq!(allocator.allocate(budget, may_raise), second.total, "{round}");
            assert_eq!(allocator.allotments(), second.allotments, "{round}");
        }
    }

    #[test]
    fn once_warm_no_memory_is_allocated() {
        let mut allocator = Allocator::default();
        let mut capacities = || {
            let mut random = fastrand::Rng::with_seed(6);
            for _ in 0..100 {
                allocator.clear();
                for row in random_rows(&mut random, 3) {
                    allocator.add(row.subscription, &row.layers);
                }
                allocator.allocate(random_budget(&mut random), true);
            }
            let Allocator { entries, layers, rungs, allotments } = &allocator;
            [entries.capacity(), layers.capacity(), rungs.capacity(), allotments.capacity()]
        };
        let warm = capacities();
        assert_eq!(capacities(), warm);
    }

    /// By rank: who has a first rung, and then who has how much. The greater budget gives more where they first differ.
    #[test]
    fn more_budget_is_more_for_the_higher_rank() {
        let mut random = fastrand::Rng::with_seed(4);
        let mut differ = 0;
        for round in 0..20_000 {
            // Each has a rank of its own.
            let mut rows = random_rows(&mut random, 1);
            for (n, row) in rows.iter_mut().enumerate() {
                row.subscription.priority = 100 - n as u32;
            }
            let may_raise = random.bool();
            let less = random_budget(&mut random);
            let more = less + random.u64(0..=less / 2);
            let by_rank = |budget| {
                let outcome = run(&rows, budget, may_raise);
                let first: Vec<bool> = outcome.allotments.iter().map(|given| given.layer.is_some()).collect();
                let bitrates: Vec<u64> = outcome.allotments.iter().map(|given| given.bitrate).collect();
                (first, bitrates)
            };
            let (less_given, more_given) = (by_rank(less), by_rank(more));
            differ += u32::from(less_given != more_given);
            assert!(less_given <= more_given, "{round}: {less} {less_given:?}, {more} {more_given:?}: {rows:#?}");
        }
        assert!(differ > 2_000, "{differ}");
    }

    /// An estimate that swings by a tenth settles, and then no picture changes any more.
    #[test]
    fn swinging_budgets_change_nothing() {
        let mut random = fastrand::Rng::with_seed(5);
        for round in 0..2_000 {
            let mut rows = random_rows(&mut random, 3);
            let top = random_budget(&mut random);
            let bottom = top - top / 10;
            for budget in [top, bottom].repeat(10) {
                let outcome = run(&rows, budget, true);
                rows = fed_back(&rows, &outcome);
            }
            let settled = run(&rows, top, true);
            for _ in 0..10 {
                let budget = random.u64(bottom..=top);
                assert_eq!(run(&rows, budget, true).text, settled.text, "{round}: {budget} of {top}: {rows:#?}");
            }
        }
    }
}
