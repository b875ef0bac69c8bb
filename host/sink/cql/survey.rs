//! What the doctor asks a CQL database beside a start's checks: replication, nodes, lists that are not frozen; and what it asks as whoever begins to
//! use tables does: whether they hold rows of the future. Owns the questions; [`super::replication`] and [`super::schema`] judge the answers.

use std::collections::BTreeMap;

use scylla::client::session::Session;

use crate::clock;
use crate::config::CqlSink;
use crate::failure::Check;
use crate::record::iso;
use crate::row::Table;
use crate::sink::cql::replication::{Cluster, Replication, judge};
use crate::sink::cql::schema::{RealColumn, sample_write_times, unfrozen_lists};
use crate::sink::cql::session::query_system;
use crate::sink::cql::tables::real_columns;
use crate::symptom::Symptom;

/// How far ahead of this machine's clock a write may be: clocks differ, and a host that follows a crash writes up to ten seconds ahead.
const AHEAD_MS: i64 = 60_000;

/// Returns a check of the keyspace's replication, and for each table one of lists that are not frozen and one of rows that were written with
/// a time that is yet to come. An error is an outage.
pub(super) async fn survey(session: &Session, config: &CqlSink, tables: &[Table]) -> Result<Vec<Check>, String> {
    let keyspace = &config.keyspace;
    let select = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let described: Vec<(BTreeMap<String, String>,)> = query_system(session, select, &[keyspace]).await?;
    let Some((described,)) = described.into_iter().next() else { return Ok(Vec::new()) };
    let cluster = cluster(session).await?;
    let mut checks = vec![judge(keyspace, &config.consistency, &Replication::of(&described), &cluster)];
    for table in tables {
        let real = real_columns(session, keyspace, &table.name).await?.unwrap_or_default();
        checks.extend(row_ahead(session, keyspace, &table.name, &real).await);
        let lists = unfrozen_lists(table, &real);
        if !lists.is_empty() {
            let detail = format!(
                "not frozen: {}; keyfold writes with rising timestamps, so its own writes never double the elements, but a copy of a \
                 write with the same timestamp (by another tool, or a restored batch) would",
                lists.join(", ")
            );
            let subject = format!("lists of {keyspace}.{}", table.name);
            checks.push(Check::warning(subject, detail).of(Symptom::ListNotFrozen));
        }
    }
    Ok(checks)
}

/// Returns a check of each of the tables that holds rows which were written with a time that is yet to come. One whose sample cannot be had is
/// left out: nothing depends on it.
pub(super) async fn rows_ahead(session: &Session, config: &CqlSink, tables: &[Table]) -> Vec<Check> {
    let mut checks = Vec::new();
    for table in tables {
        if let Ok(Some(real)) = real_columns(session, &config.keyspace, &table.name).await {
            checks.extend(row_ahead(session, &config.keyspace, &table.name, &real).await);
        }
    }
    checks
}

/// Returns a check of a table if rows in it were written with a time that is yet to come: until then, the database drops what keyfold writes
/// under the same keys, without an error.
async fn row_ahead(session: &Session, keyspace: &str, table: &str, real: &[RealColumn]) -> Option<Check> {
    let select = sample_write_times(keyspace, table, real)?;
    let times: Vec<(Option<i64>,)> = query_system(session, &select, &[]).await.ok()?;
    let now_ms = clock::now_ms();
    let ahead = |(time,): &(Option<i64>,)| time.map(|us| us / 1_000).filter(|ms| *ms > now_ms + AHEAD_MS);
    let ahead: Vec<i64> = times.iter().filter_map(ahead).collect();
    let latest = *ahead.iter().max()?;
    let detail = format!(
        "{} of {} sampled rows were written with a time up to {}, which is yet to come by this machine's clock: until then, the database \
         drops what keyfold writes under their keys",
        ahead.len(),
        times.len(),
        iso(latest)
    );
    Some(Check::warning(format!("write times of {keyspace}.{table}"), detail).of(Symptom::RowsAhead))
}

async fn cluster(session: &Session) -> Result<Cluster, String> {
    let local: Vec<(String,)> = query_system(session, "SELECT data_center FROM system.local", &[]).await?;
    let mut nodes = BTreeMap::new();
    for node in session.get_cluster_state().get_nodes_info() {
        *nodes.entry(node.datacenter.clone().unwrap_or_default()).or_insert(0) += 1;
    }
    Ok(Cluster { local: local.into_iter().next().map(|(name,)| name).unwrap_or_default(), nodes })
}
