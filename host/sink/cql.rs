//! Rows in ScyllaDB, Cassandra or any other CQL database: one prepared upsert per table, sent to the shard that owns the row, a bounded
//! number at a time. Everything that passes by itself is retried here for ever, while what stands behind the sink waits; what concerns
//! the tables halts; a row that the database refuses goes back to the lane.
//!
//! Write timestamps. An upsert of a list that is not frozen doubles its elements if it is applied twice with *equal* timestamps
//! (scylladb/scylladb#3559, #7937, CASSANDRA-11368). So each attempt has a new, greater one: the driver asks its timestamp generator in
//! `Connection::execute_raw_with_consistency`, that is once for each EXECUTE that it sends, and its own `MonotonicTimestampGenerator`
//! rises strictly within a session. (It sends one twice only after `Unprepared`, when the first was not applied.) For the same reason
//! the driver neither retries nor speculates, and nothing here calls `set_timestamp`.

mod images;
pub(super) mod replication;
pub(super) mod schema;
mod survey;

use std::cell::Cell as Flag;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::{X509, store::X509StoreBuilder};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError, MetadataError,
    NewSessionError, PrepareError, RequestAttemptError,
};
use scylla::frame::types::Consistency;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::policies::timestamp_generator::MonotonicTimestampGenerator;
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::{CellOverflowError, CellWriter, RowWriter};
use scylla::statement::Statement;
use scylla::statement::prepared::PreparedStatement;
use tokio::runtime::Handle;

use crate::backoff::Backoff;
use crate::backoff::Outage;
use crate::clock;
use crate::config::{CqlSink, CqlTls};
use crate::failure::{Check, Failure};
use crate::row::Image;
use crate::row::{Cell, RowRef, Rows, Table};
use crate::sink::cql::images::RowStatements;
use crate::sink::cql::schema::{RealColumn, create_table, fit, insert};
use crate::sink::cql::survey::survey;
use crate::sink::ndjson::{bad_json, refusal};
use crate::sink::{ByTables, Error, Refusal, Sink, now_is_free, refuse};
use crate::symptom::Symptom;

/// An answer that takes longer than this is none. Above the databases' own time-outs (2 s for a write), so that theirs, which say more, come first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);

/// Upserts rows over CQL.
#[derive(Debug)]
pub(super) struct Scylla {
    config: CqlSink,
    runtime: Handle,
    session: Session,
    /// One upsert per table.
    upserts: ByTables<PreparedStatement>,
    /// What images are read and put back with, by the name of the table.
    single_rows: HashMap<String, RowStatements>,
    backoff: Backoff,
}

impl Scylla {
    /// Connects, compares the tables, prepares the upserts.
    pub(super) fn open(
        config: &CqlSink,
        tables: &Arc<[Table]>,
        runtime: &Handle,
        deadline: Option<Instant>,
    ) -> Result<Scylla, Error> {
        now_is_free("sink.cql", &config.now, tables)?;
        let mut backoff = Backoff::new(subject(config));
        let session = connect(config, runtime, deadline, &mut backoff)?;
        let upserts = loop {
            match runtime.block_on(inspect(&session, config, tables)) {
                Ok(inspection) => {
                    refuse(&inspection.checks)?;
                    break inspection.upserts;
                }
                Err(outage) if backoff.pause_until(deadline, &outage) => {}
                Err(outage) => return Err(unreachable(config, &outage)),
            }
        };
        backoff.over();
        Ok(Scylla {
            config: config.clone(),
            runtime: runtime.clone(),
            session,
            upserts: ByTables::new(tables, upserts),
            single_rows: HashMap::new(),
            backoff,
        })
    }

    /// The upserts of these tables, which are compared when they are met first.
    pub(super) fn upserts(&mut self, tables: &Arc<[Table]>) -> Result<Arc<[PreparedStatement]>, Error> {
        self.upserts.get(tables).map_or_else(|| self.inspect_again(tables), Ok)
    }

    /// Compares and prepares once more: a refusal now means that somebody changed the tables.
    pub(super) fn inspect_again(&mut self, tables: &Arc<[Table]>) -> Result<Arc<[PreparedStatement]>, Error> {
        now_is_free("sink.cql", &self.config.now, tables)?;
        self.single_rows.clear(); // they may be of a time before a column came that these tables declare
        let inspection = self.look(async |session, config| inspect(session, config, tables).await);
        refuse(&inspection.checks)?;
        Ok(self.upserts.put(tables, inspection.upserts))
    }

    /// Looks at the tables as soon as all nodes know the same ones. An error of `look` is an outage.
    pub(super) fn look<T>(&mut self, look: impl AsyncFn(&Session, &CqlSink) -> Result<T, String>) -> T {
        loop {
            let looked = self.runtime.block_on(async {
                self.session.await_schema_agreement().await.map_err(|e| e.to_string())?;
                look(&self.session, &self.config).await
            });
            match looked {
                Ok(found) => return found,
                Err(outage) => self.backoff.pause(&outage),
            }
        }
    }

    /// Sends the requests at `waiting` until each is answered or refused, waiting outages out. They are made of what was `prepared`, and
    /// `prepare` does that anew when the tables may have changed.
    pub(super) fn deliver<P, T>(
        &mut self,
        mut waiting: Vec<usize>,
        mut prepared: P,
        prepare: impl Fn(&mut Scylla) -> Result<P, Error>,
        request: impl AsyncFn(&Session, &P, usize) -> Result<T, ExecutionError>,
    ) -> Result<Delivered<T>, Error> {
        let mut delivered = Delivered { answers: HashMap::with_capacity(waiting.len()), refused: BTreeMap::new() };
        let mut suspects = HashSet::new();
        while !waiting.is_empty() {
            let ask = async |at| request(&self.session, &prepared, at).await;
            let round = self.runtime.block_on(send(&waiting, self.config.in_flight, ask));
            if let Some(reason) = round.halts {
                return Err(Error::Outside(format!("sink.cql: {reason}")));
            }
            if round.changed || !round.refused.is_empty() {
                // "Invalid" is what a node says of a value that it will not take, and of a column that is gone or that it does not
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
}

/// The lines of `keyfold check`.
pub(super) fn check(config: &CqlSink, tables: &Arc<[Table]>, runtime: &Handle) -> Vec<Check> {
    match inspected(config, tables, runtime) {
        Ok((_, checks)) => checks,
        Err(refused) => vec![refused],
    }
}

/// The same, and what makes of rows that are written rows that stay.
pub(super) fn examine(config: &CqlSink, tables: &Arc<[Table]>, runtime: &Handle) -> Vec<Check> {
    let (session, mut checks) = match inspected(config, tables, runtime) {
        Ok(inspected) => inspected,
        Err(refused) => return vec![refused],
    };
    match runtime.block_on(survey(&session, config, tables)) {
        Ok(found) => checks.extend(found),
        Err(outage) => checks.push(refused_by_all(config, unreachable(config, &outage))),
    }
    checks
}

fn inspected(config: &CqlSink, tables: &Arc<[Table]>, runtime: &Handle) -> Result<(Session, Vec<Check>), Check> {
    let refused = |e: Error| refused_by_all(config, e);
    now_is_free("sink.cql", &config.now, tables).map_err(refused)?;
    let session = connect(config, runtime, None, &mut Backoff::new(subject(config))).map_err(refused)?;
    let inspection = runtime.block_on(inspect(&session, config, tables));
    let inspection = inspection.map_err(|outage| refused(unreachable(config, &outage)))?;
    Ok((session, inspection.checks))
}

fn refused_by_all(config: &CqlSink, error: Error) -> Check {
    let symptom = if matches!(error, Error::Config(_)) { Symptom::ConfigWrong } else { Symptom::CqlUnreachable };
    Check::refused(subject(config), Failure::from(error)).of(symptom)
}

impl Sink for Scylla {
    /// Sends the last row of each primary key. All of them are acknowledged when this returns, so of one key one is in flight at a time.
    fn write(&mut self, rows: &Rows) -> Result<Vec<Refusal>, Error> {
        let upserts = self.upserts(&rows.tables)?;
        let mut waiting = last_of_each_key(rows);
        let bad = |&at: &usize| bad_json(rows, rows.order[at]).map(|reason| (at, reason));
        let mut refused: BTreeMap<usize, String> = waiting.iter().filter_map(bad).collect();
        waiting.retain(|at| !refused.contains_key(at));
        let now = self.config.now.len();
        let upsert = async |session: &Session, upserts: &Arc<[PreparedStatement]>, at: usize| {
            let row = rows.order[at];
            let values = RowValues { rows, row, now };
            session.execute_unpaged(&upserts[rows.table(row).0], values).await.map(drop)
        };
        let delivered = self.deliver(waiting, upserts, |sink| sink.inspect_again(&rows.tables), upsert)?;
        refused.extend(delivered.refused);
        Ok(refused.into_iter().map(|(at, reason)| refusal(rows, rows.order[at], reason)).collect())
    }

    /// None: rows that are written again replace themselves.
    fn length(&mut self) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn truncate(&mut self, _length: u64) -> Result<(), Error> {
        Ok(())
    }

    fn images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Error> {
        self.read_images(rows, at)
    }

    fn restore(&mut self, images: &[Image]) -> Result<(), Error> {
        self.put_back(images)
    }

    fn outage(&self) -> Arc<Outage> {
        self.backoff.outage()
    }
}

/// What came of requests, by their number.
#[derive(Debug)]
pub(super) struct Delivered<T> {
    /// The answers.
    pub(super) answers: HashMap<usize, T>,
    /// Why the database refuses the others.
    pub(super) refused: BTreeMap<usize, String>,
}

/// What came of sending requests once.
#[derive(Debug)]
struct Round<T> {
    answers: Vec<(usize, T)>,
    refused: Vec<(usize, String)>,
    /// The statements must be prepared anew.
    changed: bool,
    outage: Option<String>,
    halts: Option<String>,
}

/// Sends the requests at `waiting`, `in_flight` at a time. After the first failure nothing new is sent, what is in flight is awaited.
async fn send<T>(
    waiting: &[usize],
    in_flight: usize,
    request: impl AsyncFn(usize) -> Result<T, ExecutionError>,
) -> Round<T> {
    let failed = Flag::new(false);
    let (failed, request) = (&failed, &request);
    let unsent = waiting.iter().take_while(|_| !failed.get());
    let requests = futures::stream::iter(unsent.map(|&at| async move { (at, request(at).await) }));
    let mut answers = requests.buffer_unordered(in_flight.max(1));
    let mut round = Round { answers: Vec::new(), refused: Vec::new(), changed: false, outage: None, halts: None };
    while let Some((at, answer)) = answers.next().await {
        let error = match answer {
            Ok(answer) => {
                round.answers.push((at, answer));
                continue;
            }
            Err(error) => error,
        };
        match meaning(&error) {
            Meaning::Passes => round.outage = Some(error.to_string()),
            Meaning::Row => {
                round.refused.push((at, error.to_string()));
                continue;
            }
            Meaning::Changed => {
                round.changed = true;
                round.outage = Some(error.to_string());
            }
            Meaning::Halts => round.halts = Some(error.to_string()),
        }
        failed.set(true);
    }
    round
}

/// What a failed write means for the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Away, overloaded, too slow: send it again, for ever.
    Passes,
    /// This row is refused, if the table still is what it was.
    Row,
    /// The statement is another one than was prepared.
    Changed,
    /// Nothing will pass until a person acts.
    Halts,
}

fn meaning(error: &ExecutionError) -> Meaning {
    match error {
        ExecutionError::BadQuery(_) => Meaning::Row,
        ExecutionError::LastAttemptError(attempt) => meaning_of_attempt(attempt),
        // The other kinds are of the connection, of a time-out, or of statements that this sink does not send.
        _ => Meaning::Passes,
    }
}

fn meaning_of_attempt(error: &RequestAttemptError) -> Meaning {
    match error {
        RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => Meaning::Row,
        RequestAttemptError::RepreparedIdChanged { .. } | RequestAttemptError::RepreparedIdMissingInBatch => {
            Meaning::Changed
        }
        RequestAttemptError::DbError(error, _) => meaning_of_answer(error),
        // A broken connection, or an answer that the driver cannot read.
        _ => Meaning::Passes,
    }
}

fn meaning_of_answer(error: &DbError) -> Meaning {
    match error {
        DbError::Invalid | DbError::FunctionFailure { .. } => Meaning::Row,
        DbError::SyntaxError
        | DbError::AuthenticationError
        | DbError::Unauthorized
        | DbError::ConfigError
        | DbError::AlreadyExists { .. }
        | DbError::ProtocolError => Meaning::Halts,
        // Unavailable, overloaded, bootstrapping, time-outs, failures of replicas, rate limits, and codes of a newer server.
        _ => Meaning::Passes,
    }
}

/// Where the last row of each primary key stands in the order of the batch.
fn last_of_each_key(rows: &Rows) -> Vec<usize> {
    let mut seen = HashSet::with_capacity(rows.len());
    let mut last: Vec<usize> =
        (0..rows.len()).rev().filter(|&at| seen.insert(key_bytes(rows, rows.order[at]))).collect();
    last.reverse();
    last
}

/// Table and primary key as bytes that differ if the keys do.
fn key_bytes(rows: &Rows, row: RowRef) -> Vec<u8> {
    let (index, table) = rows.table(row);
    let mut key = index.to_be_bytes().to_vec();
    for (column, cell) in table.columns.iter().zip(rows.cells(row)) {
        if column.primary_key {
            put_cell(cell, CellWriter::new(&mut key)).expect("a batch is cut below 2 GiB");
        }
    }
    key
}

/// One row as the values of its upsert. The types were compared when the sink was opened.
struct RowValues<'a> {
    rows: &'a Rows,
    row: RowRef,
    /// How many columns take the time of writing.
    now: usize,
}

impl SerializeRow for RowValues<'_> {
    fn serialize(&self, _: &RowSerializationContext<'_>, writer: &mut RowWriter<'_>) -> Result<(), SerializationError> {
        let now = std::iter::repeat_with(|| Cell::Timestamp(clock::now_ms())).take(self.now);
        for cell in self.rows.cells(self.row).chain(now) {
            put_cell(cell, writer.make_cell_writer()).map_err(SerializationError::new)?;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }
}

pub(super) fn put_cell(cell: Cell<'_>, writer: CellWriter<'_>) -> Result<(), CellOverflowError> {
    let written = match cell {
        Cell::Null => Ok(writer.set_null()),
        Cell::Boolean(value) => writer.set_value(&[u8::from(value)]),
        Cell::Integer(value) | Cell::Timestamp(value) => writer.set_value(&value.to_be_bytes()),
        Cell::Float(value) => writer.set_value(&value.to_be_bytes()),
        Cell::Text(value) | Cell::Json(value) => writer.set_value(value.as_bytes()),
        Cell::Blob(value) => writer.set_value(value),
        Cell::TextList(list) => return put_list(list.iter(), str::as_bytes, writer),
        Cell::IntegerList(list) => return put_list(list.iter(), |i: &i64| i.to_be_bytes(), writer),
    };
    written.map(drop)
}

fn put_list<'a, T: ?Sized + 'a, B: AsRef<[u8]>>(
    items: impl ExactSizeIterator<Item = &'a T>,
    bytes: impl Fn(&'a T) -> B,
    writer: CellWriter<'_>,
) -> Result<(), CellOverflowError> {
    let mut list = writer.into_value_builder();
    let count = i32::try_from(items.len()).map_err(|_| CellOverflowError)?;
    list.append_bytes(&count.to_be_bytes());
    for item in items {
        list.make_sub_writer().set_value(bytes(item).as_ref())?;
    }
    list.finish().map(drop)
}

/// What the tables are like, and the upserts if all fit.
struct Inspection {
    checks: Vec<Check>,
    upserts: Vec<PreparedStatement>,
}

/// Looks at keyspace and tables. An error is an outage; what is missing or does not fit is among the checks.
async fn inspect(session: &Session, config: &CqlSink, tables: &[Table]) -> Result<Inspection, String> {
    let mut found = Inspection { checks: vec![cluster(session, config).await?], upserts: Vec::new() };
    let keyspace = &config.keyspace;
    let keyspaces: Vec<(String,)> =
        ask(session, "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?", &[keyspace]).await?;
    let subject = format!("keyspace {keyspace}");
    if keyspaces.is_empty() {
        let message = format!(
            "keyspace {keyspace} does not exist on {}; make it and its tables: {}",
            config.nodes.join(", "),
            tables.iter().map(|t| create_table(keyspace, t, &config.now)).collect::<Vec<_>>().join("; ")
        );
        let refused = Check::refused(subject, Failure::from(Error::Outside(message)));
        found.checks.push(refused.of(Symptom::KeyspaceMissing));
        return Ok(found);
    }
    found.checks.push(Check::fine(subject, "exists"));
    for table in tables {
        let subject = format!("table {keyspace}.{}", table.name);
        match inspect_table(session, config, table).await? {
            Ok((detail, upsert)) => {
                found.checks.push(Check::fine(subject, detail));
                found.upserts.push(upsert);
            }
            Err((symptom, refusal)) => found.checks.push(Check::refused(subject, Failure::from(refusal)).of(symptom)),
        }
    }
    Ok(found)
}

async fn inspect_table(
    session: &Session,
    config: &CqlSink,
    table: &Table,
) -> Result<Result<(String, PreparedStatement), (Symptom, Error)>, String> {
    let keyspace = &config.keyspace;
    let misfit = |refusal| Ok(Err((Symptom::TableMisfit, refusal)));
    let Some(real) = real_columns(session, keyspace, &table.name).await? else {
        let message = format!(
            "table {keyspace}.{} does not exist; one that fits: {}",
            table.name,
            create_table(keyspace, table, &config.now)
        );
        return Ok(Err((Symptom::TableMissing, Error::Outside(message))));
    };
    let detail = match fit(keyspace, table, &config.now, &real) {
        Ok(detail) => detail,
        Err(refusal) => return misfit(refusal),
    };
    match session.prepare(insert(keyspace, table, &config.now, &real)).await {
        Ok(mut upsert) => {
            upsert.set_is_idempotent(true);
            Ok(Ok((detail, upsert)))
        }
        Err(e) if is_refusal(&e) => misfit(Error::Outside(format!("table {keyspace}.{}: {e}", table.name))),
        Err(e) => Err(e.to_string()),
    }
}

/// The columns of a table, the partition key first and in its order; none if there is no such table.
async fn real_columns(session: &Session, keyspace: &String, table: &String) -> Result<Option<Vec<RealColumn>>, String> {
    let select = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    let tables: Vec<(String,)> = ask(session, select, &[keyspace, table]).await?;
    if tables.is_empty() {
        return Ok(None);
    }
    let select = "SELECT column_name, kind, type, position FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
    let mut columns: Vec<(String, String, String, i32)> = ask(session, select, &[keyspace, table]).await?;
    columns.sort_by_key(|(_, kind, _, position)| (kind != "partition_key", *position));
    let real = |(name, kind, cql_type, _)| RealColumn { name, kind, cql_type };
    Ok(Some(columns.into_iter().map(real).collect()))
}

/// Whether a statement was refused for good, as is one of whose columns the driver does not know the type.
pub(super) fn is_refusal(error: &PrepareError) -> bool {
    match error {
        PrepareError::AllAttemptsFailed { first_attempt: RequestAttemptError::CqlResultParseError(_) } => true,
        PrepareError::AllAttemptsFailed { first_attempt } => meaning_of_attempt(first_attempt) != Meaning::Passes,
        _ => false,
    }
}

async fn cluster(session: &Session, config: &CqlSink) -> Result<Check, String> {
    let select = "SELECT cluster_name, release_version FROM system.local";
    let local: Vec<(String, String)> = ask(session, select, &[]).await?;
    let nodes = session.get_cluster_state().get_nodes_info().len();
    let (name, version) = local.into_iter().next().unwrap_or_default();
    Ok(Check::fine(
        subject(config),
        format!("cluster {name}, version {version}, {nodes} node(s), consistency {}", config.consistency),
    ))
}

/// Rows of a system table, from one node: those are not replicated, so the consistency of the writes means nothing there.
pub(super) async fn ask<R>(session: &Session, select: &str, values: &[&String]) -> Result<Vec<R>, String>
where
    R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
{
    let mut statement = Statement::new(select);
    statement.set_consistency(Consistency::LocalOne);
    let answer = session.query_unpaged(statement, values).await.map_err(|e| e.to_string())?;
    let rows = answer.into_rows_result().map_err(|e| e.to_string())?;
    let rows = rows.rows::<R>().map_err(|e| e.to_string())?;
    rows.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn connect(
    config: &CqlSink,
    runtime: &Handle,
    deadline: Option<Instant>,
    backoff: &mut Backoff,
) -> Result<Session, Error> {
    let builder = session_builder(config)?;
    loop {
        match runtime.block_on(builder.build()) {
            Ok(session) => return Ok(session),
            Err(e) => match refused_for_good(&e) {
                Some(refused) => return Err(refused_credentials(config, &refused)),
                None if backoff.pause_until(deadline, &e) => {}
                None => return Err(unreachable(config, &e.to_string())),
            },
        }
    }
}

fn session_builder(config: &CqlSink) -> Result<SessionBuilder, Error> {
    if config.nodes.is_empty() {
        return Err(Error::Config("sink.cql.nodes: is empty, name at least one host:port".to_owned()));
    }
    let profile = ExecutionProfile::builder()
        .consistency(consistency(&config.consistency)?)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .speculative_execution_policy(None)
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .default_execution_profile_handle(profile.into_handle())
        .timestamp_generator(Arc::new(MonotonicTimestampGenerator::new()))
        .keyspaces_to_fetch([&config.keyspace])
        .fetch_full_schema_metadata(false)
        .keepalive_interval(Duration::from_secs(10))
        .keepalive_timeout(Duration::from_secs(10));
    if let Some(user) = &config.user {
        builder = builder.user(user, config.password.as_deref().unwrap_or_default());
    }
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(tls_context(tls)?));
    }
    Ok(builder)
}

/// The driver checks a certificate against the node's IP address, so that is what it must name.
fn tls_context(tls: &CqlTls) -> Result<SslConnectorBuilder, Error> {
    let broken = |e: openssl::error::ErrorStack| Error::Config(format!("sink.cql.tls: {e}"));
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(broken)?;
    if let Some(ca) = &tls.ca {
        let wrong = |e: &dyn std::fmt::Display| Error::Config(format!("sink.cql.tls.ca: {}: {e}", ca.display()));
        let pem = std::fs::read(ca).map_err(|e| wrong(&e))?;
        let authorities = X509::stack_from_pem(&pem).map_err(|e| wrong(&e))?;
        if authorities.is_empty() {
            return Err(wrong(&"holds no certificate in PEM form"));
        }
        let mut store = X509StoreBuilder::new().map_err(broken)?;
        for authority in authorities {
            store.add_cert(authority).map_err(|e| wrong(&e))?;
        }
        builder.set_cert_store(store.build());
    }
    if let Some((certificate, key)) = &tls.certificate {
        let wrong = |path: &std::path::Path, e: &dyn std::fmt::Display| {
            Error::Config(format!("sink.cql.tls.certificate: {}: {e}", path.display()))
        };
        builder.set_certificate_chain_file(certificate).map_err(|e| wrong(certificate, &e))?;
        builder.set_private_key_file(key, SslFiletype::PEM).map_err(|e| wrong(key, &e))?;
    }
    if !tls.verify {
        builder.set_verify(SslVerifyMode::NONE);
    }
    Ok(builder)
}

const CONSISTENCIES: [(&str, Consistency); 9] = [
    ("LOCAL_QUORUM", Consistency::LocalQuorum),
    ("QUORUM", Consistency::Quorum),
    ("EACH_QUORUM", Consistency::EachQuorum),
    ("LOCAL_ONE", Consistency::LocalOne),
    ("ONE", Consistency::One),
    ("TWO", Consistency::Two),
    ("THREE", Consistency::Three),
    ("ALL", Consistency::All),
    ("ANY", Consistency::Any),
];

fn consistency(name: &str) -> Result<Consistency, Error> {
    let found = CONSISTENCIES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, consistency)| *consistency).ok_or_else(|| {
        let known = CONSISTENCIES.map(|(known, _)| known).join(", ");
        Error::Config(format!("sink.cql.consistency: {name} is none for writes, use one of {known}"))
    })
}

/// The consistency that reads have which must see what writes of consistency `name` have left. Where no read can have the same, it is the
/// weakest that does so: a local quorum meets that of every data centre. Nothing but chance finds what ANY has left with a hint.
pub(super) fn read_consistency(name: &str) -> Result<Consistency, Error> {
    Ok(match consistency(name)? {
        Consistency::EachQuorum => Consistency::LocalQuorum,
        Consistency::Any => Consistency::One,
        same => same,
    })
}

/// The node's own words, if it answered and will have none of us: wrong credentials, or none where it wants some.
fn refused_for_good(error: &NewSessionError) -> Option<String> {
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
        last_connection_error: ConnectionError::ConnectionSetupRequestError(setup),
    })) = error
    else {
        return None;
    };
    match setup.get_error() {
        ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError | DbError::Unauthorized, words) => {
            Some(words.clone())
        }
        ConnectionSetupRequestErrorKind::MissingAuthentication => Some("it asks for a user and a password".to_owned()),
        _ => None,
    }
}

fn refused_credentials(config: &CqlSink, words: &str) -> Error {
    Error::Outside(format!(
        "{} refuses the credentials: {words}; set sink.cql.user and sink.cql.password (or password_file)",
        config.nodes.join(", ")
    ))
}

fn unreachable(config: &CqlSink, outage: &str) -> Error {
    Error::Outside(format!(
        "none of sink.cql.nodes ({}) can be reached: {outage}; start the database or name its nodes as host:port",
        config.nodes.join(", ")
    ))
}

fn subject(config: &CqlSink) -> String {
    format!("cql {}", config.nodes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::samples;

    #[test]
    fn only_the_last_row_of_each_primary_key_is_sent() {
        let rows = samples::sessions(&[(1, 1, &["A"]), (1, 2, &["B"]), (1, 1, &["C"]), (2, 1, &["D"]), (1, 1, &["E"])]);
        assert_eq!(last_of_each_key(&rows), [1, 3, 4]);
    }

    #[test]
    fn a_consistency_that_is_none_is_refused_by_its_key() {
        assert_eq!(consistency("local_quorum").expect("is one"), Consistency::LocalQuorum);
        let error = consistency("MOST").expect_err("is none");
        assert!(matches!(error, Error::Config(_)));
        assert!(
            error.to_string().starts_with("sink.cql.consistency: MOST is none for writes, use one of LOCAL_QUORUM, ")
        );
    }

    #[test]
    fn outages_pass_refused_rows_go_back_and_schema_errors_halt() {
        let answer = |error: DbError| {
            meaning(&ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, String::new())))
        };
        assert_eq!(answer(DbError::Overloaded), Meaning::Passes);
        assert_eq!(answer(DbError::IsBootstrapping), Meaning::Passes);
        assert_eq!(answer(DbError::ServerError), Meaning::Passes);
        assert_eq!(answer(DbError::Invalid), Meaning::Row);
        assert_eq!(answer(DbError::SyntaxError), Meaning::Halts);
        assert_eq!(answer(DbError::Unauthorized), Meaning::Halts);
        assert_eq!(meaning(&ExecutionError::RequestTimeout(REQUEST_TIMEOUT)), Meaning::Passes);
        assert_eq!(meaning(&ExecutionError::EmptyPlan), Meaning::Passes);
    }
}
