//! Which encoding, and how much of it, a target stands for at present. The one place where that is decided.

use std::cmp::Reverse;
use std::time::Instant;

use super::demand::Presence;
use super::encoding::Encoding;
use super::layout::{Figures, Limit};
use super::subscription::Goal;
use super::{Layer, LayerInfo, Target};

/// What to send for a target; `current`: the encoding that is sent now. `None`: nothing, or none was ever heard.
pub fn goal(encodings: &[Encoding], target: Target, current: Option<usize>, now: Instant) -> Option<Goal> {
    match target {
        Target::Paused => None,
        Target::Best => {
            let encoding = best(encodings, current, now)?;
            Some(Goal { encoding, limit: Limit::NONE })
        }
        Target::Layer(layer) => {
            let wanted = usize::from(layer.encoding);
            let limit = Limit { spatial: layer.spatial, temporal: layer.temporal };
            if encodings.get(wanted).is_some_and(|e| e.is_alive(now)) {
                return Some(Goal { encoding: wanted, limit });
            }
            let alive = || encodings.iter().enumerate().filter(|(_, e)| e.is_alive(now));
            let rank = encodings.get(wanted).map(rank);
            // The best of the nearest encoding below, else as little as there is of the nearest one above.
            let below = alive().filter(|(_, e)| rank.is_none_or(|rank| self::rank(e) <= rank));
            if let Some((encoding, _)) = below.max_by_key(|(_, e)| self::rank(e)) {
                return Some(Goal { encoding, limit: Limit::NONE });
            }
            if let Some((encoding, _)) = alive().min_by_key(|(_, e)| self::rank(e)) {
                return Some(Goal { encoding, limit: Limit::LOWEST });
            }
            let encoding = current.or_else(|| heard_last(encodings))?;
            Some(Goal { encoding, limit })
        }
    }
}

/// The best encoding that is alive, where a better one has to be better by a clear margin to be worth a key frame. With none
/// alive the present one, else the one heard last. `None`: none was ever heard.
fn best(encodings: &[Encoding], current: Option<usize>, now: Instant) -> Option<usize> {
    let Some(best) = best_alive(encodings, now) else {
        return current.or_else(|| heard_last(encodings));
    };
    let Some((current, present)) = current.and_then(|index| Some((index, encodings.get(index)?))) else {
        return Some(best);
    };
    let better = encodings.get(best)?;
    let is_larger = present.area() > 0 && better.area() > present.area();
    let has_margin = better.bitrate() * 4 > present.bitrate() * 5;
    Some(if present.is_alive(now) && !is_larger && !has_margin { current } else { best })
}

/// The encoding that is alive and ranks highest.
pub fn best_alive(encodings: &[Encoding], now: Instant) -> Option<usize> {
    let alive = encodings.iter().enumerate().filter(|(_, e)| e.is_alive(now));
    let are_sized = alive.clone().all(|(_, e)| e.area() > 0);
    alive.max_by_key(|(_, e)| (if are_sized { e.area() } else { 0 }, e.bitrate())).map(|(index, _)| index)
}

fn heard_last(encodings: &[Encoding]) -> Option<usize> {
    encodings.iter().enumerate().max_by_key(|(_, e)| e.heard()).map(|(index, _)| index)
}

/// Pixels first, as far as they are known.
fn rank(encoding: &Encoding) -> (u32, u64) {
    (encoding.area(), encoding.bitrate())
}

/// Whether a target would have an encoding if it could: then its publisher has to send it. `goal` is what it stands for now.
pub fn names(encodings: &[Encoding], target: Target, goal: Option<Goal>, index: usize, now: Instant) -> bool {
    if goal.is_some_and(|goal| goal.encoding == index) {
        return true;
    }
    match target {
        Target::Paused => false,
        Target::Layer(layer) => usize::from(layer.encoding) == index,
        // What ranks higher than what there is now.
        Target::Best => {
            let there = goal.and_then(|goal| encodings.get(goal.encoding)).map(rank);
            encodings.get(index).is_some_and(|e| !e.is_alive(now) && there.is_none_or(|there| rank(e) > there))
        }
    }
}

/// Appends what can be chosen, ascending: by pixels, then by frame rate. Without knowing the pixels of all, by bitrate of the
/// encodings.
pub fn layers(encodings: &[Encoding], now: Instant, scratch: &mut Vec<Figures>, out: &mut Vec<LayerInfo>) {
    let first = out.len();
    for (index, encoding) in encodings.iter().enumerate() {
        let presence = encoding.presence(now);
        let Ok(index) = u8::try_from(index) else { continue };
        if presence == Presence::Gone {
            continue;
        }
        scratch.clear();
        encoding.layout.figures(encoding.heard(), scratch);
        out.extend(scratch.iter().map(|f| LayerInfo {
            layer: Layer { encoding: index, spatial: f.spatial, temporal: f.temporal },
            rid: encoding.rid,
            bitrate: f.bitrate,
            width: f.width,
            height: f.height,
            framerate: f.framerate,
            is_live: presence == Presence::Live,
        }));
    }
    let Some(added) = out.get_mut(first..) else { return };
    let area = |info: &LayerInfo| u32::from(info.width) * u32::from(info.height);
    if added.iter().all(|info| area(info) > 0) {
        added.sort_unstable_by_key(|info| (area(info), info.framerate, info.bitrate, info.layer));
    } else {
        let whole = |info: &LayerInfo| encodings.get(usize::from(info.layer.encoding)).map(Encoding::bitrate);
        added.sort_unstable_by_key(|info| (whole(info), info.layer.encoding, info.layer.spatial, info.layer.temporal));
    }
}

/// The encodings that are alive, in the order in which a goal that has to make do goes through them: the nearest first.
pub fn fallbacks(encodings: &[Encoding], goal: Goal, now: Instant) -> Vec<usize> {
    let there = encodings.get(goal.encoding).map(rank);
    let mut below: Vec<usize> = (0..encodings.len())
        .filter(|index| *index != goal.encoding)
        .filter(|index| encodings.get(*index).is_some_and(|e| e.is_alive(now) && Some(rank(e)) <= there))
        .collect();
    below.sort_unstable_by_key(|index| Reverse(encodings.get(*index).map(rank)));
    below
}
