//! The thread that records: takes what shards send, drives a recorder and a [`Live`] recording each, and gives notice.
//!
//! Nothing here waits but for the disk. What breaks while a recording is made ends that one, and what it has written is repaired.

use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use super::finisher::{Job, Task};
use super::live::{Ended, Failure, Live};
use super::machine::Machine;
use super::recorder::{Message, Shared};
use crate::base::RecordingId;
use crate::base::queue::Full;
use crate::recording::feed::{Begin, EndReason, Feed, Item, Notice, NoticeKind, Refusal};
use crate::recording::library::{Entry, Status};
use crate::recording::manifest::{from_unix_ms, ms, unix_ms};
use crate::recording::{Block, names};

/// All recordings of a thread.
pub struct Thread<M> {
    shared: Arc<Shared>,
    slots: HashMap<RecordingId, Slot<M>>,
    next_tick: Instant,
}

struct Slot<M> {
    begin: Box<Begin>,
    entry: Entry,
    phase: Phase<M>,
}

enum Phase<M> {
    Live(Box<Session<M>>),
    /// What was sent before the shard heard of it still comes.
    Over {
        since: Instant,
    },
}

/// One that is made.
struct Session<M> {
    machine: M,
    live: Live,
    /// On their way from the one to the other.
    blocks: Vec<Block>,
    /// It ends for this reason as soon as the recorder has given what it had, and at the latest then.
    ending: Option<(EndReason, Instant)>,
    sync: Arc<AtomicU8>,
    next_sync: Instant,
    next_quality: Instant,
}

impl<M: Machine> Thread<M> {
    pub fn new(shared: Arc<Shared>) -> Self {
        Thread { shared, slots: HashMap::new(), next_tick: Instant::now() }
    }

    /// Until it is time to stop, or nobody is left who could send.
    pub fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let message = match self.timeout() {
                Some(timeout) => messages.recv_timeout(timeout),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let is_over = matches!(message, Err(RecvTimeoutError::Disconnected));
            let more = std::iter::from_fn(|| messages.try_recv().ok()).take(MESSAGES_PER_TURN);
            for message in message.into_iter().chain(more) {
                if let Message::Feed(feed) = message {
                    self.feed(feed);
                }
            }
            self.turn(Instant::now());
            if is_over || self.shared.is_stopping() {
                break;
            }
        }
        // What was sent before still counts.
        while let Ok(message) = messages.try_recv() {
            if let Message::Feed(feed) = message {
                self.feed(feed);
            }
        }
        let recordings: Vec<RecordingId> = self.slots.keys().cloned().collect();
        for recording in recordings {
            self.guarded(&recording, |session, _| session.end_now(EndReason::ServerStopped));
            self.conclude(&recording);
        }
    }

    /// `None`: nothing is to be done before something comes.
    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        if self.slots.is_empty() {
            return (!self.shared.outbox.flush()).then_some(TICK);
        }
        let live = self.slots.values().filter_map(Slot::session);
        let next = live.filter_map(Session::poll_timeout).min().map_or(self.next_tick, |at| at.min(self.next_tick));
        Some(next.saturating_duration_since(now))
    }

    fn feed(&mut self, feed: Feed) {
        match feed {
            Feed::Begin(begin) => self.begin(begin),
            Feed::Batch { recording, items } => {
                let octets = items.iter().map(payload_octets).sum();
                let is_last = items.iter().any(|item| matches!(item, Item::Finish { .. }));
                self.guarded(&recording, |session, context| session.take(&items, context));
                let Some(slot) = self.slots.get(&recording) else { return };
                let backlog: &AtomicUsize = &slot.begin.backlog;
                // As much as is there: a sender that is mistaken makes no queue that is full for ever.
                let _ =
                    backlog.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| Some(all.saturating_sub(octets)));
                if is_last && matches!(slot.phase, Phase::Over { .. }) {
                    self.slots.remove(&recording);
                }
            }
        }
    }

    fn begin(&mut self, begin: Box<Begin>) {
        let recording = begin.recording.clone();
        let (worker, room) = (begin.worker, begin.room.clone());
        let what = match self.open(begin) {
            Ok(slot) => {
                tracing::info!(%recording, %room, directory = %slot.entry.directory.display(), "recording");
                self.shared.outbox.save(&slot.entry);
                if self.slots.is_empty() {
                    self.next_tick = Instant::now() + TICK;
                }
                self.slots.insert(recording.clone(), slot);
                NoticeKind::Opened
            }
            Err(refusal) => {
                tracing::warn!(%recording, %room, ?refusal, "a recording is refused");
                NoticeKind::Refused(refusal)
            }
        };
        (self.shared.notice)(worker, Notice { room, recording, what });
    }

    fn open(&self, begin: Box<Begin>) -> Result<Slot<M>, Refusal> {
        let config = &self.shared.config;
        let failed = |error: std::io::Error| Refusal::Failed(error.to_string());
        if self.shared.is_stopping() {
            return Err(Refusal::Busy);
        }
        if self.slots.contains_key(&begin.recording) {
            return Err(Refusal::Failed("there is a recording of that name".into()));
        }
        if config.free().map_err(failed)? < config.free_min.max(config.free_floor()) {
            return Err(Refusal::DiskFull);
        }
        let one_more = |count| (count < config.recordings_max).then_some(count + 1);
        let count = &self.shared.count;
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map_err(|_| Refusal::TooMany)?;
        let live = Live::create(&config.directory, &begin, config.room.clone()).inspect_err(|_| {
            count.fetch_sub(1, Ordering::Relaxed);
        });
        let live = live.map_err(|error| match Failure::from(error) {
            Failure::DiskFull => Refusal::DiskFull,
            Failure::Write(error) => failed(error),
        })?;
        let now = Instant::now();
        let session = Session {
            blocks: Vec::new(),
            machine: M::begin(begin.at),
            live,
            ending: None,
            sync: Arc::new(AtomicU8::new(SYNC_IDLE)),
            next_sync: now + SYNC_EVERY,
            next_quality: now + QUALITY_EVERY,
        };
        Ok(Slot { entry: entry(&begin), begin, phase: Phase::Live(Box::new(session)) })
    }

    /// What is due, of all.
    fn turn(&mut self, now: Instant) {
        let due = |slot: &Slot<M>| slot.session().and_then(Session::poll_timeout).is_some_and(|at| at <= now);
        let due: Vec<RecordingId> =
            self.slots.iter().filter(|(_, slot)| due(slot)).map(|(recording, _)| recording.clone()).collect();
        for recording in due {
            self.guarded(&recording, |session, context| session.handle_timeout(context));
        }
        if now < self.next_tick || self.slots.is_empty() {
            return;
        }
        self.next_tick = now + TICK;
        self.shared.outbox.flush();
        let is_full = match self.shared.config.free() {
            Ok(free) => free < self.shared.config.free_floor(),
            // What cannot be asked is no reason to end what can be written.
            Err(_) => false,
        };
        let recordings: Vec<RecordingId> = self.slots.keys().cloned().collect();
        for recording in recordings {
            self.guarded(&recording, |session, context| session.tick(is_full, context));
        }
        let is_old = |slot: &Slot<M>| matches!(slot.phase, Phase::Over { since } if now > since + OVER_FOR);
        self.slots.retain(|_, slot| !is_old(slot));
    }

    /// Does something with a recording that runs; whatever breaks, or ends it, ends only that one.
    fn guarded(
        &mut self,
        recording: &RecordingId,
        work: impl FnOnce(&mut Session<M>, &mut Context<'_>) -> Result<(), EndReason>,
    ) {
        let Some(slot) = self.slots.get_mut(recording) else { return };
        let Phase::Live(session) = &mut slot.phase else { return };
        let mut context = Context { shared: &self.shared, begin: &slot.begin, entry: &mut slot.entry };
        let done = catch_unwind(AssertUnwindSafe(|| {
            if let Err(reason) = work(session, &mut context) {
                session.end(reason, &mut context);
            }
            session.is_over()
        }));
        match done {
            Ok(false) => {}
            Ok(true) => self.conclude(recording),
            Err(_) => self.broken(recording),
        }
    }

    /// Head and cues are written, and the rest is for the finisher.
    fn conclude(&mut self, recording: &RecordingId) {
        let Some(slot) = self.slots.get_mut(recording) else { return };
        let Phase::Live(session) = std::mem::replace(&mut slot.phase, Phase::Over { since: Instant::now() }) else {
            return;
        };
        let reason = session.ending.map_or(EndReason::ServerStopped, |(reason, _)| reason);
        let size = session.live.size();
        let directory = session.live.directory().to_owned();
        // As all times of it, whatever somebody has done to the clock meanwhile.
        let wall = to_ms(slot.begin.wall + slot.begin.at.elapsed());
        let ended = catch_unwind(AssertUnwindSafe(|| session.live.end(reason, wall)));
        let Ok(Ended { journal, duration_ms, completed }) = ended else {
            return self.broken(recording);
        };
        if let Err(error) = &completed {
            tracing::error!(%recording, %error, "the end of a recording is not written; it will be repaired");
        }
        let entry = &mut slot.entry;
        (entry.status, entry.ended, entry.end_reason) = (Status::Processing, Some(wall), Some(reason.as_str().into()));
        (entry.duration_ms, entry.size, entry.progress) = (duration_ms, size, 0.0);
        let (entry, worker) = (entry.clone(), slot.begin.worker);
        tracing::info!(%recording, reason = reason.as_str(), duration_ms, size, "recording ended");
        let is_whole = completed.is_ok();
        self.hand_on(Job { directory, entry, worker, journal: Some(journal), is_whole });
    }

    /// Nothing of it can be trusted but what is on the disk.
    fn broken(&mut self, recording: &RecordingId) {
        let Some(slot) = self.slots.get_mut(recording) else { return };
        tracing::error!(%recording, "a recording broke its recorder; what was written will be repaired");
        // Lets go of the manifest, which the repair wants.
        slot.phase = Phase::Over { since: Instant::now() };
        let wall = to_ms(slot.begin.wall + slot.begin.at.elapsed());
        (slot.entry.status, slot.entry.ended) = (Status::Processing, Some(wall));
        slot.entry.recovered = true;
        let (entry, begin) = (slot.entry.clone(), &slot.begin);
        let directory = self.shared.config.directory.join(&entry.directory);
        let (worker, room) = (begin.worker, begin.room.clone());
        let what = NoticeKind::Ended(EndReason::WriteFailed);
        (self.shared.notice)(worker, Notice { room, recording: recording.clone(), what });
        self.hand_on(Job { directory, entry, worker, journal: None, is_whole: false });
    }

    fn hand_on(&self, job: Job) {
        self.shared.count.fetch_sub(1, Ordering::Relaxed);
        self.shared.outbox.save(&job.entry);
        if let Err(Full(_)) = self.shared.finisher.try_send(Task::Finish(Box::new(job))) {
            self.shared.rescan.store(true, Ordering::Relaxed);
        }
    }
}

impl<M> Slot<M> {
    fn session(&self) -> Option<&Session<M>> {
        match &self.phase {
            Phase::Live(session) => Some(session),
            Phase::Over { .. } => None,
        }
    }
}

/// What a session has around it.
struct Context<'a> {
    shared: &'a Shared,
    begin: &'a Begin,
    entry: &'a mut Entry,
}

impl Context<'_> {
    fn notice(&self, what: NoticeKind) {
        let (room, recording) = (self.begin.room.clone(), self.begin.recording.clone());
        (self.shared.notice)(self.begin.worker, Notice { room, recording, what });
    }

    fn set_status(&mut self, status: Status) {
        if self.entry.status != status {
            self.entry.status = status;
            self.shared.outbox.save(self.entry);
        }
    }
}

impl<M: Machine> Session<M> {
    fn take(&mut self, items: &[Item], context: &mut Context<'_>) -> Result<(), EndReason> {
        let now = Instant::now();
        for item in items {
            if self.ending.is_some() {
                return Ok(());
            }
            if let Some(at) = moment(item) {
                let at_ms = ms(self.machine.position_ns(at));
                self.live.note_item(item, at_ms).map_err(failed)?;
            }
            if let Item::Finish { reason, .. } = item {
                self.ending = Some((*reason, now + ENDING_MAX));
            }
            self.machine.handle_item(now, item);
            self.drain(now, context)?;
            // Whoever reads the new status reads how long it is by then.
            (context.entry.duration_ms, context.entry.size) = (self.live.duration_ms(), self.live.size());
            match item {
                Item::Paused { .. } => context.set_status(Status::Paused),
                Item::Resumed { .. } => context.set_status(Status::Recording),
                Item::TrackRemoved { track, .. } => {
                    self.live.note_quality(*track, self.machine.quality(*track)).map_err(failed)?;
                }
                Item::Finish { .. } => context.set_status(Status::Stopping),
                _ => {}
            }
        }
        Ok(())
    }

    /// Everything that the recorder has to give.
    fn drain(&mut self, now: Instant, context: &Context<'_>) -> Result<(), EndReason> {
        self.write()?;
        while let Some(note) = self.machine.poll_note() {
            self.live.note(&note).map_err(failed)?;
        }
        while let Some(track) = self.machine.poll_keyframe_request(now) {
            if self.ending.is_none() {
                context.notice(NoticeKind::KeyframeWanted { track });
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self, context: &Context<'_>) -> Result<(), EndReason> {
        let now = Instant::now();
        self.machine.handle_timeout(now);
        self.drain(now, context)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let ending = self.ending.map(|(_, at)| at);
        self.machine.poll_timeout().into_iter().chain(ending).min()
    }

    /// About once a second.
    fn tick(&mut self, is_full: bool, context: &mut Context<'_>) -> Result<(), EndReason> {
        let now = Instant::now();
        let (config, entry) = (&context.shared.config, &mut *context.entry);
        (entry.duration_ms, entry.size) = (self.live.duration_ms(), self.live.size());
        context.shared.outbox.progress(&entry.recording, entry.duration_ms, entry.size, 0.0);
        if let Some(uploads) = &context.shared.uploads {
            uploads.grown(&entry.recording, &entry.directory, &self.live.name(), self.live.stable_len());
        }
        if now >= self.next_quality {
            self.next_quality = now + QUALITY_EVERY;
            self.note_qualities()?;
        }
        if now >= self.next_sync && self.sync(context.shared)? {
            self.next_sync = now + SYNC_EVERY;
        }
        if self.ending.is_some() {
            return Ok(());
        }
        // Also of a recording in which nothing is heard or seen.
        let position = Duration::from_nanos(self.machine.position_ns(now));
        if position >= config.length_max || self.live.size() >= config.size_max {
            return Err(EndReason::Limit);
        }
        if is_full { Err(EndReason::DiskFull) } else { Ok(()) }
    }

    fn note_qualities(&mut self) -> Result<(), EndReason> {
        for source in self.live.sources() {
            self.live.note_quality(source, self.machine.quality(source)).map_err(failed)?;
        }
        Ok(())
    }

    /// Whether somebody sees to it that it reaches the disk. Errors: the last time it did not.
    fn sync(&self, shared: &Shared) -> Result<bool, EndReason> {
        match self.sync.load(Ordering::Relaxed) {
            SYNC_FAILED => return Err(EndReason::WriteFailed),
            SYNC_BUSY => return Ok(false),
            _ => {}
        }
        self.sync.store(SYNC_BUSY, Ordering::Relaxed);
        let task = SyncTask { files: self.live.files(), state: self.sync.clone() };
        let is_taken = shared.syncer.try_send(task).is_ok();
        if !is_taken {
            self.sync.store(SYNC_IDLE, Ordering::Relaxed);
        }
        Ok(is_taken)
    }

    /// On our own account.
    fn end(&mut self, reason: EndReason, context: &mut Context<'_>) {
        if let Some((first, at)) = self.ending {
            // What ends it anyway only does so at once when nothing can be written any more.
            let is_broken = matches!(reason, EndReason::WriteFailed | EndReason::DiskFull);
            self.ending = Some((if is_broken { reason } else { first }, if is_broken { Instant::now() } else { at }));
            return;
        }
        tracing::warn!(recording = %context.begin.recording, reason = reason.as_str(), "a recording has to end");
        context.notice(NoticeKind::Ended(reason));
        context.set_status(Status::Stopping);
        if let Err(worse) = self.end_now(reason) {
            self.ending = Some((worse, Instant::now()));
        }
    }

    /// What the recorder has is written, as far as that goes.
    fn end_now(&mut self, reason: EndReason) -> Result<(), EndReason> {
        let now = Instant::now();
        if self.ending.is_none() {
            self.machine.handle_item(now, &Item::Finish { at: now, reason });
            self.ending = Some((reason, now + ENDING_MAX));
        }
        self.write()
    }

    /// What the recorder has, a good piece at a time.
    fn write(&mut self) -> Result<(), EndReason> {
        loop {
            self.blocks.clear();
            self.blocks.extend(std::iter::from_fn(|| self.machine.poll_block()).take(BLOCKS_AT_ONCE));
            if self.blocks.is_empty() {
                return Ok(());
            }
            self.live.write(&self.blocks).map_err(failed)?;
        }
    }

    /// Whether all is written. Then the qualities are as they stay.
    fn is_over(&mut self) -> bool {
        let Some((_, at)) = self.ending else { return false };
        let is_over = self.machine.is_finished() || Instant::now() >= at;
        if is_over {
            // The last of what is known; without it the recording is as good.
            let _ = self.note_qualities();
        }
        is_over
    }
}

fn failed(failure: Failure) -> EndReason {
    if let Failure::Write(error) = &failure {
        tracing::error!(%error, "a recording cannot be written");
    }
    failure.reason()
}

fn payload_octets(item: &Item) -> usize {
    match item {
        Item::Packet(packet) => packet.payload.len(),
        _ => 0,
    }
}

/// When it happened, of what the manifest is told.
fn moment(item: &Item) -> Option<Instant> {
    match item {
        Item::Packet(_) | Item::Arrival(_) | Item::Report(_) | Item::Finish { .. } => None,
        Item::Joined { at, .. }
        | Item::Left { at, .. }
        | Item::TrackAdded { at, .. }
        | Item::TrackRemoved { at, .. }
        | Item::Muted { at, .. }
        | Item::Speakers { at, .. }
        | Item::Overflow { at, .. }
        | Item::Paused { at }
        | Item::Resumed { at } => Some(*at),
    }
}

fn entry(begin: &Begin) -> Entry {
    Entry {
        recording: begin.recording.clone(),
        room: begin.room.clone(),
        status: Status::Recording,
        progress: 0.0,
        audio_only: begin.audio_only,
        participants: begin.participants.clone(),
        started_by: begin.by.clone(),
        started: to_ms(begin.wall),
        ended: None,
        end_reason: None,
        duration_ms: 0,
        size: 0,
        recovered: false,
        error: None,
        directory: names::directory(&begin.room, &begin.recording),
        files: Vec::new(),
    }
}

/// As the manifest has it, so that what is read again is the same.
fn to_ms(time: SystemTime) -> SystemTime {
    from_unix_ms(unix_ms(time))
}

/// Files that are to reach the disk.
pub struct SyncTask {
    files: [Arc<File>; 2],
    state: Arc<AtomicU8>,
}

/// Does so, one after the other, until nobody is left who could ask.
pub fn sync(tasks: &Receiver<SyncTask>) {
    while let Ok(SyncTask { files, state }) = tasks.recv() {
        let synced = files.iter().try_for_each(|file| file.sync_data());
        if let Err(error) = &synced {
            tracing::error!(%error, "a recording does not reach the disk");
        }
        drop(files);
        state.store(if synced.is_ok() { SYNC_IDLE } else { SYNC_FAILED }, Ordering::Relaxed);
    }
}

const SYNC_IDLE: u8 = 0;
const SYNC_BUSY: u8 = 1;
const SYNC_FAILED: u8 = 2;
/// With the time that a tick and the disk take, a power cut costs less than five seconds.
const SYNC_EVERY: Duration = Duration::from_secs(2);
/// Progress, limits, free space.
const TICK: Duration = Duration::from_secs(1);
/// So often the manifest is told how good tracks are, for when there is no end.
const QUALITY_EVERY: Duration = Duration::from_secs(60);
/// A recorder that has been told that nothing comes has nothing to wait for.
const ENDING_MAX: Duration = Duration::from_secs(1);
/// What was under way to a recording that ended has come by then.
const OVER_FOR: Duration = Duration::from_secs(60);
/// Then it is time for what is due.
const MESSAGES_PER_TURN: usize = 64;
/// Written in one go: those of a batch, and of what waited for them. Of pictures that is as much as a system call takes.
const BLOCKS_AT_ONCE: usize = 64;
