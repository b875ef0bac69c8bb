//! Rows in ScyllaDB, Cassandra or any other CQL database: one prepared upsert per table, sent to the shard that owns the row, a bounded
//! number at a time. Transient errors are retried without end, while everything behind the sink waits; an error about the tables halts the
//! lane; a row that the database refuses is returned to the lane.
//!
//! Write timestamps. Two equal upserts of a list that is not frozen double its elements if they carry *equal* timestamps
//! (scylladb/scylladb#3559, #7937, CASSANDRA-11368). So each attempt has a new, greater one. (The driver sends one twice only after
//! `Unprepared`, when the first was not applied.) For the same reason the driver neither retries nor speculates. The timestamps come from the
//! lane's owner, who can have none after another host has taken over: so a late write of a replaced host is older than all of its
//! successor's, and its endless retries end (I8, D31).
//!
//! | file | what it owns |
//! |---|---|
//! | `session` | the connection: nodes, credentials, TLS, consistency |
//! | `tables` | looking at keyspace and tables, and preparing upserts |
//! | `schema` | declared tables against real ones, and statements (pure) |
//! | `write` | sending requests, and what a failed one means |
//! | `values` | values in CQL's binary form |
//! | `login` | passwords and certificates that change while the host runs |
//! | `images` | single rows, read and put back |
//! | `replication`, `survey` | what the doctor asks beside a start's checks |

mod images;
mod login;
mod replication;
pub(super) mod schema;
mod session;
mod survey;
mod tables;
mod values;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use tokio::runtime::Handle;

use crate::backoff::{Backoff, Outage};
use crate::config::CqlSink;
use crate::failure::{Check, Exit, Failure, refuse};
use crate::row::json::invalid_json;
use crate::row::{Image, Rows, Table};
use crate::sink::cql::images::RowStatements;
use crate::sink::cql::login::Certificates;
use crate::sink::cql::schema::refuse_impossible_names;
use crate::sink::cql::session::{connect, unreachable};
use crate::sink::cql::survey::{rows_ahead, survey};
use crate::sink::cql::tables::inspect;
use crate::sink::cql::values::RowValues;
use crate::sink::cql::write::{last_of_each_key, stamped};
use crate::sink::{ByTables, Owner, Refusal, Sink, refuse_declared_now_columns};
use crate::symptom::Symptom;

/// Upserts rows over CQL.
#[derive(Debug)]
pub(super) struct Cql {
    config: CqlSink,
    runtime: Handle,
    session: Session,
    /// One upsert per table.
    upserts: ByTables<PreparedStatement>,
    /// Statements that read and restore images, by the name of the table.
    single_rows: HashMap<String, RowStatements>,
    /// The last write timestamp, of any lane.
    last: i64,
    backoff: Backoff,
    certificates: Certificates,
}

impl Cql {
    /// Connects, compares the tables, prepares the upserts.
    pub(super) fn open(
        config: &CqlSink,
        tables: &Arc<[Table]>,
        runtime: &Handle,
        deadline: Option<Instant>,
    ) -> Result<Cql, Failure> {
        refuse_names(config, tables)?;
        let mut backoff = Backoff::new(subject(config));
        let certificates = Certificates::new(config.tls.as_deref());
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
        runtime.block_on(tell_rows_ahead(&session, config, tables));
        Ok(Cql {
            config: config.clone(),
            runtime: runtime.clone(),
            session,
            upserts: ByTables::new(tables, upserts),
            single_rows: HashMap::new(),
            last: 0,
            backoff,
            certificates,
        })
    }

    /// Returns the upserts of these tables. Compares tables that it sees for the first time.
    fn upserts(&mut self, tables: &Arc<[Table]>) -> Result<Arc<[PreparedStatement]>, Failure> {
        if let Some(known) = self.upserts.get(tables) {
            return Ok(known);
        }
        let prepared = self.prepare_upserts(tables)?;
        self.runtime.block_on(tell_rows_ahead(&self.session, &self.config, tables));
        Ok(prepared)
    }

    /// Compares the tables and prepares their upserts. A refusal after the start means that somebody has changed the tables.
    fn prepare_upserts(&mut self, tables: &Arc<[Table]>) -> Result<Arc<[PreparedStatement]>, Failure> {
        refuse_names(&self.config, tables)?;
        self.single_rows.clear(); // they may have been prepared before a column was added that these tables declare
        let inspection = self.ask_schema(async |session, config| inspect(session, config, tables).await);
        refuse(&inspection.checks)?;
        Ok(self.upserts.put(tables, inspection.upserts))
    }

    /// Asks about the tables as soon as all nodes agree on the schema. An error of `ask` is an outage, which is waited out.
    fn ask_schema<T>(&mut self, ask: impl AsyncFn(&Session, &CqlSink) -> Result<T, String>) -> T {
        loop {
            self.renew();
            let answer = self.runtime.block_on(async {
                self.session.await_schema_agreement().await.map_err(|e| e.to_string())?;
                ask(&self.session, &self.config).await
            });
            match answer {
                Ok(found) => return found,
                Err(outage) => self.backoff.pause(&outage),
            }
        }
    }
}

/// Warns of tables, at their first use, in which the database would drop what keyfold writes. The rows stay as they are: whether they or the log
/// are right is for a person to say.
async fn tell_rows_ahead(session: &Session, config: &CqlSink, tables: &[Table]) {
    for check in rows_ahead(session, config, tables).await {
        tracing::error!(
            event = "rows-ahead",
            what = check.subject,
            why = check.detail,
            "{}",
            Symptom::RowsAhead.advice()
        );
    }
}

impl Sink for Cql {
    /// Sends the last row of each primary key. All are acknowledged when this returns, so of one key one is in flight at a time.
    fn write(&mut self, rows: &Rows, owner: &dyn Owner) -> Result<Vec<Refusal>, Failure> {
        let upserts = self.upserts(&rows.tables)?;
        let mut waiting = last_of_each_key(rows);
        let invalid = |&at: &usize| invalid_json(rows, rows.order[at]).map(|reason| (at, reason));
        let mut refused: BTreeMap<usize, String> = waiting.iter().filter_map(invalid).collect();
        waiting.retain(|at| !refused.contains_key(at));
        let now = self.config.now.len();
        let upsert = async |session: &Session, upserts: &Arc<[PreparedStatement]>, (at, timestamp): (usize, i64)| {
            let row = rows.order[at];
            let values = RowValues { rows, row, now };
            session.execute_unpaged(&stamped(&upserts[rows.table(row).0], timestamp), values).await.map(drop)
        };
        let prepare = |sink: &mut Cql| sink.prepare_upserts(&rows.tables);
        let delivered = self.deliver(Some(owner), waiting, upserts, prepare, upsert)?;
        refused.extend(delivered.refused);
        Ok(refused.into_iter().map(|(at, reason)| Refusal::of(rows, rows.order[at], reason)).collect())
    }

    /// Returns none: rows that are written again replace themselves.
    fn length(&mut self) -> Result<Option<u64>, Failure> {
        Ok(None)
    }

    fn truncate(&mut self, _length: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn images(&mut self, rows: &Rows, at: &[usize]) -> Result<Vec<Image>, Failure> {
        self.read_images(rows, at)
    }

    fn restore(&mut self, images: &[Image], owner: &dyn Owner) -> Result<(), Failure> {
        self.put_back(images, owner)
    }

    fn outage(&self) -> Arc<Outage> {
        self.backoff.outage()
    }
}

/// Returns the lines of `keyfold check`.
pub(super) fn check(config: &CqlSink, tables: &Arc<[Table]>, runtime: &Handle) -> Vec<Check> {
    match inspected(config, tables, runtime) {
        Ok((session, mut checks)) => {
            checks.extend(runtime.block_on(rows_ahead(&session, config, tables)));
            checks
        }
        Err(refused) => vec![refused],
    }
}

/// Returns the same, and the doctor's lines: whether rows that were acknowledged will survive.
pub(super) fn examine(config: &CqlSink, tables: &Arc<[Table]>, runtime: &Handle) -> Vec<Check> {
    let (session, mut checks) = match inspected(config, tables, runtime) {
        Ok(inspected) => inspected,
        Err(refused) => return vec![refused],
    };
    match runtime.block_on(survey(&session, config, tables)) {
        Ok(found) => checks.extend(found),
        Err(outage) => checks.push(refused(config, unreachable(config, &outage))),
    }
    checks
}

fn inspected(config: &CqlSink, tables: &Arc<[Table]>, runtime: &Handle) -> Result<(Session, Vec<Check>), Check> {
    let refused = |failure| refused(config, failure);
    refuse_names(config, tables).map_err(refused)?;
    let session = connect(config, runtime, None, &mut Backoff::new(subject(config))).map_err(refused)?;
    let inspection = runtime.block_on(inspect(&session, config, tables));
    let inspection = inspection.map_err(|outage| refused(unreachable(config, &outage)))?;
    Ok((session, inspection.checks))
}

/// Refuses names without asking the database.
fn refuse_names(config: &CqlSink, tables: &[Table]) -> Result<(), Failure> {
    refuse_impossible_names(&config.keyspace, &config.now, tables)?;
    refuse_declared_now_columns("sink.cql", &config.now, tables)
}

fn refused(config: &CqlSink, failure: Failure) -> Check {
    let symptom = match failure.exit {
        Exit::Config => Symptom::ConfigWrong,
        Exit::Plugin => Symptom::PluginRefused,
        Exit::Unexpected | Exit::Outside | Exit::State => Symptom::CqlUnreachable,
    };
    Check::refused(subject(config), failure).of(symptom)
}

/// Names the database in checks and warnings.
fn subject(config: &CqlSink) -> String {
    format!("cql {}", config.nodes.join(", "))
}
