//! What the doctor asks of a CQL database beside what a start asks: replication, nodes, lists that are not frozen. Owns the questions;
//! what the answers mean is [`super::cql_replication`]'s and [`super::cql_schema`]'s.

use std::collections::BTreeMap;

use scylla::client::session::Session;

use crate::config::CqlSink;
use crate::failure::Check;
use crate::row::Table;
use crate::sink::cql::replication::{Cluster, Replication, judge};
use crate::sink::cql::schema::open_lists;
use crate::sink::cql::{ask, real_columns};
use crate::symptom::Symptom;

/// A line for the keyspace's replication, and one for each table with a list that is not frozen. An error is an outage.
pub(super) async fn survey(session: &Session, config: &CqlSink, tables: &[Table]) -> Result<Vec<Check>, String> {
    let keyspace = &config.keyspace;
    let select = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let described: Vec<(BTreeMap<String, String>,)> = ask(session, select, &[keyspace]).await?;
    let Some((described,)) = described.into_iter().next() else { return Ok(Vec::new()) };
    let cluster = cluster(session).await?;
    let mut checks = vec![judge(keyspace, &config.consistency, &Replication::of(&described), &cluster)];
    for table in tables {
        let real = real_columns(session, keyspace, &table.name).await?.unwrap_or_default();
        let lists = open_lists(table, &real);
        if !lists.is_empty() {
            let detail = format!(
                "not frozen: {}; keyfold writes with rising timestamps, so that its own writes never double the elements, but a copy of \
                 a write with an equal timestamp (another tool, a restored batch) would",
                lists.join(", ")
            );
            let subject = format!("lists of {keyspace}.{}", table.name);
            checks.push(Check::warning(subject, detail).of(Symptom::ListNotFrozen));
        }
    }
    Ok(checks)
}

async fn cluster(session: &Session) -> Result<Cluster, String> {
    let local: Vec<(String,)> = ask(session, "SELECT data_center FROM system.local", &[]).await?;
    let mut nodes = BTreeMap::new();
    for node in session.get_cluster_state().get_nodes_info() {
        *nodes.entry(node.datacenter.clone().unwrap_or_default()).or_insert(0) += 1;
    }
    Ok(Cluster { local: local.into_iter().next().map(|(name,)| name).unwrap_or_default(), nodes })
}
