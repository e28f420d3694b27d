//! Hierarchical timer wheel: one deadline per key, constant-time `set` and `cancel`.
//!
//! Pure: time comes in as an argument. Driven by the worker's loop, which asks for expired keys once per turn and
//! sleeps until [`Wheel::next_deadline`]. Keys are dense small integers (slab slots), one deadline each.
//!
//! Level 0 has 256 slots of one tick (1 ms); three coarser levels have 64 slots each, a slot of one level being as
//! long as the whole level below it (256 ms, 16.4 s, 17.5 min). Which level a deadline belongs to is the highest bit
//! in which it differs from the current tick. So everything in a level is earlier than everything in the next one,
//! and the earliest deadline is in the first occupied slot of the lowest occupied level.

use std::time::{Duration, Instant};

/// One optional deadline per key.
#[derive(Debug)]
pub struct Wheel {
    start: Instant,
    /// Every tick before this one has been handed out.
    current: u64,
    /// Indexed by key.
    entries: Vec<Entry>,
    slots: Vec<Slot>,
    /// A bit per slot that has entries.
    occupied: [[u64; 4]; LEVELS],
    armed: usize,
}

impl Wheel {
    /// A wheel without deadlines.
    pub fn new(now: Instant) -> Self {
        Wheel {
            start: now,
            current: 0,
            entries: Vec::new(),
            slots: vec![Slot::EMPTY; slot_index(LEVELS - 1, slots_in(LEVELS - 1))],
            occupied: [[0; 4]; LEVELS],
            armed: 0,
        }
    }

    /// Arms `key`; replaces its deadline if it had one. A deadline in the past expires at once, so a caller that
    /// re-arms to the past what [`Wheel::expired`] gave it never sees the end.
    ///
    /// Memory grows with the largest key, which must be below `u32::MAX`.
    pub fn set(&mut self, key: usize, deadline: Instant) {
        assert!(key < NONE as usize, "a key is a slab slot");
        if key >= self.entries.len() {
            self.entries.resize(key + 1, Entry::IDLE);
        }
        let tick = self.tick_at_or_after(deadline);
        if self.entries[key].slot != NONE {
            if self.entries[key].tick == tick {
                return;
            }
            self.unlink(key as u32);
        }
        self.entries[key].tick = tick;
        self.link(key as u32);
    }

    /// Forgets the deadline of `key`, if it has one.
    pub fn cancel(&mut self, key: usize) {
        if self.entries.get(key).is_some_and(|entry| entry.slot != NONE) {
            self.unlink(key as u32);
        }
    }

    /// The next key whose deadline is at or before `now`, in order of ticks; the key is then no longer armed. To be
    /// called until it returns `None`. Never early; late by less than a tick.
    pub fn expired(&mut self, now: Instant) -> Option<usize> {
        let target = self.tick_at_or_before(now);
        while let Some((level, slot)) = self.first_slot() {
            let begins = self.begin_of(level, slot);
            if begins > target {
                break;
            }
            self.current = self.current.max(begins);
            let index = slot_index(level, slot);
            if level == 0 {
                let key = self.slots[index].head;
                self.unlink(key);
                return Some(key as usize);
            }
            // Their level changes as `current` is now inside the slot.
            while self.slots[index].head != NONE {
                let key = self.slots[index].head;
                self.unlink(key);
                self.link(key);
            }
        }
        self.current = self.current.max(target);
        None
    }

    /// When [`Wheel::expired`] next has something to give: the earliest deadline, rounded up to a tick. For a deadline
    /// that was more than 17 hours away when it was set, it may be earlier than that. `None` when nothing is armed.
    ///
    /// Constant time, except after the earliest of a coarse slot was cancelled or replaced: then that slot is read once.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let (level, slot) = self.first_slot()?;
        let begins = self.begin_of(level, slot);
        let index = slot_index(level, slot);
        if self.slots[index].earliest.is_none() {
            self.slots[index].earliest = self.keys_in(index).map(|key| self.entries[key as usize].tick).min();
        }
        let ends = begins + span_of(level) - 1;
        let tick = self.slots[index].earliest.expect("an occupied slot has an earliest entry").clamp(begins, ends);
        self.start.checked_add(Duration::from_millis(tick))
    }

    /// How many keys are armed.
    pub fn len(&self) -> usize {
        self.armed
    }

    /// Nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    fn tick_at_or_after(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_nanos().div_ceil(1_000_000)))
    }

    fn tick_at_or_before(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_millis()))
    }

    /// The occupied slot that comes first in time, as (level, slot in level).
    fn first_slot(&self) -> Option<(usize, usize)> {
        if self.armed == 0 {
            return None;
        }
        for level in 0..LEVELS {
            // Levels below the last never hold a slot before the current one. In the last, slots go round.
            let here = ((self.current >> shift_of(level)) as usize) % slots_in(level);
            let bits = &self.occupied[level];
            if let Some(slot) = first_bit(bits, here).or_else(|| first_bit(bits, 0)) {
                return Some((level, slot));
            }
        }
        unreachable!("armed keys are in slots")
    }

    /// The first tick of a slot, in its next turn.
    fn begin_of(&self, level: usize, slot: usize) -> u64 {
        let round = span_of(level) * slots_in(level) as u64;
        let begins = self.current / round * round + slot as u64 * span_of(level);
        // An occupied slot of the last level that lies behind is of the next round.
        if begins + span_of(level) <= self.current { begins + round } else { begins }
    }

    fn link(&mut self, key: u32) {
        let tick = self.entries[key as usize].tick.max(self.current);
        let differs = tick ^ self.current;
        let level = (0..LEVELS).find(|level| differs >> shift_of(level + 1) == 0);
        let (level, slot) = match level {
            Some(level) => (level, (tick >> shift_of(level)) as usize % slots_in(level)),
            None => {
                // Beyond the round of the last level: its slot if that is less than a round away, else the farthest
                // slot there is, from which it is linked again when its turn comes.
                let last = LEVELS - 1;
                let here = self.current >> shift_of(last);
                let farthest = here + slots_in(last) as u64 - 1;
                (last, (tick >> shift_of(last)).min(farthest) as usize % slots_in(last))
            }
        };
        let index = slot_index(level, slot);
        let tail = self.slots[index].tail;
        let entry = &mut self.entries[key as usize];
        (entry.slot, entry.previous, entry.next) = (index as u32, tail, NONE);
        let real_tick = entry.tick;
        match self.entries.get_mut(tail as usize) {
            Some(before) => {
                before.next = key;
                self.slots[index].earliest = self.slots[index].earliest.map(|earliest| earliest.min(real_tick));
            }
            None => {
                self.slots[index].head = key;
                self.slots[index].earliest = Some(real_tick);
                self.occupied[level][slot / 64] |= 1 << (slot % 64);
            }
        }
        self.slots[index].tail = key;
        self.armed += 1;
    }

    fn unlink(&mut self, key: u32) {
        let Entry { tick, slot: index, next, previous } = self.entries[key as usize];
        self.entries[key as usize] = Entry::IDLE;
        self.armed -= 1;
        let index = index as usize;
        match self.entries.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.slots[index].head = next,
        }
        match self.entries.get_mut(next as usize) {
            Some(after) => after.previous = previous,
            None => self.slots[index].tail = previous,
        }
        if self.slots[index].head == NONE {
            let (level, slot) = level_and_slot(index);
            self.occupied[level][slot / 64] &= !(1 << (slot % 64));
            self.slots[index].earliest = None;
        } else if self.slots[index].earliest == Some(tick) {
            self.slots[index].earliest = None;
        }
        self.entries[key as usize].tick = tick;
    }

    fn keys_in(&self, index: usize) -> impl Iterator<Item = u32> + '_ {
        let entries = &self.entries;
        std::iter::successors(Some(self.slots[index].head).filter(|key| *key != NONE), move |key| {
            Some(entries[*key as usize].next).filter(|key| *key != NONE)
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    tick: u64,
    /// Index into `Wheel::slots`; `NONE` when the key is not armed.
    slot: u32,
    next: u32,
    previous: u32,
}

impl Entry {
    const IDLE: Entry = Entry { tick: 0, slot: NONE, next: NONE, previous: NONE };
}

/// A list of entries, oldest first.
#[derive(Debug, Clone, Copy)]
struct Slot {
    head: u32,
    tail: u32,
    /// The smallest tick of the entries; `None` when it has to be looked for.
    earliest: Option<u64>,
}

impl Slot {
    const EMPTY: Slot = Slot { head: NONE, tail: NONE, earliest: None };
}

const NONE: u32 = u32::MAX;
const LEVELS: usize = 4;

const fn slots_in(level: usize) -> usize {
    if level == 0 { 256 } else { 64 }
}

/// A slot of this level is `1 << shift` ticks long.
const fn shift_of(level: usize) -> u32 {
    if level == 0 { 0 } else { 2 + 6 * level as u32 }
}

const fn span_of(level: usize) -> u64 {
    1 << shift_of(level)
}

const fn slot_index(level: usize, slot: usize) -> usize {
    if level == 0 { slot } else { 256 + (level - 1) * 64 + slot }
}

const fn level_and_slot(index: usize) -> (usize, usize) {
    if index < 256 { (0, index) } else { (1 + (index - 256) / 64, (index - 256) % 64) }
}

/// The first set bit at or after `from`.
fn first_bit(bits: &[u64; 4], from: usize) -> Option<usize> {
    let mut mask = u64::MAX << (from % 64);
    for (index, word) in bits.iter().enumerate().skip(from / 64) {
        if word & mask != 0 {
            return Some(index * 64 + (word & mask).trailing_zeros() as usize);
        }
        mask = u64::MAX;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const MS: Duration = Duration::from_millis(1);
    const HOUR: Duration = Duration::from_secs(3600);

    fn drain(wheel: &mut Wheel, now: Instant) -> Vec<usize> {
        std::iter::from_fn(|| wheel.expired(now)).collect()
    }

    #[test]
    fn each_distance_expires_at_its_time() {
        for distance_ms in [0, 1, 255, 256, 257, 16_383, 16_384, 16_385, 1 << 20, 1 << 26, (1 << 26) + 1, 1 << 28] {
            let start = Instant::now();
            let mut wheel = Wheel::new(start);
            let deadline = start + MS * distance_ms;
            wheel.set(7, deadline);
            let mut wakes = 0;
            let expired_at = loop {
                let wake = wheel.next_deadline().expect("armed");
                assert!(wake <= deadline, "{distance_ms}");
                if let Some(key) = wheel.expired(wake) {
                    assert_eq!(key, 7);
                    break wake;
                }
                wakes += 1;
                assert!(wakes <= (distance_ms >> 26) + 2, "woken {wakes} times for {distance_ms}");
            };
            assert_eq!(expired_at, deadline, "{distance_ms}");
            assert!(wheel.is_empty() && wheel.next_deadline().is_none());
        }
    }

    #[test]
    fn never_early_within_a_tick() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let deadline = start + Duration::from_micros(10_300);
        wheel.set(0, deadline);
        assert_eq!(wheel.expired(start + Duration::from_micros(10_299)), None);
        let wake = wheel.next_deadline().expect("armed");
        assert!(wake >= deadline && wake < deadline + MS);
        assert_eq!(wheel.expired(wake), Some(0));
    }

    #[test]
    fn past_and_equal_deadlines_expire_in_order_of_arming() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        assert_eq!(wheel.expired(start + HOUR), None);
        for key in [5, 2, 9] {
            wheel.set(key, start + MS);
        }
        assert!(wheel.next_deadline().expect("armed") <= start + HOUR);
        assert_eq!(drain(&mut wheel, start + HOUR), [5, 2, 9]);
    }

    #[test]
    fn rearming_replaces_and_cancelling_forgets() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        wheel.set(1, start + MS * 500);
        wheel.set(2, start + MS * 510);
        wheel.set(1, start + MS * 900);
        assert_eq!(wheel.next_deadline(), Some(start + MS * 510));
        wheel.cancel(2);
        wheel.cancel(2);
        wheel.cancel(1_000_000);
        assert_eq!(wheel.next_deadline(), Some(start + MS * 900));
        assert_eq!(wheel.len(), 1);
        assert_eq!(drain(&mut wheel, start + HOUR), [1]);
    }

    /// Against a map of deadlines: what must have expired has, what must not has not, and the wheel wakes in time.
    #[test]
    fn behaves_as_a_sorted_map() {
        for seed in 0..60 {
            let mut random = fastrand::Rng::with_seed(seed);
            let start = Instant::now();
            let mut wheel = Wheel::new(start);
            let mut model: BTreeMap<usize, (Instant, bool)> = BTreeMap::new();
            let (mut now, mut drained) = (start, start);
            for _ in 0..2_000 {
                match random.u8(..10) {
                    0..6 => {
                        let key = random.usize(..50);
                        // Far deadlines, which may wake early, in half of the runs only.
                        let magnitude = random.u32(..if seed % 2 == 0 { 36 } else { 39 });
                        let deadline = (now + Duration::from_micros(random.u64(..1 << magnitude)))
                            .checked_sub(Duration::from_micros(random.u64(..2_000)))
                            .expect("the clock starts later than that");
                        wheel.set(key, deadline);
                        model.insert(key, (deadline, deadline > drained + 17 * HOUR));
                    }
                    6 => {
                        let key = random.usize(..60);
                        wheel.cancel(key);
                        model.remove(&key);
                    }
                    7..9 => {
                        let magnitude = random.u32(..36);
                        now += Duration::from_micros(random.u64(..1 << magnitude));
                    }
                    _ => now = wheel.next_deadline().map_or(now, |wake| wake.max(now)),
                }
                if random.bool() {
                    drained = now;
                    for key in drain(&mut wheel, now) {
                        let (deadline, _) = model.remove(&key).expect("armed in the model");
                        assert!(deadline <= now, "seed {seed}: early");
                    }
                    assert!(model.values().all(|(deadline, _)| *deadline + MS > now), "seed {seed}: late");
                }
                assert_eq!(wheel.len(), model.len(), "seed {seed}");
                let wake = wheel.next_deadline();
                let earliest = model.values().map(|(deadline, _)| *deadline).min();
                match (wake, earliest) {
                    (None, None) => {}
                    (Some(wake), Some(earliest)) => {
                        let any_far = model.values().any(|(_, far)| *far);
                        assert!(wake <= earliest.max(now) + MS, "seed {seed}: wakes late");
                        assert!(any_far || wake + MS >= earliest, "seed {seed}: wakes early");
                    }
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
        }
    }
}
