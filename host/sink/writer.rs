//! The thread that writes rows and dead letters. It takes batches over a bounded channel, so a slow or unavailable sink stops the lanes, and
//! they stop the consumer. Keeps I2 and I3: it answers a [`LaneWriter::barrier`] only when everything before it is acknowledged.

use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::backoff;
use crate::clock;
use crate::dead_letter::{DeadLetter, DeadLetterWriter};
use crate::failure::Failure;
use crate::machine::{self, Planted, Thread};
use crate::observe::board::{Board, LaneBoard};
use crate::record::{NO_TIME, RecordRef, Records};
use crate::row::{Image, Rows};
use crate::sink::image::primary_key;
use crate::sink::{Owner, Refusal, Sink};
use crate::state::journal::ImageNotes;
use crate::state::tenure::Tenure;
use crate::strike::Stage;

/// Batches of rows that may wait for the sink: one being written, one ready.
const WAITING: usize = 2;
/// How often a waiting lane checks whether to keep waiting.
const POLL: Duration = Duration::from_millis(1);

/// The lengths of the files that sink and dead letters write, in bytes, all of it on disk; none for what is not a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// The sink's file.
    pub sink: Option<u64>,
    /// The dead-letter file.
    pub letters: Option<u64>,
}

enum Message {
    /// Write a batch. `by` is what its dead letters name: the digest of the plugin, and the number of the deployment.
    Write { rows: Rows, letters: Vec<DeadLetter>, by: (String, u64), images: Option<SharedImages>, of: OfLane },
    /// Put images back, then reply.
    Restore { images: Vec<Image>, reply: Sender<()>, of: OfLane },
    /// Reply once everything before this is acknowledged.
    Sync { reply: Sender<Lengths>, of: OfLane },
}

/// A lane's notes of the rows that a deployment on probation replaces.
pub type SharedImages = Arc<Mutex<ImageNotes>>;

/// The lane that a batch comes from.
#[derive(Clone)]
struct OfLane {
    board: Arc<LaneBoard>,
    owner: Arc<dyn Owner>,
    /// Why nothing more of the lane is written: another host has taken it over, or it was abandoned.
    over: Arc<Mutex<Option<Failure>>>,
}

impl OfLane {
    fn over(&self) -> Option<Failure> {
        self.over.lock().expect("nobody panics while holding it").clone()
    }
}

impl Owner for Tenure {
    fn lane(&self) -> &str {
        self.name()
    }

    fn timestamps(&self, after: i64, count: usize) -> Result<i64, Failure> {
        Ok(Tenure::timestamps(self, after, count)?)
    }
}

/// The writing thread, which ends with its last handle.
#[derive(Clone)]
pub struct Writer {
    messages: SyncSender<Message>,
    failure: Arc<Mutex<Option<Failure>>>,
    board: Arc<Board>,
}

/// A place in what a lane hands over.
#[derive(Debug)]
pub struct Barrier {
    answer: Receiver<Lengths>,
}

/// A lane's handle on the writing thread.
pub struct LaneWriter {
    writer: Writer,
    lane: OfLane,
}

impl Writer {
    /// Starts the thread. Returns its handle too: nothing is written after it has ended. Lanes write through [`Writer::of_lane`].
    pub fn start(
        sink: Box<dyn Sink>,
        letters: Box<dyn DeadLetterWriter>,
        board: &Arc<Board>,
    ) -> Result<(Writer, Thread<()>), Failure> {
        let (messages, inbox) = sync_channel(WAITING);
        let failure = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&failure);
        board.writes_to(sink.outage(), letters.outage());
        let mut outputs = Outputs { sink, letters, board: Arc::clone(board) };
        let body = move || outputs.serve(&inbox, &slot);
        let thread = machine::spawn("writer", body)
            .map_err(|e| Failure::unexpected(format!("cannot start the thread that writes rows: {e}")))?;
        Ok((Writer { messages, failure, board: Arc::clone(board) }, thread))
    }

    /// Returns a handle for the lane with this board and this owner.
    pub fn of_lane(&self, board: &Arc<LaneBoard>, owner: Arc<dyn Owner>) -> LaneWriter {
        let lane = OfLane { board: Arc::clone(board), owner, over: Arc::default() };
        LaneWriter { writer: self.clone(), lane }
    }
}

impl LaneWriter {
    /// Hands over a batch from the plugin with this digest in this deployment. Waits while the sink is behind and `patient` returns true; returns false if the
    /// batch was not taken. With `images`, notes first which rows are about to be replaced.
    pub fn write(
        &self,
        (rows, letters): (Rows, Vec<DeadLetter>),
        (plugin, deployment): (&str, u64),
        images: Option<&SharedImages>,
        patient: impl Fn() -> bool,
    ) -> Result<bool, Failure> {
        let (by, images, of) = ((plugin.to_owned(), deployment), images.cloned(), self.lane.clone());
        self.send(Message::Write { rows, letters, by, images, of }, &patient)
    }

    /// Puts images back ([`Sink::restore`]), and returns once that is done.
    pub fn restore(&self, images: Vec<Image>) -> Result<(), Failure> {
        let (reply, answer) = channel();
        self.send(Message::Restore { images, reply, of: self.lane.clone() }, &|| true)?;
        machine::receive(&answer).ok_or_else(|| self.failure())
    }

    /// Asks to be told once everything handed over so far is acknowledged. Waits while the sink is behind and `patient` returns true; returns none
    /// if the question was not taken.
    pub fn barrier(&self, patient: impl Fn() -> bool) -> Result<Option<Barrier>, Failure> {
        let (reply, answer) = channel();
        let of = self.lane.clone();
        Ok(self.send(Message::Sync { reply, of }, &patient)?.then_some(Barrier { answer }))
    }

    /// Returns the lengths of the files as of a barrier, once everything before it is acknowledged; none while it is not.
    pub fn passed(&self, barrier: &Barrier) -> Result<Option<Lengths>, Failure> {
        match barrier.answer.try_recv() {
            Ok(lengths) => Ok(Some(lengths)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.failure()),
        }
    }

    /// Drops what was handed over and is not written yet: whoever opens the lane next writes it again.
    pub fn abandon(&self) {
        let over = Failure::unexpected("rows of a lane that was abandoned are not written");
        self.lane.over.lock().expect("nobody panics while holding it").get_or_insert(over);
    }

    fn send(&self, message: Message, patient: &impl Fn() -> bool) -> Result<bool, Failure> {
        match self.lane.over() {
            Some(failure) => Err(failure),
            None => self.writer.send(message, patient),
        }
    }

    fn failure(&self) -> Failure {
        self.lane.over().unwrap_or_else(|| self.writer.failure())
    }
}

impl Writer {
    fn send(&self, mut message: Message, patient: &impl Fn() -> bool) -> Result<bool, Failure> {
        loop {
            match self.messages.try_send(message) {
                Ok(()) => {
                    self.board.queue(1);
                    return Ok(true);
                }
                Err(TrySendError::Full(_)) if !patient() => return Ok(false),
                Err(TrySendError::Full(unsent)) => message = unsent,
                Err(TrySendError::Disconnected(_)) => return Err(self.failure()),
            }
            backoff::pause(POLL);
        }
    }

    fn failure(&self) -> Failure {
        let failure = self.failure.lock().expect("nobody panics while holding it").clone();
        failure.unwrap_or_else(|| Failure::unexpected("the thread that writes rows panicked: this is a bug"))
    }
}

impl Message {
    fn of(&self) -> &OfLane {
        match self {
            Message::Write { of, .. } | Message::Restore { of, .. } | Message::Sync { of, .. } => of,
        }
    }
}

/// What the writing thread owns.
struct Outputs {
    sink: Box<dyn Sink>,
    letters: Box<dyn DeadLetterWriter>,
    board: Arc<Board>,
}

impl Outputs {
    /// Serves messages until the last handle is gone, or until a failure, which it leaves in `slot`.
    fn serve(&mut self, inbox: &Receiver<Message>, slot: &Mutex<Option<Failure>>) {
        while let Some(message) = machine::receive(inbox) {
            self.board.queue(-1);
            let of = message.of().clone();
            if of.over().is_some() {
                continue;
            }
            // A lane that waits for a reply learns of a failure when the reply is dropped: not before the failure is there.
            let (served, _message) = self.serve_one(message);
            let Err(failure) = served else { continue };
            // The journal of a lane that was abandoned meanwhile may be closed.
            let is_lanes = failure.is_fenced || of.over().is_some();
            let slot = if is_lanes { &*of.over } else { slot };
            *slot.lock().expect("nobody panics while holding it") = Some(failure);
            if !is_lanes {
                return;
            }
        }
    }

    fn serve_one(&mut self, mut message: Message) -> (Result<(), Failure>, Message) {
        // A lane may have stopped waiting for its reply.
        let served = match &mut message {
            Message::Write { rows, letters, by, images, of } => {
                self.write(rows, std::mem::take(letters), images.as_ref(), (by, of))
            }
            Message::Restore { images, reply, of } => self.sink.restore(images, &*of.owner).map(|()| {
                let _ = reply.send(());
            }),
            Message::Sync { reply, .. } => self.sync().map(|lengths| {
                let _ = reply.send(lengths);
            }),
        };
        (served, message)
    }

    fn sync(&mut self) -> Result<Lengths, Failure> {
        self.letters.flush()?;
        Ok(Lengths { sink: self.sink.length()?, letters: self.letters.length()? })
    }

    fn write(
        &mut self,
        rows: &Rows,
        mut letters: Vec<DeadLetter>,
        images: Option<&SharedImages>,
        ((plugin, deployment), OfLane { board: lane, owner, .. }): (&(String, u64), &OfLane),
    ) -> Result<(), Failure> {
        let is_late = machine::plants(Planted::ImageAfterRow);
        if let Some(images) = images.filter(|_| !is_late) {
            let mut notes = machine::lock(images);
            note_images(&mut notes, &mut *self.sink, rows)?; // I10
        }
        if !rows.is_empty() {
            let began = clock::uptime_us();
            let refused = self.sink.write(rows, &**owner)?; // I8
            if let Some(images) = images.filter(|_| is_late) {
                note_images(&mut machine::lock(images), &mut *self.sink, rows)?;
            }
            lane.sink_writes.add(clock::uptime_us().saturating_sub(began));
            lane.sink_rows.add((rows.len() - refused.len()) as u64);
            lane.rejected.add(Stage::Sink, refused.len() as u64);
            refused.iter().for_each(|refusal| lane.losses.add(Stage::Sink.name(), &refusal.reason, 1));
            letters.extend(refused.into_iter().map(|refusal| dead_letter(refusal, plugin)));
        }
        if letters.is_empty() {
            return Ok(());
        }
        letters.iter_mut().for_each(|letter| letter.deployment = Some(*deployment));
        self.letters.write(&letters)?;
        letters.iter().for_each(|letter| lane.letters.add(letter.stage, 1));
        Ok(())
    }
}

fn dead_letter(refusal: Refusal, plugin: &str) -> DeadLetter {
    let origin = refusal.row.origin;
    let mut record = Records::default();
    record.push(RecordRef {
        partition: origin.partition.0,
        offset: origin.offset.0,
        append_time: NO_TIME,
        key: None,
        payload: Some(refusal.json.as_bytes()),
        headers: None,
    });
    let (stage, plugin) = (Stage::Sink, plugin.to_owned());
    DeadLetter { stage, reason: refusal.reason, plugin, deployment: None, event: origin.event, record }
}

/// Notes what the sink stores under the primary keys of `rows` that were not noted yet. Returns once that is durable.
fn note_images(notes: &mut ImageNotes, sink: &mut dyn Sink, rows: &Rows) -> Result<(), Failure> {
    let mut first = Vec::new();
    for (at, &row) in rows.order.iter().enumerate() {
        let (table, key) = primary_key(rows, row);
        if notes.is_first(table, key) {
            first.push(at);
        }
    }
    if first.is_empty() {
        return Ok(());
    }
    let images = sink.images(rows, &first)?;
    Ok(notes.write(&images)?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::backoff::Outage;
    use crate::row::Image;
    use crate::sink::samples;

    /// A sink, or a place for dead letters, that acknowledges nothing until it is let.
    #[derive(Clone, Default)]
    struct Gate {
        open: Arc<AtomicBool>,
        reached: Arc<AtomicBool>,
    }

    impl Gate {
        fn pass(&self) {
            self.reached.store(true, Ordering::SeqCst);
            while !self.open.load(Ordering::SeqCst) {
                backoff::pause(POLL);
            }
        }
    }

    impl Sink for Gate {
        fn write(&mut self, _: &Rows, _: &dyn Owner) -> Result<Vec<Refusal>, Failure> {
            self.pass();
            Ok(Vec::new())
        }

        fn length(&mut self) -> Result<Option<u64>, Failure> {
            Ok(None)
        }

        fn truncate(&mut self, _: u64) -> Result<(), Failure> {
            Ok(())
        }

        fn images(&mut self, _: &Rows, _: &[usize]) -> Result<Vec<Image>, Failure> {
            Ok(Vec::new())
        }

        fn restore(&mut self, _: &[Image], _: &dyn Owner) -> Result<(), Failure> {
            Ok(())
        }

        fn outage(&self) -> Arc<Outage> {
            Arc::default()
        }
    }

    impl DeadLetterWriter for Gate {
        fn write(&mut self, _: &[DeadLetter]) -> Result<(), Failure> {
            Ok(())
        }

        fn flush(&mut self) -> Result<(), Failure> {
            self.pass();
            Ok(())
        }

        fn length(&mut self) -> Result<Option<u64>, Failure> {
            Ok(None)
        }

        fn truncate(&mut self, _: u64) -> Result<(), Failure> {
            Ok(())
        }

        fn outage(&self) -> Arc<Outage> {
            Arc::default()
        }
    }

    /// A sink that refuses the first row of each batch.
    struct Picky(Gate);

    impl Sink for Picky {
        fn write(&mut self, _: &Rows, _: &dyn Owner) -> Result<Vec<Refusal>, Failure> {
            Ok(vec![samples_refusal()])
        }

        fn length(&mut self) -> Result<Option<u64>, Failure> {
            Sink::length(&mut self.0)
        }

        fn truncate(&mut self, length: u64) -> Result<(), Failure> {
            Sink::truncate(&mut self.0, length)
        }

        fn images(&mut self, rows: &Rows, first: &[usize]) -> Result<Vec<Image>, Failure> {
            self.0.images(rows, first)
        }

        fn restore(&mut self, images: &[Image], owner: &dyn Owner) -> Result<(), Failure> {
            self.0.restore(images, owner)
        }

        fn outage(&self) -> Arc<Outage> {
            Arc::default()
        }
    }

    /// Waits until all that was handed over is acknowledged, while `patient` returns true.
    fn sync(lane: &LaneWriter, patient: impl Fn() -> bool) -> Result<Option<Lengths>, Failure> {
        let Some(barrier) = lane.barrier(&patient)? else { return Ok(None) };
        loop {
            match lane.passed(&barrier)? {
                None if !patient() => return Ok(None),
                None => backoff::pause(POLL),
                lengths => return Ok(lengths),
            }
        }
    }

    #[test]
    fn a_row_that_the_sink_refuses_counts_as_rejected_and_as_lost() {
        let board = Arc::new(Board::new("pipeline", &Arc::default()));
        let (writer, _) = Writer::start(Box::new(Picky(open())), Box::new(open()), &board).expect("it starts");
        let lane = board.lane("topic");
        let handle = writer.of_lane(&lane, Arc::new(samples::Host::after(0)));
        let rows = samples::sessions(&[(1, 2, &["A"]), (3, 4, &["B"])]);
        assert!(handle.write((rows, Vec::new()), ("digest", 0), None, || true).expect("the thread lives"));
        sync(&handle, || true).expect("the thread lives");
        assert_eq!(lane.rejected.get(Stage::Sink), 1);
        assert_eq!(lane.losses.news().expect("one is lost").reasons, "sink: refused (1)");
        assert_eq!((lane.sink_rows.get(), lane.letters.get(Stage::Sink)), (1, 1));
    }

    /// Hands a batch over, and checks that a sync is answered after `holds` opens and not before.
    fn check_sync_waits(sink: &Gate, letters: &Gate, holds: &Gate) {
        let board = Arc::new(Board::new("pipeline", &Arc::default()));
        let (writer, thread) =
            Writer::start(Box::new(sink.clone()), Box::new(letters.clone()), &board).expect("it starts");
        let lane = writer.of_lane(&board.lane("topic"), Arc::new(samples::Host::after(0)));
        let letter = dead_letter(samples_refusal(), "digest");
        let batch = (samples::sessions(&[(1, 2, &["A"])]), vec![letter]);
        assert!(lane.write(batch, ("digest", 0), None, || true).expect("the thread lives"));
        // Patience lasts until the write is held up for sure.
        let held = sync(&lane, || !holds.reached.load(Ordering::SeqCst)).expect("the thread lives");
        assert_eq!(held, None, "answered before all was acknowledged");
        holds.open.store(true, Ordering::SeqCst);
        assert_eq!(sync(&lane, || true).expect("the thread lives"), Some(Lengths::default()));
        drop((writer, lane));
        thread.join().expect("the thread ends with its last handle");
    }

    fn samples_refusal() -> Refusal {
        let row = samples::sessions(&[(1, 2, &["A"])]).order[0];
        Refusal { row, json: "{}".to_owned(), reason: "refused".to_owned() }
    }

    fn open() -> Gate {
        Gate { open: Arc::new(AtomicBool::new(true)), ..Gate::default() }
    }

    /// Dead letters that cannot be stored.
    struct Refused;

    impl DeadLetterWriter for Refused {
        fn write(&mut self, _: &[DeadLetter]) -> Result<(), Failure> {
            Ok(())
        }

        fn flush(&mut self) -> Result<(), Failure> {
            Err(Failure::outside("too large"))
        }

        fn length(&mut self) -> Result<Option<u64>, Failure> {
            Ok(None)
        }

        fn truncate(&mut self, _: u64) -> Result<(), Failure> {
            Ok(())
        }

        fn outage(&self) -> Arc<Outage> {
            Arc::default()
        }
    }

    #[test]
    fn a_lane_that_waits_learns_the_failure_itself() {
        // The order in which the thread tells and drops decides, so it is tried often.
        for _ in 0..200 {
            let board = Arc::new(Board::new("pipeline", &Arc::default()));
            let (writer, thread) = Writer::start(Box::new(open()), Box::new(Refused), &board).expect("it starts");
            let lane = writer.of_lane(&board.lane("topic"), Arc::new(samples::Host::after(0)));
            let failure = sync(&lane, || true).expect_err("it cannot be stored");
            assert_eq!(failure.message, "too large");
            thread.join().expect("the thread ends with its failure");
        }
    }

    #[test]
    fn i2_a_sync_is_answered_once_the_rows_before_it_are_acknowledged() {
        let sink = Gate::default();
        check_sync_waits(&sink, &open(), &sink);
    }

    #[test]
    fn i3_a_sync_is_answered_once_the_dead_letters_before_it_are_acknowledged() {
        let letters = Gate::default();
        check_sync_waits(&open(), &letters, &letters);
    }
}
