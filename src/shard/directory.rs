//! Which worker a room lives on. Kept by worker 0 alone; the others ask it by mail, at every join.
//!
//! A room must never live twice. So the directory counts the joins it has sent to a room's worker, the worker reports
//! how many of them arrived when the room ends, and the entry goes only when the two agree: a join under way keeps the
//! room where it is. (A cache on the other workers would save one mail of some microseconds per join and would need a
//! second message, "moved", to be right.)

use rustc_hash::FxHashMap;

use crate::base::{RoomId, WorkerId};

/// See the module's documentation.
#[derive(Debug)]
pub struct Directory {
    rooms: FxHashMap<RoomId, Entry>,
    /// Rooms per worker.
    load: Vec<u32>,
    max_rooms: usize,
}

#[derive(Debug)]
struct Entry {
    worker: WorkerId,
    /// Joins sent there that no [`Directory::settle`] has accounted for.
    under_way: u64,
}

/// Why a room has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such room and none is to be created.
    NotFound,
    /// The server has as many rooms as it may have.
    TooManyRooms,
}

impl Directory {
    pub fn new(workers: u8, max_rooms: usize) -> Directory {
        Directory { rooms: FxHashMap::default(), load: vec![0; usize::from(workers.max(1))], max_rooms }
    }

    /// Where a join has to go. A new room is placed on the worker with the fewest rooms.
    pub fn locate(&mut self, room: &RoomId, create: bool) -> Result<WorkerId, Refusal> {
        if let Some(entry) = self.rooms.get_mut(room) {
            entry.under_way += 1;
            return Ok(entry.worker);
        }
        if !create {
            return Err(Refusal::NotFound);
        }
        if self.rooms.len() >= self.max_rooms {
            return Err(Refusal::TooManyRooms);
        }
        let index = (0..self.load.len()).min_by_key(|i| self.load[*i]).unwrap_or(0);
        self.load[index] += 1;
        let worker = WorkerId(index as u8);
        self.rooms.insert(room.clone(), Entry { worker, under_way: 1 });
        Ok(worker)
    }

    /// Where a room is, for whoever does not join it: nothing is counted, so it may have ended when the question gets there.
    pub fn find(&self, room: &RoomId) -> Option<WorkerId> {
        self.rooms.get(room).map(|entry| entry.worker)
    }

    /// `arrivals` joins are accounted for: they came to a room that has ended since, or they never got there.
    pub fn settle(&mut self, room: &RoomId, arrivals: u64) {
        let Some(entry) = self.rooms.get_mut(room) else { return };
        entry.under_way = entry.under_way.saturating_sub(arrivals);
        if entry.under_way == 0 {
            self.load[usize::from(entry.worker.0)] -= 1;
            self.rooms.remove(room);
        }
    }

    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> RoomId {
        RoomId::new(text).unwrap()
    }

    #[test]
    fn rooms_spread_and_stay() {
        let mut directory = Directory::new(2, 10);
        let a = directory.locate(&id("a"), true).unwrap();
        let b = directory.locate(&id("b"), true).unwrap();
        assert_ne!(a, b);
        assert_eq!(directory.locate(&id("a"), true), Ok(a));
    }

    #[test]
    fn a_join_under_way_keeps_the_room_in_place() {
        let mut directory = Directory::new(2, 10);
        let home = directory.locate(&id("a"), true).unwrap();
        directory.locate(&id("b"), true).unwrap();
        directory.locate(&id("a"), true).unwrap();
        // The first one came and left; the second is still on its way.
        directory.settle(&id("a"), 1);
        assert_eq!(directory.locate(&id("a"), false), Ok(home));
        directory.settle(&id("a"), 2);
        assert_eq!(directory.locate(&id("a"), false), Err(Refusal::NotFound));
    }

    #[test]
    fn who_only_asks_keeps_nothing_in_place() {
        let mut directory = Directory::new(2, 10);
        assert_eq!(directory.find(&id("a")), None);
        let home = directory.locate(&id("a"), true).unwrap();
        assert_eq!(directory.find(&id("a")), Some(home));
        directory.settle(&id("a"), 1);
        assert_eq!(directory.find(&id("a")), None);
    }

    #[test]
    fn limits_and_absence() {
        let mut directory = Directory::new(1, 1);
        assert_eq!(directory.locate(&id("a"), false), Err(Refusal::NotFound));
        directory.locate(&id("a"), true).unwrap();
        assert_eq!(directory.locate(&id("b"), true), Err(Refusal::TooManyRooms));
        directory.settle(&id("unknown"), 7);
        directory.settle(&id("a"), 1);
        assert!(directory.is_empty());
        assert!(directory.locate(&id("b"), true).is_ok());
    }
}
