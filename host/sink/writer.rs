//! The thread behind which sink and dead letters are: takes batches over a bounded channel, so that a slow or absent sink stops the
//! lanes and they the consumer. Keeps I2 and I3 by answering a [`Writer::sync`] only when all before it is acknowledged.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::dead_letter::{DeadLetter, DeadLetterWriter};
use crate::failure::{Exit, Failure};
use crate::observe::board::{Board, LaneBoard};
use crate::record::{NO_TIME, RecordRef, Records};
use crate::row::Rows;
use crate::sink::{Refusal, Sink, key_of};
use crate::state::journal::ImageNotes;
use crate::strike::Stage;

/// Batches of rows that may wait for the sink: one being written, one ready.
const WAITING: usize = 2;
/// How often a waiting lane looks whether it should go on waiting.
const LOOK: Duration = Duration::from_millis(1);

/// How long the files are that sink and dead letters write, all of it on disk; none for what is no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// The sink's file.
    pub sink: Option<u64>,
    /// The dead-letter file.
    pub letters: Option<u64>,
}

enum Order {
    /// `plugin`: the digest that dead letters of refused rows name.
    Write {
        rows: Rows,
        letters: Vec<DeadLetter>,
        plugin: String,
        images: Option<SharedImages>,
        lane: Arc<LaneBoard>,
    },
    Sync {
        reply: Sender<Lengths>,
    },
}

/// A lane's notes of what rows of a deployment on probation replace.
pub type SharedImages = Arc<Mutex<ImageNotes>>;

/// A lane's handle on the writing thread, which ends with the last handle.
pub struct Writer {
    orders: SyncSender<Order>,
    failure: Arc<Mutex<Option<Failure>>>,
    board: Arc<Board>,
    lane: Arc<LaneBoard>,
}

impl Writer {
    /// Starts the thread; gives it as well, for who must know that nothing is written any more. The handle is nobody's: lanes have theirs by
    /// [`Writer::of`].
    pub fn start(
        sink: Box<dyn Sink>,
        letters: Box<dyn DeadLetterWriter>,
        board: &Arc<Board>,
    ) -> Result<(Writer, JoinHandle<()>), Failure> {
        let (orders, inbox) = sync_channel(WAITING);
        let failure = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&failure);
        board.writes_to(sink.outage(), letters.outage());
        let mut desk = Desk { sink, letters, board: Arc::clone(board) };
        let body = move || {
            if let Err(failure) = desk.serve(&inbox) {
                *slot.lock().expect("nobody panics while holding it") = Some(failure);
            }
        };
        let thread = std::thread::Builder::new().name("writer".into()).spawn(body);
        let thread = thread.map_err(|e| Failure::new(Exit::Unexpected, format!("no thread for the sink: {e}")))?;
        Ok((Writer { orders, failure, board: Arc::clone(board), lane: Arc::default() }, thread))
    }

    /// The handle of the lane with this board.
    pub fn of(&self, lane: &Arc<LaneBoard>) -> Writer {
        let (orders, failure, board) = (self.orders.clone(), Arc::clone(&self.failure), Arc::clone(&self.board));
        Writer { orders, failure, board, lane: Arc::clone(lane) }
    }

    /// Hands a batch over that the plugin of this digest gave, waiting while the sink is behind and `patient`; false if it was not taken.
    /// With `images` it is noted what the rows replace.
    pub fn write(
        &self,
        (rows, letters): (Rows, Vec<DeadLetter>),
        plugin: &str,
        images: Option<&SharedImages>,
        patient: impl Fn() -> bool,
    ) -> Result<bool, Failure> {
        let lane = Arc::clone(&self.lane);
        let order = Order::Write { rows, letters, plugin: plugin.to_owned(), images: images.cloned(), lane };
        self.order(order, &patient)
    }

    /// Back when all that was handed over is acknowledged; none if `patient` ends before.
    pub fn sync(&self, patient: impl Fn() -> bool) -> Result<Option<Lengths>, Failure> {
        let (reply, answer) = channel();
        if !self.order(Order::Sync { reply }, &patient)? {
            return Ok(None);
        }
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(lengths) => return Ok(Some(lengths)),
                Err(RecvTimeoutError::Timeout) if patient() => {}
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(self.failure()),
            }
        }
    }

    fn order(&self, mut order: Order, patient: &impl Fn() -> bool) -> Result<bool, Failure> {
        loop {
            match self.orders.try_send(order) {
                Ok(()) => {
                    self.board.queue(1);
                    return Ok(true);
                }
                Err(TrySendError::Full(_)) if !patient() => return Ok(false),
                Err(TrySendError::Full(back)) => order = back,
                Err(TrySendError::Disconnected(_)) => return Err(self.failure()),
            }
            std::thread::sleep(LOOK);
        }
    }

    fn failure(&self) -> Failure {
        let failure = self.failure.lock().expect("nobody panics while holding it").clone();
        failure.unwrap_or_else(|| Failure::new(Exit::Unexpected, "the writing thread ended by a panic: this is a bug"))
    }
}

/// What the thread owns.
struct Desk {
    sink: Box<dyn Sink>,
    letters: Box<dyn DeadLetterWriter>,
    board: Arc<Board>,
}

impl Desk {
    fn serve(&mut self, inbox: &Receiver<Order>) -> Result<(), Failure> {
        for order in inbox {
            self.board.queue(-1);
            match order {
                Order::Write { rows, letters, plugin, images, lane } => {
                    if let Some(images) = images {
                        let mut notes = images.lock().expect("nobody panics while holding it");
                        note(&mut notes, &mut *self.sink, &rows)?; // I10
                    }
                    self.write(&rows, letters, (&plugin, &lane))?;
                }
                Order::Sync { reply } => {
                    self.letters.flush()?;
                    let lengths = Lengths { sink: self.sink.length()?, letters: self.letters.length()? };
                    let _ = reply.send(lengths); // the lane may have lost patience
                }
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        rows: &Rows,
        mut letters: Vec<DeadLetter>,
        (plugin, lane): (&str, &LaneBoard),
    ) -> Result<(), Failure> {
        if !rows.is_empty() {
            let began = clock::uptime_us();
            let refused = self.sink.write(rows)?;
            lane.sink_writes.add(clock::uptime_us().saturating_sub(began));
            lane.sink_rows.add((rows.len() - refused.len()) as u64);
            letters.extend(refused.into_iter().map(|refusal| letter(refusal, plugin)));
        }
        if letters.is_empty() {
            return Ok(());
        }
        self.letters.write(&letters)?;
        letters.iter().for_each(|letter| lane.letters.add(letter.stage, 1));
        Ok(())
    }
}

fn letter(refusal: Refusal, plugin: &str) -> DeadLetter {
    let origin = refusal.row.origin;
    let mut record = Records::default();
    record.push(RecordRef {
        partition: origin.partition,
        offset: origin.offset,
        append_time: NO_TIME,
        key: None,
        payload: Some(refusal.json.as_bytes()),
        headers: None,
    });
    DeadLetter { stage: Stage::Sink, reason: refusal.reason, plugin: plugin.to_owned(), event: origin.event, record }
}

/// Notes what the sink holds under the primary keys of `rows` that were not noted yet; back when that is durable.
fn note(notes: &mut ImageNotes, sink: &mut dyn Sink, rows: &Rows) -> Result<(), Failure> {
    let mut first = Vec::new();
    for (at, &row) in rows.order.iter().enumerate() {
        let (table, key) = key_of(rows, row);
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
