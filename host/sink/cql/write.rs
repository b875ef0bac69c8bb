//! Sending requests to a CQL database, and what a failed one means: retry, refuse the row, prepare again, or halt.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};

use futures::StreamExt;
use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};
use scylla::statement::prepared::PreparedStatement;

use crate::failure::Failure;
use crate::row::Rows;
use crate::sink::Owner;
use crate::sink::cql::Cql;
use crate::sink::cql::values::key_bytes;

/// What came of requests, by their number.
#[derive(Debug)]
pub(super) struct Delivered<T> {
    /// The answers.
    pub(super) answers: HashMap<usize, T>,
    /// Why the database refuses the others.
    pub(super) refused: BTreeMap<usize, String>,
}

impl Cql {
    /// Sends the requests numbered in `waiting` until each is answered or refused, and waits outages out. `request` uses what was
    /// `prepared`; when the tables may have changed, `prepare` prepares it again. Each attempt of a write has a write timestamp of its own from
    /// `owner`; a read needs none.
    pub(super) fn deliver<P, T>(
        &mut self,
        owner: Option<&dyn Owner>,
        mut waiting: Vec<usize>,
        mut prepared: P,
        prepare: impl Fn(&mut Cql) -> Result<P, Failure>,
        request: impl AsyncFn(&Session, &P, (usize, i64)) -> Result<T, ExecutionError>,
    ) -> Result<Delivered<T>, Failure> {
        let mut delivered = Delivered { answers: HashMap::with_capacity(waiting.len()), refused: BTreeMap::new() };
        let mut suspects = HashSet::new();
        while !waiting.is_empty() {
            self.renew();
            let first = owner.map_or(Ok(0), |owner| self.timestamps(owner, waiting.len()))?; // I8
            let attempts: Vec<(usize, i64)> = waiting.iter().copied().zip(first..).collect();
            let send_one = async |attempt| request(&self.session, &prepared, attempt).await;
            let round = self.runtime.block_on(send(&attempts, self.config.in_flight, send_one));
            if let Some(reason) = round.halts {
                return Err(Failure::outside(format!("sink.cql: the database refused a request: {reason}")));
            }
            if round.stale || !round.refused.is_empty() {
                // A node answers "Invalid" to a value that it will not take, but also to a column that was dropped or that it does not
                // know yet. So a row is refused by its second answer, given after the tables were found to fit and all nodes agree.
                prepared = prepare(self)?;
            }
            delivered.answers.extend(round.answers);
            delivered.refused.extend(round.refused.into_iter().filter(|(at, _)| !suspects.insert(*at)));
            waiting.retain(|at| !delivered.answers.contains_key(at) && !delivered.refused.contains_key(at));
            match round.outage {
                Some(outage) => self.backoff.pause(&outage),
                None => self.backoff.over(),
            }
        }
        Ok(delivered)
    }

    /// Returns the first of `count` write timestamps, greater than all before it.
    fn timestamps(&mut self, owner: &dyn Owner, count: usize) -> Result<i64, Failure> {
        let first = owner.timestamps(self.last, count)?;
        self.last = first + i64::try_from(count).unwrap_or(i64::MAX) - 1;
        Ok(first)
    }
}

/// Returns the statement with a write timestamp, in microseconds since 1970 UTC.
pub(super) fn stamped(statement: &PreparedStatement, timestamp: i64) -> PreparedStatement {
    let mut statement = statement.clone();
    statement.set_timestamp(Some(timestamp));
    statement
}

/// What came of sending requests once.
#[derive(Debug)]
struct Round<T> {
    answers: Vec<(usize, T)>,
    refused: Vec<(usize, String)>,
    /// The statements must be prepared again.
    stale: bool,
    outage: Option<String>,
    halts: Option<String>,
}

/// Sends the requests with these numbers and write timestamps, `in_flight` at a time. After the first failure it sends nothing new, and
/// awaits what is in flight.
async fn send<T>(
    attempts: &[(usize, i64)],
    in_flight: usize,
    request: impl AsyncFn((usize, i64)) -> Result<T, ExecutionError>,
) -> Round<T> {
    let failed = Cell::new(false);
    let (failed, request) = (&failed, &request);
    let unsent = attempts.iter().take_while(|_| !failed.get());
    let requests = futures::stream::iter(unsent.map(|&attempt| async move { (attempt.0, request(attempt).await) }));
    let mut answers = requests.buffer_unordered(in_flight.max(1));
    let mut round = Round { answers: Vec::new(), refused: Vec::new(), stale: false, outage: None, halts: None };
    while let Some((at, answer)) = answers.next().await {
        let error = match answer {
            Ok(answer) => {
                round.answers.push((at, answer));
                continue;
            }
            Err(error) => error,
        };
        match verdict(&error) {
            Verdict::Retry => round.outage = Some(error.to_string()),
            Verdict::RefuseRow => {
                round.refused.push((at, error.to_string()));
                continue;
            }
            Verdict::PrepareAgain => {
                round.stale = true;
                round.outage = Some(error.to_string());
            }
            Verdict::Halt => round.halts = Some(error.to_string()),
        }
        failed.set(true);
    }
    round
}

/// What a failed request means for the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The database is down, overloaded or too slow: send the request again, without end.
    Retry,
    /// This row is refused, if the table has not changed.
    RefuseRow,
    /// The database no longer knows the statement as it was prepared.
    PrepareAgain,
    /// Nothing will succeed until a person acts.
    Halt,
}

fn verdict(error: &ExecutionError) -> Verdict {
    match error {
        ExecutionError::BadQuery(_) => Verdict::RefuseRow,
        ExecutionError::LastAttemptError(attempt) => verdict_on_attempt(attempt),
        // The other kinds concern the connection, a timeout, or statements that this sink does not send.
        _ => Verdict::Retry,
    }
}

fn verdict_on_attempt(error: &RequestAttemptError) -> Verdict {
    match error {
        RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => {
            Verdict::RefuseRow
        }
        RequestAttemptError::RepreparedIdChanged { .. } | RequestAttemptError::RepreparedIdMissingInBatch => {
            Verdict::PrepareAgain
        }
        RequestAttemptError::DbError(error, _) => verdict_on_answer(error),
        // A broken connection, or an answer that the driver cannot read.
        _ => Verdict::Retry,
    }
}

fn verdict_on_answer(error: &DbError) -> Verdict {
    match error {
        DbError::Invalid | DbError::FunctionFailure { .. } => Verdict::RefuseRow,
        DbError::SyntaxError
        | DbError::AuthenticationError
        | DbError::Unauthorized
        | DbError::ConfigError
        | DbError::AlreadyExists { .. }
        | DbError::ProtocolError => Verdict::Halt,
        // Unavailable, overloaded, bootstrapping, timeouts, failures of replicas, rate limits, and codes of a newer server.
        _ => Verdict::Retry,
    }
}

/// Whether a statement was refused because the user lacks a right.
pub(super) fn is_for_lack_of_a_right(error: &ExecutionError) -> bool {
    matches!(error, ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Unauthorized, _)))
}

/// Whether a statement was refused for good. A statement with a column whose type the driver does not know counts as refused.
pub(super) fn is_refusal(error: &PrepareError) -> bool {
    match error {
        PrepareError::AllAttemptsFailed { first_attempt: RequestAttemptError::CqlResultParseError(_) } => true,
        PrepareError::AllAttemptsFailed { first_attempt } => verdict_on_attempt(first_attempt) != Verdict::Retry,
        _ => false,
    }
}

/// Returns the position of the last row of each primary key in the order of the batch.
pub(super) fn last_of_each_key(rows: &Rows) -> Vec<usize> {
    let mut seen = HashSet::with_capacity(rows.len());
    let mut last: Vec<usize> =
        (0..rows.len()).rev().filter(|&at| seen.insert(key_bytes(rows, rows.order[at]))).collect();
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::cql::session::REQUEST_TIMEOUT;
    use crate::sink::samples;

    #[test]
    fn only_the_last_row_of_each_primary_key_is_sent() {
        let rows = samples::sessions(&[(1, 1, &["A"]), (1, 2, &["B"]), (1, 1, &["C"]), (2, 1, &["D"]), (1, 1, &["E"])]);
        assert_eq!(last_of_each_key(&rows), [1, 3, 4]);
    }

    #[test]
    fn outages_are_retried_refused_rows_returned_and_schema_errors_halt() {
        let answer = |error: DbError| {
            verdict(&ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, String::new())))
        };
        assert_eq!(answer(DbError::Overloaded), Verdict::Retry);
        assert_eq!(answer(DbError::IsBootstrapping), Verdict::Retry);
        assert_eq!(answer(DbError::ServerError), Verdict::Retry);
        assert_eq!(answer(DbError::Invalid), Verdict::RefuseRow);
        assert_eq!(answer(DbError::SyntaxError), Verdict::Halt);
        assert_eq!(answer(DbError::Unauthorized), Verdict::Halt);
        assert_eq!(verdict(&ExecutionError::RequestTimeout(REQUEST_TIMEOUT)), Verdict::Retry);
        assert_eq!(verdict(&ExecutionError::EmptyPlan), Verdict::Retry);
    }
}
