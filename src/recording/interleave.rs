//! The order in which blocks are written: ascending in time, over all tracks.
//!
//! A machine over the lanes of a recording, one per track. A block leaves when no lane can bring an earlier one any more: when
//! each that is expected to bring something has something waiting. A lane that brings nothing holds the others until their
//! blocks are older than `hold`. What comes later than that is still written, after what is later than it.
//!
//! Bounds: `BLOCKS_MAX` blocks and `OCTETS_MAX` octets wait; beyond, the earliest leaves whatever it waited for. Whoever
//! adds asks [`Interleaver::is_full`] before.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::Block;

/// Puts the blocks of all tracks into one order.
#[derive(Debug)]
pub struct Interleaver {
    hold_ns: u64,
    lanes: Vec<Lane>,
    /// (time, lane) of every block that waits. Blocks themselves stay in their lanes, since they are large to move.
    heads: BinaryHeap<Reverse<(u64, u32)>>,
    octets: usize,
    /// Lanes that hold others and have nothing waiting.
    holding: usize,
    /// Time of the latest block that has left.
    written_ns: u64,
    /// Everything leaves until it is empty.
    flushes: bool,
}

#[derive(Debug, Default)]
struct Lane {
    blocks: VecDeque<Block>,
    /// Something is expected of it.
    holds: bool,
}

impl Interleaver {
    /// `hold_ns`: how old a block may become here.
    pub fn new(hold_ns: u64) -> Self {
        Interleaver {
            hold_ns,
            lanes: Vec::new(),
            heads: BinaryHeap::new(),
            octets: 0,
            holding: 0,
            written_ns: 0,
            flushes: false,
        }
    }

    /// Adds a block behind the others of its lane. Its time is after theirs.
    pub fn push(&mut self, lane: u32, block: Block) {
        let lane_at = lane as usize;
        if lane_at >= self.lanes.len() {
            self.lanes.resize_with(lane_at + 1, Lane::default);
        }
        let to = &mut self.lanes[lane_at];
        self.holding -= usize::from(to.holds && to.blocks.is_empty());
        self.octets += block.payload.len();
        self.heads.push(Reverse((block.timestamp_ns, lane)));
        to.blocks.push_back(block);
    }

    /// Whether something is expected of a lane, so that the others wait for it.
    pub fn set_holds(&mut self, lane: u32, holds: bool) {
        let lane = lane as usize;
        if lane >= self.lanes.len() {
            if !holds {
                return;
            }
            self.lanes.resize_with(lane + 1, Lane::default);
        }
        let lane = &mut self.lanes[lane];
        if lane.holds == holds {
            return;
        }
        lane.holds = holds;
        if lane.blocks.is_empty() {
            if holds { self.holding += 1 } else { self.holding -= 1 }
        }
    }

    /// Nothing is waited for until everything is out.
    pub fn flush(&mut self) {
        self.flushes = !self.heads.is_empty();
    }

    /// The block to be written next. `position_ns`: of the recording, on the clock of the blocks.
    pub fn pop(&mut self, position_ns: u64) -> Option<Block> {
        let Reverse((time, lane)) = *self.heads.peek()?;
        if self.holding > 0 && !self.flushes && !self.is_over() && position_ns < time.saturating_add(self.hold_ns) {
            return None;
        }
        self.heads.pop();
        let lane = &mut self.lanes[lane as usize];
        let block = lane.blocks.pop_front().expect("a head for every block");
        self.holding += usize::from(lane.holds && lane.blocks.is_empty());
        self.octets -= block.payload.len();
        self.flushes &= !self.heads.is_empty();
        self.written_ns = self.written_ns.max(time);
        Some(block)
    }

    /// At which position the next block leaves, whatever comes.
    pub fn due_ns(&self) -> Option<u64> {
        let Reverse((time, _)) = self.heads.peek()?;
        Some(time.saturating_add(self.hold_ns))
    }

    /// Time of the latest block that has left; 0 before.
    pub fn written_ns(&self) -> i64 {
        i64::try_from(self.written_ns).unwrap_or(i64::MAX)
    }

    /// Blocks that wait.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Nobody takes out what leaves: nothing should be added.
    pub fn is_full(&self) -> bool {
        self.heads.len() > 2 * BLOCKS_MAX || self.octets > 2 * OCTETS_MAX
    }

    fn is_over(&self) -> bool {
        self.heads.len() > BLOCKS_MAX || self.octets > OCTETS_MAX
    }
}

/// Half a second of 200 tracks at 50 a second is 5,000. [`Interleaver::is_full`] is twice as much.
const BLOCKS_MAX: usize = 16 * 1024;
/// Half a second of 500 Mbit/s.
const OCTETS_MAX: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn block(source: u32, ms: u64) -> Block {
        Block {
            source,
            number: source,
            begins: None,
            size: None,
            timestamp_ns: ms * 1_000_000,
            is_keyframe: true,
            duration_ns: None,
            payload: Default::default(),
        }
    }

    enum Step {
        Push(u32, u64),
        Holds(u32, bool),
        Flush,
        /// At this position these leave: (lane, time).
        Leave(u64, &'static [(u32, u64)]),
    }
    use Step::*;

    fn check(name: &str, steps: &[Step]) {
        let mut interleaver = Interleaver::new(500_000_000);
        for (at, step) in steps.iter().enumerate() {
            match step {
                Push(lane, ms) => interleaver.push(*lane, block(*lane, *ms)),
                Holds(lane, holds) => interleaver.set_holds(*lane, *holds),
                Flush => interleaver.flush(),
                Leave(position, expect) => {
                    let out = std::iter::from_fn(|| interleaver.pop(position * 1_000_000));
                    let out: Vec<_> = out.map(|block| (block.source, block.timestamp_ns / 1_000_000)).collect();
                    assert_eq!(out, *expect, "{name}, step {at}");
                }
            }
        }
    }

    #[test]
    fn rows() {
        check("alone", &[Holds(1, true), Push(1, 10), Leave(10, &[(1, 10)]), Push(1, 30), Leave(30, &[(1, 30)])]);
        check(
            "ascending over all",
            &[
                Holds(1, true),
                Holds(2, true),
                Push(1, 10),
                Push(1, 30),
                Leave(40, &[]),
                Push(2, 20),
                Leave(40, &[(1, 10), (2, 20)]),
                Push(2, 31),
                Leave(41, &[(1, 30)]),
            ],
        );
        check(
            "held by one that has nothing, but not for ever",
            &[Holds(1, true), Holds(2, true), Push(1, 10), Push(1, 30), Leave(509, &[]), Leave(510, &[(1, 10)])],
        );
        check(
            "not held by one of which nothing is expected",
            &[Holds(1, true), Holds(2, true), Push(1, 10), Leave(20, &[]), Holds(2, false), Leave(20, &[(1, 10)])],
        );
        check(
            "what comes late is written",
            &[
                Holds(1, true),
                Push(1, 50),
                Leave(50, &[(1, 50)]),
                Holds(2, true),
                Push(2, 20),
                Leave(60, &[]),
                Push(1, 70),
                Leave(60, &[(2, 20)]),
            ],
        );
        check(
            "a flush lets out what is there, and no more",
            &[
                Holds(1, true),
                Holds(2, true),
                Push(2, 9),
                Push(1, 8),
                Push(1, 10),
                Flush,
                Leave(10, &[(1, 8), (2, 9), (1, 10)]),
                Push(1, 11),
                Leave(11, &[]),
            ],
        );
    }

    #[test]
    fn a_full_one_lets_the_earliest_go() {
        let mut interleaver = Interleaver::new(500_000_000);
        interleaver.set_holds(2, true);
        for n in 0..=BLOCKS_MAX as u64 {
            assert!(interleaver.pop(0).is_none());
            interleaver.push(1, block(1, n));
        }
        assert_eq!(interleaver.pop(0).map(|block| block.timestamp_ns), Some(0));
        assert!(interleaver.pop(0).is_none());
    }
}
