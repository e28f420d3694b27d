//! All uploads, what was said to them while somebody was at them, and whose turn it is. Nothing here waits or does any of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::base::{RecordingId, WorkerId};
use crate::recording::library::{Deletion, Entry};
use crate::storage::upload::machine::{Config, Machine};

/// See the module's documentation.
pub struct Slots {
    slots: BTreeMap<RecordingId, Slot>,
    /// When the database is to be asked for more; `None`: it has nothing that is not here.
    look: Option<Instant>,
    is_looking: bool,
    /// For the jitter of each.
    random: fastrand::Rng,
}

struct Slot {
    state: State,
    mail: Mail,
    /// Not before; `None`: not before something is said.
    due: Option<Instant>,
    /// It waits for a store that is of no use to anybody at the moment.
    waits_for_store: bool,
    worker: Option<WorkerId>,
}

enum State {
    /// What is written down has to be read first.
    Unread,
    Here(Box<Machine>),
    /// A thread has it.
    Taken,
}

/// What was said. The latest of each counts.
#[derive(Default)]
pub struct Mail {
    pub grown: Option<(String, u64)>,
    pub ended: Option<Box<Entry>>,
    pub nothing: bool,
    pub delete: Option<Box<Entry>>,
    /// The store works again for others.
    pub luck: bool,
}

impl Mail {
    fn is_empty(&self) -> bool {
        self.grown.is_none() && self.ended.is_none() && !self.nothing && self.delete.is_none()
    }
}

/// What a thread does next.
pub enum Turn {
    /// Ask the database for what is unfinished.
    Rescan,
    Upload(Box<Taken>),
}

/// An upload in the hands of a thread.
pub struct Taken {
    pub recording: RecordingId,
    /// `None`: it has to be read first.
    pub machine: Option<Box<Machine>>,
    pub mail: Mail,
    pub worker: Option<WorkerId>,
    pub seed: u64,
}

impl Slots {
    pub fn new(now: Instant) -> Slots {
        Slots { slots: BTreeMap::new(), look: Some(now), is_looking: false, random: fastrand::Rng::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.look.is_none()
    }

    pub fn grown(&mut self, config: &Config, recording: &RecordingId, directory: &Path, name: &str, stable: u64) {
        // Nothing is sent before the second part is whole.
        if stable < config.part_size.saturating_mul(2) && !self.slots.contains_key(recording) {
            return;
        }
        let seed = self.random.u64(..);
        let machine = || Box::new(Machine::new(*config, recording.clone(), directory.to_owned(), seed));
        // Without room it is sent when it is over.
        if let Some(slot) = self.slot(recording, || State::Here(machine())) {
            slot.mail.grown = Some((name.to_owned(), stable));
            slot.due.get_or_insert(Instant::now());
        }
    }

    pub fn ended(&mut self, entry: &Entry, worker: Option<WorkerId>) {
        match self.slot(&entry.recording, || State::Unread) {
            Some(slot) => {
                slot.mail.ended = Some(Box::new(entry.clone()));
                slot.worker = worker;
                slot.due.get_or_insert(Instant::now());
            }
            // The database knows.
            None => self.look = Some(Instant::now() + FULL),
        }
    }

    pub fn nothing(&mut self, recording: &RecordingId) {
        if let Some(slot) = self.slot(recording, || State::Unread) {
            slot.mail.nothing = true;
            slot.due = Some(Instant::now());
        }
    }

    pub fn delete(&mut self, deletion: Deletion) -> Result<(), Box<Deletion>> {
        let Deletion { entry } = deletion;
        match self.slot(&entry.recording, || State::Unread) {
            Some(slot) => {
                slot.mail.delete = Some(Box::new(entry));
                slot.due = Some(Instant::now());
                Ok(())
            }
            None => Err(Box::new(Deletion { entry })),
        }
    }

    /// The database has one that is not finished. False: there is no room for it.
    pub fn found(&mut self, recording: RecordingId) -> bool {
        let now = Instant::now();
        if self.slots.contains_key(&recording) {
            return true;
        }
        match self.slot(&recording, || State::Unread) {
            Some(slot) => {
                slot.due = Some(now);
                true
            }
            None => false,
        }
    }

    pub fn rescan(&mut self, now: Instant) {
        self.look = Some(now);
    }

    /// The database was asked. `again`: when it is to be asked once more.
    pub fn looked(&mut self, again: Option<Instant>) {
        self.is_looking = false;
        // Somebody may have said meanwhile that there is more.
        self.look = self.look.or(again);
    }

    /// `is_held`: something about the recording is still on its way to the database, and would come after what is written now.
    pub fn next(&mut self, now: Instant, is_held: impl Fn(&RecordingId) -> bool) -> Option<Turn> {
        if !self.is_looking && self.look.is_some_and(|at| at <= now) {
            (self.is_looking, self.look) = (true, None);
            return Some(Turn::Rescan);
        }
        loop {
            let due = |slot: &Slot| slot.due.filter(|at| *at <= now && !matches!(slot.state, State::Taken));
            let turns = self.slots.iter().filter_map(|(recording, slot)| Some((due(slot)?, recording.clone())));
            let (_, recording) = turns.min()?;
            let seed = self.random.u64(..);
            let slot = self.slots.get_mut(&recording)?;
            if is_held(&recording) {
                slot.due = Some(now + HELD);
                continue;
            }
            slot.due = None;
            let mut mail = std::mem::take(&mut slot.mail);
            // Its turn has come: so it tries.
            mail.luck |= std::mem::take(&mut slot.waits_for_store);
            let machine = match std::mem::replace(&mut slot.state, State::Taken) {
                State::Here(machine) => Some(machine),
                State::Unread | State::Taken => None,
            };
            let worker = slot.worker;
            return Some(Turn::Upload(Box::new(Taken { recording, machine, mail, worker, seed })));
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let slots = self.slots.values().filter(|slot| !matches!(slot.state, State::Taken));
        let look = self.look.filter(|_| !self.is_looking);
        slots.filter_map(|slot| slot.due).chain(look).min()
    }

    /// A thread has done with it for now. `machine`: `None` where it could not be read. `due`: as a machine's
    /// [`Wait`](crate::storage::upload::machine::Action::Wait).
    pub fn put_back(
        &mut self,
        now: Instant,
        recording: &RecordingId,
        machine: Option<Box<Machine>>,
        mail: Mail,
        due: Option<Instant>,
    ) {
        let waits_for_store = machine.as_ref().is_some_and(|machine| machine.waits_for_store());
        let probe = now + PROBE;
        // One of all that wait for the store looks whether it is back.
        let is_probed = self.slots.values().any(|slot| slot.waits_for_store && slot.due.is_some_and(|at| at <= probe));
        let Some(slot) = self.slots.get_mut(recording) else { return };
        slot.state = machine.map_or(State::Unread, State::Here);
        slot.waits_for_store = waits_for_store;
        slot.due = match due {
            Some(at) if waits_for_store && !is_probed => Some(at.min(probe)),
            due => due,
        };
        if !slot.mail.is_empty() {
            slot.due = Some(now);
        }
        // What was not read to it comes before what was said since.
        let late = &mut slot.mail;
        late.grown = late.grown.take().or(mail.grown);
        late.ended = late.ended.take().or(mail.ended);
        late.delete = late.delete.take().or(mail.delete);
        late.nothing |= mail.nothing;
    }

    /// It is over; unless something was said meanwhile.
    pub fn remove(&mut self, now: Instant, recording: &RecordingId) {
        let Some(slot) = self.slots.get_mut(recording) else { return };
        if slot.mail.ended.is_none() && slot.mail.delete.is_none() {
            self.slots.remove(recording);
        } else {
            (slot.state, slot.due, slot.waits_for_store) = (State::Unread, Some(now), false);
        }
    }

    /// The store has done something: whoever waits for it need not any more.
    pub fn lucky(&mut self, now: Instant) {
        for slot in self.slots.values_mut().filter(|slot| slot.waits_for_store) {
            slot.due = Some(now);
        }
    }

    fn slot(&mut self, recording: &RecordingId, state: impl FnOnce() -> State) -> Option<&mut Slot> {
        if !self.slots.contains_key(recording) {
            if self.slots.len() >= SLOTS_MAX {
                return None;
            }
            let state = state();
            let slot = Slot { state, mail: Mail::default(), due: None, waits_for_store: false, worker: None };
            self.slots.insert(recording.clone(), slot);
        }
        self.slots.get_mut(recording)
    }
}

/// Uploads that are known here, some KiB each; the others wait in the database.
const SLOTS_MAX: usize = 1024;
const FULL: Duration = Duration::from_secs(60);
/// Until the database has taken what is on its way.
const HELD: Duration = Duration::from_millis(100);
/// However long all wait for a store: it is not down for longer than this after it is up.
const PROBE: Duration = Duration::from_secs(40);
